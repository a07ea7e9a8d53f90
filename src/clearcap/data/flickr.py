"""Flickr8k, Flickr30k and the two together."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from clearcap.data.images import PhotoFile
from clearcap.data.reading import read_csv, read_lines
from clearcap.data.records import Corpus, Listed, Strictness, assemble, choose_split
from clearcap.errors import InputError

FLICKR8K = {"train": 6000, "dev": 1000, "test": 1000}  # Hodosh et al. 2013
_TOKEN_LINE = re.compile(r"(.+)#\d+\t(.*)")


def read_flickr8k(root: Path, split: str, strictness: Strictness) -> Corpus:
    """Flickr8k (Hodosh et al. 2013), split by the official lists of photos: train, dev, test.

    Below root, or in Flickr8k_text below it: Flickr_8k.{train,dev,test}Images.txt, and the captions as
    captions.txt (`image,caption`) or Flickr8k.token.txt (`photo.jpg#0<tab>caption`). Photos in Images,
    Flicker8k_Dataset (the official spelling) or images. An id is a photo's file name.
    """
    split = choose_split("flickr8k", split, FLICKR8K)
    text = next(
        (folder for folder in (root, root / "Flickr8k_text") if (folder / _list_name(split)).is_file()), root
    )
    remedy = "it comes with Flickr8k_text.zip, put it there"
    listed = read_lines(text / _list_name(split), remedy)
    others = {
        other: {line for _, line in read_lines(text / _list_name(other))}
        for other in FLICKR8K
        if other != split and (text / _list_name(other)).is_file()
    }
    captions = _flickr8k_captions(root, text)
    base = first_folder(root, "Images", "images", "Flicker8k_Dataset", "Flickr8k_Dataset")
    photos = (Listed(name, PhotoFile(base / name), captions.get(name, []), where) for where, name in listed)
    return assemble(
        "flickr8k", split, photos, strictness, official=FLICKR8K[split], captions_each=5, other_splits=others
    )


def first_folder(root: Path, *names: str) -> Path:
    """The first of the named folders below root that is there, or else root itself."""
    return next((root / name for name in names if (root / name).is_dir()), root)


def _list_name(split: str) -> str:
    return f"Flickr_8k.{split}Images.txt"


def _flickr8k_captions(root: Path, text: Path) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = {}
    official = next(
        (path for path in (text / "Flickr8k.token.txt", root / "Flickr8k.token.txt") if path.is_file()), None
    )
    lines = _token_lines(official) if official else _csv_lines(root / "captions.txt")
    for name, caption in lines:
        captions.setdefault(name, []).append(caption)
    return captions


def _csv_lines(path: Path) -> Iterator[tuple[str, str]]:
    for _, (name, caption) in read_csv(
        path, ("image", "caption"), "put captions.txt or Flickr8k.token.txt there"
    ):
        yield name.strip(), caption


def _token_lines(path: Path) -> Iterator[tuple[str, str]]:
    for where, line in read_lines(path):
        match = _TOKEN_LINE.fullmatch(line)
        if match is None:
            raise InputError(f"{where} is not 'photo.jpg#0<tab>caption'; fetch the file again")
        yield match[1], match[2]
