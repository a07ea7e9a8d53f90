"""``Captioner``: the network as a transformers model."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from clearcap.captioner.building import build_parts
from clearcap.captioner.folder import (
    INDEX,
    TOKENIZER,
    Loading,
    find_folder,
    read_settings,
    saved_dtype,
)
from clearcap.captioner.loading import building, find_device, load_weights
from clearcap.captioner.network import Network
from clearcap.captioner.sharing import KEY
from clearcap.config import (
    DenoiserConfig,
    DiffusionConfig,
    SamplingConfig,
    TextConfig,
    VisionConfig,
    make,
    renamed,
)
from clearcap.data.writing import make_folder, whole_folder
from clearcap.errors import InputError

PROCESSOR_FILE = "processor_config.json"


class CaptionerConfig(PretrainedConfig):
    """Everything that rebuilds a captioner without a hub: sizes of its parts, corruption, sampling defaults."""

    model_type = "clearcap"

    def __init__(
        self,
        text: dict[str, Any] | None = None,
        vision: dict[str, Any] | None = None,
        denoiser: dict[str, Any] | None = None,
        diffusion: dict[str, Any] | None = None,
        sampling: dict[str, Any] | None = None,
        bert: dict[str, Any] | None = None,
        tower: dict[str, Any] | None = None,
        tokens: dict[str, int] | None = None,
        **kwargs: Any,
    ) -> None:
        """Sections as in a preset; ``bert`` and ``tower`` are the towers' own settings, ``tokens`` special ids."""
        self.text = section(TextConfig, text)
        self.vision = section(VisionConfig, vision)
        self.denoiser = section(DenoiserConfig, denoiser)
        self.diffusion = section(DiffusionConfig, diffusion)
        self.sampling = section(SamplingConfig, sampling)
        self.bert = bert or {}
        self.tower = tower or {}
        self.tokens = tokens or {"pad": 0, "cls": 2, "sep": 3, "filler": 0}
        super().__init__(**kwargs)


def section(kind: type, table: dict[str, Any] | None) -> dict[str, Any]:
    """A section of saved settings under today's names; default is that of the settings class."""
    return renamed(kind, table, warn=False) if table else dataclasses.asdict(kind())


class Captioner(Network, PreTrainedModel):
    """A diffusion image captioner (LaDiC and relatives) that transformers saves, loads and shares.

    Attributes:
        tokenizer: its tokenizer, which is saved with it; None where it is not known.
    """

    config_class = CaptionerConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"
    config: CaptionerConfig
    _supports_sdpa = True  # and nothing else: see clearcap.arrays.layers

    def __init__(self, config: CaptionerConfig) -> None:
        PreTrainedModel.__init__(self, config)
        self.tokenizer: Any = None
        self.take(config, build_parts(config))
        self.post_init()

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: Any,
        *,
        config: CaptionerConfig | str | Path | None = None,
        dtype: Any = None,
        device: Any = None,
        **options: Any,
    ) -> Captioner:
        """A captioner from a folder or the hub, read strictly and from safetensors only.

        Not transformers' own loader: that builds on the meta device and leaves what is computed at construction
        (the image encoders' pixel statistics) empty.

        Args:
            pretrained_model_name_or_path: folder or hub name.
            config: settings to use instead of the saved ones, or the folder that holds them.
            dtype: of the weights, or its name; default is what they were saved in.
            device: where it goes; default the CPU.
            options: transformers' own: ``revision``, ``cache_dir``, ``token``, ``local_files_only``,
                ``force_download``, ``subfolder``, ``device_map`` (one device), ``torch_dtype``.

        Raises:
            InputError: nothing there, tensors missing, unexpected or of other shapes, or an option that is not known
                or cannot be honoured.
        """
        if isinstance(config, (str, Path)):
            config = CaptionerConfig.from_dict(read_settings(Path(config)))
        if config is not None and not isinstance(config, CaptionerConfig):
            kind = type(config).__name__
            raise InputError(f"config is of type {kind}; pass a CaptionerConfig or the folder of one")
        attention = None if config is None else config._attn_implementation  # where AutoModel puts it
        how = Loading.of(device, dtype, **{"attn_implementation": attention} | options)
        place = find_device("cpu" if how.device is None else how.device)
        folder = find_folder(str(pretrained_model_name_or_path), **how.hub)
        captioner: Any = load_folder(folder, config)
        if (folder / TOKENIZER).is_file():
            captioner.tokenizer = load_tokenizer(folder)
        placed: Captioner = captioner.to(place, how.dtype or saved_dtype(folder))
        return placed

    def save_pretrained(  # type: ignore[override]
        self, save_directory: Any, push_to_hub: bool = False, **options: Any
    ) -> None:
        """Write weights and settings, and tokenizer and processor where the tokenizer is known.

        Args:
            save_directory: folder to write.
            push_to_hub: upload what was written, too.
            options: as for transformers' models.

        Raises:
            InputError: the folder cannot be written, or an option cannot be honoured.
        """
        repository = options.pop("repo_id", None)
        if options.get("variant"):
            raise InputError(
                f"variant={options['variant']!r}: captioners are loaded without one; leave it out"
            )
        place = Path(save_directory)
        with whole_folder(place) as fresh:
            super().save_pretrained(fresh, **options)
            if self.tokenizer is not None:
                save_processor(self.tokenizer, processor_settings(self.config), fresh)
            written = {
                file.name for file in (*fresh.glob("model*.safetensors"), fresh / INDEX) if file.is_file()
            }
        for file in (*place.glob("model*.safetensors"), place / INDEX):
            if written and file.name not in written:  # weights of what was saved there before
                file.unlink(missing_ok=True)
        if push_to_hub:
            names = ("token", "private", "commit_message", "revision", "create_pr")
            hub = {name: options[name] for name in names if name in options}
            upload: Any = self.push_to_hub
            upload(repository or Path(save_directory).name, **hub)

    def _init_weights(self, module: nn.Module) -> None:
        """Every part initialises itself."""


