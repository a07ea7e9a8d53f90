"""Packs what a machine elsewhere trains on: pack.py OUT SPEC... [--side 224] [--quality 50] [--megabytes 60]

Photos of corpora (NAME:ROOT:SPLIT; those of a SPLIT called dev or val are only watched) are squashed to squares of SIDE
pixels and compressed as WebP, about 7 kB each. OUT/part1.tar, OUT/part2.tar ... hold them and their captions, each
below MEGABYTES; unpacked into one folder they are a corpus, folder:THERE:train and folder:THERE:dev.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from PIL import Image

from clearcap.data.corpus import open_spec
from clearcap.data.images import to_square
from clearcap.data.records import CaptionedPhoto

WATCHED = ("dev", "val")


def squashed(task: tuple[CaptionedPhoto, int, int]) -> bytes:
    """A photo as WebP."""
    photo, side, quality = task
    stream = io.BytesIO()
    Image.fromarray(to_square(photo.image.open(), side)).save(stream, "WEBP", quality=quality, method=4)
    return stream.getvalue()


class Parts:
    """Archives of a limited size, the same bytes whenever they are made."""

    def __init__(self, folder: Path, most: int) -> None:
        """Args:
        folder: of the archives.
        most: bytes of each.
        """
        self.folder, self.most = folder, most
        self.number, self.room = 0, 0
        self.open = ExitStack()

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *raised: object) -> None:
        self.open.close()

    def add(self, name: str, content: bytes) -> None:
        """A file, in the part at hand or a new one."""
        taken = 512 + (len(content) + 511) // 512 * 512  # whole blocks
        if taken > self.room:
            self.open.close()
            self.number, self.room = self.number + 1, self.most - 10240  # the end of an archive
            archive = tarfile.open(self.folder / f"part{self.number}.tar", "w")  # noqa: SIM115 (the stack closes it)
            self.archive = self.open.enter_context(archive)
        self.room -= taken
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        self.archive.addfile(entry, io.BytesIO(content))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("specs", nargs="+")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--quality", type=int, default=50)
    parser.add_argument("--megabytes", type=float, default=60)
    asked = parser.parse_args()
    found = [
        ("dev" if spec.rsplit(":", 1)[-1] in WATCHED else "train", photo)
        for spec in asked.specs
        for photo in open_spec(spec, expected=None)
    ]
    asked.out.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[str]] = {"train": [], "dev": []}
    tasks = ((photo, asked.side, asked.quality) for _, photo in found)
    with ProcessPoolExecutor() as pool, Parts(asked.out, round(asked.megabytes * 1e6)) as parts:
        for (split, photo), content in zip(found, pool.map(squashed, tasks, chunksize=32), strict=True):
            name = f"{split}/{len(lines[split]):06}.webp"
            parts.add(name, content)
            lines[split].append(json.dumps({"file_name": name, "captions": list(photo.captions)}))
        for split, rows in lines.items():
            if rows:
                parts.add(f"captions_{split}.jsonl", ("\n".join(rows) + "\n").encode())
    print(f"{len(found)} photos in {parts.number} parts in {asked.out}")


if __name__ == "__main__":
    main()
