"""The page in a real browser: every control used as a person does, on a real photo."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("gradio", reason="needs the extra demo")
pytest.importorskip("playwright", reason="needs playwright")
if not (shutil.which("chromium") or shutil.which("chromium-browser")):
    pytest.skip("needs a chromium (apt-get install chromium)", allow_module_level=True)

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from benchmarks.demo import WAIT, bad_files, browsed, caption_shown, fault_shown, page_served, show_photo
from clearcap import CaptionPipeline
from clearcap.cli.demo import example_photos
from tests.commands import clearcap
from tests.tiny_captioner import tiny_captioner

expect.set_options(timeout=WAIT)
PHOTO = example_photos(None)[0]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A second model."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    captioner, tokenizer = tiny_captioner()
    captioner.tokenizer = tokenizer
    captioner.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def session(tiny: str) -> Iterator[Any]:
    """The page, open; what was asked of the network is in ``asked``."""
    with page_served("--model", "default", "--model", tiny) as address, browsed(address) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.reload()
        page.get_by_role("tab", name="One photo").wait_for()
        page.asked = asked
        yield page


@pytest.fixture
def page(session: Any) -> Any:
    """The first tab with the photo captioned by the settings as they come."""
    session.get_by_role("tab", name="One photo").click()
    for name, value in {"Length": 0, "Steps": 2, "Candidates": 6, "Diversity": 0, "Seed": 0}.items():
        slide(session, name, value)
    show_photo(session, PHOTO)
    shown_by(session, PHOTO.name)
    return session


def slide(page: Any, name: str, value: int) -> None:
    """Write a number into a slider's box."""
    page.get_by_label(f"number input for {name}", exact=True).fill(str(value))
    page.keyboard.press("Tab")


def shown_by(page: Any, command: str) -> str:
    """The caption, once the page shows it with the command that gives it."""
    expect(page.locator("#command code")).to_contain_text(command)
    expect(page.locator("#caption .cc-growing")).to_have_count(0)
    page.wait_for_timeout(500)  # the parts of the page are drawn one after another
    return caption_shown(page)


def choose(page: Any, place: int) -> str:
    """Click a word, and wait until the page shows it."""
    word = page.locator("#caption button.cc-word").nth(place)
    spelt = str(word.get_attribute("data-spelt"))
    word.click()
    page.locator(f"#look img[alt*='“{spelt}”']").wait_for()
    return spelt


def test_sliders_do_what_the_command_line_does_which_the_page_names(page: Any) -> None:
    for name, value in {"Length": 7, "Steps": 3, "Candidates": 4, "Diversity": 2, "Seed": 5}.items():
        slide(page, name, value)
    page.get_by_role("button", name="Caption again").click()
    said = shown_by(page, "--diverse 2")
    program, *words = shlex.split(page.locator("#command code").inner_text())
    assert program == "clearcap"
    assert words == shlex.split(
        f"caption {PHOTO.name} --steps 3 --candidates 4 --length 7 --seed 5 --diverse 2"
    )
    plain = [str(PHOTO) if word == PHOTO.name else word for word in words]
    different = clearcap(*plain).stdout.splitlines()
    assert page.locator("#candidates .cc-different li").all_inner_texts() == different
    pipeline = CaptionPipeline.from_pretrained(backend="fast")
    result = pipeline(PHOTO, steps=3, candidates=4, length=7, seed=5)
    assert said == " ".join(word for word, _ in result.words)
    chosen = page.locator("#candidates .chosen p").inner_text()
    assert chosen.startswith(result.caption)
    assert chosen.endswith("chosen")
    assert "surest of its words" in page.locator("#candidates .cc-note").inner_text()
    steps = page.locator("#steps li")
    assert [text.split("\n")[0] for text in steps.all_inner_texts()] == [
        "noise",
        "step 1",
        "step 2",
        "step 3",
    ]
    assert steps.last.locator("p").inner_text().split() == said.split()
    assert steps.first.locator("p").inner_text().split() != said.split()


