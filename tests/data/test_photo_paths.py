"""Files, folders, globs and URLs become photos in a stable order."""

from __future__ import annotations

from pathlib import Path

import pytest

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
