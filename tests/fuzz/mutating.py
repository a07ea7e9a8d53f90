"""What happens to good bytes, texts and values on their way to a user's disk, and worse."""

from __future__ import annotations

import copy
import json
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Rng = np.random.Generator
EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
ODD_TEXTS = (
    "",
    " ",
    "\n",
    "\0",
    "nan",
    "../../..",
    "\ud800",
    "é" * 300,
    "x" * 5000,
    "{}",
    "[]",
    "'",
    '"',
    "😀",
)
ODD_NUMBERS = (0, -1, 1, 2, 3, 7, 10**6, 2**31, 2**63, 10**400, 0.5, -0.0, 1e-320, 1e308)
ODD_VALUES = (None, True, False, [], {}, [[]], [None], float("nan"), float("inf"), *ODD_NUMBERS, *ODD_TEXTS)


def pick(rng: Rng, options: Sequence[Any]) -> Any:
    """One of them."""
    return options[int(rng.integers(len(options)))]


def mutated(rng: Rng, data: bytes, others: Sequence[bytes] = ()) -> tuple[str, bytes]:
    """What was done to the bytes, one to three times, and what became of them.

    Args:
        rng: chooses.
        data: good ones.
        others: further good ones, which parts may be taken from.
    """
    names = []
    for _ in range(int(rng.choice([1, 1, 1, 1, 2, 3]))):
        name = pick(rng, [*BYTES, *(["spliced"] if others else [])])
        data = spliced(rng, data, pick(rng, others)) if name == "spliced" else BYTES[name](rng, data)
        names.append(name)
    return "+".join(names), data


def spliced(rng: Rng, data: bytes, other: bytes) -> bytes:
    """The beginning of one and the end of another."""
    return data[: int(rng.integers(len(data) + 1))] + other[int(rng.integers(len(other) + 1)) :]


def _place(rng: Rng, data: bytes) -> int:
    """A place in the bytes; a third of them among the first, where headers are."""
    end = min(len(data), 64) if rng.random() < 0.3 else len(data)
    return int(rng.integers(max(end, 1)))


def _bits(rng: Rng, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 17))):
        if changed:
            changed[_place(rng, data)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _bytes(rng: Rng, data: bytes) -> bytes:
    at, new = _place(rng, data), rng.bytes(int(rng.integers(1, 17)))
    return data[:at] + new + data[at + len(new) :]


def _cut(rng: Rng, data: bytes) -> bytes:
    return data[: int(rng.integers(len(data) + 1))]


def _deleted(rng: Rng, data: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + data[at + int(rng.integers(1, 65)) :]


def _inserted(rng: Rng, data: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + rng.bytes(int(rng.integers(1, 65))) + data[at:]


def _repeated(rng: Rng, data: bytes) -> bytes:
    at = _place(rng, data)
    return data[: at + int(rng.integers(1, 257))] + data[at:]


def _blank(rng: Rng, data: bytes) -> bytes:
    at, count = _place(rng, data), int(rng.integers(1, 257))
    return data[:at] + pick(rng, (b"\0", b"\xff")) * count + data[at + count :]


def _size(rng: Rng, data: bytes) -> bytes:
    """A number of one, two or four bytes at an extreme, as lengths, sizes and offsets are written."""
    at, format = _place(rng, data), pick(rng, ("B", "<H", ">H", "<I", ">I"))
    wide = struct.calcsize(format)
    new = struct.pack(format, pick(rng, EXTREMES) & (256**wide - 1))
    return data[:at] + new + data[at + wide :]


def _swapped(rng: Rng, data: bytes) -> bytes:
    one, two = sorted((_place(rng, data), _place(rng, data)))
    return data[:one] + data[two:] + data[one:two]


BYTES: dict[str, Callable[[Rng, bytes], bytes]] = {
    "bits": _bits,
    "bytes": _bytes,
    "cut": _cut,
    "deleted": _deleted,
    "inserted": _inserted,
    "repeated": _repeated,
    "blank": _blank,
    "size": _size,
    "swapped": _swapped,
}


def with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks' checksums are right again, so that what was changed is read."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    mended, at = bytearray(data), 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        end = at + 8 + length
        if end + 4 > len(data):
            break
        mended[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(mended)


def changed(rng: Rng, value: Any, odd: Sequence[Any] = ODD_VALUES) -> tuple[str, Any]:
    """What was done to a nested value, one to three times, and what became of it."""
    value, names = copy.deepcopy(value), []
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        places: list[tuple[Any, Any]] = []
        _places(value, places)
        if not places:
            break
        holder, key = pick(rng, places)
        name = pick(rng, ("other", "other", "gone", "twice", "renamed", "wrapped", "neighbour"))
        names.append(f"{key}: {name}")
        if name == "other":
            holder[key] = pick(rng, odd)
        elif name == "gone":
            del holder[key]
        elif name == "twice" and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        elif name == "renamed" and isinstance(holder, dict):
            holder[pick(rng, ODD_TEXTS)] = holder.pop(key)
        elif name == "neighbour":
            near, its = pick(rng, places)
            holder[key] = copy.deepcopy(near[its])
        else:
            holder[key] = [holder[key]] if rng.random() < 0.7 else {"value": holder[key]}
    return ", ".join(names), value


def _places(value: Any, found: list[tuple[Any, Any]]) -> None:
    """Every place in a nested value: what holds it and under which key."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        found.append((value, key))
        _places(value[key], found)


def changed_json(rng: Rng, data: bytes, odd: Sequence[Any] = ODD_VALUES) -> tuple[str, bytes]:
    """A changed JSON file; now and then one that is nested without end or not JSON at all."""
    if rng.random() < 0.02:
        return "deep", b"[" * 100_000
    if rng.random() < 0.3:
        return mutated(rng, data)
    about, value = changed(rng, json.loads(data), odd)
    return about, json.dumps(value).encode("utf-8", "surrogatepass")


def changed_lines(rng: Rng, data: bytes) -> tuple[str, bytes]:
    """A changed file of lines, those of JSON from within."""
    if rng.random() < 0.4:
        return mutated(rng, data)
    lines = data.split(b"\n")
    at = int(rng.integers(len(lines)))
    if lines[at].startswith(b"{") and rng.random() < 0.7:
        about, lines[at] = changed_json(rng, lines[at])
        return about, b"\n".join(lines)
    name = pick(rng, ("gone", "twice", "odd", "comma", "bytes", "ends"))
    if name == "gone":
        del lines[at]
    elif name == "twice":
        lines.insert(at, lines[at])
    elif name == "odd":
        lines[at] = pick(rng, ODD_TEXTS).encode("utf-8", "surrogatepass")
    elif name == "comma":
        lines[at] = lines[at].replace(
            pick(rng, (b",", b'"', b"\t", b" ")), pick(rng, (b",", b'"', b"\t", b""))
        )
    elif name == "bytes":
        lines[at] = rng.bytes(int(rng.integers(1, 30)))
    return f"line {at} {name}", (b"\r\n" if name == "ends" else b"\n").join(lines)
