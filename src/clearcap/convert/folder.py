"""The last steps of every conversion: find the tokenizer, write the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clearcap.captioner.model import Captioner
from clearcap.errors import InputError


def load_tokenizer(source: str | Path) -> Any:
    """A BERT tokenizer from a folder, a hub name or a ``vocab.txt``.

    Raises:
        InputError: nothing loadable there.
    """
    from transformers import AutoTokenizer, BertTokenizer

    path = Path(source)
    try:
        if path.suffix == ".txt":
            pieces = path.read_text(encoding="utf-8").splitlines()
            return BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, do_lower_case=True)
        return AutoTokenizer.from_pretrained(str(source))
    except (OSError, ValueError) as fault:
        reason = str(fault).splitlines()[0]
        raise InputError(f"{source}: no tokenizer there ({reason}); pass its folder or vocab.txt") from fault


def write_folder(captioner: Captioner, tokenizer: Any, out: Path) -> None:
    """Write what ``from_pretrained`` reads.

    Raises:
        InputError: the folder holds a model already.
    """
    if (out / "config.json").exists():
        raise InputError(f"{out}: holds a model already; pass another folder or delete it")
    out.mkdir(parents=True, exist_ok=True)
    captioner.save_pretrained(out)
    tokenizer.save_pretrained(out)
