"""Parts by name: the built-in ones, one line each, and those that plug-ins register.

A part is loaded when it is asked for, so that naming one costs nothing. Somebody else's part is a Python file or
module that calls ``register``; it is found through ``load_plugin`` (``clearcap --plugin FILE ...``), or, once it is
installed, through an entry point of the group ``clearcap.plugins``.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from clearcap.errors import InputError

Part = TypeVar("Part")

BUILT_IN: dict[str, dict[str, str]] = {  # kind -> name -> where it is defined
    "solver": {
        "renoise": "clearcap.sampling.solvers:renoise",
        "ddpm": "clearcap.sampling.solvers:ddpm",
        "ddim": "clearcap.sampling.solvers:ddim",
        "dpm-solver": "clearcap.sampling.solvers:dpm_solver",
        "plain": "clearcap.sampling.solvers:plain",
    },
    "spacing": {
        "uniform": "clearcap.sampling.solvers:uniform_times",
        "quadratic": "clearcap.sampling.solvers:quadratic_times",
        "trailing": "clearcap.sampling.solvers:trailing_times",
        "stride": "clearcap.sampling.solvers:strided_times",
        "log-snr": "clearcap.sampling.solvers:log_snr_times",
    },
    "noise schedule": {
        "linear": "clearcap.diffusion.schedules:linear",
        "cosine": "clearcap.diffusion.schedules:cosine",
        "cosine-float32": "clearcap.diffusion.schedules:cosine_float32",
        "sqrt": "clearcap.diffusion.schedules:sqrt",
    },
    "selection rule": {
        "mbr": "clearcap.sampling.selection:by_agreement",
        "confidence": "clearcap.sampling.selection:by_confidence",
        "similarity": "clearcap.sampling.selection:by_similarity",
        "mbr-and-similarity": "clearcap.sampling.selection:by_agreement_and_similarity",
        "confidence-and-similarity": "clearcap.sampling.selection:by_confidence_and_similarity",
        "neighbours": "clearcap.sampling.selection:by_neighbours",
    },
    "text space": {
        "bert-split": "clearcap.text.split_bert:SplitBertSpace",
        "embedding": "clearcap.text.embedding:EmbeddingSpace",
    },
    "image encoder": {
        "compact": "clearcap.vision.compact:CompactEncoder",
        "efficientnet": "clearcap.vision.efficientnet:EfficientNetEncoder",
        "pair": "clearcap.vision.efficientnet:PairedEncoder",
        "pretrained": "clearcap.vision.transformers:TransformersEncoder",
        "timm": "clearcap.vision.timm:TimmEncoder",
    },
    "denoiser": {
        "cross-attention": "clearcap.denoiser.cross_attention:build_cross_attention",
        "appended": "clearcap.denoiser.appended:build_appended",
        "concat": "clearcap.denoiser.fused:build_concat",
        "add": "clearcap.denoiser.fused:build_add",
    },
    "objective": {
        "ladic": "clearcap.training.objectives:LadicObjective",
        "diffusion-lm": "clearcap.training.objectives:DiffusionLMObjective",
    },
    "metric": {
        "BLEU": "clearcap.metrics.bleu:score_bleu",
        "ROUGE-L": "clearcap.metrics.rouge:score_rouge_l",
        "CIDEr-D": "clearcap.metrics.cider:score_cider_d",
        "colour-errors": "clearcap.metrics.wording:score_colours",
        "grammar-errors": "clearcap.metrics.wording:score_grammar",
        "METEOR": "clearcap.metrics.java:score_meteor",
        "SPICE": "clearcap.metrics.java:score_spice",
    },
    "corpus": {
        "flickr8k": "clearcap.data.flickr:FLICKR8K",
        "coco-karpathy": "clearcap.data.coco:COCO_KARPATHY",
        "coco": "clearcap.data.coco:COCO",
        "flickr30k": "clearcap.data.flickr:FLICKR30K",
        "flickr30k+8k": "clearcap.data.flickr:FLICKR30K_8K",
        "nocaps": "clearcap.data.nocaps:NOCAPS",
        "stanford-paragraphs": "clearcap.data.paragraphs:STANFORD_PARAGRAPHS",
        "folder": "clearcap.data.folder:FOLDER",
        "joined": "clearcap.data.joined:JOINED",
        "huggingface": "clearcap.data.huggingface:HUGGINGFACE",
        "webdataset": "clearcap.data.shards:WEBDATASET",
    },
}

_ADDED: dict[str, dict[str, Any]] = {kind: {} for kind in BUILT_IN}
_searched: list[bool] = []  # not empty once the installed plug-ins have been loaded


def register(kind: str, name: str) -> Callable[[Part], Part]:
    """A decorator that makes a part known: ``@register("solver", "heun")``.

    Raises:
        InputError: no such kind, or the name is another part's.
    """
    if kind not in BUILT_IN:
        raise InputError(f"there is no kind of part {kind!r}; register one of {', '.join(BUILT_IN)}")

    def add(part: Part) -> Part:
        if name in BUILT_IN[kind] or _ADDED[kind].get(name, part) is not part:
            raise InputError(f"there is a {kind} {name!r} already; choose another name")
        _ADDED[kind][name] = part
        return part

    return add


def find(kind: str, name: str) -> Any:
    """The part of that kind and name.

    Raises:
        InputError: there is none; the message names those there are.
    """
    check(kind, name)
    if name in _ADDED[kind]:
        return _ADDED[kind][name]
    module, _, attribute = BUILT_IN[kind][name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def check(kind: str, name: str) -> None:
    """Raise InputError unless there is a part of that kind and name; a built-in one is not loaded."""
    if name not in BUILT_IN[kind] and name not in _ADDED[kind] and name not in names(kind):
        raise InputError(f"unknown {kind} {name!r}; choose one of {', '.join(names(kind))}")


def names(kind: str) -> list[str]:
    """Names of all parts of a kind, the built-in ones first."""
    _load_installed_plugins()
    return [*BUILT_IN[kind], *_ADDED[kind]]


def load_plugin(source: str) -> None:
    """Import a plug-in: a ``.py`` file, or a module by name.

    Raises:
        InputError: it is missing or fails.
    """
    try:
        if not source.endswith(".py"):
            importlib.import_module(source)
            return
        path = Path(source).resolve()
        loaded = sys.modules.get(path.stem)
        if loaded is not None:
            if getattr(loaded, "__file__", None) == str(path):
                return
            raise InputError(f"plug-in {source}: a module {path.stem!r} is loaded already; rename the file")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None:
            raise InputError(f"plug-in {source} is no Python file; pass a .py file or a module's name")
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[path.stem]  # or it would pass for loaded
            raise
    except InputError:
        raise
    except Exception as fault:  # whatever somebody else's code raises is one line
        reason = " ".join(f"{type(fault).__name__}: {fault}".split())
        raise InputError(f"plug-in {source} cannot be loaded ({reason})") from fault


def _load_installed_plugins() -> None:
    if _searched:
        return
    _searched.append(True)
    from importlib.metadata import entry_points

    for point in entry_points(group="clearcap.plugins"):
        load_plugin(point.value)
