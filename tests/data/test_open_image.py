"""Every kind of photo a user may hand in, against NumPy's and Pillow's own arithmetic."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from layouts import encoded, photo
from PIL import Image

from clearcap.data.images import PhotoFile, open_image, to_square
from clearcap.errors import InputError

NOISE = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def png(width: int, height: int, depth: int, color_type: int, rows: bytes) -> bytes:
    """A PNG written by hand: Pillow cannot write 16-bit colour, or a header that lies."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM"])
def test_a_lossless_file_gives_its_pixels(tmp_path: Path, format: str) -> None:
    path = tmp_path / "photo.file"
    path.write_bytes(encoded(Image.fromarray(NOISE), format))
    for source in (path, str(path), path.read_bytes(), PhotoFile(path), Image.open(path), NOISE):
        image = open_image(source)
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), NOISE)
    assert PhotoFile(path).size() == (7, 5)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_laid_on_white(format: str) -> None:
    alpha = np.arange(35, dtype=np.uint8).reshape(5, 7, 1) * 7
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    rgba = Image.fromarray(np.concatenate([NOISE, alpha], axis=2))
    expected = NOISE * (alpha / 255) + 255 * (1 - alpha / 255)
    found = np.asarray(open_image(encoded(rgba, format, **options)), dtype=float)
    assert np.abs(found - expected).max() <= 1  # rounding


def test_grey_with_alpha_and_a_transparent_palette_are_laid_on_white() -> None:
    grey = Image.new("LA", (2, 1), (0, 255))
    grey.putpixel((1, 0), (0, 0))
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    assert np.asarray(open_image(encoded(grey, "PNG"))).tolist() == [[[0, 0, 0], [255, 255, 255]]]
    for format in ("PNG", "GIF"):
        found = np.asarray(open_image(encoded(palette, format, transparency=1)))
        assert found.tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_cmyk_jpeg_keeps_its_colours() -> None:
    rgb = photo(3, 64, 48)
    for quality in (95, 100):
        found = open_image(encoded(rgb.convert("CMYK"), "JPEG", quality=quality))
        assert (
            np.abs(np.asarray(found, dtype=float) - np.asarray(rgb)).mean() < 3
        )  # an inverted one is off by 100


