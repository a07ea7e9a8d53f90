"""Comparison of replayed tensors with recorded ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clearcap.config import TrainConfig
from clearcap.errors import InputError
from clearcap.training.optimizers import make_optimizers

BOUNDS = {
    "components": 5e-6,  # a network's parts, one pass each
    "forward": 5e-6,
    "sampling": 2e-5,  # some tens of passes, each fed what the one before gave
    "training": 2e-5,  # losses, gradients, parameters after some AdamW steps
    "captions": 0.0,  # tokens and strings
}
"""Greatest difference of each stage, in float32, as a share of the recorded tensor's greatest magnitude."""


@dataclass(frozen=True)
class Recorded:
    """A fixture: the authors' weights, and what their networks computed with them.

    Attributes:
        weights: under the authors' names.
        tensors: inputs and outputs.
        about: the fixture's README.
        dtype: what real numbers are read as: float32, as recorded, or float64, which leaves only the recording's
            own rounding between it and an exact replay.
        group: what the names of these tensors begin with in the fixture.
    """

    weights: dict[str, Tensor]
    tensors: dict[str, Tensor]
    about: dict[str, Any]
    dtype: torch.dtype
    group: str = ""

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise InputError(f"the fixture lacks {self.group}{name}; record it again with all tensors")
        found = self.tensors[name]
        return found.to(self.dtype) if found.is_floating_point() else found

    def under(self, group: str) -> Recorded:
        """The tensors of a group, by what follows it in their names."""
        found = {
            name.removeprefix(group): self.tensors[name] for name in self.tensors if name.startswith(group)
        }
        return replace(self, tensors=found, group=self.group + group)


class Comparison:
    """Differences between what was replayed and what was recorded, for one stage of a variant.

    Attributes:
        bound: greatest difference allowed.
        differences: by name, as shares of the recorded tensor's greatest magnitude.
        rounding: the greatest difference from a replay in float64: how far the recording itself is rounded.
    """

    def __init__(self, stage: str) -> None:
        self.bound = BOUNDS[stage]
        self.differences: dict[str, float] = {}
        self.rounding = 0.0

    @property
    def worst_name(self) -> str:
        """What differs most."""
        return max(self.differences, key=lambda name: self.differences[name], default="")

    @property
    def worst(self) -> float:
        """The greatest difference."""
        return max(self.differences.values(), default=0.0)

    @property
    def ok(self) -> bool:
        """Whether all is within the bound."""
        return self.worst <= self.bound

    def close(
        self, name: str, mine: Tensor | float, theirs: Tensor | float, size: float | None = None
    ) -> None:
        """Compare real numbers, relative to the greatest magnitude recorded or to ``size``."""
        a, b = torch.as_tensor(mine).detach().double(), torch.as_tensor(theirs).double()
        difference = float("inf")
        if a.shape == b.shape:
            difference = float((a - b).abs().max()) / (size or float(b.abs().max()) or 1.0)
        self.differences[name] = difference if difference == difference else float("inf")

    def same(self, name: str, mine: Any, theirs: Any) -> None:
        """Compare what must be identical: token ids, captions, times."""
        self.differences[name] = 0.0 if np.array_equal(mine, theirs) else float("inf")

    def tensors(self, prefix: str, mine: Mapping[str, Tensor], theirs: Recorded) -> None:
        """Compare every recorded tensor of a group."""
        for name, value in theirs.tensors.items():
            self.close(prefix + name, mine.get(name, torch.empty(0)), value)


def compare_training(
    compared: Comparison,
    captioner: nn.Module,
    objective: nn.Module,
    recorded: Recorded,
    rates: Sequence[float],
    take_step: Callable[[int], Tensor],
    authors_names: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    norms: Mapping[str, float | None],
) -> None:
    """Repeat recorded AdamW steps; compare the first one's gradients and the parameters after the last.

    Args:
        compared: takes the comparisons.
        captioner: what is trained.
        objective: what the optimiser is made for.
        recorded: the variant's tensors, whose ``grad0`` and ``after`` are compared.
        rates: the learning rate of each step.
        take_step: the loss of a step, its own comparisons made.
        authors_names: parameters or gradients under the authors' names.
        norms: of the first step's gradients; None for a tensor without one.
    """
    (optimizer,) = make_optimizers(objective, TrainConfig(optimizer="plain-adamw", lr=max(rates) or 1e-3))
    for step, rate in enumerate(rates):
        loss = take_step(step)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            gradients = authors_names(
                {name: p.grad for name, p in captioner.named_parameters() if p.grad is not None}
            )
            compared.tensors("gradient of ", gradients, recorded.under("grad0/"))
            size = max((norm for norm in norms.values() if norm is not None), default=1.0)
            for name, norm in norms.items():
                if norm is None:
                    compared.same(f"no gradient of {name}", name in gradients, False)
                elif name in gradients:
                    compared.close(f"gradient norm of {name}", gradients[name].norm(), norm, size)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    after = authors_names(dict(captioner.named_parameters()))
    compared.tensors("after the steps, ", after, recorded.under(f"after{len(rates)}/"))


class Spy:
    """Keeps what a module was given and what it gave, while it is installed."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.inputs: list[tuple[Any, ...]] = []
        self.outputs: list[Tensor] = []

    def __enter__(self) -> Spy:
        self._hook = self.module.register_forward_hook(self._see)
        return self

    def __exit__(self, *fault: object) -> None:
        self._hook.remove()

    def _see(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        self.inputs.append(inputs)
        self.outputs.append(output.detach())


class Injected:
    """Hands out recorded draws in order, in place of a random generator."""

    def __init__(self, draws: Sequence[Tensor]) -> None:
        self.draws = list(draws)
        self.given = 0

    def __call__(self) -> Tensor:
        if self.given == len(self.draws):
            raise InputError(
                f"the replay asks for more than the {self.given} recorded draws; it has too many steps"
            )
        self.given += 1
        return self.draws[self.given - 1]

    @property
    def spent(self) -> bool:
        """Whether all recorded draws have been handed out."""
        return self.given == len(self.draws)
