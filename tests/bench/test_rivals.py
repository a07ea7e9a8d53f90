"""``python -m benchmarks.rivals`` with tiny networks: exact lengths, counted operations, ratios, chart, JSON."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import clearcap
from PIL import Image
from tiny_captioner import tiny_captioner
from torch import nn
from torch.nn import functional as F
from transformers import BlipConfig, GitConfig

from benchmarks.baselines import baselines, blip, git
from benchmarks.baselines import write as write_baseline
from benchmarks.chart import plot, save_chart
from benchmarks.comparison import Comparison, compare, summarise
from benchmarks.evaluations import Quality, read_quality
from benchmarks.ratios import growth, ratios
from benchmarks.rivals import integers, write_comparison
from benchmarks.systems import captioner_of_size, name_of, systems_of
from benchmarks.systems import write as write_system
from benchmarks.tables import ratios_table, settings_table, times_table
from benchmarks.timing import Setting, System, Timing, find, measure, operations_of, plan
from clearcap.errors import InputError

SIDE = 64
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 16,
}
TEXT = {
    "vocab_size": 120,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}


@pytest.fixture(scope="module")
def tiny_blip() -> Any:
    text = {**TEXT, "encoder_hidden_size": 16, "bos_token_id": 118, "sep_token_id": 102}
    return blip(BlipConfig(text_config=text, vision_config={**VISION, "initializer_range": 0.02}))


@pytest.fixture(scope="module")
def tiny_git() -> Any:
    return git(GitConfig(**TEXT, vision_config=VISION))


@pytest.fixture(scope="module")
def tiny_ours() -> Any:
    captioner, _ = tiny_captioner()
    return copy.deepcopy(captioner).requires_grad_(False)  # the cached one is trained by other tests


@pytest.fixture(scope="module")
def systems(tiny_blip: Any, tiny_git: Any, tiny_ours: Any) -> list[System]:
    ways = ((1, 0.0), (2, 0.0), (2, 1.0))
    return [
        *systems_of("bundled", tiny_ours, ways),
        *baselines("BLIP-base", tiny_blip),
        *baselines("GIT-base", tiny_git),
    ]


@pytest.fixture(scope="module")
def found(systems: list[System]) -> Comparison:
    """A whole comparison of tiny networks."""
    lengths, batches, candidates = (3, 8), (1, 2), (1, 3)
    timings = measure(
        systems,
        lengths,
        batches=batches,
        candidates=candidates,
        words=3,
        rounds=2,
        side=SIDE,
        at_least=0.0001,
        matrix=64,
    )
    quality = Quality("dev", "2 steps", 0.3, 0.2, 0.4, 0.05)
    return summarise(timings, dtype="float32", device=torch.device("cpu"), words=3, qualities=[quality])


def photos(count: int) -> torch.Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("which", ["blip", "git"])
@pytest.mark.parametrize(("beams", "candidates"), [(1, 1), (3, 1), (1, 4)])
@pytest.mark.parametrize("tokens", [2, 7, 19])
def test_baselines_write_exactly_so_many_tokens(
    request: pytest.FixtureRequest, which: str, beams: int, candidates: int, tokens: int
) -> None:
    model = request.getfixturevalue(f"tiny_{which}")
    ids = write_baseline(model, photos(2), tokens, beams=beams, candidates=candidates)
    assert ids.shape == (2 * candidates, tokens)
    assert not (ids == 102).any()  # the end token of both


@pytest.mark.parametrize("which", ["blip", "git"])
def test_baselines_would_end_by_themselves_if_they_could(
    request: pytest.FixtureRequest, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exact length is forced, not luck: with the end token most probable, captions still go on."""
    model = request.getfixturevalue(f"tiny_{which}")
    head = model.text_decoder.cls.predictions.decoder if which == "blip" else model.output
    bias = head.bias.data.clone()
    try:
        head.bias.data[102] = 1e4
        unforced = model.generate(
            pixel_values=photos(1),
            max_new_tokens=9,
            **({} if which == "blip" else {"input_ids": torch.tensor([[101]])}),
        )
        assert unforced.shape[1] == 2
        assert write_baseline(model, photos(1), 9).shape == (1, 9)
    finally:
        head.bias.data.copy_(bias)


@pytest.mark.parametrize("tokens", [3, 8])
def test_ours_writes_so_many_positions(tiny_ours: Any, tokens: int) -> None:
    ids = write_system(tiny_ours, photos(2), tokens, steps=2, guidance=1.0, candidates=3)
    assert ids.shape == (6, tokens)


def test_bundled_size_is_the_bundled_models_but_longer() -> None:
    captioner = captioner_of_size("bundled", 48)
    assert captioner.denoiser.position.shape == (50, 256)
    assert not any(p.requires_grad for p in captioner.parameters())
    ids = write_system(captioner, torch.rand(1, 3, 224, 224), 48, steps=1, guidance=0.0)
    assert ids.shape == (1, 48)


