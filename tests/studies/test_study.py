"""Studies of three tiny runs: killed and resumed as never killed; verdicts; the files that ship."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_captioner import CAPTIONS, save_tiny_captioner

from clearcap.cli.study import study as study_command
from clearcap.config import Preset
from clearcap.errors import InputError
from clearcap.evaluation.looking import METRIC
from clearcap.studies.picture import draw
from clearcap.studies.run import Scale, preset_of, run_study, sampling_of
from clearcap.studies.study import load_study, studies
from clearcap.studies.verdict import conclusion_of, verdict_of
from tests.commands import clearcap, kill_when, started

STUDY = """
asks = "Does more training help?"
paper = "None, Table 0"
base = "tiny.toml"
minutes = 1
against = "short"
decides = "CIDEr-D"
metrics = ["grammar-errors"]
figure = "{figure}"
further = true

[[runs]]
name = "short"
settings.train.steps = 4
paper = {{ CIDEr-D = 0.1 }}
[[runs]]
name = "refined"
settings.train.steps = 4
settings.sampling = {{ refine = 1 }}
[[runs]]
name = "long"
settings.train.steps = 8
paper = {{ CIDEr-D = 0.2 }}
[[runs]]
name = "twin"
settings.train.steps = 4
beams = 2

[[claims]]
says = "more steps score higher"
of = "long"
than = "short"
[[claims]]
says = "more steps end at a lower caption loss"
of = "short"
than = "long"
metric = "caption loss"
[[claims]]
says = "more steps take no longer"
of = "long"
than = "short"
kind = "as good"
margin = 9.0
metric = "ms"
"""
TINY = """
[text]
source = "{model}"
split = 1
length = 16
[vision]
source = "{model}"
tokens = 4
dim = 16
image_size = 64
[denoiser]
width = 32
depth = 2
heads = 2
hidden = 48
[sampling]
steps = 2
[train]
photos = 3
copies = 2
warmup = 2
log_every = 1
save_every = 4
[data]
views = 1
"""
SAME = ("results.json", "table.md", "picture.png", "further.png")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study, the preset beside it, a captioner that lends its text space and encoder, and photos in two splits."""
    desk = tmp_path_factory.mktemp("desk")
    save_tiny_captioner(desk / "model")
    (desk / "tiny.toml").write_text(TINY.format(model=desk / "model"))
    (desk / "study.toml").write_text(STUDY.format(figure="losses"))
    (desk / "photos").mkdir()
    rng = np.random.default_rng(0)
    for split, numbers in (("train", range(5)), ("val", range(5, 9))):
        lines = []
        for number in numbers:
            small = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
            Image.fromarray(small).resize((64, 64)).save(desk / "photos" / f"{number}.png")
            captions = [CAPTIONS[number % 4], CAPTIONS[(number + 1) % 4]]
            lines.append(json.dumps({"file_name": f"{number}.png", "captions": captions}) + "\n")
        (desk / "photos" / f"captions_{split}.jsonl").write_text("".join(lines))
    return desk


def scale(desk: Path) -> Scale:
    return Scale((f"folder:{desk / 'photos'}:train", f"folder:{desk / 'photos'}:val"), batch_size=2)


@pytest.fixture(scope="module")
def whole(desk: Path) -> tuple[dict, list[str]]:
    """What a study found that was not killed, and what it told."""
    told: list[str] = []
    return run_study(load_study(str(desk / "study.toml")), scale(desk), desk / "whole", told.append), told


def test_a_killed_study_ends_as_one_never_killed(desk: Path, whole: tuple[dict, list[str]]) -> None:
    """Killed in a later training than the first captions, which are cut short as by a crash of the machine."""
    study, (found, told) = load_study(str(desk / "study.toml")), whole
    assert sum(line.startswith("training") for line in told) == 6  # refined shares short's models
    words = ["study", str(desk / "study.toml"), "--batch-size", "2", "--out", str(desk / "killed")]
    for corpus in scale(desk).data:
        words += ["--data", corpus]
    killed = desk / "killed"
    process = started(words, desk / "killed.log")
    kill_when(process, lambda: len(list(killed.glob("models/*/checkpoint"))) >= 3)
    assert not (killed / "results.json").exists()
    (journal,) = killed.glob("captions/*/short.jsonl")
    journal.write_bytes(journal.read_bytes()[:-9])
    told.clear()
    again = run_study(study, scale(desk), killed, told.append)
    assert 0 < sum(line.startswith("training") for line in told) < 5  # the rest was done
    for name in SAME:
        assert (killed / name).read_bytes() == (desk / "whole" / name).read_bytes(), name
    assert again == found
    with pytest.raises(InputError, match=r"scale\.limit"):
        run_study(study, dataclasses.replace(scale(desk), limit=3), killed)


