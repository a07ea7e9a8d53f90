"""``timm``, which imports torchvision, where torchvision's compiled half does not fit torch.

timm imports torchvision for its transforms, which are Python. torchvision's wheels on the package index are compiled
against the CUDA build of torch; beside the CPU build their operators do not load, and ``import torchvision`` then fails
because it describes two operators that are not there. Declared beforehand, without an implementation, they are enough:
nothing here calls them. Import ``timm`` from here, before anything of transformers.
"""

from __future__ import annotations

import sys

import torch

DECLARED: list[torch.library.Library] = []  # operators are there for as long as their library is


def declare() -> None:
    """Make ``import torchvision`` work; nothing where it works as it is."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:  # operator torchvision::nms does not exist
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]  # half imported
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        DECLARED.append(library)


declare()

import timm  # noqa: E402, F401
