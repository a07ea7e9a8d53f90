"""Latent statistics and the latent of positions that are not words, against numpy and transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from towers import write_bert
from transformers import BertForMaskedLM, BertTokenizer

from clearcap.config import TextConfig, load_preset
from clearcap.errors import InputError
from clearcap.text.split_bert import SplitBertSpace, word_positions
from clearcap.text.tokenizer import encode_captions

CAPTIONS = [
    "a man riding a wave",
    "two dogs in the grass .",
    "the bus",
    "a cat on a ball and a red dog sitting",
]
LENGTH = 9  # the last caption is cut


class Corpus:
    """A few captions, a BERT with large random weights, and what transformers says of both."""

    def __init__(self, folder: Path) -> None:
        self.bert = BertForMaskedLM.from_pretrained(write_bert(folder)).eval()
        torch.manual_seed(0)
        with torch.no_grad():
            for weight in self.bert.parameters():
                weight.add_(0.2 * torch.randn_like(weight))
        self.tokenizer = BertTokenizer.from_pretrained(folder)
        self.ids, self.mask = encode_captions(self.tokenizer, CAPTIONS, LENGTH)

    def lower(self, ids: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
        """The second layer's output by transformers, in float64."""
        with torch.no_grad():
            states = self.bert.bert(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        return states.hidden_states[2].double().numpy()

    def words(self) -> list[tuple[int, int]]:
        """Row and place of every word: what stands between [CLS] and [SEP]."""
        found = []
        for row, ids in enumerate(self.ids.tolist()):
            end = ids.index(self.tokenizer.sep_token_id)
            found += [(row, place) for place in range(1, end)]
        return found

    @property
    def period(self) -> np.ndarray:
        """The second layer's vector of "." alone."""
        ids = torch.tensor([self.tokenizer.convert_tokens_to_ids(["[CLS]", ".", "[SEP]"])])
        return self.lower(ids, torch.ones_like(ids))[0, 1]

    def space(self, text: TextConfig) -> SplitBertSpace:
        """A fitted text space with that BERT's weights."""
        tokens = {
            "pad": self.tokenizer.pad_token_id,
            "cls": self.tokenizer.cls_token_id,
            "sep": self.tokenizer.sep_token_id,
            "filler": self.tokenizer.convert_tokens_to_ids(text.filler),
        }
        space = SplitBertSpace.build(text, SplitBertSpace.sizes_of(self.bert), tokens).eval()
        space.copy_weights(self.bert)
        space.fit(self.ids, self.mask, text, self.tokenizer)
        return space


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus(tmp_path_factory.mktemp("bert"))


def close(ours: torch.Tensor, theirs: np.ndarray) -> None:
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-4, atol=1e-5)


def test_word_positions_are_what_stands_between_the_ends(corpus: Corpus) -> None:
    found = word_positions(corpus.mask).nonzero().tolist()
    assert [tuple(place) for place in found] == corpus.words()
    assert corpus.ids[-1, -1] == corpus.tokenizer.sep_token_id  # so one caption fills its row


@pytest.mark.parametrize("batch", [1, 3, 512])
def test_statistics_are_numpys_over_words(corpus: Corpus, batch: int) -> None:
    space = corpus.space(TextConfig(length=LENGTH))
    lower = corpus.lower(corpus.ids, corpus.mask)
    words = np.stack([lower[row, place] for row, place in corpus.words()])
    mean, std = space.statistics(corpus.ids, corpus.mask, words_only=True, batch=batch)
    close(mean, words.mean(0))
    close(std, words.std(0, ddof=1))
    assert mean.dtype == std.dtype == torch.float32


def test_statistics_of_the_authors_are_numpys_over_every_position(corpus: Corpus) -> None:
    space = corpus.space(TextConfig(length=LENGTH, special="raw"))
    everywhere = corpus.lower(corpus.ids, corpus.mask).reshape(-1, 16)
    close(space.mean, everywhere.mean(0))
    close(space.std, everywhere.std(0, ddof=1))


