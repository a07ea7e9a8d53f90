"""Whatever a user calls a photo, as an upright RGB image or a square array."""

from __future__ import annotations

import ctypes
import io
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from clearcap.data.fetch import clipped, fetch
from clearcap.errors import InputError

# What `open_image` lists. `Any` because naming the tensor would import torch, and because anything else must end in
# an InputError that says what is accepted.
ImageSource: TypeAlias = Any

Stream: TypeAlias = io.BytesIO | io.BufferedReader

# Only formats decoded inside Pillow: its EPS reader starts Ghostscript on whatever the file says.
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO")

AT_HAND = (b"\xff\xd8\xff", b"\x89PNG")  # JPEG and PNG, which need none of Pillow's other readers

CHANNELS = (1, 3, 4)
MAX_PIXELS = 178_956_970  # Pillow itself refuses more (twice its MAX_IMAGE_PIXELS)

# Camera's own files, many of which are TIFFs to Pillow: it would give their thumbnail.
RAW_SUFFIXES = frozenset(
    {".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos"}
    | {".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"}
)


@runtime_checkable
class Readable(Protocol):
    """A file object: an open file, ``io.BytesIO``, an upload."""

    def read(self) -> Any:
        """The rest of its bytes."""


class PhotoSource(ABC):
    """A photo that is opened when needed: a file, a member of a shard, a row of a table."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What error messages call the photo."""

    @abstractmethod
    def stream(self) -> Stream:
        """The encoded photo, to be closed by the caller. Raises InputError where it cannot be read."""

    def open(self, *, at_least: int | None = None) -> Image.Image:
        """The photo, upright and RGB; arguments and errors as `open_image`."""
        return open_image(self, at_least=at_least)

    def size(self) -> tuple[int, int]:
        """Width and height in pixels as stored, from the header alone. Raises InputError."""
        with self.stream() as stream:
            return _identify(stream, self.name).size


@dataclass(frozen=True)
class PhotoFile(PhotoSource):
    """A photo in a file of its own."""

    path: Path

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    def __fspath__(self) -> str:
        return str(self.path)

    def stream(self) -> Stream:
        """The open file. Raises InputError where there is none or it cannot be read."""
        try:
            return open(self.path, "rb")
        except FileNotFoundError as error:
            raise InputError(f"{_one_line(self.name)}: no such file; check the path") from error
        except IsADirectoryError as error:
            raise InputError(f"{_one_line(self.name)} is a folder, not a photo; name a file in it") from error
        except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
            raise InputError(
                f"{_one_line(self.name)} cannot be read ({_fault(error)}); check the path"
            ) from error


@dataclass(frozen=True)
class PhotoBytes(PhotoSource):
    """A photo whose encoded bytes are at hand."""

    data: bytes
    name: str = "the image bytes"

    def stream(self) -> Stream:
        """The bytes as a stream."""
        return io.BytesIO(self.data)


def is_many(images: Any) -> bool:
    """Whether what a caller hands over is several photos: a list, a generator, a batch; not one photo of any kind."""
    if isinstance(images, np.ndarray) and images.ndim == 1:
        return images.dtype.kind in "OU"  # a column of paths
    if isinstance(images, np.ndarray) or _is_tensor(images):
        return _is_batch(images)
    single = (str, bytes, bytearray, memoryview, os.PathLike, Mapping, Image.Image, PhotoSource, Readable)
    return isinstance(images, Iterable) and not isinstance(images, single)


def each_photo(images: Any) -> Iterator[ImageSource]:
    """The photos of what `is_many` says holds several, batches of arrays and tensors unstacked; or the one given."""
    if not is_many(images):
        yield images
        return
    for image in images:
        yield from image if _is_batch(image) else [image]


def is_url(text: str) -> bool:
    """Whether `text` is written as a URL (any scheme) rather than as a path."""
    return "://" in text or text[:5].lower() in ("data:", "file:")


