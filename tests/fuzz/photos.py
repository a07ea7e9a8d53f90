"""Photos of the fifteen formats, in some of each one's variants: bytes, files and file objects."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clearcap.data import open_image, to_square
from clearcap.errors import InputError
from clearcap.pipeline import CaptionPipeline
from tests.fuzz import Kind
from tests.fuzz.mutating import Rng, mutated, pick, with_checksums
from tests.tiny_captioner import tiny_captioner

VARIANTS: dict[str, list[dict[str, Any]]] = {  # format -> how it is written; "mode" is the picture's
    "JPEG": [
        {},
        {"progressive": True},
        {"mode": "L"},
        {"mode": "CMYK"},
        {"exif": True},
        {"restart_marker_rows": 1, "subsampling": 0},
    ],
    "MPO": [{"frames": 2}],
    "PNG": [
        {},
        {"mode": "P"},
        {"mode": "LA"},
        {"mode": "RGBA"},
        {"mode": "1"},
        {"mode": "I;16"},
        {"frames": 3},
        {"exif": True},
    ],
    "GIF": [{"mode": "P"}, {"mode": "P", "frames": 3}, {"mode": "P", "transparency": 0}],
    "WEBP": [{}, {"lossless": True}, {"mode": "RGBA"}, {"frames": 3}, {"exif": True}],
    "BMP": [{}, {"mode": "P"}, {"mode": "1"}, {"mode": "RGBA"}],
    "TIFF": [
        {},
        {"compression": "tiff_lzw"},
        {"compression": "jpeg"},
        {"compression": "tiff_deflate"},
        {"compression": "packbits"},
        {"mode": "1", "compression": "group4"},
        {"mode": "I;16"},
        {"mode": "F"},
        {"frames": 2},
    ],
    "PPM": [{}, {"mode": "L"}, {"mode": "1"}, {"mode": "I;16"}],
    "JPEG2000": [{}, {"no_jp2": True}, {"mode": "RGBA"}, {"irreversible": True}],
    "AVIF": [{}, {"mode": "RGBA"}, {"frames": 2}],
    "ICO": [{}, {"bitmap_format": "bmp"}],
    "ICNS": [{}],
    "TGA": [{}, {"compression": "tga_rle"}],
    "PCX": [{"mode": "P"}],
    "DDS": [{"mode": "RGBA"}],
}
BATCH = 16


class Photos(Kind):
    """Each is opened alone; the pipeline captions them in batches, and must say of each what opening it said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.good = [(format, written(format, **how)) for format, all in VARIANTS.items() for how in all]
        self.by_format = {
            format: [data for one, data in self.good if one == format] for format, _ in self.good
        }
        captioner, tokenizer = tiny_captioner()
        self.pipeline = CaptionPipeline(captioner, tokenizer)
        self.waiting: list[tuple[Any, bool]] = []

    def case(self, rng: Rng) -> tuple[str, Callable[[], str]]:
        format = pick(rng, list(VARIANTS))
        others = self.by_format[format]
        about, data = mutated(rng, pick(rng, others), others)
        if format == "PNG" and rng.random() < 0.5:
            about, data = f"{about}, checksums right", with_checksums(data)
        source = self._source(rng, format, data)
        return f"{format} {about}, {len(data)} bytes, {type(source).__name__}", lambda: self._try(
            source, data
        )

    def _source(self, rng: Rng, format: str, data: bytes) -> Any:
        """The bytes, a file or a file object."""
        if rng.random() < 0.6:
            return data
        if rng.random() < 0.5:
            return io.BytesIO(data)
        path = self.folder / f"photo.{format.lower()}"
        path.write_bytes(data)
        return str(path)

    def _try(self, source: Any, data: bytes) -> str:
        size = self.pipeline.image_size
        try:
            square = to_square(open_image(source, at_least=size), size)
        except InputError:
            self._later(data, False)
            raise
        assert square.shape == (size, size, 3)
        self._later(data, True)
        return "captions"

    def _later(self, data: bytes, opens: bool) -> None:
        """Caption a batch once there is one."""
        self.waiting.append((data, opens))
        if len(self.waiting) < BATCH:
            return
        photos, opened = zip(*self.waiting, strict=True)
        self.waiting = []
        for result, good in zip(self.pipeline.stream(photos, batch_size=BATCH), opened, strict=True):
            assert isinstance(result, InputError) != good, f"opened alone: {good}; captioned: {result}"


def written(format: str, mode: str = "RGB", frames: int = 1, exif: bool = False, **options: Any) -> bytes:
    """A photo in a format."""
    pictures = [picture(mode, seed) for seed in range(frames)]
    if exif:
        pictures[0].getexif()[0x0112] = 6  # on its side
        pictures[0].getexif()[0x010E] = "a dog"
        options["exif"] = pictures[0].getexif()
    if frames > 1:
        options |= {"save_all": True, "append_images": pictures[1:]}
    data = io.BytesIO()
    pictures[0].save(data, format, **options)
    return data.getvalue()


def picture(mode: str, seed: int) -> Image.Image:
    """A smooth picture with an edge, 72 x 48 pixels."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8))
    made = small.resize((72, 48), Image.Resampling.BICUBIC)
    made.paste((200, 30, 60), (20, 10, 40, 30))
    if mode == "I;16":
        return Image.fromarray(np.asarray(made.convert("L")).astype(np.uint16) * 257)
    if mode == "RGBA":
        made.putalpha(made.getchannel(0))
    return made.convert(mode)
