"""The optimisers of a distillation: AdamW, or Muon for matrices and kernels and AdamW for the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class KernelMuon(torch.optim.Muon):
    """Muon (Jordan et al. 2024) of matrices and of convolution kernels, taken as matrices.

    A kernel's matrix has an output channel a row and everything that it sums over as columns. The optimiser holds
    views of the parameters' memory, so a step changes the parameters themselves.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], **settings: Any) -> None:
        """Settings as ``torch.optim.Muon`` has them."""
        self.sources = list(parameters)
        super().__init__([nn.Parameter(as_matrix(p.detach())) for p in self.sources], **settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step with the parameters' gradients."""
        for source, matrix in zip(self.sources, self.param_groups[0]["params"], strict=True):
            matrix.grad = None if source.grad is None else as_matrix(source.grad)
        return super().step(closure)


def as_matrix(kernel: Float[Tensor, out * rest]) -> Float[Tensor, "out columns"]:
    """A kernel's matrix: a view where the kernel lies in memory channels last, as `CompactEncoder`'s do."""
    return kernel.movedim(1, -1).flatten(1)


def make_optimizers(
    encoder: nn.Module, heads: nn.Module, muon: bool, lr: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """Optimisers of every parameter; decay shrinks matrices and kernels only.

    Args:
        encoder: Muon's, where asked for, but for its stem, its output and its vectors.
        heads: AdamW's always.
        muon: use Muon.
        lr: learning rate of both: Muon's steps are scaled to the size of AdamW's.
        weight_decay: of matrices and kernels.
    """
    named = [*encoder.named_parameters(), *heads.named_parameters()]
    inner = [p for name, p in encoder.named_parameters() if muon and is_inner(name, p)]
    held = {id(p) for p in inner}
    groups = [
        {"params": [p for _, p in named if p.ndim > 1 and id(p) not in held], "weight_decay": weight_decay},
        {"params": [p for _, p in named if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))]
    if inner:
        optimizers.append(KernelMuon(inner, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))
    return optimizers


def is_inner(name: str, parameter: Tensor) -> bool:
    """Whether a parameter of a `CompactEncoder` is a matrix or kernel between features and features."""
    return name.startswith(("stages.", "mixers.")) and parameter.ndim in (2, 4)
