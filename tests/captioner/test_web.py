"""What the page in ``web/`` is given: graphs of rounded weights, and cases that its JavaScript must agree with."""

from __future__ import annotations

import base64
import copy
import gzip
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_captioner import tiny_captioner

from benchmarks.web import measure_page, python_ids, served
from clearcap.captioner.generating import CaptionRequest, say_once
from clearcap.captioner.model import Captioner, load_captioner
from clearcap.data.images import PhotoBytes, to_square
from clearcap.data.records import CaptionedPhoto
from clearcap.errors import InputError
from clearcap.pipeline import CaptionPipeline
from clearcap.sampling.randomness import normal
from clearcap.text.tokenizer import decode_caption, word_ids

needed = "onnxruntime, onnx and onnxscript are not installed; pip install 'clearcap[onnx]'"
onnxruntime = pytest.importorskip("onnxruntime", reason=needed)
pytest.importorskip("onnxscript", reason=needed)
from clearcap.captioner.onnx.web import (  # noqa: E402
    LEAST_WEIGHTS,
    Code,
    compressed,
    encode,
    encode_weights,
    entropy,
    export_web,
    round_weights,
    sensitivity,
    squares,
)

WEB = Path(__file__).parents[2] / "web"
MEGABYTES = 0.006  # about six bits a weight
SHIPPED = {"solver": "renoise", "steps": 3, "spacing": "log-snr", "guidance": 0.0, "clamp": True}
SHIPPED |= {
    "length": 5,
    "min_length": 4,
    "max_length": 7,
    "candidates": 4,
    "select": "confidence",
    "once": True,
    "length_penalty": 1.5,
}


def renoising(**changes: Any) -> tuple[Captioner, Any]:
    """The tiny captioner with the page's sampling settings."""
    captioner, tokenizer = tiny_captioner()
    captioner = copy.deepcopy(captioner)
    captioner.config.sampling = {**captioner.config.sampling, **SHIPPED, **changes}
    captioner.config.text = {**captioner.config.text, "function_words": "a the of"}
    with torch.no_grad():
        captioner.vision.head.weight.mul_(200)  # or every photo is told the same
    return captioner, tokenizer


def save(folder: Path, **changes: Any) -> Path:
    captioner, tokenizer = renoising(**changes)
    captioner.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("web")
    export_web(str(trained), folder / "model", photos=list(noisy_photos(4)), megabytes=MEGABYTES)
    return folder


@pytest.fixture(scope="module")
def rounded(trained: Path) -> Captioner:
    """The captioner that was exported, as Python has it: with the same weights."""
    captioner, _ = load_captioner(str(trained))
    captioner.vision = captioner.vision.folded()
    round_weights(captioner, squares(captioner, list(noisy_photos(4))), MEGABYTES)
    return captioner


def open_graph(folder: Path, name: str) -> Any:
    content = gzip.decompress((folder / f"{name}.onnx.gz").read_bytes())
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def test_json_says_all_that_sampling_needs(trained: Path, exported: Path) -> None:
    captioner, tokenizer = load_captioner(str(trained))
    about = json.loads((exported / "model" / "captioner.json").read_text())
    how, sampler = about["sampling"], captioner.sampler(captioner.defaults)
    assert how["times"] == list(sampler.times[:-1])
    for t, signal, added in zip(how["times"], how["signal"], how["noise"], strict=True):
        one = torch.ones(1, 1)
        assert float(sampler.noise.add(one, t, 0 * one)) == signal
        assert float(sampler.noise.add(0 * one, t, one)) == added
    assert (how["lengths"], how["clamp"], how["once"]) == ([5, 4, 6, 7], True, True)
    assert (how["select"], how["length_penalty"]) == ("confidence", 1.5)
    assert about["vocabulary"]["often"] == sorted(captioner.often)
    assert about["vocabulary"]["pieces"] == tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    assert {name: (exported / "model" / name).stat().st_size for name in about["files"]} == about["files"]


