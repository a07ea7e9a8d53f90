"""A memory of captioned photos: what it looks up, what it does to captions, and what it refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_captioner import CAPTIONS, photos, save_tiny_captioner

from clearcap import CaptionPipeline
from clearcap.captioner.fingerprint import pooled_tokens
from clearcap.captioner.folder import SCORER
from clearcap.captioner.onnx import GRAPHS, graph_file
from clearcap.cli.evaluate import evaluate
from clearcap.cli.memory import remember as command
from clearcap.data import open_corpus
from clearcap.errors import InputError
from clearcap.metrics.cider import DocumentFrequency
from clearcap.pipeline.memory import Axes, Memory, remember
from clearcap.pipeline.pipeline import chosen_backend
from clearcap.sampling.selection import Candidates, by_neighbours, expected_utility

COUNT = 12


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_captioner(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("album"), np.random.default_rng(0)
    for i in range(COUNT):
        small = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(small).resize((70, 60), Image.Resampling.NEAREST).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"{CAPTIONS[i % 4]}\nphoto number {i} of the album\n")
    return folder


@pytest.fixture(scope="module")
def memory(model: Path, album: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept") / "memory"
    remember(CaptionPipeline.from_pretrained(model), open_corpus("folder", album).photos).save(folder)
    return folder


def test_neighbours_are_those_of_the_greatest_cosine_of_standardised_principal_components() -> None:
    tokens = photos(40)
    pooled = np.concatenate((tokens.numpy().mean(1), tokens.numpy().max(1)), 1)
    assert np.allclose(pooled_tokens(tokens).numpy(), pooled, atol=1e-6)
    axes = Axes.fit(pooled, dims=5)
    scaled = (pooled - pooled.mean(0)) / pooled.std(0)
    principal = np.linalg.svd(scaled, full_matrices=False)[2][:5]
    expected = scaled @ principal.T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    cosines = axes.vectors(pooled) @ axes.vectors(pooled).T
    assert np.allclose(cosines, expected @ expected.T, atol=1e-4)  # axes may point the other way
    names = tuple(map(str, range(40)))
    kept = Memory(
        axes.vectors(pooled).astype(np.float16), axes, pooled[0], names, tuple((n,) for n in names), 3
    )
    for row, found in zip(cosines, kept.neighbours(tokens), strict=True):
        assert [int(one.photo) for one in found] == np.argsort(-row)[:3].tolist()
        assert np.allclose([one.likeness for one in found], np.sort(-row)[:3] * -1, atol=2e-3)


def test_what_is_loaded_is_what_was_saved(memory: Path) -> None:
    kept = Memory.load(memory, 4)
    assert (len(kept), kept.count) == (COUNT, 4)
    assert kept.captions[kept.photos.index("3.png")] == (CAPTIONS[3], "photo number 3 of the album")
    assert kept.vectors.dtype == np.float16
    assert sorted(file.name for file in memory.iterdir()) == ["captions.jsonl", "memory.safetensors"]
    assert kept.described() != Memory.load(memory, 5).described()


def test_a_remembered_photo_finds_itself_and_the_memory_joins_the_vote(
    model: Path, album: Path, memory: Path
) -> None:
    plain = CaptionPipeline.from_pretrained(model)
    helped = CaptionPipeline.from_pretrained(model, memory=memory)
    [found] = helped.memory.neighbours(helped.encode(album / "5.png"))
    assert found[0].photo == "5.png"
    assert found[0].likeness == pytest.approx(1, abs=2e-3)
    result = helped(album / "5.png")
    assert len(result.candidates) == 10  # so that the captioner is not outvoted
    assert result.candidates == plain(album / "5.png", candidates=10).candidates
    said = [caption for one in found for caption in one.captions]
    frequency = DocumentFrequency.of(helped.memory.captions)
    values = expected_utility([*result.candidates, *said], "cider", frequency)
    assert result.caption == [*result.candidates, *said][int(np.argmax(np.round(values, 9)))]
    assert result.remembered in helped.memory.photos  # random weights write nothing that people agree with
    assert result.to_json()["remembered"] == result.remembered
    assert len(result.words) == len(result.caption.split())
    one = CaptionPipeline.from_pretrained(model, memory=Memory.load(memory, 1))
    assert one(album / "5.png", select="neighbours").remembered == "5.png"
    with pytest.raises(InputError, match="select=neighbours chooses among remembered captions"):
        plain(album / "5.png", select="neighbours")


def test_a_model_of_graphs_goes_by_a_memory_in_torch(album: Path, tmp_path: Path) -> None:
    few = open_corpus("folder", album).photos[:3]
    with pytest.raises(InputError, match=r"graphs of onnxruntime give no image tokens.*backend=torch"):
        remember(CaptionPipeline.from_pretrained(backend="onnx"), few)
    kept = remember(CaptionPipeline.from_pretrained(backend="prepacked"), few)
    helped = CaptionPipeline.from_pretrained(memory=kept)
    how, own = helped.sampling(), helped.captioner.defaults
    assert (how.candidates, how.select, how.utility) == (10, "mbr", "cider")
    assert [how.length_of(i) for i in range(10)] == [own.length_of(i) for i in range(10)]
    assert helped.sampling(select="confidence", length=5).select == "confidence"
    result = helped(album / "1.png")
    drawn = CaptionPipeline.from_pretrained(backend="torch")(album / "1.png", candidates=10)
    assert result.candidates == drawn.candidates
    with pytest.raises(InputError, match="a memory looks at image tokens, which graphs do not give"):
        CaptionPipeline.from_pretrained(memory=kept, backend="onnx")
    for name in GRAPHS:
        graph_file(tmp_path, name).touch()
    with pytest.raises(InputError, match=r"a memory looks at image tokens.*the weights"):
        CaptionPipeline.from_pretrained(tmp_path, memory=kept)


def test_a_scorer_beside_weights_and_graphs_is_worth_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clearcap.pipeline.pipeline.gpu_at_hand", lambda: False)
    for file in ("model.safetensors", *(graph_file(tmp_path, name) for name in GRAPHS)):
        (tmp_path / file).touch()
    assert chosen_backend(tmp_path, None, None, "torch") == "onnx"
    assert chosen_backend(tmp_path, None, None, "torch", looking=True) == "prepacked"
    (tmp_path / SCORER).touch()
    assert chosen_backend(tmp_path, None, None, "torch") == "prepacked"
    monkeypatch.setitem(sys.modules, "torch", None)
    assert chosen_backend(tmp_path, None, None, "torch") == "onnx"


def test_the_baseline_chooses_among_remembered_captions_alone() -> None:
    captions = ["a dog runs", "a dog runs", "a dog runs", "two men ride", "two men ride horses"]
    values = list(by_neighbours(Candidates(captions, remembered=2)))
    assert values[:3] == [-1, -1, -1]
    assert values[3:] == expected_utility(captions[3:])
    with pytest.raises(InputError, match="give a memory"):
        by_neighbours(Candidates(captions))


def test_a_memory_of_another_encoder_is_refused(memory: Path, tmp_path: Path) -> None:
    other = save_tiny_captioner(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match="the memory was made with another image encoder"):
        CaptionPipeline.from_pretrained(other, memory=memory)


def test_a_damaged_memory_is_one_line(memory: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no memory"):
        Memory.load(tmp_path)
    files = {file.name: file.read_bytes() for file in memory.iterdir()}
    for name, content, message in (
        ("captions.jsonl", files["captions.jsonl"].replace(b"dog", b"cat"), "do not belong together"),
        ("memory.safetensors", files["memory.safetensors"][:100], "cannot be read"),
    ):
        for file, whole in files.items():
            (tmp_path / file).write_bytes(content if file == name else whole)
        with pytest.raises(InputError, match=message):
            Memory.load(tmp_path)
    with pytest.raises(InputError, match="neighbours=0"):
        Memory.load(memory, 0)
    with pytest.raises(InputError, match="no photos to remember"):
        remember(None, [])


def test_commands_remember_a_folder_and_evaluate_its_neighbours(
    model: Path, album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "memory"
    command([str(album)], str(model), out)
    assert f"{COUNT} photos with {2 * COUNT} captions remembered in {out}" in capsys.readouterr().out
    told = {"model": str(model), "memory": out, "neighbours": 1, "select": "neighbours"}
    evaluate(**told, data=f"folder:{album}", out=tmp_path / "found")
    scores = json.loads((tmp_path / "found" / "evaluation.json").read_text())
    assert scores["manifest"]["memory"]["neighbours"] == 1
    assert scores["BLEU-4"] == pytest.approx(
        1
    )  # each photo finds itself, and one of its own captions is chosen


def test_pixels_and_their_tokens_give_the_same_caption(model: Path, album: Path) -> None:
    pipeline = CaptionPipeline.from_pretrained(model)
    tokens = pipeline.encode(album / "0.png")
    drawn = pipeline.decode(
        pipeline.captioner.generate(image=tokens, sampling=pipeline.sampling(candidates=2))
    )
    assert pipeline(album / "0.png", candidates=2).candidates == tuple(one.text for one in drawn[0])
