"""A saved word-piece vocabulary, read without transformers, under its tokenizers' names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clearcap.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


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

    def _id(self, token: str) -> int:
        found: int | None = self._tokenizer.token_to_id(token)
        return self.unk_token_id if found is None else found
