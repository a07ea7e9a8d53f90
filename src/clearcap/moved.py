"""Modules under the names they had in 0.1, for one more version: importing one warns and gives today's module."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from clearcap.errors import RenamedWarning

MOVED = {  # old name -> today's
    "clearcap.evaluation.contact": "clearcap.evaluation.contact_sheet",
    "clearcap.evaluation.draws": "clearcap.evaluation.samples",
    "clearcap.evaluation.filling": "clearcap.evaluation.infilling",
    "clearcap.evaluation.hiding": "clearcap.evaluation.hidden_words",
    "clearcap.hub": "clearcap.captioner.hub",
    "clearcap.infill": "clearcap.pipeline.infilling",
    "clearcap.layers": "clearcap.arrays.layers",
    "clearcap.loading": "clearcap.captioner.loading",
    "clearcap.network": "clearcap.captioner.network",
    "clearcap.onnx": "clearcap.captioner.onnx",
    "clearcap.packed": "clearcap.captioner.prepacked",
    "clearcap.parity": "clearcap.convert",
    "clearcap.refine": "clearcap.sampling.refine",
    "clearcap.schedule": "clearcap.diffusion.schedules",
    "clearcap.selection": "clearcap.sampling.selection",
    "clearcap.training.schedules": "clearcap.training.loop",
    "clearcap.trajectory": "clearcap.pipeline.trajectory",
}
NAMES = {  # old module -> its public names that today's module has not, and where they are
    "clearcap.loading": {
        "bundled_model": "clearcap.captioner.folder",
        "export": "clearcap.captioner.hub",
        "load_captioner": "clearcap.captioner.model",
        "load_folder": "clearcap.captioner.model",
        "local_folder": "clearcap.captioner.folder",
        "read_settings": "clearcap.captioner.folder",
        "training_curves": "clearcap.captioner.folder",
    },
}


class MovedFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules by their old names, where nothing else does."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        """The spec of a module that has moved."""
        return importlib.util.spec_from_loader(name, self) if name in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Today's module."""
        new = MOVED[spec.name]
        warnings.warn(f"{spec.name} is {new} now", RenamedWarning, stacklevel=2)
        module = importlib.import_module(new)
        self._spec = module.__spec__
        if elsewhere := NAMES.get(spec.name):
            vars(module)["__getattr__"] = lambda name: _elsewhere(spec.name, name, elsewhere)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: the module has been executed; its own spec is put back."""
        module.__spec__ = self._spec


def _elsewhere(module: str, name: str, places: dict[str, str]) -> Any:
    """A name that did not move with its module."""
    if name not in places:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    return getattr(importlib.import_module(places[name]), name)
