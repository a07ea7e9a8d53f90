"""Result and reference files: read as COCO means them, refused with one sentence otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clearcap.errors import InputError
from clearcap.evaluation.files import (
    coco_ids,
    match,
    read_references,
    read_results,
    write_references,
    write_results,
)

RESULTS = [{"image_id": 1, "caption": "a dog"}, {"image_id": 2, "caption": ""}]
REFERENCES = {
    "images": [{"id": 2}, {"id": 1}],
    "annotations": [
        {"id": 10, "image_id": 1, "caption": "one dog"},
        {"id": 11, "image_id": 2, "caption": "a cat"},
        {"id": 12, "image_id": 1, "caption": "the dog"},
    ],
}


def save(path: Path, value: Any) -> Path:
    lines = path.suffix == ".jsonl"
    path.write_text("\n".join(map(json.dumps, value)) if lines else json.dumps(value))
    return path


def test_both_formats_are_read(tmp_path: Path) -> None:
    assert read_results(save(tmp_path / "r.json", RESULTS)) == {"1": "a dog", "2": ""}
    assert read_results(save(tmp_path / "r.jsonl", RESULTS)) == {"1": "a dog", "2": ""}
    references = read_references(save(tmp_path / "a.json", REFERENCES))
    assert references == {"2": ["a cat"], "1": ["one dog", "the dog"]}
    assert list(references) == ["2", "1"]  # the order of 'images'
    bare = read_references(save(tmp_path / "b.json", {"annotations": REFERENCES["annotations"]}))
    assert bare == references
    lines = [{"file_name": "x.jpg", "captions": ["a", "b"]}, {"file_name": "y.jpg", "caption": "c"}]
    assert read_references(save(tmp_path / "a.jsonl", lines)) == {"x.jpg": ["a", "b"], "y.jpg": ["c"]}


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    captions, references = {"12": "a “dog”", "7": "é"}, {"12": ["x", "y"], "7": ["z"]}
    write_results(captions, tmp_path / "r.json")
    write_references(references, tmp_path / "a.json")
    assert read_results(tmp_path / "r.json") == captions
    assert read_references(tmp_path / "a.json") == references
    assert json.loads((tmp_path / "r.json").read_text())[0] == {"image_id": 12, "caption": "a “dog”"}


def test_ids_are_numbers_only_where_nothing_is_lost() -> None:
    assert coco_ids(["1", "20"]) == [1, 20]
    assert coco_ids(["1", "020"]) == ["1", "020"]
    assert coco_ids(["1", "²"]) == ["1", "²"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "r.json",
            [*RESULTS, {"image_id": "1", "caption": "x"}],
            r"1 photo \(1 \(.*\[2\]\)\) captioned twice",
        ),
        ("r.json", [{"image_id": 1, "caption": 3}], r"\[0\]: 'caption' is of type int; it must be a string"),
        ("r.json", [{"image_id": 1, "caption": ["x"]}], "'caption' is of type list"),
        ("r.json", [{"image_id": None, "caption": "x"}], "'image_id' is of type NoneType"),
        ("r.json", [{"image_id": True, "caption": "x"}], "'image_id' is of type bool"),
        ("r.json", [{"image_id": 1}], "has no 'caption'"),
        ("r.json", [{"caption": "x"}], "has no 'image_id'"),
        ("r.json", ["x"], r"\[0\] is of type str; it must be an object"),
        ("r.json", {"1": "x"}, "a result file is a list"),
        ("r.json", [], "holds no caption"),
    ],
)
def test_bad_results(tmp_path: Path, name: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        read_results(save(tmp_path / name, value))
    assert name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("a.json", {**REFERENCES, "images": [{"id": 1}]}, "photo 2 is not listed in 'images'"),
        ("a.json", {**REFERENCES, "images": [{"id": 1}, {"id": 2}, {"id": 1}]}, "photo 1 is listed twice"),
        (
            "a.json",
            {**REFERENCES, "images": [{"id": 1}, {"id": 2}, {"id": 3}]},
            r"1 photo \(3\) without a caption",
        ),
        (
            "a.json",
            {"annotations": [*REFERENCES["annotations"], REFERENCES["annotations"][0]]},
            "id 10 is given twice",
        ),
        (
            "a.json",
            {"annotations": [{"id": 1, "image_id": 1, "caption": None}]},
            "'caption' is of type NoneType",
        ),
        ("a.json", {"images": []}, "has no 'annotations'"),
        ("a.json", {"annotations": []}, "holds no reference"),
        ("a.json", [], "is of type list; it must be an object"),
        ("a.jsonl", [{"image_id": 1, "captions": "x"}], "'captions' is of type str; it must be a list"),
        ("a.jsonl", [{"image_id": 1, "captions": ["x", 1]}], r"'captions'\[1\] is of type int"),
        ("a.jsonl", [{"image_id": 1, "captions": ["x"]}] * 2, "listed twice"),
    ],
)
def test_bad_references(tmp_path: Path, name: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        read_references(save(tmp_path / name, value))
    assert name in str(error.value)


@pytest.mark.parametrize("read", [read_results, read_references])
def test_a_file_cut_short_says_where(tmp_path: Path, read: Any) -> None:
    text = json.dumps(RESULTS if read is read_results else REFERENCES)
    (tmp_path / "cut.json").write_text(text[: len(text) // 2])
    with pytest.raises(InputError, match=r"cut\.json breaks off at line 1"):
        read(tmp_path / "cut.json")
    with pytest.raises(InputError, match=r"gone\.json: no such file"):
        read(tmp_path / "gone.json")


def test_photos_must_match() -> None:
    references = {"1": ["a"], "2": ["b"]}
    assert match({"2": "x", "1": "y"}, references) == references
    with pytest.raises(InputError, match=r"1 photo \(9\) not in"):
        match({"1": "x", "2": "y", "9": "z"}, references)
    with pytest.raises(InputError, match=r"1 photo \(2\) of .* without a caption"):
        match({"1": "x"}, references)
    assert match({"1": "x"}, references, subset=True) == {"1": ["a"]}
