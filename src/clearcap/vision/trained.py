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
        except InputError:
            raise
        except Exception as error:  # whatever impossible sizes lead to
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
        settings = read_encoder(beside) if beside.is_file() else {}
        encoder: Encoder = cls.build(vision, settings)  # type: ignore[attr-defined]
        return load_weights(encoder, weights) if vision.source else encoder


def read_encoder(file: Path) -> dict[str, Any]:
    """The settings of an encoder that training wrote beside its weights.

    Raises:
        InputError: the file holds something else.
    """
    try:
        return dict(json.loads(file.read_text("utf-8"))["encoder"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{file}: holds no encoder's settings ({type(error).__name__}: {error}); pass the folder of a training run"
        ) from error


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
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{weights}: not the weights of this encoder ({reason}); train it again") from error
    return encoder
