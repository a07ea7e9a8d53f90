"""EfficientNet-Lite against the public port's layout computed independently, and what fine-tuning relies on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clearcap.config import VisionConfig
from clearcap.errors import InputError
from clearcap.registry import find
from clearcap.training.encoder.finetune import freeze_below
from clearcap.vision import efficientnet
from clearcap.vision.efficientnet import EfficientNetEncoder, FixedDepthwise, convolve, load_imagenet
from tests.efficientnet_port import state_of_the_port

SMALL = (
    efficientnet.Stage(3, 1, 1, 8, 1),
    efficientnet.Stage(3, 2, 6, 8, 2),
    efficientnet.Stage(5, 2, 6, 8, 1),
    efficientnet.Stage(3, 2, 6, 16, 1),
    efficientnet.Stage(5, 1, 6, 16, 2),
    efficientnet.Stage(5, 2, 6, 16, 1),
    efficientnet.Stage(3, 1, 6, 24, 1),
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> EfficientNetEncoder:
    monkeypatch.setattr(efficientnet, "STAGES", SMALL)
    monkeypatch.setattr(efficientnet, "HEAD", 32)
    torch.manual_seed(0)
    return EfficientNetEncoder(dim=6, width=1.0, depth=1.0, image_size=64)


def port(state: dict[str, Tensor], images: Tensor, strides: list[int]) -> Tensor:
    """The port's forward pass up to its last grid: batch norms apart, padding as TensorFlow's."""

    def conv_norm(x: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        w = state[f"{conv}.weight"]
        k, n = w.shape[-1], x.shape[-1]
        pad = max((-(-n // stride) - 1) * stride + k - n, 0)
        x = F.pad(x, (pad // 2, pad - pad // 2, pad // 2, pad - pad // 2))
        x = F.conv2d(x, w, stride=stride, groups=x.shape[1] if w.shape[1] == 1 else 1)
        of = {part: state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")}
        return F.batch_norm(x, of["running_mean"], of["running_var"], of["weight"], of["bias"], eps=1e-3)

    x = conv_norm((images * 255 - 127) / 128, "_conv_stem", "_bn0", 2).clamp(0, 6)
    for i, stride in enumerate(strides):
        name, before = f"_blocks.{i}", x
        if f"{name}._expand_conv.weight" in state:
            x = conv_norm(x, f"{name}._expand_conv", f"{name}._bn0").clamp(0, 6)
        x = conv_norm(x, f"{name}._depthwise_conv", f"{name}._bn1", stride).clamp(0, 6)
        x = conv_norm(x, f"{name}._project_conv", f"{name}._bn2")
        if before.shape == x.shape:
            x = x + before
    return conv_norm(x, "_conv_head", "_bn1").clamp(0, 6)


def test_the_last_grid_and_the_classes_are_those_of_the_port(small: EfficientNetEncoder) -> None:
    state = state_of_the_port(small)
    with torch.no_grad():
        classifier = load_imagenet(small, state)
        images = torch.rand(2, 3, 64, 64)
        expected = port(state, images, strides=[1, 2, 1, 2, 2, 1, 1, 2, 1])
        last = small.upper(small.lower(images, 4), 4)
        torch.testing.assert_close(last, expected, atol=2e-5, rtol=1e-4)
        assert torch.equal(classifier.weight, state["_fc.weight"])
        by_hand = expected.flatten(2).transpose(1, 2) @ small.project.weight.T + small.project.bias
        torch.testing.assert_close(small(images), by_hand, atol=2e-5, rtol=1e-4)


def test_folded_batch_norms_change_nothing(small: EfficientNetEncoder) -> None:
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        load_imagenet(small, state_of_the_port(small))
        folded = small.folded()
        torch.testing.assert_close(folded(images), small(images), atol=2e-5, rtol=1e-4)
    assert not any("gain" in name for name, _ in folded.named_parameters())


@pytest.mark.parametrize("missing", ["_blocks.3._bn1.weight", "_conv_head.weight"])
def test_weights_that_are_not_whole_are_refused(small: EfficientNetEncoder, missing: str) -> None:
    state = state_of_the_port(small)
    del state[missing]
    with pytest.raises(InputError, match="alone"):
        load_imagenet(small, state)


def test_lite2_has_the_published_number_of_parameters() -> None:
    encoder = EfficientNetEncoder()
    body = sum(p.numel() for name, p in encoder.named_parameters() if not name.startswith("project."))
    assert body + 1280 * 1000 + 1000 == 6_092_072  # Lite2's, 6.1M
    rebuilt = find("image encoder", "efficientnet").build(VisionConfig(), encoder.settings())
    assert [p.shape for p in rebuilt.parameters()] == [p.shape for p in encoder.parameters()]


@pytest.mark.parametrize(
    ("kernel", "stride", "side"), [(3, 1, 7), (5, 1, 6), (3, 2, 8), (5, 2, 14), (5, 2, 7)]
)
def test_the_gradient_of_a_fixed_depthwise_convolution_is_torchs(kernel: int, stride: int, side: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((2, 6, side, side), (6, 1, kernel, kernel), (6,))
    )
    x, bias = x.requires_grad_(), bias.requires_grad_()
    expected = convolve(x, weight, bias, stride, 6)
    grad = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    mine = FixedDepthwise.apply(x, weight, bias, stride)
    torch.testing.assert_close(mine, expected)
    for a, b in zip(
        torch.autograd.grad(mine, (x, bias), grad),
        torch.autograd.grad(expected, (x, bias), grad),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_only_what_stands_behind_the_block_is_trained(small: EfficientNetEncoder) -> None:
    freeze_below(small, 5)
    trained = {name for name, p in small.named_parameters() if p.requires_grad}
    assert not any(name.startswith(("stem.", *(f"blocks.{i}." for i in range(5)))) for name in trained)
    assert "blocks.5.project.weight" in trained
    assert "blocks.5.depthwise.shift" in trained
    assert "blocks.5.depthwise.weight" not in trained
    assert "blocks.5.depthwise.gain" not in trained
    small.upper(small.lower(torch.rand(1, 3, 64, 64), 5), 5).sum().backward()
    assert all(
        p.grad is not None
        for name, p in small.named_parameters()
        if p.requires_grad and not name.startswith("project.")
    )
