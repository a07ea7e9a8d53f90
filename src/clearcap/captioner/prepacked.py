"""Prepacked weights: what depends on a captioner's weights alone is computed once, and not at every call."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from clearcap.arrays import Context, ImageTokens, Latents
from clearcap.captioner.network import Network
from clearcap.errors import InputError

Prepared = TypeVar("Prepared", bound=Network)
ROWS = 384  # the layout's hint; the layout for it is within noise of the best from 20 to 1,576 rows


class PackedLinear(nn.Module):
    """``nn.Linear`` whose weight lies in oneDNN's blocks, into which the usual call rearranges it every time.

    The operators are those that ``torch.compile`` with frozen weights puts in. A prepared layer is for inference
    as it is: it cannot be saved, moved or cast, and says so; it can be pickled and copied.
    """

    def __init__(self, linear: nn.Linear) -> None:
        """Pack a layer that ``packable`` accepts."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Float[Tensor, "*batch in_features"]) -> Float[Tensor, "*batch out_features"]:
        """The product with the packed weight, and the bias."""
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")

    def __getstate__(self) -> dict[str, Any]:
        """For pickling and copying: the weight in its usual layout, which loses nothing."""
        return {**self.__dict__, "_weight": self._weight.to_dense()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight, ROWS)

    def _apply(self, fn: Any, recurse: bool = True) -> PackedLinear:
        raise InputError(
            "a captioner prepared for inference cannot be moved or cast; do that before preparing it"
        )

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        raise InputError("a captioner prepared for inference cannot be saved; save it before preparing it")


class KeptNull(nn.Module):
    """A denoiser whose null context is computed once: it depends on the weights alone."""

    def __init__(self, denoiser: Any) -> None:
        """Wrap a denoiser, whose weights must not change any more."""
        super().__init__()
        self.denoiser = denoiser
        self._null: Context = denoiser.null_context()

    def image_context(self, image: ImageTokens) -> Context:
        """As the denoiser's own."""
        return self.denoiser.image_context(image)

    def null_context(self) -> Context:
        """What the denoiser's own gave when it was wrapped."""
        return self._null

    def forward(self, x: Latents, x_self: Latents, t: Int[Tensor, " batch"], context: Context) -> Latents:
        """As the denoiser's own."""
        return self.denoiser(x, x_self, t, context)


def packable(module: nn.Module) -> bool:
    """Whether oneDNN's blocks are there for a layer on this machine.

    Subclasses of ``nn.Linear`` are left alone: they exist because somebody reads their weight.
    """
    if type(module) is not nn.Linear or module.weight.device.type != "cpu":
        return False
    if not torch.backends.mkldnn.is_available():
        return False
    dtype = module.weight.dtype
    return dtype == torch.float32 or (
        dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


@torch.no_grad()
def prepare_for_inference(captioner: Prepared) -> Prepared:
    """Make a captioner faster in place; its captions stay the same up to rounding.

    Linear layers are packed one by one, so memory never holds all weights twice. Off the CPU only the null
    context is kept.

    Args:
        captioner: in its final place and dtype. Afterwards it can only generate captions.

    Returns:
        The same captioner.
    """
    captioner.eval().requires_grad_(False)
    _pack(captioner)
    captioner.denoiser = KeptNull(captioner.denoiser)
    return captioner


def _pack(module: nn.Module) -> None:
    for name, child in module.named_children():
        if packable(child):
            setattr(module, name, PackedLinear(child))  # type: ignore[arg-type]
        else:
            _pack(child)