def test_a_word_shows_where_it_looks_and_the_rest_is_written_around_it(page: Any) -> None:
    words = page.locator("#caption button.cc-word")
    words.first.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # by the keyboard alone
    page.locator("#look img[alt*='“man”']").wait_for()
    assert re.search(r"(top|middle|bottom|centre)", page.locator("#look figcaption").inner_text())
    page.get_by_role("button", name="Lock", exact=True).click()
    page.get_by_role("button", name="Unlock").wait_for()
    said = caption_shown(page).split()
    place = said.index("suit")
    choose(page, place)
    page.get_by_role("button", name="Forbid").click()
    page.get_by_role("button", name="Allow").wait_for()
    page.get_by_role("button", name="Rewrite the rest").click()
    new = shown_by(page, "clearcap fill").split()
    assert len(new) == len(said)
    assert new[1] == "man"
    assert "suit" not in new
    _, command, _, *rest = shlex.split(page.locator("#command code").inner_text())
    assert clearcap(command, PHOTO, *rest).stdout.split() == new


def test_an_alternative_or_a_word_of_ones_own_takes_a_words_place(page: Any) -> None:
    choose(page, 1)
    other = page.locator("#alternatives button").first
    text = str(other.get_attribute("data-alternative"))
    other.click()
    page.locator("#caption button.locked.given").wait_for()
    assert caption_shown(page).split()[1] == text
    own = page.get_by_label("Or your own word")
    own.fill("old woman")
    page.get_by_role("button", name="Replace", exact=True).click()
    page.locator("#caption button.cc-word[data-spelt=old]").wait_for()
    assert caption_shown(page).split()[1:3] == ["old", "woman"]
    own.fill("🦄")
    page.get_by_role("button", name="Replace", exact=True).click()
    assert "no word" in fault_shown(page)
    assert caption_shown(page).split()[1:3] == ["old", "woman"]


def test_photos_are_dropped_pasted_taken_and_chosen_among_examples(page: Any) -> None:
    clear = page.locator(".cc-photo").get_by_label("Remove Image")

    def emptied() -> None:
        clear.first.click()
        page.locator("#caption button.cc-word").first.wait_for(state="detached")

    emptied()
    page.evaluate(
        """async () => {
            const canvas = new OffscreenCanvas(64, 64);
            canvas.getContext('2d').fillRect(8, 8, 40, 40);
            window.picture = await canvas.convertToBlob({type: 'image/png'});
            const files = new DataTransfer();
            files.items.add(new File([window.picture], 'dropped.png', {type: 'image/png'}));
            const zone = document.querySelector('.cc-photo input[type=file]').parentElement;
            zone.dispatchEvent(new DragEvent('drop', {dataTransfer: files, bubbles: true, cancelable: true}));
        }"""
    )
    assert shown_by(page, "dropped.png")
    emptied()
    page.evaluate("navigator.clipboard.write([new ClipboardItem({'image/png': window.picture})])")
    page.locator(".cc-photo").get_by_label("Paste from clipboard").click()
    assert caption_shown(page)
    emptied()
    page.locator(".cc-photo").get_by_label("Capture from camera").click()
    page.locator(".cc-photo").get_by_text("Click to Access Webcam").click()
    page.wait_for_function("document.querySelector('.cc-photo video')?.readyState >= 2")  # it has a picture
    page.locator(".cc-photo").get_by_label("capture photo").click()
    assert caption_shown(page)
    emptied()
    example = page.locator("[data-example]")
    expected = CaptionPipeline.from_pretrained(backend="prepacked")(PHOTO)
    assert example.locator("img").get_attribute("alt") == f"Example: {expected.caption}"
    example.click()
    assert shown_by(page, PHOTO.name)


def test_bad_files_are_one_line_each_and_the_page_lives_on(page: Any, tmp_path: Path) -> None:
    title = page.title()
    for path in bad_files(tmp_path, 10):
        if path.name[4:].split(".")[0] not in ("empty", "text", "huge", "<b>named</b>"):
            continue
        show_photo(page, path)
        line = fault_shown(page, path.name[:3])
        assert "\n" not in line
        assert "/" not in line.split(path.name[:3])[0]  # not where it was uploaded to
        assert path.name[:3] in line
    assert page.title() == title
    show_photo(page, PHOTO)
    assert shown_by(page, PHOTO.name).startswith("a man")


