"""A second encoder: nothing changes at first, and the captioner saved at the end computes what training computed."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from clearcap.captioner.model import load_captioner
from clearcap.training.encoder.pairing import Basis, PairedObjective, between, paired
from clearcap.training.objectives import LadicObjective
from clearcap.vision.efficientnet import EfficientNetEncoder
from tests.tiny_captioner import tiny_captioner

FEATURES = 5


def parts() -> tuple[EfficientNetEncoder, Basis]:
    torch.manual_seed(4)
    second = EfficientNetEncoder(dim=16, width=0.1, depth=1.0, image_size=64)
    return second.eval(), Basis(torch.randn(1280), torch.randn(1280, FEATURES) / 30)


@torch.no_grad()
def test_it_begins_as_the_captioner_that_goes_on() -> None:
    captioner, _ = tiny_captioner()
    noise = captioner.noise(2.0)
    own, both = LadicObjective(captioner, noise), PairedObjective(captioner, noise, FEATURES)
    ids = torch.randint(5, 60, (4, 10), generator=torch.Generator().manual_seed(0))
    x0 = captioner.text.encode(ids, torch.ones_like(ids))
    image = torch.randn(2, 4, 16 + FEATURES, generator=torch.Generator().manual_seed(1))
    own.shares |= {"drop_image": 0.0, "self_condition": 1.0}
    draws = own.sample(
        photos=2, copies=2, length=10, dim=x0.shape[-1], generator=torch.Generator().manual_seed(2)
    )
    seen = torch.ones(2, dtype=torch.bool)
    alone, more = own(image[..., :16], seen, x0, ids, draws), both(image, seen, x0, ids, draws)
    torch.testing.assert_close(more, alone)
    both.mix.weight.normal_()
    assert not torch.allclose(both(image, seen, x0, ids, draws)[0], alone[0])


@torch.no_grad()
def test_the_saved_pair_gives_the_tokens_that_were_trained_on(tmp_path: Path) -> None:
    shared, tokenizer = tiny_captioner()
    captioner = copy.deepcopy(shared)
    second, basis = parts()
    objective = PairedObjective(captioner, captioner.noise(2.0), FEATURES)
    objective.mix.weight.normal_(generator=torch.Generator().manual_seed(3))
    objective.mix.bias.fill_(0.2)
    photos = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    last = second.upper(second.lower(photos, 0), 0).flatten(2).transpose(1, 2)
    expected = objective.mixed(
        torch.cat((captioner.encode_image(photos), (last - basis.mean) @ basis.components), -1)
    )
    made = paired(captioner, second, basis, objective.mix)
    torch.testing.assert_close(made.encode_image(photos), expected, atol=1e-4, rtol=1e-4)
    made.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, _ = load_captioner(str(tmp_path))
    torch.testing.assert_close(loaded.encode_image(photos), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(loaded.vision.folded()(photos), expected, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_weights_between_end_at_both_captioners() -> None:
    before, _ = tiny_captioner()
    second, basis = parts()
    objective = PairedObjective(before, before.noise(2.0), FEATURES)
    objective.mix.weight.normal_(generator=torch.Generator().manual_seed(3))
    trained = copy.deepcopy(before)
    for name, p in trained.named_parameters():
        if name.startswith("denoiser."):
            p.add_(0.1)
    after = paired(trained, second, basis, objective.mix)
    photos = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    for name, p in between(before, after, 1.0).named_parameters():
        torch.testing.assert_close(p, dict(after.named_parameters())[name])
    start = between(before, after, 0.0, map_scale=0.0)
    torch.testing.assert_close(start.encode_image(photos), before.encode_image(photos), atol=1e-5, rtol=1e-5)
    assert torch.equal(start.generate(photos).ids, before.generate(photos).ids)
    half = dict(between(before, after, 0.5).named_parameters())["denoiser.blocks.0.up.weight"]
    torch.testing.assert_close(half, dict(before.named_parameters())["denoiser.blocks.0.up.weight"] + 0.05)
