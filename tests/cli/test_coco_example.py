"""``clearcap score`` on files in the layout of pycocoevalcap's example gives what that example's script prints.

The example's own references (captions_val2014.json) are in no package, so these are a few photos written likewise.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import clearcap

from clearcap.metrics import java

CAPTIONS = [
    "A man riding a motor bike on a dirt road on the countryside.",
    "The man is on a dirt-bike, riding along a country road!",
    "a biker (in black) rides past two parked cars\n",
    "Two zebras, side by side, don't look at the camera.",
    "A zebra's stripes are seen up close; it's eating grass ",
    "several zebras stand in a field of tall, dry grass.",
    "A woman cutting a large white sheet cake with a $20 knife...",
    "woman wearing a net on her head cutting a cake.",
    "She cuts the cake - a “café” au lait one - for 12 people",
    "A child holding a flowered umbrella and petting a yak.",
    "a young boy barefoot holding an umbrella touching the horn of a cow",
    "A plate of food with rice & beans and a glass of O.J.",
    "TWO TENNIS PLAYERS SHAKE HANDS",
    "the U.S. flag flies above the train station at 5:30 p.m.",
]
PHOTOS = 9
NAMES = {f"Bleu_{n}": f"BLEU-{n}" for n in (1, 2, 3, 4)}
NAMES |= {"METEOR": "METEOR", "ROUGE_L": "ROUGE-L", "CIDEr": "CIDEr-D"}


class NoSpice:
    """Stands where pycocoevalcap would download half a gigabyte of models to score SPICE."""

    def method(self) -> str:
        return "SPICE"

    def compute_score(self, references: dict[int, object], results: object) -> tuple[float, list[float]]:
        return 0.0, [0.0] * len(references)


@pytest.fixture
def example(tmp_path: Path) -> tuple[Path, Path]:
    """The annotation file and the result file, which captions all photos but the last two; one says nothing."""
    ids = [391895 + 7 * n for n in range(PHOTOS)]
    images = [
        {"license": 3, "file_name": f"COCO_val2014_{i:012}.jpg", "height": 360, "width": 640, "id": i}
        for i in ids
    ]
    annotations = [
        {"image_id": i, "id": 5 * n + k, "caption": CAPTIONS[(n * 3 + k) % len(CAPTIONS)]}
        for k in range(5)  # a photo's captions do not stand together in COCO's file
        for n, i in enumerate(ids)
    ]
    header = {"info": {"year": 2014, "version": "1.0"}, "licenses": [{"id": 3, "name": "x", "url": "x"}]}
    references = tmp_path / "captions_val2014.json"
    references.write_text(
        json.dumps({**header, "images": images, "type": "captions", "annotations": annotations})
    )
    said = [*(CAPTIONS[(n * 4 + 1) % len(CAPTIONS)] for n in range(PHOTOS - 3)), ""]
    results = tmp_path / "captions_val2014_fakecap_results.json"
    results.write_text(
        json.dumps([{"image_id": i, "caption": c} for i, c in zip(ids[: PHOTOS - 2], said, strict=True)])
    )
    return references, results


def test_score_gives_what_the_example_script_prints(
    example: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    if java.obstacle("METEOR"):
        pytest.skip(java.obstacle("METEOR"))
    from pycocoevalcap import eval as theirs
    from pycocotools.coco import COCO

    references, results = example
    monkeypatch.setattr(theirs, "Spice", NoSpice)
    coco = COCO(str(references))
    found = coco.loadRes(str(results))
    evaluation = theirs.COCOEvalCap(coco, found)
    evaluation.params["image_id"] = found.getImgIds()
    evaluation.evaluate()

    metrics = ["--metrics", "BLEU,METEOR,ROUGE-L,CIDEr-D"]
    done = clearcap("score", results, references, "--subset", "--json", *metrics)
    assert done.returncode == 0, done.stderr
    ours = json.loads(done.stdout)
    assert ours["photos"] == PHOTOS - 2
    for their_name, our_name in NAMES.items():
        assert ours[our_name] == pytest.approx(float(evaluation.eval[their_name]), abs=1e-9), our_name
    assert 0 < ours["BLEU-4"] < 1
    assert 0 < ours["METEOR"] < 1
