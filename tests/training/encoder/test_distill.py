"""A real, tiny distillation: it learns, it resumes bit for bit, it refuses bad settings."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file

from clearcap.errors import InputError
from clearcap.training.checkpoint import reached_step
from clearcap.training.encoder.batches import Batch, Data, Split, prepare, to_floats
from clearcap.training.encoder.distill import Run, distill
from clearcap.training.encoder.objective import read_captions
from clearcap.training.encoder.settings import DistillConfig
from clearcap.training.encoder.starting import RIDGE, start_from, turn_to
from clearcap.training.encoder.targets import build_targets, list_photos
from clearcap.training.loop import planned_rate
from clearcap.training.optimizers import KernelMuon
from clearcap.vision.compact import load_compact
from tests.commands import kill_when

SCRIPT = """
import json, sys, torch
from clearcap.training.encoder.distill import distill
from clearcap.training.encoder.settings import DistillConfig
torch.set_num_threads(1)
distill(DistillConfig(**json.loads(sys.argv[1])), progress=False)
"""


@pytest.fixture
def config(tmp_path, photos):
    """One token per 32 x 32 pixels of a 64-pixel photo, from a tiny ViT; two photos held out."""
    torch.manual_seed(0)
    tower = hf.ViTConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=64,
        patch_size=32,
    )
    hf.ViTModel(tower).save_pretrained(tmp_path / "teacher")
    (tmp_path / "held_out.txt").write_text("00.png\n05.png\n")
    words = ["dog", "cat", "bird"]
    lines = [f"{i:02}.png,a {words[i % 3]} number {i}" for i in range(8)]
    (tmp_path / "captions.csv").write_text("\n".join(["image,caption", *lines]) + "\n")
    return DistillConfig(
        teacher=str(tmp_path / "teacher"),
        photos=(str(photos),),
        out=str(tmp_path / "whole"),
        cache=str(tmp_path / "cache"),
        held_out=str(tmp_path / "held_out.txt"),
        captions=str(tmp_path / "captions.csv"),
        dim=4,
        widths=(16, 16, 32, 32),
        depths=(0, 1, 1, 1),
        views=2,
        words=4,
        steps=60,
        minutes=0.0,
        batch=5,
        sizes=(32, 0),
        switches=(0.5,),
        lr=5e-3,
        ema=0.9,
        checkpoint_minutes=2e-3,
        validate_steps=30,
        workers=1,
    )


@pytest.mark.parametrize(("optimizer", "views"), [("adamw", 2), ("muon", 2), ("muon", 0)])
def test_learns_and_resumes_bit_for_bit_after_sigkill(config, tmp_path, optimizer, views):
    config = replace(config, optimizer=optimizer, views=views)
    whole = distill(config, progress=False)
    records = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    losses = [r["loss"] for r in records if "loss" in r]
    assert losses[1] < 0.7 * losses[0]
    assert [r["step"] for r in records if "r2" in r] == [30, 60]

    cut = replace(config, out=str(tmp_path / "cut"))
    command = [sys.executable, "-c", SCRIPT, json.dumps(asdict(cut))]
    killed = subprocess.Popen(command)
    checkpoint = tmp_path / "cut/checkpoint"
    kill_when(killed, checkpoint.exists)
    assert 0 < reached_step(checkpoint) < config.steps
    resumed = distill(cut, progress=False)
    expected, found = load_file(whole.weights), load_file(resumed.weights)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert resumed.metrics == whole.metrics

    encoder = load_compact(tmp_path / "cut")
    assert (encoder.tokens, encoder.dim, encoder.image_size) == (4, 4, 64)
    with pytest.raises(InputError, match=r"made with lr=0\.005, not 0\.001"):
        distill(replace(cut, lr=1e-3), progress=False)


def test_going_on_from_an_encoder_fits_its_output_to_the_new_targets(config, tmp_path):
    """Whatever the new basis: the targets' regression on what the encoder computes below its output."""
    first = distill(replace(config, steps=30), progress=False)
    store = build_targets(
        tmp_path / "flipped", list_photos(config.photos), frozenset(), config.teacher, 1, 4, seed=3
    )
    encoder = load_compact(tmp_path / "whole")
    rows = torch.arange(len(store.photos))
    start_from(first.weights.parent, encoder, store, rows)
    images = to_floats(store.images[0])
    targets = torch.from_numpy(store.tokens[0]).float().flatten(0, 1)
    with torch.inference_mode():
        said = encoder(images).flatten(0, 1)
        encoder.head = torch.nn.Identity()
        below = encoder(images).flatten(0, 1)
    centred = torch.cat((below - below.mean(0), RIDGE**0.5 * torch.eye(below.shape[1])))
    wanted = torch.cat((targets - targets.mean(0), torch.zeros(below.shape[1], 4)))
    solution = torch.linalg.lstsq(centred, wanted).solution
    expected = targets.mean(0) + (below - below.mean(0)) @ solution
    torch.testing.assert_close(said, expected, rtol=1e-3, atol=1e-4)

    again = distill(
        replace(config, out=str(tmp_path / "again"), init=str(tmp_path / "whole")), progress=False
    )
    assert again.metrics["r2"] > first.metrics["r2"]
    with pytest.raises(InputError, match="pass these settings"):
        distill(replace(config, out=str(tmp_path / "third"), init=config.out, mixers=2), progress=False)


