"""How rare n-grams are: in how many photos of a corpus each occurs."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from clearcap.config import texts
from clearcap.data.writing import whole_file
from clearcap.errors import InputError
from clearcap.metrics.ngrams import ORDERS, split_tokens
from clearcap.metrics.tokenizer import tokenize


@dataclass(frozen=True)
class DocumentFrequency:
    """In how many photos of a corpus each n-gram occurs (in any reference).

    Attributes:
        photos: photos in the corpus.
        counts: n-gram (words joined by spaces) -> photos.
    """

    photos: int
    counts: dict[str, int]

    @classmethod
    def of(
        cls,
        references: Sequence[Sequence[str]],
        words: Callable[[Sequence[str]], list[list[str]]] = tokenize,
    ) -> DocumentFrequency:
        """Count the references (raw text), one list a photo.

        Args:
            references: of each photo.
            words: cuts captions into words, as those must be cut that the counts serve to compare.
        """
        references = [texts(f"references[{photo}]", captions) for photo, captions in enumerate(references)]
        tokens = iter(words(list(chain.from_iterable(references))))
        counts: Counter[str] = Counter()
        for captions in references:
            seen: set[str] = set()
            for _ in captions:
                told = split_tokens(next(tokens))
                seen.update(" ".join(told[i : i + n]) for n in ORDERS for i in range(len(told) - n + 1))
            counts.update(seen)
        return cls(len(references), dict(counts))

    def pruned(self) -> DocumentFrequency:
        """Without the n-grams of one photo, which weigh as much as those of none: the same scores, a fifth the size."""
        return DocumentFrequency(self.photos, {name: df for name, df in self.counts.items() if df > 1})

    def save(self, path: str | Path) -> None:
        """Write JSON (compressed where the name ends in .gz)."""
        text = json.dumps({"photos": self.photos, "counts": self.counts}, ensure_ascii=False)
        data = text.encode()
        with whole_file(Path(path)) as fresh:
            fresh.write_bytes(gzip.compress(data, mtime=0) if fresh.suffix == ".gz" else data)

    @classmethod
    def load(cls, path: str | Path) -> DocumentFrequency:
        """Read what `save` wrote.

        Raises:
            InputError: the file is not a document frequency file.
        """
        try:
            data = Path(path).read_bytes()
            content = json.loads(gzip.decompress(data) if Path(path).suffix == ".gz" else data)
            photos, counts = content["photos"], content["counts"]
        except Exception as error:  # zlib and JSON raise their own
            raise InputError(
                f"{path} is not a document frequency file ({error}); write one with "
                "DocumentFrequency.of(...).save(...)"
            ) from error
        known = isinstance(counts, dict) and all(isinstance(n, int) and n >= 0 for n in counts.values())
        if not isinstance(photos, int) or photos < 1 or not known:
            raise InputError(
                f"{path}: 'photos' must be a positive integer and 'counts' an object of counts; write the file with "
                "DocumentFrequency.of(...).save(...)"
            )
        return cls(photos, counts)
