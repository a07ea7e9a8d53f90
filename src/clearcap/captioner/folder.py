"""The folder of a captioner, on this disk or from the hub: what is in it, read without torch."""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, get_type_hints

from clearcap.captioner.building import Settings
from clearcap.captioner.sharing import Shares
from clearcap.config import Preset, renamed
from clearcap.errors import InputError, RenamedWarning

MODEL_TYPE = "clearcap"
FREQUENCY = "document_frequency.json.gz"  # beside the weights, where the training captions were counted
SCORER = "scorer.safetensors"  # beside the weights, where one was trained (``clearcap train-scorer``)
CURVES, SAMPLES = "curves.jsonl", "samples.jsonl"  # of a training run, beside its model
TOKENIZER = "tokenizer.json"
WEIGHTS, INDEX = (
    "model.safetensors",
    "model.safetensors.index.json",
)  # all in one, or where each of several lies
BUNDLED = {"default": "model", "german": "model/german"}  # names of the models that ship -> their folders
JOINED = {"few-steps": "default"}  # models that shipped -> the one that does what they did
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
SETTLED: dict[
    str, tuple[Any, ...]
] = {  # other options of transformers -> the values that are true of us anyway
    "attn_implementation": ("sdpa",),
    "ignore_mismatched_sizes": (False,),
    "low_cpu_mem_usage": (True, False),
    "output_loading_info": (False,),
    "trust_remote_code": (True, False),  # no code of a repository is ever run
    "use_safetensors": (True,),
    "weights_only": (True,),
}


@dataclasses.dataclass(frozen=True)
class Loading:
    """Where a captioner is fetched from and where it goes, by transformers' names of the options.

    Attributes:
        hub: what ``find_folder`` passes on.
        device: where it goes, not yet looked for (``find_device``); None leaves that to the loader.
        dtype: of its floats, a type of torch; None is what it was saved in (``"auto"``).
    """

    hub: dict[str, Any]
    device: Any
    dtype: Any

    @classmethod
    def of(cls, device: Any = None, dtype: Any = None, **options: Any) -> Loading:
        """Read options as ``transformers``' ``from_pretrained`` takes them; None is the same as leaving one out.

        Raises:
            InputError: an option that is not known, or a value that cannot be honoured.
        """
        given = {
            name: value
            for name, value in options.items()
            if value is not None and not name.startswith("_") and name != "adapter_kwargs"  # AutoModel's own
        }
        device_map, torch_dtype = given.pop("device_map", None), given.pop("torch_dtype", None)
        hub = {name: given.pop(name) for name in HUB_OPTIONS if name in given}
        for name, value in given.items():
            if name not in SETTLED:
                known = ", ".join(("device", "device_map", "dtype", *HUB_OPTIONS))
                raise InputError(f"unknown option {name!r} of from_pretrained; choose among {known}")
            if value not in SETTLED[name]:
                can = " or ".join(map(repr, SETTLED[name]))
                raise InputError(f"{name}={value!r}: captioners are loaded with {can} alone; leave it out")
        for one, other, names in (
            (device, device_map, "device and device_map"),
            (dtype, torch_dtype, "dtype and torch_dtype"),
        ):
            if one is not None and other is not None:
                raise InputError(f"{names} say the same twice; pass one of them")
        if isinstance(device_map, Mapping):
            if list(device_map) != [""]:
                raise InputError(
                    f"device_map={dict(device_map)}: a captioner is not split over devices; pass one device"
                )
            device_map = device_map[""]
        if isinstance(device_map, str) and device_map in ("auto", "balanced", "balanced_low_0", "sequential"):
            import torch

            device_map = "cuda" if torch.cuda.is_available() else "cpu"
        place, kind = (
            device if device_map is None else device_map,
            dtype if torch_dtype is None else torch_dtype,
        )
        return cls(
            hub,
            place,
            None if kind is None or kind == "auto" else find_dtype(kind),
        )


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
    if odd := [name for name in known if not isinstance(found[name], dict)]:
        kind = type(found[odd[0]]).__name__
        raise InputError(
            f"{folder / 'config.json'}: {odd[0]!r} is of type {kind}, not a table; save the captioner again"
        )
    kinds = get_type_hints(Preset)
    return Settings(
        **{
            name: renamed(kinds[name], found[name], warn=False) if name in kinds else found[name]
            for name in known
        }
    )


def frequency_file(source: str) -> Path | None:
    """The document frequency saved with a captioner, for minimum Bayes risk by CIDEr; None where there is none.

    Raises:
        InputError: no such captioner.
    """
    file = find_folder(source) / FREQUENCY
    return file if file.is_file() else None


def find_folder(source: str, *, subfolder: str = "", **hub: Any) -> Path:
    """The folder itself, that of a model that ships, or the cached copy of what the hub has under that name.

    Args:
        source: folder or hub name.
        subfolder: of it.
        hub: options of ``huggingface_hub.snapshot_download``, such as ``revision``; nothing to a folder at hand.

    Raises:
        InputError: there is none of them.
    """
    folder = local_folder(source)
    if folder.is_dir():
        return folder / subfolder
    if folder.exists():
        raise InputError(f"{source} is a file; pass the folder that holds config.json and model.safetensors")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        files = ["*.json", "*.json.gz", "*.safetensors", "*.txt", "*.onnx"]
        return Path(snapshot_download(source, allow_patterns=files, **hub)) / subfolder
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as fault:
        reason = str(fault).splitlines()[0]
        raise InputError(
            f"{source}: no such folder, and the hub does not give it ({reason}); pass a folder"
        ) from fault


