"""Our scores beside pycocoevalcap's, in one run: python benchmarks/coco_metrics.py ANNOTATIONS.json"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from clearcap.errors import InputError
from clearcap.metrics.scoring import PhotoId, Scores, score
from clearcap.metrics.tokenizer import tokenize

References = dict[PhotoId, list[str]]


@dataclass(frozen=True)
class Agreement:
    """What `compare` returns.

    Attributes:
        ours, theirs: corpus scores.
        worst_corpus, worst_caption: per metric, the largest absolute difference.
        captions, same_tokens: captions tokenised, and how many of them alike.
        seconds_ours, seconds_theirs: from raw text to scores, by the clock.
        work_ours, work_theirs: processor seconds of the same, Java's included: steady on a busy machine.
    """

    ours: dict[str, float]
    theirs: dict[str, float]
    worst_corpus: dict[str, float]
    worst_caption: dict[str, float]
    captions: int
    same_tokens: int
    seconds_ours: float
    seconds_theirs: float
    work_ours: float
    work_theirs: float


def leave_one_out(path: str | Path) -> tuple[dict[PhotoId, str], References]:
    """The first caption of each photo as candidate, the others as references, of a COCO annotation file.

    Photos with a single caption are left out.

    Raises:
        InputError: the file is not a COCO caption annotation file.
    """
    try:
        rows = [
            (row["image_id"], row["caption"]) for row in json.loads(Path(path).read_text())["annotations"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a COCO caption file ({error}); pass one with 'annotations' of image_id and caption"
        ) from error
    captions: References = {}
    for photo, caption in rows:
        captions.setdefault(photo, []).append(caption)
    several = {photo: texts for photo, texts in captions.items() if len(texts) > 1}
    if not several:
        raise InputError(f"{path} has no photo with two captions, so there is no candidate to take from them")
    return {p: texts[0] for p, texts in several.items()}, {p: texts[1:] for p, texts in several.items()}


def compare(hypotheses: dict[PhotoId, str], references: References) -> Agreement:
    """Score with both, each from raw text, and compare everything.

    Raises:
        ImportError: pycocoevalcap is not installed.
    """
    clock, work = [time.perf_counter()], [_processor_seconds()]

    def lap() -> None:
        clock.append(time.perf_counter())
        work.append(_processor_seconds())

    ours = score(hypotheses, references)
    lap()
    theirs, their_tokens = score_with_pycocoevalcap(hypotheses, references)
    lap()
    our_tokens = [
        *tokenize(list(hypotheses.values())),
        *tokenize(list(chain.from_iterable(references.values()))),
    ]
    return Agreement(
        ours=ours.corpus,
        theirs=theirs.corpus,
        worst_corpus={name: abs(ours.corpus[name] - theirs.corpus[name]) for name in ours.corpus},
        worst_caption={
            name: max(abs(ours.per_caption[name][p] - theirs.per_caption[name][p]) for p in hypotheses)
            for name in ours.corpus
        },
        captions=len(our_tokens),
        same_tokens=sum(" ".join(a) == b for a, b in zip(our_tokens, their_tokens, strict=True)),
        seconds_ours=clock[1] - clock[0],
        seconds_theirs=clock[2] - clock[1],
        work_ours=work[1] - work[0],
        work_theirs=work[2] - work[1],
    )


def _processor_seconds() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def score_with_pycocoevalcap(
    hypotheses: dict[PhotoId, str], references: References
) -> tuple[Scores, list[str]]:
    """pycocoevalcap's Java tokenizer, BLEU, ROUGE-L and CIDEr-D, and all its tokenised captions."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    candidates = PTBTokenizer().tokenize({p: [{"caption": text}] for p, text in hypotheses.items()})
    truths = PTBTokenizer().tokenize({p: [{"caption": t} for t in texts] for p, texts in references.items()})
    totals, columns = Bleu(4).compute_score(truths, candidates, verbose=0)
    table: dict[str, tuple[float, Sequence[float]]] = {
        f"BLEU-{n + 1}": (totals[n], columns[n]) for n in range(4)
    }
    table["ROUGE-L"] = Rouge().compute_score(truths, candidates)
    table["CIDEr-D"] = Cider().compute_score(truths, candidates)
    scores = Scores(
        {name: float(total) for name, (total, _) in table.items()},
        {name: dict(zip(truths, map(float, column), strict=True)) for name, (_, column) in table.items()},
    )
    return scores, [*chain.from_iterable(candidates.values()), *chain.from_iterable(truths.values())]


def report(agreement: Agreement) -> str:
    """The comparison as a table."""
    lines = [f"{'':8}  {'clearcap':>12}  {'pycocoevalcap':>13}  {'corpus diff':>11}  {'caption diff':>12}"]
    for name, value in agreement.ours.items():
        lines.append(
            f"{name:8}  {value:12.8f}  {agreement.theirs[name]:13.8f}  {agreement.worst_corpus[name]:11.1e}  "
            f"{agreement.worst_caption[name]:12.1e}"
        )
    lines.append(f"tokens identical: {agreement.same_tokens} of {agreement.captions} captions")
    for kind, ours, theirs in (
        ("time by the clock", agreement.seconds_ours, agreement.seconds_theirs),
        ("processor time", agreement.work_ours, agreement.work_theirs),
    ):
        lines.append(f"{kind}: {ours:.2f} s and {theirs:.2f} s, {theirs / max(ours, 1e-9):.1f} times faster")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("annotations", type=Path, help="a COCO caption annotation file")
    hypotheses, references = leave_one_out(parser.parse_args(arguments).annotations)
    print(f"{len(hypotheses)} photos, first caption against the others")
    print(report(compare(hypotheses, references)))


if __name__ == "__main__":
    main()