UPRIGHT = {  # how a camera held that way stores the photo, so that the viewer can undo it
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(orientation: int) -> None:
    stored = Image.fromarray(np.ascontiguousarray(UPRIGHT[orientation](NOISE)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(np.asarray(open_image(encoded(stored, "PNG", exif=exif))), NOISE)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_broken_exif_block_does_not_lose_the_photo() -> None:
    data = encoded(photo(0), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\x07" * 20)
    assert open_image(data).size == (24, 16)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    levels = np.arange(0, 65536, 331, dtype=np.uint16)[None]
    expected = np.rint(levels / 257)
    wide = Image.fromarray(levels)
    assert wide.mode == "I;16"
    for source in (encoded(wide, "PNG"), encoded(wide, "TIFF"), wide, levels, wide.convert("I")):
        found = np.asarray(open_image(source))
        np.testing.assert_array_equal(found[:, :, 0], expected)


def test_sixteen_bit_colour() -> None:
    rows = b"\0" + struct.pack(">6H", 0, 65535, 32896, 1, 256, 65280)
    found = np.asarray(open_image(png(2, 1, 16, 2, rows)), dtype=int)
    assert np.abs(found - [[[0, 255, 128], [0, 1, 254]]]).max() <= 1


def test_float_and_integer_modes_of_pillow() -> None:
    unit = Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32))
    byte = Image.fromarray(np.array([[0, 100, 255]], dtype=np.int32))
    assert np.asarray(open_image(unit))[0, :, 0].tolist() == [0, 128, 255]
    assert np.asarray(open_image(byte))[0, :, 0].tolist() == [0, 100, 255]


@pytest.mark.parametrize("mode", ["1", "L", "P", "YCbCr", "HSV", "RGBX"])
def test_any_mode_becomes_rgb(mode: str) -> None:
    white = open_image(Image.new("RGB", (3, 2), "white").convert(mode))
    assert np.asarray(white).tolist() == [[[255] * 3] * 3] * 2


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_its_first_frame(format: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "green")]
    data = encoded(
        frames[0],
        format,
        save_all=True,
        append_images=frames[1:],
        **({"lossless": True} if format == "WEBP" else {}),
    )
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert np.asarray(open_image(data))[4, 4].tolist() == [255, 0, 0]


def test_a_pil_image_given_is_left_as_it_was() -> None:
    given_image = Image.fromarray(NOISE)
    opened = open_image(given_image)
    opened.putpixel((0, 0), (1, 2, 3))
    np.testing.assert_array_equal(np.asarray(given_image), NOISE)


def test_arrays_and_tensors() -> None:
    floats = NOISE / 255
    channels_first = torch.from_numpy(NOISE).permute(2, 0, 1)
    opaque = np.concatenate([NOISE, np.full((5, 7, 1), 255, np.uint8)], axis=2)
    same = [floats, floats.astype(np.float32), NOISE.astype(np.int64), NOISE.astype(np.uint16) * 257, opaque]
    same += [channels_first, channels_first / 255, (channels_first / 255).double().requires_grad_()]
    for source in same:
        np.testing.assert_array_equal(np.asarray(open_image(source)), NOISE)
    grey = NOISE[:, :, 0]
    for source in (
        grey,
        grey[:, :, None],
        torch.from_numpy(grey.copy()),
        torch.from_numpy(grey.copy())[None],
    ):
        np.testing.assert_array_equal(np.asarray(open_image(source)), np.repeat(grey[:, :, None], 3, axis=2))
    assert np.asarray(open_image(np.array([[True, False]])))[0, :, 0].tolist() == [255, 0]
    bf16 = np.asarray(open_image((channels_first / 255).bfloat16()), dtype=int)
    assert np.abs(bf16 - NOISE).max() <= 1  # eight bits of mantissa


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        (np.zeros((2, 5, 7), np.uint8), r"the array has shape \(2, 5, 7\)"),
        (np.zeros((0, 7, 3), np.uint8), "holds no pixel"),
        (np.full((2, 2), 1.5), "floats must lie in 0..1"),
        (np.full((2, 2), np.nan), "floats must lie in 0..1"),
        (np.full((2, 2), -3), "integers must lie in 0..255"),
        (np.array([["a"]]), "dtype"),
        (torch.zeros(1, 3, 4, 4), r"the tensor has shape \(1, 3, 4, 4\)"),
        (torch.zeros(5, 7, 2), "channels last or first"),
        (Image.new("RGB", (0, 4)), "holds no pixel"),
        (None, "the image is of type NoneType"),
        (b"", r"the image bytes is empty \(0 bytes\)"),
        ("gopher://example.org/a.jpg", "gopher://example.org/a.jpg cannot be fetched"),
        ("file:///etc/passwd", "not an image in a known format"),
        ("", "'' is not a path"),
    ],
)
def test_what_is_no_image_is_one_sentence(source: object, fault: str) -> None:
    with pytest.raises(InputError, match=fault) as caught:
        open_image(source)
    assert "\n" not in str(caught.value)