def test_studies_that_share_a_cache_train_a_model_once(desk: Path, whole: tuple[dict, list[str]]) -> None:
    (desk / "other.toml").write_text(STUDY.format(figure="bars"))
    told: list[str] = []
    other = load_study(str(desk / "other.toml"))
    found = run_study(other, scale(desk), desk / "other", told.append, cache=desk / "whole")
    assert not [line for line in told if line.startswith("training")]
    assert found["runs"] == whole[0]["runs"]


def test_what_a_study_says(desk: Path, whole: tuple[dict, list[str]]) -> None:
    out, (results, _) = desk / "whole", whole
    short, refined, long, twin = results["runs"]
    for row in results["runs"]:
        one = row["scores"]["CIDEr-D"]
        assert one["interval"][0] <= one["score"] <= one["interval"][1]
        assert np.isclose(one["score"], np.mean(one["seeds"]))
        assert len(one["seeds"]) == 2
        assert row["scores"]["grammar-errors"]["score"] == np.mean(row["scores"]["grammar-errors"]["seeds"])
    assert "against" not in short
    assert set(long["against"]) >= {"BLEU-4", "CIDEr-D"}
    assert refined["calls"] > short["calls"]
    assert [one["latent loss"] for one in twin["losses"]] == [0.0, 0.0]
    assert twin["calls"] == 15
    assert np.mean([one["caption loss"] for one in long["losses"]]) < short["losses"][0]["caption loss"]
    further = results["further"]
    assert set(further["noise"][1]) == {"diffusion", "twin, beam 2"}
    assert further["fill"][0]["references"] == 4
    assert len(further["position_errors"]["twin"]) == 2
    claims = {one["says"]: one for one in results["claims"]}
    assert claims["more steps end at a lower caption loss"]["verdict"] == "confirmed"
    difference = long["scores"]["CIDEr-D"]["score"] - short["scores"]["CIDEr-D"]["score"]
    assert np.isclose(claims["more steps score higher"]["difference"], difference)
    table = (out / "table.md").read_text()
    assert "| short | 0.1 |" in table
    assert "| more steps take no longer | in times.json |" in table
    assert results["conclusion"] in table
    times = json.loads((out / "times.json").read_text())
    assert times["claims"][0]["verdict"] == "confirmed"
    assert len(times["ms_per_photo"]["long"]) == 2
    assert set(times["by_length"][1]["twin, beam 2"]) == {"6", "9", "12", "15"}
    assert "ms_per_photo" not in (out / "results.json").read_text()


@pytest.mark.parametrize("figure", ["bars", "line"])
def test_pictures_of_other_manners(
    desk: Path, whole: tuple[dict, list[str]], tmp_path: Path, figure: str
) -> None:
    study = dataclasses.replace(load_study(str(desk / "study.toml")), figure=figure)
    draw(study, whole[0], {}, tmp_path / "a.png")
    changed = json.loads(json.dumps(whole[0]))
    changed["runs"][2]["scores"]["CIDEr-D"]["score"] += 0.5
    changed["runs"][2]["scores"]["CIDEr-D"]["interval"][1] += 0.5
    draw(study, changed, {}, tmp_path / "b.png")
    a, b = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in "ab")
    assert a.shape == b.shape
    assert (a != b).any()
    one = changed["runs"][0]["scores"]["CIDEr-D"]
    one["interval"] = [float(np.nextafter(one["score"], 9)), one["score"]]  # of values that are all alike
    for row in changed["runs"]:  # a paper that gives no figures has no empty plot beside ours
        row["paper"] = {}
    draw(study, changed, {}, tmp_path / "alone.png")
    assert np.asarray(Image.open(tmp_path / "alone.png")).shape[1] < 0.8 * a.shape[1]


def test_a_study_that_trains_nothing_samples_one_captioner(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (
        STUDY.format(figure="line").replace('base = "tiny.toml"', "").replace("settings.train.steps = 4", "")
    )
    lines = lines.replace("settings.train.steps = 8", "settings.sampling = { steps = 4 }")
    lines = lines.replace("further = true", "").replace("beams = 2", "settings.sampling = { steps = 3 }")
    kept = lines.index('[[claims]]\nsays = "more steps end')
    (desk / "sampling.toml").write_text(lines[:kept])
    study_command(
        str(desk / "sampling.toml"),
        ["guidance=0"],
        data=[f"folder:{desk / 'photos'}:val"],
        out=desk / "sampled",
        model=str(desk / "model"),
        as_json=True,
    )
    found = json.loads(capsys.readouterr().out)
    assert [row["calls"] for row in found["runs"]] == [6, 6 + 4, 4, 3]  # six steps of its own, and back
    assert found == json.loads((desk / "sampled" / "results.json").read_text())
    assert found["measured"]["overrides"] == ["guidance=0"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('against = "short"', 'against = "none"', "none of its runs"),
        ('of = "long"', 'of = "longer"', "'longer', none of its runs"),
        ("minutes = 1", "seeds = [3]\nminutes = 1", "show no spread"),
        ('asks = "Does more training help?"', "", "has no 'asks'"),
        ('kind = "as good"', 'kind = "better"', "choose one of higher, as good"),
        ('base = "tiny.toml"', "", "sets train, but nothing is trained"),
        ("settings.train.steps = 8", "setings.train.steps = 24", "unknown setting 'setings'"),
    ],
)
def test_a_study_that_cannot_be_run_is_one_line(
    desk: Path, tmp_path: Path, old: str, new: str, said: str
) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(STUDY.format(figure="bars").replace(old, new))
    with pytest.raises(InputError, match=said):
        load_study(str(file))


