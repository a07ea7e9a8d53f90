"""A scorer: what it learns, that a killed training goes on, and choosing and scoring by it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import interrupted_after
from PIL import Image
from safetensors.torch import load_file
from tiny_captioner import save_tiny_captioner, tiny_captioner

from clearcap import CaptionPipeline
from clearcap.captioner.fingerprint import fingerprint
from clearcap.captioner.folder import SCORER
from clearcap.captioner.scorer import Judge, Scorer, ScorerConfig, save_scorer, word_pieces
from clearcap.cli.score import score
from clearcap.data import open_corpus
from clearcap.errors import InputError
from clearcap.evaluation.files import ByPhoto
from clearcap.evaluation.photo_similarity import photo_files
from clearcap.sampling.selection import choose, expected_utility
from clearcap.training.scorer.run import ScorerObjective, ScorerTraining, train_scorer, usual_settings

COLOURS = {"red": (230, 30, 30), "green": (30, 220, 40), "blue": (30, 40, 230), "white": (240, 240, 240)}
TINY = ScorerConfig(width=32, depth=1, heads=2, hidden=32, length=8, looks=1, inner=32, dim=16)


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of one colour, which their captions name."""
    folder, rng = tmp_path_factory.mktemp("album"), np.random.default_rng(0)
    for i in range(24):
        name, colour = list(COLOURS.items())[i % 4]
        shade = np.clip(np.array(colour) + rng.integers(-20, 20, (8, 8, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(shade).resize((64, 64), Image.Resampling.NEAREST).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a {name} dog\n")
    return folder


def settings(steps: int, **more: object) -> ScorerTraining:
    usual = usual_settings()
    train = replace(
        usual.train, steps=steps, photos=8, lr=5e-3, warmup=2, log_every=1, save_every=5, sample_every=0,
        ema=0.5, tracker="none",
    )  # fmt: skip
    return replace(usual, scorer=TINY, train=train, dropout=0.0, word_dropout=0.0, smoothing=0.0, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(album: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a captioner and its scorer, and the run that made that."""
    folder = save_tiny_captioner(tmp_path_factory.mktemp("trained") / "model")
    captioner, tokenizer = tiny_captioner()
    run = folder.parent / "run"
    train_scorer(captioner, tokenizer, open_corpus("folder", album).photos, [], settings(80), run)
    shutil.copy(run / SCORER, folder / SCORER)
    return folder


def test_the_losses_are_the_cross_entropies_of_photos_and_of_captions() -> None:
    torch.manual_seed(0)
    scorer = Scorer(TINY, vocab=20, image_dim=6, pad=0).eval()
    tokens, ids = torch.randn(3, 5, 6), torch.tensor([[3, 4, 0, 0], [5, 0, 0, 0], [6, 7, 8, 9]])
    first, second = ScorerObjective(scorer, 0.0, 0.0, 1)(tokens, ids, 0)
    seen, said = scorer.photo_vectors(tokens).detach(), scorer.text_vectors(ids).detach()
    assert torch.allclose(seen.norm(dim=1), torch.ones(3))
    logits = (seen @ said.T / 0.07).double()
    expected = [
        -torch.stack([row[i] - row.exp().sum().log() for i, row in enumerate(table)]).mean()
        for table in (logits, logits.T)
    ]
    assert [first.item(), second.item()] == pytest.approx([one.item() for one in expected], rel=1e-4)
    alone = torch.cat([scorer.text_vectors(ids[i : i + 1, :n]) for i, n in enumerate((2, 1, 4))])
    assert torch.allclose(said, alone, atol=1e-5)  # what is behind a caption, and beside it, changes nothing


def test_it_learns_which_caption_fits_and_chooses_it(trained: Path, album: Path) -> None:
    pipeline = CaptionPipeline.from_pretrained(trained)
    captions = [f"a {name} dog" for name in COLOURS]
    for i in range(8):
        tokens = pipeline.encode(album / f"{i}.png")[0]
        fit = pipeline.scorer.similarity(tokens, captions)
        assert int(np.argmax(fit)) == i % 4
        how = pipeline.sampling(select="similarity")
        assert pipeline.choose(captions, [[0.5]] * 4, how, image=tokens) == i % 4
    drawn = pipeline(album / "0.png", candidates=6, select="similarity")
    tokens = pipeline.encode(album / "0.png")[0]
    fit = pipeline.scorer.similarity(tokens, drawn.candidates)
    assert fit[drawn.candidates.index(drawn.caption)] == max(fit)


def test_agreement_and_similarity_count_alike() -> None:
    captions = ["a dog runs", "a dog runs fast", "a cat sits", "two men ride"]
    similarity = [0.1, 0.3, 0.2, 0.3]
    values = np.zeros(4)
    for one in (np.array(expected_utility(captions)), np.array(similarity)):
        values += (one - one.mean()) / one.std()
    assert choose(captions, "mbr-and-similarity", similarity=similarity) == int(np.argmax(values)) == 1


def test_a_killed_training_goes_on_to_the_same_weights(album: Path, tmp_path: Path) -> None:
    captioner, tokenizer = tiny_captioner()
    photos = open_corpus("folder", album).photos
    how = settings(12, features=str(tmp_path / "features"))
    for out, step in ((tmp_path / "whole", 0), (tmp_path / "killed", 7)):
        try:
            with interrupted_after(step):
                train_scorer(captioner, tokenizer, photos[:16], photos[16:], how, out)
        except KeyboardInterrupt:
            train_scorer(captioner, tokenizer, photos[:16], photos[16:], how, out)
    whole, killed = (load_file(tmp_path / name / SCORER) for name in ("whole", "killed"))
    assert all(torch.equal(tensor, killed[name]) for name, tensor in whole.items())
    lines = (tmp_path / "killed" / "curves.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 13))


def test_a_scorer_of_another_captioner_or_a_damaged_one_is_refused(trained: Path, tmp_path: Path) -> None:
    pipeline = CaptionPipeline.from_pretrained(trained)
    file = trained / SCORER
    other = CaptionPipeline.from_pretrained(save_tiny_captioner(tmp_path / "other", seed=1))
    with pytest.raises(InputError, match="another image encoder"):
        Judge.load(file, other.captioner, pipeline.tokenizer)
    known = fingerprint(pipeline.captioner)
    scorer = Scorer(TINY, vocab=7, image_dim=16, pad=0)
    save_scorer(scorer, CaptionPipeline.from_pretrained().tokenizer, known, tmp_path / SCORER)
    with pytest.raises(InputError, match="another vocabulary"):
        Judge.load(tmp_path / SCORER, pipeline.captioner, pipeline.tokenizer)
    (tmp_path / SCORER).write_bytes(file.read_bytes()[:500])
    with pytest.raises(InputError, match="no scorer can be read"):
        Judge.load(tmp_path / SCORER, pipeline.captioner, pipeline.tokenizer)
    few = open_corpus("folder", album_of(tmp_path)).photos
    with pytest.raises(InputError, match=r"8 photos are fewer than train\.photos=384"):
        train_scorer(*tiny_captioner(), few, [], usual_settings(), tmp_path / "run")


def album_of(folder: Path) -> Path:
    """Eight photos without content."""
    (folder / "eight").mkdir()
    for i in range(8):
        Image.new("RGB", (8, 8)).save(folder / "eight" / f"{i}.png")
        (folder / "eight" / f"{i}.txt").write_text("a dog\n")
    return folder / "eight"


def test_a_caption_is_read_as_far_as_the_tower_goes() -> None:
    tokenizer = tiny_captioner()[1]
    ids = word_pieces(tokenizer, ["A brown dog.", "", "dog " * 20], 8, tokenizer.pad_token_id)
    assert tokenizer.convert_ids_to_tokens(ids[0].tolist()) == ["a", "brown", "dog"] + ["[PAD]"] * 5
    assert ids.shape == (3, 8)
    assert (ids[1] == tokenizer.pad_token_id).all()


def test_score_tells_how_well_captions_fit_their_photos(
    trained: Path, album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {f"{i}.png": f"a {list(COLOURS)[(i + (i > 3)) % 4]} dog" for i in range(8)}
    results = [{"image_id": name, "caption": caption} for name, caption in told.items()]
    (tmp_path / "results.json").write_text(json.dumps(results))
    references = {name: ["a dog"] for name in told}
    (tmp_path / "references.json").write_text(json.dumps(references))
    places = [tmp_path / "results.json", tmp_path / "references.json"]
    score(*places, "BLEU", photos=album, model=str(trained), as_json=True)
    found = json.loads(capsys.readouterr().out)
    pipeline = CaptionPipeline.from_pretrained(trained)
    fit = [
        float(pipeline.scorer.similarity(pipeline.encode(album / name)[0], [text])[0])
        for name, text in told.items()
    ]
    assert found["scorer similarity"] == pytest.approx(np.mean(fit), abs=1e-4)
    assert min(fit[:4]) > max(fit[4:])  # the last four name another colour
    for name, number in (("0.png", "000000000285.png"), ("1.png", "000000000776.png")):
        shutil.copy(album / name, tmp_path / number)
    numbered: ByPhoto[list[str]] = ByPhoto()
    numbered |= {"285": ["a dog"], "776": ["a dog"]}
    assert photo_files(numbered, ["776"], tmp_path) == {"776": tmp_path / "000000000776.png"}
    with pytest.raises(InputError, match=r"1 photo \(9\) not in"):
        photo_files(numbered, ["9"], tmp_path)
    low, high = found["intervals"]["scorer similarity"]
    assert low < found["scorer similarity"] < high
