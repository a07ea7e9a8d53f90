"""Encoders by name: from settings, untrained, or from a folder or the hub, trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clearcap.errors import InputError
from clearcap.vision.compact import CompactEncoder, fold, load_compact
from clearcap.vision.efficientnet import EfficientNetEncoder, fold_batch_norms
from clearcap.vision.pair import PairedEncoder
from clearcap.vision.pretrained import Mode, PretrainedEncoder, build_pretrained, load_pretrained


def build_encoder(
    kind: str, **settings: Any
) -> CompactEncoder | EfficientNetEncoder | PairedEncoder | PretrainedEncoder:
    """An untrained encoder, for loading a saved state into.

    Args:
        kind: `compact`, `efficientnet`, `pair` or `pretrained`.
        settings: what the `settings()` of such an encoder returned.

    Raises:
        InputError: no such kind, or settings it does not take.
    """
    builders = {
        "compact": CompactEncoder,
        "efficientnet": EfficientNetEncoder,
        "pair": PairedEncoder,
        "pretrained": build_pretrained,
    }
    if kind not in builders:
        raise InputError(f"encoder kind {kind!r}: unknown; pass one of {', '.join(builders)}")
    try:
        return builders[kind](**settings)  # type: ignore[operator]
    except TypeError as error:
        raise InputError(
            f"encoder settings of kind {kind!r}: {error}; pass those its settings() gave"
        ) from error


def for_inference(encoder: Any) -> Any:
    """The encoder with batch norms merged into its convolutions, where it is one of those trained here."""
    if isinstance(encoder, PairedEncoder):
        return encoder.folded()
    if isinstance(encoder, EfficientNetEncoder):
        return fold_batch_norms(encoder)
    return fold(encoder) if isinstance(encoder, CompactEncoder) else encoder


def load_encoder(
    source: str | Path, mode: Mode = "patches", image_size: int | None = None
) -> CompactEncoder | PretrainedEncoder:
    """A trained encoder: a folder that `distill` wrote, a transformers model folder, or a hub name.

    Raises:
        InputError: nothing loadable at `source`.
    """
    if (Path(source) / "encoder.safetensors").is_file():
        return load_compact(source)
    return load_pretrained(source, mode, image_size)
