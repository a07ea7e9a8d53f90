"""The report: a whole page that needs no network, true charts, true pictures."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from clearcap.data import Corpus, to_square
from clearcap.errors import InputError
from clearcap.evaluation import Evaluation, evaluate
from clearcap.evaluation.charts import ticks
from clearcap.evaluation.contact_sheet import HEAD, MARGIN, SIDE
from clearcap.evaluation.report import by_confidence, by_length, render, write_report
from clearcap.evaluation.training import plot_training, read_run, smoothed

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
VOID = {"meta", "link", "img"}


@pytest.fixture(scope="module")
def found(model: Path, corpus: Corpus) -> Evaluation:
    return evaluate(model, corpus, batch_size=8, shuffle=True, steps=2, seed=3)


@pytest.fixture(scope="module")
def page(found: Evaluation, corpus: Corpus) -> str:
    return render(found, corpus)


class Outline(HTMLParser):
    """Checks that every tag is closed in its turn; notes addresses and words."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_is_whole_and_needs_no_network(page: str, found: Evaluation) -> None:
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    assert outline.addresses
    assert all(address.startswith("data:") for address in outline.addresses)
    assert "url(" not in page
    assert "@import" not in page
    said = " ".join(outline.words)
    for heading in ("Best photos", "Worst photos", "Photos at random", "How scores are distributed"):
        assert heading in said
    assert repr(found.scored.scores.corpus["CIDEr-D"]) in said  # unrounded in the manifest
    assert found.manifest["model_sha256"] in said
    for text in found.references[found.ranked()[0]]:
        assert text in said


def test_every_chart_is_well_formed_and_inside_its_frame(page: str) -> None:
    charts = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(charts) == 7
    for chart in charts:
        tree = ElementTree.fromstring(chart)
        _, _, width, height = map(float, tree.attrib["viewBox"].split())
        for element in tree.iter():
            for name in ("x", "x1", "x2", "cx"):
                assert 0 <= float(element.attrib.get(name, 0)) <= width
            for name in ("y", "y1", "y2", "cy"):
                assert 0 <= float(element.attrib.get(name, 0)) <= height


def test_captions_cannot_break_the_page(found: Evaluation, corpus: Corpus) -> None:
    evil = '</p><script>alert("x")</script>'
    captions = tuple(dataclasses.replace(one, caption=evil) for one in found.captions)
    page = render(dataclasses.replace(found, captions=captions), corpus)
    assert "<script" not in page
    Outline().feed(page)


def test_curves_stand_for_every_photo_once(found: Evaluation) -> None:
    mean = found.scored.scores.corpus["CIDEr-D"]
    for points in (by_length(found), by_confidence(found)):
        assert sum(point.photos for point in points) == len(found.captions)
        assert sum(point.photos * point.mean for point in points) / len(found.captions) == pytest.approx(mean)
        assert [point.x for point in points] == sorted(point.x for point in points)
    assert all(point.photos >= 5 for point in by_length(found))


def test_photos_are_ranked_by_their_score(found: Evaluation) -> None:
    scores = [found.scored.scores.per_caption["CIDEr-D"][photo] for photo in found.ranked()]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > scores[-1]


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0, 0.037), (3, 28), (0, 1000), (0, 0), (0, 3e-15), (0.3, 0.31)]
)
def test_ticks_are_round_and_cover(low: float, high: float) -> None:
    marks = ticks(low, high)
    assert marks[0] <= low
    assert marks[-1] >= high
    steps = np.diff(marks)
    assert np.allclose(steps, steps[0])
    assert 2 <= len(marks) <= 8


def test_the_contact_sheet_shows_the_best_photo_first(
    found: Evaluation, corpus: Corpus, tmp_path: Path
) -> None:
    written = write_report(found, corpus, tmp_path)
    assert [path.name for path in written] == ["report.html", "contact_sheet.png"]
    sheet = np.asarray(Image.open(tmp_path / "contact_sheet.png"))
    top = MARGIN + 54 + HEAD
    shown = sheet[top : top + SIDE - 40, MARGIN : MARGIN + SIDE]  # above the score's chip
    best = to_square(corpus[found.ranked()[0]].image.open(at_least=SIDE), SIDE)
    np.testing.assert_array_equal(shown, best[: SIDE - 40])


def test_a_report_of_one_photo(model: Path, corpus: Corpus, tmp_path: Path) -> None:
    write_report(evaluate(model, corpus, limit=1, steps=1), corpus, tmp_path)
    Outline().feed((tmp_path / "report.html").read_text())


def test_the_training_run_is_drawn(tmp_path: Path) -> None:
    curves = tmp_path / "curves.jsonl"
    lines = [
        {"step": step, "latent": 9 / step, "caption": 3 / step, "lr": 1e-3, "seconds": step % 40}
        for step in [*range(1, 60), *range(50, 80)]  # killed at 59, resumed from 49
    ]
    curves.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [one["step"] for one in read_run(curves, ("latent",))] == list(range(1, 80))
    plot_training(curves, tmp_path / "alone.png")
    sample = {
        "step": 40,
        "scores": {"CIDEr-D": 0.1, "BLEU-4": 0.02, "distinct": 0.5},
        "captions": {"a.jpg": "a $dog"},
    }
    (tmp_path / "samples.jsonl").write_text(json.dumps(sample) + "\n")
    plot_training(curves, tmp_path / "both.png")
    alone, both = (Image.open(tmp_path / name).size for name in ("alone.png", "both.png"))
    assert both[1] > alone[1]  # scores and captions have a row each
    curves.write_text('{"step": 1, "latent": "x", "caption": 1, "lr": 1}\n')
    with pytest.raises(InputError, match=r"line 1: 'latent' is of type str; it must be a number"):
        plot_training(curves, tmp_path / "bad.png")
    curves.write_text("")
    with pytest.raises(InputError, match="holds no step"):
        plot_training(curves, tmp_path / "bad.png")


def test_smoothing_equals_a_moving_mean() -> None:
    values = np.random.default_rng(0).normal(size=500)
    expected = np.convolve(values, np.ones(11) / 11, "valid")
    assert np.allclose(smoothed(values.tolist())[5:-5], expected)
    assert np.allclose(smoothed([2.0] * 30), 2.0)


def test_the_page_renders_in_a_browser_without_errors(page: str, tmp_path: Path) -> None:
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no headless browser found ({', '.join(BROWSERS)}); install one to render the report")
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--log-level=0",
    ]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND"]
    shot = tmp_path / "shot.png"
    address = (tmp_path / "report.html").as_uri()
    seen = subprocess.run(
        [*command, "--window-size=1100,1500", f"--screenshot={shot}", address],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "CONSOLE" not in seen.stderr
    pixels = np.asarray(Image.open(shot).convert("RGB")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 500  # photos and charts, not an empty page
    series = (np.abs(pixels.astype(int) - (42, 120, 214)).max(1) < 3).sum()
    assert series > 500  # bars in the colour of the light theme
