"""Image encoders from transformers: any vision model's tokens, or a contrastive model's one vector."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from clearcap.config import VisionConfig
from clearcap.errors import InputError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

Mode = Literal["patches", "global"]

_OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Pixel mean and std by family, for checkpoints that come without a preprocessor_config.json.
_PIXELS = {"clip": _OPENAI, "blip": _OPENAI, "siglip": _HALF, "siglip2": _HALF, "vit": _HALF}


class TransformersEncoder(nn.Module):
    """A transformers vision tower behind the `ImageEncoder` interface.

    Mode `patches` gives the tower's last hidden state, class token and all (LaDiC reads BLIP's 197 tokens
    so). Mode `global` gives one token, the unit-length image embedding of a contrastive model
    (CLIP-Diffusion-LM, section 3).

    Attributes:
        dim: width of a token.
        tokens: tokens per photo.
        prefix_tokens: how many of them come before the patches (class and register tokens).
        image_size: side, in pixels, to which photos are squashed.
        mean: of the pixels, RGB, values 0..1.
        std: likewise.
    """

    _shift: Tensor
    _scale: Tensor

    def __init__(
        self,
        tower: PreTrainedModel,
        projection: nn.Linear | None,
        mode: Mode,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        """Wrap a tower; use `load_pretrained` or `build_pretrained` to get one.

        Args:
            tower: a model that takes `pixel_values`.
            projection: from the pooled output to the embedding of mode `global`, where there is one.
            mode: which output to give.
            image_size: side of the photos; position embeddings are interpolated where it is not the tower's.
            mean: of the pixels.
            std: of the pixels.

        Raises:
            InputError: the tower cannot give this mode or take this size.
        """
        super().__init__()
        self.tower, self.projection, self.mode, self.image_size = tower, projection, mode, image_size
        self.mean, self.std = tuple(mean), tuple(std)
        self.register_buffer("_shift", torch.tensor(self.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("_scale", torch.tensor(self.std).view(1, 3, 1, 1), persistent=False)
        takes_sizes = "interpolate_pos_encoding" in inspect.signature(tower.forward).parameters
        foreign = image_size != _side(tower.config.image_size)
        self._options = {"interpolate_pos_encoding": True} if foreign and takes_sizes else {}
        try:
            with torch.no_grad():
                probe = self.eval()(torch.zeros(1, 3, image_size, image_size))
        except (ValueError, RuntimeError) as error:
            raise InputError(
                f"{type(tower).__name__}: cannot take photos of {image_size} pixels ({error}); "
                f"pass image_size={_side(tower.config.image_size)}"
            ) from error
        self.tokens, self.dim = int(probe.shape[1]), int(probe.shape[2])
        patch = getattr(tower.config, "patch_size", None)
        patches = (image_size // _side(patch)) ** 2 if patch else self.tokens
        # Hierarchical towers (Swin) merge patches, so they end with fewer tokens than patches.
        self.prefix_tokens = max(0, self.tokens - patches) if mode == "patches" else 0

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch tokens dim"]:
        """Photos with values in 0..1 to tokens."""
        return self.encode((images - self._shift) / self._scale)

    def encode(
        self, pixel_values: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch tokens dim"]:
        """Photos that are normalised already to tokens."""
        output = self.tower(pixel_values=pixel_values, **self._options)
        if self.mode == "global":
            pooled: Tensor = output.pooler_output
            embedded = pooled if self.projection is None else self.projection(pooled)
            return F.normalize(embedded, dim=-1)[:, None]
        hidden: Tensor = output.last_hidden_state
        return hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden  # ResNets end in a map

    @classmethod
    def build(cls, vision: VisionConfig, settings: dict[str, Any]) -> TransformersEncoder:
        """An untrained encoder."""
        return build_pretrained(**settings)

    @classmethod
    def load(cls, vision: VisionConfig) -> TransformersEncoder:
        """The vision tower of the transformers model that ``vision.source`` names, a folder or a hub name.

        Raises:
            InputError: none is named, or it cannot be loaded.
        """
        if not vision.source:
            raise InputError(
                "vision.source is empty; pass vision.source=<folder or hub name of a vision model>"
            )
        return load_pretrained(
            vision.source, "global" if vision.mode == "global" else "patches", vision.image_size
        )

    def null_image(self) -> Float[Tensor, "tokens dim"]:
        """Tokens of a photo of the mean colour: the authors' normalised photo of zeros (LaDiC's code)."""
        return self.encode(torch.zeros(1, 3, self.image_size, self.image_size))[0]

    def folded(self) -> TransformersEncoder:
        """The encoder itself."""
        return self

    def settings(self) -> dict[str, Any]:
        """Plain values from which `build_pretrained` makes an untrained copy."""
        return {
            "architecture": type(self.tower).__name__,
            "config": self.tower.config.to_diff_dict(),
            "projection": None if self.projection is None else self.projection.out_features,
            "mode": self.mode,
            "image_size": self.image_size,
            "mean": list(self.mean),
            "std": list(self.std),
        }


def load_pretrained(
    source: str | Path,
    mode: Mode = "patches",
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> TransformersEncoder:
    """A frozen encoder from a transformers checkpoint: BLIP, CLIP, SigLIP, Swin, DINOv2, ViT and others.

    The checkpoint is loaded as the architecture it names, strictly and from safetensors only; then its
    vision tower is kept.

    Args:
        source: a local folder or a hub name.
        mode: `patches` for all tokens, `global` for one unit-length image embedding.
        image_size: side of the photos in pixels; the checkpoint's own by default.
        mean: of the pixels; the checkpoint's own by default.
        std: of the pixels; the checkpoint's own by default.

    Raises:
        InputError: nothing loadable at `source`, keys missing or left over, or no such mode in the model.
    """
    from transformers import AutoConfig

    source = str(source)
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise _unreachable(source, error) from error
    model = _load_strictly(source, config)
    children = dict(model.named_children())
    tower: Any = children.get("vision_model", model.base_model)
    if "pixel_values" not in inspect.signature(tower.forward).parameters:
        raise InputError(f"{source}: {type(tower).__name__} takes no pixels; pass a vision model")
    projection = None
    if mode == "global":
        projection = children.get("visual_projection")
        if projection is None and "head" not in dict(tower.named_children()):  # SigLIP's pooling head
            raise InputError(f"{source}: has no global image embedding; pass mode='patches' or a CLIP model")
    own_mean, own_std = _pixel_statistics(source, config.model_type)
    size = image_size or _side(tower.config.image_size)
    assert projection is None or isinstance(projection, nn.Linear)
    encoder = TransformersEncoder(tower, projection, mode, size, mean or own_mean, std or own_std)
    return encoder.eval().requires_grad_(False)


def build_pretrained(
    architecture: str,
    config: dict[str, Any],
    projection: int | None,
    mode: Mode,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> TransformersEncoder:
    """An untrained encoder from `TransformersEncoder.settings()`, for loading a saved state into.

    Raises:
        InputError: transformers has no such architecture.
    """
    model_class = _architecture(architecture)
    assert model_class.config_class is not None
    tower_config = model_class.config_class.from_dict(config)
    head = None if projection is None else nn.Linear(tower_config.hidden_size, projection, bias=False)
    encoder = TransformersEncoder(model_class(tower_config), head, mode, image_size, mean, std)
    return encoder.eval().requires_grad_(False)


def _load_strictly(source: str, config: PretrainedConfig) -> PreTrainedModel:
    """The whole checkpoint, as the class its config names."""
    from safetensors import SafetensorError
    from transformers import AutoModel

    names = config.architectures or []
    loader: Any = _architecture(names[0]) if names else AutoModel
    try:
        model, report = loader.from_pretrained(
            source,
            config=config,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
            torch_dtype=torch.float32,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _unreachable(source, error) from error
    for fault in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        keys = sorted(map(str, report[fault]))
        if keys:
            shown = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
            raise InputError(
                f"{source}: {fault.replace('_', ' ')}: {shown}; pass a checkpoint of {type(model).__name__}"
            )
    return model


def _architecture(name: str) -> type[PreTrainedModel]:
    """The transformers class of that name."""
    import transformers

    found = getattr(transformers, name, None)
    if not (inspect.isclass(found) and issubclass(found, transformers.PreTrainedModel)):
        raise InputError(
            f"{name}: transformers {transformers.__version__} has no such model; upgrade transformers"
        )
    return found


def _pixel_statistics(source: str, model_type: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and std that the checkpoint's preprocessor names, or its family's."""
    from transformers.utils import cached_file

    path = cached_file(source, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
    stored = json.loads(Path(path).read_text()) if path else {}
    mean, std = _PIXELS.get(model_type.removesuffix("_vision_model"), _IMAGENET)
    return stored.get("image_mean", mean), stored.get("image_std", std)


def _side(size: int | Sequence[int]) -> int:
    """One side of a size that configs give as a number or as a pair."""
    return size if isinstance(size, int) else size[0]


def _unreachable(source: str, error: Exception) -> InputError:
    reason = str(error).strip().split("\n")[0]
    if Path(source).is_dir():
        return InputError(
            f"{source}: not a loadable transformers model ({reason}); it needs config.json and safetensors"
        )
    return InputError(
        f"{source}: no such folder, and the model hub cannot be reached or has no such model ({reason}); "
        "pass a local folder, or a hub name while online"
    )
