"""CLIPScore and BERTScore on tiny random models in the hub's format, against the formulas written out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from towers import write_clip_scorer

from clearcap.errors import InputError
from clearcap.metrics.learned import BertScorer, ClipScorer

HYPOTHESES = {1: "a dog runs", 2: "two men", 3: "a cat on grass"}
REFERENCES = {1: ["a dog", "the dog runs on grass"], 2: ["men talk"], 3: ["a cat", "grass", "a dog on grass"]}


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> Path:
    return write_clip_scorer(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> dict[int, Path]:
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    paths = {photo: folder / f"{photo}.png" for photo in HYPOTHESES}
    for path in paths.values():
        Image.fromarray(rng.integers(0, 255, (40, 48, 3), np.uint8)).save(path)
    return paths


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def test_clip_scores_are_the_paper_s_formulas(clip_folder: Path, photos) -> None:
    from transformers import CLIPModel, CLIPProcessor

    scores = ClipScorer.load(clip_folder, batch=2).score(photos, HYPOTHESES, REFERENCES)
    model, processor = (
        CLIPModel.from_pretrained(clip_folder).eval(),
        CLIPProcessor.from_pretrained(clip_folder),
    )

    def text(caption: str) -> torch.Tensor:
        inputs = processor(text=["A photo depicts " + caption], return_tensors="pt")
        with torch.no_grad():
            pooled = model.text_model(**inputs).pooler_output
            return model.text_projection(pooled)[0]

    for photo, caption in HYPOTHESES.items():
        pixels = processor(images=Image.open(photos[photo]).convert("RGB"), return_tensors="pt")
        with torch.no_grad():
            image = model.visual_projection(model.vision_model(**pixels).pooler_output)[0]
        clip = 2.5 * max(cosine(image, text(caption)), 0)
        nearest = max(max(cosine(text(ref), text(caption)) for ref in REFERENCES[photo]), 0)
        harmonic = 2 * clip * nearest / (clip + nearest) if clip + nearest else 0
        assert scores.per_caption["CLIPScore"][photo] == pytest.approx(clip, abs=1e-5)
        assert scores.per_caption["RefCLIPScore"][photo] == pytest.approx(harmonic, abs=1e-5)
    for name in ("CLIPScore", "RefCLIPScore"):
        assert scores.corpus[name] == pytest.approx(np.mean(list(scores.per_caption[name].values())))


def test_clip_score_takes_images_and_cuts_long_captions(clip_folder: Path, photos) -> None:
    scorer = ClipScorer.load(clip_folder)
    long = dict.fromkeys(photos, "dog " * 60)
    from_files = scorer.score(photos, long)
    opened = {photo: Image.open(path) for photo, path in photos.items()}
    assert scorer.score(opened, long).corpus == from_files.corpus
    assert set(from_files.corpus) == {"CLIPScore"}


def test_clip_score_needs_an_image_for_every_caption(clip_folder: Path, photos) -> None:
    with pytest.raises(InputError, match="no image"):
        ClipScorer.load(clip_folder).score({1: photos[1]}, HYPOTHESES)


def test_unreadable_images_are_named(clip_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"broken\.png"):
        ClipScorer.load(clip_folder).score({1: tmp_path / "broken.png"}, {1: "a dog"})


@pytest.mark.parametrize("scorer", [ClipScorer, BertScorer])
def test_a_folder_without_a_model_is_one_clear_error(tmp_path: Path, scorer) -> None:
    with pytest.raises(InputError, match="could not be loaded"):
        scorer.load(tmp_path)


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory) -> Path:
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("bert")
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] a the dog cat man men two run runs talk on grass ##s"
    (folder / "vocab.txt").write_text("\n".join(words.split()))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=18, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2
    )
    BertModel(config).save_pretrained(folder)
    BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    return folder


def naive_bert_score(folder: Path, layer: int, idf: bool) -> dict[int, tuple[float, float, float]]:
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    corpus = [tokenizer(ref)["input_ids"] for refs in REFERENCES.values() for ref in refs]

    def weight(token: int) -> float:
        if idf:
            return float(np.log((len(corpus) + 1) / (sum(token in ids for ids in corpus) + 1)))
        return float(token not in (tokenizer.cls_token_id, tokenizer.sep_token_id))

    def encoded(caption: str) -> tuple[list[float], list[torch.Tensor]]:
        inputs = tokenizer(caption, return_tensors="pt")
        with torch.no_grad():
            hidden = model(**inputs, output_hidden_states=True).hidden_states[layer][0]
        return [weight(int(token)) for token in inputs["input_ids"][0]], list(hidden)

    found = {}
    for photo, refs in REFERENCES.items():
        weights_h, hypothesis = encoded(HYPOTHESES[photo])
        rows = []
        for ref in refs:
            weights_r, reference = encoded(ref)
            p = sum(
                w * max(cosine(h, r) for r in reference) for w, h in zip(weights_h, hypothesis, strict=True)
            )
            r = sum(
                w * max(cosine(h, r) for h in hypothesis) for w, r in zip(weights_r, reference, strict=True)
            )
            p, r = p / sum(weights_h), r / sum(weights_r)
            rows.append((p, r, 2 * p * r / (p + r)))
        found[photo] = tuple(np.max(rows, axis=0))
    return found


@pytest.mark.parametrize("idf", [False, True])
@pytest.mark.parametrize("layer", [0, 2, 3])
def test_bert_score_is_the_paper_s_formula(bert_folder: Path, layer: int, idf: bool) -> None:
    scores = BertScorer.load(bert_folder, layer=layer, idf=idf, batch=2).score(HYPOTHESES, REFERENCES)
    for photo, expected in naive_bert_score(bert_folder, layer, idf).items():
        ours = [scores.per_caption[name][photo] for name in ("BERTScore-P", "BERTScore-R", "BERTScore")]
        assert ours == pytest.approx(expected, abs=1e-5)


def test_a_baseline_rescales(bert_folder: Path) -> None:
    plain = BertScorer.load(bert_folder, layer=2).score(HYPOTHESES, REFERENCES).corpus
    rescaled = (
        BertScorer.load(bert_folder, layer=2, baseline=(0.2, 0.4, 0.5)).score(HYPOTHESES, REFERENCES).corpus
    )
    assert rescaled["BERTScore-P"] == pytest.approx((plain["BERTScore-P"] - 0.2) / 0.8)
    assert rescaled["BERTScore"] == pytest.approx((plain["BERTScore"] - 0.5) / 0.5)


def test_empty_candidates_score_zero(bert_folder: Path) -> None:
    scores = BertScorer.load(bert_folder, layer=2).score({1: ""}, {1: ["a dog"]})
    assert set(scores.corpus.values()) == {0.0}


def test_a_layer_the_model_lacks_is_named(bert_folder: Path) -> None:
    with pytest.raises(InputError, match="layer=17"):
        BertScorer.load(bert_folder)
