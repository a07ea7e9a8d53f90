"""What can be wrong with a corpus: each fault one clear sentence, none of them silent."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import photo, write_json, write_photos
from test_corpora import annotations, write_lines, write_shard

from clearcap.data import open_corpus
from clearcap.data.reading import read_json
from clearcap.errors import InputError

Karpathy = Callable[[Path, str, dict[str, str]], None]


def fault(name: str, root: Path, split: str = "all", **options: Any) -> str:
    """The error's message, which must be one line with a remedy."""
    with pytest.raises(InputError) as caught:
        open_corpus(name, root, split, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert ";" in message
    return message


def test_a_leaking_split(flickr8k: Path) -> None:
    with (flickr8k / "Flickr_8k.devImages.txt").open("a") as file:
        file.write("97_a.jpg\n")
    for split, other in (("train", "dev"), ("dev", "train")):
        message = fault("flickr8k", flickr8k, split, expected=None)
        assert f"flickr8k {split}: 1 photo (97_a.jpg) also in the {other} split" in message


def test_leaks_in_the_other_layouts(tmp_path: Path, karpathy: Karpathy) -> None:
    write_photos(tmp_path, ["a.jpg", "000000000007.jpg"])
    record = {"file_name": "a.jpg", "captions": ["one"]}
    write_lines(tmp_path / "captions.jsonl", [record | {"split": "train"}, record | {"split": "test"}])
    assert "also in the test split" in fault("folder", tmp_path, "train")
    for split in ("train2014", "val2014"):
        write_json(tmp_path / f"captions_{split}.json", annotations({7: "000000000007.jpg"}, 5))
    assert "also in the train2014 split" in fault("coco", tmp_path, "val2014", expected=None, missing="keep")
    for split in ("train", "val"):
        write_json(
            tmp_path / f"coco_karpathy_{split}.json", [{"image": "000000000007.jpg", "caption": ["one"]}]
        )
    assert "also in the val split" in fault("coco-karpathy", tmp_path, "train", expected=None, missing="keep")
    write_json(tmp_path / "paragraphs_v1.json", [{"image_id": 7, "paragraph": "one"}])
    for split in ("train", "val"):
        write_json(tmp_path / f"{split}_split.json", [7])
    assert "also in the train split" in fault(
        "stanford-paragraphs", tmp_path, "val", expected=None, missing="keep"
    )


def test_a_missing_photo_is_named(flickr8k: Path) -> None:
    (flickr8k / "Images/98_b.jpg").unlink()
    (flickr8k / "Images/99_c.jpg").write_bytes(b"")
    message = fault("flickr8k", flickr8k, "train", expected=None)
    assert "2 photo files" in message
    assert "98_b.jpg" in message
    assert "99_c.jpg" in message
    assert len(open_corpus("flickr8k", flickr8k, "train", expected=None, missing="skip")) == 2
    assert len(open_corpus("flickr8k", flickr8k, "train", expected=None, missing="keep")) == 4


def test_all_photos_missing_is_said_even_when_skipped(flickr8k: Path) -> None:
    for path in (flickr8k / "Images").iterdir():
        path.unlink()
    assert "holds no photo" in fault("flickr8k", flickr8k, "train", expected=None, missing="skip")


def test_the_wrong_count(flickr8k: Path) -> None:
    message = fault("flickr8k", flickr8k, "train")
    assert "lists 4 photos where 6,000 are expected" in message
    assert "expected=None" in message
    assert "lists 4 photos where 5 are expected" in fault("flickr8k", flickr8k, "train", expected=5)


def test_duplicate_ids(flickr8k: Path) -> None:
    with (flickr8k / "Flickr_8k.trainImages.txt").open("a") as file:
        file.write("98_b.jpg\n")
    message = fault("flickr8k", flickr8k, "train", expected=None)
    assert re.search(r"1 photo \(98_b\.jpg \(.*trainImages\.txt line 5\)\) listed twice", message)


def test_duplicate_ids_in_the_other_layouts(tmp_path: Path) -> None:
    write_photos(tmp_path, ["a.jpg", "b.jpg"])
    write_lines(
        tmp_path / "captions.jsonl",
        [{"image_id": 1, "file_name": n, "captions": ["one"]} for n in ("a.jpg", "b.jpg")],
    )
    assert "captions.jsonl line 2" in fault("folder", tmp_path)
    content = annotations({7: "a.jpg"}, 5)
    content["images"] *= 2
    write_json(tmp_path / "captions_val2017.json", content)
    assert "images[1])) listed twice" in fault("coco", tmp_path, "val2017", expected=None, missing="keep")
    write_json(tmp_path / "coco_karpathy_val.json", [{"image": "a.jpg", "caption": ["one"]}] * 2)
    assert "a.jpg is listed twice" in fault("coco-karpathy", tmp_path, "val", expected=None)


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        ("one", "the captions of photo a.jpg are of type str"),
        (None, "the captions of photo a.jpg are of type NoneType"),
        ({"en": "one"}, "are of type dict"),
        (["one", 2], "a caption of photo a.jpg is of type int; give strings only"),
        ([["one"]], "is of type list; give strings only"),
        ([], "a.jpg (.*) without a caption"),
        (["", " \n"], "a.jpg (.*) without a caption"),
    ],
)
def test_captions_of_the_wrong_type(tmp_path: Path, captions: object, message: str) -> None:
    write_photos(tmp_path, ["a.jpg"])
    write_lines(tmp_path / "captions.jsonl", [{"file_name": "a.jpg", "captions": captions}])
    assert re.search(message, fault("folder", tmp_path))
    assert "captions.jsonl line 1" in fault("folder", tmp_path)


