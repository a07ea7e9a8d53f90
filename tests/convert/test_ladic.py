"""The authors' checkpoint, in every form it comes in, becomes the same folder; anything else is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from clearcap.captioner.model import Captioner
from clearcap.convert import ConversionReport, Heads, convert_ladic
from clearcap.errors import InputError
from clearcap.pipeline import CaptionPipeline

HEADS = Heads(text=2, denoiser=4, vision=3)


@pytest.fixture
def fixture(shared: Path) -> Path:
    return shared / "parity" / "ladic_seed0"


@pytest.fixture
def weights(fixture: Path) -> dict[str, Tensor]:
    return load_file(fixture / "weights.safetensors")


@pytest.fixture
def statistics(fixture: Path, tmp_path: Path) -> dict[str, Path]:
    """The mean and std pickles, as ``torch.save`` wrote the authors'."""
    recorded = load_file(fixture / "io.safetensors")
    paths = {"mean": tmp_path / "mean.pickle", "std": tmp_path / "std.pickle"}
    torch.save(recorded["const/x_mean"], paths["mean"])
    torch.save(recorded["const/x_sigma"], paths["std"])
    return paths


def convert(file: Path, out: Path, statistics: dict[str, Path], fixture: Path) -> ConversionReport:
    return convert_ladic(file, out, **statistics, tokenizer=fixture / "vocab.txt", heads=HEADS, length=12)


def test_forms_of_one_checkpoint_convert_alike(
    weights: dict[str, Tensor], statistics: dict[str, Path], fixture: Path, tmp_path: Path
) -> None:
    wrapped = {f"module.{name}": tensor for name, tensor in weights.items()}
    torch.save(weights, tmp_path / "LaDiC.bin")
    (tmp_path / "old").mkdir()
    torch.save(wrapped, tmp_path / "old" / "pytorch_model.bin")
    (tmp_path / "new").mkdir()
    save_file(wrapped, tmp_path / "new" / "model.safetensors")
    states = []
    for form in ("LaDiC.bin", "old", "new"):
        report = convert(tmp_path / form, tmp_path / f"out-{form}", statistics, fixture)
        assert report.network == "Diffuser_with_LN"
        states.append(load_file(tmp_path / f"out-{form}" / "model.safetensors"))
    for state in states[1:]:
        assert state.keys() == states[0].keys()
        assert all(torch.equal(state[k], states[0][k]) for k in state)


def test_the_folder_gives_the_recorded_prediction(
    weights: dict[str, Tensor], statistics: dict[str, Path], fixture: Path, tmp_path: Path
) -> None:
    plain = {k: v for k, v in weights.items() if not k.startswith("time_layer_norm.")}
    save_file(plain, tmp_path / "model.safetensors")
    report = convert(tmp_path / "model.safetensors", tmp_path / "out", statistics, fixture)
    assert report.network == "Diffuser"
    dropped = {d.name for d in report.dropped}
    assert {name for name in plain if name.startswith("space_decoder.")} <= dropped
    assert "diffuser.embeddings.word_embeddings.weight" in dropped
    assert report.kept + len(report.dropped) == len(plain)  # nothing is lost without a word
    recorded = load_file(fixture / "io.safetensors")
    captioner = Captioner.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        view = captioner.image_context(captioner.vision.encode(recorded["in/image"]))
        x0 = captioner.denoiser(recorded["comp/x_t"], recorded["comp/self_cond"], recorded["comp/t"], view)
    torch.testing.assert_close(x0, recorded["comp/diffuser_out"], atol=2e-5, rtol=0)
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    assert settings["text"]["decoder"] == "identity"
    assert settings["sampling"]["solver"] == "renoise"


def test_a_converted_model_captions(
    weights: dict[str, Tensor], statistics: dict[str, Path], fixture: Path, tmp_path: Path
) -> None:
    torch.save(weights, tmp_path / "LaDiC.bin")
    convert(tmp_path / "LaDiC.bin", tmp_path / "out", statistics, fixture)
    pipeline = CaptionPipeline.from_pretrained(tmp_path / "out")
    result = pipeline(torch.zeros(32, 32, 3, dtype=torch.uint8).numpy(), steps=200)
    assert result.caption


class Attack:
    """Leaves a file behind where it is unpickled with code allowed."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, (f"touch {self.target}",)


def faulty(fault: str, weights: dict[str, Tensor], path: Path) -> Path:
    """A checkpoint with one thing wrong."""
    state = dict(weights)
    if fault == "truncated pickle":
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[:5000])
    elif fault == "truncated safetensors":
        path = path.with_suffix(".safetensors")
        save_file(state, path)
        path.write_bytes(path.read_bytes()[:5000])
    elif fault == "text file":
        path.write_text("this is not a checkpoint")
    elif fault == "code":
        torch.save({"x": Attack(path.with_name("attacked"))}, path)
    elif fault == "foreign":
        torch.save({"encoder.weight": torch.zeros(2, 2)}, path)
    elif fault == "unknown tensor":
        torch.save(state | {"diffuser.extra.weight": torch.zeros(2)}, path)
    elif fault == "missing tensor":
        state.pop("diffuser.encoder.layer.1.output.dense.bias")
        torch.save(state, path)
    elif fault == "other tower":
        torch.save(state | {"visual_encoder.norm.weight": torch.zeros(7)}, path)
    elif fault == "not tensors":
        torch.save({"epoch": 3}, path)
    return path


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("truncated pickle", "truncated or not a checkpoint"),
        ("truncated safetensors", "truncated or not a checkpoint"),
        ("text file", r"so nothing of it was run|truncated or not a checkpoint"),
        ("code", "nothing of it was run"),
        ("foreign", "is missing"),
        ("unknown tensor", r"unknown tensors, diffuser\.extra\.weight"),
        ("missing tensor", r"layer\.1\.output\.dense\.bias is missing"),
        ("other tower", "has shape"),
        ("not tensors", "not a tensor"),
    ],
)
def test_bad_checkpoints_are_one_sentence_and_run_nothing(
    fault: str,
    said: str,
    weights: dict[str, Tensor],
    statistics: dict[str, Path],
    fixture: Path,
    tmp_path: Path,
) -> None:
    file = faulty(fault, weights, tmp_path / "bad.bin")
    with pytest.raises(InputError, match=said) as caught:
        convert(file, tmp_path / "out", statistics, fixture)
    assert "\n" not in str(caught.value)
    assert file.name in str(caught.value)
    assert not (tmp_path / "attacked").exists()
    assert not (tmp_path / "out").exists()


def test_statistics_of_another_size_are_refused(
    weights: dict[str, Tensor], statistics: dict[str, Path], fixture: Path, tmp_path: Path
) -> None:
    torch.save(weights, tmp_path / "LaDiC.bin")
    torch.save(torch.ones(7), statistics["std"])
    with pytest.raises(InputError, match=r"expected a tensor of shape \(32,\), found \(7,\)"):
        convert(tmp_path / "LaDiC.bin", tmp_path / "out", statistics, fixture)
