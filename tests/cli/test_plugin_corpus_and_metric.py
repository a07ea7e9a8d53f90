"""A corpus and a metric that one file outside the package registers, used through the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_captioner import CAPTIONS, save_tiny_captioner

PLUGIN = '''
"""Photos named after their caption, and the share of a candidate's words that some reference has."""

import numpy as np

from clearcap.data.images import PhotoFile
from clearcap.data.records import CorpusReader, Listed, verified
from clearcap.registry import register


def read_named(root, split, strictness, *, suffix="png"):
    listed = [
        Listed(path.stem, PhotoFile(path), [path.stem.replace("_", " ")], str(path))
        for path in sorted((root / split).glob(f"*.{suffix}"))
    ]
    return verified("named-photos", split, listed, strictness)


register("corpus", "named-photos")(CorpusReader(read_named, ("train", "val")))


@register("metric", "word-precision")
def word_precision(captions):
    """Share of a candidate's words that some reference has."""
    known = [{word for words in references for word in words} for references in captions.reference_tokens]
    shares = np.array([
        np.mean([word in there for word in words]) if words else 0.0
        for words, there in zip(captions.candidate_tokens, known)
    ])
    return {"word-precision": (shares.mean(), shares)}
'''


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    file = tmp_path / "outside.py"
    file.write_text(PLUGIN)
    return file


def clearcap(plugin: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command line in a process that has loaded the plug-in."""
    start = "import sys; from clearcap import registry; registry.load_plugin(sys.argv.pop(1)); "
    start += "from clearcap.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", start, str(plugin), *map(str, arguments)], capture_output=True, text=True
    )


def test_a_corpus_and_a_metric_from_outside_are_evaluated(plugin: Path, tmp_path: Path) -> None:
    model = save_tiny_captioner(tmp_path / "model")
    photos = tmp_path / "photos/val"
    photos.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for caption in CAPTIONS:
        image = Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))
        image.save(photos / f"{caption.removesuffix(' .').replace(' ', '_')}.png")
    data = ["--data", f"named-photos:{tmp_path / 'photos'}"]
    how = ["--model", model, "--steps", 2, "--out", tmp_path / "out", "--metrics", "word-precision", "--json"]
    done = clearcap(plugin, "evaluate", *data, *how)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["manifest"]["corpus"], found["manifest"]["split"]) == ("named-photos", "val")
    assert (
        found["manifest"]["metrics"]["word-precision"]
        == "share of a candidate's words that some reference has"
    )
    assert 0 <= found["intervals"]["word-precision"][0] <= found["word-precision"] <= 1
    assert {"BLEU-4", "ROUGE-L", "CIDEr-D"} <= found.keys()

    files = [tmp_path / "out/results.json", tmp_path / "out/references.json"]
    scored = clearcap(plugin, "score", *files, "--metrics", "word-precision,BLEU", "--json")
    assert json.loads(scored.stdout)["word-precision"] == found["word-precision"]
    compared = clearcap(
        plugin, "score", *files, "--metrics", "word-precision", "--compare", files[0], "--json"
    )
    assert json.loads(compared.stdout)["word-precision"]["difference"] == 0
    checked = clearcap(plugin, "data", "check", f"named-photos:{tmp_path / 'photos'}:val")
    assert "val: 4 photos, 4 captions" in checked.stdout
    missing = clearcap(plugin, "score", *files, "--metrics", "word-recall")
    assert missing.stderr.startswith("clearcap: unknown metric 'word-recall'; choose one of BLEU")
    assert "word-precision" in missing.stderr
