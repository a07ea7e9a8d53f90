"""Foreign checkpoint files as plain tensors, without running anything that is in them."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clearcap.errors import InputError

FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")  # of an accelerate save_state folder, new and old
_INERT = ("torch.nn.", "transformers.", "__main__.")  # a pickled module's classes, replaced by stand-ins
# What torch raises at a damaged file, depending on where it is cut.
_DAMAGE = (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError)


def read_state(path: Path) -> dict[str, Tensor]:
    """A checkpoint's tensors by name: safetensors, a state dict that ``torch.save`` wrote, or a folder holding either.

    Names lose the ``module.`` that data parallelism puts before them.

    Raises:
        InputError: nothing there, damaged, not tensors, or a pickle with code in it (which is not run).
    """
    file = _file_in(path)
    state = _read_safetensors(file) if file.suffix == ".safetensors" else read_pickle(file)
    if not isinstance(state, dict) or not state:
        raise InputError(f"{file}: holds a {type(state).__name__}, not named tensors; pass a state dict")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise InputError(f"{file}: {name!r} is a {type(value).__name__}, not a tensor; pass a state dict")
    return _without_wrapper(state)


def read_vector(path: Path, dim: int) -> Tensor:
    """A vector that ``torch.save`` wrote, such as LaDiC's mean and standard deviation.

    Raises:
        InputError: unreadable, or not ``dim`` finite numbers.
    """
    vector = read_pickle(_file_in(path))
    if not isinstance(vector, Tensor) or vector.shape != (dim,):
        found = tuple(vector.shape) if isinstance(vector, Tensor) else type(vector).__name__
        raise InputError(
            f"{path}: expected a tensor of shape ({dim},), found {found}; pass the matching file"
        )
    if not bool(torch.isfinite(vector).all()):
        raise InputError(f"{path}: holds a value that is not finite; the file is damaged, fetch it again")
    return vector.float()


def read_pickle(file: Path) -> Any:
    """What ``torch.save`` wrote, restricted to tensors and plain containers.

    Raises:
        InputError: damaged, or it names code.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a pickle's protocol, before it is refused
            return torch.load(file, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as fault:
        raise InputError(
            f"{file}: holds more than tensors ({_first_line(fault)}), so nothing of it was run; "
            "pass a file that torch.save made of a state dict"
        ) from fault
    except _DAMAGE as fault:
        raise _damaged(file, fault) from fault


def read_module(path: Path) -> dict[str, Tensor]:
    """The tensors of a whole pickled ``torch.nn.Module`` (CLIP-Diffusion-LM's format), or of a state dict.

    Every class the pickle names is replaced by an empty stand-in, so none of its code is imported or run.

    Raises:
        InputError: as ``read_state``.
    """
    file = _file_in(path)
    if file.suffix == ".safetensors":
        return read_state(file)
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except (*_DAMAGE, pickle.UnpicklingError) as fault:
        raise _damaged(file, fault) from fault
    for name in names:
        if not name.startswith(_INERT):
            raise InputError(f"{file}: names {name}, which no module needs; nothing of it was run")
    stand_ins: list[Any] = [(type("StandIn", (_StandIn,), {}), name) for name in names]
    with torch.serialization.safe_globals(stand_ins):
        content = read_pickle(file)
    if isinstance(content, _StandIn):
        content = dict(_tensors_of(content, ""))
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise InputError(
            f"{file}: holds neither a module nor a state dict; pass the training run's checkpoint"
        )
    return _without_wrapper(content)


class _StandIn:
    """Takes the place of a pickled class: keeps the attributes, has no behaviour."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {})


def _tensors_of(module: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of a stand-in module, named as ``state_dict`` would."""
    held = vars(module)
    for kind in ("_parameters", "_buffers"):
        for name, tensor in held.get(kind, {}).items():
            if tensor is not None and name not in held.get("_non_persistent_buffers_set", ()):
                yield prefix + name, tensor.detach()
    for name, child in held.get("_modules", {}).items():
        if child is not None:
            yield from _tensors_of(child, f"{prefix}{name}.")


def _file_in(path: Path) -> Path:
    if not path.is_dir():
        if not path.is_file():
            raise InputError(f"{path}: no such file; pass the checkpoint's path")
        return path
    for name in FOLDER_FILES:
        if (path / name).is_file():
            return path / name
    raise InputError(f"{path}: holds none of {', '.join(FOLDER_FILES)}; pass the checkpoint's folder or file")


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError) as fault:
        raise _damaged(file, fault) from fault


def _without_wrapper(state: dict[str, Tensor]) -> dict[str, Tensor]:
    wrapped = [name.startswith("module.") for name in state]
    return {k.removeprefix("module."): v for k, v in state.items()} if all(wrapped) else dict(state)


def _damaged(file: Path, fault: Exception) -> InputError:
    return InputError(f"{file}: truncated or not a checkpoint ({_first_line(fault)}); fetch the file again")


def _first_line(fault: Exception) -> str:
    for line in str(fault).splitlines():
        if "WeightsUnpickler" in line or "Unsupported" in line:
            return line.strip()
    return (str(fault).strip().splitlines() or [type(fault).__name__])[0][:160]