def load_captioner(source: str) -> tuple[Captioner, Any]:
    """A captioner and its tokenizer.

    Args:
        source: folder or hub name; weights are read from safetensors only.

    Raises:
        InputError: nothing there, not a captioner, or tensors missing, unexpected or of other shapes.
    """
    folder = find_folder(source)
    captioner = load_folder(folder)
    captioner.tokenizer = load_tokenizer(folder)
    return captioner, captioner.tokenizer


def load_tokenizer(folder: Path) -> Any:
    """The ``transformers.BertTokenizer`` saved in a folder.

    Raises:
        InputError: there is none.
    """
    from transformers import BertTokenizer

    if not (folder / TOKENIZER).is_file():
        raise InputError(
            f"{folder}: holds no {TOKENIZER}; save it there too: tokenizer.save_pretrained(folder)"
        )
    try:
        return BertTokenizer.from_pretrained(folder)
    except Exception as fault:  # transformers and its Rust library raise all kinds
        raise InputError(f"{folder}: its tokenizer cannot be read ({fault}); save it there again") from fault


def load_folder(folder: Path, config: CaptionerConfig | None = None) -> Captioner:
    """The captioner saved in a folder, in float32, with every tensor accounted for.

    Args:
        folder: of weights and settings.
        config: settings to use instead.
    """
    settings = read_settings(folder) if config is None else config.to_dict()
    settings.pop(KEY, None)
    with building(folder):
        captioner = Captioner(CaptionerConfig.from_dict(settings))
    return load_weights(captioner, folder)


def processor_settings(config: CaptionerConfig) -> dict[str, Any]:
    """What a captioner's processor depends on."""
    text, vision = make(TextConfig, config.text, "text"), make(VisionConfig, config.vision, "vision")
    return {
        "image_size": vision.image_size,
        "length": text.length,
        "max_words": text.max_words,
        "keep_period": text.keep_period,
    }


def save_processor(tokenizer: Any, settings: dict[str, Any], folder: Path) -> Path:
    """Write a tokenizer and a processor's settings, and return the file of the settings."""
    make_folder(folder)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if (
        backend is not None
    ):  # how the last captions were padded is no part of it; each saving would write another file
        backend.no_truncation()
        backend.no_padding()
    tokenizer.save_pretrained(folder)
    file = folder / PROCESSOR_FILE
    file.write_text(json.dumps({"processor_class": "CaptionerProcessor", **settings}, indent=1) + "\n")
    return file
