"""A trained captioner from a folder or the hub, read strictly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers.initialization import no_init_weights

from clearcap.captioner import Captioner, CaptionerConfig
from clearcap.errors import InputError
from clearcap.onnx import is_exported


def load_captioner(source: str) -> tuple[Captioner, Any]:
    """A captioner and its tokenizer.

    Args:
        source: folder or hub name; weights are read from safetensors only.

    Raises:
        InputError: nothing there, not a captioner, or tensors missing, unexpected or of other shapes.
    """
    folder = find_folder(source)
    return load_folder(folder), load_tokenizer(folder)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer saved beside a captioner."""
    from transformers import BertTokenizer

    return BertTokenizer.from_pretrained(folder)


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
        return Path(snapshot_download(source, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.onnx"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as fault:
        reason = str(fault).splitlines()[0]
        raise InputError(
            f"{source}: no such folder, and the hub does not give it ({reason}); pass a folder"
        ) from fault


def load_folder(folder: Path) -> Captioner:
    """The captioner saved in a folder, in float32, with every tensor accounted for."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    settings = read_settings(folder)
    weights = folder / "model.safetensors"
    if is_exported(folder):
        raise InputError(
            f"{weights}: absent, the folder holds graphs to caption with; pass the trained model"
        )
    with no_init_weights():  # about to be read; drawing them would take most of the loading time
        captioner = Captioner(CaptionerConfig.from_dict(settings))
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


def read_settings(folder: Path) -> dict[str, Any]:
    """What config.json of a captioner's folder holds.

    Raises:
        InputError: it is absent, damaged or another model's.
    """
    file = folder / "config.json"
    try:
        settings: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError) as fault:
        raise InputError(f"{file}: cannot be read ({fault}); pass the folder of a saved captioner") from fault
    if settings.get("model_type") != CaptionerConfig.model_type:
        raise InputError(
            f"{file}: model_type is {settings.get('model_type')!r}, not a captioner; see clearcap convert"
        )
    return settings


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
