"""Self-critical training: the reward against the metric, the gradient against enumeration, a run that is killed."""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_captioner import CAPTIONS, save_tiny_captioner, seeing_captioner, tiny_captioner
from tiny_captioner import photos as random_photos

from clearcap.captioner.generating import CaptionRequest
from clearcap.captioner.model import load_captioner
from clearcap.config import SamplingConfig, override
from clearcap.data.corpus import open_spec
from clearcap.errors import InputError
from clearcap.metrics.scoring import score
from clearcap.pipeline import CaptionPipeline
from clearcap.training.self_critical.objective import SelfCriticalObjective
from clearcap.training.self_critical.reward import CiderReward
from clearcap.training.self_critical.run import self_critical, settings_for
from tests.commands import interrupted_after

WORDS = ["a", "dog", "runs", "red", "cat", "sits", "on", "grass", "end"]


def rows(captions: list[str], length: int) -> torch.Tensor:
    ids = torch.full((len(captions), length), -1)
    for row, caption in zip(ids, captions, strict=True):
        for place, word in enumerate(caption.split()):
            row[place] = WORDS.index(word)
    return ids


def test_the_reward_is_the_metric_with_the_end_as_a_word() -> None:
    references = [
        ["a dog runs on grass", "a red dog runs", "dog dog runs on a red grass"],
        ["a cat sits on a cat", "a red cat", ""],
        ["grass on a dog", "", ""],
    ]
    said = ["a dog dog runs on on grass", "a cat sits on a", "a red cat on a dog", "runs", "sits on grass"]
    reward = CiderReward(torch.stack([rows(group, 8) for group in references]), len(WORDS))
    pairs = list(itertools.product(range(3), range(5)))
    ours = reward(rows([said[c] for _, c in pairs], 9), torch.tensor([photo for photo, _ in pairs]))
    for (photo, caption), value in zip(pairs, ours.tolist(), strict=True):
        others = {i: said[0] + " end" for i in range(3) if i != photo}  # the metric's corpus needs all three
        told = {i: [text + " end" for text in group if text] for i, group in enumerate(references)}
        each = score({photo: said[caption] + " end", **others}, told).per_caption["CIDEr-D"]
        assert value == pytest.approx(each[photo], abs=1e-5)


def test_a_repeated_word_costs_what_people_s_captions_say_it_should() -> None:
    """Of three captions with "a", two say it again; "dog" is said twice in one of twenty."""
    people = ["a dog runs on a red grass", "a cat sits on a cat a", "a dog runs"]
    many = ["dog runs"] * 17 + ["dog dog runs dog"]
    groups = [people, *([caption, "", ""] for caption in many)]
    references = torch.stack([rows(group, 8) for group in groups])
    said = rows(["dog runs on dog", "a dog a", "red runs red runs red"], 8)
    plain = CiderReward(references, len(WORDS))(said, torch.tensor([0, 0, 0]))
    less = CiderReward(references, len(WORDS), repeated=0.5)(said, torch.tensor([0, 0, 0]))
    dog = 0.5 * (1 - (1 / 20) / 0.1)  # 20 captions say dog
    torch.testing.assert_close(plain - less, torch.tensor([dog, 0.0, 3 * 0.5]))


def test_three_words_that_people_hardly_write_cost() -> None:
    references = torch.stack([rows(["a dog runs", "a dog runs"], 8)])
    text = rows(["red a dog runs on", "dog runs"], 8)
    said = rows(["a dog runs", "a dog runs on", "red red", "a"], 8)
    plain = CiderReward(references, len(WORDS), text=text)(said, torch.zeros(4, dtype=torch.long))
    less = CiderReward(references, len(WORDS), text=text, seldom=0.5)(said, torch.zeros(4, dtype=torch.long))
    # "a dog runs" is written three times, "dog runs END" too; "dog runs on", "runs on END" and "red red END" are not
    torch.testing.assert_close(plain - less, torch.tensor([0.0, 1.0, 0.5, 0.0]))


