"""A captioner prepared for inference says the same, does less, and cannot be saved or moved."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from tiny_captioner import photos, tiny_captioner
from torch import nn

from clearcap.captioner.model import Captioner
from clearcap.captioner.prepacked import PackedLinear, packable, prepare_for_inference
from clearcap.errors import InputError

PACKS = packable(nn.Linear(2, 2))  # whether this machine has the layout at all


@pytest.fixture
def captioner() -> Captioner:
    return copy.deepcopy(tiny_captioner()[0])


@pytest.mark.skipif(not PACKS, reason="this CPU has no oneDNN")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 40), (3, 24, 40), (2, 5, 7, 40)])
def test_a_packed_layer_computes_what_the_layer_does(bias: bool, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(40, 24, bias=bias)
    x = torch.randn(shape)
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(linear)(x), linear(x), atol=1e-6, rtol=1e-6)


def test_captions_and_confidences_stay(captioner: Captioner) -> None:
    image = photos(3)
    before = captioner.generate(image=image, seed=5)
    after = prepare_for_inference(captioner).generate(image=image, seed=5)
    assert torch.equal(after.ids, before.ids)
    torch.testing.assert_close(after.confidence, before.confidence, atol=1e-4, rtol=0)


def test_the_null_image_is_looked_at_once(captioner: Captioner) -> None:
    looks: list[int] = []
    captioner.denoiser.adapter.register_forward_hook(
        lambda module, inputs, output: looks.append(len(inputs[0]))
    )
    prepared = prepare_for_inference(captioner)
    assert looks == [1]
    for _ in range(2):
        prepared.generate(image=photos(3))
    assert looks == [1, 3, 3]


@pytest.mark.skipif(not PACKS, reason="this CPU has no oneDNN")
def test_a_prepared_captioner_refuses_to_be_saved_moved_or_cast(captioner: Captioner, tmp_path: Path) -> None:
    prepared = prepare_for_inference(captioner)
    assert not [m for m in prepared.denoiser.modules() if type(m) is nn.Linear]
    with pytest.raises(InputError, match="save it before"):
        prepared.save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match="before preparing it"):
        prepared.bfloat16()
