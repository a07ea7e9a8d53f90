"""``TimmEncoder`` against timm's own networks of random weights; ``test_timm.py`` runs this where timm is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision_operators import timm
from towers import write_bert

from clearcap.captioner.model import Captioner
from clearcap.captioner.towers import build_captioner
from clearcap.config import VisionConfig, load_preset
from clearcap.errors import InputError
from clearcap.pipeline import CaptionPipeline
from clearcap.vision.interface import ImageEncoder
from clearcap.vision.timm import TimmEncoder

SIDE = 160  # of the photos that timm's test networks take
TOKENS = {"test_vit": (101, 64), "test_resnet": (25, 96), "test_convnext": (25, 64)}


def write_network(name: str, folder: Path) -> tuple[str, torch.nn.Module]:
    """``vision.source`` of a network of random weights, and the network."""
    torch.manual_seed(4)
    network = timm.create_model(name, num_classes=0).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    file = folder / f"{name}.safetensors"
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, file)
    return f"{name}={file}", network


def photos(count: int) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def features(network: torch.nn.Module, images: Tensor) -> Tensor:
    """timm's own features of photos, normalised as timm says they must be, as rows of tokens."""
    about = network.pretrained_cfg
    mean, std = (torch.tensor(about[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        found = network.forward_features((images - mean) / std)
    if found.ndim == 3:
        return found
    batch, _, height, width = found.shape
    rows = [[found[b, :, y, x] for y in range(height) for x in range(width)] for b in range(batch)]
    return torch.stack([torch.stack(row) for row in rows])


@pytest.mark.parametrize("name", TOKENS)
def test_tokens_are_timms_features(name: str, tmp_path: Path) -> None:
    source, network = write_network(name, tmp_path)
    encoder = TimmEncoder.load(VisionConfig(kind="timm", source=source, image_size=SIDE))
    assert (encoder.tokens, encoder.dim, encoder.image_size) == (*TOKENS[name], SIDE)
    assert isinstance(encoder, ImageEncoder)
    assert not encoder.training
    assert not any(p.requires_grad for p in encoder.parameters())
    images = photos(2)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images), features(network, images))
        again = TimmEncoder.build(VisionConfig(kind="timm"), encoder.settings())
        again.load_state_dict(encoder.state_dict(), strict=True)
        assert torch.equal(again.eval()(images), encoder(images))
    assert encoder.folded() is encoder


def test_a_captioner_of_a_timm_network_is_built_saved_and_loaded(tmp_path: Path) -> None:
    source, network = write_network("test_vit", tmp_path)
    bert = write_bert(tmp_path / "bert")
    settings = [f"text.source={bert}", "text.split=2", "text.length=8", "vision.kind=timm"]
    settings += [f"vision.source={source}", f"vision.image_size={SIDE}", "denoiser.width=16"]
    settings += ["denoiser.depth=1", "denoiser.heads=2", "denoiser.hidden=16", "sampling.length=0"]
    settings += ["sampling.min_length=0", "sampling.max_length=0", "sampling.steps=3"]
    with pytest.raises(InputError, match=r"pass vision\.tokens=101 vision\.dim=64"):
        build_captioner(load_preset("compact", settings))
    captioner, tokenizer = build_captioner(
        load_preset("compact", [*settings, "vision.tokens=101", "vision.dim=64"])
    )
    captioner.eval()
    images = photos(2)
    torch.testing.assert_close(captioner.encode_image(images), features(network, images))
    captioner.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    again = Captioner.from_pretrained(tmp_path / "model")
    for name, tensor in captioner.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    drawn, repeated = (one.generate(images, seed=3) for one in (captioner, again))
    assert torch.equal(drawn.ids, repeated.ids)
    assert torch.equal(drawn.confidence, repeated.confidence)
    pipeline = CaptionPipeline.from_pretrained(tmp_path / "model")
    assert torch.equal(pipeline.captioner.generate(images, seed=3).ids, drawn.ids)
    assert isinstance(pipeline((255 * images[0]).to(torch.uint8)).caption, str)


def test_faults_are_one_line(tmp_path: Path) -> None:
    source, _ = write_network("test_vit", tmp_path)
    file = source.partition("=")[2]
    (tmp_path / "text.safetensors").write_text("no weights")
    for asked, size, message in (
        ("", SIDE, "vision.source is empty"),
        ("no_such_net", SIDE, "timm/no_such_net: cannot be had"),
        (f"test_resnet={file}", SIDE, "not the weights of timm/test_resnet"),
        (f"test_vit={tmp_path}/none.safetensors", SIDE, "none.safetensors: cannot be read"),
        (f"test_vit={tmp_path}/text.safetensors", SIDE, "text.safetensors: cannot be read"),
        (source, 100, "timm/test_vit: cannot take photos of 100 pixels"),
    ):
        with pytest.raises(InputError) as caught:
            TimmEncoder.load(VisionConfig(kind="timm", source=asked, image_size=size))
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
