"""nocaps: novel objects, ten captions a photo."""

from __future__ import annotations

from pathlib import Path

from clearcap.data.annotations import read_annotations
from clearcap.data.images import PhotoFile
from clearcap.data.reading import first_file, first_folder, member
from clearcap.data.records import Corpus, CorpusReader, Listed, Strictness, choose_split, verified
from clearcap.errors import InputError

SIZES = {"val": 4_500, "test": 10_600}  # Agrawal et al. 2019
DOMAINS = ("in-domain", "near-domain", "out-domain")
FILES = {"val": "nocaps_val_4500_captions.json", "test": "nocaps_test_image_info.json"}


def read_nocaps(root: Path, split: str, strictness: Strictness, *, domain: str | None = None) -> Corpus:
    """nocaps (Agrawal et al. 2019): val with ten captions a photo, test without captions.

    Annotations in nocaps_val_4500_captions.json and nocaps_test_image_info.json, below root or annotations;
    photos in val and test, images, or root. An id is the number submissions use.

    Args:
        root: the folder.
        split: "val" or "test".
        strictness: what is expected and where problems go.
        domain: only photos marked "in-domain", "near-domain" or "out-domain".

    Raises:
        InputError: there is no such split or domain, or ``strictness`` refuses the annotations.
    """
    split = choose_split("nocaps", split, SIZES)
    if domain is not None and domain not in DOMAINS:
        raise InputError(f"nocaps has no domain {domain!r}; choose among {', '.join(DOMAINS)}")
    path = first_file(root / FILES[split]) or root / "annotations" / FILES[split]
    captioned = split == "val"
    annotations = read_annotations(path, strictness.report, captioned=captioned)
    base = first_folder(root, split, f"images/{split}", "images")
    listed = [
        Listed(id, PhotoFile(base / file_name), captions, where)
        for (where, id, file_name, captions), image in zip(annotations, annotations.images, strict=True)
        if domain is None or member(image, "domain", str, where) == domain
    ]
    return verified(
        "nocaps",
        split,
        listed,
        strictness,
        official=SIZES[split] if domain is None else None,
        captions_each=10 if captioned else None,
        captioned=captioned,
    )


NOCAPS = CorpusReader(read_nocaps, ("val",))  # test is published without captions
