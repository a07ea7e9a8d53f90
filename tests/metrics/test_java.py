"""METEOR against pycocoevalcap's own wrapper, and the sentence users get where Java metrics cannot run."""

from __future__ import annotations

import pytest

from clearcap.errors import InputError
from clearcap.metrics import java, score, tokenize

HYPOTHESES = {1: "a dog runs on the grass", 2: "two men are talking", 3: ""}
REFERENCES = {1: ["a dog is running on grass", "the brown dog runs"], 2: ["people talk"], 3: ["a cat"]}


def test_meteor_equals_pycocoevalcap() -> None:
    if java.obstacle("METEOR"):
        pytest.skip(java.obstacle("METEOR"))
    from pycocoevalcap.meteor.meteor import Meteor

    ours = score(HYPOTHESES, REFERENCES, ("METEOR",))
    total, scores = Meteor().compute_score(
        {p: [" ".join(tokens) for tokens in tokenize(refs)] for p, refs in REFERENCES.items()},
        {p: [" ".join(tokenize([caption])[0])] for p, caption in HYPOTHESES.items()},
    )
    assert ours.corpus["METEOR"] == pytest.approx(total, abs=1e-12)
    assert list(ours.per_caption["METEOR"].values()) == pytest.approx(scores, abs=1e-12)
    assert ours.per_caption["METEOR"][3] == 0


@pytest.mark.parametrize("name", ["METEOR", "SPICE"])
def test_without_java_there_is_one_clear_sentence_and_no_score(monkeypatch, name: str) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match=f"{name} needs Java"):
        score(HYPOTHESES, REFERENCES, (name,))
    assert java.obstacle(name).startswith(f"{name} needs Java")


def test_spice_without_its_models_says_which_file_is_missing_or_scores() -> None:
    reason = java.obstacle("SPICE")
    if reason:
        with pytest.raises(InputError, match=r"SPICE needs"):
            score(HYPOTHESES, REFERENCES, ("SPICE",))
    else:
        assert 0 < score(HYPOTHESES, REFERENCES, ("SPICE",)).per_caption["SPICE"][1] <= 1
