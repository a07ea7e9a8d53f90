"""Distillation to few steps: on a tiny teacher, in real processes, with a real kill."""

from __future__ import annotations

import copy
import dataclasses
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_captioner import photos as random_photos
from tiny_captioner import tiny_captioner

from clearcap.captioner.generating import CaptionRequest
from clearcap.captioner.model import Captioner
from clearcap.config import SamplingConfig, TrainConfig, override
from clearcap.data.features import Features
from clearcap.data.images import PhotoFile
from clearcap.data.records import CaptionedPhoto
from clearcap.errors import InputError
from clearcap.pipeline import CaptionPipeline
from clearcap.sampling.guidance import guided
from clearcap.sampling.randomness import randn_rows
from clearcap.sampling.solvers import times_of
from clearcap.training.step_distillation.objective import StepDistillationObjective
from clearcap.training.step_distillation.run import distill_steps, photos_in, settings_for
from clearcap.training.step_distillation.teacher_samples import (
    TeacherSamples,
    choose_targets,
    sample_teacher,
    take_targets,
)
from tests.commands import clearcap, kill_when, started

TEACHER = SamplingConfig(solver="renoise", steps=6, guidance=1.0, noise_factor=1.0, start=1.0)
STEPS = 30


def features(count: int, views: int = 2) -> Features:
    """A cache of unrelated photos."""
    tokens = torch.stack([random_photos(count, seed) for seed in range(views)])
    return Features(tokens.numpy().astype(np.float16), tuple(f"p{i}" for i in range(count)), "test")


def samples_of(captioner: Captioner, cache: Features, folder: Path, **how: Any) -> TeacherSamples:
    settings = {"sampling": TEACHER, "variants": 3, "draws": 2, "seed": 5} | how
    return sample_teacher(captioner, cache, torch.arange(len(cache.names)), folder, **settings)


def test_a_draw_starts_from_the_noise_that_its_student_is_given(tmp_path: Path) -> None:
    captioner, _ = tiny_captioner()
    cache = features(5)
    ddim = dataclasses.replace(TEACHER, solver="ddim")
    samples = samples_of(captioner, cache, tmp_path, sampling=ddim)
    config = TrainConfig(photos=4, copies=2)
    image, x0, ids, noise = take_targets(samples, None, cache, config, 3, 0, 1, calls=2)
    with torch.inference_mode():
        denoise = guided(captioner.denoiser, captioner.noise(1.0), captioner.image_context(image), 1.0)
        x, said, levels = noise[0], torch.zeros_like(noise[0]), times_of("uniform", 1000, 6)
        for t, s in pairwise(levels):  # DDIM written out
            said = denoise(x, said, torch.full((8,), t))
            a_t, a_s = captioner.noise(1.0).alpha_bar[[t, s]]
            x = a_s.sqrt() * said + (1 - a_s).sqrt() * (x - a_t.sqrt() * said) / (1 - a_t).sqrt()
        torch.testing.assert_close(said, x0, atol=5e-3, rtol=5e-3)  # targets are stored in float16
        assert torch.equal(captioner.logits(said).argmax(-1), ids)
    assert len({tuple(row) for row in ids.tolist()}) > 2


def test_killed_drawing_resumes_to_the_same_captions(tmp_path: Path) -> None:
    captioner, _ = tiny_captioner()
    cache = features(40, views=1)
    whole = samples_of(captioner, cache, tmp_path / "whole", variants=2)
    drawn: list[int] = []

    def stop(captions: int) -> None:
        drawn.append(captions)
        if len(drawn) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        samples_of(captioner, cache, tmp_path / "killed", variants=2, advance=stop)
    assert json.loads((tmp_path / "killed" / "progress.json").read_text())["done"] == 3
    stored = np.load(tmp_path / "killed" / "ids.npy")
    assert not np.array_equal(stored, whole.ids)
    killed = samples_of(captioner, cache, tmp_path / "killed", variants=2)
    np.testing.assert_array_equal(killed.x0, whole.x0)
    np.testing.assert_array_equal(killed.ids, whole.ids)
    with pytest.raises(InputError, match=r"made with draws=2, not 3"):
        samples_of(captioner, cache, tmp_path / "killed", variants=2, draws=3)
    with pytest.raises(InputError, match=r"variants=3, but the feature cache's 1 views"):
        samples_of(captioner, cache, tmp_path / "more", variants=3)


