"""Results and references of other people's files: matched where it is clear which photo is meant, refused otherwise."""

from __future__ import annotations

import csv
import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from commands import clearcap

from clearcap.errors import InputError
from clearcap.evaluation.files import join, read_references, read_results

NUMBERS = (285, 776, 1000)
CAPTIONS = ("a bear on grass", "teddy bears", "a group of people")
FILES = tuple(f"{number:012d}.jpg" for number in NUMBERS)
COCO_2014 = tuple(f"COCO_val2014_{file}" for file in FILES)


def save(path: Path, value: Any) -> Path:
    if path.suffix in (".csv", ".txt"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, value[0])
            writer.writeheader()
            writer.writerows(value)
    else:
        text = "\n".join(map(json.dumps, value)) if path.suffix == ".jsonl" else json.dumps(value)
        path.write_text(text)
    return path


def coco(ids: Any, files: Any = None) -> dict[str, Any]:
    """COCO annotations, two captions a photo."""
    images = [{"id": id} | ({} if files is None else {"file_name": files[n]}) for n, id in enumerate(ids)]
    pairs = [
        (id, text) for id, caption in zip(ids, CAPTIONS, strict=True) for text in (caption, f"see {caption}")
    ]
    return {
        "images": images,
        "annotations": [{"id": n, "image_id": id, "caption": text} for n, (id, text) in enumerate(pairs)],
    }


def karpathy(ids: Any, files: Any, **more: Any) -> dict[str, Any]:
    """A file in Karpathy's layout: a photo in test for each id, and one in train."""
    images: list[dict[str, Any]] = [{**more, "split": "test", "cocoid": id} for id in ids]
    for image, file, caption in zip(images, files, CAPTIONS, strict=True):
        image |= {"filename": file, "sentences": [{"raw": caption}, {"raw": f"see {caption}"}]}
    train = {
        "cocoid": 9,
        "filename": f"COCO_train2014_{9:012d}.jpg",
        "split": "restval",
        "sentences": [{"raw": "x"}],
    }
    return {"images": [train | more, *images], "dataset": "coco"}


def rows(names: Any, key: str, text: str = "caption") -> list[dict[str, Any]]:
    """References one a row."""
    pairs = zip(names, CAPTIONS, strict=True)
    return [{key: name, text: one} for name, caption in pairs for one in (caption, f"see {caption}")]


REFERENCES: dict[str, Any] = {
    "coco.json": coco(NUMBERS, FILES),
    "coco2014.json": coco(NUMBERS, COCO_2014),
    "own_ids.json": coco([1, 2, 3], FILES),  # numbered anew, but the file names are COCO's
    "karpathy.json": karpathy(NUMBERS, COCO_2014, filepath="val2014"),
    "rows.jsonl": rows(FILES, "file_name", "text"),
    "rows.json": rows([f"photos/{file}" for file in FILES], "image"),
    "rows.csv": rows(FILES, "file_name"),
    "lists.jsonl": [
        {"image_id": n, "image": f, "captions": [c, c]}
        for n, f, c in zip(NUMBERS, FILES, CAPTIONS, strict=True)
    ],
    "object.json": {str(n): [c, c] for n, c in zip(NUMBERS, CAPTIONS, strict=True)},
    "captions.txt": rows(FILES, "image"),
    "lists.json": [
        {"image": f"val2014/{f}", "caption": [c, c]} for f, c in zip(COCO_2014, CAPTIONS, strict=True)
    ],
}
RESULTS: dict[str, Any] = {
    "number.json": [{"image_id": n, "caption": c} for n, c in zip(NUMBERS, CAPTIONS, strict=True)],
    "padded.json": [{"image_id": f"{n:012d}", "caption": c} for n, c in zip(NUMBERS, CAPTIONS, strict=True)],
    "file.json": [{"image_id": f, "caption": c} for f, c in zip(FILES, CAPTIONS, strict=True)],
    "file2014.jsonl": [
        {"image": f"some/where/{f}", "caption": c} for f, c in zip(COCO_2014, CAPTIONS, strict=True)
    ],
    "both.jsonl": [
        {"id": n, "file_name": f, "caption": c} for n, f, c in zip("xyz", FILES, CAPTIONS, strict=True)
    ],
    "table.csv": [{"file_name": f, "caption": c} for f, c in zip(FILES, CAPTIONS, strict=True)],
    "stem.json": [
        {"image_id": f, "caption": c} for f, c in zip((f[:-4] for f in COCO_2014), CAPTIONS, strict=True)
    ],
    "upper.csv": [
        {"image": f.replace(".jpg", ".JPG"), "caption": c} for f, c in zip(FILES, CAPTIONS, strict=True)
    ],
}


