"""Photos as web frameworks, data sets, loaders and cameras hand them over."""

from __future__ import annotations

import base64
import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import torch
from layouts import encoded, photo
from PIL import Image, ImageFile

from clearcap.data.images import FORMATS, each_photo, is_many, open_image
from clearcap.data.paths import PHOTO_SUFFIXES, expand
from clearcap.errors import InputError

PNG = encoded(photo(4), "PNG")
PIXELS = np.asarray(photo(4))
URI = "data:image/png;base64," + base64.b64encode(PNG).decode()


class Upload:
    """What some frameworks hand over: it reads, and no more."""

    def read(self, size: int = -1) -> bytes:
        return PNG


class Late(Upload):
    async def read(self, size: int = -1) -> bytes:  # type: ignore[override]
        return PNG


def spooled() -> object:
    file = tempfile.SpooledTemporaryFile()  # noqa: SIM115
    file.write(PNG)  # and so stands at its end
    return file


def named() -> object:
    file = tempfile.NamedTemporaryFile(suffix=".png")  # noqa: SIM115
    file.write(PNG)
    file.seek(0)
    return file


@pytest.mark.parametrize(
    "make",
    [
        lambda: io.BytesIO(PNG),
        lambda: io.BufferedReader(io.BytesIO(PNG)),
        spooled,
        named,
        Upload,
        lambda: {"bytes": PNG, "path": None},
        lambda: {"bytes": PNG, "path": "kept/name.png"},
        lambda: {"bytes": bytearray(PNG)},
        lambda: {"bytes": memoryview(PNG), "path": None},
        lambda: memoryview(PNG),
        lambda: URI,
        lambda: "data:image/png;base64,\n" + base64.encodebytes(PNG).decode(),
        lambda: URI.rstrip("="),
        lambda: "data:image/png;base64," + base64.urlsafe_b64encode(PNG).decode(),
        lambda: "data:image/png," + quote(PNG),
        lambda: PIXELS.transpose(2, 0, 1),
        lambda: torch.from_numpy(PIXELS.copy()),
        lambda: torch.from_numpy(PIXELS.copy()).permute(2, 0, 1) / 255,
    ],
)
def test_every_way_to_hand_over_a_photo_gives_its_pixels(make: Callable[[], object]) -> None:
    source = make()
    assert not is_many(source)
    np.testing.assert_array_equal(np.asarray(open_image(source)), PIXELS)


def test_files_by_url_and_by_row(tmp_path: Path) -> None:
    file = tmp_path / "grün 1.png"
    file.write_bytes(PNG)
    for source in (
        file.as_uri(),
        f"file:{file}",
        {"bytes": None, "path": str(file)},
        {"path": file.as_uri()},
    ):
        np.testing.assert_array_equal(np.asarray(open_image(source)), PIXELS)
    with pytest.raises(InputError, match=r"no\.png cannot be fetched \(.*No such file"):
        open_image((tmp_path / "no.png").as_uri())
    with pytest.raises(InputError, match="is on another machine"):
        open_image("file://elsewhere/photo.png")


def test_a_url_of_a_file_system_is_read_by_fsspec(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec")
    with fsspec.open("memory://album/a.png", "wb") as file:
        file.write(PNG)
    np.testing.assert_array_equal(np.asarray(open_image("memory://album/a.png")), PIXELS)
    with pytest.raises(InputError, match=r"memory://album/b\.png cannot be fetched"):
        open_image("memory://album/b.png")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(InputError, match=r"pip install 'clearcap\[fsspec\]'"):
        open_image("memory://album/a.png")


STACK = np.stack([PIXELS, PIXELS[:, ::-1]])


@pytest.mark.parametrize(
    ("images", "count"),
    [
        (STACK, 2),
        (torch.from_numpy(STACK).permute(0, 3, 1, 2), 2),
        ((one for one in STACK), 2),
        ([STACK, PIXELS], 3),
        (map(torch.from_numpy, [STACK, STACK]), 4),
        (np.array(["a.jpg", "b.jpg"]), 2),
        ({"a.jpg": 1}.keys(), 1),
        ([], 0),
    ],
)
def test_what_holds_several_photos_is_taken_apart(images: object, count: int) -> None:
    assert is_many(images)
    assert len(list(each_photo(images))) == count


def closed() -> Image.Image:
    image = Image.open(io.BytesIO(PNG))
    image.close()
    return image


def file_gone() -> Image.Image:
    file = io.BytesIO(PNG)
    image = Image.open(file)
    file.close()
    return image


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (closed, "was closed before its pixels were read"),
        (file_gone, "was closed before its pixels were read"),
        (lambda: io.StringIO("text"), "reads as str, not bytes; open it with mode 'rb'"),
        (Late, "reads as coroutine, not bytes"),
        (lambda: {"image": 1, "text": "a dog"}, "is a mapping of image, text"),
        (dict, "is a mapping of nothing"),
        (lambda: "data:image/png;base64,%%%", "is not base64"),
        (lambda: "data:image/png;base64", "has no comma"),
        (lambda: STACK, r"has shape \(2, 16, 24, 3\)"),
        (lambda: torch.from_numpy(PIXELS.copy()).to_sparse(), "the tensor gives no array"),
        (lambda: torch.empty(3, 16, 24, device="meta"), "the tensor gives no array"),
    ],
)
@pytest.mark.filterwarnings("ignore:coroutine")
def test_what_cannot_be_read_is_said_truly(make: Callable[[], object], fault: str) -> None:
    with pytest.raises(InputError, match=fault) as caught:
        open_image(make())
    assert "fetch the photo again" not in str(caught.value)


