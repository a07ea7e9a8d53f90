"""A contact sheet: the photos captioned best and worst, with their captions, on one picture."""

from __future__ import annotations

import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from clearcap.data.images import to_square
from clearcap.data.records import Corpus
from clearcap.data.writing import whole_file
from clearcap.evaluation.run import Evaluation

COLUMNS, ROWS = 6, 2  # of each half
SIDE, GAP, TEXT = 264, 20, 96  # pixels: a photo's side, between photos, below photos
MARGIN, HEAD = 44, 64  # pixels: around the sheet, a heading
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
    shown = {heading: photos for heading, photos in groups.items() if photos}
    rows = {heading: -(-len(photos) // COLUMNS) for heading, photos in shown.items()}
    width = 2 * MARGIN + COLUMNS * (SIDE + GAP) - GAP
    height = 2 * MARGIN + 54 + len(shown) * HEAD + sum(rows.values()) * (SIDE + TEXT)
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    m = found.manifest
    scores = found.scored.scores
    title = f"{m['corpus']} {m['split']}: {m['photos']:,} photos, CIDEr-D {scores.corpus['CIDEr-D']:.3f}"
    pen.text((MARGIN, MARGIN - 8), title, INK, font(32, bold=True))
    captions = {one.photo: one.caption for one in found.captions}
    top = MARGIN + 54
    for heading, photos in shown.items():
        pen.text((MARGIN, top + 14), heading, SOFT, font(24))
        top += HEAD
        for place, photo in enumerate(photos):
            row, column = divmod(place, COLUMNS)
            x, y = MARGIN + column * (SIDE + GAP), top + row * (SIDE + TEXT)
            square = to_square(corpus[photo].image.open(at_least=SIDE), SIDE)
            sheet.paste(Image.fromarray(square), (x, y))
            _label(pen, x, y + SIDE, captions[photo], scores.per_caption["CIDEr-D"][photo])
        top += rows[heading] * (SIDE + TEXT)
    with whole_file(path) as fresh:
        sheet.save(fresh, optimize=True)


def _label(pen: ImageDraw.ImageDraw, left: int, bottom: int, caption: str, cider: float) -> None:
    """The caption below a photo, and its score in the photo's corner."""
    pen.rounded_rectangle((left + 8, bottom - 34, left + 74, bottom - 8), 8, PAPER)
    pen.text((left + 41, bottom - 21), f"{cider:.2f}", INK, font(16, bold=True), anchor="mm")
    text = textwrap.shorten(caption, LETTERS * LINES, placeholder=" …") or "(no word)"
    lines = "\n".join(textwrap.wrap(text, LETTERS)[:LINES])
    pen.multiline_text((left, bottom + 8), lines, INK, font(16), spacing=5)


def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font that matplotlib ships, so that a sheet looks the same on every machine."""
    from matplotlib import get_data_path

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / name), size)
