"""What scores of a corpus are worth: a person's captions against the others', and one caption for every photo.

``python -m benchmarks.people NAME:ROOT:SPLIT --constant NAME:ROOT:train`` prints BLEU-4 and CIDEr-D of both.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping, Sequence

from clearcap.data.corpus import open_spec
from clearcap.evaluation.scores import Scored, score_captions
from clearcap.metrics.frequency import DocumentFrequency
from clearcap.metrics.words import agreement_words
from clearcap.sampling.selection import expected_utility

NAMES = ("BLEU-4", "CIDEr-D")
SAMPLE = 800  # captions that the constant one is chosen among


def people(captions: Mapping[str, Sequence[str]], tokenizer: str) -> list[Scored]:
    """Each person's captions against those of the others, who are as many for every photo.

    Args:
        captions: photo -> as many captions for every photo.
        tokenizer: as for `clearcap.metrics.score`.
    """
    count = min(len(told) for told in captions.values())
    return [
        score_captions(
            {photo: told[one] for photo, told in captions.items()},
            {photo: [*told[:one], *told[one + 1 : count]] for photo, told in captions.items()},
            metrics=("BLEU", "CIDEr-D"),
            tokenizer=tokenizer,
        )
        for one in range(count)
    ]


def most_common(captions: Sequence[Sequence[str]], seed: int = 0) -> str:
    """Of a sample of captions the one that agrees most with the others, by CIDEr-D."""
    frequency = DocumentFrequency.of(captions, agreement_words)
    sample = random.Random(seed).sample([one for told in captions for one in told], SAMPLE)
    agreement = expected_utility(sample, "cider", frequency)
    return sample[max(range(len(sample)), key=agreement.__getitem__)]


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus")
    parser.add_argument("--constant", help="corpus that one caption for every photo is chosen from")
    parser.add_argument("--tokenizer", default="ptb")
    asked = parser.parse_args()
    captions = {photo.id: photo.captions for photo in open_spec(asked.corpus, expected=None)}
    each = people(captions, asked.tokenizer)
    found: dict[str, object] = {
        "photos": len(captions),
        "tokenizer": asked.tokenizer,
        "people": {name: sum(one.scores.corpus[name] for one in each) / len(each) for name in NAMES},
        "each": [{name: [one.scores.corpus[name], *one.intervals[name]] for name in NAMES} for one in each],
    }
    if asked.constant:
        said = most_common([photo.captions for photo in open_spec(asked.constant, expected=None)])
        scored = score_captions(
            dict.fromkeys(captions, said), captions, metrics=("BLEU", "CIDEr-D"), tokenizer=asked.tokenizer
        )
        found["constant"] = {"caption": said} | {
            name: [scored.scores.corpus[name], *scored.intervals[name]] for name in NAMES
        }
    print(json.dumps(found, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
