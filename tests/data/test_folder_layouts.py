"""Folders of one's own, in every layout people keep them in: photos with captions, or one line that says what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from layouts import write_photos
from test_bad_corpora import fault

from clearcap.data import open_corpus
from clearcap.data.check import check

Content = dict[str, str | bytes]
THREE = {"a.jpg": ("a dog", "the dog"), "b.JPG": ("two cats",), "sub/c.png": ("a “bear”, brown",)}


def folder(root: Path, content: Content, photos: list[str] | None = None) -> Path:
    """Real photos, and the files beside them."""
    write_photos(root, list(THREE) if photos is None else photos)
    for name, text in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def held(root: Path, split: str = "all") -> dict[str, tuple[str, ...]]:
    """Photo -> captions, once every photo has been opened."""
    corpus = open_corpus("folder", root, split)
    assert all(photo.image.open().mode == "RGB" for photo in corpus)
    return {photo.id: photo.captions for photo in corpus}


def jsonl(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


ROWS = [(name, caption) for name, captions in THREE.items() for caption in captions]
CSV = "file_name,text\n" + "".join(f'{name},"{caption}"\n' for name, caption in ROWS)


@pytest.mark.parametrize(
    "content",
    [
        {"a.txt": "a dog\nthe dog\n", "b.txt": "two cats", "sub/c.txt": "a “bear”, brown"},
        {
            "a.TXT": b"\xef\xbb\xbfa dog\r\n\r\nthe dog\r\n",
            "b.JPG.txt": " two  cats ",
            "sub/c.txt": "a “bear”, brown",
        },
        {
            "a.txt": "a dog\nthe dog",
            "b.txt": "two cats",
            "sub/c.txt": "a “bear”, brown",
            "README.txt": "mine",
        },
        {"metadata.jsonl": jsonl(*({"file_name": name, "text": caption} for name, caption in ROWS))},
        {"metadata.jsonl": jsonl(*({"file_name": name, "captions": each} for name, each in THREE.items()))},
        {"metadata.jsonl": jsonl(*({"file_name": name, "caption": each} for name, each in THREE.items()))},
        {"captions.jsonl": jsonl(*({"image": name, "caption": caption} for name, caption in reversed(ROWS)))},
        {"metadata.csv": CSV},
        {"metadata.csv": b"\xef\xbb\xbf" + CSV.replace("\n", "\r\n").encode() + b"\r\n"},
        {
            "metadata.csv": CSV.replace(",", "\t", 1)
            .replace(',"', "\t")
            .replace('"\n', "\n")
            .replace("“", "“")
        },
        {
            "metadata.csv": CSV.replace("file_name,text", "caption;image")
            .replace("caption;image", "image;caption")
            .replace(',"', ';"')
        },
        {
            "metadata.csv": "id,file_name,captions\n"
            + "".join(
                f'{name},{name},"{json.dumps(list(each), ensure_ascii=False)}"\n'.replace('["', '[""')
                .replace('"]', '""]')
                .replace('", "', '"", ""')
                for name, each in THREE.items()
            )
        },
        {
            "metadata.csv": "text,split,file_name,note\n"
            + "".join(f'"{caption}",,{name},x\n' for name, caption in ROWS)
        },
    ],
)
def test_every_layout_gives_the_same_photos_and_captions(tmp_path: Path, content: Content) -> None:
    found = held(folder(tmp_path, content))
    assert found == THREE or found == {name: each[::-1] for name, each in reversed(THREE.items())}
    report = check("folder", tmp_path)
    assert report.ok, report.lines()
    assert report.lines() == ["all: 3 photos, 4 captions"]


def test_folders_called_like_splits_are_splits(tmp_path: Path) -> None:
    photos = ["train/a.jpg", "train/deep/b.jpg", "validation/a.jpg"]
    texts = folder(tmp_path / "texts", {name[:-3] + "txt": name for name in photos}, photos)
    tables = folder(
        tmp_path / "tables",
        {
            "train/metadata.csv": "file_name,text\na.jpg,train/a.jpg\ndeep/b.jpg,train/deep/b.jpg\n",
            "validation/metadata.csv": "file_name,text\na.jpg,validation/a.jpg\n",
            "train/.cache/metadata.csv": "not mine",
        },
        photos,
    )
    for root in (texts, tables):
        assert held(root) == {name: (name,) for name in photos}
        assert held(root, "train") == {name: (name,) for name in photos[:2]}
        assert held(root, "dev") == {"validation/a.jpg": ("validation/a.jpg",)}
        assert "has no split 'test'; choose among train, validation, all" in fault("folder", root, "test")


def test_the_first_layout_that_is_there_counts(tmp_path: Path) -> None:
    root = folder(tmp_path, {"a.txt": "from the text"}, ["a.jpg"])
    assert held(root) == {"a.jpg": ("from the text",)}
    (root / "metadata.csv").write_text("file_name,text\na.jpg,from the table\n")
    assert held(root) == {"a.jpg": ("from the table",)}
    (root / "captions.jsonl").write_text(jsonl({"file_name": "a.jpg", "caption": "from the lines"}))
    assert held(root) == {"a.jpg": ("from the lines",)}


def test_photos_may_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    folder(tmp_path, {"images/a.txt": "a dog", "notes.txt": "x"}, ["images/a.jpg", "unrelated.jpg"])
    (photo,) = open_corpus("folder", tmp_path, photos="images")
    assert (photo.id, photo.captions) == ("a.jpg", ("a dog",))


def test_a_bracket_at_the_beginning_of_a_caption_is_no_list(tmp_path: Path) -> None:
    rows = 'file_name,text\na.jpg,[unclear] a dog\nb.JPG,[blurred]\nsub/c.png,"[1, 2"\n'
    assert held(folder(tmp_path, {"metadata.csv": rows})) == {
        "a.jpg": ("[unclear] a dog",),
        "b.JPG": ("[blurred]",),
        "sub/c.png": ("[1, 2",),
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "captions.jsonl: no such file; write one line per photo"),
        (
            {"notes.txt": "of mine"},
            "or metadata.jsonl or metadata.csv with file_name and text, or a.txt beside each",
        ),
        ({"a.txt": "a", "b.txt": "b"}, "1 photo (sub/c.png (no c.txt beside it)) without a caption"),
        ({"a.txt": "a", "b.txt": " \r\n", "sub/c.txt": "c"}, "b.txt)) without a caption"),
        (
            {"a.txt": "a", "b.txt": "b", "sub/c.txt": "c", "d.txt": "d"},
            "1 text (d.txt) without a photo beside it",
        ),
        ({"a.txt": b"\xff\xfea\0", "b.txt": "b", "sub/c.txt": "c"}, "a.txt: byte 0 is not UTF-8"),
        ({"metadata.csv": CSV, "metadata.jsonl": ""}, "holds metadata.csv and metadata.jsonl; keep one"),
        ({"metadata.csv": ""}, "holds no photo"),
        ({"metadata.csv": "file_name,text\n"}, "holds no photo"),
        ({"metadata.csv": "file_name,text\na.jpg,a dog, a cat\n"}, "line 2 has 3 fields instead of 2"),
        ({"metadata.csv": 'file_name,text\na.jpg,"a dog\n'}, "is not CSV"),
        ({"metadata.csv": "file_name,text,text\na.jpg,x,y\n"}, "names the column 'text' twice"),
        ({"metadata.csv": "file,text\na.jpg,x\n"}, "line 2 has no 'file_name' (it has 'file', 'text')"),
        ({"metadata.csv": "file_name,words\na.jpg,x\n"}, "has no 'captions' (it has 'file_name', 'words')"),
        ({"metadata.csv": "file_name,text\na.jpg,\n"}, "1 photo (a.jpg"),
        ({"metadata.csv": "file_name,text\na.jpg,x\nz.jpg,y\n"}, "1 photo file ("),
        ({"metadata.csv": "file_name,text,split\na.jpg,x,train\na.jpg,y,test\n"}, "also in the"),
        ({"metadata.csv": "id,file_name,text\n0,a.jpg,x\n1,a.jpg,y\n"}, "(a.jpg) listed under several ids"),
        ({"metadata.csv": 'file_name,captions\na.jpg,"[1, 2]"\n'}, "is of type int; give strings only"),
        ({"metadata.csv": "file_name,captions\na.jpg,\"['x']\"\na.jpg,\"['y']\"\n"}, "listed twice"),
        ({"metadata.jsonl": jsonl({"file_name": "a.jpg", "text": 3})}, "is of type int; give strings only"),
        ({"metadata.jsonl": '{"file_name": "a.jpg"'}, "breaks off"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, content: Content, message: str) -> None:
    split = "train" if "also" in message else "all"
    assert message in fault("folder", folder(tmp_path, content), split)
    assert not check("folder", tmp_path, [split]).ok
