"""The pages of finished studies: one that another machine ran stays on its page."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from benchmarks.studies import models_of, pages
from clearcap.data.writing import write_json

ABOUT = {
    "command": "clearcap study NAME",
    "seeds": [0, 1],
    "wall_seconds": 120.0,
    "processor_seconds": 60.0,
    "date": "1 May 2026",
    "machine": "one thread",
    "load": 1.0,
}


def finish(out: Path, name: str, table: str) -> None:
    folder = out / name
    folder.mkdir(parents=True)
    (folder / "table.md").write_text(table)
    write_json(folder / "whole.json", ABOUT)
    claim = {"says": "beam search takes longer", "verdict": "confirmed", "ratio": 2.0}
    write_json(folder / "times.json", {"claims": [claim]})
    Image.new("RGB", (1200, 600), "white").save(folder / "picture.png")


def test_a_study_that_ran_elsewhere_stays_on_its_page(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    finish(tmp_path / "first", "ladic-steps", "## Five against thirty\n\n| run |\n|---|\n| five |\n")
    pages(tmp_path / "first", docs)
    page = docs / "studies-ladic.md"
    assert "`ladic-steps`" not in page.read_text()
    assert "`ladic-refine`" in page.read_text()
    assert "2 minutes by the clock" not in page.read_text()
    assert "1 minutes of the processor, 2 by the" in page.read_text()
    assert Image.open(docs / "ladic-steps-picture.png").size == (900, 450)

    finish(tmp_path / "second", "ladic-refine", "## Back and refine\n\n| run |\n|---|\n| half |\n")
    pages(tmp_path / "second", docs)
    both = page.read_text()
    assert both.index("## Back and refine") < both.index("## Five against thirty")
    pages(tmp_path / "nothing", docs)
    assert page.read_text() == both

    (tmp_path / "second" / "ladic-refine" / "table.md").write_text("## Back and refine\n\nAnother day.\n")
    pages(tmp_path / "second", docs)
    assert "Another day." in page.read_text()
    assert "| half |" not in page.read_text()


def test_losses_are_told_beside_scores_one_model_once() -> None:
    trained = [{"latent loss": 3.0, "caption loss": 9.0}, {"latent loss": 2.0, "caption loss": 8.0}]
    runs = [
        {"losses": trained, "scores": {"CIDEr-D": {"seeds": [0.1, 0.3]}}},
        {"losses": trained, "scores": {"CIDEr-D": {"seeds": [0.5, 0.6]}}},  # the same models, in more steps
        {
            "losses": [{"latent loss": 0.0, "caption loss": 4.0}],
            "scores": {"CIDEr-D": {"seeds": [0.9]}},
        },  # a twin
    ]
    found = models_of({"runs": runs})
    assert [(one["latent loss"], one["CIDEr-D"]) for one in found] == [(3.0, 0.1), (2.0, 0.3)]
