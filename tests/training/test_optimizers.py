"""The optimisers against their update rules, written out for each kind of weight."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from clearcap.config import TrainConfig
from clearcap.training.optimizers import KernelMuon, make_optimizers, plain_adamw, split_optimizers

LR, MUON_LR, DECAY = 0.01, 0.02, 0.3
MUON = {"net.blocks.0.dense.weight"}
VECTORS = {"net.blocks.0.dense.bias", "net.blocks.0.norm.weight", "net.blocks.0.norm.bias", "net.head.bias"}


class Objective(nn.Module):
    """One weight of each kind: matrices inside and outside the blocks, a kernel, norms, biases, a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        block = nn.ModuleDict({"dense": nn.Linear(6, 4), "norm": nn.LayerNorm(4)})
        block["kernel"] = nn.Conv2d(4, 4, 3, bias=False).to(memory_format=torch.channels_last)
        self.net = nn.ModuleDict({"blocks": nn.ModuleList([block]), "head": nn.Linear(4, 3)})
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        with torch.no_grad():
            for weight in self.parameters():
                weight.normal_()


def adamw(
    weight: Tensor, gradients: list[Tensor], decay: float, betas: tuple[float, float] = (0.9, 0.98)
) -> Tensor:
    """AdamW with decoupled decay (Loshchilov & Hutter 2019, algorithm 2)."""
    m = v = torch.zeros_like(weight)
    for step, g in enumerate(gradients, 1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        update = (m / (1 - betas[0] ** step)) / ((v / (1 - betas[1] ** step)).sqrt() + 1e-8)
        weight = weight - LR * decay * weight - LR * update
    return weight


def stepped(
    kind: str, gradient: Callable[[Tensor], Tensor], steps: int
) -> dict[str, tuple[Tensor, Tensor, list]]:
    """Each weight before and after some steps, and its gradients."""
    objective = Objective()
    before = {name: p.detach().clone() for name, p in objective.named_parameters()}
    gradients: dict[str, list[Tensor]] = {name: [] for name in before}
    optimizers = make_optimizers(
        objective, TrainConfig(optimizer=kind, lr=LR, muon_lr=MUON_LR, weight_decay=DECAY)
    )
    for _ in range(steps):
        for name, p in objective.named_parameters():
            p.grad = gradient(p.detach())
            gradients[name].append(p.grad.clone())
        for optimizer in optimizers:
            optimizer.step()
    after = dict(objective.named_parameters())
    return {name: (before[name], after[name].detach(), gradients[name]) for name in before}


@pytest.mark.parametrize("kind", ["adamw", "muon", "plain-adamw"])
def test_two_steps_are_adamws_and_vectors_do_not_decay(kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    moved = stepped(kind, lambda p: torch.randn(p.shape, generator=generator), 2)
    for name, (before, after, gradients) in moved.items():
        if name.startswith("frozen"):
            assert torch.equal(after, before)
        elif kind == "plain-adamw":
            torch.testing.assert_close(after, adamw(before, gradients, DECAY, (0.9, 0.999)))
        elif kind == "adamw" or name not in MUON:
            torch.testing.assert_close(
                after, adamw(before, gradients, 0.0 if name in VECTORS else DECAY), msg=name
            )


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_without_a_gradient_only_matrices_and_kernels_shrink(kind: str) -> None:
    for name, (before, after, _) in stepped(kind, torch.zeros_like, 1).items():
        rate = MUON_LR if kind == "muon" and name in MUON else LR
        shrunk = 1.0 if name in VECTORS or name.startswith("frozen") else 1 - rate * DECAY
        torch.testing.assert_close(after, shrunk * before, msg=name)


def test_muon_turns_a_blocks_matrix_by_the_nearest_orthogonal_one() -> None:
    generator = torch.Generator().manual_seed(1)
    moved = stepped("muon", lambda p: torch.randn(p.shape, generator=generator), 1)
    (name,) = MUON
    before, after, (gradient,) = moved[name]
    u, _, v = torch.linalg.svd(gradient, full_matrices=False)
    update = (before * (1 - MUON_LR * DECAY) - after) / (
        MUON_LR * 0.2 * 6**0.5
    )  # of AdamW's root mean square
    found = u.T @ update @ v.T
    # Newton-Schulz in five steps leaves singular values between 0.7 and 1.2
    assert ((found.diagonal() > 0.6) & (found.diagonal() < 1.3)).all()
    assert (found - found.diagonal().diag()).abs().max() < 0.05


def test_there_is_no_muon_without_blocks() -> None:
    alone = make_optimizers(nn.Linear(2, 2), TrainConfig(optimizer="muon"))
    assert [type(optimizer) for optimizer in alone] == [torch.optim.AdamW]


@pytest.mark.parametrize(("inner", "kind"), [("dense", torch.optim.Muon), ("kernel", KernelMuon)])
def test_muon_is_torchs_unless_it_is_given_kernels(inner: str, kind: type) -> None:
    named = dict(Objective().named_parameters())
    rates = {"lr": LR, "muon_lr": MUON_LR, "weight_decay": DECAY}
    adamw, muon = split_optimizers(named, [f"net.blocks.0.{inner}.weight"], **rates)
    assert type(muon) is kind
    (moved,) = muon.param_groups[0]["params"]
    assert moved.data_ptr() == named[f"net.blocks.0.{inner}.weight"].data_ptr()
    assert sum(len(group["params"]) for group in adamw.param_groups) == len(named) - 1


def test_plain_adamw_takes_other_betas() -> None:
    weight = nn.Parameter(torch.ones(2))
    assert plain_adamw([weight], LR, DECAY, betas=(0.5, 0.6)).defaults["betas"] == (0.5, 0.6)
