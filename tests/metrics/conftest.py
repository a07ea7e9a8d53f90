"""pycocoevalcap, with its Java tokenizer, as the independent reference."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # which no package holds

Tokenizer = Callable[[list[str]], list[list[str]]]


@pytest.fixture(scope="session")
def java_tokens() -> Tokenizer:
    """pycocoevalcap's tokenizer: the tokens of each caption, all captions in one call."""
    tokenizer = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer")
    if shutil.which("java") is None:
        pytest.skip("no Java on the PATH")

    def tokens(captions: list[str]) -> list[list[str]]:
        # the extra line gives the last caption the line break that all others have
        rows = {0: [{"caption": caption} for caption in [*captions, "end"]]}
        return [line.split(" ") if line else [] for line in tokenizer.PTBTokenizer().tokenize(rows)[0][:-1]]

    return tokens


@pytest.fixture(scope="session")
def coco(shared: Path) -> dict[int, list[str]]:
    """The captions of the shared COCO photos."""
    captions: dict[int, list[str]] = {}
    for row in json.loads((shared / "data/coco/captions_val2017.json").read_text())["annotations"]:
        captions.setdefault(row["image_id"], []).append(row["caption"])
    return captions
