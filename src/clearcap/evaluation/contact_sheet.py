"""A contact sheet: the photos captioned best and worst, with their captions, on one picture."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from clearcap.data.images import to_square
from clearcap.data.records import Corpus
from clearcap.evaluation.run import Evaluation

COLUMNS, ROWS = 6, 2  # of each half
SIDE, GAP, TEXT, MARGIN, HEAD = (
    264,
    20,
    96,
    44,
    64,
)  # pixels: photo, between and below photos, around, headings
PAPER, INK, SOFT = "#ffffff", "#1a1a19", "#6b6a65"
LETTERS, LINES = 29, 3  # of a caption below its photo


def write_contact_sheet(found: Evaluation, corpus: Corpus, path: Path) -> None:
    """Write the photos with the highest CIDEr-D above those with the lowest.

    Args:
        found: from `evaluate`.
        corpus: the photos it captioned; they are squashed to squares, as the model sees them.
        path: of the picture, PNG.

    Raises:
        InputError: a photo cannot be read.
    """
    order = found.ranked()
    half = min(COLUMNS * ROWS, max(len(order) // 2, 1))  # no photo stands in both halves
    groups = {"Highest CIDEr-D": order[:half], "Lowest CIDEr-D": order[half:][::-1][:half]}
    shown = [photos for photos in groups.values() if photos]
    rows = sum(-(-len(photos) // COLUMNS) for photos in shown)
    width = 2 * MARGIN + COLUMNS * (SIDE + GAP) - GAP
    height = 2 * MARGIN + 54 + len(shown) * HEAD + rows * (SIDE + TEXT)
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    m = found.manifest
    cider = found.scored.scores.corpus["CIDEr-D"]
    title = f"{m['corpus']} {m['split']}: {m['photos']:,} photos, CIDEr-D {cider:.3f}"
    pen.text((MARGIN, MARGIN - 8), title, INK, font(32, bold=True))
    top = MARGIN + 54
    for heading, photos in groups.items():
        if not photos:
            continue
        pen.text((MARGIN, top + 14), heading, SOFT, font(24))
        top = _place(sheet, pen, found, corpus, photos, top + HEAD)
    sheet.save(path, optimize=True)


def _place(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    found: Evaluation,
    corpus: Corpus,
    photos: Sequence[str],
    top: int,
) -> int:
    """Put a group on the sheet; return where it ends."""
    captions = {one.photo: one.caption for one in found.captions}
    cider = found.scored.scores.per_caption["CIDEr-D"]
    for place, photo in enumerate(photos):
        row, column = divmod(place, COLUMNS)
        x, y = MARGIN + column * (SIDE + GAP), top + row * (SIDE + TEXT)
        square = to_square(corpus[photo].image.open(at_least=SIDE), SIDE)
        sheet.paste(Image.fromarray(square), (x, y))
        text = textwrap.shorten(captions[photo], LETTERS * LINES, placeholder=" …") or "(no word)"
        pen.rounded_rectangle((x + 8, y + SIDE - 34, x + 74, y + SIDE - 8), 8, PAPER)
        pen.text((x + 41, y + SIDE - 21), f"{cider[photo]:.2f}", INK, font(16, bold=True), anchor="mm")
        lines = "\n".join(textwrap.wrap(text, LETTERS)[:LINES])
        pen.multiline_text((x, y + SIDE + 8), lines, INK, font(16), spacing=5)
    return top + -(-len(photos) // COLUMNS) * (SIDE + TEXT)


def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font that matplotlib ships, so that a sheet looks the same on every machine."""
    from matplotlib import get_data_path

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / name), size)
