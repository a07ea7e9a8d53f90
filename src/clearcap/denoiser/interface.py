"""What every denoiser offers, and how a registered kind of denoiser is built."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Int

from clearcap.arrays import Array, Context, ImageTokens, Latents


@runtime_checkable
class Denoiser(Protocol):
    """A module that predicts a clean caption latent from a noisy one and a photo."""

    def image_context(self, image: ImageTokens) -> Context:
        """What the denoiser keeps of photos: computed once, used at every step and by every copy."""

    def null_context(self) -> Context:
        """The context of no photo, for one photo."""

    def __call__(self, x: Latents, x_self: Latents, t: Int[Array, " batch"], context: Context) -> Latents:
        """The prediction of noisy latents, previous predictions and times; rows are photos * copies, photo-major."""


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
