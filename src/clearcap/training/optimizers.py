"""The optimisers of every training here: AdamW, or Muon for matrices and kernels and AdamW for the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clearcap.config import TrainConfig


def make_optimizers(objective: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """What fits a denoiser: AdamW, or Muon for the matrices inside the blocks and AdamW for everything else."""
    trained = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    if config.optimizer == "plain-adamw":  # both papers'
        return [plain_adamw(trained.values(), config.lr, config.weight_decay)]
    muon = config.optimizer == "muon"
    inner = [name for name, p in trained.items() if muon and ".blocks." in name and p.ndim == 2]
    return split_optimizers(
        trained, inner, lr=config.lr, muon_lr=config.muon_lr, weight_decay=config.weight_decay
    )


def plain_adamw(
    parameters: Iterable[nn.Parameter],
    lr: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
) -> torch.optim.Optimizer:
    """AdamW alone, which decays vectors too."""
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, betas=betas)


def split_optimizers(
    named: Mapping[str, nn.Parameter], inner: Iterable[str], *, lr: float, muon_lr: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """Muon for the inner matrices and kernels, if there are any, and AdamW for the rest.

    Args:
        named: all parameters.
        inner: names of Muon's.
        lr: learning rate of AdamW.
        muon_lr: learning rate of Muon, whose steps are scaled to the size of AdamW's.
        weight_decay: of matrices and kernels; decay of norms and biases would only shrink what they rescale.
    """
    of_muon = dict.fromkeys(inner)
    rest = [p for name, p in named.items() if name not in of_muon]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98))]
    if of_muon:
        kernels = [named[name] for name in of_muon]
        kind = torch.optim.Muon if all(p.ndim == 2 for p in kernels) else KernelMuon
        optimizers.append(
            kind(kernels, lr=muon_lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        )
    return optimizers


class KernelMuon(torch.optim.Muon):
    """Muon (Jordan et al. 2024) of matrices and of convolution kernels, taken as matrices.

    A kernel's matrix has an output channel a row and everything that it sums over as columns. The optimiser holds
    views of the parameters' memory, so a step changes the parameters themselves; ``zero_grad`` of the module, not of
    this optimiser, clears their gradients.
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


def as_matrix(kernel: Float[Tensor, "out *rest"]) -> Float[Tensor, "out columns"]:
    """A kernel's matrix: a view where the kernel lies in memory channels last, as ``CompactEncoder``'s do."""
    return kernel.movedim(1, -1).flatten(1)
