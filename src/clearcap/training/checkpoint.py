"""Checkpoints: all of a run's tensors and its place in the run, written atomically, read strictly."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clearcap.errors import InputError


def save_checkpoint(folder: Path, tensors: dict[str, Tensor], progress: dict[str, Any]) -> None:
    """Write ``state.safetensors`` and ``progress.json``; a kill at any moment leaves the old or the new one.

    Args:
        folder: the checkpoint; replaced as a whole.
        tensors: everything that training changes.
        progress: step, settings and losses; plain JSON.
    """
    from safetensors.torch import save_file

    fresh, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    save_file({k: v.detach().contiguous().cpu() for k, v in tensors.items()}, fresh / "state.safetensors")
    (fresh / "progress.json").write_text(json.dumps(progress, indent=1))
    for path in fresh.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest whole checkpoint at ``folder``, or None where there is none.

    Raises:
        InputError: the checkpoint is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    old = folder.with_name(folder.name + ".old")
    if not folder.exists() and old.exists():  # killed between the two renames
        old.rename(folder)
    if not folder.exists():
        return None
    try:
        return load_file(folder / "state.safetensors"), json.loads((folder / "progress.json").read_text())
    except (OSError, SafetensorError, json.JSONDecodeError) as fault:
        raise InputError(
            f"{folder}: the checkpoint cannot be read ({fault}); delete it to start anew"
        ) from fault


def reached_step(folder: Path) -> int:
    """The step of the checkpoint at ``folder``; 0 where there is none."""
    found = load_checkpoint(folder)
    return int(found[1]["step"]) if found else 0


def optimizer_tensors(optimizer: torch.optim.Optimizer, name: str) -> dict[str, Tensor]:
    """An optimizer's state as named tensors (scalars become 0-d tensors)."""
    return {
        f"{name}.{index}.{key}": torch.as_tensor(value)
        for index, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, name: str, tensors: dict[str, Tensor]) -> None:
    """Inverse of ``optimizer_tensors``; the optimizer must hold the same parameters in the same order."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        prefix, _, rest = key.partition(".")
        if prefix == name:
            index, _, field = rest.partition(".")
            state.setdefault(int(index), {})[field] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def module_tensors(module: nn.Module, name: str) -> dict[str, Tensor]:
    """A module's parameters and buffers under a prefix."""
    return {f"{name}.{key}": value for key, value in module.state_dict().items()}


def restore_module(module: nn.Module, name: str, tensors: dict[str, Tensor]) -> None:
    """Strict inverse of ``module_tensors``."""
    mine = {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
    module.load_state_dict(mine, strict=True)