def objective_of(
    captioner: Any, words: int, samples: int, clamp: bool = False
) -> tuple[SelfCriticalObjective, list[int]]:
    """An objective over the tiny captioner, that draws among a few words."""
    vocab = captioner.config.bert["vocab_size"]
    allowed = list(range(20, 20 + words))
    references = torch.tensor([[[20, 21, -1], [21, 20, 22]], [[22, 22, -1], [20, 22, -1]]])
    sampling = SamplingConfig(
        solver="renoise", steps=2, guidance=0.0, length=2, noise_factor=1.0, start=1.0, clamp=clamp
    )
    mask = torch.zeros(vocab, dtype=torch.bool)
    mask[allowed] = True
    reward = CiderReward(references, vocab)
    return SelfCriticalObjective(captioner, sampling, reward, mask, samples=samples, kept=0.1), allowed


def test_the_gradient_is_that_of_the_expected_reward() -> None:
    captioner = copy.deepcopy(tiny_captioner()[0])
    with torch.no_grad():  # else one word is all but certain
        captioner.text.lm_head.predictions["decoder"].weight.mul_(0.05)
    objective, allowed = objective_of(captioner, words=3, samples=2000)
    x0 = torch.randn(2, 10, 24, generator=torch.Generator().manual_seed(4), requires_grad=True)
    photos, lengths = torch.tensor([0, 1]), torch.tensor([2, 1])
    expected = torch.zeros(())
    logits = captioner.text.decode(x0)[:, 1:3][:, :, allowed].log_softmax(-1)
    for row, length in enumerate(lengths.tolist()):
        for choice in itertools.product(range(3), repeat=length):  # every caption there is
            caption = torch.full((1, 2), -1)
            caption[0, :length] = torch.tensor([allowed[i] for i in choice])
            likelihood = torch.stack([logits[row, place, i] for place, i in enumerate(choice)]).sum().exp()
            expected = expected + likelihood * objective.reward(caption, photos[row : row + 1])[0]
    (exact,) = torch.autograd.grad(-expected / lengths.sum(), x0, retain_graph=True)
    estimates = []
    for seed in range(8):
        loss = objective.policy(x0, photos, lengths, torch.Generator().manual_seed(seed))
        (estimate,) = torch.autograd.grad(loss, x0)
        estimates.append(estimate)
    mean = torch.stack(estimates).mean(0)
    assert float(exact.norm()) > 1e-4
    assert float((mean - exact).norm() / exact.norm()) < 0.05


