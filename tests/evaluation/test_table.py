"""Tables of sampling settings: the cells are what evaluations give, draws are shared, killed runs go on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_captioner import CAPTIONS

from clearcap.captioner.folder import FREQUENCY
from clearcap.data import Corpus
from clearcap.errors import InputError
from clearcap.evaluation import evaluate
from clearcap.evaluation.journal import read_journal
from clearcap.evaluation.samples import Batch, calls_of
from clearcap.evaluation.systems import sample_systems
from clearcap.evaluation.table import MethodTable, describe_back, refine_sweep, steps_table
from clearcap.metrics import DocumentFrequency
from clearcap.pipeline import CaptionPipeline
from tests.commands import clearcap, kill_when, started

STEPS = (1, 3)
VARIED = {"guidance": 0.0}  # at which the tiny captioner says most different things


@pytest.fixture(scope="module")
def made(
    model: Path, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory
) -> tuple[MethodTable, Path, list[tuple[int, int, str]]]:
    """A table of two numbers of steps, its folder, and what its progress said."""
    out = tmp_path_factory.mktemp("table")
    said: list[tuple[int, int, str]] = []
    found = steps_table(
        model,
        corpus,
        steps=STEPS,
        candidates=4,
        out=out,
        batch_size=5,
        seed=2,
        progress=lambda *now: said.append(now),
        **VARIED,
    )
    return found, out, said


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("plain", {}),
        ("Back&Refine", {"refine": 1}),
        ("MBR of 4", {"candidates": 4}),
        ("both", {"candidates": 4, "refine": 1}),
    ],
)
def test_each_cell_is_what_an_evaluation_of_that_setting_gives(
    made: tuple[MethodTable, Path, list[tuple[int, int, str]]],
    model: Path,
    corpus: Corpus,
    name: str,
    how: dict[str, int],
) -> None:
    for steps in STEPS:
        expected = evaluate(model, corpus, batch_size=5, seed=2, steps=steps, **VARIED, **how)
        row = next(
            row for row in made[0].rows if (row.method.name, row.method.sampling.steps) == (name, steps)
        )
        for metric in ("BLEU-1", "BLEU-4", "CIDEr-D"):
            assert row.scored.scores.per_caption[metric] == expected.scored.scores.per_caption[metric]
        for figure in ("distinct", "vocabulary", "length"):
            assert row.scored.diversity[figure] == expected.scored.diversity[figure]
        assert row.ms > made[0].encode_ms > 0
        assert (row.against_plain is None) == (name == "plain")


def test_a_caption_drawn_alone_is_the_first_candidate(
    made: tuple[MethodTable, Path, list[tuple[int, int, str]]], corpus: Corpus
) -> None:
    found, out, _ = made
    assert (found.compared, found.differing) == (len(corpus) * 2 * len(STEPS), 0)
    batches = read_journal(out / "steps3-x4.jsonl", Batch)
    assert [photo for batch in batches for photo in batch.photos] == [photo.id for photo in corpus]
    assert all(len(captions) == 4 for batch in batches for captions in batch.candidates)
    assert len({caption for batch in batches for captions in batch.candidates for caption in captions}) > 4


def test_the_files_tell_the_same(made: tuple[MethodTable, Path, list[tuple[int, int, str]]]) -> None:
    found, out, said = made
    assert json.loads((out / "table.json").read_text()) == json.loads(json.dumps(found.to_json()))
    assert (out / "table.png").read_bytes().startswith(b"\x89PNG")
    assert said[-1][0] == said[-1][1]
    assert [now[0] for now in said] == sorted(now[0] for now in said)


def test_another_utility_chooses_anew_among_the_same_draws(
    made: tuple[MethodTable, Path, list[tuple[int, int, str]]], model: Path, corpus: Corpus
) -> None:
    found, out, _ = made
    before = {file.name: file.stat().st_mtime_ns for file in out.glob("*.jsonl")}
    by_cider = steps_table(
        model, corpus, steps=STEPS, candidates=4, out=out, batch_size=5, seed=2, utility="cider", **VARIED
    )
    assert {file.name: file.stat().st_mtime_ns for file in out.glob("*.jsonl")} == before
    expected = evaluate(model, corpus, batch_size=5, seed=2, steps=3, candidates=4, utility="cider", **VARIED)
    assert by_cider.rows[6].method.name == "MBR of 4"
    per_caption = by_cider.rows[6].scored.scores.per_caption
    assert per_caption["BLEU-1"] == expected.scored.scores.per_caption["BLEU-1"]
    assert per_caption != found.rows[6].scored.scores.per_caption
    with pytest.raises(InputError, match="seed 2, not 3"):
        steps_table(model, corpus, steps=STEPS, candidates=4, out=out, batch_size=5, seed=3, **VARIED)
    assert found.rows[0].scored.scores.corpus == by_cider.rows[0].scored.scores.corpus


def test_the_sweep_tries_each_setting_against_plain(model: Path, corpus: Corpus, tmp_path: Path) -> None:
    found = refine_sweep(
        model,
        corpus,
        steps=(4,),
        times=(0.2, 0.8),
        shares=(0.5,),
        thresholds=(0.1,),
        levels=(0.0, 0.5),
        out=tmp_path,
        **VARIED,
    )
    assert [row.method.name for row in found.rows] == [
        "plain",
        "t=0.2T keep 0.5L",
        "t=0.2T keep 0.5L at 0.5T",
        "t=0.2T keep p>=0.1",
        "t=0.2T keep p>=0.1 at 0.5T",
        "t=0.8T keep 0.5L",
        "t=0.8T keep 0.5L at 0.5T",
        "t=0.8T keep p>=0.1",
        "t=0.8T keep p>=0.1 at 0.5T",
    ]
    expected = evaluate(model, corpus, steps=4, refine=1, refine_time=0.8, refine_threshold=0.1, **VARIED)
    assert found.rows[7].scored.scores.per_caption["BLEU-1"] == expected.scored.scores.per_caption["BLEU-1"]
    assert len({row.scored.scores.corpus["BLEU-1"] for row in found.rows}) > 2
    assert (tmp_path / "sweep.png").is_file()


def test_back_and_refine_costs_the_calls_it_is_said_to(model: Path) -> None:
    base = CaptionPipeline.from_pretrained(model).captioner.defaults
    assert calls_of(replace(base, steps=10), 1000) == 10
    assert calls_of(replace(base, steps=10, refine=1, refine_time=0.5), 1000) == 10 + 6
    assert calls_of(replace(base, steps=1, refine=2), 1000) == 3
    assert describe_back(replace(base, refine=1)) == "t=0.5T keep 0.5L"


def test_a_killed_table_goes_on_to_the_same_captions(model: Path, photo_folder: Path, tmp_path: Path) -> None:
    command = ["table", "--model", str(model), "--data", f"folder:{photo_folder}"]
    command += ["--batch-size", "2", "--steps", "30", "--candidates", "3"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = started([*command, "--out", str(killed)], tmp_path / "killed.log")
    file = killed / "steps30-x3.jsonl"
    kill_when(process, lambda: file.is_file() and file.read_bytes().count(b"\n") >= 2)
    kept = file.read_bytes()
    assert not (killed / "table.json").exists()
    file.write_bytes(kept + b'{"photos": ["10')  # what a crash of the machine may leave
    found = []
    for out in (killed, whole):
        done = clearcap(*command, "--out", out, "--json")
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
    assert file.read_bytes().startswith(kept)
    for a, b in zip(found[0]["rows"], found[1]["rows"], strict=True):
        a.pop("ms_per_photo")
        b.pop("ms_per_photo")
        assert a == b


def test_the_command_prints_a_table_and_takes_settings(model: Path, photo_folder: Path) -> None:
    command = ["table", "--model", model, "--data", f"folder:{photo_folder}"]
    command += ["--limit", "4", "--steps", "1,2", "--candidates", "2"]
    done = clearcap(*command, "guidance=0", "utility=cider")
    assert done.returncode == 0, done.stderr
    for word in ("Back&Refine", "MBR of 2", "both", "CIDEr-D - plain", "16 of 16"):
        assert word in done.stdout
    for wrong, message in (
        (["guidence=0"], "unknown setting 'guidence'"),
        (["--steps", "1,two"], "--steps '1,two'"),
        (["--steps", "2,2"], "name one number twice"),
    ):
        refused = clearcap(*command, *wrong)
        assert refused.returncode == 1
        assert len(refused.stderr.splitlines()) == 1
        assert message in refused.stderr


def test_a_saved_document_frequency_is_what_cider_utility_counts_by(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "model")
    assert CaptionPipeline.from_pretrained(model).frequency is None
    frequency = DocumentFrequency.of([[text, "a dog ."] for text in CAPTIONS]).pruned()
    assert 1 not in frequency.counts.values()
    frequency.save(tmp_path / "model" / FREQUENCY)
    pipeline = CaptionPipeline.from_pretrained(tmp_path / "model")
    assert pipeline.frequency == frequency
    captions = ["a dog", "a dog", "red river", "brown river"]  # every photo has a dog
    trust = [[0.5]] * 4
    how = pipeline.sampling(select="mbr", utility="cider")
    flat = CaptionPipeline.from_pretrained(model).choose(captions, trust, how)
    assert (flat, pipeline.choose(captions, trust, how)) == (0, 2)


def test_lengths_that_studies_ask_for_are_kept_to_the_word(
    model: Path, corpus: Corpus, tmp_path: Path
) -> None:
    asked = {"five": {"length": 5, **VARIED}, "seven": {"length": 7, **VARIED}, "own": VARIED}
    found = sample_systems(model, corpus, asked, out=tmp_path, batch_size=5)
    words = {name: {len(text.split()) for text in one.captions.values()} for name, one in found.items()}
    assert (words["five"], words["seven"]) == ({5}, {7})
    table = steps_table(model, corpus, steps=(2,), candidates=1, batch_size=5, length=6, **VARIED)
    assert {row.scored.diversity["length"]["mean"] for row in table.rows} == {6.0}
