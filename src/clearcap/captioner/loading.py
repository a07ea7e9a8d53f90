"""A trained captioner into torch, read strictly."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from clearcap.captioner.folder import TOKENIZER, WEIGHTS, find_folder, settings_of, shares_of, weight_files
from clearcap.captioner.network import Network
from clearcap.captioner.onnx import is_exported
from clearcap.errors import InputError
from clearcap.text.tokenizer import WordPieces

# Not Tensor.normal_ itself: nn.init.trunc_normal_ repeats it until all values are in range.
DRAWING = {nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_}
MAKING = {torch.empty, torch.zeros, torch.ones}
ROOM = 2_000_000  # numbers of tables and buffers, which a file of weights may lack
Part = TypeVar("Part", bound=nn.Module)


def find_device(name: Any) -> torch.device:
    """A device that this machine has.

    Raises:
        InputError: torch does not know it, or cannot use it here.
    """
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise ValueError("it holds no numbers")
        torch.empty(0, device=device)
    except Exception as fault:  # each backend raises its own
        reason = str(fault).splitlines()[0]
        raise InputError(
            f"device={str(name)!r} cannot be used ({reason}); pass cpu, cuda or cuda:N"
        ) from fault
    return device


def load_network(source: str) -> tuple[Network, WordPieces]:
    """A captioner and its tokenizer without transformers: what captioning needs, in a third of the time.

    Args:
        source: folder or hub name; weights are read from safetensors only.

    Raises:
        InputError: nothing there, not a captioner, or tensors missing, unexpected or of other shapes.
    """
    folder = find_folder(source)
    settings = settings_of(folder)
    with building(folder):
        network = Network(settings)
    load_weights(network, folder)
    if not (folder / TOKENIZER).is_file():
        raise InputError(
            f"{folder}: holds no {TOKENIZER}, so its captions cannot be read; save the tokenizer there too: "
            "tokenizer.save_pretrained(folder)"
        )
    return network, WordPieces.read(folder)


@contextmanager
def building(folder: Path) -> Iterator[None]:
    """While a captioner is built of the settings in a folder, whose weights are about to be read.

    Raises:
        InputError: whatever the settings make building raise, or more weights than the folder has.
    """
    most = 2 * sum(file.stat().st_size for file in weight_files(folder) if file.is_file()) + ROOM
    try:
        with Unfilled(most):
            yield
    except InputError:
        raise
    except Exception as fault:  # each part and torch itself raise their own
        raise InputError(
            f"{folder / 'config.json'}: no captioner can be built of it ({type(fault).__name__}: {fault}); "
            "save the captioner again"
        ) from fault


class Unfilled(TorchFunctionMode):
    """While it is on, no random weights are drawn: all are about to be read, and drawing takes longer.

    Args:
        most: numbers that room may be made for.
    """

    def __init__(self, most: int | float = math.inf) -> None:
        super().__init__()
        self.left = most

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every call but those that fill a tensor at random.

        Raises:
            InputError: there are too many numbers.
        """
        named = kwargs or {}
        if function in DRAWING:
            return args[0] if args else named["tensor"]
        if function in MAKING and args:
            self.left -= math.prod(args[0] if isinstance(args[0], (tuple, list)) else args)
            if self.left < 0:
                raise InputError(
                    "config.json asks for many more weights than model.safetensors has; save the captioner again"
                )
        return function(*args, **named)


def load_weights(model: Part, folder: Path) -> Part:
    """The model with the weights of a folder, each accounted for, in evaluation mode.

    Raises:
        InputError: no weights there, or tensors missing, unexpected or of other shapes.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    weights = folder / WEIGHTS
    if is_exported(folder):
        raise InputError(
            f"{weights}: absent, the folder holds graphs to caption with; pass the trained model"
        )
    state: dict[str, Tensor] = {}
    shares = shares_of(folder)
    for weights in weight_files(folder):
        try:
            held = load_file(weights)
        except (OSError, SafetensorError) as fault:
            raise InputError(f"{weights}: cannot be read ({fault}); fetch the file again") from fault
        if shares and weights.parent != folder:  # the other captioner's
            shares.check(weights)
            held = {name: tensor for name, tensor in held.items() if shares.holds(name)}
        state |= held
    mine, state = model.state_dict(), rename_0_1(state)
    same = {name: v.to(mine[name].dtype) if name in mine else v for name, v in state.items()}
    load_strictly(model, same, str(weights), "config.json and weights do not belong together")
    return model.eval()


def rename_0_1(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a captioner that 0.1 saved, under today's names."""
    return {name.replace("denoiser.look.", "denoiser.adapter."): tensor for name, tensor in state.items()}


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], source: str, remedy: str) -> None:
    """Load tensors under the model's names, each accounted for.

    Args:
        model: of the right sizes.
        state: name -> tensor.
        source: what error messages call it.
        remedy: how they end.

    Raises:
        InputError: a tensor is missing, unknown or of another shape.
    """
    mine = model.state_dict()
    for fault, names in (("missing", mine.keys() - state.keys()), ("unknown", state.keys() - mine.keys())):
        if names:
            raise InputError(f"{source}: {min(names)} is {fault} ({len(names)} in all); {remedy}")
    for name, tensor in state.items():
        if tensor.shape != mine[name].shape:
            shapes = f"{tuple(tensor.shape)}, not {tuple(mine[name].shape)}"
            raise InputError(f"{source}: {name} has shape {shapes}; {remedy}")
    model.load_state_dict(state, strict=True)
