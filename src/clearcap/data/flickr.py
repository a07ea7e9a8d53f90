"""Flickr8k, Flickr30k and the two together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from clearcap.data.images import PhotoFile
from clearcap.data.karpathy import read_karpathy
from clearcap.data.reading import first_file, first_folder, read_csv, read_lines
from clearcap.data.records import (
    CaptionedPhoto,
    Corpus,
    CorpusReader,
    Listed,
    Strictness,
    choose_split,
    of_split,
    verified,
)
from clearcap.errors import InputError

SIZES_8K = {"train": 6_000, "dev": 1_000, "test": 1_000}  # Hodosh et al. 2013
SIZES_30K_KARPATHY = {"train": 29_000, "val": 1_014, "test": 1_000}
SIZES_30K = {"train": 29_783, "val": 1_000, "test": 1_000}  # Plummer et al. 2015
PHOTOS_30K = 31_783
COMBINED = ("test", "dev", "train")  # a photo that two splits claim belongs to the first of them
_TOKEN_LINE = re.compile(r"(.+)#\d+\t(.*)")
_RESULT_LINE = re.compile(r"([^|]+)\|\s*\d+\s*[|\s]\s*(.*)")  # one published line lacks its second bar


def read_flickr8k(root: Path, split: str, strictness: Strictness) -> Corpus:
    """Flickr8k (Hodosh et al. 2013), split by the official lists of photos: train, dev, test.

    Below root, or in Flickr8k_text below it: Flickr_8k.{train,dev,test}Images.txt, and the captions as
    captions.txt (`image,caption`) or Flickr8k.token.txt (`photo.jpg#0<tab>caption`); or dataset_flickr8k.json
    alone. Photos in Images, Flicker8k_Dataset (the official spelling) or images. An id is a file name.
    """
    split = choose_split("flickr8k", split, SIZES_8K)
    base = first_folder(root, "Images", "images", "Flicker8k_Dataset", "Flickr8k_Dataset")
    name = f"Flickr_8k.{split}Images.txt"
    text = (first_file(root / name, root / "Flickr8k_text" / name) or root / name).parent
    whole = root / "dataset_flickr8k.json"
    if whole.is_file() and not (text / name).is_file():
        listed, others = _karpathy_split(whole, base, "val" if split == "dev" else split)
    else:
        lists = {label: text / f"Flickr_8k.{label}Images.txt" for label in SIZES_8K}
        names = _names(lists, split, "it comes with Flickr8k_text.zip, put it there")
        listed, others = _named_split(names, base, _flickr8k_captions(root, text), split)
    return verified(
        "flickr8k", split, listed, strictness, official=SIZES_8K[split], captions_each=5, other_splits=others
    )


def read_flickr30k(root: Path, split: str, strictness: Strictness) -> Corpus:
    """Flickr30k (Young et al. 2014): train, val, test, and "all" where the captions are in results.csv.

    Below root: dataset_flickr30k.json (Karpathy's splits), or results.csv with lines of
    `image_name| comment_number| comment`, split by train.txt, val.txt and test.txt (photo names with or
    without .jpg, as Flickr30k Entities lists them). Photos in flickr30k_images, flickr30k-images, Images or
    images. An id is a photo's file name.
    """
    base = first_folder(
        root, "flickr30k_images/flickr30k_images", "flickr30k_images", "flickr30k-images", "Images", "images"
    )
    whole = root / "dataset_flickr30k.json"
    if whole.is_file():
        split = choose_split("flickr30k", split, SIZES_30K_KARPATHY)
        listed, others = _karpathy_split(whole, base, split)
        official = SIZES_30K_KARPATHY[split]
    else:
        split = choose_split("flickr30k", split, [*SIZES_30K, "all"])
        captions = _results(root)
        names = {"all": [("results.csv", name) for name in captions]}
        if split != "all":
            remedy = "results.csv has no splits: add train.txt, val.txt and test.txt, or ask for 'all'"
            names = _names({label: root / f"{label}.txt" for label in SIZES_30K}, split, remedy, ".jpg")
        listed, others = _named_split(names, base, captions, split)
        official = PHOTOS_30K if split == "all" else SIZES_30K[split]
    return verified(
        "flickr30k", split, listed, strictness, official=official, captions_each=5, other_splits=others
    )


def read_flickr30k_8k(
    root: Path,
    split: str,
    strictness: Strictness,
    *,
    flickr8k: str | Path | None = None,
    flickr30k: str | Path | None = None,
) -> Corpus:
    """Flickr30k and Flickr8k together, the training corpus of CLIP-Diffusion-LM: train, dev, test.

    Flickr30k took in photos of Flickr8k under other file names and split them anew, so joining the files
    would leak. Here a photo is known by its number at Flickr (what stands before "_" or "."), is listed once
    with all its captions, and belongs to test if either corpus tests on it, else to dev if either holds it
    out.

    Args:
        root: the folder with flickr8k and flickr30k below it.
        split: "train", "dev" or "test"; every split of both corpora must be there.
        strictness: what is expected (of each corpus, and, if a number, of the two together).
        flickr8k: the folder of Flickr8k, if it lies elsewhere.
        flickr30k: the folder of Flickr30k, if it lies elsewhere.
    """
    split = choose_split("flickr30k+8k", split, COMBINED)
    part = replace(strictness, expected=None if isinstance(strictness.expected, int) else strictness.expected)
    root8k, root30k = Path(flickr8k or root / "flickr8k"), Path(flickr30k or root / "flickr30k")
    photos: dict[str, list[CaptionedPhoto]] = {}
    splits: dict[str, str] = {}
    for label in COMBINED:
        as_asked = part if label == split else replace(part, missing="keep")
        corpora = (read_flickr8k(root8k, label, as_asked), read_flickr30k(root30k, label, as_asked))
        for photo in (photo for corpus in corpora for photo in corpus):
            number = re.split(r"[_.]", photo.id)[0]
            splits.setdefault(number, label)
            photos.setdefault(number, []).append(photo)
    listed = (
        Listed(copies[0].id, copies[0].image, _merged(copies), "the two lists")
        for number, copies in photos.items()
        if splits[number] == split
    )
    return verified("flickr30k+8k", split, listed, strictness)


def _merged(copies: list[CaptionedPhoto]) -> list[str]:
    """The captions of all copies, each once whatever its case and spacing."""
    captions = {"".join(caption.lower().split()): caption for copy in copies for caption in copy.captions}
    return list(captions.values())


def _karpathy_split(path: Path, base: Path, split: str) -> tuple[list[Listed], dict[str, set[str]]]:
    listed = read_karpathy(path, lambda _, file_name: base / file_name, lambda _, file_name: file_name)
    return of_split(listed, split)


def _names(
    lists: dict[str, Path], split: str, remedy: str, suffix: str = ""
) -> dict[str, list[tuple[str, str]]]:
    """Where they stand and the names of the photos, with their suffix, of the split and of the lists there are."""
    return {
        label: [(where, name.removesuffix(suffix) + suffix) for where, name in read_lines(path, remedy)]
        for label, path in lists.items()
        if label == split or path.is_file()
    }


def _named_split(
    names: dict[str, list[tuple[str, str]]], base: Path, captions: dict[str, list[str]], split: str
) -> tuple[list[Listed], dict[str, set[str]]]:
    listed = (
        (label, Listed(name, PhotoFile(base / name), captions.get(name, []), where))
        for label, lines in names.items()
        for where, name in lines
    )
    return of_split(listed, split)


def _flickr8k_captions(root: Path, text: Path) -> dict[str, list[str]]:
    official = first_file(text / "Flickr8k.token.txt", root / "Flickr8k.token.txt")
    if official is not None:
        return _grouped(_matched(read_lines(official), _TOKEN_LINE, "photo.jpg#0<tab>caption"))
    table = root / "captions.txt"
    rows = read_csv(table, ("image", "caption"), "put captions.txt or Flickr8k.token.txt there")
    return _grouped((name.strip(), caption) for _, (name, caption) in rows)


def _grouped(lines: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = {}
    for name, caption in lines:
        captions.setdefault(name, []).append(caption)
    return captions


def _matched(lines: list[tuple[str, str]], pattern: re.Pattern[str], shape: str) -> Iterator[tuple[str, str]]:
    """Photo and caption of each line."""
    for where, line in lines:
        match = pattern.fullmatch(line)
        if match is None:
            raise InputError(f"{where} is not {shape!r}; fetch the file again")
        yield match[1].strip(), match[2]


def _results(root: Path) -> dict[str, list[str]]:
    path = first_file(root / "results.csv", root / "flickr30k_images/results.csv")
    if path is None:
        raise InputError(f"{root} has neither dataset_flickr30k.json nor results.csv; put one of them there")
    return _grouped(_matched(read_lines(path)[1:], _RESULT_LINE, "photo.jpg| 0| caption"))


FLICKR8K = CorpusReader(read_flickr8k, ("train", "dev", "test"))
FLICKR30K = CorpusReader(read_flickr30k, ("train", "val", "test"))
FLICKR30K_8K = CorpusReader(read_flickr30k_8k, ("train", "dev", "test"))
