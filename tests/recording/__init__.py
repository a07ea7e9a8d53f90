"""What the bundled models say, word for word and bit for bit: made once, replayed after every change.

``python -m tests.recording --out FILE`` records; ``--against FILE`` replays a recording made on the same machine and
compares every bit. Between machines floats differ in their last digits, so the committed recording holds captions
and rounded numbers; ``python -m tests.recording --commit`` (``make record``) writes it, after the graphs of the bundled
weights that it captions with, too; ``tests/test_recording.py`` replays it.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

MODELS = ("default",)
WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "mbr": {"candidates": 10},
    "cider": {"candidates": 4, "utility": "cider"},
    "confidence": {"candidates": 4, "select": "confidence"},
    "refine": {"steps": 3, "refine": 1},
    "refine-threshold": {"steps": 4, "refine": 2, "refine_threshold": 0.5, "refine_level": 0.2},
    "ddpm": {"steps": 4, "solver": "ddpm"},
    "eta": {"steps": 4, "solver": "ddim", "eta": 0.5},
    "dpm-solver": {"steps": 4, "solver": "dpm-solver"},
    "renoise": {"steps": 4, "solver": "renoise", "spacing": "trailing"},
    "plain": {"steps": 4, "solver": "plain", "spacing": "quadratic"},
    "stride": {"steps": 300, "spacing": "stride", "time_offset": 3},
    "early-exit": {"steps": 8, "early_exit": 1, "spacing": "uniform"},
    "guided-in-part": {"steps": 5, "guidance": 2.0, "guidance_low": 0.3, "guidance_high": 0.9},
    "unguided": {"steps": 5, "guidance": 0.0},
    "no-self-conditioning": {"steps": 4, "self_condition": False},
    "free-length": {"words": 0, "steps": 4},
    "six-words": {"words": 6},
}
FEW = {name: WAYS[name] for name in ("default", "refine", "ddpm")}
BACKENDS = {"torch": FEW, "packed": WAYS, "onnx": FEW}  # what the committed recording holds of each
COMMITTED = Path(__file__).parent / "recorded.json"
TEMPLATES = ("a ___ in a ___", "a man ___{1,3} on the ___ .", "two ___{2}")


def photos() -> list[np.ndarray]:
    """Photos that need no file: shapes on gradients, drawn from a fixed seed."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(6):
        sky, ground = rng.integers(0, 256, (2, 3))
        ramp = np.linspace(0, 1, 200)[:, None, None]
        picture = Image.fromarray(
            np.broadcast_to(sky * (1 - ramp) + ground * ramp, (200, 260, 3)).astype(np.uint8)
        )
        draw = ImageDraw.Draw(picture)
        for _ in range(3 + number):
            x, y = rng.integers(0, 200, 2)
            size, colour = rng.integers(20, 90), tuple(int(c) for c in rng.integers(0, 256, 3))
            shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
            shape((int(x), int(y), int(x + size), int(y + size)), fill=colour)
        made.append(np.asarray(picture))
    return made


def record(ways: dict[str, dict[str, Any]] = WAYS) -> dict[str, Any]:
    """Captions, fillings and a training run, each with a digest of its floats."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for model in MODELS:
        for backend in BACKENDS:
            found |= {f"{model}/{backend}/{k}": v for k, v in captions(model, backend, ways).items()}
    return found | {"train": trained()}


def committed() -> dict[str, Any]:
    """What ``COMMITTED`` holds: captions, rounded confidences, and the losses of a training run."""
    torch.set_num_threads(1)
    said = {}
    for model in MODELS:
        for backend, ways in BACKENDS.items():
            for name, found in captions(model, backend, ways).items():
                kept = {"captions": found["captions"]}
                if "confidence" in found:
                    kept["confidence"] = [round(value, 4) for value in found["confidence"]]
                said[f"{model}/{backend}/{name}"] = kept
    return {
        "processor": torch.backends.cpu.get_cpu_capability(),
        "losses": trained()["losses"],
        "said": said,
    }


def captions(model: str, backend: str, ways: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What one model says of the photos, in every way."""
    from clearcap import CaptionPipeline

    pipeline = CaptionPipeline.from_pretrained(model, backend=backend, device="cpu")
    pictures = photos()
    found: dict[str, Any] = {}
    for name, how in ways.items():
        results = pipeline(pictures, batch_size=4, seed=1, **how)
        found[name] = {
            "captions": [result.caption for result in results],
            "candidates": [list(result.candidates) for result in results],
            "confidence": [result.confidence for result in results],
            "bits": digest([[p for _, p in result.words] for result in results]),
        }
    for template in TEMPLATES:
        filled = [pipeline.fill(picture, template, seed=2, candidates=2) for picture in pictures]
        found[f"fill {template}"] = {
            "captions": [one.text for one in filled],
            "confidence": [one.confidence for one in filled],
            "bits": digest([one.word_confidence for one in filled]),
        }
    frames = pipeline.trajectory(pictures[0], seed=3, steps=4)
    found["trajectory"] = {
        "captions": [frame.text for frame in frames],
        "bits": digest([[p for _, p in frame.tokens] for frame in frames]),
    }
    return found


def trained() -> dict[str, Any]:
    """The bits of the bundled model after three training steps on drawn photos, and of its losses."""
    from safetensors.torch import load_file

    from clearcap.config import load_preset
    from clearcap.training.run import train

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "photos"
        root.mkdir()
        lines = {"train": "", "val": ""}
        for number, picture in enumerate(photos()):
            Image.fromarray(picture).save(root / f"{number}.png")
            said = [f"a man with {['red', 'blue', 'green'][number % 3]} balls", "two dogs run on the grass ."]
            line = json.dumps({"file_name": f"{number}.png", "captions": said})
            lines["train" if number < 4 else "val"] += line + "\n"
        for split, text in lines.items():
            (root / f"captions_{split}.jsonl").write_text(text)
        settings = [
            "train.init=default",
            "vision.kind=pair",
            "train.steps=3",
            "train.photos=2",
            "train.copies=2",
            "train.warmup=1",
            "train.bf16=false",
            "train.consensus=1.0",
            "train.borrowed=1",
            "train.tracker=none",
            "train.sample_every=0",
            "train.save_every=3",
            "train.log_every=1",
            "diffusion.given=0.5",
            "data.name=folder",
            f"data.root={root}",
            "data.split=train",
            "data.watch=val",
            "data.expected=false",
            "data.views=2",
            f"data.features={folder}/features",
        ]
        out = Path(folder) / "run"
        train(load_preset("compact", settings), out)
        state = next(iter(sorted(out.rglob("model.safetensors"))))
        tensors = load_file(state)
        curves = (out / "curves.jsonl").read_text() if (out / "curves.jsonl").is_file() else ""
        losses = [
            {k: v for k, v in json.loads(line).items() if "seconds" not in k and "second" not in k}
            for line in curves.splitlines()
        ]
        return {
            "bits": digest(
                [tensors[name].double().numpy().tolist() for name in sorted(tensors, key=first_name)]
            ),
            "losses": losses,
        }


def first_name(tensor: str) -> str:
    """What a tensor was called when the recording was made."""
    return tensor.replace("denoiser.adapter.", "denoiser.look.")


def digest(values: Any) -> str:
    """A hash of nested floats, every bit counted."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]
