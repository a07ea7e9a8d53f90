"""Many photos on the page: captioned one after another, edited in a table, and taken away as files."""

from __future__ import annotations

import base64
import csv
import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from clearcap.pipeline import CaptionPipeline, InputError


@dataclass(frozen=True)
class Row:
    """One photo of the table.

    Attributes:
        name: of its file.
        caption: as it stands; empty where the photo could not be read.
        confidence: mean probability of the words that the model wrote; None where it wrote none.
        fault: why there is no caption.
        thumbnail: a small JPEG as a data URI.
    """

    name: str
    caption: str
    confidence: float | None = None
    fault: str = ""
    thumbnail: str = ""


def caption_all(pipeline: CaptionPipeline, photos: Sequence[str], *, seed: int, **how: Any) -> Iterator[Row]:
    """A row of every photo, in order; one that cannot be read has its one line."""
    for photo, result in zip(photos, pipeline.stream(photos, batch_size=4, seed=seed, **how), strict=True):
        name = Path(photo).name
        if isinstance(result, InputError):
            yield Row(name, "", fault=" ".join(str(result).replace(photo, name).split()))
        else:
            yield Row(name, result.caption, result.confidence, thumbnail=thumbnail(photo))


def thumbnail(photo: str, side: int = 96) -> str:
    """A photo, small, as a data URI. Raises InputError."""
    from clearcap.pipeline.words import small

    data = io.BytesIO()
    small(photo, side).save(data, "JPEG", quality=75)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def table(rows: Sequence[Row]) -> str:
    """The table, each caption a field that can be written in."""
    lines = []
    for place, row in enumerate(rows):
        name = escape(row.name)
        if row.fault:
            lines.append(
                f'<tr class="cc-bad"><td></td><th scope="row">{name}</th><td>{escape(row.fault)}</td></tr>'
            )
            continue
        sure = "" if row.confidence is None else f"<small>{row.confidence:.0%} sure</small>"
        lines.append(
            f'<tr><td><img src="{row.thumbnail}" alt="{escape(row.caption)}"></td>'
            f'<th scope="row">{name}{sure}</th>'
            f'<td><textarea rows="2" data-row="{place}" aria-label="Caption of {name}">'
            f"{escape(row.caption)}</textarea></td></tr>"
        )
    head = '<thead><tr><th scope="col">Photo</th><th scope="col">File</th><th scope="col">Caption</th></tr></thead>'
    return f'<table class="cc-table">{head}<tbody>{"".join(lines)}</tbody></table>'


def progress(done: int, total: int, failed: int) -> str:
    """A bar, and in words how far it is."""
    bad = f", {failed} could not be read" if failed else ""
    told = f"{done} of {total} photos captioned{bad}"
    return (
        f'<progress max="{max(1, total)}" value="{done}" aria-label="Progress"></progress>'
        f'<p class="cc-note" role="status">{told}</p>'
    )


def downloads(rows: Sequence[Row], folder: Path) -> tuple[str, str, str]:
    """Write what there is as CSV, JSONL and a zip with one text file a photo; photos without a caption are left out.

    Args:
        rows: of the table.
        folder: that the files are written to.

    Returns:
        Their paths.
    """
    good = [row for row in rows if not row.fault]
    lines = io.StringIO()
    writer = csv.writer(lines)
    writer.writerow(("image", "caption", "confidence"))
    writer.writerows((row.name, row.caption, _rounded(row)) for row in good)
    (folder / "captions.csv").write_text(lines.getvalue(), encoding="utf-8", newline="")
    told = [{"image": row.name, "caption": row.caption, "confidence": _rounded(row)} for row in good]
    (folder / "captions.jsonl").write_text(
        "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in told), encoding="utf-8"
    )
    with zipfile.ZipFile(folder / "sidecars.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, caption in _sidecars(good):
            archive.writestr(name, caption + "\n")
    return str(folder / "captions.csv"), str(folder / "captions.jsonl"), str(folder / "sidecars.zip")


def _sidecars(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """Names and texts; photos that differ in their suffix alone keep it."""
    stems = [Path(row.name).stem for row in rows]
    used: set[str] = set()
    for row, stem in zip(rows, stems, strict=True):
        name = f"{stem if stems.count(stem) == 1 else row.name}.txt"
        count = 2
        while name in used:
            name, count = f"{row.name}-{count}.txt", count + 1
        used.add(name)
        yield name, row.caption


def _rounded(row: Row) -> float | None:
    return None if row.confidence is None else round(row.confidence, 4)