def test_corpora_must_be_those_that_a_study_needs(desk: Path, tmp_path: Path) -> None:
    study = load_study(str(desk / "study.toml"))
    train, val = scale(desk).data
    for data, said in (((), "no --data"), ((val,), "then --data with what is captioned")):
        with pytest.raises(InputError, match=said):
            run_study(study, Scale(data), tmp_path)
    with pytest.raises(InputError, match="trains nothing"):
        run_study(load_study("ladic-steps"), Scale((train, val)), tmp_path)


@pytest.mark.parametrize(
    ("of", "than", "low", "high", "kind", "margin", "verdict"),
    [
        ([3.0, 4.0], [1.0, 2.0], 0.5, 2.0, "higher", 0.0, "confirmed"),
        ([3.0, 4.0], [1.0, 2.0], -0.5, 2.0, "higher", 0.0, "cannot be told"),  # photos are not sure
        ([1.5, 4.0], [1.0, 2.0], 0.5, 2.0, "higher", 0.0, "cannot be told"),  # seeds are not
        ([1.0, 2.0], [3.0, 4.0], -2.0, -0.5, "higher", 0.0, "not confirmed"),
        ([1.0, 3.5], [3.0, 4.0], -2.0, -0.5, "higher", 0.0, "cannot be told"),
        ([1.0, 1.0], [1.05, 1.0], -0.05, 0.05, "as good", 0.1, "confirmed"),
        ([1.0, 1.0], [1.05, 1.0], -0.15, 0.05, "as good", 0.1, "cannot be told"),
        ([0.8, 0.7], [1.0, 1.0], -0.3, -0.15, "as good", 0.1, "not confirmed"),
        (
            [0.95, 0.95],
            [1.0, 1.0],
            -0.07,
            -0.03,
            "as good",
            0.1,
            "confirmed",
        ),  # worse, but by less than counts
    ],
)
def test_verdicts(
    of: list[float], than: list[float], low: float, high: float, kind: str, margin: float, verdict: str
) -> None:
    assert verdict_of(of, than, low, high, kind, margin) == verdict


def test_the_conclusion_is_written_from_the_figures() -> None:
    decided = [
        {"says": "a", "metric": "BLEU-4", "difference": 0.1, "interval": [0.05, 0.15], "p_permutation": 0.002,
         "verdict": "confirmed"},
        {"says": "b", "metric": "caption loss", "difference": -0.2, "interval": None, "verdict": "cannot be told"},
    ]  # fmt: skip
    text = conclusion_of(load_study("ladic-layers"), decided, "nine photos")
    assert text == (
        "2 claims of LaDiC, Table 6, measured on nine photos: 1 confirmed, 0 not confirmed, 1 cannot be told. "
        "Confirmed: a (BLEU-4 +0.100, +0.050 to +0.150, p = 0.002). "
        "Cannot be told: b (caption loss -0.200, every seed against every seed)."
    )


@pytest.mark.parametrize("name", studies())
def test_every_study_that_ships_has_settings_that_fit(name: str, tmp_path: Path) -> None:
    study = load_study(name)
    asked = Scale(("folder:a:train", "folder:b:train", "folder:a:dev"))
    made = [
        preset_of(study, run, 0, asked, tmp_path) if study.trains else sampling_of(study, run, asked)
        for run in study.runs
    ]
    plain = [dataclasses.asdict(one) if isinstance(one, Preset) else one for one in made]
    kinds = [
        json.dumps([run.beams, run.reading, one], sort_keys=True)
        for run, one in zip(study.runs, plain, strict=True)
    ]
    assert len(set(kinds)) == len(kinds)  # no two runs are the same
    assert study.about()["minutes"] > 0
    assert study.decides in ("BLEU-4", "CIDEr-D", METRIC)


def test_the_list_names_what_ships() -> None:
    done = clearcap("study", "list", "--json")
    found = json.loads(done.stdout)
    assert [one["name"] for one in found] == studies()
    assert all(one["runs"] >= 4 and one["asks"].endswith("?") and one["paper"] for one in found)
