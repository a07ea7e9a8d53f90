"""The rating page in a real browser: three raters, a server killed in between, and what their answers come to."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clearcap.errors import InputError
from clearcap.evaluation.rating.answers import ANSWERS, Answers
from clearcap.evaluation.rating.plan import SCALES, make_plan, open_plan
from clearcap.evaluation.rating.report import report_of
from clearcap.metrics.agreement import correlations, krippendorff_alpha
from tests.commands import clearcap

RATERS = ("ada", "Béla O'Neill", "cy")
SYSTEMS = {
    "diffusion": ["a dog runs", "two men sit", "a cat sleeps", "a boy jumps"],
    "beam": ["a dog runs on grass", "two men sit", "a red car", "a boy"],
    "echo": ["dog dog dog", "men", "a cat cat", "a a boy"],
}


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """Four photos, and captions of them by three systems, two of which say the same of one photo."""
    rows = []
    for n in range(4):
        Image.new("RGB", (90, 60), (60 * n, 90, 120)).save(tmp_path / f"{n}.png")
        rows.append(json.dumps({"file_name": f"{n}.png", "captions": ["a photo"]}))
    (tmp_path / "captions.jsonl").write_text("\n".join(rows) + "\n")
    for name, captions in SYSTEMS.items():
        results = [{"image_id": f"{n}.png", "caption": said} for n, said in enumerate(captions)]
        (tmp_path / f"{name}.json").write_text(json.dumps(results))
    return tmp_path


def opinion(rater: str, text: str, scale: str) -> int:
    """What a simulated rater says of a caption: mostly by its words, a little by who is asked."""
    words = text.split()
    value = {
        "fluency": 5 - 2 * (len(words) - len(set(words))),
        "accuracy": min(5, 1 + len(set(words))),
        "conciseness": 6 - len(words),
    }[scale]
    return min(5, max(1, value - (RATERS.index(rater) == 2 and len(text) % 2)))


class Served:
    """``clearcap rate`` in a process of its own, which may be killed, always at the same port."""

    def __init__(self, out: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.out, self.process = out, None

    def start(self, *words: str) -> str:
        command = [sys.executable, "-m", "clearcap", "rate", "--out", str(self.out), "--port", str(self.port)]
        self.process: Any = subprocess.Popen([*command, *words], stdout=subprocess.PIPE, text=True)
        address = self.process.stdout.readline().strip()
        assert address == f"http://127.0.0.1:{self.port}/"
        return address

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process.stdout.close()
            self.process = None


@pytest.fixture
def served(desk: Path) -> Iterator[Served]:
    server = Served(desk / "rating")
    yield server
    server.kill()


def begin(page: Any, address: str, rater: str) -> None:
    page.goto(address)
    page.get_by_label("Your name").fill(rater)
    page.get_by_role("button", name="Begin").click()
    page.locator("#rating").wait_for()


def rate(page: Any, rater: str, captions: slice = slice(None)) -> None:
    """Answer everything about some captions of the photo that is shown."""
    for box in page.locator(".caption").all()[captions]:
        text = box.locator("p").inner_text()
        for scale in SCALES:
            group = box.get_by_role("group", name=scale.capitalize())
            group.get_by_role("radio", name=str(opinion(rater, text, scale)), exact=True).check()


def test_answers_of_three_raters_survive_a_killed_server(desk: Path, served: Served) -> None:
    pytest.importorskip("playwright", reason="needs playwright")
    if not (shutil.which("chromium") or shutil.which("chromium-browser")):
        pytest.skip("needs a chromium (apt-get install chromium)")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe").Axe
    from playwright.sync_api import expect

    from benchmarks.demo import browsed

    words = [word for name in SYSTEMS for word in ("--system", f"{name}={desk / name}.json")]
    address = served.start("--data", f"folder:{desk}:all", *words)
    plan, orders = open_plan(served.out), []
    assert sorted(item.systems for item in plan.items if len(item.systems) > 1) == [("diffusion", "beam")]
    with browsed(address) as page:
        heard: list[str] = []
        page.on("response", lambda reply: heard.append(reply.url))
        for rater in RATERS:
            begin(page, address, rater)
            expect(page.locator("#where")).to_have_text("Photo 1 of 4; 0 rated")
            orders.append([box.inner_text() for box in page.locator(".caption p").all()])
            if rater == RATERS[0]:
                assert not axe().run(page).response["violations"]
            rate(page, rater)
            page.get_by_role("button", name="Next").click()
            rate(page, rater, slice(0, 1))
            expect(page.locator("#kept")).to_have_text("All answers are kept")
            if rater != RATERS[1]:
                rate(page, rater)
            else:  # the machine is switched off with an answer half written, and answers go on meanwhile
                served.kill()
                with (served.out / ANSWERS).open("ab") as file:
                    file.write(b'{"rater": "ada", "it')
                rate(page, rater)
                expect(page.locator("#kept")).to_contain_text("not kept yet")
                served.start()
                expect(page.locator("#kept")).to_have_text("All answers are kept")
                begin(page, address, rater)  # who comes back goes on at the first photo that is not rated
                expect(page.locator("#where")).to_have_text("Photo 3 of 4; 2 rated")
                page.get_by_role("button", name="Back").click()
                assert page.get_by_role("radio", checked=True).count() == 3 * page.locator(".caption").count()
            for _ in range(2):
                page.get_by_role("button", name="Next").click()
                rate(page, rater)
            expect(page.locator("#where")).to_have_text("All 4 photos are rated. Thank you!")
            expect(page.locator("#kept")).to_have_text("All answers are kept")
        assert len({tuple(order) for order in orders}) > 1  # raters see other orders
        told = page.evaluate("fetch('/plan?rater=ada').then((reply) => reply.text())")
        assert not any(name in told + page.content() for name in SYSTEMS)
        assert all(url.startswith((address, "data:")) for url in heard)
    served.kill()
    wanted = {
        (rater, n, scale): opinion(rater, item.caption, scale)
        for rater in RATERS
        for n, item in enumerate(plan.items)
        for scale in SCALES
    }
    assert Answers(served.out, len(plan.items)).held == wanted
    done = clearcap("rate", "report", "--out", served.out, "--json")
    found = json.loads(done.stdout)
    assert found == json.loads((served.out / "report.json").read_text())
    krippendorff = pytest.importorskip("krippendorff", reason="needs krippendorff")
    for scale in SCALES:
        said = [[opinion(rater, item.caption, scale) for item in plan.items] for rater in RATERS]
        for level in ("ordinal", "interval"):
            theirs = krippendorff.alpha(said, level_of_measurement=level)
            assert found["scales"][scale]["alpha"][level] == pytest.approx(theirs, abs=1e-12)
        for name, captions in SYSTEMS.items():
            one = found["scales"][scale]["systems"][name]
            mine = [[opinion(rater, text, scale) for text in captions] for rater in RATERS]
            assert one["mean"] == pytest.approx(np.mean(mine))
            assert one["interval"][0] <= one["mean"] <= one["interval"][1]
            assert one["raters"] == pytest.approx(dict(zip(RATERS, np.mean(mine, 1), strict=True)))
    with Image.open(served.out / "report.png") as picture:
        assert picture.size > (500, 200)
    assert "| beam minus diffusion |" in (served.out / "report.md").read_text()


def test_what_is_no_answer_is_refused_and_half_of_one_is_dropped(desk: Path, served: Served) -> None:
    words = [word for name in SYSTEMS for word in ("--system", f"{name}={desk / name}.json")]
    address = served.start("--data", f"folder:{desk}:all", *words, "--photos", "2")

    def sent(body: bytes, kind: str = "application/json", path: str = "answers") -> tuple[int, dict]:
        request = urllib.request.Request(address + path, body, {"Content-Type": kind})
        try:
            with urllib.request.urlopen(request) as reply:
                return reply.status, json.loads(reply.read())
        except urllib.error.HTTPError as fault:
            return fault.code, json.loads(fault.read())

    good = {"rater": "ada", "item": 0, "scale": "fluency", "value": 4}
    assert sent(json.dumps(good).encode()) == (200, {"kept": 1})
    assert sent(json.dumps(good | {"value": 2}).encode()) == (200, {"kept": 1})  # she changed her mind
    for change in (
        {"item": 99},
        {"item": True},
        {"scale": "beauty"},
        {"value": 6},
        {"value": 2.5},
        {"rater": " "},
    ):
        status, told = sent(json.dumps(good | change).encode())
        assert status == 422
        assert next(iter(change)) in told["fault"]
    assert sent(b"[1, 2]")[0] == sent(b"{")[0] == sent(b"\xff")[0] == 422
    assert sent(json.dumps(good).encode(), "text/plain")[0] == sent(b"{}", path="other")[0] == 404
    assert sent(b" " * 10_001)[0] == 413
    for path, status in (("photos/2.jpg", 404), ("photos/../plan.json", 404), ("plan?rater=", 422)):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(address + path)
        assert refused.value.code == status
    served.kill()
    answers = Answers(served.out, 99)
    assert answers.held == {("ada", 0, "fluency"): 2}
    with (served.out / ANSWERS).open("a") as file:
        file.write('{"rater": "ada", "item": 0, "scale": "fluency", "value": 9}\n')
    with pytest.raises(InputError, match=r"answers.jsonl.*value=9"):
        Answers(served.out, 99)


def test_a_rating_that_cannot_be_made_is_one_line(desk: Path) -> None:
    out = desk / "rating"
    for words, said in (
        ([], "no --data"),
        (["--data", f"folder:{desk}:all"], "0 systems leave nothing to compare"),
        (["--data", f"folder:{desk}:all", "--system", "beam"], "not of the form NAME=FILE"),
        (["--data", f"folder:{desk}:all", "--system", f"a={desk}/a.json", "--system", "b=c"], "a.json"),
        (["report"], "begin a rating there"),
    ):
        at = ["report", "--out", out] if words == ["report"] else ["--out", out, *words]
        done = clearcap("rate", *at)
        assert done.returncode == 1
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
    assert not out.exists()
    from clearcap.data.corpus import open_spec

    photos = open_spec(f"folder:{desk}:all", expected=None).photos
    plan = make_plan(photos, {name: desk / f"{name}.json" for name in SYSTEMS}, out, count=9, seed=0)
    with pytest.raises(InputError, match="nobody has answered yet"):
        report_of(plan, {})
    done = clearcap("rate", "--out", out, "--data", f"folder:{desk}:all")
    assert "holds a rating" in done.stderr


def test_agreement_is_that_of_the_package() -> None:
    krippendorff = pytest.importorskip("krippendorff", reason="needs krippendorff")
    rng = np.random.default_rng(0)
    for raters, units, missing in ((2, 12, 0.0), (3, 40, 0.3), (6, 25, 0.5)):
        values = rng.integers(1, 6, (raters, units)).astype(float)
        values[1] = np.clip(values[0] + rng.integers(-1, 2, units), 1, 5)
        values[rng.random(values.shape) < missing] = np.nan
        for level in ("ordinal", "interval"):
            theirs = krippendorff.alpha(values, level_of_measurement=level)
            assert krippendorff_alpha(values, level) == pytest.approx(theirs, abs=1e-12)
    assert krippendorff_alpha(np.full((2, 3), 4.0)) is None
    assert krippendorff_alpha(np.array([[1.0, np.nan], [np.nan, 2.0]])) is None
    with pytest.raises(InputError, match="nominal"):
        krippendorff_alpha(np.eye(2), "nominal")


def test_correlations_of_a_pair() -> None:
    a, b = np.array([1.0, 2, 3, 4, np.nan, 5]), np.array([2.0, 1, 4, 3, 1, 9])
    pearson, spearman, units = correlations(a, b)
    assert units == 5
    assert pearson == pytest.approx(np.corrcoef([1, 2, 3, 4, 5], [2, 1, 4, 3, 9])[0, 1])
    assert spearman == pytest.approx(1 - 6 * 4 / (5 * 24))  # the formula without ties: four differences of 1
    tied = correlations(np.array([1.0, 1, 2, 2]), np.array([1.0, 2, 3, 3]))[1]
    assert tied == pytest.approx(np.corrcoef([1.5, 1.5, 3.5, 3.5], [1, 2, 3.5, 3.5])[0, 1])
    assert correlations(np.ones(3), np.arange(3.0))[:2] == (None, None)


def test_some_answers_are_enough_for_a_report(desk: Path) -> None:
    from clearcap.data.corpus import open_spec

    photos = open_spec(f"folder:{desk}:all", expected=None).photos
    plan = make_plan(photos, {name: desk / f"{name}.json" for name in SYSTEMS}, desk / "r", count=3, seed=1)
    assert open_plan(desk / "r") == plan
    assert os.listdir(desk / "r" / "photos")
    first = next(n for n, item in enumerate(plan.items) if "echo" in item.systems)
    found = report_of(plan, {("ada", first, "fluency"): 3})
    echo = found["scales"]["fluency"]["systems"]["echo"]
    assert (echo["mean"], echo["interval"], echo["photos"]) == (3.0, [3.0, 3.0], 1)
    assert found["scales"]["accuracy"]["systems"]["echo"]["mean"] is None
    assert found["scales"]["fluency"]["alpha"]["ordinal"] is None