def test_bundled_size_writes_captions_shorter_than_it_tells() -> None:
    captioner = captioner_of_size("bundled", 12)
    assert captioner.defaults.length > 4
    ids = write_system(captioner, torch.rand(1, 3, 224, 224), 4, steps=1, guidance=0.0, candidates=6)
    assert ids.shape == (6, 4)
    assert not torch.isin(ids, torch.tensor(captioner.text.special_ids)).any()


def test_operations_of_a_linear_layer_are_the_closed_form() -> None:
    layer = nn.Linear(5, 7).requires_grad_(False)
    with torch.inference_mode():
        assert operations_of(lambda: layer(torch.ones(3, 5))) == 2 * 3 * 5 * 7


def test_operations_of_attention_count_both_products_on_a_cpu() -> None:
    q, k = torch.randn(2, 4, 6, 8), torch.randn(2, 4, 10, 8)
    with torch.inference_mode():
        counted = operations_of(lambda: F.scaled_dot_product_attention(q, k, k))
    assert counted == 2 * (2 * 2 * 4 * 6 * 10 * 8)


def test_operations_of_a_vision_tower_are_the_closed_form(tiny_blip: Any) -> None:
    """Patches, four projections, two attention products and the MLP: 16 patches and a class token."""
    n, d, h, side = 17, 16, 24, 16
    with torch.inference_mode():
        counted = operations_of(lambda: tiny_blip.vision_model(photos(1)))
    assert counted == 2 * (16 * d * 3 * side * side + 4 * n * d * d + 2 * n * n * d + 2 * n * d * h)


def test_a_step_more_costs_a_fixed_number_of_operations(tiny_ours: Any) -> None:
    def counted(steps: int, guidance: float) -> float:
        return operations_of(lambda: write_system(tiny_ours, photos(1), 8, steps=steps, guidance=guidance))

    plain = counted(2, 0.0) - counted(1, 0.0)
    assert plain > 0
    assert counted(5, 0.0) - counted(1, 0.0) == 4 * plain
    assert counted(2, 1.0) - counted(1, 1.0) == 2 * plain  # the second branch


def test_plan_asks_each_system_once(systems: list[System]) -> None:
    entries = plan(systems, [16, 8], [1, 8], [1, 3], words=16)
    keys = [(system.name, setting) for system, setting in entries]
    assert len(set(keys)) == len(keys)
    assert {setting for name, setting in keys if name == "bundled, 1 step"} == {Setting(8), Setting(16)}
    blip3 = {setting for name, setting in keys if name == "BLIP-base, beam 3"}
    assert blip3 == {Setting(8), Setting(16), Setting(16, batch=8)}
    greedy = {setting for name, setting in keys if name == "BLIP-base, greedy"}
    assert greedy == {*blip3, Setting(16, candidates=3)}


def test_measure_runs_the_rounds_in_turn() -> None:
    """Interleaved: nobody runs twice before all have run once."""
    order: list[str] = []

    def writer(name: str) -> Any:
        def write(photos: torch.Tensor, tokens: int, candidates: int) -> torch.Tensor:
            order.append(name)
            return torch.zeros(len(photos), tokens)

        return write

    seen: list[tuple[int, int, str]] = []
    timings = measure(
        [System("a", "x", writer("a")), System("b", "x", writer("b"))],
        [4],
        rounds=2,
        side=8,
        at_least=1e-9,
        matrix=64,
        progress=lambda *state: seen.append(state),
    )
    assert order == ["a", "b"] * 3  # counted, then two rounds
    assert [len(t.rounds) for t in timings] == [2, 2]
    assert seen[-1] == (6, 6, "done")


def timing(system: str, setting: Setting, *rounds: float) -> Timing:
    return Timing(system, system.split(",")[0], setting, rounds, 2.0, (10.0,) * len(rounds))


def test_ratios_are_ratios_of_medians_with_their_range() -> None:
    mine, theirs = name_of("bundled", 2, 0.0), "BLIP-base, beam 3"
    timings = [
        timing(mine, Setting(8), 1.0, 1.0, 4.0),
        timing(mine, Setting(16), 1.0, 2.0, 2.0),
        timing(mine, Setting(48), 1.5, 1.7, 2.0),
        timing(theirs, Setting(8), 2.0, 2.0, 2.0),
        timing(theirs, Setting(16), 3.0, 3.0, 3.0),
        timing(theirs, Setting(48), 4.0, 6.0, 8.0),
    ]
    flat, grows, ahead = ratios(timings)
    assert (flat.measured, flat.low, flat.high) == (1.7, 0.5, 1.7)
    assert (flat.sign, flat.asked, flat.holds) == ("<=", 1.6, False)
    assert (grows.measured, grows.sign, grows.asked, grows.holds) == (3.0, ">=", 3.0, True)
    assert (ahead.measured, ahead.sign, ahead.holds) == (1.5, ">", True)
    assert growth(timings[:1], mine) is None  # one length grows nowhere


