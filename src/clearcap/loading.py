"""A trained captioner from a folder or the hub, read strictly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers.initialization import no_init_weights

from clearcap.captioner import Captioner, CaptionerConfig
from clearcap.errors import InputError
from clearcap.metrics.cider import DocumentFrequency

FREQUENCY = "document_frequency.json.gz"  # beside the weights, where the training captions were counted


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


def load_frequency(source: str) -> DocumentFrequency | None:
    """The document frequency saved with a captioner, for minimum Bayes risk by CIDEr; None where there is none.

    Raises:
        InputError: no such captioner, or the file is damaged.
    """
    file = find_folder(source) / FREQUENCY
    return DocumentFrequency.load(file) if file.is_file() else None


def find_folder(source: str) -> Path:
    """The folder itself, or the cached copy of what the hub has under that name.

    Raises:
        InputError: there is neither.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise InputError(f"{source} is a file; pass the folder that holds config.json and model.safetensors")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(source, allow_patterns=["*.json", "*.json.gz", "*.safetensors", "*.txt"])
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as fault:
        reason = str(fault).splitlines()[0]
        raise InputError(
            f"{source}: no such folder, and the hub does not give it ({reason}); pass a folder"
        ) from fault


def load_folder(folder: Path) -> Captioner:
    """The captioner saved in a folder, in float32, with every tensor accounted for."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / "config.json"
    try:
        settings = json.loads(file.read_text())
    except (OSError, ValueError) as fault:
        raise InputError(f"{file}: cannot be read ({fault}); pass the folder of a saved captioner") from fault
    if settings.get("model_type") != CaptionerConfig.model_type:
        raise InputError(
            f"{file}: model_type is {settings.get('model_type')!r}, not a captioner; see clearcap convert"
        )
    with no_init_weights():  # about to be read; drawing them would take most of the loading time
        captioner = Captioner(CaptionerConfig.from_dict(settings))
    weights = folder / "model.safetensors"
    try:
        state = load_file(weights)
    except (OSError, SafetensorError) as fault:
        raise InputError(f"{weights}: cannot be read ({fault}); fetch the file again") from fault
    mine = captioner.state_dict()
    for kind, names in (("missing", mine.keys() - state.keys()), ("unexpected", state.keys() - mine.keys())):
        if names:
            raise InputError(
                f"{weights}: {len(names)} tensors {kind}, {min(names)} first; it belongs to another model"
            )
    for name, tensor in state.items():
        if tensor.shape != mine[name].shape:
            shapes = f"{tuple(tensor.shape)}, not {tuple(mine[name].shape)}"
            raise InputError(
                f"{weights}: {name} has shape {shapes}; config.json and weights do not belong together"
            )
    captioner.load_state_dict({k: v.to(mine[k].dtype) for k, v in state.items()}, strict=True)
    return captioner.eval()


def export(source: str, out: Path) -> None:
    """Write a captioner for distribution: weights in float16 (computed with in float32), statistics in float32.

    Args:
        source: folder or hub name of a captioner.
        out: folder to write.
    """
    from safetensors.torch import save_file

    captioner, tokenizer = load_captioner(source)
    trained = {name for name, _ in captioner.named_parameters()}
    state = {
        name: (tensor.half() if name in trained and tensor.ndim > 1 else tensor).contiguous()
        for name, tensor in captioner.state_dict().items()
    }
    out.mkdir(parents=True, exist_ok=True)
    captioner.config.save_pretrained(out)
    tokenizer.save_pretrained(out)
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    if frequency := load_frequency(source):
        frequency.save(out / FREQUENCY)
