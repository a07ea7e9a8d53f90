"""Each corpus in each of its public layouts: the right photos, captions and splits."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from layouts import encoded, five, photo, write_json, write_photos
from PIL import Image

from clearcap.data import Corpus, open_corpus, open_image
from clearcap.data.corpus import find_reader, open_spec, parse_spec, split_spec
from clearcap.errors import InputError
from clearcap.registry import names

Karpathy = Callable[[Path, str, dict[str, str]], None]


def ids(corpus: Corpus) -> list[str]:
    return [photo.id for photo in corpus]


def opens(corpus: Corpus) -> bool:
    return all(photo.image.open().size == photo.image.size() == (24, 16) for photo in corpus)


def test_flickr8k_csv(flickr8k: Path) -> None:
    train = open_corpus("flickr8k", flickr8k, "train", expected=4)
    assert (train.name, train.split, len(train)) == ("flickr8k", "train", 4)
    assert ids(train) == ["97_a.jpg", "98_b.jpg", "99_c.jpg", "100_d.jpg"]
    assert train["99_c.jpg"] is train[2]
    assert train[2].captions[4] == "caption 4 of 99_c.jpg , with a comma"
    assert "99_c.jpg" in train
    assert "101_e.jpg" not in train
    assert opens(train)
    for split in ("dev", "val", "validation"):
        assert ids(open_corpus("flickr8k", flickr8k, split, expected=None)) == ["101_e.jpg", "102_f.jpg"]


def test_flickr8k_official_text(flickr8k: Path) -> None:
    csv = open_corpus("flickr8k", flickr8k, "test", expected=2)
    names = [path.name for path in (flickr8k / "Images").iterdir()] + ["2258277193_586949ec62.jpg.1"]
    lines = [
        f"{name}#{n}\t{caption} , with a comma" for name in names for n, caption in enumerate(five(name))
    ]
    text = flickr8k / "Flickr8k_text"
    text.mkdir()
    for path in flickr8k.glob("Flickr_8k.*"):
        path.rename(text / path.name)
    (flickr8k / "captions.txt").unlink()
    (text / "Flickr8k.token.txt").write_text("\n".join(lines))
    (flickr8k / "Images").rename(flickr8k / "Flicker8k_Dataset")
    official = open_corpus("flickr8k", flickr8k, "test", expected=2)
    assert [(p.id, p.captions) for p in official] == [(p.id, p.captions) for p in csv]
    assert opens(official)


def test_flickr8k_karpathy(flickr8k: Path, karpathy: Karpathy) -> None:
    for path in flickr8k.glob("Flickr_8k.*"):
        path.unlink()
    karpathy(flickr8k / "dataset_flickr8k.json", "flickr8k", {"97_a.jpg": "train", "98_b.jpg": "val"})
    dev = open_corpus("flickr8k", flickr8k, "dev", expected=1)
    assert ids(dev) == ["98_b.jpg"]
    assert dev[0].captions == tuple(five("98_b.jpg"))


@pytest.fixture
def coco(tmp_path: Path, karpathy: Karpathy) -> Path:
    """COCO 2014 photos with dataset_coco.json: 1 train, 2 restval, 1 val, 1 test."""
    root = tmp_path / "coco"
    splits = {
        "train2014/COCO_train2014_000000000009.jpg": "train",
        "val2014/COCO_val2014_000000000042.jpg": "restval",
        "val2014/COCO_val2014_000000000073.jpg": "restval",
        "val2014/COCO_val2014_000000391895.jpg": "test",
        "val2014/COCO_val2014_000000000074.jpg": "val",
    }
    write_photos(root, splits)
    karpathy(root / "annotations/dataset_coco.json", "coco", splits)
    return root


def test_coco_karpathy_merges_restval_into_train(coco: Path) -> None:
    train = open_corpus("coco-karpathy", coco, "train", expected=3)
    assert ids(train) == ["9", "42", "73"]
    assert opens(train)
    assert ids(open_corpus("coco-karpathy", coco, "val", expected=1)) == ["74"]
    assert ids(open_corpus("coco-karpathy", coco, "test", expected=1)) == ["391895"]


def test_coco_karpathy_lists_say_the_same(coco: Path) -> None:
    splits = ("train", "val", "test")
    whole = {split: open_corpus("coco-karpathy", coco, split, expected=None) for split in splits}
    (coco / "annotations/dataset_coco.json").unlink()
    for split, corpus in whole.items():
        names = [f"{Path(p.image).parent.name}/{Path(p.image).name}" for p in corpus]
        if split == "train":  # one object per caption, as in the public file
            records = [
                {"caption": caption, "image": name, "image_id": f"coco_{p.id}"}
                for name, p in zip(names, corpus, strict=True)
                for caption in p.captions
            ]
        else:
            records = [
                {"image": name, "caption": [*p.captions]} for name, p in zip(names, corpus, strict=True)
            ]
        write_json(coco / f"coco_karpathy_{split}.json", records)
    for split, corpus in whole.items():
        assert open_corpus("coco-karpathy", coco, split, expected=len(corpus)).photos == corpus.photos


def test_coco_karpathy_finds_the_photos_of_2017(coco: Path) -> None:
    before = open_corpus("coco-karpathy", coco, "train", expected=None)
    pixels = [np.asarray(p.image.open()) for p in before]
    for year in ("train2017", "val2017"):
        (coco / year).mkdir()
    (coco / "train2014/COCO_train2014_000000000009.jpg").rename(coco / "val2017/000000000009.jpg")
    for path in (coco / "val2014").iterdir():
        path.rename(coco / "train2017" / path.name[-16:])
    (coco / "train2014").rmdir()
    (coco / "val2014").rmdir()
    after = open_corpus("coco-karpathy", coco, "train", expected=None)
    for p, expected in zip(after, pixels, strict=True):
        np.testing.assert_array_equal(np.asarray(p.image.open()), expected)


def annotations(names: dict[int, str], captions_each: int, **extra: object) -> dict[str, object]:
    return {
        "info": {},
        "images": [
            {"id": id, "file_name": name, "height": 16, "width": 24, **extra} for id, name in names.items()
        ],
        "annotations": [
            {"id": 10 * id + n, "image_id": id, "caption": f"caption {n} of {name}\n"}
            for n in range(captions_each)
            for id, name in reversed(names.items())
        ],
    }


def test_coco_official(tmp_path: Path) -> None:
    write_json(tmp_path / "annotations/captions_train2017.json", annotations({9: "000000000009.jpg"}, 5))
    write_json(
        tmp_path / "annotations/captions_val2017.json", annotations({7: "000000000007.jpg", 8: "8.jpg"}, 6)
    )
    write_photos(tmp_path / "val2017", ["000000000007.jpg", "8.jpg"])
    write_photos(tmp_path / "images/train2017", ["000000000009.jpg"])
    val = open_corpus("coco", tmp_path, "val2017", expected=2)
    assert ids(val) == ["7", "8"]
    assert val["8"].captions == tuple(f"caption {n} of 8.jpg" for n in range(6))
    assert opens(val)
    assert open_corpus("coco", tmp_path, "dev", expected=2).photos == val.photos
    assert opens(open_corpus("coco", tmp_path, "train", expected=1))


@pytest.fixture
def flickr30k(tmp_path: Path, karpathy: Karpathy) -> Path:
    root = tmp_path / "flickr30k"
    splits = {"97.jpg": "train", "200.jpg": "train", "103.jpg": "train", "201.jpg": "val", "98.jpg": "test"}
    write_photos(root / "flickr30k_images", splits)
    karpathy(root / "dataset_flickr30k.json", "flickr30k", splits)
    return root


def test_flickr30k_karpathy(flickr30k: Path) -> None:
    train = open_corpus("flickr30k", flickr30k, "train", expected=3)
    assert ids(train) == ["97.jpg", "200.jpg", "103.jpg"]
    assert train[1].captions == tuple(five("200.jpg"))
    assert opens(train)
    assert ids(open_corpus("flickr30k", flickr30k, "dev", expected=1)) == ["201.jpg"]


def test_flickr30k_results(flickr30k: Path) -> None:
    (flickr30k / "dataset_flickr30k.json").unlink()
    names = ["97.jpg", "200.jpg", "201.jpg"]
    lines = [f"{name}| {n}| {caption} | again ." for name in names for n, caption in enumerate(five(name))]
    lines[4] = "97.jpg| 4   A dog runs across the grass ."  # so is one line of the published file
    (flickr30k / "results.csv").write_text("image_name| comment_number| comment\n" + "\n".join(lines) + "\n")
    whole = open_corpus("flickr30k", flickr30k, "all", expected=3)
    assert ids(whole) == names
    assert whole[0].captions[3:] == ("caption 3 of 97.jpg | again .", "A dog runs across the grass .")
    (flickr30k / "val.txt").write_text("201\n")
    (flickr30k / "train.txt").write_text("200\n97.jpg\n")
    assert ids(open_corpus("flickr30k", flickr30k, "train", expected=2)) == ["200.jpg", "97.jpg"]
    assert opens(open_corpus("flickr30k", flickr30k, "val", expected=1))


def test_flickr30k_and_8k_together_do_not_leak(flickr8k: Path, flickr30k: Path) -> None:
    """97 trains in both; 98 trains in 8k and tests in 30k; 103 tests in 8k and trains in 30k."""
    splits = {
        split: open_corpus("flickr30k+8k", flickr8k.parent, split, expected=None)
        for split in ("train", "dev", "test")
    }
    numbers = {
        split: [id.replace("_", ".").split(".")[0] for id in ids(corpus)] for split, corpus in splits.items()
    }
    assert numbers == {
        "train": ["97", "99", "100", "200"],
        "dev": ["101", "102", "201"],
        "test": ["103", "104", "98"],
    }
    assert len(splits["train"]["97_a.jpg"].captions) == 10  # five of each corpus, no two alike
    assert len(splits["train"]["99_c.jpg"].captions) == 5
    assert (
        open_corpus(
            "flickr30k+8k", "elsewhere", "dev", expected=3, flickr8k=flickr8k, flickr30k=flickr30k
        ).photos
        == splits["dev"].photos
    )


def test_nocaps(tmp_path: Path) -> None:
    names = {0: "0013ea2087020901.jpg", 3: "00a.jpg"}
    content = annotations(names, 10)
    for image, domain in zip(content["images"], ("in-domain", "out-domain"), strict=True):
        image["domain"] = domain
    write_json(tmp_path / "nocaps_val_4500_captions.json", content)
    write_photos(tmp_path / "images", names.values())
    val = open_corpus("nocaps", tmp_path, "val", expected=2)
    assert ids(val) == ["0", "3"]
    assert len(val[0].captions) == 10
    assert opens(val)
    assert ids(open_corpus("nocaps", tmp_path, "val", domain="out-domain")) == ["3"]
    write_json(tmp_path / "nocaps_test_image_info.json", {"images": content["images"]})
    assert [p.captions for p in open_corpus("nocaps", tmp_path, "test", expected=2)] == [(), ()]


def test_stanford_paragraphs(tmp_path: Path) -> None:
    texts = {2388203: "A long one. It goes on.", 5: "Short.", 6: "Other."}
    records = [{"url": "", "image_id": id, "paragraph": text} for id, text in texts.items()]
    records.append({"url": "", "image_id": 5, "paragraph": "A second description."})
    write_json(tmp_path / "paragraphs_v1.json", records)
    for split, members in {"train": [2388203, 5], "val": [], "test": [6]}.items():
        write_json(tmp_path / f"{split}_split.json", members)
    write_photos(tmp_path / "VG_100K", ["5.jpg", "6.jpg"])
    write_photos(tmp_path / "VG_100K_2", ["2388203.jpg"])
    train = open_corpus("stanford-paragraphs", tmp_path, "train", expected=2)
    assert [p.captions for p in train] == [("A long one. It goes on.",), ("Short.", "A second description.")]
    assert opens(train)


def write_lines(path: Path, records: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_folder(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", ["a.jpg", "b.jpg", "c.jpg"])
    write_photos(tmp_path / "more", ["a.jpg"])
    write_lines(
        tmp_path / "captions.jsonl",
        [
            {
                "image_id": 285,
                "file_name": "a.jpg",
                "captions": ["One  photo.", " ", "again\n"],
                "split": "train",
            },
            {"file_name": "b.jpg", "caption": "single", "split": "train"},
            {"image": "c.jpg", "text": "ünïcode", "split": "test"},
        ],
    )
    every = open_corpus("folder", tmp_path)
    assert [(p.id, p.captions) for p in every] == [
        ("285", ("One photo.", "again")),
        ("b.jpg", ("single",)),
        ("c.jpg", ("ünïcode",)),
    ]
    assert opens(every)
    assert ids(open_corpus("folder", tmp_path, "train")) == ["285", "b.jpg"]
    assert ids(open_corpus("folder", tmp_path, "test", photos="photos", expected=1)) == ["c.jpg"]


def test_folder_with_a_file_per_split(tmp_path: Path) -> None:
    write_photos(tmp_path, ["a.jpg", "b.jpg"])
    write_lines(tmp_path / "captions_train.jsonl", [{"file_name": "a.jpg", "captions": ["one"]}])
    write_lines(tmp_path / "captions_val.jsonl", [{"file_name": "b.jpg", "captions": ["two"]}])
    assert ids(open_corpus("folder", tmp_path, "dev")) == ["b.jpg"]
    assert ids(open_corpus("folder", tmp_path, "all")) == ["a.jpg", "b.jpg"]


def write_shard(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    jpeg = [encoded(photo(n), "JPEG") for n in range(4)]
    write_shard(
        tmp_path / "train-000.tar",
        {
            "a.jpg": jpeg[0],
            "a.json": json.dumps({"captions": ["one", "two"], "width": 24}).encode(),
            "b.large.png": encoded(photo(9), "PNG"),
            "b.txt": b"drei\nvier\n",
        },
    )
    write_shard(tmp_path / "train-001.tar", {"c.txt": b"five", "c.jpg": jpeg[2], "c.json": b'{"width": 24}'})
    write_shard(tmp_path / "test/0.tar", {"d.jpeg": jpeg[3], "d.json": b'"six"', "d.cls": b"1"})
    return tmp_path


def test_webdataset_shards(shards: Path) -> None:
    train = open_corpus("webdataset", shards, "train", expected=3)
    assert [(p.id, p.captions) for p in train] == [
        ("a", ("one", "two")),
        ("b", ("drei", "vier")),
        ("c", ("five",)),
    ]
    assert train["b"].image.name.endswith("train-000.tar/b.large.png")
    np.testing.assert_array_equal(np.asarray(train["b"].image.open()), np.asarray(photo(9)))
    np.testing.assert_array_equal(
        np.asarray(open_image(train["c"].image)),
        np.asarray(Image.open(io.BytesIO(encoded(photo(2), "JPEG")))),
    )
    assert ids(open_corpus("webdataset", shards, "test")) == ["d"]
    assert ids(open_corpus("webdataset", shards, "all")) == ["d", "a", "b", "c"]
    assert ids(open_corpus("webdataset", shards / "train-{000..001}.tar")) == ["a", "b", "c"]
    assert ids(open_corpus("webdataset", shards / "train-001.tar")) == ["c"]


def test_hugging_face_data_sets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    photos = [photo(n) for n in range(3)]
    rows = {"image": photos, "captions": [["one", "two"], ["three"], ["four"]], "image_id": [5, 7, 9]}
    kinds = {
        "image": datasets.Image(),
        "captions": [datasets.Value("string")],
        "image_id": datasets.Value("int64"),
    }
    data = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
    datasets.DatasetDict({"train": data, "validation": data.select([0])}).save_to_disk(
        str(tmp_path / "saved")
    )
    train = open_corpus("huggingface", tmp_path / "saved", "train", expected=3)
    assert [(p.id, p.captions) for p in train] == [("5", ("one", "two")), ("7", ("three",)), ("9", ("four",))]
    np.testing.assert_array_equal(np.asarray(train["7"].image.open()), np.asarray(photos[1]))
    assert ids(open_corpus("huggingface", tmp_path / "saved", "val")) == ["5"]

    single = {"photo": photos, "alt_text": ["one", "two", "three"], "id": ["a", "b", "a"]}
    kinds = {"photo": datasets.Image(), "alt_text": datasets.Value("string"), "id": datasets.Value("string")}
    datasets.Dataset.from_dict(single, features=datasets.Features(kinds)).save_to_disk(
        str(tmp_path / "single")
    )
    rows_of_one = open_corpus("huggingface", tmp_path / "single", "all")
    assert [(p.id, p.captions) for p in rows_of_one] == [("a", ("one", "three")), ("b", ("two",))]

    (tmp_path / "files/train").mkdir(parents=True)  # an image folder, as `load_dataset` reads it
    for n, image in enumerate(photos):
        image.save(tmp_path / f"files/train/{n}.png")
    write_lines(
        tmp_path / "files/train/metadata.jsonl",
        [{"file_name": f"{n}.png", "caption_0": f"a{n}", "caption_1": f"b{n}"} for n in range(3)],
    )
    folder = open_corpus("huggingface", tmp_path / "files", "train")
    assert [p.captions for p in folder] == [("a0", "b0"), ("a1", "b1"), ("a2", "b2")]
    np.testing.assert_array_equal(np.asarray(folder[2].image.open()), np.asarray(photos[2]))


def test_every_corpus_has_its_splits_listed() -> None:
    for name in names("corpus"):
        assert find_reader(name).splits
    assert find_reader("flickr8k").usual_split == "dev"
    assert find_reader("flickr30k").usual_split == "val"
    assert find_reader("webdataset").usual_split == find_reader("huggingface").usual_split == "all"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flickr8k:photos:test", ("flickr8k", "photos", "test")),
        ("flickr8k:photos", ("flickr8k", "photos", "")),
        ("flickr8k:photos:", ("flickr8k", "photos", "")),
        ("folder:a:b:train", ("folder", "a:b", "train")),
        (r"folder:C:\data\coco:dev", ("folder", r"C:\data\coco", "dev")),
        (r"folder:C:\data", ("folder", r"C:\data", "")),
        ("folder:C:/data", ("folder", "C:/data", "")),
        ("webdataset:https://host:80/shards/0.tar", ("webdataset", "https://host:80/shards/0.tar", "")),
        ("webdataset:https://host/{000..009}.tar:all", ("webdataset", "https://host/{000..009}.tar", "all")),
        ("huggingface:owner/name:train[:10%]", ("huggingface", "owner/name", "train[:10%]")),
    ],
)
def test_a_corpus_is_spelt_name_root_split(text: str, expected: tuple[str, str, str]) -> None:
    assert split_spec(text) == expected
    name, root, split = expected
    assert parse_spec(text) == (name, root, split or find_reader(name).usual_split)


@pytest.mark.parametrize("text", ["", "flickr8k", "flickr8k:", ":photos:dev"])
def test_another_spelling_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="NAME:ROOT:SPLIT"):
        parse_spec(text)


def test_a_spelt_corpus_is_the_same_corpus(flickr8k: Path) -> None:
    assert ids(open_spec(f"flickr8k:{flickr8k}", expected=None)) == ["101_e.jpg", "102_f.jpg"]
    train = open_spec(f"flickr8k:{flickr8k}:train", expected=4, missing="skip")
    assert train == open_corpus("flickr8k", flickr8k, "train", expected=4)
    with pytest.raises(InputError, match="unknown corpus 'flickr9k'"):
        open_spec(f"flickr9k:{flickr8k}:dev")


def test_real_flickr8k(shared: Path) -> None:
    root = shared / "data/flickr8k"
    train, dev = open_corpus("flickr8k", root, "train"), open_corpus("flickr8k", root, "dev")
    assert (len(train), len(dev)) == (6000, 1000)
    assert not {photo.id for photo in train} & {photo.id for photo in dev}
    assert sum(len(photo.captions) for photo in train) == 30_000
    assert dev[0].id == (root / "Flickr_8k.devImages.txt").read_text().split()[0]
    assert dev[0].image.open().size == (224, 224)


def test_real_coco(shared: Path) -> None:
    folder = open_corpus("folder", shared / "data/coco", expected=204)
    assert folder["285"].captions[1] == "The large brown bear has a black nose."
    assert folder["285"].image.open().size == Image.open(shared / "data/coco/captioned/000000000285.jpg").size
    assert {photo.id for photo in open_corpus("folder", shared / "data/coco", "train")}.isdisjoint(
        photo.id for photo in folder
    )
    official = open_corpus("coco", shared / "data/coco", "val2017", expected=4839, missing="keep")
    assert sum(len(photo.captions) for photo in official) == 24_208
    assert all(official[photo.id].captions == photo.captions for photo in folder if photo.id in official)
