"""The errors a caller may want to catch."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input: the message names the file or value, the fault and the remedy, in one line."""


class RenamedWarning(DeprecationWarning):
    """A name that will go with the next minor version, with the one to use instead."""
