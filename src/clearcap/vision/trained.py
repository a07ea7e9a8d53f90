"""What the image encoders that are trained here have in common: their weights are one safetensors file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from clearcap.config import VisionConfig
from clearcap.errors import InputError

Encoder = TypeVar("Encoder", bound=nn.Module)


class TrainedEncoder(nn.Module):
    """An encoder whose constructor takes what its ``settings`` gives, ``dim`` and ``image_size`` among it."""

    @classmethod
    def build(cls: type[Encoder], vision: VisionConfig, settings: dict[str, Any]) -> Encoder:
        """An untrained encoder; ``settings`` may leave out what the preset says.

        Raises:
            InputError: the encoder has no such setting.
        """
        try:
            return cls(**({"dim": vision.dim, "image_size": vision.image_size} | settings))
        except TypeError as error:
            raise InputError(
                f"the image encoder's settings {settings} do not fit vision.kind={vision.kind} ({error}); "
                "pass those its settings() gave"
            ) from error

    @classmethod
    def load(cls: type[Encoder], vision: VisionConfig) -> Encoder:
        """A trained encoder: ``vision.source`` is its safetensors file; empty for an untrained one.

        Its sizes are those in the ``.json`` file beside, where training wrote one.

        Raises:
            InputError: the file is absent, or holds another encoder's weights.
        """
        weights = Path(vision.source)
        beside = weights.with_suffix(".json") if vision.source else weights
        settings = json.loads(beside.read_text())["encoder"] if beside.is_file() else {}
        encoder: Encoder = cls.build(vision, settings)  # type: ignore[attr-defined]
        return load_weights(encoder, weights) if vision.source else encoder


def load_weights(encoder: Encoder, weights: Path) -> Encoder:
    """The encoder with the weights of a file.

    Raises:
        InputError: it is absent, or holds another encoder's weights.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not weights.is_file():
        raise InputError(f"{weights}: absent; make it with clearcap distill or clearcap finetune-encoder")
    try:
        encoder.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{weights}: not the weights of this encoder ({reason}); train it again") from error
    return encoder
