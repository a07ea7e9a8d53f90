"""The README's picture: three photos, what they show and what the bundled model says of them.

``python recipes/three.py OUT.jpg``. The photos are in the public domain (NOTICE).
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from clearcap import CaptionPipeline

ROOT = Path(__file__).resolve().parents[1]
SHOWN = {
    "docs/photos/cat.jpg": "a cat, close up",
    "src/clearcap/bench/photo.jpg": "a portrait of Admiral Grace Hopper",
    "docs/photos/rocket.jpg": "a rocket on its launch pad",
}
WIDE, HIGH, BELOW, GAP = 380, 300, 150, 20


def font(size: int, name: str = "DejaVu Sans") -> ImageFont.FreeTypeFont:
    """A font that matplotlib brings."""
    return ImageFont.truetype(font_manager.findfont(name), size)


def main(out: Path) -> None:
    """Caption the photos and draw them side by side."""
    matplotlib.use("agg")
    said = CaptionPipeline.from_pretrained()([ROOT / name for name in SHOWN])
    whole = Image.new("RGB", (3 * WIDE + 4 * GAP, HIGH + BELOW + 2 * GAP), "white")
    draw = ImageDraw.Draw(whole)
    for place, ((name, shows), result) in enumerate(zip(SHOWN.items(), said, strict=True)):
        photo = Image.open(ROOT / name).convert("RGB")
        scale = max(WIDE / photo.width, HIGH / photo.height)
        photo = photo.resize((round(photo.width * scale), round(photo.height * scale)))
        left, top = (photo.width - WIDE) // 2, (photo.height - HIGH) // 4
        x, y = GAP + place * (WIDE + GAP), GAP
        whole.paste(photo.crop((left, top, left + WIDE, top + HIGH)), (x, y))
        draw.text((x, y + HIGH + 10), f"shows: {shows}", fill="#555555", font=font(18))
        for line, words in enumerate(textwrap.wrap(f"“{result.caption}”", 34)):
            draw.text((x, y + HIGH + 42 + 28 * line), words, fill="#000000", font=font(20))
    whole.save(out, quality=88)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
