"""The twin: cached decoding against uncached, beam search against transformers' generate, padding against none."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from clearcap.errors import InputError
from clearcap.training.self_critical.reward import CiderReward
from clearcap.training.twin import Twin, TwinConfig, beam_search, greedy
from clearcap.training.twin.decoding import draw
from clearcap.training.twin.network import build_twin
from clearcap.training.twin.reward import RewardedTwin

PAD, FIRST, END = 0, 1, 2
VOCAB, LENGTH = 12, 9


@pytest.fixture
def twin() -> Twin:
    torch.manual_seed(3)
    made = Twin(
        vocab=VOCAB,
        image_dim=8,
        tokens=4,
        width=16,
        depth=2,
        heads=2,
        hidden=24,
        adapter_depth=1,
        length=LENGTH,
    )
    with torch.no_grad():  # BERT's small weights say nearly the same of every photo
        for p in made.parameters():
            p.mul_(6) if p.ndim > 1 else p.add_(0.3 * torch.randn_like(p))
    return made.eval()


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(5, 4, 8, generator=torch.Generator().manual_seed(1))


def test_cached_keys_and_values_change_nothing(twin: Twin, image: torch.Tensor) -> None:
    ids = torch.randint(3, VOCAB, (5, LENGTH), generator=torch.Generator().manual_seed(2))
    context = twin.image_context(image)
    whole, _ = twin.read(ids, context)
    past, parts = None, []
    for piece in (ids[:, :1], ids[:, 1:4], ids[:, 4:5], ids[:, 5:]):
        h, past = twin.read(piece, context, past)
        parts.append(h)
    torch.testing.assert_close(torch.cat(parts, 1), whole)


def test_greedy_is_the_argmax_of_uncached_logits_token_for_token(twin: Twin, image: torch.Tensor) -> None:
    written = greedy(twin, image, first=FIRST, end=END, pad=PAD)
    for photo, row in zip(image, written.tolist(), strict=True):
        ids = [FIRST]
        while len(ids) < LENGTH and ids[-1] != END:
            h, _ = twin.read(torch.tensor([ids]), twin.image_context(photo[None]))
            ids.append(int(twin.logits(h[:, -1]).argmax()))
        assert [token for token in row if token != PAD or END not in ids] == ids[1:]


class Wrapped(PreTrainedModel, GenerationMixin):
    """The twin as transformers sees a language model, without a cache; ``input_ids`` alone move among beams."""

    config_class = PretrainedConfig

    def __init__(self, config: PretrainedConfig, twin: Twin, photo: torch.Tensor) -> None:
        super().__init__(config)
        self.twin, self.photo = twin, photo

    def forward(self, input_ids: torch.Tensor, **unused: Any) -> CausalLMOutput:
        h, _ = self.twin.read(
            input_ids, self.twin.image_context(self.photo)
        )  # all beams are of the one photo
        return CausalLMOutput(logits=self.twin.logits(h))

    def prepare_inputs_for_generation(self, input_ids: torch.Tensor, **unused: Any) -> dict[str, Any]:
        return {"input_ids": input_ids}


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("beams", [2, 3, 5])
def test_beam_search_finds_what_transformers_generate_finds(
    twin: Twin, image: torch.Tensor, beams: int, penalty: float
) -> None:
    found = beam_search(twin, image, first=FIRST, end=END, pad=PAD, beams=beams, penalty=penalty)
    for i, photo in enumerate(image):
        wrapped = Wrapped(PretrainedConfig(vocab_size=VOCAB), twin, photo[None])
        asked = GenerationConfig(
            num_beams=beams, do_sample=False, max_length=LENGTH, length_penalty=penalty, early_stopping=False,
            pad_token_id=PAD, eos_token_id=END, bos_token_id=FIRST, use_cache=False,
            return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
        theirs = wrapped.generate(torch.tensor([[FIRST]]), asked)
        ids = theirs.sequences[0, 1:].tolist()
        assert found.ids[i, : len(ids)].tolist() == ids
        assert (found.ids[i, len(ids) :] == PAD).all()
        torch.testing.assert_close(found.score[i], theirs.sequences_scores[0], atol=1e-5, rtol=1e-4)


def test_one_beam_is_greedy(twin: Twin, image: torch.Tensor) -> None:
    written = greedy(twin, image, first=FIRST, end=END, pad=PAD)
    found = beam_search(twin, image, first=FIRST, end=END, pad=PAD, beams=1, penalty=0.0)
    assert torch.equal(found.ids[:, : written.shape[1]], written)


def test_the_loss_is_the_mean_over_words_alone(twin: Twin, image: torch.Tensor) -> None:
    ids = torch.tensor([[FIRST, 5, 7, END, PAD, PAD]] * 5)
    context = twin.image_context(image)
    short = twin.loss(ids[:, :4], context, PAD)
    torch.testing.assert_close(twin.loss(ids, context, PAD), short)
    h, _ = twin.read(ids[:, :3], context)
    by_hand = -twin.logits(h).log_softmax(-1).gather(-1, ids[:, 1:4, None]).mean()
    torch.testing.assert_close(short, by_hand)


def test_settings_that_cannot_be_fail_where_they_are_made() -> None:
    with pytest.raises(InputError, match=r"twin\.width=250"):
        TwinConfig(width=250)
    with pytest.raises(InputError, match=r"twin\.dropout=1"):
        TwinConfig(dropout=1.0)
    assert (
        build_twin(TwinConfig(width=16, heads=2, hidden=8, depth=1), vocab=9, image_dim=8, tokens=4).length
        == 20
    )


ALLOWED = [4, 7, 9]
SHORT = 3  # positions of a short twin: the first token and two more


def likelihoods(twin: Twin, photo: torch.Tensor) -> dict[tuple[int, ...], torch.Tensor]:
    """Of every caption that a short twin can write of a photo with the allowed words: how likely it is."""
    found: dict[tuple[int, ...], torch.Tensor] = {}
    context = twin.image_context(photo[None])
    for chosen in itertools.product([*ALLOWED, END], repeat=SHORT - 1):
        caption = chosen[:1] if chosen[0] == END else chosen
        if caption in found:
            continue
        h, _ = twin.read(torch.tensor([[FIRST, *caption]])[:, :-1], context)
        logits = twin.logits(h[0])[:, [*ALLOWED, END]].log_softmax(-1)
        places = [[*ALLOWED, END].index(token) for token in caption]
        found[caption] = torch.stack([logits[i, place] for i, place in enumerate(places)]).sum().exp()
    return found


@pytest.fixture
def short_twin(twin: Twin) -> Twin:
    twin.length = SHORT
    with torch.no_grad():
        twin.words.weight.mul_(0.1)  # else one caption is all but certain
    return twin


@pytest.fixture
def objective(short_twin: Twin) -> RewardedTwin:
    references = torch.tensor([[[4, 7, -1], [7, 4, -1]], [[9, -1, -1], [4, 9, -1]]])
    allowed = torch.zeros(VOCAB, dtype=torch.bool)
    allowed[ALLOWED] = True
    reward = CiderReward(references, VOCAB)
    return RewardedTwin(short_twin, reward, allowed, first=FIRST, end=END, pad=PAD, kept=0.5)


def test_captions_are_drawn_as_often_as_they_are_likely(objective: RewardedTwin, image: torch.Tensor) -> None:
    drawn = draw(
        objective.twin, image[:2], 20000, first=FIRST, end=END, pad=PAD, banned=objective.banned,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    for photo, rows in zip(image[:2], drawn.chunk(2), strict=True):
        times = Counter(tuple(token for token in row if token != PAD) for row in rows.tolist())
        expected = likelihoods(objective.twin, photo)
        assert set(times) <= set(expected)
        for caption, likelihood in expected.items():
            assert times[caption] / 20000 == pytest.approx(likelihood.item(), abs=0.012)


def test_the_gradient_of_the_reward_is_that_of_its_expectation(
    objective: RewardedTwin, image: torch.Tensor
) -> None:
    """Without dropout. A mean over words weighs a batch by its words alone, so long batches are taken."""
    photos, copies = torch.arange(2), 400
    weights = objective.twin.words.weight
    expected = torch.zeros(())
    for photo, row in zip(image[:2], photos, strict=True):
        for caption, likelihood in likelihoods(objective.twin, photo).items():
            words = torch.tensor([[*(token for token in caption if token != END), -1, -1][:SHORT]])
            expected = expected + likelihood * objective.reward(words, row[None])[0] / 2
    (exact,) = torch.autograd.grad(expected, weights)
    estimates, rewards = [], []
    for seed in range(6):
        many = image[:2].repeat(copies, 1, 1)
        ids = torch.tensor([[FIRST, 4, END]])
        policy, people = objective.eval()(many, ids.expand(len(many), -1), photos.repeat(copies), seed)
        said = draw(
            objective.twin, many, 5, first=FIRST, end=END, pad=PAD, banned=objective.banned,
            generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip
        (estimate,) = torch.autograd.grad(policy, weights)
        estimates.append(-estimate * (said != PAD).sum() / len(said))
        rewards.append(-policy.item())
    mean = torch.stack(estimates).mean(0)
    assert float((mean - exact).norm() / exact.norm()) < 0.1
    assert sum(rewards) / 6 == pytest.approx(expected.item(), rel=0.03)
    plain = objective.twin.loss(ids.expand(2, -1), objective.twin.image_context(image[:2]), PAD)
    torch.testing.assert_close(people, plain)