def test_a_closed_file_is_said_to_be_so() -> None:
    file = io.BytesIO(PNG)
    file.close()
    with pytest.raises(InputError, match=r"cannot be read \(I/O operation on closed file"):
        open_image(file)


@pytest.mark.parametrize("mode", ["La", "RGBa"])
def test_premultiplied_images_are_laid_on_white(mode: str) -> None:
    straight = photo(3).convert("RGBA")
    straight.putalpha(128)
    straight = straight.convert(mode.upper())
    found = np.asarray(open_image(straight.convert(mode)), dtype=int)
    assert np.abs(found - np.asarray(open_image(straight))).max() <= 2


def test_long_names_are_clipped() -> None:
    for source in ("data:image/png;base64," + "A" * 9000, "x" * 9000, "http://127.0.0.1:1/" + "y" * 9000):
        with pytest.raises(InputError) as caught:
            open_image(source)
        assert len(str(caught.value)) < 600
    (entry,) = expand(["z" * 9000])
    assert isinstance(entry, InputError)
    assert len(str(entry)) < 600


@pytest.mark.parametrize(
    "error", [RuntimeError("a\nb"), ZeroDivisionError(), AssertionError(), UnicodeError("u")]
)
@pytest.mark.parametrize("when", ["open", "load"])
def test_whatever_a_decoder_raises_is_one_line(
    error: Exception, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(ImageFile.ImageFile):
        format = "BROKEN"

        def _open(self) -> None:
            if when == "open":
                raise error
            self._size, self._mode = (4, 4), "RGB"

        def load(self) -> None:  # type: ignore[override]
            raise error

    Image.init()
    monkeypatch.setitem(Image.OPEN, "PNG", (Broken, lambda head: True))
    with pytest.raises(InputError) as caught:
        open_image(PNG, name="photo.png")
    assert str(caught.value).startswith("photo.png is ")
    assert "\n" not in str(caught.value)


def test_memory_that_is_not_there_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", full)
    with pytest.raises(InputError, match="needs more memory than there is; scale it down first"):
        open_image(PNG)


def test_damaged_avif_is_one_line_and_a_sequence_is_its_first_frame() -> None:
    Image.init()
    if "AVIF" not in Image.SAVE:
        pytest.skip("Pillow without AVIF")
    whole = encoded(photo(1, 64, 64), "AVIF", save_all=True, append_images=[photo(2, 64, 64)])
    assert whole[8:12] == b"avis"
    assert open_image(whole).size == (64, 64)
    rng = np.random.default_rng(0)
    failed = []
    for _ in range(60):
        damaged = bytearray(whole)
        for place in rng.integers(len(whole) // 2, len(whole), 20):
            damaged[place] ^= int(rng.integers(1, 256))
        try:
            open_image(bytes(damaged))
        except InputError as fault:
            failed.append(str(fault))
    assert failed
    assert not [message for message in failed if "\n" in message]


def test_heic_is_read_where_its_reader_is_installed() -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    for more in ([], [photo(3, 64, 64)]):
        data = encoded(photo(2, 64, 64), "HEIF", save_all=bool(more), append_images=more)
        assert np.abs(np.asarray(open_image(data), int) - np.asarray(photo(2, 64, 64))).mean() < 8
        with pytest.raises(InputError):
            open_image(data[: len(data) // 2])


@pytest.mark.parametrize("suffix", sorted(PHOTO_SUFFIXES))
def test_no_photo_of_a_folder_is_skipped(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"IMG_1{suffix.upper()}"
    file.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))
    assert expand([str(tmp_path)]) == [str(file)]
    with pytest.raises(InputError) as caught:
        open_image(file)
    assert file.name in str(caught.value)


def test_a_raw_file_is_not_its_thumbnail(tmp_path: Path) -> None:
    photo(1).save(tmp_path / "a.tiff")
    (tmp_path / "a.tiff").rename(tmp_path / "IMG_1.NEF")
    with pytest.raises(InputError, match="camera's raw file"):
        open_image(tmp_path / "IMG_1.NEF")


def test_only_decoders_inside_pillow_are_let_in() -> None:
    assert "EPS" not in FORMATS
