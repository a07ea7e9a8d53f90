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


TORCH = {"torch", "transformers", "safetensors", "accelerate"}  # what the extra of that name brings


def needed(fault: ModuleNotFoundError, what: str) -> str | None:
    """What to install for something that failed for want of a package, in one line; None: it is not known.

    Args:
        fault: the failed import.
        what: what needs the package.
    """
    package = (fault.name or "").partition(".")[0]
    extra = {"matplotlib": "plots", "onnx": "onnx", "onnxscript": "onnx"} | dict.fromkeys(TORCH, "torch")
    if package not in extra:
        return None
    return f"{what} needs {package}, which is not installed; pip install 'clearcap[{extra[package]}]'"


def _one_line(text: str) -> str:
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"
