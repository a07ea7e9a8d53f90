"""Parts from outside the package: every example of docs/extending.md, each in a file of its own, used by a command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from commands import clearcap
from PIL import Image
from recording import photos
from towers import write_bert, write_distilbert

from clearcap import CaptionPipeline

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
EXAMPLE = re.compile(r"<!-- plugin: (\w+) -->\n```python\n(.*?)```", re.DOTALL)
SAID = ["a red ball on the grass", "two dog and a cat", "the man riding a bus"]
TINY = [
    "text.split=2",
    "text.length=8",
    "vision.tokens=4",
    "vision.dim=16",
    "vision.image_size=64",
    "denoiser.width=16",
    "denoiser.depth=1",
    "denoiser.heads=2",
    "denoiser.hidden=16",
    "sampling.steps=3",
    "sampling.length=0",
    "sampling.min_length=0",
    "sampling.max_length=0",
    "train.steps=2",
    "train.photos=2",
    "train.copies=2",
    "train.warmup=1",
    "train.tracker=none",
    "train.sample_every=0",
]


def examples() -> dict[str, str]:
    return dict(EXAMPLE.findall(PAGE.read_text()))


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples as files, and a folder of captioned photos in two splits."""
    root = tmp_path_factory.mktemp("desk")
    for name, code in examples().items():
        (root / f"{name}.py").write_text(code)
    (root / "photos").mkdir()
    lines: dict[str, list[str]] = {"train": [], "val": []}
    for number, picture in enumerate(photos()):
        Image.fromarray(picture).save(root / "photos" / f"{number}.png")
        line = json.dumps({"file_name": f"{number}.png", "captions": SAID})
        lines["train" if number < 4 else "val"].append(line + "\n")
    for split, text in lines.items():
        (root / "photos" / f"captions_{split}.jsonl").write_text("".join(text))
    return root


def train(desk: Path, plugin: str, preset: str, *settings: str) -> Path:
    """The model that two training steps with a plug-in make."""
    out = desk / plugin
    done = clearcap(
        "--plugin",
        desk / f"{plugin}.py",
        "train",
        preset,
        *TINY,
        f"data.corpus=folder:{desk / 'photos'}:train",
        "data.watch=val",
        "data.expected=false",
        "data.views=1",
        f"data.features={out}/features",
        *settings,
        "--out",
        out,
    )
    assert done.returncode == 0, done.stderr
    return out / "model"


def test_each_addition_is_short() -> None:
    assert set(examples()) >= {"heun", "longest", "mosaic", "mixer", "loud"}
    assert all(len(code.splitlines()) < 40 for code in examples().values())


def test_a_solver(desk: Path) -> None:
    photo = desk / "photos" / "0.png"
    plain = clearcap("caption", photo, "--json", "--steps", 4)
    mine = clearcap(
        "--plugin", desk / "heun.py", "caption", photo, "--json", "--steps", 4, "--solver", "heun"
    )
    assert mine.returncode == 0, mine.stderr
    assert json.loads(mine.stdout)["caption"]
    assert json.loads(mine.stdout)["confidence"] != json.loads(plain.stdout)["confidence"]
    unknown = clearcap("caption", photo, "--solver", "heun")
    assert unknown.returncode == 1
    assert "unknown solver 'heun'; choose one of renoise, ddpm, ddim, dpm-solver, plain" in unknown.stderr


def test_a_selection_rule(desk: Path) -> None:
    photo = desk / "photos" / "1.png"
    done = clearcap(
        "--plugin", desk / "longest.py", "caption", photo, "--candidates", 6, "--select", "longest"
    )
    assert done.returncode == 0, done.stderr
    candidates = CaptionPipeline.from_pretrained(backend="fast")(photo, candidates=6).candidates
    assert len(done.stdout.split()) == max(len(caption.split()) for caption in candidates)
    assert len({len(caption.split()) for caption in candidates}) > 1


@pytest.mark.parametrize(
    ("plugin", "settings"),
    [
        ("mosaic", ["vision.kind=mosaic", "vision.dim=3", "denoiser.heads=1"]),
        ("mixer", ["denoiser.kind=mixer"]),
    ],
)
def test_an_image_encoder_and_a_denoiser(desk: Path, plugin: str, settings: list[str]) -> None:
    bert = write_bert(desk / f"bert-{plugin}")
    model = train(desk, plugin, "compact", f"text.source={bert}", *settings)
    done = clearcap(
        "--plugin",
        desk / f"{plugin}.py",
        "evaluate",
        "--model",
        model,
        "--data",
        f"folder:{desk / 'photos'}:val",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["manifest"]["photos"] == 2
    assert (
        clearcap("caption", desk / "photos" / "0.png", "--model", model).returncode == 1
    )  # without the plug-in


def test_a_text_space(desk: Path) -> None:
    words = write_distilbert(desk / "distilbert")
    model = train(
        desk,
        "loud",
        "compact",
        "text.kind=loud-embedding",
        f"text.source={words}",
    )
    done = clearcap(
        "--plugin", desk / "loud.py", "caption", desk / "photos" / "0.png", "--model", model, "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["words"] is not None
