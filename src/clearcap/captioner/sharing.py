"""Parts of a captioner that lie in another's file of weights: which, and whether they are still the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from clearcap.errors import InputError

PARTS = ("text", "vision", "denoiser")
KEY = "shares"  # in config.json


@dataclass(frozen=True)
class Shares:
    """What a folder's ``config.json`` says under ``shares``.

    Attributes:
        folder: of the other captioner, from this one.
        parts: of ``PARTS``, all of whose weights are the other's.
        sha256: of those weights (``digest_of``), whatever else the other's file holds.
    """

    folder: str
    parts: tuple[str, ...]
    sha256: str

    @classmethod
    def read(cls, settings: dict[str, Any], file: Path) -> Shares | None:
        """What the settings in a file say; None where the captioner has all of its weights itself.

        Raises:
            InputError: something else stands there.
        """
        said = settings.get(KEY)
        if said is None:
            return None
        kinds = {"folder": str, "parts": list, "sha256": str}
        ok = isinstance(said, dict) and said.keys() == kinds.keys()
        if not ok or not all(isinstance(said[name], kind) for name, kind in kinds.items()):
            raise InputError(
                f"{file}: {KEY!r} is {said!r}, not a folder, its parts and their hash; save the captioner again"
            )
        if not said["parts"] or not set(said["parts"]) <= set(PARTS):
            raise InputError(
                f"{file}: {KEY!r} has parts {said['parts']!r}, not among {', '.join(PARTS)}; save the captioner again"
            )
        return cls(said["folder"], tuple(said["parts"]), said["sha256"])

    def settings(self) -> dict[str, Any]:
        """For ``config.json``."""
        return {**asdict(self), "parts": list(self.parts)}

    def holds(self, tensor: str) -> bool:
        """Whether a tensor is one of the other captioner's, by its name."""
        return tensor.partition(".")[0] in self.parts

    def check(self, file: Path) -> None:
        """Raise InputError unless the other captioner's file still holds the weights that were shared."""
        if digest_of(file, self.parts) != self.sha256:
            raise InputError(
                f"{file}: its {' and '.join(self.parts)} weights are others than the captioner that shares them was "
                "made with; install both from one release, or write that captioner again with clearcap export"
            )


def stored(file: Path) -> Iterator[tuple[str, dict[str, Any], int]]:
    """Name, entry in the header and first byte of each tensor of a safetensors file.

    Raises:
        InputError: it cannot be read, or is no such file.
    """
    try:
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(size, file.stat().st_size)))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            yield name, entry, 8 + size + int(entry["data_offsets"][0])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, LookupError) as fault:
        raise InputError(f"{file}: cannot be read ({fault}); fetch the file again") from fault


def digest_of(file: Path, parts: tuple[str, ...]) -> str:
    """SHA-256 of the tensors of parts: names, types, shapes and bytes, wherever in the file they lie.

    Args:
        file: of weights.
        parts: of ``PARTS``.

    Raises:
        InputError: it cannot be read.
    """
    found = hashlib.sha256()
    with _readable(file) as stream:
        for name, entry, begin in sorted(stored(file), key=itemgetter(0)):
            if name.partition(".")[0] in parts:
                first, last = entry["data_offsets"]
                found.update(json.dumps((name, entry["dtype"], entry["shape"])).encode())
                stream.seek(begin)
                found.update(stream.read(last - first))
    return found.hexdigest()


def places_of(file: Path, parts: tuple[str, ...]) -> bytes:
    """Where in a file the tensors of parts lie, which graphs that point to them depend on. Raises InputError."""
    found = {name: begin for name, _, begin in stored(file) if name.partition(".")[0] in parts}
    return json.dumps(found, sort_keys=True).encode()


def _readable(file: Path) -> Any:
    try:
        return file.open("rb")
    except OSError as fault:
        raise InputError(f"{file}: cannot be read ({fault}); fetch the file again") from fault