@pytest.mark.parametrize(
    "changes", [{"solver": "ddim"}, {"guidance": 1.0}, {"refine": 1}, {"early_exit": 1}, {"select": "mbr"}]
)
def test_settings_that_the_page_has_not_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    (name,) = changes
    with pytest.raises(InputError, match=rf"sampling\.{name}=.* the page samples with {name}="):
        export_web(str(save(tmp_path / "model", **changes)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_take_what_is_asked_and_little_else_changes(trained: Path, exported: Path) -> None:
    captioner, _ = load_captioner(str(trained))
    captioner.vision = captioner.vision.folded()
    exact = {name: weight.detach().clone() for name, weight in captioner.named_parameters()}
    sensitive = sensitivity(captioner, squares(captioner, list(noisy_photos(2)))[:2])
    weights = sum(one.size for one in sensitive.values())
    codes = encode_weights(captioner, sensitive, megabytes=weights * 6 / 8e6)
    bits = sum(entropy(code.whole) for code in codes.values()) / weights
    assert 5.5 < bits <= 6
    for name, weight in captioner.named_parameters():
        error = float((weight - exact[name]).square().mean() / exact[name].square().mean().clamp_min(1e-12))
        assert (1e-9 < error < 0.02) if name in codes else error == 0, name


def test_graphs_compute_with_the_rounded_weights(rounded: Captioner, exported: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    pixels = squares(rounded, list(noisy_photos(2)))[:2]
    noisy, previous = torch.randn(2, 2, rounded.length, rounded.text.dim, generator=draw)
    time = torch.tensor([500, 20])
    encode_photos, denoise = (open_graph(exported / "model", name) for name in ("encode", "denoise"))
    outputs = [one.name for one in encode_photos.get_outputs()]
    context = dict(zip(outputs, encode_photos.run(None, {"pixels": pixels.numpy()}), strict=True))
    assert not [name for name in outputs if name.startswith("null_")]
    feeds = {"noisy": noisy[:, None], "previous": previous[:, None], "time": time[:, None]}
    (found,) = denoise.run(None, {name: one.numpy() for name, one in feeds.items()} | context)
    with torch.inference_mode():
        predictions = [
            one.denoiser(noisy, previous, time, one.image_context(one.encode_image(pixels))).numpy()
            for one in (rounded, renoising()[0])
        ]
    np.testing.assert_allclose(found[:, 0], predictions[0], rtol=1e-3, atol=1e-3)
    assert np.abs(found[:, 0] - predictions[1]).max() > 5e-3
    graphs = sum(file.stat().st_size for file in (exported / "model").glob("*.onnx.gz"))
    others = 4 * sum(one.numel() for one in rounded.parameters() if one.numel() < LEAST_WEIGHTS)
    assert graphs < 1e6 * MEGABYTES + others + 60_000  # the nodes themselves


def test_a_weight_that_matters_more_is_kept_more_exactly() -> None:
    draw = np.random.default_rng(0)
    weight = draw.standard_normal((6, 200)).astype(np.float32)
    sensitive = np.ones((6, 200), np.float32)
    sensitive[0], sensitive[:, :20] = 100, 25
    error = np.abs(encode(weight, sensitive, 0.1).weights() - weight)
    assert error[1:, 20:].mean() > 1.5 * error[1:, :20].mean()
    assert error[1:, 20:].mean() > 3 * error[0, 20:].mean()


@pytest.mark.parametrize("greatest", [1, 127, 128, 300, 16384])
def test_a_graph_restores_numbers_of_any_size(greatest: int) -> None:
    from onnx import TensorProto, helper, numpy_helper

    from clearcap.captioner.onnx.web import packed

    draw = np.random.default_rng(greatest)
    whole = draw.integers(-greatest, greatest, (50, 60), endpoint=True).astype(np.int32)
    whole[0, :2] = greatest, -greatest
    steps, factor = draw.random((50, 1), np.float32) + 0.1, draw.random((1, 60), np.float32) + 0.1
    code = Code(whole, steps, factor)
    value = helper.make_tensor_value_info
    matrix = numpy_helper.from_array(np.ascontiguousarray(code.weights().T), "matrix")  # as a tracer folds it
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("MatMul", ["x", "matrix"], ["y"])],
            "one product",
            [value("x", TensorProto.FLOAT, ["rows", 60])],
            [value("y", TensorProto.FLOAT, ["rows", 50])],
            [matrix],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    made = packed(model, [code])
    stored = {one.name: numpy_helper.to_array(one).dtype for one in made.graph.initializer}
    assert "matrix" not in stored
    assert {kind for name, kind in stored.items() if name.endswith((".high", ".low"))} == {np.dtype(np.int8)}
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    (restored,) = session.run(None, {"x": np.eye(60, dtype=np.float32)})
    assert np.array_equal(restored, code.weights().T)


def test_compressed_content_is_gzip_with_each_array_as_small_as_alone() -> None:
    draw = np.random.default_rng(0)
    arrays = [draw.normal(0, spread, 50_000).astype(np.int8).tobytes() for spread in (3, 30)]
    content = b"head" + arrays[0] + b"between" + arrays[1]
    found = compressed(content, arrays)
    assert gzip.decompress(found) == content
    assert found == compressed(content, arrays)
    assert len(found) < sum(len(compressed(one)) for one in arrays) + 20
    assert len(found) < len(compressed(content))
    assert gzip.decompress(compressed(b"")) == b""


def noisy_photos(count: int) -> np.ndarray:
    """Photos of random blocks, which no two tokens are told the same of."""
    draw = np.random.default_rng(0)
    return draw.integers(0, 256, (count, 8, 8, 3), np.uint8).repeat(9, 1).repeat(11, 2)


def reading_cases(captioner: Captioner, tokenizer: Any) -> list[dict[str, Any]]:
    """Random logits, and what Python reads in them."""
    cases = []
    draw = torch.Generator().manual_seed(0)
    special = captioner.text.special_ids
    size = len(tokenizer)
    asked = ((0, False), (5, False), (5, True), (3, True), (8, True))
    for (length, kept), once in itertools.product(asked, (False, True)):
        logits = 4 * torch.randn(captioner.length, size, generator=draw)
        logits[2:4] = logits[1]  # words repeat
        request = CaptionRequest(0, length=length)
        masked = logits[None].clone()
        masked[0, 1 : length + 1, list(special)] = -torch.inf
        if once:
            say_once(masked, [range(1, (length or captioner.length - 2) + 1)], captioner.often)
        probabilities = masked.softmax(-1)
        if kept:
            captioner.keep_lengths(
                probabilities, [request], captioner.asarray(word_ids(tokenizer, special, size))
            )
        confidence, ids = probabilities.max(-1)
        said = decode_caption(tokenizer, ids[0].tolist(), special, confidence[0].tolist())
        cases.append(
            {
                "logits": logits.flatten().tolist(),
                "length": length,
                "kept": kept,
                "once": once,
                "ids": ids[0].tolist(),
                "confidence": confidence[0].tolist(),
                "words": said.words,
                "caption": said.text,
            }
        )
    return cases


def write_cases(folder: Path, captioner: Captioner, tokenizer: Any) -> None:
    """Cases for ``web/tests/python.test.js``."""
    draw = np.random.default_rng(0)
    photos = [
        draw.integers(0, 256, (*shape, 3), np.uint8) for shape in ((40, 61), (15, 200), (64, 30), (1, 1))
    ]
    kinds = [
        {
            "width": photo.shape[1],
            "height": photo.shape[0],
            "size": size,
            "data": photo.flatten().tolist(),
            "square": to_square(Image.fromarray(photo), size).flatten().tolist(),
        }
        for photo in photos
        for size in (15, 64)
    ]
    captions = [
        caption_case(captioner, tokenizer, photo, seed, length)
        for photo in noisy_photos(2)
        for seed, length in ((0, None), (3, None), (0, 3), (0, 8))
    ]
    assert len({one["caption"] for one in captions}) > 4
    about = json.loads((folder / "model" / "captioner.json").read_text())
    cases = {
        "noise": [
            {
                "seed": str(seed),
                "stream": stream,
                "draw": time,
                "numbers": normal(seed, stream, time, count).tolist(),
            }
            for seed, stream, time, count in (
                (0, 0, 0, 2560),
                (0, 0, 1, 9),
                (2**63 - 1, 4001, 2, 10),
                (7, 9, 2, 8),
            )
        ],
        "squares": kinds,
        "vocabulary": about["vocabulary"],
        "readings": reading_cases(captioner, tokenizer),
        "captions": captions,
    }
    (folder / "cases.json").write_text(json.dumps(cases))


def caption_case(
    captioner: Captioner, tokenizer: Any, photo: np.ndarray, seed: int, length: int | None
) -> dict[str, Any]:
    """A photo of random blocks, how it is captioned, and what Python says of it: tokens, candidates, choice."""
    pipeline = CaptionPipeline(captioner, tokenizer)
    how = {} if length is None else {"length": length}
    result = pipeline(photo, seed=seed, **how)
    generated = captioner.generate(
        pipeline.pixels([to_square(Image.fromarray(photo), 64)]),
        seed=seed,
        sampling=pipeline.sampling(**how),
        whole_words=pipeline.whole_words() if length else None,
    )
    return {
        "width": photo.shape[1],
        "height": photo.shape[0],
        "data": photo.flatten().tolist(),
        "seed": seed,
        "length": length,
        "ids": generated.ids[0].tolist(),
        "caption": result.caption,
        "candidates": result.candidates,
        "confidence": result.confidence,
    }


def node(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("node") is None:
        pytest.skip("node is not installed; docs/browser.md says how to get it")
    return subprocess.run(
        ["node", *map(str, arguments)],
        cwd=WEB,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
    )


def test_javascript_agrees_with_python(trained: Path, exported: Path, rounded: Captioner) -> None:
    """Noise, squashed photos, readings; and captions, where ``npm ci`` was run in ``web/``."""
    write_cases(exported, rounded, load_captioner(str(trained))[1])
    done = node("--test", "tests/", CLEARCAP_CASES=str(exported))
    assert done.returncode == 0, done.stdout + done.stderr
    told = dict(line[2:].split(" ", 1) for line in done.stdout.splitlines() if line.startswith("# "))
    assert int(told["pass"]) >= 20
    assert int(told["skipped"]) == (0 if (WEB / "node_modules" / "onnxruntime-node").is_dir() else 1)


@pytest.fixture(scope="module")
def site(exported: Path) -> Path:
    """The page with the exported captioner, which any static server can serve."""
    if not (WEB / "node_modules" / "onnxruntime-web").is_dir():
        pytest.skip("onnxruntime-web is not installed; run npm ci in web/")
    made = node("scripts/site.js", exported / "model", exported / "site", PYTHON=sys.executable)
    assert made.returncode == 0, made.stderr
    return exported / "site"


@pytest.fixture(scope="module")
def chromium() -> str:
    pytest.importorskip("playwright", reason="needs playwright")
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("needs a chromium (apt-get install chromium)")
    return found


def test_the_page_says_what_python_says_and_works_offline_after_one_visit(
    site: Path, chromium: str, trained: Path, rounded: Captioner
) -> None:
    (photo,) = noisy_photos(1)
    picture = io.BytesIO()
    Image.fromarray(photo).save(picture, "PNG")
    shown = CaptionedPhoto("1", PhotoBytes(picture.getvalue()), ())
    found = measure_page(site, [shown], 0, chromium)
    pipeline = CaptionPipeline(rounded, load_captioner(str(trained))[1])
    square = to_square(Image.fromarray(photo), 64)
    assert found["rows"][0]["ids"] == python_ids(pipeline, square[None], 0)[0].tolist()
    assert base64.b64decode(found["rows"][0]["square"]) == square.tobytes()
    assert found["offline_equal"]
    assert (found["sent_later"], found["elsewhere"]) == (0, [])


def test_a_saved_page_is_given_alt_text_and_neither_page_keeps_people_out(
    site: Path, chromium: str, tmp_path: Path
) -> None:
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import sync_playwright

    Image.fromarray(next(iter(noisy_photos(1)))).save(tmp_path / "dog.png")
    (tmp_path / "mine.html").write_text(
        '<img src="pictures/dog.png?1"><img alt="" src="line.png"><img src="gone.png">'
    )
    with served(site) as (address, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector("body[data-ready]", timeout=120_000)
        page.locator("#photos").set_input_files(tmp_path / "dog.png")
        page.locator("#captions [data-caption]").wait_for(timeout=120_000)
        caption = page.locator("#captions [data-caption]").get_attribute("data-caption")
        assert page.locator("#captions img").get_attribute("alt") == caption
        assert not Axe().run(page).response["violations"]
        page.goto(f"{address}alt.html")
        page.wait_for_selector("body[data-ready]", timeout=120_000)
        page.locator("#files").set_input_files([tmp_path / "mine.html", tmp_path / "dog.png"])
        page.locator("#save").wait_for(timeout=120_000)
        assert f'alt="{caption}"' in page.locator("#html").input_value()
        assert "1 images were given alt text; not read: gone.png" in page.locator("#state").inner_text()
        assert not Axe().run(page).response["violations"]
        browser.close()


def test_the_package_installs_from_its_tarball_and_captions_under_node(
    exported: Path, tmp_path: Path
) -> None:
    if not (WEB / "node_modules" / "onnxruntime-node").is_dir():
        pytest.skip("onnxruntime-node is not installed; run npm ci in web/")
    package, project = tmp_path / "web", tmp_path / "project"
    for name in ("src", "scripts"):
        shutil.copytree(WEB / name, package / name)
    for file in (WEB / "package.json", WEB / "README.md", WEB.parent / "LICENSE", WEB.parent / "NOTICE"):
        shutil.copy(file, package if file.parent == WEB else tmp_path)
    shutil.copytree(exported / "model", package / "model")
    project.mkdir()
    (project / "package.json").write_text('{"private": true, "type": "module"}')
    npm = [shutil.which("npm") or "npm", "--offline", "--no-audit", "--no-fund"]
    subprocess.run(
        [*npm, "pack", "--pack-destination", project], cwd=package, check=True, capture_output=True
    )
    (tarball,) = project.glob("clearcap-*.tgz")
    subprocess.run([*npm, "install", tarball.name], cwd=project, check=True, capture_output=True)
    for name in ("onnxruntime-node", "onnxruntime-common", "sharp", "@img", "detect-libc", "semver"):
        (project / "node_modules" / name).symlink_to(WEB / "node_modules" / name)
    Image.fromarray(next(iter(noisy_photos(1)))).save(project / "photo.png")
    (project / "say.js").write_text(
        'import { captions } from "clearcap";\n'
        'console.log(JSON.stringify(await captions("photo.png", { length: 5 })));\n'
    )
    done = subprocess.run(["node", "say.js"], cwd=project, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert len(said["words"]) == 5
    assert said["caption"] in said["candidates"]


def test_javascript_is_typed() -> None:
    if not (WEB / "node_modules" / "typescript").is_dir():
        pytest.skip("typescript is not installed; run npm ci in web/")
    done = node("node_modules/typescript/bin/tsc")
    assert done.returncode == 0, done.stdout
