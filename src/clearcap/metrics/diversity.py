"""How varied captions are: within the candidates of a photo, and over a corpus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from clearcap.errors import InputError
from clearcap.metrics import bleu
from clearcap.metrics.cider import weights_of
from clearcap.metrics.frequency import DocumentFrequency
from clearcap.metrics.ngrams import ORDERS, count, count_corpus, split_tokens
from clearcap.metrics.tokenizer import tokenize


@dataclass(frozen=True)
class Lengths:
    """Words in a caption, over a corpus."""

    mean: float
    deviation: float
    shortest: int
    median: float
    longest: int


@dataclass(frozen=True)
class Diversity:
    """What `diversity` returns.

    Attributes:
        captions: candidates in all.
        distinct: share of candidates that differ from all others of their photo, repeats counted once.
        distinct_corpus: different captions in the whole corpus.
        vocabulary: different words in the whole corpus.
        self_cider: mean over photos, 0 (all candidates say the same) to 1; None with one candidate a photo.
        m_bleu: BLEU-1..4 of each candidate against the others of its photo, 0 to 1, lower is more varied; None
            with one candidate a photo.
        lengths: words in a candidate.
    """

    captions: int
    distinct: float
    distinct_corpus: int
    vocabulary: int
    self_cider: float | None
    m_bleu: dict[str, float] | None
    lengths: Lengths


def diversity(candidates: Sequence[Sequence[str]], frequency: DocumentFrequency | None = None) -> Diversity:
    """Describe the candidates of each photo (raw text).

    Args:
        candidates: for each photo, its candidates; one is enough for the counts over the corpus.
        frequency: document frequency that weighs n-grams in self-CIDEr; without one all weigh the same.

    Raises:
        InputError: no candidates at all, or a photo without any.
    """
    if not candidates or not all(len(captions) for captions in candidates):
        raise InputError("every photo needs at least one candidate; leave photos without captions out")
    flat = iter(tokenize(list(chain.from_iterable(candidates))))
    sets = [[split_tokens(next(flat)) for _ in captions] for captions in candidates]
    captions = list(chain.from_iterable(sets))
    lengths = np.array([len(words) for words in captions])
    several = [words for words in sets if len(words) > 1]
    return Diversity(
        captions=len(captions),
        distinct=sum(len(set(map(tuple, words))) for words in sets) / len(captions),
        distinct_corpus=len(set(map(tuple, captions))),
        vocabulary=len(set(chain.from_iterable(captions))),
        self_cider=float(np.mean([_self_cider(words, frequency) for words in several])) if several else None,
        m_bleu=_m_bleu(several) if several else None,
        lengths=Lengths(
            mean=float(lengths.mean()),
            deviation=float(lengths.std()),
            shortest=int(lengths.min()),
            median=float(np.median(lengths)),
            longest=int(lengths.max()),
        ),
    )


def said_twice(words: Sequence[str], function_words: Collection[str]) -> set[str]:
    """The words of content that a caption says more than once; none where no function words are known.

    Args:
        words: the caption's, in lower case.
        function_words: those that a caption may well say twice: "a", "the", "of".
    """
    content = Counter(word for word in words if word not in function_words)
    return {word for word, times in content.items() if times > 1} if function_words else set()


def repeating(
    captions: Mapping[str, str], references: Mapping[str, Sequence[str]], function_words: Collection[str]
) -> float:
    """The share of captions that say a word of content twice which none of their photo's references says twice.

    Args:
        captions: photo -> caption.
        references: photo -> references, for the same photos.
        function_words: as for ``said_twice``.
    """
    count = 0
    for photo, caption in captions.items():
        own, *theirs = (
            said_twice(split_tokens(tokens), function_words)
            for tokens in tokenize([caption, *references[photo]])
        )
        count += bool(own.difference(*theirs))
    return count / len(captions)


def self_cider(candidates: Sequence[str], frequency: DocumentFrequency | None = None) -> float:
    """Self-CIDEr of one photo's candidates (Wang and Chan 2019, equation 4): 0 (all alike) to 1 (unrelated).

    The candidates' cosine similarities under CIDEr's weights form a matrix; with r the share of its largest
    singular direction, sqrt(e_1) / sum sqrt(e_i), the score is -log_m(r) for m candidates.

    Raises:
        InputError: fewer than two candidates.
    """
    if len(candidates) < 2:
        raise InputError(f"self-CIDEr compares candidates, and there is {len(candidates)}; pass two or more")
    return _self_cider([split_tokens(tokens) for tokens in tokenize(candidates)], frequency)


def _self_cider(captions: Sequence[Sequence[str]], frequency: DocumentFrequency | None) -> float:
    counted = count(captions)
    kernel = np.zeros((len(captions), len(captions)))
    for table, weight in zip(counted.dense(), weights_of(counted, frequency), strict=True):
        vectors = table * weight
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit = np.divide(vectors, norms, out=np.zeros(vectors.shape), where=norms > 0)
        kernel += unit @ unit.T / len(ORDERS)
    roots = np.sqrt(np.maximum(0, np.linalg.eigvalsh(kernel)))
    if not roots.sum():
        return 0.0  # nothing but empty captions: all alike
    return float(max(0.0, -np.log(roots[-1] / roots.sum()) / np.log(len(captions))))


def _m_bleu(sets: Sequence[Sequence[Sequence[str]]]) -> dict[str, float]:
    hypotheses = list(chain.from_iterable(sets))
    others = [[*words[:i], *words[i + 1 :]] for words in sets for i in range(len(words))]
    totals, _ = bleu.bleu(count_corpus(hypotheses, others))
    return dict(zip(bleu.NAMES, totals.tolist(), strict=True))
