"""WebDataset shards: tar files of photos beside their captions."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clearcap.data.images import PhotoSource, Stream
from clearcap.data.paths import IMAGE_SUFFIXES
from clearcap.data.records import Corpus, CorpusReader, Listed, Strictness, verified
from clearcap.errors import InputError

_BRACES = re.compile(r"(.*)\{(\d+)\.\.(\d+)\}(.*)")
_CAPTION_KEYS = ("captions", "caption", "text")


@dataclass(frozen=True)
class ShardMember(PhotoSource):
    """A photo inside an uncompressed tar file, read where it lies; safe in any thread or process."""

    shard: Path
    member: str
    offset: int  # bytes from the start of the shard
    length: int  # bytes

    @property
    def name(self) -> str:
        """The shard and the member."""
        return f"{self.shard}/{self.member}"

    def stream(self) -> Stream:
        """The photo's bytes. Raises InputError where the shard cannot be read or ends early."""
        try:
            with open(self.shard, "rb") as shard:
                shard.seek(self.offset)
                content = shard.read(self.length)
        except OSError as error:
            raise InputError(f"{self.name} cannot be read ({error.strerror}); check the shard") from error
        if len(content) < self.length:
            raise InputError(f"{self.name} is cut short: the shard ends early; fetch the shard again")
        return io.BytesIO(content)


def read_webdataset(root: Path, split: str, strictness: Strictness) -> Corpus:
    """WebDataset shards: members that share a name up to its first dot are one photo with its captions.

    Photos are members with an image suffix; captions are in KEY.json (`captions`, `caption` or `text`) or in
    KEY.txt, one a line. Only names, places and captions are read here. An id is the shared name.

    Args:
        root: a .tar file, a pattern such as shards/{000..009}.tar, or a folder of .tar files.
        split: in a folder, the shards in the folder of that name below it or with names that begin with it
            and a hyphen or underscore; "all" takes every shard.
        strictness: what is expected and where problems go.
    """
    return verified("webdataset", split, _listed(find_shards(root, split)), strictness)


def find_shards(root: Path, split: str) -> list[Path]:
    """The tar files of a split, sorted. Raises InputError where there is none."""
    if _BRACES.fullmatch(str(root)):
        return [Path(path) for path in in_braces(str(root))]
    if root.is_file():
        return [root]
    if split == "all":
        shards = sorted(root.rglob("*.tar"))
    else:
        shards = sorted(
            [*(root / split).glob("*.tar"), *root.glob(f"{split}-*.tar"), *root.glob(f"{split}_*.tar")]
        )
    if not shards:
        wanted = "*.tar" if split == "all" else f"{split}/*.tar or {split}-*.tar"
        raise InputError(f"{root}: no shard {wanted}; check the folder and the split")
    return shards


def in_braces(pattern: str) -> list[str]:
    """``shards/{000..009}.tar`` as the ten paths it stands for; any other path as it is."""
    braces = _BRACES.fullmatch(pattern)
    if braces is None:
        return [pattern]
    before, first, last, after = braces.groups()
    return [f"{before}{n:0{len(first)}d}{after}" for n in range(int(first), int(last) + 1)]


def _listed(shards: list[Path]) -> Iterator[Listed]:
    for shard in shards:
        photos: dict[str, ShardMember] = {}
        texts: dict[str, dict[str, tuple[str, bytes]]] = {}
        for member, content in _members(shard):
            folder, _, file_name = member.name.rpartition("/")
            stem, _, _ = file_name.partition(".")
            key, suffix = f"{folder}/{stem}" if folder else stem, Path(file_name).suffix.lower()
            if suffix in IMAGE_SUFFIXES:
                if key in photos:
                    raise InputError(f"{shard}: {key!r} has two photos; keep one photo for each name")
                photos[key] = ShardMember(shard, member.name, member.offset_data, member.size)
            elif suffix in (".txt", ".json"):
                texts.setdefault(key, {})[suffix] = (f"{shard}/{member.name}", content)
        for key, photo in photos.items():
            yield Listed(key, photo, _captions(texts.get(key, {})), str(shard))


def _members(shard: Path) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """The files of a shard; the content of captions, nothing of photos."""
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if member.isfile():
                    text = Path(member.name).suffix.lower() in (".txt", ".json")
                    file = tar.extractfile(member) if text else None
                    yield member, file.read() if file else b""
    except FileNotFoundError as error:
        raise InputError(f"{shard}: no such shard; check the path") from error
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(
            f"{shard} is cut short or not an uncompressed tar ({error}); fetch it again"
        ) from error


def _captions(texts: dict[str, tuple[str, bytes]]) -> object:
    if ".json" in texts:
        where, content = texts[".json"]
        try:
            value = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where} is not JSON ({error}); write the shard again") from error
        if isinstance(value, dict):
            value = next((value[key] for key in _CAPTION_KEYS if key in value), None)
        if value is not None:
            return [value] if isinstance(value, str) else value
    if ".txt" in texts:
        where, content = texts[".txt"]
        try:
            return content.decode("utf-8").split("\n")
        except UnicodeDecodeError as error:
            raise InputError(f"{where}: byte {error.start} is not UTF-8; write the shard again") from error
    return []


WEBDATASET = CorpusReader(read_webdataset)