@pytest.mark.parametrize("clamp", [False, True])
def test_what_is_drawn_is_what_the_sampler_predicts(clamp: bool) -> None:
    """Both calls' distributions are those of the sampler that users call, told the same lengths."""
    captioner = copy.deepcopy(tiny_captioner()[0]).eval()
    objective, _ = objective_of(captioner, words=3, samples=2, clamp=clamp)
    image, lengths = random_photos(2), torch.tensor([4, 6])
    noise = torch.randn(2, 2, 10, 24, generator=torch.Generator().manual_seed(0))
    calls = objective.rollout(image, lengths, noise)
    assert len(calls) == 2
    draws, seen = iter(noise), []

    def note(step: int, time: int, held: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append(held["latents"])
        return {}

    requests = [CaptionRequest(i, 0, int(n)) for i, n in enumerate(lengths)]
    sampling = SamplingConfig(
        solver="renoise", steps=2, guidance=0.0, length=2, noise_factor=1.0, start=1.0, clamp=clamp
    )
    sampler = captioner.sampler(sampling)
    known = captioner.fixed_lengths(requests)
    with torch.inference_mode():
        sampler.run(
            captioner.denoise_of_rows(image, requests, sampler),
            captioner.logits,
            lambda: next(draws),
            known,
            note,
            lambda x0: captioner.nearest_words(x0, known),
        )
    for ours, theirs in zip(calls, seen, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved captioner, and a folder of captioned photos of plain colours."""
    root = tmp_path_factory.mktemp("workshop")
    save_tiny_captioner(root / "start")
    for part in seeing_captioner():
        part.save_pretrained(root / "seeing")
    (root / "photos").mkdir()
    lines = []
    for i, caption in enumerate(CAPTIONS):
        colour = np.random.default_rng(i).integers(0, 256, 3, dtype=np.uint8)
        Image.fromarray(np.tile(colour, (64, 64, 1))).save(root / "photos" / f"{i}.png")
        lines.append({"file_name": f"{i}.png", "captions": [caption, caption]})
    (root / "photos" / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return root


def run(root: Path, out: str, *more: str, start: str = "start", stop_at: int = 0) -> None:
    """Self-critical training of the saved captioner; an exception after the given step stands for a kill."""
    captioner, tokenizer = load_captioner(str(root / start))
    told = ["train.photos=4", "train.log_every=1", "train.tracker=none", "train.warmup=2", "train.bf16=false"]
    told += ["train.neighbour_captions=1", "kept_photos=2", "shortest=5", "longest=8", "views=1"]
    told += ["student.length=8"]
    config = override(settings_for(captioner.defaults), [*told, *more])
    photos = list(open_spec(f"folder:{root}/photos:all", expected=None))
    with interrupted_after(stop_at):
        self_critical(captioner, tokenizer, photos, [], [], config, root / out)


def test_a_run_earns_more_reward_than_its_start(workshop: Path) -> None:
    run(
        workshop,
        "long",
        "train.steps=160",
        "train.lr=5e-3",
        "train.muon_lr=5e-3",
        "train.save_every=80",
        "samples=10",
    )
    photos = list(open_spec(f"folder:{workshop}/photos:all", expected=None))
    references = {photo.id: photo.captions for photo in photos}

    def earned(model: Path) -> float:
        pipe = CaptionPipeline.from_pretrained(model)
        found = pipe(
            [str(workshop / "photos" / str(photo.id)) for photo in photos], steps=2, guidance=0.0, length=8
        )
        captions = {photo.id: result.caption for photo, result in zip(photos, found, strict=True)}
        return score(captions, references).corpus["CIDEr-D"]

    assert earned(workshop / "long" / "model") > earned(workshop / "start") + 0.5


@pytest.mark.parametrize(("start", "block"), [("start", "block=-1"), ("seeing", "block=3")])
def test_killed_and_resumed_equals_never_killed(workshop: Path, start: str, block: str) -> None:
    steps, whole, killed = ("train.steps=6", "train.save_every=2", block), f"{start}-whole", f"{start}-killed"
    run(workshop, whole, *steps, start=start)
    with pytest.raises(KeyboardInterrupt):
        run(workshop, killed, *steps, start=start, stop_at=5)
    reached = json.loads((workshop / killed / "checkpoint" / "progress.json").read_text())["step"]
    assert reached == 4
    run(workshop, killed, *steps, start=start)
    expected, actual = (
        load_file(workshop / out / "checkpoint" / "state.safetensors") for out in (whole, killed)
    )
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
    before = load_file(workshop / start / "model.safetensors")
    model = load_file(workshop / whole / "model" / "model.safetensors")
    changed = {name.split(".")[0] for name in model if not torch.equal(model[name], before[name])}
    assert {"denoiser"} <= changed <= {"denoiser", "text", "vision"}
    assert ("vision" in changed) == (start == "seeing")


def test_settings_that_cannot_be_met_are_named(workshop: Path) -> None:
    captioner, tokenizer = load_captioner(str(workshop / "start"))
    config = settings_for(captioner.defaults)
    with pytest.raises(InputError, match="samples=1 leaves nothing to compare with"):
        override(config, ["samples=1"])
    with pytest.raises(InputError, match=r"student\.length=0: the reward is of captions of told lengths"):
        override(config, ["student.length=0", "student.clamp=false"])
    with pytest.raises(InputError, match="no photos to learn from"):
        self_critical(captioner, tokenizer, [], [], [], config, workshop / "none")
    photos = list(open_spec(f"folder:{workshop}/photos:all", expected=None))
    with pytest.raises(InputError, match="longest=14: captions of this model have at most 8 words"):
        self_critical(captioner, tokenizer, photos, [], [], config, workshop / "none")
