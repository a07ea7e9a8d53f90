"""Joint training of encoder and denoiser: what is trained, on which pixels, and a run that is killed."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.progress import Progress
from safetensors.torch import load_file
from tiny_captioner import CAPTIONS, seeing_captioner, tiny_captioner

from clearcap.captioner.model import load_captioner
from clearcap.config import override
from clearcap.data.corpus import open_spec
from clearcap.data.features import flip
from clearcap.errors import InputError
from clearcap.text.tokenizer import encode_captions
from clearcap.training.encoder.live import recoloured, to_unit
from clearcap.training.examples import photos_of_step, prepare_examples
from clearcap.training.joint.objective import JointObjective
from clearcap.training.joint.run import JointConfig, batches, finetune, settings_for
from clearcap.training.joint.seeing import efficientnet_of, joint_optimizers
from clearcap.training.run import cached_features, captions_to_learn
from tests.commands import interrupted_after

TOLD = ["train.photos=4", "train.copies=2", "train.log_every=1", "train.tracker=none", "train.warmup=2"]
TOLD += ["train.bf16=false", "train.neighbour_captions=1", "block=3"]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved captioner and a folder of captioned photos, one of whose captions names a side."""
    root = tmp_path_factory.mktemp("workshop")
    captioner, tokenizer = seeing_captioner()
    captioner.save_pretrained(root / "start")
    tokenizer.save_pretrained(root / "start")
    (root / "photos").mkdir()
    lines = []
    for i, caption in enumerate([*CAPTIONS, "a man on the left"]):
        picture = np.random.default_rng(i).integers(0, 256, (70, 80, 3), dtype=np.uint8)
        Image.fromarray(picture).save(root / "photos" / f"{i}.png")
        lines.append({"file_name": f"{i}.png", "captions": [caption, caption + " today"]})
    (root / "photos" / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return root


def prepared(root: Path) -> tuple[JointObjective, Any, JointConfig]:
    """An objective and its batches."""
    captioner, tokenizer = load_captioner(str(root / "start"))
    photos = list(open_spec(f"folder:{root}/photos:all", expected=None))
    config = override(settings_for(captioner.defaults), TOLD)
    examples = prepare_examples(
        captioner,
        lambda captions: encode_captions(tokenizer, captions, 10),
        [photo.captions for photo in photos],
        torch.arange(len(photos)),
        ["a red dress"],
    )
    objective = JointObjective(captioner, config.student, config.block)
    return objective, batches(examples, photos, config, objective), config


@pytest.mark.parametrize("kind", ["pair", "efficientnet"])
def test_tokens_are_the_encoder_s(kind: str) -> None:
    captioner, _ = seeing_captioner(kind)
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    objective = JointObjective(captioner, settings_for(captioner.defaults).student, 3)
    objective.train()
    torch.testing.assert_close(objective.seeing.tokens(images), captioner.eval().vision(images))


def test_gradients_reach_the_blocks_that_are_trained_and_no_others(workshop: Path) -> None:
    objective, batch_at, _ = prepared(workshop)
    objective.train()
    latent, caption = objective(*batch_at(0, 0, 1))
    objective.total(latent, caption).backward()
    network = efficientnet_of(objective.seeing.vision)
    moved = {name for name, p in network.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert {name.split(".")[1] for name in moved if name.startswith("blocks.")} == {"3", "4", "5", "6"} | {
        str(i) for i in range(7, len(network.blocks))
    }
    assert {"head.weight", "project.weight"} <= moved
    assert not any(name.endswith("depthwise.weight") for name in moved)
    assert all(p.grad is None for p in objective.seeing.vision.compact.parameters())
    assert all(p.grad is None for p in objective.text.encoder.parameters())
    assert any(p.grad is not None for p in objective.denoiser.parameters())


def test_the_losses_are_those_of_both_objectives(workshop: Path) -> None:
    """Of the same tokens: the batch's parts go where they belong."""
    objective, batch_at, _ = prepared(workshop)
    objective.eval()
    pixels, seed, has_image, x0, ids, draws, few_x0, few_ids, noise = batch_at(1, 0, 1)
    assert has_image.tolist() == [True, True]
    with torch.no_grad():
        shown = recoloured(to_unit(pixels), torch.Generator().manual_seed(seed))
        tokens = objective.seeing.vision(shown)
        one = objective.ladic(tokens[:2], has_image, x0, ids, draws)
        two = objective.few(tokens[2:], few_x0, few_ids, noise)
        latent, caption = objective(pixels, seed, has_image, x0, ids, draws, few_x0, few_ids, noise)
    torch.testing.assert_close(latent, one[0] + two[0])
    torch.testing.assert_close(caption, one[1] + 2 * two[1])


def test_a_photo_is_mirrored_unless_a_caption_names_a_side(tmp_path: Path, workshop: Path) -> None:
    """Photos that are dark on the left: mirrored ones are dark on the right."""
    for i in range(5):
        picture = np.zeros((64, 64, 3), np.uint8)
        picture[:, 32:] = 255
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    (tmp_path / "captions.jsonl").write_text((workshop / "photos" / "captions.jsonl").read_text())
    captioner, tokenizer = load_captioner(str(workshop / "start"))
    photos = list(open_spec(f"folder:{tmp_path}:all", expected=None))
    config = override(settings_for(captioner.defaults), [*TOLD, "train.photos=5", "few=0.4"])
    examples = prepare_examples(
        captioner,
        lambda captions: encode_captions(tokenizer, captions, 10),
        [photo.captions for photo in photos],
        torch.arange(5),
    )
    objective = JointObjective(captioner, config.student, config.block)
    batch_at = batches(examples, photos, config, objective)
    assert examples.mirrored.tolist() == [True, True, True, True, False]
    mirrored = {True: 0, False: 0}
    for step in range(30):
        chosen = photos_of_step(5, 5, config.train.seed, step, 0, 1)
        for row, pixels in zip(chosen.tolist(), batch_at(step, 0, 1)[0].float(), strict=True):
            left, right = pixels[:, :, :20].mean(), pixels[:, :, -20:].mean()
            mirrored[row == 4] += bool(left > right)
    assert mirrored[True] == 0
    assert 35 < mirrored[False] < 85  # of 120


def test_every_parameter_has_one_optimiser(workshop: Path) -> None:
    objective, _, config = prepared(workshop)
    held = [
        p
        for o in joint_optimizers(objective, objective.seeing, config.train, 1e-4)
        for g in o.param_groups
        for p in g["params"]
    ]
    assert len(held) == len({id(p) for p in held})
    assert {id(p) for p in held} == {id(p) for p in objective.parameters() if p.requires_grad}


def run(root: Path, out: str, *more: str, stop_at: int = 0) -> None:
    """Fine-tuning of the saved captioner; an exception after the given step stands for a kill."""
    captioner, tokenizer = load_captioner(str(root / "start"))
    config = override(settings_for(captioner.defaults), [*TOLD, *more])
    photos = list(open_spec(f"folder:{root}/photos:all", expected=None))
    with interrupted_after(stop_at):
        finetune(captioner, tokenizer, photos, ["a red dress"], [], config, root / out)


def test_killed_and_resumed_equals_never_killed(workshop: Path) -> None:
    steps = ("train.steps=6", "train.save_every=2", "train.text_only=0.25")
    run(workshop, "whole", *steps)
    with pytest.raises(KeyboardInterrupt):
        run(workshop, "killed", *steps, stop_at=5)
    assert json.loads((workshop / "killed" / "checkpoint" / "progress.json").read_text())["step"] == 4
    run(workshop, "killed", *steps)
    whole, killed = (load_file(workshop / out / "model" / "model.safetensors") for out in ("whole", "killed"))
    assert whole.keys() == killed.keys()
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    start = load_file(workshop / "start" / "model.safetensors")
    changed = {name for name in whole if not torch.equal(whole[name], start[name])}
    assert any(name.startswith("vision.efficientnet.blocks.5") for name in changed)
    assert any(name.startswith("denoiser.blocks") for name in changed)
    assert not any(name.startswith(("vision.compact", "text.encoder", "text.upper")) for name in changed)


def test_a_teacher_s_captions_are_learned_over_tokens_that_are_computed_once(workshop: Path) -> None:
    photos = list(open_spec(f"folder:{workshop}/photos:all", expected=None))
    told = [{"photo": photo.id, "captions": [f"number {i}", "a red dress"]} for i, photo in enumerate(photos)]
    teacher = workshop / "teacher.jsonl"
    teacher.write_text("".join(json.dumps(line) + "\n" for line in reversed(told)))
    learned = captions_to_learn(photos, str(teacher), 5)
    assert learned == [(f"number {i}", "a red dress") for i in range(len(photos))]

    run(workshop, "taught", "block=-1", "views=2", f"teacher_captions={teacher}", "train.steps=2")
    start, taught = (load_file(workshop / out / "model.safetensors") for out in ("start", "taught/model"))
    changed = {name.split(".")[0] for name in start if not torch.equal(start[name], taught[name])}
    assert "denoiser" in changed
    assert "vision" not in changed
    teacher.write_text(json.dumps(told[0]) + "\n")
    with pytest.raises(
        InputError, match=r"teacher\.jsonl: has no caption of 1\.png; let the teacher caption every"
    ):
        run(workshop, "untold", "block=-1", f"teacher_captions={teacher}")


def test_tokens_that_are_computed_once_are_the_photos_own(workshop: Path) -> None:
    captioner, tokenizer = load_captioner(str(workshop / "start"))
    photos = list(open_spec(f"folder:{workshop}/photos:all", expected=None))
    config = override(settings_for(captioner.defaults), [*TOLD, "block=-1"])
    with Progress(disable=True) as progress:
        features = cached_features(captioner, photos, workshop / "tokens", 1, progress)
    rows = features.rows([photo.id for photo in photos])
    captions = captions_to_learn(photos, "", 0)
    examples = prepare_examples(
        captioner, lambda captions: encode_captions(tokenizer, captions, 10), captions, rows
    )
    objective = JointObjective(captioner, config.student)
    step = batches(examples, features, config, objective)(0, 0, 1)
    chosen = photos_of_step(len(photos), 4, config.train.seed, 0, 0, 1)
    whole = features.gather(torch.zeros(4, dtype=torch.long), rows[chosen])
    mirrored = flip(whole)
    assert all(
        torch.equal(one, own) or torch.equal(one, other)
        for one, own, other in zip(step[0], whole, mirrored, strict=True)
    )
    objective.eval()
    with torch.no_grad():
        image, _, has_image, x0, ids, draws, few_x0, few_ids, noise = step
        one = objective.ladic(image[:2], has_image, x0, ids, draws)
        two = objective.few(image[2:], few_x0, few_ids, noise)
        torch.testing.assert_close(objective(*step), (one[0] + two[0], one[1] + 2 * two[1]))


def test_settings_that_cannot_be_met_are_named(workshop: Path) -> None:
    captioner, tokenizer = copy.deepcopy(tiny_captioner())
    config = override(settings_for(captioner.defaults), TOLD)
    with pytest.raises(InputError, match=r"few=0\.01 of train\.photos=4 leaves one of the losses no photo"):
        dataclasses.replace(config, few=0.01)
    photos = list(open_spec(f"folder:{workshop}/photos:all", expected=None))
    with pytest.raises(InputError, match="is a CompactEncoder, and an EfficientNet alone is trained jointly"):
        finetune(captioner, tokenizer, photos, [], [], config, workshop / "none")
    with pytest.raises(InputError, match="block=99 is none of the encoder's"):
        JointObjective(load_captioner(str(workshop / "start"))[0], config.student, 99)
