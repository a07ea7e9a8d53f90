"""The twin: cached decoding against uncached, beam search against transformers' generate, padding against none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from clearcap.errors import InputError
from clearcap.training.twin import Twin, TwinConfig, beam_search, greedy
from clearcap.training.twin.network import build_twin

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
