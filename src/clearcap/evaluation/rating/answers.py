"""Answers of raters, each on the disk before it is said to be kept."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clearcap.data.reading import read_jsonl
from clearcap.data.writing import full, is_full, whole_lines
from clearcap.errors import InputError
from clearcap.evaluation.rating.plan import POINTS, SCALES

ANSWERS = "answers.jsonl"
LONGEST_NAME = 40

Answer = tuple[str, int, str]
"""Who answered, about which item, on which scale."""


class Answers:
    """All answers of a rating; a later one about the same takes the place of the former, which stays in the file."""

    def __init__(self, out: Path, items: int) -> None:
        """Read what is there, a last line that was cut short left out.

        Args:
            out: folder of the rating.
            items: how many the plan has.

        Raises:
            InputError: the file is damaged, or is that of another plan.
        """
        self.path, self.items = out / ANSWERS, items
        self.held: dict[Answer, int] = {}
        self._lock = threading.Lock()
        if whole_lines(self.path):
            for where, record in read_jsonl(self.path):
                try:
                    answer, value = checked(record, items)
                except InputError as fault:
                    raise InputError(f"{where}: {fault}") from fault
                self.held[answer] = value

    def keep(self, record: Mapping[str, Any]) -> int:
        """Append one answer; when this returns it is on the disk.

        Returns:
            How many answers there are.

        Raises:
            InputError: it is none that the page asks for, or the disk is full.
        """
        answer, value = checked(record, self.items)
        rater, item, scale = answer
        line = json.dumps({"rater": rater, "item": item, "scale": scale, "value": value}, ensure_ascii=False)
        with self._lock:
            before = self.path.stat().st_size if self.path.is_file() else 0
            try:
                with self.path.open("ab") as file:
                    file.write(f"{line}\n".encode())
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as fault:
                if self.path.is_file():
                    os.truncate(self.path, before)  # or the next answer would be the end of half a line
                raise full(str(self.path), fault) if is_full(fault) else fault from fault
            self.held[answer] = value
            return len(self.held)

    def of(self, rater: str) -> dict[str, dict[str, int]]:
        """What a rater answered: item -> scale -> value."""
        with self._lock:
            held = list(self.held.items())
        found: dict[str, dict[str, int]] = {}
        for (who, item, scale), value in held:
            if who == rater:
                found.setdefault(str(item), {})[scale] = value
        return found


def checked(record: Mapping[str, Any], items: int) -> tuple[Answer, int]:
    """An answer and its value. Raises InputError where it is none that the page asks for."""
    rater = rater_named(record.get("rater"))
    item, scale, value = (record.get(name) for name in ("item", "scale", "value"))
    if isinstance(item, bool) or not isinstance(item, int) or not 0 <= item < items:
        raise InputError(f"item={item!r} is none of the {items} of this rating; open its page anew")
    if scale not in SCALES:
        raise InputError(f"scale={scale!r}; answer one of {', '.join(SCALES)}")
    if isinstance(value, bool) or not isinstance(value, int) or value not in POINTS:
        raise InputError(f"value={value!r}; answer with a whole number from {POINTS[0]} to {POINTS[-1]}")
    return (rater, item, str(scale)), value


def rater_named(name: object) -> str:
    """A rater's name as it is kept. Raises InputError."""
    if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > LONGEST_NAME:
        raise InputError(f"rater={name!r} is no name; write one of {LONGEST_NAME} characters at most")
    return name.strip()
