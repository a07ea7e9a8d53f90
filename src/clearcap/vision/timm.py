"""Image encoders from timm: any of its networks' last feature map or patch tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clearcap.config import VisionConfig
from clearcap.errors import InputError


class TimmEncoder(nn.Module):
    """A timm network behind the ``ImageEncoder`` interface: all tokens of ``forward_features``, the class token included.

    Attributes:
        dim: width of a token.
        tokens: tokens per photo.
        image_size: side, in pixels, to which photos are squashed.
    """

    _shift: Tensor
    _scale: Tensor

    def __init__(self, name: str, image_size: int, mean: list[float], std: list[float]) -> None:
        """Args:
        name: as ``timm.create_model`` takes it.
        image_size: side of the photos.
        mean: of the pixels, RGB, values 0..1.
        std: likewise.

        Raises:
            InputError: timm is not installed, has no such network, or it cannot take such photos.
        """
        super().__init__()
        self.name, self.image_size, self.mean, self.std = name, image_size, list(mean), list(std)
        self.tower = create(name)
        self.register_buffer("_shift", torch.tensor(self.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("_scale", torch.tensor(self.std).view(1, 3, 1, 1), persistent=False)
        try:
            with torch.no_grad():
                probe = self.eval()(torch.zeros(1, 3, image_size, image_size))
        except (AssertionError, ValueError, RuntimeError) as error:
            raise InputError(
                f"timm/{name}: cannot take photos of {image_size} pixels ({error}); set vision.image_size"
            ) from error
        self.tokens, self.dim = int(probe.shape[1]), int(probe.shape[2])

    @classmethod
    def build(cls, vision: VisionConfig, settings: dict[str, Any]) -> TimmEncoder:
        """An untrained encoder."""
        return cls(**settings).requires_grad_(False)

    @classmethod
    def load(cls, vision: VisionConfig) -> TimmEncoder:
        """The network that ``vision.source`` names: ``NAME`` of timm's own weights, or ``NAME=FILE.safetensors``.

        Raises:
            InputError: none is named, there is no such network, or its weights cannot be had or do not fit.
        """
        name, _, file = vision.source.removeprefix("timm/").partition("=")
        if not name:
            raise InputError("vision.source is empty; pass vision.source=<a network of timm>")
        about = create(name).pretrained_cfg
        encoder = cls(name, vision.image_size, list(about["mean"]), list(about["std"]))
        state = read(Path(file)) if file else create(name, pretrained=True).state_dict()
        try:
            encoder.tower.load_state_dict(state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{file}: not the weights of timm/{name} ({reason}); pass others") from error
        return encoder.eval().requires_grad_(False)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch tokens dim"]:
        """Photos with values in 0..1 to tokens, row by row of the grid."""
        features: Tensor = self.tower.forward_features((images - self._shift) / self._scale)
        return features.flatten(2).transpose(1, 2) if features.ndim == 4 else features

    def folded(self) -> TimmEncoder:
        """The encoder itself."""
        return self

    def settings(self) -> dict[str, Any]:
        """Plain values from which ``build`` makes an untrained copy."""
        return {"name": self.name, "image_size": self.image_size, "mean": self.mean, "std": self.std}


def create(name: str, *, pretrained: bool = False) -> Any:
    """A network of timm without its classifier.

    Raises:
        InputError: timm is not installed, has no such network, or cannot get its weights.
    """
    try:
        import timm
    except ImportError as error:
        raise InputError("vision.kind=timm needs timm; pip install 'clearcap[timm]'") from error
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0)
    except (RuntimeError, OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"timm/{name}: cannot be had ({reason}); pass a name that timm knows, or NAME=FILE.safetensors"
        ) from error


def read(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises InputError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(file))
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}: cannot be read ({error}); pass a safetensors file") from error