@pytest.mark.parametrize("special", ["zero", "raw", "normalised"])
def test_the_special_latent_stands_wherever_no_word_does(corpus: Corpus, special: str) -> None:
    text = TextConfig(length=LENGTH, special=special, filler="." if special == "raw" else "[PAD]")
    space = corpus.space(text)
    lower = corpus.lower(corpus.ids, corpus.mask)
    words = np.stack([lower[row, place] for row, place in corpus.words()])
    seen = lower.reshape(-1, 16) if special == "raw" else words
    mean, std = seen.mean(0), seen.std(0, ddof=1)
    expected = {"zero": np.zeros(16), "raw": corpus.period, "normalised": (corpus.period - mean) / std}[
        special
    ]
    close(space.special, expected)
    latent = np.broadcast_to(expected, lower.shape).copy()
    for row, place in corpus.words():
        latent[row, place] = (lower[row, place] - mean) / std
    found = space.encode(corpus.ids, corpus.mask)
    np.testing.assert_allclose(found.numpy(), latent, rtol=1e-3, atol=1e-4)
    if special != "raw":
        at_words = found[word_positions(corpus.mask)]
        close(at_words.mean(0), np.zeros(16))
        close(at_words.std(0), np.ones(16))


def test_ladics_special_latent_is_exactly_zero(corpus: Corpus) -> None:
    text = load_preset("ladic-base", ["text.split=2", f"text.length={LENGTH}"]).text
    space = corpus.space(text)
    assert torch.equal(space.special, torch.zeros(16))
    assert not space.encode(corpus.ids, corpus.mask)[~word_positions(corpus.mask)].any()
    authors = load_preset("ladic-base-authors", ["text.split=2", f"text.length={LENGTH}"]).text
    close(corpus.space(authors).special, corpus.period)


def test_decoding_takes_the_statistics_back(corpus: Corpus) -> None:
    space = corpus.space(TextConfig(length=LENGTH))
    ids, everything = corpus.ids[-1:], corpus.mask[-1:]
    latent = (space.contextual(ids, everything) - space.mean) / space.std
    with torch.no_grad():
        expected = corpus.bert(input_ids=ids, attention_mask=everything).logits
        torch.testing.assert_close(space.decode(latent), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(space.masked_logits(ids, everything), expected, rtol=1e-4, atol=1e-4)
        padded = corpus.bert(input_ids=corpus.ids, attention_mask=corpus.mask).logits[corpus.mask.bool()]
        found = space.masked_logits(corpus.ids, corpus.mask)[corpus.mask.bool()]
        torch.testing.assert_close(found, padded, rtol=1e-4, atol=1e-4)


def test_the_caption_loss_asks_for_the_filler_wherever_no_word_stands(corpus: Corpus) -> None:
    space = corpus.space(TextConfig(length=LENGTH, filler="."))
    period = corpus.tokenizer.convert_tokens_to_ids(".")
    wanted = torch.full_like(corpus.ids, period)
    for row, place in corpus.words():
        wanted[row, place] = corpus.ids[row, place]
    assert torch.equal(space.targets(corpus.ids), wanted)
    assert space.filler_id == period


def test_tensors_are_made_where_their_inputs_are(corpus: Corpus) -> None:
    """Another default device stands for a GPU: what does not say where it is made would meet the CPU's there."""
    space = corpus.space(TextConfig(length=LENGTH))
    ids, mask = corpus.ids, corpus.mask
    with torch.device("meta"), torch.no_grad():
        latent = space.encode(ids, mask)
        made = (latent, space.decode(latent), space.targets(ids), space.masked_logits(ids, mask))
    again = (
        space.encode(ids, mask),
        space.decode(latent),
        space.targets(ids),
        space.masked_logits(ids, mask),
    )
    for part, expected in zip(made, again, strict=True):
        assert torch.equal(part, expected)


def test_what_cannot_be_fitted(corpus: Corpus) -> None:
    space = corpus.space(TextConfig(length=LENGTH))
    with pytest.raises(InputError, match="a latent channel never varies"):
        space.set_statistics(torch.zeros(16), torch.tensor([1.0] * 15 + [0.0]))
    with pytest.raises(
        InputError, match="unknown special latent 'ones'; choose one of zero, raw, normalised"
    ):
        space.set_special_latent("ones", torch.tensor([[2, 5, 3]]))
    identity = corpus.space(TextConfig(length=LENGTH, decoder="identity"))
    with pytest.raises(InputError, match="no masked language model"):
        identity.masked_logits(corpus.ids, corpus.mask)
    assert not len(identity.upper)