def open_image(
    source: ImageSource,
    *,
    name: str | None = None,
    at_least: int | None = None,
    max_pixels: int = MAX_PIXELS,
    timeout: float = 20.0,
) -> Image.Image:
    """The photo behind `source`: upright (EXIF), RGB, alpha laid on white, first frame of an animation.

    Args:
        source: a path, a URL (http, https, file, data, or one that fsspec knows), the bytes of an image file or a
            file object with them, a PIL image, a `PhotoSource`, a row of a Hugging Face data set (``{"bytes": ...,
            "path": ...}``), a NumPy array (height x width, or x 1, 3 or 4 channels, also channels first; uint8,
            uint16, bool, or float in 0..1) or a torch tensor (the same; where both could be meant, an array has its
            channels last and a tensor first).
        name: what error messages call the photo; by default the path or URL.
        at_least: pixels per side that are enough. A JPEG much larger is then decoded at 1/2, 1/4 or 1/8 of
            its size, no side below twice this number: faster, and after `to_square` nearly the same.
        max_pixels: larger images are refused before they are decoded.
        timeout: seconds a URL may take.

    Raises:
        InputError: missing, empty, truncated, too large, or not an image; one line with the remedy.
    """
    if isinstance(source, Mapping):
        source = _of_row(source, name or "the row")
    if isinstance(source, str) and is_url(source):
        source = PhotoBytes(fetch(source, timeout=timeout), source)
    elif isinstance(source, (str, os.PathLike)):
        if not os.fspath(source):
            raise InputError("'' is not a path; name a photo or a URL")
        source = PhotoFile(Path(os.fspath(source)))
    elif isinstance(source, (bytes, bytearray, memoryview)):
        source = PhotoBytes(bytes(source))
    if isinstance(source, PhotoSource):
        with source.stream() as stream:
            return _decode(stream, name or source.name, at_least, max_pixels)
    if isinstance(source, Image.Image):
        return _finish(source, name or getattr(source, "filename", "") or "the PIL image", max_pixels)
    if isinstance(source, np.ndarray):
        return _from_array(source, name or "the array", max_pixels)
    if _is_tensor(source):
        return _from_array(_as_array(source, name or "the tensor"), name or "the tensor", max_pixels)
    if isinstance(source, Readable):
        return open_image(_of_file(source, name), at_least=at_least, max_pixels=max_pixels)
    raise InputError(
        f"{name or 'the image'} is of type {type(source).__name__}; "
        "pass a path, URL, bytes, file object, PIL image, NumPy array or torch tensor"
    )


def _is_batch(images: Any) -> bool:
    return (isinstance(images, np.ndarray) or _is_tensor(images)) and images.ndim == 4


def _is_tensor(source: Any) -> bool:
    torch = sys.modules.get("torch")  # a tensor exists only where torch is imported already
    return torch is not None and isinstance(source, torch.Tensor)


def _of_row(row: Mapping[Any, Any], name: str) -> PhotoBytes | str | os.PathLike[str]:
    """The photo of a Hugging Face data set's row ``{"bytes": ..., "path": ...}``, one of which may be None."""
    data, path = row.get("bytes"), row.get("path")
    if isinstance(data, (bytes, bytearray, memoryview)):
        return PhotoBytes(bytes(data), str(path or name))
    if isinstance(path, (str, os.PathLike)):
        return path
    raise InputError(
        f"{name} is a mapping of {_one_line(', '.join(map(str, row))) or 'nothing'}; pass the photo itself, or "
        "{'bytes': ..., 'path': ...}"
    )


def _of_file(file: Readable, name: str | None) -> PhotoBytes:
    """All that a file object holds, from its beginning where it can go back."""
    given = getattr(file, "name", None)
    name = name or (given if isinstance(given, str) else "the file object")
    try:
        if isinstance(file, io.IOBase) and file.seekable():
            file.seek(0)
        data = file.read()
    except Exception as error:  # whatever somebody's file object raises
        raise InputError(
            f"{_one_line(name)} cannot be read ({_fault(error)}); pass it open, or its bytes"
        ) from error
    if not isinstance(data, bytes):
        raise InputError(
            f"{_one_line(name)} reads as {type(data).__name__}, not bytes; open it with mode 'rb', or pass its bytes"
        )
    return PhotoBytes(data, name)


