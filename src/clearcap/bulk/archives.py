"""Photos in tar and zip files: WebDataset shards and albums that were packed."""

from __future__ import annotations

import io
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clearcap.data.fetch import MAX_BYTES
from clearcap.data.images import PhotoBytes, PhotoSource, Stream, is_url
from clearcap.data.paths import PHOTO_SUFFIXES, has_suffix
from clearcap.data.shards import ShardMember
from clearcap.errors import InputError

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")  # the first is not compressed
ZIPS = (".zip",)
ARCHIVES = (*TARS, *ZIPS)
_FAULTS = (tarfile.TarError, zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError)


@dataclass(frozen=True, eq=False)
class ZipMember(PhotoSource):
    """A photo inside a zip file, read when it is opened; safe in any thread."""

    archive: zipfile.ZipFile
    info: zipfile.ZipInfo
    label: str

    @property
    def name(self) -> str:
        """The archive and the member."""
        return f"{self.label}/{self.info.filename}"

    def stream(self) -> Stream:
        """The photo's bytes. Raises InputError where it is too long or cannot be unpacked."""
        if self.info.file_size > MAX_BYTES:
            raise InputError(f"{self.name} is longer than {MAX_BYTES:,} bytes; scale it down first")
        try:
            return io.BytesIO(self.archive.read(self.info))
        except (*_FAULTS, NotImplementedError) as error:  # RuntimeError: a password is needed
            raise InputError(f"{self.name} cannot be unpacked ({error}); pack the photo again") from error


def opened(path: str) -> Any:
    """A file of this machine, or one behind an address that fsspec knows, as an open binary file. Raises InputError."""
    if not is_url(path):
        try:
            return open(path, "rb")
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}); check the path") from error
    try:
        import fsspec
    except ImportError as error:
        raise InputError(
            f"{path}: archives and tables at an address need pip install 'clearcap[fsspec]'"
        ) from error
    try:
        return fsspec.open(path, "rb").open()
    except Exception as error:  # each file system raises its own
        fault = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path} cannot be opened ({fault}); check the address") from error


def tar_members(path: str) -> Iterator[PhotoSource]:
    """Photos of a tar file, by suffix, in its order.

    Those of an uncompressed file on this machine are read where they lie when they are opened; others are read here.

    Raises:
        InputError: the file is missing, cut short, or no tar file; members before the fault have been given.
    """
    in_place = has_suffix(path, TARS[:1]) and not is_url(path)
    try:
        with opened(path) as file, tarfile.open(fileobj=file, mode="r:" if in_place else "r|*") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # which it would keep, all of them
                if not member.isfile() or not _is_photo(member.name):
                    continue
                name = f"{path}/{member.name}"
                if in_place:
                    yield ShardMember(Path(path), member.name, member.offset_data, member.size)
                elif member.size > MAX_BYTES:
                    yield _Refused(f"{name} is longer than {MAX_BYTES:,} bytes; scale it down first", name)
                else:
                    content = tar.extractfile(member)
                    yield PhotoBytes(content.read() if content else b"", name)
    except InputError:
        raise
    except _FAULTS as error:
        raise InputError(f"{path} is cut short or no tar file ({error}); fetch it again") from error


def zip_members(path: str) -> Iterator[PhotoSource]:
    """Photos of a zip file, by suffix, in its order. Raises InputError."""
    try:
        archive = zipfile.ZipFile(opened(path))  # stays open while somebody holds a member
    except InputError:
        raise
    except _FAULTS as error:
        raise InputError(f"{path} is cut short or no zip file ({error}); fetch it again") from error
    for info in archive.infolist():
        if not info.is_dir() and _is_photo(info.filename):
            yield ZipMember(archive, info, path)


@dataclass(frozen=True)
class _Refused(PhotoSource):
    """A photo that is not read, and why."""

    fault: str
    name: str = ""

    def stream(self) -> Stream:
        raise InputError(self.fault)


def _is_photo(name: str) -> bool:
    hidden = any(part.startswith((".", "__MACOSX")) for part in name.removeprefix("./").split("/"))
    return has_suffix(name, PHOTO_SUFFIXES) and not hidden
