"""The page in ``web/`` in a real browser, beside Python: equal captions, CIDEr-D, times, bytes, without a network.

``python -m benchmarks.web --data flickr8k:ROOT:dev --photos flickr8k:ROOT:train`` writes the page with rounded and with
float32 weights, serves each from disk, opens it in headless Chromium, cuts the network off, and captions the first 200
photos of the corpus. It needs ``npm ci`` in ``web/``, Python's playwright and a Chromium.
"""

from __future__ import annotations

import argparse
import base64
import functools
import http.server
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from clearcap.captioner.onnx.web import MEGABYTES, PHOTOS, export_web
from clearcap.data.corpus import open_spec
from clearcap.data.images import open_image, to_square
from clearcap.data.records import CaptionedPhoto
from clearcap.evaluation.scores import score_captions
from clearcap.metrics.significance import compare
from clearcap.pipeline import CaptionPipeline
from clearcap.text.tokenizer import decode_caption

WEB = Path(__file__).parents[1] / "web"
READ = """async ([bytes, seed]) => {
    const { pixels } = await import("./src/browser.js");
    const { opening } = await import("./app.js");
    const captioner = await opening;
    const { squash } = await import("./src/resize.js");
    const blob = new Blob([Uint8Array.from(atob(bytes), (letter) => letter.charCodeAt(0))]);
    const began = performance.now();
    const photo = await pixels(blob);
    const { drawn, chosen } = await captioner.read(photo, { seed });
    const took = performance.now() - began;
    const square = squash(photo, captioner.about.image_size);
    let text = "";
    for (const level of square) text += String.fromCharCode(level);
    return { ids: drawn[chosen].ids, chosen, took, square: btoa(text), size: [photo.width, photo.height] };
}"""


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, as any static server sends them; counts what it sends."""

    sent: dict[str, int]

    def __init__(self, *arguments: Any, sent: dict[str, int], **named: Any) -> None:
        self.sent = sent
        super().__init__(*arguments, **named)

    def copyfile(self, source: Any, outputfile: Any) -> None:
        content = source.read()
        self.sent[self.path] = self.sent.get(self.path, 0) + len(content)
        outputfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, dict[str, int]]]:
    """The address of a folder, and how many bytes of each path were sent."""
    sent: dict[str, int] = {}
    handler = functools.partial(Handler, directory=str(folder), sent=sent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", sent
        finally:
            server.shutdown()


def python_ids(pipeline: CaptionPipeline, squares: np.ndarray, seed: int, batch: int = 20) -> np.ndarray:
    """Token ids [photos, length] of the captions that Python chooses."""
    found: list[np.ndarray] = []
    sampling = pipeline.sampling()
    for part in np.array_split(squares, range(batch, len(squares), batch)):
        generated = pipeline.captioner.generate(pipeline.pixels(list(part)), seed=seed)
        for ids, candidates in zip(np.asarray(generated.ids), pipeline.decode(generated), strict=True):
            captions = [one.text for one in candidates]
            found.append(ids[pipeline.choose(captions, [one.confidence for one in candidates], sampling)])
    return np.stack(found)


def encoded(photo: CaptionedPhoto) -> str:
    """A photo's file in base64, as a page can be given it."""
    with photo.image.stream() as stream:
        return base64.b64encode(stream.read()).decode()


def measure_page(site: Path, photos: Sequence[CaptionedPhoto], seed: int, chromium: str) -> dict[str, Any]:
    """Open a page in Chromium, cut the network off, caption photos; open it again without a network."""
    from playwright.sync_api import sync_playwright

    with (
        served(site) as (address, sent),
        sync_playwright() as playwright,
        tempfile.TemporaryDirectory() as home,
    ):
        context = playwright.chromium.launch_persistent_context(
            home, executable_path=chromium, headless=True, args=["--no-sandbox"]
        )
        outside: list[str] = []
        context.on("request", lambda one: outside.append(one.url) if address not in one.url else None)
        page = context.new_page()
        starting = time.perf_counter()
        page.goto(address)
        page.wait_for_selector("body[data-ready]", timeout=300_000)
        start_up = time.perf_counter() - starting
        loaded = dict(sent)
        context.set_offline(True)
        rows = [page.evaluate(READ, [encoded(one), seed]) for one in photos]
        again = context.new_page()
        starting = time.perf_counter()
        again.goto(address)
        again.wait_for_selector("body[data-ready]", timeout=300_000)
        second = time.perf_counter() - starting
        offline = again.evaluate(READ, [encoded(photos[0]), seed])
        isolated = again.evaluate("globalThis.crossOriginIsolated")
        context.close()
    return {
        "rows": rows,
        "start_up": start_up,
        "loaded": sum(loaded.values()),
        "files": loaded,
        "sent_later": sum(sent.values()) - sum(loaded.values()),
        "elsewhere": [one for one in outside if not one.startswith(("blob:", "data:"))],
        "second_start": second,
        "offline_equal": offline["ids"] == rows[0]["ids"],
        "isolated_again": isolated,
    }