def test_two_models_side_by_side(page: Any) -> None:
    page.get_by_role("tab", name="Compare").click()
    panel = page.get_by_role("tabpanel").filter(has=page.locator("#side-a"))
    panel.locator("input[type=file]").first.set_input_files(PHOTO)
    first, second = page.locator("#side-a .cc-side"), page.locator("#side-b .cc-side")
    first.wait_for()
    pipeline = CaptionPipeline.from_pretrained(backend="fast")
    assert first.inner_text().split() == [word for word, _ in pipeline(PHOTO).words]
    assert second.inner_text() != first.inner_text()
    assert "tiny" in page.locator("#side-b .cc-note").inner_text()
    slide(page, "Steps of A", 1)
    panel.get_by_role("button", name="Compare").click()
    page.locator("#side-a .cc-note", has_text="1 step:").wait_for()


def test_a_folder_is_captioned_edited_and_taken_away(page: Any, tmp_path: Path) -> None:
    photos = [tmp_path / name for name in ("one.jpg", "two.png", "bad.jpg")]
    shutil.copy(PHOTO, photos[0])
    Image.open(PHOTO).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(photos[1])
    photos[2].write_bytes(b"not a photo")
    page.get_by_role("tab", name="Folder").click()
    page.locator("input[type=file][multiple]").first.set_input_files(photos)
    page.get_by_role("button", name="Caption all").click()
    page.locator("#progress", has_text="3 of 3 photos captioned, 1 could not be read").wait_for()
    fields = page.locator("#table textarea")
    fields.nth(1).wait_for()
    assert page.locator("#table .cc-bad td").last.inner_text().startswith("bad.jpg")
    caption = CaptionPipeline.from_pretrained(backend="fast")(PHOTO).caption
    assert fields.first.input_value() == caption
    fields.nth(1).fill('mirrored, "as it were"')
    page.keyboard.press("Tab")

    def taken(name: str) -> Path:
        with page.expect_download() as coming:
            page.get_by_role("button", name=f"Download {name}").click()
        path = tmp_path / coming.value.suggested_filename
        coming.value.save_as(path)
        return path

    page.wait_for_timeout(1000)  # until the files have been written again
    with taken("CSV").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["caption"] for row in rows] == [caption, 'mirrored, "as it were"']
    told = [json.loads(line) for line in taken("JSONL").read_text().splitlines()]
    assert [(one["image"], one["confidence"] is None) for one in told] == [
        ("one.jpg", False),
        ("two.png", True),
    ]
    with zipfile.ZipFile(taken("sidecars")) as archive:
        assert archive.namelist() == ["one.txt", "two.txt"]
        assert archive.read("one.txt").decode() == f"{caption}\n"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_keeps_people_out(page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    choose(page, 1)
    faults = []
    for tab in ("One photo", "Compare", "Folder"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(300)  # a tab's colours fade in
        found = Axe().run(page).response["violations"]
        faults += [
            (tab, one["id"], [node["html"][:200] for node in one["nodes"]])
            for one in found
            if one["impact"] in ("serious", "critical")
        ]
    page.emulate_media(color_scheme="light")
    assert not faults


def test_a_phone_shows_it_without_sideways_scrolling_and_the_caption_before_the_settings(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    try:
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        caption, settings = (
            page.locator("#caption").bounding_box(),
            page.locator(".cc-settings").bounding_box(),
        )
        assert caption["y"] < settings["y"]
    finally:
        page.set_viewport_size({"width": 1280, "height": 900})


def test_nothing_is_asked_of_anybody_else(page: Any) -> None:
    assert page.asked
    assert not [url for url in page.asked if not re.match(r"http://127\.0\.0\.1:|data:|blob:", url)]
