"""The command line: a thin table of typed functions."""

from clearcap.cli.main import main

__all__ = ["main"]
