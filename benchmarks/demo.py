"""The demo's page in a real browser, without a window: bad uploads by the dozen, and its picture for the docs.

``python -m benchmarks.demo`` uploads 50 bad files, one after another, each of which must show one line on a page that
lives on; ``--picture docs/demo.png`` takes its picture with a photo instead. Needs the extra ``demo``, playwright and
Debian's chromium.
"""

from __future__ import annotations

import io
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image

from benchmarks.hostile import png_of_size, sample_photo
from clearcap.cli.demo import example_photos
from clearcap.errors import InputError

WAIT = 60_000  # ms that the page may take for anything: other work may share the cores


@contextmanager
def page_served(*arguments: str) -> Iterator[str]:
    """``clearcap demo`` with these options on a free port of this machine, and its address.

    Raises:
        InputError: it ended by itself; what it said.
    """
    command = [sys.executable, "-m", "clearcap", "demo", "--port", "0", *arguments]
    with tempfile.TemporaryFile("w+") as rest:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=rest, text=True)
        try:
            address = process.stdout.readline().strip() if process.stdout else ""
            if not address:
                rest.seek(0)
                raise InputError(rest.read().strip())
            yield address
        finally:
            process.terminate()
            process.wait()


@contextmanager
def browsed(address: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> Iterator[Any]:
    """The page open in a headless browser with a camera that shows a test picture: playwright's ``Page``.

    Raises:
        InputError: there is no chromium.
    """
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise InputError("there is no chromium here; apt-get install chromium")
    camera = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", *camera])
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            permissions=["clipboard-read", "clipboard-write", "camera"],
        )
        context.set_default_timeout(WAIT)
        page = context.new_page()
        page.goto(address)
        page.get_by_role("heading", name="clearcap").wait_for()
        yield page
        browser.close()


def show_photo(page: Any, photo: Path) -> None:
    """Give the first tab a photo as a person does who chooses a file, the one that is there removed."""
    remove = page.locator(".cc-photo").get_by_label("Remove Image")
    if remove.count():
        remove.first.click()
    page.locator(".cc-photo input[type=file]").first.set_input_files(photo)


def bad_files(folder: Path, count: int, seed: int = 0) -> Iterator[Path]:
    """Files that are no photos, of ten kinds in turn, all named as if they were."""
    chance = random.Random(seed)
    good = sample_photo()
    for place in range(count):
        cut = chance.randrange(1, len(good) // 2)
        kinds: list[tuple[str, bytes]] = [
            ("empty.jpg", b""),
            ("text.png", b"this is no picture\n" * chance.randrange(1, 50)),
            ("cut.jpg", good[:cut]),
            ("noise.webp", chance.randbytes(2000)),
            ("huge.png", png_of_size(60_000 + place, 60_000)),
            ("page.jpg", b"<html><script>document.title='owned'</script></html>"),
            ("shapes.png", b'<svg xmlns="http://www.w3.org/2000/svg"><circle r="9"/></svg>'),
            ("<b>named</b>.jpg", good[:cut]),
            ("archive.jpg", b"PK\x03\x04" + chance.randbytes(500)),
            ("head.gif", b"GIF89a" + chance.randbytes(30)),
        ]
        name, data = kinds[place % len(kinds)]
        path = folder / f"{place:03d}-{name.replace('/', '')}"
        path.write_bytes(data)
        yield path


def fault_shown(page: Any, says: str = "") -> str:
    """The one line that the page says of a photo that cannot be read; until then the last one's may be there."""
    line = page.locator("#caption .cc-fault", has_text=says)
    line.wait_for()
    return str(line.inner_text())


def caption_shown(page: Any) -> str:
    """The words of a caption that has come out of the noise."""
    page.locator("#caption button.cc-word").first.wait_for()
    return " ".join(
        str(word.get_attribute("data-spelt")) for word in page.locator("#caption button.cc-word").all()
    )


def upload_bad_files(count: int, seed: int) -> tuple[int, float]:
    """How many of so many bad files showed one line, and the seconds all took; the page must still caption then."""
    photo = example_photos(None)[0]
    lines = 0
    with tempfile.TemporaryDirectory() as scratch, page_served() as address, browsed(address) as page:
        began = time.monotonic()
        for path in bad_files(Path(scratch), count, seed):
            show_photo(page, path)
            told = fault_shown(page)
            lines += (
                "\n" not in told and re.sub("[<>]", "", path.name) in told
            )  # which Gradio leaves out of names
            print(told)
            page.locator(".cc-photo").get_by_label("Remove Image").first.click()
            page.locator("#caption .cc-fault").wait_for(state="detached")
        took = time.monotonic() - began
        show_photo(page, photo)
        print(f"afterwards: {caption_shown(page)}")
    return lines, took


def take_picture(out: Path) -> None:
    """The page with a photo and its first noun looked at, small enough for the docs."""
    with page_served() as address, browsed(address, width=1180, height=820) as page:
        page.locator("[data-example='0']").click()
        caption_shown(page)
        page.locator("#caption button.cc-word").nth(1).click()
        page.locator("#look img").wait_for()
        page.mouse.move(0, 0)
        page.wait_for_timeout(500)
        data = page.screenshot()
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    picture.quantize(128).save(out, optimize=True)


def main(
    count: Annotated[int, typer.Option(help="bad files to upload")] = 50,
    seed: Annotated[int, typer.Option(help="of what is in them")] = 0,
    picture: Annotated[Path | None, typer.Option(help="take the page's picture instead")] = None,
) -> None:
    """Bad uploads to the demo's page, or its picture."""
    if picture is not None:
        take_picture(picture)
        return
    lines, took = upload_bad_files(count, seed)
    print(f"{lines} of {count} bad files showed one line that names them, in {took:.0f} s; the page lives")
    raise typer.Exit(int(lines < count))


if __name__ == "__main__":
    typer.run(main)
