"""Corpora in their public layouts, written for each test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from layouts import five, write_json, write_photos


@pytest.fixture
def flickr8k(tmp_path: Path) -> Path:
    """Flickr8k in the CSV layout: 4 photos to train on, 2 dev, 2 test, 1 in no split."""
    root = tmp_path / "flickr8k"
    splits = {"train": "abcd", "dev": "ef", "test": "gh"}
    names = [f"{ord(letter)}_{letter}.jpg" for letter in "abcdefghi"]
    write_photos(root / "Images", names)
    rows = [f'{name},"{caption} , with a comma"' for name in names for caption in five(name)]
    (root / "captions.txt").write_text("image,caption\n" + "\n".join(rows) + "\n")
    for split, letters in splits.items():
        lines = "".join(f"{ord(letter)}_{letter}.jpg\n" for letter in letters)
        (root / f"Flickr_8k.{split}Images.txt").write_text(lines)
    return root


@pytest.fixture
def karpathy() -> Callable[[Path, str, dict[str, str]], None]:
    """Writes a file in Karpathy's layout from file names and their splits."""

    def write(path: Path, dataset: str, splits: dict[str, str]) -> None:
        images = []
        for number, (name, split) in enumerate(splits.items()):
            folder, _, file_name = name.rpartition("/")
            image: dict[str, Any] = {
                "filename": file_name,
                "imgid": number,
                "split": split,
                "sentids": list(range(5 * number, 5 * number + 5)),
                "sentences": [
                    {"raw": caption, "tokens": caption.split(), "imgid": number, "sentid": 5 * number + n}
                    for n, caption in enumerate(five(file_name))
                ],
            }
            if folder:
                image |= {"filepath": folder, "cocoid": int(file_name[-16:-4])}
            images.append(image)
        write_json(path, {"images": images, "dataset": dataset})

    return write
