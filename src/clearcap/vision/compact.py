"""The compact image encoder that ships: a small residual network, trained here by distillation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from clearcap.errors import InputError
from clearcap.vision.trained import TrainedEncoder, load_weights, read_encoder

MEAN = (0.485, 0.456, 0.406)  # of ImageNet photos, RGB in 0..1
STD = (0.229, 0.224, 0.225)
STRIDE = 32  # pixels a token stands for, along one side


class ConvNorm(nn.Module):
    """A convolution and its batch normalisation, which ``folded`` merges into one convolution."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        """Without padding where kernel equals stride (patches), else with the padding that keeps the grid."""
        super().__init__()
        padding = 0 if kernel == stride else kernel // 2
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Float[Tensor, "batch inputs h w"]) -> Float[Tensor, "batch outputs h2 w2"]:
        """Convolve, then normalise."""
        normed: Tensor = self.norm(self.conv(x))
        return normed

    def folded(self) -> nn.Conv2d:
        """The one convolution with a bias that computes the same in evaluation mode."""
        old, norm = self.conv, self.norm
        variance, shift = norm.running_var, norm.running_mean
        assert variance is not None
        assert shift is not None
        scale = norm.weight / torch.sqrt(variance + norm.eps)
        new = nn.Conv2d(
            old.in_channels,
            old.out_channels,
            old.kernel_size,  # type: ignore[arg-type]
            old.stride,  # type: ignore[arg-type]
            old.padding,  # type: ignore[arg-type]
            device=old.weight.device,
        )
        with torch.no_grad():
            new.weight.data = old.weight * scale[:, None, None, None]  # keeps the channels last
            assert new.bias is not None
            new.bias.copy_(norm.bias - shift * scale)
        return new


class Residual(nn.Module):
    """Two 3x3 convolutions around a shortcut (ResNet, He et al. 2015, the basic block)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        """A shortcut of average pooling and a 1x1 convolution where the shape changes."""
        super().__init__()
        self.first = ConvNorm(inputs, outputs, stride=stride)
        self.second = ConvNorm(outputs, outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = (
            nn.Identity() if same else nn.Sequential(nn.AvgPool2d(stride), ConvNorm(inputs, outputs, 1, 1))
        )

    def forward(self, x: Float[Tensor, "batch inputs h w"]) -> Float[Tensor, "batch outputs h2 w2"]:
        """Shortcut plus residual, rectified."""
        return F.relu(self.shortcut(x) + self.second(F.relu(self.first(x))))


class Mixer(nn.Module):
    """A pre-norm transformer block over the tokens of one photo."""

    def __init__(self, dim: int, heads: int) -> None:
        """Self-attention of `heads` heads and an MLP four times as wide."""
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        """Attend, then the MLP, each added to its input."""
        batch, tokens, dim = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        # Written out: 49 keys are too few for the fused kernel, whose backward is slow on a CPU.
        weights = (q * (dim // self.heads) ** -0.5 @ k.transpose(-2, -1)).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(batch, tokens, dim))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class CompactEncoder(TrainedEncoder):
    """Photos to a grid of tokens, each one 32 x 32 pixels; normalises its input itself."""

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        dim: int = 256,
        widths: Sequence[int] = (48, 64, 160, 256),
        depths: Sequence[int] = (0, 2, 2, 2),
        mixers: int = 1,
        heads: int = 4,
        image_size: int = 224,
    ) -> None:
        """Build an untrained encoder.

        Args:
            dim: width of the output tokens.
            widths: channels at strides 4, 8, 16 and 32.
            depths: residual blocks at each of these strides.
            mixers: transformer blocks over the final grid.
            heads: their attention heads.
            image_size: side of the photos, in pixels; a multiple of 32.

        Raises:
            InputError: impossible sizes.
        """
        super().__init__()
        if image_size % STRIDE:
            raise InputError(f"image_size={image_size} is no multiple of {STRIDE}; pass 224, say")
        if min(dim, *widths, heads, image_size) < 1:
            raise InputError(
                f"dim={dim}, widths={list(widths)}, heads={heads}, image_size={image_size}: each must be at least 1"
            )
        if len(widths) != 4 or len(depths) != 4 or min(depths[1:]) < 1:
            raise InputError(
                f"widths={widths}, depths={depths}: four of each are needed, depths[1:] at least 1"
            )
        if widths[-1] % heads:
            raise InputError(f"heads={heads} does not divide the last width {widths[-1]}; pass a divisor")
        self.widths, self.depths, self.heads = tuple(widths), tuple(depths), heads
        self.dim, self.image_size, self.tokens = dim, image_size, (image_size // STRIDE) ** 2
        mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
        self.register_buffer("scale", 1 / std, persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)
        self.stem = ConvNorm(3, widths[0], kernel=7, stride=4)
        stages = []
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            before = widths[max(stage - 1, 0)]
            first = [Residual(before, width, stride=2)] if stage else []
            stages += [nn.Sequential(*first, *(Residual(width, width) for _ in range(depth - len(first))))]
        self.stages = nn.Sequential(*stages)
        self.position = nn.Parameter(torch.zeros(1, self.tokens, widths[-1]))
        self.mixers = nn.Sequential(*(Mixer(widths[-1], heads) for _ in range(mixers)))
        self.norm = nn.LayerNorm(widths[-1])
        self.head = nn.Linear(widths[-1], dim)
        for module in self.modules():  # convolutions run faster with channels last
            if isinstance(module, nn.Conv2d):
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch tokens dim"]:
        """Photos with values in 0..1 to tokens, row by row of the grid.

        Photos of another size than `image_size` give another grid; positions are interpolated to it.
        """
        x = torch.addcmul(self.shift, images, self.scale).contiguous(memory_format=torch.channels_last)
        x = self.stages(F.relu(self.stem(x)))
        x = x.flatten(2).transpose(1, 2) + self._positions(x.shape[-2], x.shape[-1])
        tokens: Tensor = self.head(self.norm(self.mixers(x)))
        return tokens

    def _positions(self, height: int, width: int) -> Float[Tensor, "1 tokens dim"]:
        """Position embeddings of a grid."""
        side = self.image_size // STRIDE
        if (height, width) == (side, side):
            return self.position
        square = self.position.transpose(1, 2).unflatten(2, (side, side))
        resized = F.interpolate(square, (height, width), mode="bilinear", antialias=True)
        return resized.flatten(2).transpose(1, 2)

    def folded(self) -> CompactEncoder:
        """A copy for inference: every batch normalisation merged into its convolution, in evaluation mode.

        Same output as in evaluation mode up to rounding, in a little less time.
        """
        folded = copy.deepcopy(self).eval()
        for module in list(folded.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, ConvNorm):
                    setattr(module, name, child.folded())
        return folded.requires_grad_(False)

    def settings(self) -> dict[str, Any]:
        """Plain values from which ``build`` makes an untrained copy."""
        return {
            "dim": self.dim,
            "widths": list(self.widths),
            "depths": list(self.depths),
            "mixers": len(self.mixers),
            "heads": self.heads,
            "image_size": self.image_size,
        }


def load_compact(folder: str | Path) -> CompactEncoder:
    """A distilled encoder, in evaluation mode, from ``encoder.json`` and ``encoder.safetensors`` in ``folder``.

    Raises:
        InputError: a file is absent, or the weights are not those of these settings.
    """
    settings = Path(folder) / "encoder.json"
    if not settings.is_file():
        raise InputError(f"{settings}: absent; pass the folder that a distillation wrote")
    found = read_encoder(settings)
    try:
        encoder = CompactEncoder(**found)
    except InputError:
        raise
    except Exception as error:  # whatever impossible sizes lead to
        raise InputError(f"{settings}: not the settings of an encoder ({error}); train it again") from error
    return load_weights(encoder, Path(folder) / "encoder.safetensors").eval()
