"""Checkpoints: all of a run's tensors, its settings and its place, written atomically, read strictly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clearcap.data.writing import whole_folder, write_json
from clearcap.errors import InputError


@dataclass(frozen=True)
class RunState:
    """Everything that a training step changes, held by reference.

    Attributes:
        weights: the trained tensors by name.
        average: their running averages by name; empty where none are kept.
        optimizers: always the same ones in the same order.
    """

    weights: Mapping[str, Tensor]
    average: Mapping[str, Tensor]
    optimizers: Sequence[torch.optim.Optimizer]

    def save(self, folder: Path, settings: Mapping[str, Any], place: Mapping[str, Any]) -> None:
        """Write a checkpoint of a run with these settings that has come to this place."""
        tensors = self._named()
        for i, optimizer in enumerate(self.optimizers):
            tensors |= _optimizer_tensors(optimizer, f"optimizer{i}")
        save_checkpoint(folder, tensors, {**place, "settings": settings})

    @torch.no_grad()
    def resume(
        self, folder: Path, settings: Mapping[str, Any], free: Collection[str] = ()
    ) -> dict[str, Any] | None:
        """Go on from the checkpoint in a folder.

        Args:
            folder: the checkpoint.
            settings: of this run; see ``check_settings``.
            free: settings that may have changed.

        Returns:
            The place that was saved, or None where there is no checkpoint.

        Raises:
            InputError: the checkpoint is damaged, or was made with other settings or for another model.
        """
        found = load_checkpoint(folder)
        if found is None:
            return None
        tensors, place = found
        check_settings(folder, place.get("settings", {}), settings, free)
        mine = self._named()
        if mine.keys() != {name for name in tensors if not name.startswith("optimizer")}:
            raise InputError(f"{folder} holds another model's parameters; train into another folder")
        try:
            for name, tensor in mine.items():
                tensor.copy_(tensors[name])
            for i, optimizer in enumerate(self.optimizers):
                _restore_optimizer(optimizer, f"optimizer{i}", tensors)
        except Exception as fault:  # names and shapes of another run, or of none
            raise _unreadable(folder, fault) from fault
        return place

    def _named(self) -> dict[str, Tensor]:
        weights = {f"model.{name}": tensor for name, tensor in self.weights.items()}
        return weights | {f"average.{name}": tensor for name, tensor in self.average.items()}


def check_settings(
    folder: Path, before: Mapping[str, Any], now: Mapping[str, Any], free: Collection[str] = ()
) -> None:
    """The one check whether a folder fits the settings of the run that is to go on in it.

    Args:
        folder: what the message calls the folder.
        before: settings it was made with; those that it does not know yet are no difference.
        now: settings of this run; sections of settings are compared one by one.
        free: settings that may differ, as ``section.key``.

    Raises:
        InputError: a setting differs; the message names it, both values and what to do.
    """
    was = _flat(before)
    changed = {k: v for k, v in _flat(now).items() if k not in free and was.get(k, v) != v}
    if changed:
        name, value = next(iter(changed.items()))
        more = f" (and {len(changed) - 1} more differ)" if len(changed) > 1 else ""
        raise InputError(
            f"{folder} was made with {name}={was[name]!r}, not {value!r}{more}; "
            "give the settings it was made with, choose another folder, or delete it"
        )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name, with the values that JSON would give back."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = list(value) if isinstance(value, tuple) else value
    return found


def save_checkpoint(folder: Path, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
    """Write ``state.safetensors`` and ``progress.json``; a kill at any moment leaves the old or the new one.

    Args:
        folder: the checkpoint; replaced as a whole.
        tensors: everything that training changes.
        progress: step, settings and losses; plain JSON.
    """
    from safetensors.torch import save_file

    fresh, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    with whole_folder(fresh) as new:
        save_file({k: v.detach().contiguous().cpu() for k, v in tensors.items()}, new / "state.safetensors")
        write_json(new / "progress.json", progress)
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
        place = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
        if not (
            isinstance(place, dict)
            and isinstance(place.get("step", 0), int)
            and isinstance(place.get("settings", {}), dict)
        ):
            raise ValueError("progress.json holds no step and settings")
        return load_file(folder / "state.safetensors"), place
    except (OSError, SafetensorError, ValueError, RecursionError) as fault:
        raise _unreadable(folder, fault) from fault


def _unreadable(folder: Path, fault: Exception) -> InputError:
    return InputError(f"{folder}: the checkpoint cannot be read ({fault}); delete it to start anew")


def reached_step(folder: Path) -> int:
    """The step of the checkpoint at ``folder``; 0 where there is none."""
    found = load_checkpoint(folder)
    return int(found[1]["step"]) if found else 0


def _optimizer_tensors(optimizer: torch.optim.Optimizer, name: str) -> dict[str, Tensor]:
    """An optimizer's state as named tensors (scalars become 0-d tensors)."""
    return {
        f"{name}.{index}.{key}": torch.as_tensor(value)
        for index, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
        if value is not None
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, name: str, tensors: dict[str, Tensor]) -> None:
    """Inverse of ``_optimizer_tensors``; the optimizer must hold the same parameters in the same order."""
    held: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        prefix, _, rest = key.partition(".")
        if prefix == name:
            index, _, field = rest.partition(".")
            held.setdefault(int(index), {})[field] = value
    optimizer.load_state_dict({"state": held, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, state in optimizer.state.items():
        # Files hold plain row-major tensors; a memory format that is not the parameter's would slow every step down.
        like = torch.empty_like(parameter, requires_grad=False)
        state.update({k: like.clone().copy_(v) for k, v in state.items() if v.shape == parameter.shape})
