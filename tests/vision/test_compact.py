"""The compact encoder: shapes, folding, strict loading."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from clearcap.errors import InputError
from clearcap.vision.compact import CompactEncoder, load_compact
from clearcap.vision.interface import ImageEncoder

TINY = {
    "dim": 12,
    "widths": [8, 8, 16, 16],
    "depths": [1, 1, 2, 1],
    "mixers": 1,
    "heads": 2,
    "image_size": 64,
}


@pytest.fixture
def encoder(generator):
    """A tiny encoder whose batch norms are anything but the identity."""
    model = CompactEncoder(**TINY)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor, low in (
                (module.running_mean, -1),
                (module.running_var, 0.5),
                (module.weight, 0.5),
                (module.bias, -1),
            ):
                tensor.data.uniform_(low, low + 1.5, generator=generator)
    return model


def write(encoder, folder):
    save_file({k: v.contiguous() for k, v in encoder.state_dict().items()}, folder / "encoder.safetensors")
    (folder / "encoder.json").write_text(json.dumps({"encoder": encoder.settings()}))


def test_shapes(encoder, generator):
    assert encoder(torch.rand(2, 3, 64, 64, generator=generator)).shape == (2, 4, 12)
    assert (encoder.tokens, encoder.dim, encoder.image_size) == (4, 12, 64)
    assert isinstance(encoder, ImageEncoder)
    default = CompactEncoder()
    assert (default.tokens, default.dim, default.image_size) == (49, 256, 224)
    assert sum(p.numel() for p in default.parameters()) < 6e6


def test_folding_changes_nothing_but_removes_every_batch_norm(encoder, generator):
    images = torch.rand(2, 3, 64, 64, generator=generator)
    folded = encoder.folded()
    with torch.no_grad():
        torch.testing.assert_close(folded(images), encoder.eval()(images), rtol=1e-4, atol=1e-4)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in encoder.modules())


def test_a_photo_alone_equals_its_row_in_a_batch(encoder, generator):
    images = torch.rand(3, 3, 64, 64, generator=generator)
    model = encoder.folded()
    torch.testing.assert_close(model(images)[1:2], model(images[1:2]), rtol=1e-5, atol=1e-5)


def test_normalises_its_input_itself(encoder, generator):
    images = torch.rand(1, 3, 64, 64, generator=generator)
    seen = []
    encoder.eval().stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    encoder(images)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(seen[0], (images - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1))


def test_saved_and_loaded(encoder, tmp_path, generator):
    write(encoder, tmp_path)
    images = torch.rand(1, 3, 64, 64, generator=generator)
    loaded = load_compact(tmp_path)
    assert not loaded.training
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), encoder.eval()(images), rtol=0, atol=0)
    copy = CompactEncoder(**encoder.settings())
    assert copy.settings() == encoder.settings()


def test_other_weights_are_refused(encoder, tmp_path):
    write(encoder, tmp_path)
    state = load_file(tmp_path / "encoder.safetensors")
    del state["head.bias"]
    save_file(state, tmp_path / "encoder.safetensors")
    with pytest.raises(InputError, match=r"head\.bias"):
        load_compact(tmp_path)
    (tmp_path / "encoder.json").unlink()
    with pytest.raises(InputError, match=r"encoder\.json: absent"):
        load_compact(tmp_path)


@pytest.mark.parametrize(("setting", "value"), [("image_size", 100), ("depths", [1, 0, 1, 1]), ("heads", 3)])
def test_impossible_sizes_are_refused(setting, value):
    with pytest.raises(InputError, match=setting):
        CompactEncoder(**{**TINY, setting: value})
