"""The corpus and the metric of docs/extending.md, which one file outside the package registers, on the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from commands import clearcap
from PIL import Image
from tiny_captioner import CAPTIONS, save_tiny_captioner

PAGE = Path(__file__).resolve().parents[2] / "docs" / "extending.md"


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """One file that holds the page's corpus and its metric."""
    blocks = dict(re.findall(r"<!-- plugin: (\w+) -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
    file = tmp_path / "outside.py"
    file.write_text(blocks["named_photos"] + blocks["word_precision"])
    return file


def test_a_corpus_and_a_metric_from_outside_are_evaluated(plugin: Path, tmp_path: Path) -> None:
    model = save_tiny_captioner(tmp_path / "model")
    photos = tmp_path / "photos/val"
    photos.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for caption in CAPTIONS:
        image = Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))
        image.save(photos / f"{caption.removesuffix(' .').replace(' ', '_')}.png")
    data = ["--data", f"named-photos:{tmp_path / 'photos'}"]
    how = ["--model", model, "--steps", 2, "--out", tmp_path / "out", "--metrics", "word-precision", "--json"]
    done = clearcap("--plugin", plugin, "evaluate", *data, *how)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["manifest"]["corpus"], found["manifest"]["split"]) == ("named-photos", "val")
    assert (
        found["manifest"]["metrics"]["word-precision"]
        == "share of a candidate's words that some reference has"
    )
    assert 0 <= found["intervals"]["word-precision"][0] <= found["word-precision"] <= 1
    assert {"BLEU-4", "ROUGE-L", "CIDEr-D"} <= found.keys()

    files = [tmp_path / "out/results.json", tmp_path / "out/references.json"]
    scored = clearcap("--plugin", plugin, "score", *files, "--metrics", "word-precision,BLEU", "--json")
    assert json.loads(scored.stdout)["word-precision"] == found["word-precision"]
    compared = clearcap(
        "--plugin", plugin, "score", *files, "--metrics", "word-precision", "--compare", files[0], "--json"
    )
    assert json.loads(compared.stdout)["word-precision"]["difference"] == 0
    checked = clearcap("--plugin", plugin, "data", "check", f"named-photos:{tmp_path / 'photos'}:val")
    assert "val: 4 photos, 4 captions" in checked.stdout
    missing = clearcap("--plugin", plugin, "score", *files, "--metrics", "word-recall")
    assert missing.stderr.startswith("clearcap: unknown metric 'word-recall'; choose one of BLEU")
    assert "word-precision" in missing.stderr
