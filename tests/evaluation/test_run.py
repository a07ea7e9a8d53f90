"""Evaluations of a tiny captioner on real files: complete, repeatable, and the same after a killed process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_captioner import save_tiny_captioner

from clearcap.data import Corpus, open_corpus
from clearcap.errors import InputError
from clearcap.evaluation import Evaluation, evaluate, load_evaluation, read_references, read_results
from clearcap.evaluation.journal import Captioned, Journal, read_journal
from clearcap.evaluation.scores import derangement, score_captions, shuffled_scores
from clearcap.metrics import tokenize
from clearcap.pipeline import CaptionPipeline
from tests.commands import clearcap, kill_when, started

LASTING = ("captions.jsonl", "evaluation.json", "manifest.json", "references.json", "results.json")


@pytest.fixture(scope="module")
def done(model: Path, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path]:
    """An uninterrupted evaluation and its folder."""
    out = tmp_path_factory.mktemp("done") / "out"
    return evaluate(model, corpus, out=out, batch_size=4, seed=3, shuffle=True, steps=2), out


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in LASTING}


def test_every_photo_is_captioned_as_the_pipeline_captions_it(
    done: tuple[Evaluation, Path], model: Path, corpus: Corpus
) -> None:
    found, out = done
    pipeline = CaptionPipeline.from_pretrained(model, backend="fast")
    alone = [pipeline(photo.image, seed=3, steps=2).caption for photo in corpus]
    assert [one.caption for one in found.captions] == alone
    assert [one.photo for one in found.captions] == [photo.id for photo in corpus]
    assert len(set(alone)) > 1  # else the comparison could not see photos exchanged
    coco = json.loads((out / "results.json").read_text())
    assert [record["image_id"] for record in coco] == list(range(100, 100 + len(corpus)))


def test_scores_equal_pycocoevalcap_on_the_same_tokens(done: tuple[Evaluation, Path]) -> None:
    bleu = pytest.importorskip("pycocoevalcap.bleu.bleu")
    cider = pytest.importorskip("pycocoevalcap.cider.cider")
    rouge = pytest.importorskip("pycocoevalcap.rouge.rouge")
    _, out = done
    results, references = read_results(out / "results.json"), read_references(out / "references.json")
    given = {photo: [" ".join(tokenize([text])[0])] for photo, text in results.items()}
    wanted = {photo: [" ".join(words) for words in tokenize(texts)] for photo, texts in references.items()}
    expected, _ = bleu.Bleu(4).compute_score(wanted, given, verbose=0)
    written = json.loads((out / "evaluation.json").read_text())
    assert [written[f"BLEU-{n}"] for n in (1, 2, 3, 4)] == pytest.approx(expected, abs=1e-12)
    assert written["CIDEr-D"] == pytest.approx(cider.Cider().compute_score(wanted, given)[0], abs=1e-12)
    assert written["ROUGE-L"] == pytest.approx(rouge.Rouge().compute_score(wanted, given)[0], abs=1e-12)
    low, high = written["intervals"]["CIDEr-D"]
    assert low <= written["CIDEr-D"] <= high


def test_two_runs_write_the_same_bytes(
    done: tuple[Evaluation, Path], model: Path, corpus: Corpus, tmp_path: Path
) -> None:
    evaluate(model, corpus, out=tmp_path, batch_size=4, seed=3, shuffle=True, steps=2)
    assert contents(tmp_path) == contents(done[1])


def test_without_a_folder_the_figures_are_the_same(
    done: tuple[Evaluation, Path], model: Path, corpus: Corpus
) -> None:
    again = evaluate(model, corpus, batch_size=4, seed=3, shuffle=True, steps=2)
    assert again.to_json() == done[0].to_json()
    assert load_evaluation(done[1]).to_json() == done[0].to_json()


def test_a_killed_process_resumes_to_the_same_bytes(model: Path, photo_folder: Path, tmp_path: Path) -> None:
    command = ["evaluate", "--model", str(model), "--data", f"folder:{photo_folder}"]
    command += ["--batch-size", "2", "--steps", "40", "--json", "--shuffle-photos"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = started([*command, "--out", str(killed)], tmp_path / "killed.log")
    journal = killed / "captions.jsonl"
    kill_when(process, lambda: journal.is_file() and journal.read_bytes().count(b"\n") >= 5)
    kept = journal.read_bytes()
    assert 5 <= kept.count(b"\n") < 23
    assert not (killed / "evaluation.json").exists()
    journal.write_bytes(kept + b'{"image_id": "105", "capti')  # what a crash of the machine may leave
    for out in (killed, whole):
        done = clearcap(*command, "--out", out)
        assert done.returncode == 0, done.stderr
    assert contents(killed) == contents(whole)


@given(cut=st.integers(0, 1200), batch=st.integers(1, 7))
def test_a_journal_cut_anywhere_keeps_its_whole_batches(
    tmp_path_factory: pytest.TempPathFactory, cut: int, batch: int
) -> None:
    path = tmp_path_factory.mktemp("journal") / "captions.jsonl"
    photos = [f"photo {n}" for n in range(10)]
    lines = [Captioned(photo, f"a café – {photo}", 1 / 3 + n, ("a", "b")) for n, photo in enumerate(photos)]
    whole = "".join(line.to_line() for line in lines).encode()
    path.write_bytes(whole[:cut])
    with Journal(path, Captioned, photos, batch) as journal:
        finished = whole[:cut].count(b"\n")
        assert len(journal.done) == (10 if finished == 10 else finished - finished % batch)
        for line in lines[len(journal.done) :]:
            journal.append(line)
    assert path.read_bytes() == whole
    assert read_journal(path, Captioned) == lines


def test_damage_that_no_interruption_explains_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    path.write_text("{}\n" + Captioned("b", "a dog", 0.5).to_line())
    with pytest.raises(InputError, match="line 1 is damaged"):
        Journal(path, Captioned, ["a", "b"], 1)
    path.write_text(Captioned("z", "a dog", 0.5).to_line())
    with pytest.raises(InputError, match="other photos"):
        Journal(path, Captioned, ["a", "b"], 1)


def test_a_folder_of_another_evaluation_is_refused(
    done: tuple[Evaluation, Path], corpus: Corpus, model: Path, tmp_path: Path
) -> None:
    out = done[1]
    before = contents(out)
    with pytest.raises(InputError, match="steps 2, not 3"):
        evaluate(model, corpus, out=out, batch_size=4, seed=3, steps=3)
    with pytest.raises(InputError, match="photos 23, not 5"):
        evaluate(model, corpus, out=out, batch_size=4, seed=3, steps=2, limit=5)
    save_tiny_captioner(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match="model_sha256"):
        evaluate(tmp_path / "other", corpus, out=out, batch_size=4, seed=3, steps=2)
    shutil.copytree(model, tmp_path / "moved")
    evaluate(
        tmp_path / "moved", corpus, out=out, batch_size=4, seed=3, steps=2, shuffle=True
    )  # the same weights
    after = contents(out)
    assert after["captions.jsonl"] == before["captions.jsonl"]


def test_an_evaluation_goes_on_with_the_threads_it_began_with(
    done: tuple[Evaluation, Path], model: Path, corpus: Corpus, tmp_path: Path
) -> None:
    out = tmp_path / "begun"
    shutil.copytree(done[1], out)
    journal = out / "captions.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:9]))
    torch.set_num_threads(2)
    evaluate(model, corpus, out=out, batch_size=4, seed=3, shuffle=True, steps=2)
    assert torch.get_num_threads() == 2
    assert contents(out) == contents(done[1])


def test_an_unfinished_folder_is_not_an_evaluation(done: tuple[Evaluation, Path], tmp_path: Path) -> None:
    shutil.copytree(done[1], tmp_path / "half")
    (tmp_path / "half" / "evaluation.json").unlink()
    with pytest.raises(InputError, match=r"evaluation\.json: no such file"):
        load_evaluation(tmp_path / "half")


def test_a_photo_that_cannot_be_read_stops_the_evaluation_by_name(
    model: Path, photo_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(photo_folder, tmp_path / "corpus")
    (tmp_path / "corpus" / "7.png").write_bytes(b"no photo")
    with pytest.raises(InputError, match=r"photo 107: .*7\.png is not an image"):
        evaluate(model, open_corpus("folder", tmp_path / "corpus"), steps=1)


@pytest.mark.parametrize(
    ("settings", "message"), [({"limit": 0}, "limit=0"), ({"batch_size": 0}, "batch_size=0")]
)
def test_impossible_settings_are_refused(
    model: Path, corpus: Corpus, settings: dict[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(model, corpus, **settings)  # type: ignore[arg-type]


def test_candidates_are_kept_and_described(model: Path, corpus: Corpus) -> None:
    found = evaluate(model, corpus, limit=4, candidates=3, select="confidence", steps=2)
    assert all(len(one.candidates) == 3 and one.caption in one.candidates for one in found.captions)
    assert 0 <= found.scored.diversity["candidates"]["self_cider"] <= 1
    assert (found.manifest["candidates"], found.manifest["select"]) == (3, "confidence")


@given(count=st.integers(2, 200), seed=st.integers(0, 1000))
def test_no_photo_keeps_its_own_references(count: int, seed: int) -> None:
    places = derangement(count, seed)
    assert sorted(places) == list(range(count))
    assert all(place != own for own, place in enumerate(places))


def test_captions_that_depend_on_the_photo_lose_their_score_when_shuffled() -> None:
    animals = ["dog", "cat", "horse", "cow", "sheep", "bird", "bear", "zebra", "giraffe", "elephant"]
    places = ["grass", "sand", "snow", "water", "stone"]
    photos = {f"{a} {p}": f"a {a} stands on the {p}" for a in animals for p in places}
    references = {photo: [text, f"the {text[2:]} today"] for photo, text in photos.items()}
    true = score_captions(photos, references).scores.corpus["CIDEr-D"]
    assert shuffled_scores(photos, references)["CIDEr-D"] < true / 2
    constant = dict.fromkeys(photos, "a dog stands on the grass")
    blind = score_captions(constant, references).scores.corpus["CIDEr-D"]
    assert shuffled_scores(constant, references)["CIDEr-D"] == pytest.approx(blind)
    with pytest.raises(InputError, match="two or more"):
        shuffled_scores({"a": "a dog"}, {"a": ["a dog"]})


def test_distinct_captions_are_counted_as_words_not_as_text() -> None:
    said = score_captions(
        {"a": "A dog.", "b": "a dog", "c": "a cat"}, {key: ["a dog"] for key in "abc"}
    ).diversity
    assert (said["distinct"], said["vocabulary"], said["length"]["mean"]) == (2, 3, 2.0)
    assert np.isclose(said["distinct_share"], 2 / 3)