def test_captions_of_the_wrong_type_in_annotation_files(tmp_path: Path) -> None:
    content = annotations({7: "a.jpg"}, 5)
    content["annotations"][3]["caption"] = 5
    write_json(tmp_path / "captions_val2017.json", content)
    message = fault("coco", tmp_path, "val2017", expected=None, missing="keep")
    assert "annotations[3]: 'caption' is of type int; it must be a string" in message


def test_captions_of_photos_nobody_listed(tmp_path: Path) -> None:
    content = annotations({7: "a.jpg", 8: "b.jpg"}, 5)
    content["images"].pop()
    write_json(tmp_path / "captions_val2017.json", content)
    assert "captions of 1 photo (8)" in fault("coco", tmp_path, "val2017", expected=None, missing="keep")


def test_too_few_captions_where_the_published_set_has_five(
    flickr8k: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("clearcap.data.flickr", fromlist=["SIZES_8K"]).SIZES_8K, "train", 4)
    assert len(open_corpus("flickr8k", flickr8k, "train")) == 4
    lines = (flickr8k / "captions.txt").read_text().splitlines()
    (flickr8k / "captions.txt").write_text("\n".join(lines[:18]) + "\n")  # cut between two lines
    message = fault("flickr8k", flickr8k, "train")
    assert "1 photo (100_d.jpg (2)) with other than 5 captions" in message


def test_truncated_json_is_named_with_its_place(tmp_path: Path, karpathy: Karpathy) -> None:
    path = tmp_path / "dataset_coco.json"
    karpathy(path, "coco", {f"train2014/COCO_train2014_{n:012d}.jpg": "train" for n in range(3)})
    whole = path.read_text()
    path.write_text(whole[:700])
    message = fault("coco-karpathy", tmp_path, "train", expected=None)
    assert "dataset_coco.json breaks off at line 1, column" in message
    assert "of 700" in message


@settings(max_examples=60, deadline=None)
@given(
    cut=st.integers(0, 2000),
    junk=st.sampled_from(["", "\0", "[" * 5000, "9" * 5000, "\ud800", "\x80", "}{", "NaN"]),
)
def test_any_malformed_json_is_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, cut: int, junk: str
) -> None:
    folder = tmp_path_factory.mktemp("json")
    whole = json.dumps(annotations({7: "a.jpg", 8: "b.jpg"}, 5), indent=1)
    path = folder / "captions_val2017.json"
    path.write_bytes(whole[: min(cut, len(whole) - 2)].encode() + junk.encode("utf-8", "surrogatepass"))
    assert str(path) in fault("coco", folder, "val2017", expected=None, missing="keep")


@pytest.mark.parametrize(
    "value", [[], {}, {"images": {}}, {"images": [3]}, {"images": [{"filename": 3, "split": "train"}]}, 5]
)
def test_json_of_another_shape(tmp_path: Path, value: object) -> None:
    write_json(tmp_path / "dataset_coco.json", value)
    write_json(tmp_path / "captions_val2017.json", value)
    for name, split in (("coco-karpathy", "val"), ("coco", "val2017")):
        assert ".json" in fault(name, tmp_path, split, expected=None)


def test_json_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(tmp_path / "a.json") == [1]


@pytest.mark.parametrize("name", ["flickr8k", "coco-karpathy", "flickr30k", "nocaps", "stanford-paragraphs"])
def test_an_empty_folder(tmp_path: Path, name: str) -> None:
    assert str(tmp_path) in fault(name, tmp_path, "val")