def test_tokens_keep_the_axes_of_the_encoder_gone_on_from(config, tmp_path):
    """An encoder that differs from another by a rotation of its tokens becomes the other."""
    distill(replace(config, steps=30), progress=False)
    store = build_targets(config.cache, list_photos(config.photos), frozenset(), config.teacher, 1, 4)
    rows, images = torch.arange(len(store.photos)), to_floats(store.images[0])
    encoder, other = load_compact(config.out), load_compact(config.out)
    rotation, _ = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)))
    with torch.inference_mode():
        encoder.head.weight.copy_(rotation @ encoder.head.weight)
        encoder.head.bias.copy_(rotation @ encoder.head.bias)
        assert not torch.allclose(encoder(images), other(images), atol=0.1)
        turn_to(config.out, encoder, store, rows)
        torch.testing.assert_close(encoder(images), other(images), rtol=1e-4, atol=1e-5)


def test_muon_takes_a_kernel_as_a_matrix():
    """The same steps as torch's own Muon takes with the kernel written out as a matrix."""
    kernel = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    gradients = torch.randn(2, 6, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    parameter = torch.nn.Parameter(kernel.contiguous(memory_format=torch.channels_last))
    matrix = torch.nn.Parameter(kernel.permute(0, 2, 3, 1).reshape(6, 36).clone())
    settings = {"lr": 0.1, "weight_decay": 0.2, "adjust_lr_fn": "match_rms_adamw"}
    own, theirs = KernelMuon([parameter], **settings), torch.optim.Muon([matrix], **settings)
    for gradient in gradients:
        parameter.grad, matrix.grad = gradient, gradient.permute(0, 2, 3, 1).reshape(6, 36)
        own.step()
        theirs.step()
    torch.testing.assert_close(parameter.detach().permute(0, 2, 3, 1).reshape(6, 36), matrix.detach())
    assert not torch.equal(parameter, kernel)


def test_muon_is_for_what_lies_between_features(config):
    run = Run(replace(config, optimizer="muon", mixers=1), 2, 64, 5, 4, torch.device("cpu"))
    adam, muon = run.optimizers
    assert isinstance(muon, KernelMuon)
    named = {id(p): name for name, p in run.model["encoder"].named_parameters()}
    inner = {named[id(p)] for p in muon.sources}
    assert "stages.1.0.first.conv.weight" in inner
    assert "mixers.0.qkv.weight" in inner
    assert not {"stem.conv.weight", "head.weight", "position"} & inner
    held = sum(len(group["params"]) for group in adam.param_groups) + len(inner)
    assert held == len(named) + 4  # and the heads' four


def test_held_out_photos_and_their_captions_are_never_trained_on(config):
    store = build_targets(
        config.cache, list_photos(config.photos), frozenset({"00.png", "05.png"}), config.teacher, 2, 8
    )
    captions = read_captions(config.captions)
    names = [photo.name for photo in store.photos]
    data = Split(names, {"00.png", "05.png"}, captions, set(captions) - {"07.png"}, words=50)
    assert data.held_out == [0, 5]
    assert not {0, 5} & set(data.rows.tolist())
    assert not data.known[[0, 5]].any()
    assert data.known[[1, 2, 3, 4, 6]].all()
    assert not data.known[7:].any()
    assert data.held_out_words.any(1).all()
    with pytest.raises(InputError, match="10 photos to train on, fewer than batch=11"):
        Data(data, store, 2, 0).batch(0, 11)


def test_small_photos_get_pooled_targets(generator):
    images = torch.full((2, 3, 128, 128), 51, dtype=torch.uint8)
    tokens = torch.arange(16.0).repeat(2, 1)[:, :, None]
    raw = Batch(images, tokens, torch.zeros(2, 0), torch.zeros(2, 0), torch.zeros(2, dtype=torch.bool))
    batch = prepare(raw, 64, generator)
    assert batch.images.shape == (2, 3, 64, 64)
    plain, mirrored = [2.5, 4.5, 10.5, 12.5], [4.5, 2.5, 12.5, 10.5]  # means of 2 x 2 cells of the grid
    assert all(row in (plain, mirrored) for row in batch.tokens[..., 0].tolist())
    assert prepare(raw, 128, generator).tokens.shape == (2, 16, 1)


def test_a_teacher_with_another_grid_is_refused(config, checkpoint, tmp_path):
    other = replace(config, teacher=str(checkpoint("swin")[0]), cache=str(tmp_path / "other"))
    with pytest.raises(InputError, match="a grid of 4 x 4, but the encoder has 1 tokens"):
        distill(other, progress=False)


def test_the_clock_plans_the_rest_of_the_schedule():
    assert planned_rate(progress=0.5, step_seconds=0.5, seconds_left=100.0) == pytest.approx(0.5 / 200)
    assert planned_rate(progress=0.9, step_seconds=0.5, seconds_left=-3.0) == pytest.approx(0.1 / 10)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("teacher", ""),
        ("batch", 0),
        ("ema", 1.0),
        ("steps", -1),
        ("lr", -1.0),
        ("photos", ()),
        ("minutes", 3.0),
        ("steps", 0),
        ("switches", ()),
        ("sizes", (30, 0)),
        ("optimizer", "sgd"),
    ],
)
def test_bad_settings_are_named(config, setting, value):
    with pytest.raises(InputError, match=setting):
        replace(config, **{setting: value})