def compare_page(
    found: dict[str, Any],
    ids: np.ndarray,
    squares: np.ndarray,
    pipeline: CaptionPipeline,
    photos: Sequence[CaptionedPhoto],
) -> dict[str, Any]:
    """The page's figures beside Python's token ids and pixels."""
    rows = found.pop("rows")
    theirs = np.array([row["ids"] for row in rows])
    pixels = np.stack([np.frombuffer(base64.b64decode(row["square"]), np.uint8) for row in rows])
    levels = np.abs(pixels.astype(int) - squares.reshape(len(squares), -1).astype(int))
    special = pipeline.captioner.text.special_ids
    scores = [
        score_captions(
            {
                one.id: decode_caption(pipeline.tokenizer, row, special).text
                for one, row in zip(photos, said, strict=True)
            },
            {one.id: one.captions for one in photos},
            metrics=["CIDEr-D"],
        ).scores
        for said in (ids, theirs)
    ]
    difference = compare(scores[:1], scores[1:])["CIDEr-D"].difference
    return found | {
        "photos": len(rows),
        "equal_photos": int((theirs == ids).all(1).sum()),
        "equal_tokens": float((theirs == ids).mean()),
        "photos_with_other_pixels": int((levels.max(1) > 0).sum()),
        "greatest_difference_in_levels": int(levels.max()),
        "milliseconds": statistics.median(row["took"] for row in rows),
        "cider_d": [one.corpus["CIDEr-D"] for one in scores],
        "cider_d_difference": [difference.estimate, difference.low, difference.high],
    }


def build(model: str, out: Path, megabytes: float | None, calibrate: Sequence[Any]) -> Path:
    """A page with its model, from the checkout's ``web/``."""
    export_web(model, out / "model", photos=calibrate, megabytes=megabytes)
    subprocess.run(["node", WEB / "scripts" / "site.js", out / "model", out / "site"], check=True)
    return out / "site"


def main() -> None:
    """Measure, and print a JSON object for each kind of weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default", help="folder, hub name, or one of those that ship")
    parser.add_argument("--data", required=True, help="corpus NAME:ROOT:SPLIT to caption")
    parser.add_argument("--photos", default="", help="corpus by whose photos weights are rounded")
    parser.add_argument("--limit", type=int, default=200, help="photos to caption")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--weights", nargs="+", default=["rounded", "float32"], choices=["rounded", "float32"]
    )
    parser.add_argument("--chromium", default=shutil.which("chromium") or "", help="Chromium's program")
    parser.add_argument(
        "--keep", type=Path, help="folder to write the pages to; those there are taken as they are"
    )
    asked = parser.parse_args()
    photos = open_spec(asked.data).photos[: asked.limit]
    pipeline = CaptionPipeline.from_pretrained(asked.model)
    size = pipeline.image_size
    squares = np.stack([to_square(open_image(one.image, at_least=size), size) for one in photos])
    ids = python_ids(pipeline, squares, asked.seed)
    calibrate = [one.image for one in open_spec(asked.photos).photos[:PHOTOS]] if asked.photos else []
    with tempfile.TemporaryDirectory() as folder:
        for kind in asked.weights:
            place = (asked.keep or Path(folder)) / kind
            site = place / "site"
            if not site.is_dir():
                build(asked.model, place, MEGABYTES if kind == "rounded" else None, calibrate)
            found = measure_page(site, photos, asked.seed, asked.chromium)
            told = compare_page(found, ids, squares, pipeline, photos)
            print(json.dumps({kind: told, "load": os.getloadavg()}), flush=True)


if __name__ == "__main__":
    main()
