"""CLIP-Diffusion-LM's text space: DistilBERT's own word embedding, tied."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from towers import write_distilbert
from transformers import DistilBertForMaskedLM

from clearcap.config import TextConfig
from clearcap.errors import InputError
from clearcap.text.embedding import EmbeddingSpace

TOKENS = {"pad": 0, "cls": 2, "sep": 3, "filler": 7, "mask": 4}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> DistilBertForMaskedLM:
    return DistilBertForMaskedLM.from_pretrained(write_distilbert(tmp_path_factory.mktemp("distilbert")))


def test_it_encodes_and_decodes_by_the_pretrained_embedding(pretrained: DistilBertForMaskedLM) -> None:
    table = pretrained.distilbert.embeddings.word_embeddings.weight.detach()
    space = EmbeddingSpace.build(TextConfig(kind="embedding"), EmbeddingSpace.sizes_of(pretrained), TOKENS)
    space.copy_weights(pretrained)
    ids = torch.tensor([[2, 9, 10, 3, 0], [2, 11, 3, 0, 0]])
    latent = space.encode(ids, (ids > 0).long())
    assert torch.equal(latent, torch.stack([torch.stack([table[i] for i in row]) for row in ids]))
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(space.decode(x), x @ table.T)
    assert torch.equal(space.decode(latent).argmax(-1), ids)
    assert torch.equal(space.targets(ids), ids)
    assert (space.dim, space.pad_id, space.filler_id, space.special_ids) == (16, 0, 0, (0, 2, 3))
    assert not any(p.requires_grad for p in space.parameters())
    assert space.decode(x.bfloat16()).dtype == torch.bfloat16


def test_another_models_embedding_is_refused(pretrained: DistilBertForMaskedLM) -> None:
    space = EmbeddingSpace.build(TextConfig(kind="embedding"), {"vocab_size": 9, "dim": 16}, TOKENS)
    with pytest.raises(InputError, match=r"does not fit \(9, 16\)"):
        space.copy_weights(pretrained)


def test_channels_of_the_corpus_are_normalised_where_asked(generator: torch.Generator) -> None:
    space = EmbeddingSpace.build(TextConfig(kind="embedding"), {"vocab_size": 9, "dim": 16}, TOKENS)
    before = space.embedding.weight.numpy().copy()
    ids = torch.randint(0, 9, (20, 7), generator=generator)
    mask = (torch.rand(20, 7, generator=generator) < 0.7).long()
    space.fit(ids, mask, TextConfig(kind="embedding", normalise=False), None)
    assert np.array_equal(space.embedding.weight.numpy(), before)
    space.fit(ids, mask, TextConfig(kind="embedding"), None)
    words = before[ids.numpy()[mask.numpy() > 0]]
    expected = (before - words.mean(0)) / words.std(0, ddof=1)
    np.testing.assert_allclose(space.embedding.weight.numpy(), expected, rtol=1e-5, atol=1e-6)
