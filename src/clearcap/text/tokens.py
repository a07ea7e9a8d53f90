"""Captions as token ids: cleaning, a word-piece vocabulary of a corpus, padding to a fixed length."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from clearcap.errors import InputError

_NOISE = re.compile(r"[!\"()*#:;~]")
_SPACES = re.compile(r"\s{2,}")
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def clean_caption(caption: str, max_words: int = 30, keep_period: bool = True) -> str:
    """Lower-case, drop ``! " ( ) * # : ; ~``, squeeze spaces, keep the first words (LaDiC's ``pre_caption``).

    Args:
        caption: one caption.
        max_words: words kept, split at single spaces.
        keep_period: False also drops the full stop that ends most captions but not all.

    Raises:
        InputError: the caption is not a string.
    """
    if not isinstance(caption, str):
        raise InputError(f"caption {caption!r} is a {type(caption).__name__}, not text; pass a string")
    text = _NOISE.sub(" ", unicodedata.normalize("NFC", caption).lower())
    text = _SPACES.sub(" ", text).rstrip("\n").strip(" ")
    if not keep_period:
        text = text.rstrip(" .")
    return " ".join(text.split(" ")[:max_words])


def train_tokenizer(captions: Iterable[str], size: int, min_count: int = 4) -> Any:
    """A BERT word-piece tokenizer whose vocabulary is the corpus's own words, most frequent first.

    Every word seen at least ``min_count`` times is one piece, so a word is one position of the latent; rarer
    words are spelled with the letters and letter pairs that fill up the vocabulary.

    Args:
        captions: cleaned captions.
        size: vocabulary size at most, special tokens and letters included.
        min_count: occurrences that make a word a piece of its own.

    Returns:
        A ``transformers.BertTokenizer``.
    """
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from transformers import BertTokenizer

    split = BertPreTokenizer()
    counts: Counter[str] = Counter()
    for caption in captions:
        counts.update(word for word, _ in split.pre_tokenize_str(caption))
    if not counts:
        raise InputError("no captions to take a vocabulary from; pass a corpus with captions")
    letters = sorted({letter for word in counts for letter in word})
    pieces = [*SPECIAL_TOKENS, *letters, *(f"##{letter}" for letter in letters)]
    words = [w for w, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if n >= min_count]
    words = [w for w in words if len(w) > 1][: max(size - len(pieces), 0)]
    endings: Counter[str] = Counter()
    known = set(words)
    for word, n in counts.items():  # frequent endings let rare words start from a known stem
        if word not in known:
            endings.update({f"##{word[-k:]}": n for k in (2, 3, 4) if len(word) > k})
    room = max(size - len(pieces) - len(words), 0)
    pieces += words + [ending for ending, _ in endings.most_common(room)]
    return BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, do_lower_case=True)


def encode_captions(
    tokenizer: Any, captions: Sequence[str], length: int
) -> tuple[Int[Tensor, "batch length"], Int[Tensor, "batch length"]]:
    """Token ids and attention mask of cleaned captions, padded and cut to ``length`` with [CLS] and [SEP]."""
    batch = tokenizer(
        list(captions), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    )
    return batch["input_ids"].to(torch.int64), batch["attention_mask"].to(torch.int64)


def words_of(
    tokenizer: Any, ids: Sequence[int], confidence: Sequence[float], special_ids: Collection[int]
) -> tuple[list[str], list[float]]:
    """Words of predicted ids and each one's confidence (the least of its pieces').

    Special positions are dropped wherever they stand, pieces are joined, and a word that repeats the one before
    it is said once (the authors' post-processing, per caption).
    """
    words: list[str] = []
    trust: list[float] = []
    pieces = tokenizer.convert_ids_to_tokens([int(i) for i in ids])
    for piece, id_, p in zip(pieces, ids, confidence, strict=True):
        if int(id_) in special_ids:
            continue
        if piece.startswith("##") and words:
            words[-1] += piece[2:]
            trust[-1] = min(trust[-1], float(p))
        else:
            words.append(piece.removeprefix("##"))
            trust.append(float(p))
    keep = [i for i, word in enumerate(words) if i == 0 or word != words[i - 1]]
    return [words[i] for i in keep], [trust[i] for i in keep]


def join_words(words: Sequence[str]) -> str:
    """Words as a sentence: no space before punctuation, none around a word's hyphen or apostrophe."""
    text = " ".join(words)
    text = re.sub(r" ([.,?!%])", r"\1", text)
    return re.sub(r" ?(['-]) ?(?=\w)", r"\1", text)
