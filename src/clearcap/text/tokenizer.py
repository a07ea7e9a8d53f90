"""Captions to token ids and back: cleaning, word pieces, padding, and the one place where ids become words."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool

from clearcap.arrays import TokenIds
from clearcap.config import number
from clearcap.errors import InputError
from clearcap.metrics.unicode_words import unspaced

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_NOISE = re.compile(r"[!\"()*#:;~]")
_SPACES = re.compile(r"\s{2,}")
_STOPS = "，。、？！：；،؟؛۔"  # of Chinese, Japanese, Arabic and Urdu
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def clean_caption(caption: str, max_words: int = 30, keep_period: bool = True) -> str:
    """Drop ``! " ( ) * # : ; ~``, squeeze spaces, keep the first words (LaDiC's ``pre_caption``).

    Capitals stay: whether they count is a matter of the vocabulary, whose tokenizer lower-cases or does not.

    Args:
        caption: one caption.
        max_words: words kept, split at single spaces.
        keep_period: False also drops the full stop that ends most captions but not all.

    Raises:
        InputError: the caption is not a string.
    """
    if not isinstance(caption, str):
        raise InputError(f"caption {caption!r} is a {type(caption).__name__}, not text; pass a string")
    text = _NOISE.sub(" ", unicodedata.normalize("NFC", caption))
    text = _SPACES.sub(" ", text).rstrip("\n").strip(" ")
    if not keep_period:
        text = text.rstrip(" .")
    return " ".join(text.split(" ")[: number("max_words", max_words, int, 0)])


def train_tokenizer(captions: Iterable[str], size: int, min_count: int = 4, *, cased: bool = False) -> Any:
    """A BERT word-piece tokenizer whose vocabulary is the corpus's own words, most frequent first.

    Every word seen at least ``min_count`` times is one piece, so a word is one position of the latent; rarer
    words are spelled with the letters and letter pairs that fill up the vocabulary.

    Args:
        captions: cleaned captions.
        size: vocabulary size at most, special tokens and letters included.
        min_count: occurrences that make a word a piece of its own.
        cased: keep capitals and accents, of which the tokenizer drops both otherwise.

    Returns:
        A ``transformers.BertTokenizer``.

    Raises:
        InputError: there are no captions.
    """
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from transformers import BertTokenizer

    normal, split = BertNormalizer(lowercase=not cased), BertPreTokenizer()
    counts: Counter[str] = Counter()
    for caption in captions:
        counts.update(word for word, _ in split.pre_tokenize_str(normal.normalize_str(caption)))
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
    return BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, do_lower_case=not cased)


def keeps_capitals(tokenizer: Any) -> bool:
    """Whether a vocabulary tells "Hund" from "hund"."""
    special = set(tokenizer.convert_ids_to_tokens(tokenizer.all_special_ids))
    return any(piece != piece.lower() for piece in tokenizer.get_vocab() if piece not in special)


def encode_captions(tokenizer: Any, captions: Sequence[str], length: int) -> tuple[TokenIds, TokenIds]:
    """Token ids and attention mask of cleaned captions, padded and cut to ``length`` with [CLS] and [SEP]."""
    batch = tokenizer(
        list(captions), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    )
    return batch["input_ids"].long(), batch["attention_mask"].long()


class WordPieces:
    """What reading and filling captions needs of a tokenizer; the same answers as ``transformers.BertTokenizer``.

    Attributes:
        unk_token, unk_token_id: what stands for words that cannot be spelled.
        cls_token_id, sep_token_id, pad_token_id: of the special tokens.
        all_special_ids: of every special token.
    """

    unk_token = "[UNK]"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.unk_token_id: int = tokenizer.get_vocab()[self.unk_token]
        self.cls_token_id = self.convert_tokens_to_ids("[CLS]")
        self.sep_token_id = self.convert_tokens_to_ids("[SEP]")
        self.pad_token_id = self.convert_tokens_to_ids("[PAD]")
        added = tokenizer.get_added_tokens_decoder()
        self.all_special_ids = sorted(i for i, token in added.items() if token.special)

    @classmethod
    def read(cls, folder: Path) -> WordPieces:
        """The vocabulary of a saved captioner.

        Raises:
            InputError: the folder has no readable ``tokenizer.json``.
        """
        from tokenizers import Tokenizer

        file = folder / "tokenizer.json"
        try:
            tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8"))
        except Exception as fault:  # the Rust library raises Exception itself
            reason = " ".join(str(fault).split())
            raise InputError(
                f"{file}: cannot be read ({reason}); pass the folder of a saved captioner"
            ) from fault
        if "[UNK]" not in tokenizer.get_vocab():
            raise InputError(
                f"{file}: has no [UNK], so it is not a BERT's; pass the folder of a saved captioner"
            )
        tokenizer.no_padding()  # saved as the last batch of training had them
        tokenizer.no_truncation()
        return cls(tokenizer)

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> int | list[int]:
        """The id of a piece, or of each; an unknown one has [UNK]'s."""
        if not isinstance(tokens, str):
            return [self._id(token) for token in tokens]
        return self._id(tokens)

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """The piece of each id; [UNK] where there is none."""
        return [self._tokenizer.id_to_token(i) or self.unk_token for i in ids]

    def tokenize(self, text: str) -> list[str]:
        """The pieces of a text, without special tokens."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).tokens)

    def get_vocab(self) -> dict[str, int]:
        """Each piece's id."""
        return dict(self._tokenizer.get_vocab())

    def bert(self) -> Any:
        """The same as a ``transformers.BertTokenizer``, which can be saved and encodes batches."""
        from transformers import BertTokenizer

        normal = json.loads(self._tokenizer.to_str())["normalizer"]
        return BertTokenizer(
            vocab=self.get_vocab(),
            do_lower_case=normal["lowercase"],
            strip_accents=normal["strip_accents"],
            tokenize_chinese_chars=normal["handle_chinese_chars"],
        )

    def _id(self, token: str) -> int:
        found: int | None = self._tokenizer.token_to_id(token)
        return self.unk_token_id if found is None else found


