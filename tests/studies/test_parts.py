"""The parts that studies need: what a captioner lends, an appended photo, one vector a photo, its own losses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rich.console import Console
from tiny_captioner import CAPTIONS, photos, save_tiny_captioner, seeing_captioner, tiny_captioner

from clearcap.captioner.model import Captioner, CaptionerConfig
from clearcap.captioner.towers import build_captioner, load_encoder, tokenize_for
from clearcap.config import DenoiserConfig, Preset, VisionConfig, load_preset, make
from clearcap.data.images import PhotoFile
from clearcap.data.records import CaptionedPhoto
from clearcap.denoiser.appended import build_appended
from clearcap.errors import InputError
from clearcap.studies.study import load_study
from clearcap.training.log import progress_bar
from clearcap.training.objectives import DiffusionLMObjective, LadicObjective
from clearcap.training.run import examples_of
from clearcap.training.twin.network import build_twin
from clearcap.training.twin.run import sizes_of


@pytest.fixture(scope="module")
def lender(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_captioner(tmp_path_factory.mktemp("lender") / "model")


def preset(lender: Path, **text: object) -> Preset:
    tables = {
        "text": {"source": str(lender), "split": 1, "length": 10} | text,
        "vision": {"source": str(lender), "tokens": 4, "dim": 16, "image_size": 64},
        "denoiser": {"width": 24, "depth": 1, "heads": 2, "hidden": 32},
    }
    return make(Preset, tables, "test")


def built(preset: Preset) -> tuple[Captioner, torch.Tensor, torch.Tensor]:
    captioner, tokenizer = build_captioner(preset)
    ids, mask = tokenize_for(preset.text, tokenizer)(CAPTIONS)
    captioner.text.fit(ids, mask, preset.text, tokenizer)
    return captioner, ids, mask


def test_a_captioner_lends_its_text_space_and_its_encoder(lender: Path) -> None:
    old, _ = tiny_captioner()
    captioner, ids, mask = built(preset(lender))
    for name, tensor in captioner.text.state_dict().items():
        if name.split(".")[0] in ("encoder", "upper", "lm_head"):
            assert torch.equal(tensor, old.text.state_dict()[name]), name
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(captioner.vision(pixels), old.vision(pixels))
    assert torch.allclose(
        captioner.text.masked_logits(ids, mask), old.text.masked_logits(ids, mask), atol=1e-5
    )


def test_its_bert_is_split_anew_or_drawn_anew(lender: Path) -> None:
    old, _ = tiny_captioner()
    captioner, ids, mask = built(preset(lender, split=2, normalise=False, special="own"))
    assert len(captioner.text.upper) == 0
    whole = old.text.contextual(ids, mask)
    for layer in old.text.upper:
        whole = layer(whole, mask[:, None, None, :].bool())
    assert torch.allclose(
        captioner.text.encode(ids, mask), whole, atol=1e-5
    )  # nothing normalised or reassigned
    again = Captioner(CaptionerConfig.from_dict(captioner.config.to_dict()))  # as a saved one is loaded
    again.load_state_dict(captioner.state_dict())
    assert torch.equal(again.text.encode(ids, mask), captioner.text.encode(ids, mask))
    words, _, _ = built(preset(lender, kind="embedding", pretrained=False))
    assert words.text.embedding.weight.shape == (old.config.bert["vocab_size"], 24)
    assert 0.9 < words.text.embedding.weight.std() < 1.1
    kept, _, _ = built(preset(lender, kind="embedding", normalise=False))
    assert torch.equal(kept.text.embedding.weight, old.text.encoder.embeddings["word_embeddings"].weight)


def test_what_is_not_lent_is_refused(lender: Path) -> None:
    with pytest.raises(InputError, match=r"of kind compact; pass vision\.kind=compact"):
        load_encoder(VisionConfig(kind="efficientnet", source=str(lender), tokens=4, dim=16, image_size=64))
    captioner, _, _ = built(preset(lender, kind="embedding"))
    with pytest.raises(InputError, match="EmbeddingSpace is no whole language model"):
        captioner.text.language_model()
    whole, _, _ = built(preset(lender, split=2))
    with pytest.raises(InputError, match="kept no upper half"):
        whole.text.language_model()


@torch.no_grad()
def test_an_appended_photo_is_read_and_only_its_own() -> None:
    torch.manual_seed(0)
    sizes = DenoiserConfig(kind="appended", width=32, depth=2, heads=2, hidden=48)
    denoiser = build_appended(sizes, dim=12, length=7, image_dim=16, image_tokens=4).eval()
    for p in denoiser.parameters():
        p.mul_(8) if p.ndim > 1 else None
    image, x = photos(2), torch.randn(4, 7, 12, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([3, 3, 500, 500])
    out = denoiser(x, torch.zeros_like(x), t, denoiser.image_context(image))
    assert out.shape == x.shape
    first = denoiser(x[:2], torch.zeros_like(x[:2]), t[:2], denoiser.image_context(image[:1]))
    assert torch.allclose(out[:2], first, atol=1e-4)
    swapped = denoiser(x, torch.zeros_like(x), t, denoiser.image_context(image.flip(0)))
    assert (out - swapped).abs().mean() > 0.01
    shuffled = denoiser(x, torch.zeros_like(x), t, denoiser.image_context(image[:, [2, 0, 3, 1]]))
    assert torch.allclose(out, shuffled, atol=1e-4)  # the mean of its tokens is all that is read
    nothing = denoiser(x[:2], torch.zeros_like(x[:2]), t[:2], denoiser.null_context())
    assert (out[:2] - nothing).abs().mean() > 0.01


@torch.no_grad()
def test_a_pair_gives_one_vector_where_the_settings_say_so() -> None:
    captioner, _ = seeing_captioner()
    pair, settings = captioner.vision, captioner.vision.settings()
    vision = VisionConfig(kind="pair", mode="global", tokens=1, dim=16, image_size=64)
    pooled = type(pair).build(vision, settings).eval()
    pooled.load_state_dict(pair.state_dict())
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    vector, mean = pooled(pixels), pair(pixels).mean(1)
    assert vector.shape == (2, 1, 16)
    assert torch.allclose(vector.square().mean(-1), torch.ones(2, 1), atol=1e-3)
    assert torch.allclose(torch.cosine_similarity(vector[:, 0], mean), torch.ones(2), atol=1e-5)
    assert torch.allclose(pooled.folded()(pixels), vector, atol=1e-4)
    assert pooled.settings() == settings


def concat(weight: float, kind: str = "concat") -> DiffusionLMObjective:
    old, _ = tiny_captioner()
    settings = old.config.to_dict()
    settings |= {
        "text": {"kind": "embedding", "length": 10, "source": ""},
        "vision": {"kind": "compact", "tokens": 1, "dim": 16, "image_size": 64},
        "denoiser": {"kind": kind, "width": 24, "depth": 1, "heads": 2, "hidden": 32},
        "diffusion": {"objective": "diffusion-lm", "levels": 3, "image_weight": weight, "drop_image": 0.0},
        "bert": {"vocab_size": 120, "dim": 24},
        "tower": {"widths": [8, 8, 8, 16], "depths": [0, 1, 1, 1], "mixers": 1, "heads": 2, "image_size": 32},
    }
    torch.manual_seed(0)
    captioner = Captioner(CaptionerConfig.from_dict(settings))
    return DiffusionLMObjective(captioner, captioner.noise(1.0)).eval()


def test_the_photos_vector_is_restored_where_it_is_asked_for() -> None:
    plain, asked = concat(0.0), concat(2.0)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 100, (2, 10), generator=generator)
    image, x0 = photos(2)[:, :1], plain.text.encode(ids, torch.ones_like(ids))
    draws = plain.sample(photos=2, copies=1, length=10, dim=24, generator=generator)
    kept = torch.ones(2, dtype=torch.bool)
    without, with_image = (one.losses(image, kept, x0, ids, draws) for one in (plain, asked))
    assert torch.equal(without.noisy, with_image.noisy)
    assert without.image == 0.0
    x_t = asked.noise.add(x0[:, None], draws.t, draws.eps[:, None]).flatten(0, 1)
    words = torch.ones(6, 10, dtype=torch.bool)
    at = asked.denoiser.whole(x_t, None, None, asked.denoiser.image_context(image), words)[:, 10]
    wanted = asked.denoiser.image(image)[:, 0].repeat_interleave(3, 0)
    assert torch.isclose(torch.as_tensor(with_image.image), 2 * (at - wanted).abs().mean(), rtol=1e-4)
    assert torch.isclose(with_image.latent, without.latent + with_image.image)
    with pytest.raises(InputError, match=r"needs denoiser\.kind=concat"):
        concat(1.0, kind="add")


@pytest.mark.parametrize("mirror", [True, False])
def test_photos_are_mirrored_unless_the_settings_say_no(lender: Path, mirror: bool) -> None:
    asked = make(Preset, {"text": {"length": 10}, "data": {"mirror": mirror}}, "test")
    captioner, tokenizer = tiny_captioner()
    texts = [*CAPTIONS, "a dog runs left"]
    shown = [CaptionedPhoto(str(n), PhotoFile(Path("absent.png")), (text,)) for n, text in enumerate(texts)]
    with progress_bar(Console(stderr=True), shown=False) as progress:
        made = examples_of(captioner, tokenizer, asked, shown, [], torch.arange(5), progress)
    assert made.mirrored.tolist() == [mirror] * 4 + [False]


def test_the_twin_of_a_study_has_as_many_trained_parameters() -> None:
    asked = load_preset(load_study("autoregressive").preset)
    captioner, tokenizer = build_captioner(asked)
    twin = build_twin(sizes_of(asked), vocab=len(tokenizer), image_dim=256, tokens=49)
    trained = LadicObjective(captioner, captioner.noise(1.0)).parameters()
    mine, other = (sum(p.numel() for p in some if p.requires_grad) for some in (trained, twin.parameters()))
    assert abs(other / mine - 1) < 0.05


def test_a_study_names_its_base_alike_wherever_it_is_installed() -> None:
    study = load_study("clip-fusion")
    assert study.base == "clip-diffusion-lm-study", "a killed study goes on from another checkout"
    assert load_preset(study.preset).train.steps == 600