def models_at_hand(folder: str = "") -> list[tuple[str, str, Path]]:
    """Captioners that need no download: name, where it was found, and its folder.

    Args:
        folder: also those in it and below it.

    Raises:
        InputError: there is no such folder.
    """
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    found = [(name, "ships", bundled_model(name)) for name in BUNDLED]
    try:
        repositories = sorted(scan_cache_dir().repos, key=lambda repository: repository.repo_id)
    except CacheNotFound:
        repositories = []
    cached = [
        (repository.repo_id, "hub cache", Path(revision.snapshot_path))
        for repository in repositories
        for revision in repository.revisions
    ]
    if folder and not Path(folder).is_dir():
        raise InputError(f"{folder}: no such folder; check the path")
    files = sorted(Path(folder).rglob("config.json")) if folder else []
    return found + [
        one
        for one in [*cached, *((str(f.parent), "folder", f.parent) for f in files)]
        if is_captioner(one[2])
    ]


def is_captioner(folder: Path) -> bool:
    """Whether a folder holds a captioner's settings."""
    try:
        return bool(read_settings(folder))
    except InputError:
        return False


def local_folder(source: str) -> Path:
    """Where a model of that name is on this disk, if it is: what ships, or the name as a path.

    Raises:
        InputError: a model that ships was not installed.
    """
    if source in JOINED and not Path(source).is_dir():
        warnings.warn(f"the model {source!r} is part of {JOINED[source]!r} now", RenamedWarning, stacklevel=2)
        source = JOINED[source]
    return bundled_model(source) if source in BUNDLED else Path(source)


def bundled_folder(name: str = "default") -> Path:
    """Where a model that ships belongs."""
    return Path(str(resources.files("clearcap"))) / BUNDLED[name]


def bundled_model(name: str = "default") -> Path:
    """The folder of a model that ships.

    Raises:
        InputError: it was not installed.
    """
    folder = bundled_folder(name)
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"{folder} holds no model; install clearcap from a release, or pass --model")
    return folder


def weight_files(folder: Path) -> list[Path]:
    """The files that a captioner's weights are read from, those it shares with another model first.

    Raises:
        InputError: ``config.json`` cannot be read.
    """
    shares = shares_of(folder)
    own = _shards(folder) if is_sharded(folder) else [folder / WEIGHTS]
    return [folder / shares.folder / WEIGHTS, *own] if shares else own


def shares_of(folder: Path) -> Shares | None:
    """Which of its weights a captioner takes from another's file. Raises InputError."""
    return Shares.read(read_settings(folder), folder / "config.json")


def is_sharded(folder: Path) -> bool:
    """Whether a folder's weights lie in several files, as transformers writes them beyond ``max_shard_size``."""
    return (folder / INDEX).is_file() and not (folder / WEIGHTS).is_file()


def _shards(folder: Path) -> list[Path]:
    """The files that the index of sharded weights names. Raises InputError."""
    file = folder / INDEX
    try:
        names = sorted({str(name) for name in json.loads(file.read_text())["weight_map"].values()})
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as fault:
        raise InputError(
            f"{file}: cannot be read ({type(fault).__name__}: {fault}); save the captioner again"
        ) from fault
    if odd := [name for name in names if Path(name).name != name]:
        raise InputError(f"{file}: names {odd[0]!r}, which is no file beside it; save the captioner again")
    return [folder / name for name in names]


def named_weights(folder: Path) -> list[tuple[str, Path]]:
    """``weight_files``, each by the name that graphs in the folder call it. Raises InputError."""
    return [(os.path.relpath(file, folder).replace(os.sep, "/"), file) for file in weight_files(folder)]


def read_settings(folder: Path) -> dict[str, Any]:
    """What ``config.json`` of a saved captioner says.

    Raises:
        InputError: it cannot be read or is another model's.
    """
    file = folder / "config.json"
    try:
        settings = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as fault:
        raise InputError(f"{file}: cannot be read ({fault}); pass the folder of a saved captioner") from fault
    kind = settings.get("model_type") if isinstance(settings, dict) else None
    if kind != MODEL_TYPE:
        raise InputError(f"{file}: model_type is {kind!r}, not a captioner; see clearcap convert")
    return dict(settings)


def training_curves(source: str) -> Path | None:
    """The ``curves.jsonl`` of the run that made a model: in its folder, or in the one above it."""
    try:
        folder = local_folder(source).resolve()
    except InputError:
        return None
    return next((file for file in (folder / CURVES, folder.parent / CURVES) if file.is_file()), None)


def find_dtype(name: Any) -> Any:
    """A floating type of torch, given as such or by name.

    Raises:
        InputError: it is none.
    """
    import torch

    found = getattr(torch, name.removeprefix("torch."), None) if isinstance(name, str) else name
    if not isinstance(found, torch.dtype) or not found.is_floating_point or found.itemsize < 2:
        raise InputError(
            f"dtype={name!r} is no type to compute in; pass float32, bfloat16, float16 or float64"
        )
    return found


def saved_dtype(folder: Path) -> Any:
    """What the captioner of a folder was saved in, by its ``config.json``; float32 where that says nothing."""
    settings = read_settings(folder)
    return find_dtype(settings.get("dtype") or settings.get("torch_dtype") or "float32")