def to_square(image: Image.Image, size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """The whole image squashed to `size` x `size` (bicubic, antialiased), never cropped.

    That is LaDiC's own preprocessing: the aspect ratio is lost, the edges of the photo are not.
    """
    rgb = image if image.mode == "RGB" else _to_rgb(image)
    if rgb.size != (size, size):
        rgb = rgb.resize((size, size), Image.Resampling.BICUBIC)
    return np.array(rgb, dtype=np.uint8)


def _decode(stream: Stream, name: str, at_least: int | None, max_pixels: int) -> Image.Image:
    image = _identify(stream, name)
    _check_pixels(image.size, name, max_pixels)
    if at_least is not None and image.format in ("JPEG", "MPO"):
        image.draft(
            None, (2 * at_least, 2 * at_least)
        )  # JPEG's own down-scaling; never below the size asked for
    return _finish(image, name, max_pixels)


def _identify(stream: Stream, name: str) -> Image.Image:
    """The image with its header read and its pixels not yet."""
    if Path(name).suffix.lower() in RAW_SUFFIXES:
        raise InputError(
            f"{_one_line(name)} is a camera's raw file, which is not read; develop it to JPEG or PNG"
        )
    try:
        head = stream.read(12)
        stream.seek(0)
        if head.startswith(AT_HAND):
            Image.preinit()
        else:
            _prepare()  # WebP, TIFF and the rest
        iso = head[4:8] == b"ftyp"  # HEIC, AVIF and their sequences
        known = [format for format in FORMATS if format in Image.OPEN]
        return Image.open(stream, formats=[*known, *_heif()] if iso else known)
    except Image.UnidentifiedImageError as error:
        if not head:
            raise InputError(f"{_one_line(name)} is empty (0 bytes); fetch the photo again") from error
        heif = "pip install 'clearcap[heif]' if it is HEIC, or " if iso and not _heif() else ""
        raise InputError(
            f"{_one_line(name)} is not an image in a known format (JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF); "
            f"{heif}convert it to JPEG or PNG"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{_one_line(name)} is too large ({_fault(error)}); scale it down first") from error
    except Exception as error:
        raise _damaged(name, error) from error


@cache
def _prepare() -> None:
    """Have Pillow's formats register themselves, and libtiff keep to itself what it finds in a damaged file.

    It writes on standard error by itself, without the photo's name; Pillow raises what matters.
    """
    Image.init()
    with suppress(OSError, AttributeError):  # a Pillow that is built otherwise
        library = ctypes.CDLL(Image.core.__file__)
        for kind in ("Error", "Warning"):
            getattr(library, f"TIFFSet{kind}Handler")(None)


@cache
def _heif() -> tuple[str, ...]:
    """The formats that pillow-heif adds, where it is installed."""
    try:
        import pillow_heif
    except ImportError:
        return ()
    pillow_heif.register_heif_opener()
    return ("HEIF",)


def _finish(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    _check_pixels(image.size, name, max_pixels)
    try:
        image.load()
        return _to_rgb(_upright(image))
    except Exception as error:  # a decoder, ours or a plug-in's, may raise anything
        raise _damaged(name, error) from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image  # a broken EXIF block says nothing about the pixels, which are whole


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.mode in ("La", "RGBa"):  # premultiplied
        image = image.convert(image.mode.upper())
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _eight_bits(grey: np.ndarray) -> np.ndarray:
    """Grey levels of Pillow's wide modes as uint8: scaled, where Pillow's own `convert` clips to white.

    A 16-bit array counts to 65,535 by its type. Modes I and F do not say what white is: the smallest of 1
    (F only), 255 and 65,535 that holds the brightest pixel, or else that pixel. What is no number is black.
    """
    if grey.dtype.itemsize == 2:
        return _from_uint16(grey)
    levels = np.where(np.isfinite(grey), grey, 0).astype(np.float64)
    top = float(levels.max())
    whites = [1.0, 255.0, 65535.0] if grey.dtype.kind == "f" else [255.0, 65535.0]
    white = next((white for white in whites if top <= white), top)
    return np.rint(np.clip(levels / white, 0.0, 1.0) * 255.0).astype(np.uint8)


def _from_uint16(array: np.ndarray) -> np.ndarray:
    return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65,535 / 255 = 257


def _from_array(array: np.ndarray, name: str, max_pixels: int) -> Image.Image:
    if array.ndim == 3 and array.shape[2] not in CHANNELS and array.shape[0] in CHANNELS:
        array = array.transpose(1, 2, 0)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in CHANNELS):
        raise InputError(
            f"{name} has shape {tuple(array.shape)}; pass one image of height x width, with 1, 3 or 4 channels "
            "last or first"
        )
    if 0 in array.shape:
        raise InputError(f"{name} has shape {tuple(array.shape)} and holds no pixel; pass a whole image")
    _check_pixels((array.shape[1], array.shape[0]), name, max_pixels)
    levels = _array_levels(array, name)
    if levels.ndim == 3 and levels.shape[2] == 1:
        levels = levels[:, :, 0]
    return _to_rgb(Image.fromarray(np.ascontiguousarray(levels)))


def _array_levels(array: np.ndarray, name: str) -> np.ndarray:
    """The array as uint8 levels 0..255, judged by its type, never by its content."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return _from_uint16(array)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= -1e-3 and high <= 1 + 1e-3):  # the slack is rounding; NaN fails too
            raise InputError(
                f"{name} is {array.dtype} with values {low:g} to {high:g}; floats must lie in 0..1, "
                "so undo the normalisation or divide by 255"
            )
        return np.rint(np.clip(array.astype(np.float64), 0.0, 1.0) * 255.0).astype(np.uint8)
    if array.dtype.kind in "iu":
        low, high = int(array.min()), int(array.max())
        if low < 0 or high > 255:
            raise InputError(
                f"{name} is {array.dtype} with values {low} to {high}; "
                "integers must lie in 0..255, or be uint16 for 16-bit levels"
            )
        return array.astype(np.uint8)
    raise InputError(f"{name} has dtype {array.dtype}; pass uint8, uint16, bool or float in 0..1")


def _as_array(tensor: Any, name: str) -> np.ndarray:
    """A torch tensor, channels first where it can be read so, as an array with them last."""
    if tensor.ndim == 3 and tensor.shape[0] in CHANNELS:
        tensor = tensor.permute(1, 2, 0)
    try:
        tensor = tensor.detach().cpu()
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()  # NumPy has no bfloat16
    except Exception as error:  # sparse ones, those of the meta device ...
        raise InputError(
            f"{_one_line(name)} gives no array ({_fault(error)}); pass a dense tensor"
        ) from error


def _check_pixels(size: tuple[int, int], name: str, max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise InputError(f"{_one_line(name)} is {width} x {height} and holds no pixel; pass a whole image")
    if width * height > max_pixels:
        raise InputError(
            f"{_one_line(name)} is {width} x {height}, over the limit of {max_pixels:,} pixels; "
            "scale it down first"
        )


def _damaged(name: str, error: Exception) -> InputError:
    """The error of a photo whose pixels cannot be had, by what was raised."""
    shown, fault = _one_line(name), _fault(error)
    if isinstance(error, MemoryError):
        return InputError(f"{shown} needs more memory than there is; scale it down first")
    if isinstance(error, ValueError) and "closed" in fault.lower():
        return InputError(f"{shown} was closed before its pixels were read; load it first, or pass its path")
    return InputError(f"{shown} is cut short or damaged ({fault}); fetch the photo again")


def _fault(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return _one_line(reason) or type(error).__name__


def _one_line(text: str) -> str:
    return clipped(" ".join(text.split()))
