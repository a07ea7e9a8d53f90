"""Comparison of replayed tensors with recorded ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from clearcap.errors import InputError

TOLERANCE = 2e-5  # float32, absolute
STEPS_TOLERANCE = 1e-5  # parameters after a few AdamW steps


class Recorded:
    """A fixture's tensors; every one that is asked for counts as checked.

    Attributes:
        about: the fixture's README.
    """

    def __init__(self, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        self.tensors = tensors
        self.about = about
        self.used: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise InputError(f"the fixture lacks {name}; record it again with all tensors")
        self.used.add(name)
        return self.tensors[name]

    def under(self, prefix: str) -> dict[str, Tensor]:
        """All tensors under a prefix, without it."""
        return {name.removeprefix(prefix): self[name] for name in self.tensors if name.startswith(prefix)}


class Comparison:
    """The worst difference between what was replayed and what was recorded, for one variant."""

    def __init__(self) -> None:
        self.worst = 0.0
        self.worst_name = ""
        self.ok = True

    def close(self, name: str, mine: Tensor, theirs: Tensor, tolerance: float = TOLERANCE) -> None:
        """Compare real numbers."""
        if mine.shape != theirs.shape:
            self._count(name, float("inf"), tolerance)
            return
        error = (mine.detach() - theirs).abs()
        worst = float(error.max()) if error.numel() else 0.0
        self._count(name, worst if worst == worst else float("inf"), tolerance)

    def number(self, name: str, mine: Tensor | float, theirs: float, tolerance: float = TOLERANCE) -> None:
        """Compare a sum over many numbers, relative to it where it exceeds 1."""
        scale = max(1.0, abs(theirs))
        self._count(name, abs(float(mine) - theirs) / scale, tolerance)

    def same(self, name: str, mine: Any, theirs: Any) -> None:
        """Compare what must be identical: token ids, captions, times."""
        if isinstance(theirs, Tensor):
            equal = mine.shape == theirs.shape and bool((mine == theirs).all())
        else:
            equal = mine == theirs
        self._count(name, 0.0 if equal else float("inf"), TOLERANCE)

    def gradients(self, mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
        """Compare gradients, each tensor's relative to its largest element: sums over a batch round by that."""
        for name, value in theirs.items():
            scale = float(value.abs().max().clamp_min(1))
            self.tensors(
                "gradient of ", {k: v / scale for k, v in mine.items() if k == name}, {name: value / scale}
            )

    def tensors(
        self,
        prefix: str,
        mine: Mapping[str, Tensor],
        theirs: Mapping[str, Tensor],
        tolerance: float = TOLERANCE,
    ) -> None:
        """Compare every recorded tensor of a group."""
        for name, value in theirs.items():
            if name in mine:
                self.close(prefix + name, mine[name], value, tolerance)
            else:
                self._count(prefix + name, float("inf"), tolerance)

    def _count(self, name: str, error: float, tolerance: float) -> None:
        if not self.worst_name or error > self.worst:
            self.worst, self.worst_name = error, name
        self.ok = self.ok and error <= tolerance


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
        return self.given == len(self.draws)
