"""CLIP-Diffusion-LM's pickled module and state dict convert alike, without running anything of theirs."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from towers import vocabulary, write_clip, write_tokenizer

from clearcap.captioner.model import Captioner
from clearcap.convert import convert_clip_diffusion_lm
from clearcap.convert.reading import read_module
from clearcap.errors import InputError

# The authors saved the whole module of a class of their script; the pickle names it and torch's classes.
SAVE_AS_THEY_DID = textwrap.dedent(
    """
    import sys, torch
    from torch import nn
    from safetensors.torch import load_file

    class DistilBertModel(nn.Module):
        def __init__(self, state):
            super().__init__()
            for name, tensor in state.items():
                here = self
                *path, last = name.split(".")
                for part in path:
                    if part not in here._modules:
                        here.add_module(part, nn.Module())
                    here = here._modules[part]
                here.register_parameter(last, nn.Parameter(tensor))

    torch.save(DistilBertModel(load_file(sys.argv[1])), sys.argv[2])
    """
)


@pytest.fixture
def fixture(shared: Path) -> Path:
    return shared / "parity" / "clipdlm_seed0"


@pytest.fixture
def weights(fixture: Path) -> dict[str, Tensor]:
    return load_file(fixture / "weights.safetensors")


@pytest.fixture
def pickled(fixture: Path, tmp_path: Path) -> Path:
    file = tmp_path / "model.pickle"
    script = [sys.executable, "-c", SAVE_AS_THEY_DID, str(fixture / "weights.safetensors"), str(file)]
    subprocess.run(script, check=True)
    return file


def test_a_pickled_module_is_read_without_its_class(pickled: Path, weights: dict[str, Tensor]) -> None:
    state = read_module(pickled)
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[name], weights[name]) for name in weights)


def test_a_module_that_names_code_is_refused(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            import os

            return os.system, (f"touch {tmp_path / 'attacked'}",)

    torch.save(Attack(), tmp_path / "model.pickle")
    with pytest.raises(InputError, match="nothing of it was run"):
        read_module(tmp_path / "model.pickle")
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize("kind", ["concat", "add"])
def test_conversion_names_the_clip_model_that_does_not_fit(
    kind: str, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    if kind == "add":
        weights.pop("segment_embedding.weight")
    torch.save(weights, tmp_path / "model.pt")
    clip, words = write_clip(tmp_path / "clip"), tmp_path / "words"
    write_tokenizer(words)
    options = {"vision": clip, "tokenizer": words, "heads": 2, "length": 7}
    with pytest.raises(InputError, match="image vectors of 20 channels, but the CLIP model gives 10"):
        convert_clip_diffusion_lm(tmp_path / "model.pt", tmp_path / "out", **options)
    resized = {
        n: t[:, :10] if n in ("image_linear.weight", "text_linear.weight") else t for n, t in weights.items()
    }
    vocab = len(vocabulary())
    for name in ("embedding.weight", "lm_head.weight", "lm_head.bias"):
        resized[name] = resized[name][:vocab]
    torch.save(resized, tmp_path / "model.pt")
    report = convert_clip_diffusion_lm(tmp_path / "model.pt", tmp_path / "out", **options)
    assert report.network == kind
    assert {d.name for d in report.dropped} == {"lm_head.weight", "lm_head.bias"}
    captioner = Captioner.from_pretrained(tmp_path / "out")
    drawn = captioner.generate(torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    assert drawn.ids.shape == (2, 1, 7)


@pytest.mark.parametrize("fault", ["truncated", "foreign"])
def test_bad_checkpoints_are_one_sentence(fault: str, weights: dict[str, Tensor], tmp_path: Path) -> None:
    file, words = tmp_path / "model.pt", tmp_path / "words"
    torch.save(weights if fault == "truncated" else {"encoder.weight": torch.zeros(2, 2)}, file)
    if fault == "truncated":
        file.write_bytes(file.read_bytes()[:5000])
    write_tokenizer(words)
    clip = write_clip(tmp_path / "clip")
    with pytest.raises(InputError, match=r"model\.pt") as caught:
        convert_clip_diffusion_lm(file, tmp_path / "out", vision=clip, tokenizer=words, heads=2, length=7)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