def test_targets_are_the_captions_most_alike() -> None:
    captions = [
        [["a dog runs", "two men sit on a bench", "a dog runs fast"], ["red"] * 3],
        [["a dog runs fast on grass", "a dog runs fast", "a dog looks left"], ["red", "a blue sky", "red"]],
    ]
    own = choose_targets(captions, "mbr")
    assert own is not None
    assert own[0, 0].tolist() == [0, 0] or own[0, 0].tolist() == [0, 2]
    assert own[1, 0].tolist() in ([1, 0], [1, 1])
    shared = choose_targets(captions, "mbr-photo")
    assert shared is not None
    assert torch.equal(shared[0], shared[1])
    variant, draw = shared[0, 0].tolist()
    assert captions[variant][0][draw] == "a dog runs fast"
    assert choose_targets(captions, "draw") is None
    sided = [[["a man on the left"] * 3 + ["a man"]]]
    chosen = choose_targets(sided, "mbr-photo")
    assert chosen is not None
    assert chosen[0, 0].tolist() == [0, 3]


@pytest.mark.parametrize("words", [(0, 0, 0, 0), (3, 5, 1, 8)])
def test_the_student_is_trained_on_what_it_will_see_when_it_samples(words: tuple[int, ...]) -> None:
    """The losses, from the very predictions of the sampler that users call, told the lengths they are told."""
    captioner = copy.deepcopy(tiny_captioner()[0]).eval()
    student = dataclasses.replace(TEACHER, steps=3, guidance=0.0, length=max(words))
    image, captions = random_photos(4), [CaptionRequest(i, 7 + i, n) for i, n in enumerate(words)]
    seen: list[tuple[int, torch.Tensor]] = []

    def note(step: int, time: int, held: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append((time, held["latents"]))
        return {}

    captioner.sample(image, captions, seed=2, sampler=captioner.sampler(student), callback=note)
    assert [time for time, _ in seen] == [999, 666, 333]
    x0 = torch.randn(4, 10, 24, generator=torch.Generator().manual_seed(1))
    tokens, special = captioner.config.tokens, captioner.text.special_ids
    ordinary = torch.tensor([i for i in range(79) if i not in special])
    ids = ordinary[torch.randint(len(ordinary), (4, 10), generator=torch.Generator().manual_seed(1))]
    for row, count in zip(ids, words, strict=True):
        row[0] = tokens["cls"]
        row[count + 1 :] = tokens["pad"]
        row[count + 1] = tokens["sep"]
    randn = randn_rows(2, [7 + i for i in range(4)], 10, 24, torch.from_numpy)
    noise = torch.stack([randn() for _ in range(3)])
    objective = StepDistillationObjective(captioner, student)
    latent, caption = objective(image, x0, ids, noise)
    distances = [(said - x0).square().sum(-1).sqrt().mean() for _, said in seen]
    torch.testing.assert_close(latent, torch.stack(distances).mean(), rtol=1e-5, atol=1e-6)
    targets = captioner.text.targets(ids)
    surprise = [
        -captioner.logits(said).log_softmax(-1).gather(-1, targets[..., None]).mean() for _, said in seen
    ]
    torch.testing.assert_close(caption, torch.stack(surprise).mean(), rtol=1e-4, atol=1e-5)


def test_one_step_says_what_the_teacher_says_in_six(tmp_path: Path) -> None:
    captioner, tokenizer = copy.deepcopy(tiny_captioner())
    photos = [CaptionedPhoto(f"p{i}", PhotoFile(tmp_path / f"p{i}.jpg"), ()) for i in range(6)]
    cache = features(6, views=1)
    folder = tmp_path / "features"
    folder.mkdir()
    np.save(folder / "tokens.npy", cache.tokens)
    (folder / "index.json").write_text(json.dumps({"photos": cache.names, "source": "test"}))
    told = ["target=mbr-photo", "variants=1", f"features={folder}", "train.photos=6", "train.steps=900"]
    told += ["train.lr=3e-3", "train.muon_lr=3e-3", "train.bf16=false", "train.tracker=none", "train.ema=0.9"]
    config = override(settings_for(TEACHER), told)
    image = torch.from_numpy(cache.tokens[0].astype(np.float32))
    before = captioner.generate(
        image=image, sampling=dataclasses.replace(TEACHER, steps=1, guidance=0.0), seed=9
    )
    distill_steps(captioner, tokenizer, photos, [], config, tmp_path / "run")
    samples = np.load(tmp_path / "run" / "teacher-samples" / "ids.npy")[0, :, 0]

    def agree(captioner: Captioner, **how: Any) -> float:
        drawn = captioner.generate(image=image, seed=9, **how)  # noise that it was not trained with
        return float((drawn.ids[:, 0].numpy() == samples).mean())

    assert float((before.ids[:, 0].numpy() == samples).mean()) < 0.7
    student = Captioner.from_pretrained(tmp_path / "run" / "model")
    assert (student.defaults.steps, student.defaults.guidance) == (2, 0.0)
    assert (student.defaults.solver, student.defaults.noise_factor) == (TEACHER.solver, TEACHER.noise_factor)
    assert agree(student) > 0.97
    assert agree(student, sampling=dataclasses.replace(student.defaults, steps=1)) > 0.97
    lines = [json.loads(line) for line in (tmp_path / "run" / "curves.jsonl").read_text().splitlines()]
    assert lines[-1]["caption"] < 0.5 * lines[0]["caption"]
    teacher, _ = tiny_captioner()
    for part in ("text", "vision"):
        for name, tensor in getattr(student, part).state_dict().items():
            assert torch.equal(tensor, getattr(teacher, part).state_dict()[name]), name


def test_settings_that_cannot_be_met_are_named(tmp_path: Path) -> None:
    config = settings_for(TEACHER)
    with pytest.raises(InputError, match=r"student\.guidance=1\.0 would cost a second branch"):
        override(config, ["student.guidance=1"])
    with pytest.raises(InputError, match="draws=1 leaves nothing to choose"):
        override(config, ["target=mbr"])
    with pytest.raises(InputError, match="unknown setting 'targets'"):
        override(config, ["targets=mbr"])
    captioner, tokenizer = tiny_captioner()
    photo = CaptionedPhoto("a", PhotoFile(tmp_path / "a.jpg"), ("a dog",))
    with pytest.raises(InputError, match="no photos to sample the teacher on"):
        distill_steps(captioner, tokenizer, [], [], config, tmp_path / "run")
    with pytest.raises(InputError, match="of --watch would be trained on"):
        distill_steps(captioner, tokenizer, [photo], [photo], config, tmp_path / "run")
    with pytest.raises(InputError, match="given twice"):
        distill_steps(captioner, tokenizer, [photo, photo], [], config, tmp_path / "run")


def test_a_folder_s_photos_leave_out_those_of_a_corpus(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.png", "dev.jpg", "list.txt"):
        (tmp_path / name).touch()
    assert [photo.id for photo in photos_in([tmp_path], {"dev.jpg"})] == ["a.png", "b.jpg"]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved teacher, a folder of photos, and a captioned folder to watch."""
    root = tmp_path_factory.mktemp("workshop")
    captioner, tokenizer = tiny_captioner()
    captioner.save_pretrained(root / "teacher")
    tokenizer.save_pretrained(root / "teacher")
    rng = np.random.default_rng(0)
    for folder in ("photos", "watched"):
        (root / folder).mkdir()
        for i in range(6):
            picture = rng.integers(0, 256, (70, 64, 3), dtype=np.uint8)
            Image.fromarray(picture).save(root / folder / f"{folder}{i}.png")
    lines = [{"file_name": f"watched{i}.png", "captions": ["a brown dog"]} for i in range(6)]
    (root / "watched" / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return root


def distillation(root: Path, out: str) -> list[str]:
    command = ["distill-steps", str(root / "teacher"), "--photos"]
    command += [str(root / "photos"), "--watch", f"folder:{root}/watched:all", "--out", str(root / out)]
    command += [f"train.steps={STEPS}", "train.photos=4", "train.save_every=3", "train.log_every=1"]
    command += ["train.sample_every=15", "train.tracker=none", "train.warmup=2"]
    return command


def run_distillation(root: Path, out: str) -> None:
    done = clearcap(*distillation(root, out))
    assert done.returncode == 0, done.stderr


def test_killed_and_resumed_equals_never_killed(workshop: Path) -> None:
    run_distillation(workshop, "whole")
    killed = started(distillation(workshop, "killed"), workshop / "killed.log")
    kill_when(killed, (workshop / "killed" / "checkpoint" / "progress.json").is_file)
    reached = json.loads((workshop / "killed" / "checkpoint" / "progress.json").read_text())["step"]
    assert 0 < reached < STEPS
    run_distillation(workshop, "killed")
    for file in ("checkpoint/state.safetensors", "model/model.safetensors"):
        expected, actual = load_file(workshop / "whole" / file), load_file(workshop / "killed" / file)
        assert expected.keys() == actual.keys()
        for name, tensor in expected.items():
            assert torch.equal(tensor, actual[name]), name

    def losses(out: str) -> list[tuple[float, float]]:
        lines = (workshop / out / "curves.jsonl").read_text().splitlines()
        return [(line["latent"], line["caption"]) for line in map(json.loads, lines)]

    assert losses("whole") == losses("killed")
    assert len(losses("whole")) == STEPS
    samples = [json.loads(line) for line in (workshop / "whole" / "samples.jsonl").read_text().splitlines()]
    assert [line["step"] for line in samples] == [0, 15, 30]
    assert {"CIDEr-D", "CIDEr-D 1"} <= samples[0]["scores"].keys()
    assert "CIDEr-D" in json.loads((workshop / "whole" / "teacher.json").read_text())["scores"]
    result = CaptionPipeline.from_pretrained(workshop / "killed" / "model")(
        str(workshop / "photos" / "photos1.png")
    )
    assert isinstance(result.caption, str)
    other = clearcap(*distillation(workshop, "killed"), "caption_weight=2.0")
    assert other.returncode == 1
    assert "was made with caption_weight=1.0, not 2.0; give the settings it was made with" in other.stderr
