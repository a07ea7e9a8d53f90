"""METEOR 1.5 and SPICE, computed by the Java programs that pycocoevalcap carries (an optional extra)."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from clearcap.errors import InputError
from clearcap.metrics.interface import Captions, Pooled, Score

Tokens = Sequence[Sequence[str]]


def score_meteor(captions: Captions) -> Pooled:
    """Version 1.5, English; the corpus score pools what the photos' scores are made of."""
    return Pooled({"METEOR": meteor(captions.candidate_tokens, captions.reference_tokens)})


def score_spice(captions: Captions) -> dict[str, Score]:
    """Scene-graph tuples of Stanford's parser, F-score; photos without any count as 0."""
    return {"SPICE": spice(captions.candidate_tokens, captions.reference_tokens)}


def meteor(hypotheses: Tokens, references: Sequence[Tokens]) -> Score:
    """METEOR 1.5 (Denkowski and Lavie 2014), English: of the corpus and of each candidate, in [0, 1].

    Args:
        hypotheses: tokens of the candidate of each photo.
        references: for each photo, the tokens of each reference.

    Raises:
        InputError: Java, pycocoevalcap or one of its files is missing, or the program failed.
    """
    _java("METEOR")
    _files("METEOR")
    from pycocoevalcap.meteor.meteor import Meteor

    given = {i: [_meteor_text(tokens)] for i, tokens in enumerate(hypotheses)}
    wanted = {i: [_meteor_text(tokens) for tokens in captions] for i, captions in enumerate(references)}
    program = Meteor()
    try:
        corpus, scores = program.compute_score(wanted, given)
    except (ValueError, OSError) as fault:
        program.lock.release()  # which it holds still, and waits for when it is given up
        raise InputError("METEOR's Java program ended early; check that 2 GB of memory are free") from fault
    return float(np.nan_to_num(corpus)), np.nan_to_num(np.array(scores, float))


def spice(hypotheses: Tokens, references: Sequence[Tokens]) -> Score:
    """SPICE (Anderson et al. 2016): mean F-score over scene-graph tuples, and of each candidate, in [0, 1].

    Photos on which the program finds nothing to compare score 0 (pycocoevalcap turns the mean to NaN).

    Raises:
        InputError: Java, pycocoevalcap or the Stanford models are missing, or the program failed.
    """
    runtime, jar = _java("SPICE"), _files("SPICE")[0]
    with tempfile.TemporaryDirectory() as scratch:
        asked, answered = Path(scratch, "captions.json"), Path(scratch, "scores.json")
        photos = [
            {"image_id": i, "test": " ".join(hypothesis), "refs": [" ".join(ref) for ref in refs]}
            for i, (hypothesis, refs) in enumerate(zip(hypotheses, references, strict=True))
        ]
        asked.write_text(json.dumps(photos))
        command = [runtime, "-Xmx8G", "-jar", str(jar), str(asked), "-out", str(answered), "-silent"]
        done = subprocess.run(command, cwd=jar.parent, capture_output=True, text=True)
        if done.returncode or not answered.exists():
            raise InputError(f"SPICE failed: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
        found = {item["image_id"]: item["scores"]["All"]["f"] for item in json.loads(answered.read_text())}
    scores = np.array([found[i] or 0.0 for i in range(len(photos))], float)
    scores[np.isnan(scores)] = 0.0
    return float(scores.mean()), scores


def obstacle(name: str) -> str:
    """Why METEOR or SPICE cannot be computed here, in one sentence; empty where it can be tried."""
    try:
        _java(name)
        _files(name)
    except InputError as reason:
        return str(reason)
    return ""


_NEEDED = {  # the first file is the program
    "METEOR": ("meteor/meteor-1.5.jar", "meteor/data/paraphrase-en.gz"),
    "SPICE": (
        "spice/spice-1.0.jar",
        "spice/lib/stanford-corenlp-3.6.0.jar",
        "spice/lib/stanford-corenlp-3.6.0-models.jar",
    ),
}


def _files(name: str) -> list[Path]:
    found = find_spec("pycocoevalcap")
    if found is None or not found.submodule_search_locations:
        raise InputError(
            f"{name} needs the package pycocoevalcap; install it with: pip install 'clearcap[java-metrics]'"
        )
    folder = Path(next(iter(found.submodule_search_locations)))
    for path in _NEEDED[name]:
        if not (folder / path).exists():
            remedy = "reinstall pycocoevalcap"
            if "corenlp" in path:
                remedy = "run get_stanford_models.py of its folder 'spice' once, which downloads it"
            raise InputError(f"{name} needs the file {path} of pycocoevalcap, which is missing; {remedy}")
    return [folder / path for path in _NEEDED[name]]


def _java(name: str) -> str:
    java = shutil.which("java")
    if java is None:
        raise InputError(
            f"{name} needs Java, and no program 'java' is on the PATH; install a Java runtime (8 or later)"
        )
    return java


def _meteor_text(tokens: Sequence[str]) -> str:
    return " ".join(tokens).replace("|||", "").replace("  ", " ")  # bars part captions
