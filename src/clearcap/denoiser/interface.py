"""What every denoiser offers, and how a registered kind of denoiser is built."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from clearcap.layers import Context


@runtime_checkable
class Denoiser(Protocol):
    """A module that predicts a clean caption latent from a noisy one and a photo."""

    def image_context(self, image: Float[Tensor, "photos tokens image_dim"]) -> Context:
        """What the denoiser keeps of photos: computed once, used at every step and by every copy."""

    def null_context(self) -> Context:
        """The context of no photo, for one photo."""

    def __call__(
        self,
        x: Float[Tensor, "batch length dim"],
        x_self: Float[Tensor, "batch length dim"],
        t: Int[Tensor, " batch"],
        context: Context,
    ) -> Float[Tensor, "batch length dim"]:
        """The prediction for noisy latents, previous predictions and times; ``batch`` is photos * copies, photo-major."""


class BuildDenoiser(Protocol):
    """What the registry holds for a kind of denoiser."""

    def __call__(self, sizes: Any, *, dim: int, length: int, image_dim: int, image_tokens: int) -> Any:
        """An untrained denoiser.

        Args:
            sizes: a ``DenoiserConfig``.
            dim: channels of a latent.
            length: positions of a caption.
            image_dim: channels of an image token.
            image_tokens: tokens of a photo.

        Raises:
            InputError: sizes that do not fit each other.
        """
