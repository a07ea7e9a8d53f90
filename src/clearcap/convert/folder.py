"""The last steps of every conversion: find the tokenizer, write the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clearcap.captioner.model import Captioner
from clearcap.config import Preset
from clearcap.convert.renaming import ConversionReport, Renaming
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


def sections(preset: Preset, **sizes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A preset's settings of the model with a checkpoint's sizes; its towers are in the checkpoint."""
    found = preset.of_the_model()
    sources = {"text": {"source": ""}, "vision": {"source": ""}}
    return {name: values | sources.get(name, {}) | sizes.get(name, {}) for name, values in found.items()}


def write_folder(
    captioner: Captioner,
    renaming: Renaming,
    tokenizer: Any,
    out: str | Path,
    *,
    words: str | Path,
    network: str,
) -> ConversionReport:
    """Write what ``from_pretrained`` reads.

    Args:
        captioner: converted.
        renaming: what became of the checkpoint's tensors.
        tokenizer: loaded from ``words``.
        out: the folder to write.
        words: the tokenizer's name, for messages.
        network: which of the authors' networks the checkpoint holds.

    Raises:
        InputError: the folder holds a model already, or the tokenizer is another model's.
    """
    vocab = captioner.config.bert["vocab_size"]
    if len(tokenizer) != vocab:
        raise InputError(
            f"{words}: {len(tokenizer)} tokens, but the checkpoint has {vocab}; pass the tokenizer it was trained with"
        )
    folder = Path(out)
    if (folder / "config.json").exists():
        raise InputError(f"{folder}: holds a model already; pass another folder or delete it")
    captioner.tokenizer = tokenizer
    captioner.save_pretrained(folder)
    numbers = sum(p.numel() for p in captioner.parameters())
    return ConversionReport(
        renaming.source, str(folder), network, renaming.taken, numbers, tuple(renaming.dropped)
    )
