"""Our BERT halves against transformers' own classes, and their weights by the same names."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from towers import write_bert
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

from clearcap.config import TextConfig
from clearcap.errors import InputError
from clearcap.text.split_bert import SplitBertSpace
from clearcap.text.tokenizer import WordPieces

SIZES = {
    "vocab_size": 40,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 16,
}


def split_space(sizes: dict[str, object], split: int) -> SplitBertSpace:
    tokens = {"pad": 0, "cls": 2, "sep": 3, "filler": 0}
    return SplitBertSpace.build(TextConfig(split=split, length=16), sizes, tokens).eval()


@pytest.fixture(params=["gelu", "gelu_new", "relu"])
def pair(request: pytest.FixtureRequest) -> tuple[SplitBertSpace, BertForMaskedLM]:
    """A split space with the weights of a masked language model of large random weights, and that model."""
    sizes = {**SIZES, "hidden_act": request.param}
    torch.manual_seed(0)
    masked_lm = BertForMaskedLM(BertConfig(**sizes)).eval()
    with torch.no_grad():
        for weight in masked_lm.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    space = split_space(sizes, split=1)
    space.copy_weights(masked_lm)
    return space, masked_lm


def test_both_halves_together_are_transformers_bert(pair: tuple[SplitBertSpace, BertForMaskedLM]) -> None:
    space, masked_lm = pair
    ids = torch.randint(4, 40, (3, 9), generator=torch.Generator().manual_seed(1))
    everything = torch.ones_like(ids)
    with torch.no_grad():
        logits = space.decode(space.contextual(ids, everything))  # statistics are 0 and 1 so far
        expected = masked_lm(input_ids=ids, attention_mask=everything).logits
    assert expected.std() > 1
    torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-5)


def test_padding_is_masked_as_transformers_does(pair: tuple[SplitBertSpace, BertForMaskedLM]) -> None:
    space, masked_lm = pair
    ids = torch.randint(4, 40, (2, 9), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[0, 4:] = 0
    with torch.no_grad():
        lower = space.contextual(ids, mask)
        states = masked_lm.bert(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
    torch.testing.assert_close(lower[mask.bool()], states[1][mask.bool()], atol=2e-5, rtol=1e-5)
    changed = ids.clone()
    changed[0, 4:] = 5
    assert torch.equal(space.contextual(changed, mask)[0, :4], lower[0, :4])


def test_gradients_reach_the_latent_through_the_upper_half(
    pair: tuple[SplitBertSpace, BertForMaskedLM],
) -> None:
    space, _ = pair
    x = torch.randn(1, 5, 24, generator=torch.Generator().manual_seed(3), requires_grad=True)
    space.decode(x)[0, 2, 7].backward()
    assert x.grad is not None
    assert (x.grad.abs().sum(-1) > 0).all()  # attention mixes every position in


def test_impossible_sizes_name_the_setting() -> None:
    with pytest.raises(InputError, match=r"split=4 must lie between 1 and the 3 layers"):
        split_space(SIZES, split=4)
    with pytest.raises(InputError, match=r"hidden_act='swoosh' is not among gelu"):
        split_space({**SIZES, "hidden_act": "swoosh"}, split=1)
    with pytest.raises(InputError, match=r"num_attention_heads=5 does not divide hidden_size=24"):
        split_space({**SIZES, "num_attention_heads": 5}, split=1)


def test_a_caption_longer_than_its_bert_is_refused() -> None:
    with pytest.raises(InputError, match=r"text\.length=16 exceeds the 15 positions of the BERT"):
        split_space({**SIZES, "max_position_embeddings": 15}, split=1)


def test_sizes_that_are_not_told_are_bert_configs_own() -> None:
    needed = {"vocab_size": 40, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    needed["intermediate_size"] = 12
    whole = BertForMaskedLM(BertConfig(**needed)).eval()
    space = split_space(needed, split=1)
    space.copy_weights(whole)
    theirs = whole.bert.embeddings
    for table in ("position_embeddings", "token_type_embeddings", "word_embeddings"):
        assert torch.equal(space.encoder.embeddings[table].weight, getattr(theirs, table).weight)
    norms = {m.eps for m in space.modules() if isinstance(m, torch.nn.LayerNorm)}
    assert norms == {whole.config.layer_norm_eps}
    x = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = whole.cls(whole.bert.encoder.layer[1](x))
        torch.testing.assert_close(space.decode(x), expected)
    sizes = SplitBertSpace.sizes_of(whole)
    assert sizes == {name: getattr(whole.config, name) for name in sizes}
    assert needed.keys() < sizes.keys()
    told = {
        "type_vocab_size": 3,
        "layer_norm_eps": 0.125,
        "max_position_embeddings": 21,
        "hidden_act": "silu",
    }
    other = split_space(needed | told, split=1)
    assert len(other.encoder.embeddings["token_type_embeddings"].weight) == 3
    assert len(other.encoder.embeddings["position_embeddings"].weight) == 21
    assert {m.eps for m in other.modules() if isinstance(m, torch.nn.LayerNorm)} == {0.125}
    assert other.lm_head.act is other.upper[0].act is torch.nn.functional.silu


def test_only_the_lm_head_is_trained() -> None:
    space = split_space(SIZES, split=1)
    assert {n.split(".")[0] for n, p in space.named_parameters() if p.requires_grad} == {"lm_head"}
    for mode in (True, False):
        assert space.train(mode) is space
        assert not any(m.training for half in (space.encoder, space.upper) for m in half.modules())
        assert all(m.training == mode for m in (space, *space.lm_head.modules()))
    assert space.train().training
    assert space.special_ids == (0, 2, 3)
    assert (space.dim, len(space.encoder.encoder["layer"]), len(space.upper)) == (24, 1, 2)


def test_a_new_encoder_has_berts_weights() -> None:
    encoder = split_space({**SIZES, "hidden_size": 64}, split=2).encoder
    for weight in (
        encoder.embeddings["word_embeddings"].weight,
        encoder.encoder["layer"][1].output["dense"].weight,
    ):
        assert weight.std().item() == pytest.approx(0.02, rel=0.07)
    assert not encoder.encoder["layer"][0].output["dense"].bias.any()


def test_a_vocabulary_of_no_bert_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("words")
    Tokenizer(WordLevel({"a": 0}, unk_token="a")).save(str(folder / "tokenizer.json"))
    with pytest.raises(InputError, match=r"tokenizer\.json: has no \[UNK\], so it is not a BERT's"):
        WordPieces.read(folder)


def test_word_pieces_answer_as_transformers_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = write_bert(tmp_path_factory.mktemp("bert"), layers=1)
    theirs, ours = BertTokenizer.from_pretrained(folder), WordPieces.read(folder)
    theirs(["a dog"], padding="max_length", truncation=True, max_length=4)  # leaves padding in its Rust part
    theirs.save_pretrained(folder)
    ours = WordPieces.read(folder)
    for text in ("a Dog rides a bus , waving .", "zebras é 漢 sitting", "", "a two-man ball's"):
        pieces = theirs.tokenize(text)
        assert ours.tokenize(text) == pieces
        assert ours.convert_tokens_to_ids(pieces) == theirs.convert_tokens_to_ids(pieces)
        ids = theirs.convert_tokens_to_ids(pieces)
        assert ours.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)
    assert ours.convert_tokens_to_ids("no such piece") == theirs.unk_token_id == ours.unk_token_id
    assert ours.get_vocab() == theirs.get_vocab()
    assert set(ours.all_special_ids) == set(theirs.all_special_ids)
    for name in ("pad_token_id", "cls_token_id", "sep_token_id", "unk_token"):
        assert getattr(ours, name) == getattr(theirs, name)


def test_a_folder_without_vocabulary_is_one_sentence(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("empty")
    with pytest.raises(InputError, match=r"tokenizer\.json: cannot be read"):
        WordPieces.read(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer\.json: cannot be read"):
        WordPieces.read(folder)
