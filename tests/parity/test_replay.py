"""Our modules against tensors recorded from the authors' networks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

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
    import torch

    for name in ("weights", "io"):
        save_file({"a": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(InputError, match="neither LaDiC nor CLIP-Diffusion-LM"):
        replay(tmp_path)
