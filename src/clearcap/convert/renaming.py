"""Strict renaming of a checkpoint's tensors: every one is taken, dropped for a reason, or refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clearcap.errors import InputError

Parts = Sequence[tuple[tuple[str, ...], str]]
"""Layers of a block: the authors' names, whose weights joined along the first axis are those of one layer of ours."""


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

    def pair(self, mine: str, *theirs: str) -> dict[str, Tensor]:
        """A layer's weight and bias under our name; those of several layers joined: q, k and v as one fused matrix."""
        return {
            f"{mine}.{part}": torch.cat([self.take(f"{name}.{part}") for name in theirs])
            for part in ("weight", "bias")
        }

    def pairs(self, layers: Mapping[str, str]) -> dict[str, Tensor]:
        """Weights and biases of all layers of a table, our names to theirs."""
        named: dict[str, Tensor] = {}
        for mine, theirs in layers.items():
            named |= self.pair(mine, theirs)
        return named

    def blocks(self, parts: Parts, mine: str, theirs: str) -> dict[str, Tensor]:
        """Weights and biases of all numbered blocks; both prefixes hold ``{}`` where the number goes."""
        named: dict[str, Tensor] = {}
        for i in range(self.layers(f"{theirs}{parts[0][0][0]}.weight")):
            for names, layer in parts:
                named |= self.pair(mine.format(i) + layer, *(theirs.format(i) + name for name in names))
        return named

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

    def finish(self) -> None:
        """Every tensor is accounted for.

        Raises:
            InputError: tensors are left that no rule knows.
        """
        if self.left:
            some = ", ".join(sorted(self.left)[:3])
            raise InputError(
                f"{self.source}: {len(self.left)} unknown tensors, {some} among them; "
                "this is not a checkpoint of the model asked for, pass one that is"
            )

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


def in_authors_names(
    named: Mapping[str, Tensor],
    *,
    parts: Parts,
    block: str,
    layers: Mapping[str, str],
    whole: Mapping[str, str],
) -> dict[str, Tensor]:
    """Trained tensors (parameters or gradients) under the authors' names, joined ones apart.

    Args:
        named: by our names; what the authors do not train is left out.
        parts: layers of a block of the denoiser.
        block: prefix of their blocks, with ``{}`` where the number goes.
        layers: our names of layers with weight and bias, to theirs.
        whole: our names of single tensors, to theirs.
    """
    theirs: dict[str, Tensor] = {}
    for ours, tensor in named.items():
        layer, _, part = ours.rpartition(".")
        if ours.startswith("denoiser.blocks."):
            _, _, i, module = layer.split(".", 3)
            names = next(names for names, mine in parts if mine == module)
            for name, piece in zip(names, tensor.chunk(len(names)), strict=True):
                theirs[f"{block.format(i)}{name}.{part}"] = piece
        elif ours in whole:
            theirs[whole[ours]] = tensor
        elif layer in layers:
            theirs[f"{layers[layer]}.{part}"] = tensor
    return theirs