def test_timing_gives_median_and_share() -> None:
    one = timing("x", Setting(8), 0.5, 0.2, 0.4)
    assert one.seconds == 0.4
    assert math.isclose(one.share, 2.0 / 0.4 / 10.0)
    assert math.isclose(one.to_json()["photos_per_second"], 2.5)
    assert find([one], "x", Setting(8)) is one
    assert find([one], "x", Setting(9)) is None


def test_json_holds_every_setting(found: Comparison, tmp_path: Path) -> None:
    picture, numbers = write_comparison(found, tmp_path / "new" / "folder")
    content = json.loads(numbers.read_text())
    assert set(content) == {"machine", "words", "timings", "ratios", "evaluations", "notes"}
    assert {row["system"] for row in content["timings"]} == {
        "bundled, 1 step",
        "bundled, 2 steps",
        "bundled, 2 steps, guided",
        "BLIP-base, greedy",
        "BLIP-base, beam 3",
        "GIT-base, greedy",
        "GIT-base, beam 3",
    }
    for row in content["timings"]:
        assert len(row["rounds"]) == 2
        assert min(row["seconds"], row["gflop"], row["gflops"], row["share"], row["photos_per_second"]) > 0
    assert [ratio["sign"] for ratio in content["ratios"]] == ["<=", ">=", ">=", ">", ">"]
    assert content["machine"]["dtype"] == "float32"
    with Image.open(picture) as image:
        image.verify()
        assert image.format == "PNG"


def test_picture_names_every_line(found: Comparison, tmp_path: Path) -> None:
    figure = plot(found)
    length, batch, candidates, quality = figure.axes
    assert {t.get_text() for t in length.texts} == {t.system for t in found.timings}
    assert [label.get_text() for label in length.get_xticklabels()] == ["3", "8"]
    assert {t.get_text() for t in batch.texts} == {
        "bundled, 2 steps",
        "BLIP-base, greedy",
        "BLIP-base, beam 3",
    }
    assert {t.get_text() for t in candidates.texts} == {"bundled, 2 steps", "BLIP-base, greedy"}
    assert [t.get_text() for t in quality.texts] == ["2 steps"]
    save_chart(dataclasses.replace(found, qualities=()), tmp_path / "plain.png")
    with Image.open(tmp_path / "plain.png") as image:
        assert image.width > image.height > 500


def test_tables_have_a_line_for_each_system_setting_and_ratio(found: Comparison) -> None:
    assert times_table(found).row_count == 7
    assert settings_table(found).row_count == 3 + 3 + 2  # bundled, BLIP greedy, BLIP beam
    assert ratios_table(found).row_count == 5


def test_quality_is_read_from_an_evaluations_folder(tmp_path: Path) -> None:
    manifest = {"steps": 5, "guidance": 1.5, "candidates": 10, "sampling": {"refine": 1}}
    evaluation = {"CIDEr-D": 0.33, "intervals": {"CIDEr-D": [0.3, 0.36]}, "manifest": manifest}
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    (tmp_path / "timing.json").write_text(json.dumps({"seconds": 20.0, "photos": 100}))
    quality = read_quality(tmp_path)
    assert quality.label == "5 steps, guidance 1.5, Back&Refine, MBR of 10"
    assert (quality.cider, quality.low, quality.high, quality.seconds) == (0.33, 0.3, 0.36, 0.2)
    with pytest.raises(InputError, match="clearcap evaluate --out"):
        read_quality(tmp_path / "absent")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dtype": "float8"}, "choose one of float32, bfloat16"),
        ({"sizes": ["huge"]}, "choose among bundled, paper"),
        ({"lengths": [1]}, "lengths 1,16 must be at least 2"),
        ({"lengths": [1000]}, "at most 480"),
        ({"rounds": 0}, "repeats 0 must be at least 1"),
        ({"batches": []}, "batches  must be at least 1"),
    ],
)
def test_wrong_settings_are_one_clear_error(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare(**wrong)


def test_numbers_come_from_a_comma_list() -> None:
    assert integers("lengths", "8, 16") == [8, 16]
    with pytest.raises(InputError, match="--lengths 'a,b'"):
        integers("lengths", "a,b")


def test_the_old_command_says_where_it_went() -> None:
    done = clearcap("bench", "rivals", "--lengths", "8,48")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "clearcap: bench rivals has moved: run python -m benchmarks.rivals from a checkout of the repository\n"
    )
