"""The errors a caller may want to catch."""

from __future__ import annotations

_LONGEST = 800  # characters


class InputError(ValueError):
    """Bad input: the message names the file or value, the fault and the remedy, in one line.

    Whatever was put into the message: what would break the line is escaped, and the middle of a long one is left out.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(_one_line(message))


class RenamedWarning(DeprecationWarning):
    """A name that will go with the next minor version, with the one to use instead."""


def _one_line(text: str) -> str:
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"
