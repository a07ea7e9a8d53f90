"""Where an object's word looks: pictures with one object pasted in, maps by attention and by covering, the study."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from matplotlib import get_data_path
from PIL import Image

from clearcap import CaptionPipeline
from clearcap.data.images import PhotoFile
from clearcap.data.records import CaptionedPhoto
from clearcap.errors import InputError
from clearcap.evaluation.looking import METRIC, pasted
from clearcap.pipeline.words import occlusion_map
from clearcap.studies.run import Scale, run_study
from clearcap.studies.study import load_study

PHOTO = Path(get_data_path()) / "sample_data" / "grace_hopper.jpg"


@pytest.fixture(scope="module")
def pipeline() -> CaptionPipeline:
    return CaptionPipeline.from_pretrained(backend="torch")


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """Five photos with one object each that the others do not name, and one that names none."""
    said = ["a dog in the snow", "a man in a suit", "a woman on a street", "two boats at sea", "a green hill"]
    rows = []
    rng = np.random.default_rng(0)
    for n, text in enumerate(said):
        if n == 1:
            Image.open(PHOTO).convert("RGB").resize((96, 96)).save(tmp_path / "1.png")
        else:
            small = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(small).resize((96, 96)).save(tmp_path / f"{n}.png")
        rows.append(json.dumps({"file_name": f"{n}.png", "captions": [text] * 4}))
    (tmp_path / "captions.jsonl").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_an_object_is_pasted_where_the_cells_say(pipeline: CaptionPipeline, desk: Path) -> None:
    texts = {"0": ("a dog in the snow",), "1": ("a man in a suit",), "2": ("a green hill",)}
    photos = [CaptionedPhoto(name, PhotoFile(desk / f"{name}.png"), said) for name, said in texts.items()]
    made = list(pasted(photos, pipeline, count=9, seed=0))
    assert {one.id for one in made} == {"0", "1"}  # a hill is no object
    assert {one.caption.split()[one.word] for one in made} == {"dog", "man"}
    size = pipeline.image_size
    for one in made:
        assert one.inside.sum() == 16
        rows, columns = np.nonzero(one.inside)
        top, left, cell = rows.min() * size // 7, columns.min() * size // 7, size // 7
        region = one.pixels[top : top + 4 * cell, left : left + 4 * cell]
        whole = np.asarray(Image.open(desk / f"{one.id}.png").resize((4 * cell, 4 * cell)))
        assert np.abs(region.astype(int) - whole).mean() < 12
    again = list(pasted(photos, pipeline, count=1, seed=1))
    assert [one.id for one in again] == [made[0].id]
    assert (again[0].pixels != made[0].pixels).any()


def test_what_is_covered_is_missed(pipeline: CaptionPipeline) -> None:
    """The word's probability falls by what an occlusion by hand says, and most of all where its object is."""
    with Image.open(PHOTO) as photo:
        pixels = np.asarray(photo.convert("RGB").resize((pipeline.image_size,) * 2))
    caption = "a woman in a suit"

    def mapped(grid: int) -> np.ndarray:
        return occlusion_map(
            pipeline.captioner, pipeline.tokenizer, pixels, caption, 1, grid=grid,
            sampling=pipeline.sampling(guidance=0.0),
        )  # fmt: skip

    covered = pixels.copy()
    covered[:] = pixels.mean((0, 1)).round()
    nothing = occlusion_map(
        pipeline.captioner,
        pipeline.tokenizer,
        covered,
        caption,
        1,
        grid=2,
        sampling=pipeline.sampling(guidance=0.0),
    )
    assert np.allclose(nothing, 0, atol=1e-4)  # a plain picture loses nothing where it is covered
    whole = mapped(2)
    assert np.allclose(whole, whole[0, 0])  # one window covers all four cells
    assert np.ptp(mapped(3)) > 0


def test_a_study_of_where_words_look(desk: Path) -> None:
    study = load_study("attention")
    scale = Scale((f"folder:{desk}:all",), limit=1, subset=True)
    found = run_study(study, scale, desk / "out")
    rows = {row["name"]: row["scores"][METRIC]["score"] for row in found["runs"]}
    assert rows["goal"] == 0.6
    assert rows["chance"] == pytest.approx(16 / 49)
    assert found["measured"]["photos"] == 1
    assert {one["verdict"] for one in found["claims"]} <= {"confirmed", "not confirmed", "cannot be told"}
    lines = (desk / "out" / "looks" / "seed0.jsonl").read_bytes()
    (desk / "out" / "looks" / "seed0.jsonl").write_bytes(lines[:-20])  # killed while it wrote
    assert run_study(study, scale, desk / "out") == found
    assert [line["photo"] for line in map(json.loads, lines.splitlines())] == [
        line["photo"] for line in map(json.loads, (desk / "out/looks/seed1.jsonl").read_bytes().splitlines())
    ]
    assert (desk / "out" / "looks" / "seed0.png").stat().st_size < 60_000
    assert "| peak-in-object | seeds |" in (desk / "out" / "table.md").read_text()
    bad = desk / "bad.toml"
    shipped = resources.files("clearcap").joinpath("studies/attention.toml").read_text()
    bad.write_text(shipped.replace('reading = "chance"', 'reading = "sleep"'))
    with pytest.raises(InputError, match="reading='sleep'"):
        run_study(load_study(str(bad)), scale, desk / "out2")