@pytest.mark.parametrize(("result", "reference"), product(RESULTS, REFERENCES))
def test_every_combination_that_is_clear_is_matched(tmp_path: Path, result: str, reference: str) -> None:
    results = read_results(save(tmp_path / f"results_{result}", RESULTS[result]))
    references = read_references(save(tmp_path / f"references_{reference}", REFERENCES[reference]))
    if reference == "object.json" and result.partition(".")[0] not in ("number", "padded", "stem"):
        with pytest.raises(InputError, match=r"give its photos .* file_name"):  # where no file is named
            join(results, references)
        return
    candidates, held = join(results, references)
    assert tuple(candidates.values()) == CAPTIONS
    assert [captions[0] for captions in held.values()] == [*CAPTIONS]
    assert candidates.keys() == held.keys() <= references.keys()


@pytest.mark.parametrize(
    ("results", "references", "message"),
    [
        (
            RESULTS["file.json"],
            coco(NUMBERS),
            r"3 photos \(0+285\.jpg, .*\) not in .*; give its photos .* file_name",
        ),
        (
            RESULTS["number.json"],
            coco(["a", "b", "c"]),
            r"not in B, which has 3 photos \(a, b, c\); .* or give image_id",
        ),
        (
            [{"image_id": "01", "caption": "x"}, {"image_id": "1", "caption": "y"}],
            coco([1, 2, 3]),
            r"2 photos \(01, 1\) not matched one to one .*; give each the image_id",
        ),
        (RESULTS["padded.json"], coco([285, 776, 1000], FILES[::-1]), "2 photos .* not matched one to one"),
        (  # 2 may be photo 2 or the photo 2.jpg, and 5 is no id
            [{"image_id": 2, "caption": "x"}, {"image_id": 5, "caption": "y"}],
            coco([3, 2, 4], ["2.jpg", "1.jpg", "5.jpg"]),
            r"1 photo \(2\) not matched",
        ),
        (
            [{"file_name": "a.jpg", "caption": "x"}],
            coco([1, 2, 3], ["one/a.jpg", "two/a.jpg", "b.jpg"]),
            r"1 photo \(a\.jpg\) not matched one to one",
        ),
        (
            [{"image_id": 285, "caption": "x"}],
            coco(NUMBERS, FILES),
            r"2 photos \(776, 1000\) of B without a caption",
        ),
        ([{"image_id": "9" * 5000, "caption": "x"}], coco(NUMBERS, FILES), "not in B"),
    ],
)
def test_what_is_not_clear_is_one_line(tmp_path: Path, results: Any, references: Any, message: str) -> None:
    files = save(tmp_path / "a.json", results), save(tmp_path / "b.json", references)
    with pytest.raises(InputError, match=message) as error:
        join(read_results(files[0]), read_references(files[1]), names=("A", "B"))
    assert "\n" not in str(error.value)


def test_an_exact_name_goes_before_one_in_another_folder(tmp_path: Path) -> None:
    references = read_references(save(tmp_path / "b.json", coco([1, 2, 3], ["a.jpg", "sub/a.jpg", "b.jpg"])))
    results = {"sub/a.jpg": "second", "a.jpg": "first"}
    assert join(results, references, subset=True)[0] == {"1": "first", "2": "second"}
    assert join({"2": "by id", "1": "by id"}, references, subset=True)[0] == {"1": "by id", "2": "by id"}


def test_only_the_splits_that_are_captioned_are_asked_for(tmp_path: Path) -> None:
    references = read_references(save(tmp_path / "k.json", REFERENCES["karpathy.json"]))
    assert list(references) == ["9", "285", "776", "1000"]
    whole = {str(number): "x" for number in NUMBERS}
    assert list(join(whole, references)[1]) == ["285", "776", "1000"]
    with pytest.raises(InputError, match=r"1 photo \(1000\) of .* without a caption"):
        join({"285": "x", "776": "x", "9": "x"}, references)


