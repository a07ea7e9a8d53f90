"""Files, folders, globs and URLs become photos in a stable order."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from layouts import encoded, photo
from PIL import Image

from clearcap.data.images import PhotoBytes, open_image
from clearcap.data.paths import expand
from clearcap.errors import InputError


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (
        "b.jpg",
        "a.PNG",
        "notes.txt",
        "sub/c.webp",
        "sub/deep/d.jpeg",
        ".hidden/e.jpg",
        "._b.jpg",
        "x[1].jpg",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "none").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_is_the_photos_below_it(tree: Path) -> None:
    found = expand([str(tree)])
    assert found == [
        str(tree / name) for name in ("a.PNG", "b.jpg", "sub/c.webp", "sub/deep/d.jpeg", "x[1].jpg")
    ]


def test_files_globs_and_urls_keep_the_order_given(tree: Path) -> None:
    url = "https://example.org/p?id=1"
    assert expand(["sub", url, "b.jpg", "notes.txt"]) == [
        "sub/c.webp",
        "sub/deep/d.jpeg",
        url,
        "b.jpg",
        "notes.txt",
    ]
    assert expand(["*"]) == ["a.PNG", "b.jpg", "sub/c.webp", "sub/deep/d.jpeg", "x[1].jpg"]
    assert expand(["**/*.jp*g"]) == ["b.jpg", "sub/deep/d.jpeg", "x[1].jpg"]
    assert expand(["x[1].jpg"]) == ["x[1].jpg"]


def test_what_matches_nothing_is_an_entry_and_the_others_go_on(tree: Path) -> None:
    first, *errors, last = expand(["b.jpg", "no.jpg", "no*.jpg", "none", "n*.txt", "", "a\0", "a.PNG"])
    assert (first, last) == ("b.jpg", "a.PNG")
    faults = (
        "no.jpg: no such file",
        "nothing matches",
        "no image file in this folder",
        "no image among them",
    )
    for error, fault in zip(errors, (*faults, "'' is not a path", r"'a\x00' is not a path"), strict=True):
        assert isinstance(error, InputError)
        assert fault in str(error)


def test_lists_of_photos(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / "names.txt").write_bytes("\ufeffb.jpg\r\n\n  \nsub\nno.jpg\nhttps://example.org/p\n".encode())
    expected = ["b.jpg", "sub/c.webp", "sub/deep/d.jpeg", "https://example.org/p"]
    found = expand(["@names.txt"])
    assert [one for one in found if isinstance(one, str)] == expected
    assert "no.jpg: no such file" in str(found[3])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((tree / "names.txt").read_bytes())))
    assert [str(one) for one in expand(["-"])] == [str(one) for one in found]
    for argument, fault in (("@absent.txt", "cannot be read as a list"), ("@notes.txt", "names no photo")):
        (error,) = expand([argument])
        assert isinstance(error, InputError)
        assert fault in str(error)
    (tree / "@x.jpg").touch()
    assert expand(["@x.jpg"]) == ["@x.jpg"]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF"])
def test_bytes_on_standard_input_are_a_photo(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.init()
    if format not in Image.SAVE:
        pytest.skip(f"Pillow without {format}")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(encoded(photo(0, 64, 64), format))))
    (entry,) = expand(["-"])
    assert isinstance(entry, PhotoBytes)
    assert open_image(entry).size == (64, 64)
