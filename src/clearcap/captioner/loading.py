"""A trained captioner from a folder or the hub, read strictly."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from clearcap.captioner.network import Network, Settings
from clearcap.captioner.onnx import is_exported
from clearcap.errors import InputError
from clearcap.metrics.cider import DocumentFrequency
from clearcap.text.pieces import WordPieces

if TYPE_CHECKING:  # at run time this is imported where it is used: transformers' models are slow to import
    from clearcap.captioner.model import Captioner

MODEL_TYPE = "clearcap"
FREQUENCY = "document_frequency.json.gz"  # beside the weights, where the training captions were counted
CURVES, SAMPLES = "curves.jsonl", "samples.jsonl"  # of a training run, beside its model
SHARES = "shares"  # in config.json: folder, from this one, whose weights stand for those not here
BUNDLED = {
    "default": "model",
    "few-steps": "model/few-steps",
}  # names of the models that ship -> their folders
# Not Tensor.normal_ itself: nn.init.trunc_normal_ repeats it until all values are in range.
DRAWING = {nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_}
Part = TypeVar("Part", bound=nn.Module)


def load_captioner(source: str) -> tuple[Captioner, Any]:
    """A captioner and its tokenizer.

    Args:
        source: folder or hub name; weights are read from safetensors only.

    Raises:
        InputError: nothing there, not a captioner, or tensors missing, unexpected or of other shapes.
    """
    from transformers import BertTokenizer

    folder = find_folder(source)
    return load_folder(folder), BertTokenizer.from_pretrained(folder)


def load_network(source: str) -> tuple[Network, WordPieces]:
    """As ``load_captioner``, without transformers: what captioning needs, in a third of the time.

    Raises:
        InputError: as there.
    """
    folder = find_folder(source)
    with Unfilled():
        network = Network(settings_of(folder))
    return fill(network, folder), WordPieces.read(folder)


def settings_of(folder: Path) -> Settings:
    """What rebuilds the captioner of a folder.

    Raises:
        InputError: ``config.json`` cannot be read, is another model's, or lacks a section.
    """
    found = read_settings(folder)
    known = [field.name for field in dataclasses.fields(Settings)]
    missing = [name for name in known if name not in found]
    if missing:
        raise InputError(f"{folder / 'config.json'}: has no {missing[0]!r}; save the captioner again")
    return Settings(**{name: found[name] for name in known})


def load_frequency(source: str) -> DocumentFrequency | None:
    """The document frequency saved with a captioner, for minimum Bayes risk by CIDEr; None where there is none.

    Raises:
        InputError: no such captioner, or the file is damaged.
    """
    file = find_folder(source) / FREQUENCY
    return DocumentFrequency.load(file) if file.is_file() else None


def find_folder(source: str) -> Path:
    """The folder itself, that of a model that ships, or the cached copy of what the hub has under that name.

    Raises:
        InputError: there is none of them.
    """
    folder = local_folder(source)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise InputError(f"{source} is a file; pass the folder that holds config.json and model.safetensors")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                source, allow_patterns=["*.json", "*.json.gz", "*.safetensors", "*.txt", "*.onnx"]
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as fault:
        reason = str(fault).splitlines()[0]
        raise InputError(
            f"{source}: no such folder, and the hub does not give it ({reason}); pass a folder"
        ) from fault


def local_folder(source: str) -> Path:
    """Where a model of that name is on this disk, if it is: what ships, or the name as a path.

    Raises:
        InputError: a model that ships was not installed.
    """
    return bundled_model(source) if source in BUNDLED else Path(source)


def bundled_model(name: str = "default") -> Path:
    """The folder of a model that ships.

    Raises:
        InputError: it was not installed.
    """
    folder = Path(str(resources.files("clearcap"))) / BUNDLED[name]
    if not (folder / "model.safetensors").is_file():
        raise InputError(f"{folder} holds no model; install clearcap from a release, or pass --model")
    return folder


def weight_files(folder: Path) -> list[Path]:
    """The files that a captioner's weights are read from, those it shares with another model first.

    Raises:
        InputError: ``config.json`` cannot be read.
    """
    shared = read_settings(folder).get(SHARES)
    own = folder / "model.safetensors"
    return [folder / shared / "model.safetensors", own] if shared else [own]


def load_folder(folder: Path) -> Captioner:
    """The captioner saved in a folder, in float32, with every tensor accounted for."""
    from clearcap.captioner.model import Captioner, CaptionerConfig

    settings = {name: value for name, value in read_settings(folder).items() if name != SHARES}
    with Unfilled():
        captioner = Captioner(CaptionerConfig.from_dict(settings))
    return fill(captioner, folder)


def read_settings(folder: Path) -> dict[str, Any]:
    """What ``config.json`` of a saved captioner says.

    Raises:
        InputError: it cannot be read or is another model's.
    """
    file = folder / "config.json"
    try:
        settings = json.loads(file.read_text())
    except (OSError, ValueError) as fault:
        raise InputError(f"{file}: cannot be read ({fault}); pass the folder of a saved captioner") from fault
    kind = settings.get("model_type") if isinstance(settings, dict) else None
    if kind != MODEL_TYPE:
        raise InputError(f"{file}: model_type is {kind!r}, not a captioner; see clearcap convert")
    return dict(settings)


class Unfilled(TorchFunctionMode):
    """While it is on, no random weights are drawn: all are about to be read, and drawing takes longer."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every call but those that fill a tensor at random."""
        named = kwargs or {}
        if function in DRAWING:
            return args[0] if args else named["tensor"]
        return function(*args, **named)


