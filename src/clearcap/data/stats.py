"""What a corpus is like: lengths, vocabulary, photo sizes; in figures and as a picture."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from clearcap.data.records import Corpus
from clearcap.data.writing import whole_file
from clearcap.errors import InputError

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")  # don't and t-shirt are one word, punctuation is none


@dataclass(frozen=True)
class Statistics:
    """Figures of one split.

    Attributes:
        name: of the corpus.
        split: of the corpus.
        photos: how many.
        captions: how many.
        words: running words in all captions.
        lengths: captions by their number of words.
        captions_per_photo: photos by their number of captions.
        vocabulary: different words, lower-cased.
        once: words that occur once.
        growth: after how many captions (in the corpus's order) how many different words.
        common: the most common words with their counts, most common first.
        sizes: photos by width and height in pixels.
        unreadable: the error of each photo whose header cannot be read.
    """

    name: str
    split: str
    photos: int
    captions: int
    words: int
    lengths: Mapping[int, int]
    captions_per_photo: Mapping[int, int]
    vocabulary: int
    once: int
    growth: tuple[tuple[int, int], ...]
    common: tuple[tuple[str, int], ...]
    sizes: Mapping[tuple[int, int], int]
    unreadable: tuple[str, ...]

    @property
    def mean_length(self) -> float:
        """Words a caption."""
        return self.words / self.captions if self.captions else 0.0

    def length_at(self, share: float) -> int:
        """The least number of words that this share (0..1) of the captions does not exceed."""
        reached = 0
        for length in sorted(self.lengths):
            reached += self.lengths[length]
            if reached >= share * self.captions:
                return length
        return 0


def words(caption: str) -> list[str]:
    """The lower-cased words of a caption: letters and digits, joined by an apostrophe or hyphen inside."""
    return [match.lower() for match in _WORD.findall(caption)]


def statistics(
    corpus: Corpus,
    *,
    common: int = 30,
    points: int = 100,
    progress: Callable[[int, int], None] | None = None,
) -> Statistics:
    """The figures of a split; of photos only the headers are read.

    Args:
        corpus: the split.
        common: how many of the most common words are kept.
        points: at how many places the growth of the vocabulary is noted.
        progress: called with photos done and photos in all.
    """
    counts: Counter[str] = Counter()
    lengths: Counter[int] = Counter()
    sizes: Counter[tuple[int, int]] = Counter()
    unreadable = []
    growth = [(0, 0)]
    seen = 0
    total = sum(len(photo.captions) for photo in corpus)
    step = max(1, total // points)
    for done, photo in enumerate(corpus, start=1):
        for caption in photo.captions:
            spoken = words(caption)
            counts.update(spoken)
            lengths[len(spoken)] += 1
            seen += 1
            if seen % step == 0 or seen == total:
                growth.append((seen, len(counts)))
        try:
            sizes[photo.image.size()] += 1
        except InputError as error:
            unreadable.append(str(error))
        if progress is not None:
            progress(done, len(corpus))
    return Statistics(
        name=corpus.name,
        split=corpus.split,
        photos=len(corpus),
        captions=total,
        words=counts.total(),
        lengths=dict(sorted(lengths.items())),
        captions_per_photo=dict(sorted(Counter(len(photo.captions) for photo in corpus).items())),
        vocabulary=len(counts),
        once=sum(count == 1 for count in counts.values()),
        growth=tuple(growth),
        common=tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:common]),
        sizes=dict(sizes.most_common()),
        unreadable=tuple(unreadable),
    )


def plot(statistics: Statistics, path: str | Path) -> None:
    """A picture of the figures (lengths, vocabulary, common words, photo sizes), in the format of the suffix.

    Raises:
        InputError: the picture cannot be written there.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    (lengths, growth), (common, sizes) = figure.subplots(2, 2)
    figure.suptitle(
        f"{statistics.name} {statistics.split}: {statistics.photos:,} photos, "
        f"{statistics.captions:,} captions, {statistics.vocabulary:,} words"
    )

    lengths.bar(list(statistics.lengths), list(statistics.lengths.values()))
    at_most = f"mean {statistics.mean_length:.1f}, 95% at most {statistics.length_at(0.95)}"
    lengths.set(title=f"Caption length ({at_most})", xlabel="words", ylabel="captions")
    growth.plot(*zip(*statistics.growth, strict=True))
    growth.set(title=f"Vocabulary ({statistics.once:,} words occur once)")
    growth.set(xlabel="captions seen", ylabel="different words")
    ranked = statistics.common[:20][::-1]
    common.barh([word for word, _ in ranked], [count for _, count in ranked])
    common.set(title="Most common words", xlabel="occurrences")
    pixels = list(statistics.sizes)
    sizes.scatter(
        [width for width, _ in pixels],
        [height for _, height in pixels],
        s=[8 + 200 * count / max(statistics.photos, 1) for count in statistics.sizes.values()],
        alpha=0.5,
    )
    sizes.set(title=f"Photo sizes ({len(pixels):,} different)", xlim=(0, None), ylim=(0, None))
    sizes.set(xlabel="width in pixels", ylabel="height in pixels")
    try:
        with whole_file(Path(path)) as fresh:
            figure.savefig(fresh, dpi=120)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be written ({error}); give a .png, .svg or .pdf path in a folder"
        ) from error
