"""``Captioner``: the network as a transformers model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from clearcap.captioner.building import build_parts
from clearcap.captioner.loading import SHARES, Unfilled, find_folder, load_weights, read_settings
from clearcap.captioner.network import Network
from clearcap.config import DenoiserConfig, DiffusionConfig, SamplingConfig, TextConfig, VisionConfig, renamed


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
    """A diffusion image captioner (LaDiC and relatives) that transformers saves, loads and shares."""

    config_class = CaptionerConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"
    config: CaptionerConfig

    def __init__(self, config: CaptionerConfig) -> None:
        PreTrainedModel.__init__(self, config)
        self.take(config, build_parts(config))
        self.post_init()

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *unused: Any, dtype: Any = None, **ignored: Any
    ) -> Captioner:
        """A captioner from a folder or the hub, read strictly and from safetensors only.

        Not transformers' own loader: that builds on the meta device and leaves what is computed at construction
        (the image encoders' pixel statistics) empty.

        Args:
            pretrained_model_name_or_path: folder or hub name.
            dtype: of the weights; default float32.

        Raises:
            InputError: nothing there, or tensors missing, unexpected or of other shapes.
        """
        captioner: Any = load_folder(find_folder(str(pretrained_model_name_or_path)))
        return captioner.to(dtype) if isinstance(dtype, torch.dtype) else captioner

    def _init_weights(self, module: nn.Module) -> None:
        """Every part initialises itself."""


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


def load_folder(folder: Path) -> Captioner:
    """The captioner saved in a folder, in float32, with every tensor accounted for."""
    settings = {name: value for name, value in read_settings(folder).items() if name != SHARES}
    with Unfilled():
        captioner = Captioner(CaptionerConfig.from_dict(settings))
    return load_weights(captioner, folder)
