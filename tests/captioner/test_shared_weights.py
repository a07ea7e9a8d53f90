"""A captioner saved without the weights that it shares with another one beside it, and the one that ships so."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_captioner import photos, tiny_captioner

from clearcap.captioner.folder import training_curves
from clearcap.captioner.hub import export
from clearcap.captioner.loading import load_network
from clearcap.captioner.model import load_captioner
from clearcap.errors import InputError, RenamedWarning
from clearcap.evaluation.session import weights_digest
from clearcap.pipeline import CaptionPipeline


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A captioner, exported, and beside it one of another denoiser that shares the rest."""
    folder = tmp_path_factory.mktemp("exported")
    captioner, tokenizer = copy.deepcopy(tiny_captioner())
    for name in ("first", "second"):
        captioner.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        with torch.no_grad():
            for parameter in captioner.denoiser.parameters():
                parameter.add_(0.1)
    export(str(folder / "first"), folder / "out")
    export(str(folder / "second"), folder / "out" / "beside", shares=str(folder / "out"))
    export(str(folder / "second"), folder / "whole", graphs=False)
    return folder


@pytest.fixture
def pair(exported: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(exported, tmp_path / "pair"))


def test_only_what_differs_is_written_and_all_is_read(pair: Path) -> None:
    held = load_file(pair / "out/beside/model.safetensors")
    assert {name.split(".")[0] for name in held} == {"denoiser"}
    whole = load_captioner(str(pair / "whole"))[0].state_dict()
    for found in (load_captioner(str(pair / "out/beside"))[0], load_network(str(pair / "out/beside"))[0]):
        assert all(torch.equal(tensor, whole[name]) for name, tensor in found.state_dict().items())


def test_the_curves_of_the_run_go_with_a_model(pair: Path) -> None:
    shutil.move(pair / "second", pair / "run" / "model")
    (pair / "run/curves.jsonl").write_text('{"step": 1}\n')
    export(str(pair / "run/model"), pair / "told", graphs=False)
    assert (pair / "told/curves.jsonl").read_text() == '{"step": 1}\n'
    assert training_curves(str(pair / "told")) == (pair / "told/curves.jsonl").resolve()
    assert training_curves(str(pair / "whole")) is None


def test_saved_again_it_is_whole(pair: Path) -> None:
    captioner, tokenizer = load_captioner(str(pair / "out/beside"))
    captioner.save_pretrained(pair / "again")
    tokenizer.save_pretrained(pair / "again")
    assert "shares" not in json.loads((pair / "again/config.json").read_text())
    image = photos(2)
    drawn = [load_network(str(pair / name))[0].generate(image=image).ids for name in ("again", "out/beside")]
    assert torch.equal(*drawn)


def test_moved_away_it_says_what_is_missing(pair: Path) -> None:
    shutil.copytree(pair / "out/beside", pair / "elsewhere/alone")
    with pytest.raises(InputError, match=r"elsewhere/alone/\.\./model\.safetensors: cannot be read"):
        load_network(str(pair / "elsewhere/alone"))


def test_its_digest_depends_on_the_weights_it_shares(pair: Path) -> None:
    before = weights_digest(pair / "out/beside")
    shutil.copy(pair / "whole/model.safetensors", pair / "out/model.safetensors")
    assert weights_digest(pair / "out/beside") != before


def test_the_model_that_ships_needs_no_guidance_and_has_the_name_of_the_student_it_replaced() -> None:
    with pytest.warns(RenamedWarning, match="the model 'few-steps' is part of 'default' now"):
        named = CaptionPipeline.from_pretrained("few-steps", backend="torch")
    assert (named.captioner.defaults.steps, named.captioner.defaults.guidance) == (3, 0.0)
    whole = CaptionPipeline.from_pretrained(backend="torch").captioner.state_dict()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in named.captioner.state_dict().items())
