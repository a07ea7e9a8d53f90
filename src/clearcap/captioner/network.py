"""``Network``: text space, image encoder and denoiser as one module of torch that generates captions.

``clearcap.captioner.model.Captioner`` is the same as a transformers model. The two are apart because importing
transformers' models takes longer than captioning a photo.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from clearcap.captioner.building import Parts, Settings, build_parts
from clearcap.captioner.generating import CaptionModel, Generated


class Network(CaptionModel, nn.Module):
    """A diffusion image captioner in torch."""

    image_tokens = True
    libraries = ("torch", "transformers")

    def __init__(self, config: Settings, parts: Parts | None = None) -> None:
        """Args:
        config: settings.
        parts: made elsewhere; default are those of the settings, untrained.
        """
        nn.Module.__init__(self)
        self.config = config
        self.take(config, parts or build_parts(config))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are stored in."""
        return next(self.parameters()).dtype

    def for_inference(self) -> Network:
        """In evaluation mode."""
        return self.eval()

    def inference(self) -> AbstractContextManager[Any]:
        """Torch's inference mode."""
        return torch.inference_mode()

    def asarray(self, values: Any, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor on the model's device."""
        return torch.asarray(values, dtype=dtype, device=self.device)

    def pixels(
        self, photos: UInt8[np.ndarray, "photos height width 3"]
    ) -> Float[Tensor, "photos 3 height width"]:
        """Photos as the captioner's input, in 0..1."""
        batch = torch.from_numpy(photos)
        if self.device.type == "cuda":  # pinned, so that the copy does not stop what the GPU is at
            batch = batch.pin_memory()
        batch = batch.to(self.device, non_blocking=True)
        return batch.permute(0, 3, 1, 2).to(self.dtype) / 255

    def forward(self, pixel_values: Tensor, **how: Any) -> Generated:
        """As ``generate``: a captioner has no other forward pass worth a name."""
        return self.generate(pixel_values, **how)
