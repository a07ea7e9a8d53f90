"""Strict renaming of a checkpoint's tensors: every one is taken, dropped for a reason, or refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from clearcap.errors import InputError


@dataclass(frozen=True)
class Dropped:
    """A tensor that the converted model does not hold.

    Attributes:
        name: in the foreign checkpoint.
        numbers: how many it held.
        reason: why it is not needed.
    """

    name: str
    numbers: int
    reason: str


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did.

    Attributes:
        source: the foreign checkpoint.
        out: the folder that was written, for ``from_pretrained``.
        network: which of the authors' networks the checkpoint holds.
        kept: tensors taken over.
        numbers: how many numbers they hold.
        dropped: every tensor that was not.
    """

    source: str
    out: str
    network: str
    kept: int
    numbers: int
    dropped: tuple[Dropped, ...]

    def lines(self) -> list[str]:
        """For people: one line for the whole, one for every dropped tensor."""
        lost = sum(d.numbers for d in self.dropped)
        head = f"{self.source} ({self.network}) -> {self.out}: {self.kept} tensors, {self.numbers / 1e6:.1f}M numbers"
        tail = f"; dropped {len(self.dropped)} tensors, {lost / 1e6:.1f}M numbers"
        return [head + tail, *(f"dropped {d.name} ({d.numbers}): {d.reason}" for d in self.dropped)]


class Renaming:
    """Moves tensors out of a checkpoint one by one and remembers what became of each."""

    def __init__(self, state: dict[str, Tensor], source: str) -> None:
        """Args:
        state: the checkpoint's tensors; left as they are.
        source: its name, for messages.
        """
        self.left = dict(state)
        self.source = source
        self.dropped: list[Dropped] = []
        self.taken = 0

    def __contains__(self, name: str) -> bool:
        return name in self.left

    def take(self, name: str) -> Tensor:
        """Remove and return a tensor.

        Raises:
            InputError: it is not there.
        """
        if name not in self.left:
            raise InputError(
                f"{self.source}: {name} is missing; the file is incomplete or of another model, pass the right one"
            )
        self.taken += 1
        return self.left.pop(name).float()

    def join(self, *names: str) -> Tensor:
        """Several tensors as one, along their first axis: separate q, k and v as one fused matrix."""
        return torch.cat([self.take(name) for name in names])

    def pair(self, theirs: str, mine: str) -> dict[str, Tensor]:
        """A layer's weight and bias under our name."""
        return {f"{mine}.{part}": self.take(f"{theirs}.{part}") for part in ("weight", "bias")}

    def joined_pair(self, theirs: list[str], mine: str) -> dict[str, Tensor]:
        """Several layers' weights and biases fused into one layer of ours."""
        return {
            f"{mine}.{part}": self.join(*(f"{name}.{part}" for name in theirs)) for part in ("weight", "bias")
        }

    def prefixed(self, theirs: str, mine: str) -> dict[str, Tensor]:
        """Everything under a prefix, under ours."""
        names = [name for name in self.left if name.startswith(theirs)]
        return {mine + name.removeprefix(theirs): self.take(name) for name in names}

    def drop(self, prefix: str, reason: str) -> None:
        """Leave out every tensor whose name starts so."""
        for name in [name for name in self.left if name.startswith(prefix)]:
            self.dropped.append(Dropped(name, self.left.pop(name).numel(), reason))

    def drop_twin(self, name: str, twin: Tensor) -> None:
        """Leave out a second name of a parameter, which must hold the same numbers.

        Raises:
            InputError: it holds others.
        """
        if name in self.left and not torch.equal(self.left[name].float(), twin):
            raise InputError(
                f"{self.source}: {name} differs from its twin; the file was altered, pass the original"
            )
        self.drop(name, "second name of a parameter that is kept")

    def finish(self) -> tuple[Dropped, ...]:
        """What was dropped.

        Raises:
            InputError: tensors are left that no rule knows.
        """
        if self.left:
            some = ", ".join(sorted(self.left)[:3])
            raise InputError(
                f"{self.source}: {len(self.left)} unknown tensors, {some} among them; "
                "this is not a checkpoint of the model asked for, pass one that is"
            )
        return tuple(self.dropped)

    def report(self, captioner: nn.Module, *, source: Path, out: Path, network: str) -> ConversionReport:
        """What the conversion did, once everything is taken or dropped.

        Raises:
            InputError: as ``finish``.
        """
        numbers = sum(p.numel() for p in captioner.parameters())
        return ConversionReport(str(source), str(out), network, self.taken, numbers, self.finish())

    def layers(self, pattern: str) -> int:
        """How many numbered layers there are: ``pattern`` holds ``{}`` where the number goes."""
        count = 0
        while pattern.format(count) in self.left:
            count += 1
        return count

    def shape(self, name: str) -> torch.Size:
        """A tensor's shape, left in place.

        Raises:
            InputError: it is not there.
        """
        if name not in self.left:
            raise InputError(
                f"{self.source}: {name} is missing; this is not a checkpoint of the model asked for"
            )
        return self.left[name].shape