def bad_files() -> dict[str, tuple[bytes, str]]:
    jpeg = encoded(photo(1, 200, 150), "JPEG", quality=95)
    return {
        "text.jpg": (b"this is no photo\n" * 40, "not an image in a known format"),
        "page.png": (b"<!DOCTYPE html><title>404</title>", "not an image in a known format"),
        "drawing.jpg": (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n",
            "not an image in a known format",
        ),
        "empty.jpg": (b"", "is empty"),
        "short.jpg": (jpeg[: len(jpeg) // 2], "cut short or damaged"),
        "short.png": (encoded(photo(1, 99, 99), "PNG")[:400], "cut short or damaged"),
        "short.gif": (encoded(photo(1, 99, 99), "GIF")[:900], "cut short or damaged"),
        "short.webp": (encoded(photo(1, 99, 99), "WEBP")[:200], "cut short or damaged|not an image"),
        "bomb.png": (png(60_000, 60_000, 8, 2, b"\0" * 99), "too large|over the limit"),
        "nothing.png": (png(0, 10, 8, 2, b""), "damaged|no pixel|not an image"),
    }


@pytest.mark.parametrize("name", bad_files())
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bad_file_is_one_sentence_that_names_it(tmp_path: Path, name: str) -> None:
    content, fault = bad_files()[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=fault) as caught:
        open_image(tmp_path / name)
    message = str(caught.value)
    assert name in message
    assert "\n" not in message
    assert ";" in message  # the remedy


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.jpg: no such file; check the path"):
        open_image(tmp_path / "no.jpg")
    with pytest.raises(InputError, match="is a folder"):
        open_image(str(tmp_path))
    with pytest.raises(InputError, match="cannot be read"):
        open_image("a\0b.jpg")


def test_the_pixel_limit_is_an_argument(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    photo(0, 40, 30).save(path)
    assert open_image(path, max_pixels=1200).size == (40, 30)
    with pytest.raises(InputError, match=r"40 x 30, over the limit of 1,199 pixels"):
        open_image(path, max_pixels=1199)


WHOLE = [
    encoded(photo(7, 40, 30), format)
    for format in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000")
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(WHOLE),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=6),
    st.integers(0, 10_000),
)
@example(WHOLE[0], [], 0)
@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_give_an_image_or_an_input_error(
    data: bytes, flips: list[tuple[int, int]], length: int
) -> None:
    damaged = bytearray(data)
    for position, value in flips:
        damaged[position % len(damaged)] = value
    with suppress(InputError):  # anything else fails the test
        assert open_image(bytes(damaged[: max(1, length)]), max_pixels=10**6).mode == "RGB"


def test_to_square_shows_the_whole_photo() -> None:
    image = Image.new("RGB", (60, 20), "white")
    image.paste("red", (0, 0, 6, 20))
    image.paste("blue", (54, 0, 60, 20))
    square = to_square(image, 20)
    assert square.shape == (20, 20, 3)
    assert square.dtype == np.uint8
    assert (square[:, 0] == [255, 0, 0]).all()  # a crop would have lost both margins
    assert (square[:, -1] == [0, 0, 255]).all()


def test_to_square_is_torchs_antialiased_bicubic() -> None:
    image = photo(5, 90, 61)
    planes = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(
        planes, (32, 32), mode="bicubic", antialias=True, align_corners=False
    )
    found = to_square(image, 32).astype(float)
    assert (
        np.abs(found - expected[0].permute(1, 2, 0).clamp(0, 255).numpy()).max() <= 1.5
    )  # Pillow rounds twice


@pytest.mark.parametrize("size", [(1600, 1200), (1203, 907), (500, 2000)])
def test_fast_jpeg_decoding_stays_close(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).normal(0, 12, (size[1], size[0], 3))
    image = Image.fromarray(np.clip(np.asarray(photo(2, *size)) + noise, 0, 255).astype(np.uint8))
    data = encoded(image, "JPEG", quality=92)
    fast = open_image(data, at_least=112)
    assert min(fast.size) >= 224  # never below twice what is asked for
    assert max(fast.size) < max(size)
    difference = np.abs(to_square(fast, 112).astype(float) - to_square(open_image(data), 112))
    assert difference.mean() < 1.0  # of 255; measured 0.4 to 0.7
    assert difference.max() <= 8


def test_fast_decoding_leaves_small_photos_alone() -> None:
    data = encoded(photo(2, 300, 200), "JPEG")
    np.testing.assert_array_equal(np.asarray(open_image(data, at_least=112)), np.asarray(open_image(data)))


def test_real_photos_open_and_fast_decoding_stays_close(shared: Path) -> None:
    for path in sorted((shared / "data/coco/captioned").glob("*.jpg"))[:20]:
        image = open_image(path)
        assert image.size == Image.open(path).size
        fast = to_square(open_image(path, at_least=64), 64).astype(float)
        assert (
            np.abs(fast - to_square(image, 64)).mean() < 2.5
        )  # of 255; measured 0.8 over 60 photos, at most 1.7