def fill(model: Part, folder: Path) -> Part:
    """The model with the weights of a folder, each accounted for, in evaluation mode.

    Raises:
        InputError: no weights there, or tensors missing, unexpected or of other shapes.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    weights = folder / "model.safetensors"
    if is_exported(folder):
        raise InputError(
            f"{weights}: absent, the folder holds graphs to caption with; pass the trained model"
        )
    state: dict[str, Tensor] = {}
    for weights in weight_files(folder):
        try:
            state |= load_file(weights)
        except (OSError, SafetensorError) as fault:
            raise InputError(f"{weights}: cannot be read ({fault}); fetch the file again") from fault
    mine = model.state_dict()
    same = {name: v.to(mine[name].dtype) if name in mine else v for name, v in state.items()}
    load_strictly(model, same, str(weights), "config.json and weights do not belong together")
    return model.eval()


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


def training_curves(source: str) -> Path | None:
    """The ``curves.jsonl`` of the run that made a model: in its folder, or in the one above it."""
    try:
        folder = local_folder(source).resolve()
    except InputError:
        return None
    return next((file for file in (folder / CURVES, folder.parent / CURVES) if file.is_file()), None)


def export(source: str, out: Path, shares: Path | None = None) -> None:
    """Write a captioner for distribution: weights in float16 (computed with in float32), statistics in float32.

    The curves of its training run go with it, for the reports of ``clearcap evaluate``.

    Args:
        source: folder or hub name of a captioner.
        out: folder to write.
        shares: folder of an exported captioner to which ``out`` will keep its place; weights equal to its are left out.

    Raises:
        InputError: there is no such captioner.
    """
    from safetensors.torch import load_file, save_file

    captioner, tokenizer = load_captioner(source)
    trained = {name for name, _ in captioner.named_parameters()}
    state = {
        name: (tensor.half() if name in trained and tensor.ndim > 1 else tensor).contiguous()
        for name, tensor in captioner.state_dict().items()
    }
    out.mkdir(parents=True, exist_ok=True)
    if shares is not None:
        theirs = load_file(find_folder(str(shares)) / "model.safetensors")
        state = {k: v for k, v in state.items() if k not in theirs or not torch.equal(v, theirs[k])}
        setattr(captioner.config, SHARES, os.path.relpath(shares, out))
    captioner.config.save_pretrained(out)
    tokenizer.save_pretrained(out)
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    if frequency := load_frequency(source):
        frequency.save(out / FREQUENCY)
    if curves := training_curves(source):
        for file in (curves, curves.with_name(SAMPLES)):
            if file.is_file():
                (out / file.name).write_bytes(file.read_bytes())