def test_names_that_do_not_exist(tmp_path: Path, flickr8k: Path) -> None:
    assert "choose one of flickr8k, coco-karpathy" in fault("flickr9k", tmp_path)
    assert "choose among train, dev, test" in fault("flickr8k", flickr8k, "all")
    assert "captions.jsonl: no such file" in fault("folder", tmp_path / "nowhere")
    assert "no such file" in fault("coco", tmp_path, "val2017")
    assert "neither captions_val2014.json nor" in fault("coco", tmp_path, "val")
    assert "no shard" in fault("webdataset", tmp_path)
    assert "no such shard" in fault("webdataset", tmp_path / "a-{0..1}.tar")
    write_lines(tmp_path / "captions.jsonl", [{"file_name": "a.jpg", "captions": ["one"]}])
    assert "has no split 'train'; choose among all" in fault("folder", tmp_path, "train")


def test_lines_that_are_not_in_the_layout(flickr8k: Path) -> None:
    path = flickr8k / "captions.txt"
    whole = path.read_text()
    path.write_text(whole + "97_a.jpg,a caption, with an unquoted comma\n")
    assert "captions.txt line 47 has 3 fields instead of 2" in fault("flickr8k", flickr8k, "train")
    path.write_text(whole[:-5])  # inside a quoted field
    assert "captions.txt line 46 is not CSV" in fault("flickr8k", flickr8k, "train")
    path.write_text(whole.replace("image,caption", "photo|words"))
    assert "it must be 'image,caption'" in fault("flickr8k", flickr8k, "train")
    path.write_bytes(whole.encode() + b"\xff\xfe")
    assert "is not UTF-8" in fault("flickr8k", flickr8k, "train")
    (flickr8k / "Flickr8k.token.txt").write_text("97_a.jpg a caption\n")
    assert "Flickr8k.token.txt line 1 is not 'photo.jpg#0<tab>caption'" in fault(
        "flickr8k", flickr8k, "train"
    )


def test_flickr30k_without_lists_has_no_splits(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text("image_name| comment_number| comment\na.jpg| 0| one\n")
    assert "ask for 'all'" in fault("flickr30k", tmp_path, "train")
    (tmp_path / "results.csv").write_text("image_name| comment_number| comment\na.jpg: one\n")
    assert "results.csv line 2 is not" in fault("flickr30k", tmp_path, "all")


def test_shards(tmp_path: Path) -> None:
    jpeg = photo(0, 300, 200).tobytes()
    write_shard(tmp_path / "a.tar", {"a.jpg": jpeg, "a.txt": b"one", "b.jpg": jpeg, "b.txt": b"two"})
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(jpeg) + 5000])
    assert "cut.tar is cut short" in fault("webdataset", tmp_path / "cut.tar")
    (tmp_path / "text.tar").write_text("no tar\n")
    assert "text.tar is cut short or not an uncompressed tar" in fault("webdataset", tmp_path / "text.tar")
    write_shard(tmp_path / "bare.tar", {"a.jpg": jpeg})
    assert "without a caption" in fault("webdataset", tmp_path / "bare.tar")
    write_shard(tmp_path / "json.tar", {"a.jpg": jpeg, "a.json": b'{"caption": 5}'})
    assert "are of type int" in fault("webdataset", tmp_path / "json.tar")
    write_shard(tmp_path / "twice.tar", {"a.jpg": jpeg, "a.png": jpeg, "a.txt": b"one"})
    assert "two photos" in fault("webdataset", tmp_path / "twice.tar")
    corpus = open_corpus("webdataset", tmp_path / "a.tar")
    (tmp_path / "a.tar").write_bytes(whole[:3000])  # overwritten while in use
    with pytest.raises(InputError, match=r"b\.jpg is cut short"):
        corpus["b"].image.open()


def test_hugging_face_faults(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"image": ["a.jpg"], "words": ["one"]})
    data.save_to_disk(str(tmp_path / "saved"))
    assert "has the columns image, words; name one with caption_column=" in fault(
        "huggingface", tmp_path / "saved"
    )
    corpus = open_corpus("huggingface", tmp_path / "saved", caption_column="words")
    with pytest.raises(InputError, match=r"a\.jpg: no such file"):
        corpus[0].image.open()
    (tmp_path / "empty").mkdir()
    assert "cannot be loaded" in fault("huggingface", tmp_path / "empty", "train")


def test_a_report_collects_instead_of_raising(flickr8k: Path) -> None:
    (flickr8k / "Images/98_b.jpg").unlink()
    with (flickr8k / "Flickr_8k.trainImages.txt").open("a") as file:
        file.write("98_b.jpg\n101_e.jpg\n")
    problems: list[str] = []
    corpus = open_corpus("flickr8k", flickr8k, "train", report=problems.append)
    assert len(corpus) == 5
    words = ("listed twice", "missing or empty", "also in the dev split", "6 photos where 6,000")
    assert len(problems) == len(words)
    assert all(word in problem for word, problem in zip(words, problems, strict=True))
