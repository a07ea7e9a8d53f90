"""Our modules against tensors recorded from the authors' networks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from clearcap.convert.comparing import BOUNDS, Comparison
from clearcap.convert.replaying import compare, replay
from clearcap.errors import InputError

LADIC = {
    *(f"{v} sampling" for v in ("default5", "timeln5", "default30", "backrefine", "cosine", "noselfcond")),
    *(f"{v} training" for v in ("default5", "timeln5", "cosine", "noselfcond")),
    "components",
    "captions",
}
CLIP = {
    f"{variant} {part}"
    for variant in ("concat_w0_x0", "concat_w0.3_x0", "add_w0_x0", "add_w1_x0", "concat_w0_interval")
    for part in ("forward", "training", "five iterations")
}


@pytest.mark.parametrize(("system", "expected"), [("ladic", LADIC), ("clipdlm", CLIP)])
def test_every_variant_is_replayed_within_tolerance(shared: Path, system: str, expected: set[str]) -> None:
    results = replay(shared / "parity" / f"{system}_seed0")
    assert expected <= {name for name, _, _ in results}
    assert all(ok and worst <= 2e-5 for _, worst, ok in results), results


def test_what_differs_is_the_recording_s_own_rounding(shared: Path) -> None:
    for system in ("ladic", "clipdlm"):
        for name, one in compare(shared / "parity" / f"{system}_seed0").items():
            assert one.rounding < 5e-6, (name, one)  # an exact replay is as far away as float32 is rounded
            assert one.worst <= max(3 * one.rounding, 5e-7), (name, one)


def test_every_bound_is_at_most_the_one_asked_for() -> None:
    assert max(BOUNDS.values()) <= 2e-5


def test_differences_are_shares_of_the_greatest_magnitude() -> None:
    compared = Comparison("components")
    compared.close("large", torch.tensor([1000.001, 0.0]), torch.tensor([1000.0, 0.0]))
    assert 5e-7 < compared.worst < 2e-6
    assert compared.ok
    compared.close("small", torch.tensor([1e-3, 1e-5]), torch.tensor([1e-3, 2e-5]))
    assert compared.worst_name == "small"
    assert not compared.ok
    for mine in (torch.tensor([float("nan"), 0.0]), torch.zeros(3)):
        compared = Comparison("components")
        compared.close("broken", mine, torch.zeros(2))
        assert compared.worst == float("inf")


def test_a_changed_weight_and_a_changed_token_are_seen(shared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "fixture"
    shutil.copytree(shared / "parity" / "clipdlm_seed0", folder)
    tensors = load_file(folder / "io.safetensors")
    tensors["add_w0_x0/inf/argmax_ids"][0, 0] += 1
    save_file(tensors, folder / "io.safetensors")
    results = compare(folder)
    assert not results["add_w0_x0 five iterations"].ok
    assert results["add_w0_x0 forward"].ok

    weights = load_file(folder / "weights.safetensors")
    weights["segment_embedding.weight"][0, 0] += 1e-3
    save_file(weights, folder / "weights.safetensors")
    results = compare(folder)
    assert not results["concat_w0_x0 forward"].ok
    assert results["add_w0_x0 forward"].ok


def test_what_is_no_fixture_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"README\.json"):
        replay(tmp_path)
    (tmp_path / "README.json").write_text("{}")
    for name in ("weights", "io"):
        save_file({"a": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(InputError, match="neither LaDiC nor CLIP-Diffusion-LM"):
        replay(tmp_path)