@dataclass(frozen=True)
class DecodedCaption:
    """A caption read off token ids.

    Attributes:
        words: its words.
        confidence: each word's probability, the least of its pieces'.
        places: positions of each word's pieces.
    """

    words: tuple[str, ...]
    confidence: tuple[float, ...]
    places: tuple[tuple[int, ...], ...] = ()

    @property
    def text(self) -> str:
        """The words as a sentence."""
        return join_words(self.words)


def word_ids(tokenizer: Any, special_ids: Sequence[int], vocab: int) -> Bool[np.ndarray, " vocab"]:
    """Which of ``vocab`` tokens may fill a blank of one word: whole words of letters or digits."""
    allowed = np.zeros(vocab, dtype=bool)
    banned = {*special_ids, *tokenizer.all_special_ids}
    for piece, i in tokenizer.get_vocab().items():
        whole = not piece.startswith(("##", "[")) and any(letter.isalnum() for letter in piece)
        allowed[i] = whole and i not in banned
    return allowed


def decode_caption(
    tokenizer: Any,
    ids: Sequence[int],
    special_ids: Collection[int],
    confidence: Sequence[float] | None = None,
) -> DecodedCaption:
    """The caption that predicted ids spell.

    Special positions are dropped wherever they stand, pieces are joined, and a word that repeats the one before
    it is said once (the authors' post-processing, per caption). A character of a script without spaces is a word, but
    two of a kind are none too many.

    Args:
        tokenizer: the text space's.
        ids: a token for each position.
        special_ids: tokens that are not words.
        confidence: each token's probability; default 1.
    """
    words: list[str] = []
    trust: list[float] = []
    places: list[tuple[int, ...]] = []
    pieces = tokenizer.convert_ids_to_tokens([int(i) for i in ids])
    for place, (piece, id_, p) in enumerate(
        zip(pieces, ids, [1.0] * len(ids) if confidence is None else confidence, strict=True)
    ):
        if int(id_) in special_ids:
            continue
        if piece.startswith("##") and words:
            words[-1] += piece[2:]
            trust[-1] = min(trust[-1], float(p))
            places[-1] += (place,)
        else:
            words.append(piece.removeprefix("##"))
            trust.append(float(p))
            places.append((place,))
    keep = [i for i, word in enumerate(words) if i == 0 or word != words[i - 1] or may_repeat(word)]
    return DecodedCaption(
        tuple(words[i] for i in keep), tuple(trust[i] for i in keep), tuple(places[i] for i in keep)
    )


def join_words(words: Sequence[str]) -> str:
    """Words as a sentence: no space before punctuation, around a word's hyphen or apostrophe, or where none is written.

    Characters of scripts without spaces, such as Chinese, stand one behind the other.
    """
    text = re.sub(rf" ([.,?!%{_STOPS}])", r"\1", side_by_side(words))
    return re.sub(r" ?(['-]) ?(?=\w)", r"\1", text)


def side_by_side(words: Sequence[str]) -> str:
    """Words with a space between each two, but for scripts without."""
    return "".join(words[:1]) + "".join(gap(before, word) + word for before, word in pairwise(words))


def gap(before: str, after: str) -> str:
    """What stands between two pieces of text: nothing within a script without spaces, else a space."""
    ends = before[-1:], after[:1]
    return "" if all(end and (unspaced(end) or end in _STOPS) for end in ends) else " "


def split_words(text: str) -> list[str]:
    """The words of a text: what stands between spaces, and each character of a script without them."""
    apart = "".join(f" {letter} " if unspaced(letter) else letter for letter in text)
    return apart.split()


def may_repeat(word: str) -> bool:
    """Whether a word may follow itself: characters of scripts without spaces often do."""
    return len(word) == 1 and unspaced(word)
