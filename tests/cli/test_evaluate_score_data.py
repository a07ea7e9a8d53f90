"""The commands evaluate, score and data as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from commands import clearcap
from PIL import Image
from tiny_captioner import CAPTIONS, save_tiny_captioner


def lines(path: Path, records: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_tiny_captioner(tmp_path_factory.mktemp("run") / "model")
    run = [{"step": step, "latent": 1.0, "caption": 1.0, "lr": 0.1} for step in (1, 2, 3)]
    lines(folder.parent / "curves.jsonl", run)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    root.mkdir()
    rng = np.random.default_rng(0)
    records: list[dict[str, object]] = []
    for n in range(6):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(root / f"{n}.png")
        records.append({"image_id": n, "file_name": f"{n}.png", "captions": [CAPTIONS[n % 4], "a ball ."]})
    lines(root / "captions.jsonl", records)
    return root


def test_json_is_one_object_that_a_report_and_a_comparison_agree_with(
    model: Path, folder: Path, tmp_path: Path
) -> None:
    common = ["evaluate", "--model", model, "--data", f"folder:{folder}", "--steps", 2, "--json"]
    done = clearcap(*common, "--report", tmp_path / "a", "--shuffle-photos")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D", "shuffled", "intervals"} <= set(
        found
    )
    assert found["manifest"]["photos"] == 6
    assert found["manifest"]["steps"] == 2
    for name in ("report.html", "contact_sheet.png", "training.png", "results.json", "evaluation.json"):
        assert (tmp_path / "a" / name).is_file(), name
    assert json.loads((tmp_path / "a" / "evaluation.json").read_text()) == found

    scored = clearcap("score", tmp_path / "a" / "results.json", tmp_path / "a" / "references.json", "--json")
    again = json.loads(scored.stdout)
    assert all(again[name] == found[name] for name in ("BLEU-4", "ROUGE-L", "CIDEr-D"))

    assert clearcap(*common, "--out", tmp_path / "b", "--seed", 1).returncode == 0
    compared = clearcap("evaluate", "--compare", tmp_path / "a", tmp_path / "b", "--json")
    rows = json.loads(compared.stdout)
    other = json.loads((tmp_path / "b" / "evaluation.json").read_text())
    assert rows["CIDEr-D"]["difference"] == pytest.approx(found["CIDEr-D"] - other["CIDEr-D"])
    assert 0 < rows["BLEU-4"]["p_permutation"] <= 1


def test_a_table_goes_to_standard_output_and_progress_does_not(model: Path, folder: Path) -> None:
    done = clearcap("evaluate", "--model", model, "--data", f"folder:{folder}", "--limit", 2)
    assert done.returncode == 0, done.stderr
    assert "CIDEr-D" in done.stdout
    assert "2 photos" in done.stdout
    assert "captioning ━" not in done.stdout


def test_a_bad_corpus_is_one_line_before_any_model_is_loaded(folder: Path) -> None:
    command = ["evaluate", "--model", "/no/such/model", "--data", f"folder:{folder}"]
    good = (folder / "captions.jsonl").read_text()
    first = json.loads(good.splitlines()[0])

    def refused(message: str, *more: str) -> None:
        done = clearcap(*command, *more)
        assert done.returncode == 1
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1
        assert message in done.stderr
        assert "/no/such/model" not in done.stderr

    (folder / "captions.jsonl").write_text(good[: len(good) // 2 - 5])
    refused("breaks off")
    (folder / "captions.jsonl").write_text(good + json.dumps(first) + "\n")
    refused("listed twice")
    (folder / "captions.jsonl").write_text(good + json.dumps(first | {"image_id": 9, "captions": [3]}) + "\n")
    refused("type int")
    (folder / "captions.jsonl").write_text(good)
    (folder / "3.png").unlink()
    refused("3.png")
    lines(folder / "captions_train.jsonl", [first])
    lines(folder / "captions_dev.jsonl", [first])
    command[-1] += ":dev"
    refused("also in the train split")


def test_evaluations_of_different_subsets_are_compared_on_the_photos_of_both(
    model: Path, folder: Path, tmp_path: Path
) -> None:
    common = ["evaluate", "--model", model, "--data", f"folder:{folder}", "--steps", 2]
    for name, limit, seed in (("four", 4, 0), ("six", 6, 1), ("again", 4, 1)):
        done = clearcap(
            *common, "--limit", limit, "--seed", seed, "--out", tmp_path / name, "--batch-size", 2
        )
        assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in (tmp_path / "six" / "captions.jsonl").read_text().splitlines()]
    good = [record | {"caption": CAPTIONS[n] if n < 4 else "nothing"} for n, record in enumerate(told)]
    lines(tmp_path / "six" / "captions.jsonl", good)
    mixed = clearcap("evaluate", "--compare", tmp_path / "four", tmp_path / "six", "--json")
    assert mixed.returncode == 0, mixed.stderr
    assert len(mixed.stderr.splitlines()) == 1
    assert "2 photos (4, 5) left out" in mixed.stderr
    rows = json.loads(mixed.stdout)
    assert (rows["photos"], rows["left_out"]) == (4, 2)
    same = clearcap("evaluate", "--compare", tmp_path / "four", tmp_path / "again", "--json")
    assert (json.loads(same.stdout)["left_out"], same.stderr) == (0, "")
    assert rows["BLEU-1"]["B"] == pytest.approx(1)  # "nothing" is left out
    assert rows["BLEU-1"]["A"] == json.loads((tmp_path / "four" / "evaluation.json").read_text())["BLEU-1"]

    records = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    lines(folder / "captions.jsonl", [record | {"image_id": record["image_id"] + 10} for record in records])
    other = clearcap(*common, "--limit", 2, "--out", tmp_path / "other")
    assert other.returncode == 0, other.stderr
    lines(folder / "captions.jsonl", [record | {"captions": ["a ball ."]} for record in records])
    assert clearcap(*common, "--limit", 2, "--out", tmp_path / "reworded").returncode == 0
    for name in ("other", "reworded"):
        refused = clearcap("evaluate", "--compare", tmp_path / "four", tmp_path / name)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "have other photos or references; evaluate on the same split" in refused.stderr


def test_folders_of_texts_and_tables_are_evaluated(model: Path, folder: Path, tmp_path: Path) -> None:
    records = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    (folder / "captions.jsonl").unlink()
    rows = [(record["file_name"], caption) for record in records for caption in record["captions"]]
    (folder / "metadata.csv").write_text(
        "file_name,text\n" + "".join(f'{name},"{text}"\n' for name, text in rows)
    )
    common = ["evaluate", "--model", model, "--data", f"folder:{folder}", "--steps", 1, "--json"]
    table = clearcap(*common, "--out", tmp_path / "out")
    assert table.returncode == 0, table.stderr
    (folder / "metadata.csv").unlink()
    for record in records:
        (folder / record["file_name"]).with_suffix(".txt").write_text("\n".join(record["captions"]))
    texts = clearcap(*common)
    assert texts.returncode == 0, texts.stderr
    assert json.loads(texts.stdout) == json.loads(table.stdout)
    journal = tmp_path / "out" / "captions.jsonl"
    lines(tmp_path / "references.jsonl", [{"file_name": name, "text": text} for name, text in rows])
    scored = clearcap("score", journal, tmp_path / "references.jsonl", "--json")
    assert json.loads(scored.stdout)["CIDEr-D"] == json.loads(table.stdout)["CIDEr-D"]


def test_a_folder_that_is_no_evaluation_cannot_be_compared(tmp_path: Path) -> None:
    done = clearcap("evaluate", "--compare", tmp_path, tmp_path)
    assert done.returncode == 1
    assert "evaluation.json: no such file" in done.stderr


def test_score_compares_two_result_files(tmp_path: Path) -> None:
    words = ["dog", "cat", "horse", "cow", "sheep", "bird", "bear", "zebra"]
    records = [
        {"image_id": n, "captions": [f"a {word} on the grass", f"one {word}"]} for n, word in enumerate(words)
    ]
    references = lines(tmp_path / "references.jsonl", records)
    good = [{"image_id": n, "caption": f"a {word} on the grass"} for n, word in enumerate(words)]
    (tmp_path / "good.json").write_text(json.dumps(good))
    (tmp_path / "bad.json").write_text(json.dumps([record | {"caption": "a car"} for record in good]))
    done = clearcap("score", tmp_path / "good.json", references, "--compare", tmp_path / "bad.json", "--json")
    row = json.loads(done.stdout)["CIDEr-D"]
    assert row["difference"] > 0
    assert row["p_permutation"] < 0.05
    assert row["interval"][0] > 0
    table = clearcap("score", tmp_path / "good.json", references, "--metrics", "BLEU")
    assert "BLEU-4" in table.stdout
    assert "CIDEr-D" not in table.stdout


def test_score_refuses_what_does_not_match(tmp_path: Path) -> None:
    references = lines(tmp_path / "references.jsonl", [{"image_id": n, "caption": "a dog"} for n in range(3)])
    results = lines(tmp_path / "results.jsonl", [{"image_id": n, "caption": "a dog"} for n in range(2)])
    done = clearcap("score", results, references, "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert "1 photo (2)" in done.stderr
    part = json.loads(clearcap("score", results, references, "--json", "--subset").stdout)
    assert part["photos"] == 2
    unknown = clearcap("score", results, references, "--subset", "--metrics", "BLUE")
    assert unknown.returncode == 1
    assert "unknown metric 'BLUE'" in unknown.stderr


def test_data_check_and_stats(folder: Path, tmp_path: Path) -> None:
    good = clearcap("data", "check", f"folder:{folder}")
    assert good.returncode == 0, good.stderr
    assert "6 photos, 12 captions" in good.stdout
    figures = json.loads(
        clearcap("data", "stats", f"folder:{folder}", "--json", "--picture", tmp_path / "s.png").stdout
    )
    assert (figures["photos"], figures["captions"]) == (6, 12)
    assert Image.open(tmp_path / "s.png").width > 500
    (folder / "2.png").write_bytes(b"no photo")
    bad = clearcap("data", "check", f"folder:{folder}:all", "--json")
    assert bad.returncode == 1
    found = json.loads(bad.stdout)
    assert not found["ok"]
    assert "2.png" in found["splits"][0]["unreadable"][0]


def test_a_corpus_named_in_parts_is_understood_with_a_warning(model: Path, folder: Path) -> None:
    for old, new in (
        (["data", "stats", "folder", folder, "--split", "all"], ["data", "stats", f"folder:{folder}:all"]),
        (["data", "check", "folder", folder], ["data", "check", f"folder:{folder}"]),
        (
            [
                "evaluate",
                "--model",
                model,
                "--limit",
                2,
                "--data",
                "folder",
                "--root",
                folder,
                "--split",
                "all",
            ],
            ["evaluate", "--model", model, "--limit", 2, "--data", f"folder:{folder}:all"],
        ),
    ):
        before, after = clearcap(*old, "--json"), clearcap(*new, "--json")
        assert before.returncode == after.returncode == 0, before.stderr
        assert before.stdout == after.stdout
        assert [line for line in before.stderr.splitlines() if "deprecated" in line] == [
            "clearcap: naming a corpus, its folder and its split apart is deprecated; pass NAME:ROOT:SPLIT"
        ]
        assert "deprecated" not in after.stderr
    nameless = clearcap("evaluate", "--model", model)
    assert nameless.stderr == (
        "clearcap: no --data; pass the corpus as NAME:ROOT:SPLIT, as in --data flickr8k:DIR:dev\n"
    )
    rootless = clearcap("evaluate", "--model", model, "--data", "flickr8k")
    assert rootless.stderr == (
        "clearcap: corpus 'flickr8k' is not of the form NAME:ROOT:SPLIT, such as flickr8k:DIR:dev\n"
    )
    assert nameless.returncode == rootless.returncode == 1