def test_karpathy_s_flickr_files_go_by_file_name_or_number(tmp_path: Path) -> None:
    content = karpathy(NUMBERS, ["1_a.jpg", "2_b.jpg", "3_c.jpg"])
    content["images"] = content["images"][1:]
    for number, image in enumerate(content["images"]):
        del image["cocoid"]
        image["imgid"] = number
    references = read_references(save(tmp_path / "dataset_flickr8k.json", content))
    by_name = [
        ["1_a.jpg", "2_b.jpg", "3_c.jpg"],
        ["in/1_a.JPG", "in/2_b.JPG", "in\\3_c.jpg"],
        ["1_a", "2_b", "3_c"],
    ]
    for names in (*by_name, ["0", "1", "2"]):
        candidates, _ = join(dict(zip(names, CAPTIONS, strict=True)), references)
        assert candidates == dict(zip(["1_a.jpg", "2_b.jpg", "3_c.jpg"], CAPTIONS, strict=True))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "k.json",
            {"images": [{"cocoid": 1, "sentences": [{"tokens": ["a"]}]}]},
            r"sentences\[0\] has no 'raw'",
        ),
        ("k.json", {"images": [{"cocoid": 1, "sentences": []}]}, r"1 photo \(1\) without a caption"),
        ("k.json", {"images": [{"sentences": [{"raw": "a"}]}]}, "has no 'cocoid'"),
        ("k.json", {"images": [{"cocoid": 1, "sentences": [{"raw": "a"}]}] * 2}, "photo 1 is listed twice"),
        ("o.json", {"1": ["x"], "2": "y"}, r"\[1\]: 'captions' is of type str"),
        ("o.json", {}, "has no 'annotations'"),
        ("o.json", {"info": "x"}, "has no 'annotations'"),
        ("r.jsonl", [{"image_id": 1, "caption": "x"}, {"image_id": 1, "captions": ["y"]}], "listed twice"),
        ("r.json", [{"image_id": 1, "caption": 3}], "is of type int"),
        ("r.json", [3], r"\[0\] is of type int; it must be an object"),
        ("r.csv", [{"image_id": 1, "words": "x"}], r"line 2 has no 'caption' \(it has 'image_id', 'words'\)"),
    ],
)
def test_bad_references_of_these_layouts(tmp_path: Path, name: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        read_references(save(tmp_path / name, value))
    assert name in str(error.value)


def test_score_compares_on_the_photos_that_both_caption(tmp_path: Path) -> None:
    save(tmp_path / "ref.json", coco(NUMBERS, FILES))
    save(tmp_path / "a.json", RESULTS["number.json"])
    save(tmp_path / "b.jsonl", RESULTS["file2014.jsonl"][1:])
    save(tmp_path / "c.json", RESULTS["padded.json"][:2])

    def compared(a: str, b: str, *more: str) -> tuple[int, str, str]:
        done = clearcap(
            "score", tmp_path / a, tmp_path / "ref.json", "--compare", tmp_path / b, "--json", *more
        )
        return done.returncode, done.stdout, done.stderr

    for more in ((), ("--subset",)):
        for a, b in (("a.json", "b.jsonl"), ("b.jsonl", "a.json")):
            code, out, err = compared(a, b, *more)
            assert code == 0, err
            found = json.loads(out)
            assert (found["photos"], found["left_out"]) == (2, 1)
            assert len(err.splitlines()) == 1
            assert "1 photo (285) left out" in err
            part = clearcap("score", tmp_path / "b.jsonl", tmp_path / "ref.json", "--subset", "--json")
            assert found["CIDEr-D"]["A"] == json.loads(part.stdout)["CIDEr-D"]
    assert json.loads(compared("b.jsonl", "c.json")[1])["left_out"] == 2

    assert compared("a.json", "a.json")[2] == ""
    code, out, err = compared("c.json", "c.json")  # nobody captions photo 1000
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert "pass --subset" in err
    code, out, err = compared("c.json", "c.json", "--subset")  # and the remedy is one
    assert (code, json.loads(out)["photos"], err) == (0, 2, "")

    save(tmp_path / "d.json", RESULTS["padded.json"][2:])
    code, out, err = compared("c.json", "d.json", "--subset")
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert "caption no photo in common" in err
