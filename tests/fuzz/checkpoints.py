"""Saved captioners, exported graphs, training checkpoints and foreign checkpoints; what loads captions a photo."""

from __future__ import annotations

import gzip
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from clearcap.captioner.model import Captioner
from clearcap.convert.reading import read_module, read_state, read_vector
from clearcap.metrics import DocumentFrequency
from clearcap.pipeline import CaptionPipeline
from clearcap.training.checkpoint import RunState
from clearcap.vision.compact import CompactEncoder, load_compact
from tests.fuzz import Kind
from tests.fuzz.mutating import Rng, changed, changed_json, mutated, pick
from tests.fuzz.photos import picture
from tests.tiny_captioner import CAPTIONS, save_tiny_captioner, tiny_captioner

SMALL = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    3,
    7,
    64,
    100_000,
    10**12,
    0.5,
    -0.5,
    1e400,
    "",
    "x",
    [],
    {},
    "float16",
)


class Checkpoints(Kind):
    """One file of a folder is changed; everything that opens the folder is tried."""

    def __init__(self, folder: Path) -> None:
        self.photo = picture("RGB", 0)
        self.model = save_tiny_captioner(folder / "model")
        DocumentFrequency.of([CAPTIONS]).save(self.model / "document_frequency.json.gz")
        captioner, _ = tiny_captioner()
        linear = torch.nn.Linear(3, 2)
        self.state = RunState(dict(linear.named_parameters()), {}, [torch.optim.AdamW(linear.parameters())])
        linear(torch.ones(1, 3)).sum().backward()
        self.state.optimizers[0].step()
        self.settings = {"train": {"lr": 0.1, "steps": 7}}
        (folder / "run").mkdir()
        self.state.save(folder / "run" / "checkpoint", self.settings, {"step": 3})
        encoder = folder / "encoder"
        encoder.mkdir()
        vision: Any = captioner.vision
        assert isinstance(vision, CompactEncoder)
        save_file(
            {k: v.contiguous() for k, v in vision.state_dict().items()}, encoder / "encoder.safetensors"
        )
        (encoder / "encoder.json").write_text(json.dumps({"encoder": vision.settings()}))
        foreign = folder / "foreign"
        foreign.mkdir()
        torch.save({"module.a": torch.ones(3), "module.b": torch.zeros(2, 2)}, foreign / "state.pth")
        torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2)), foreign / "module.pth")
        torch.save(torch.ones(24), foreign / "vector.pth")
        save_file({"a": torch.ones(3)}, foreign / "state.safetensors")
        self.tries: dict[str, Callable[[Path, Rng], str]] = {
            "model": self._captions,
            "run/checkpoint": self._resumes,
            "encoder": self._encoder,
            "foreign": self._foreign,
        }
        shares = [0.6, 0.15, 0.1, 0.15]
        if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnx"):
            from clearcap.captioner.onnx.export import export_graphs

            export_graphs(str(self.model), folder / "graphs")
            self.tries["graphs"] = self._captions
            shares = [0.5, 0.15, 0.1, 0.15, 0.1]
        self.shares = shares
        self.folder = folder
        self.good = {
            path: path.read_bytes()
            for place in self.tries
            for path in sorted((folder / place).rglob("*"))
            if path.is_file()
        }

    def restore(self) -> None:
        for path, data in self.good.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def case(self, rng: Rng) -> tuple[str, Callable[[], str]]:
        place = str(rng.choice(list(self.tries), p=self.shares))
        root = self.folder / place
        path = pick(rng, [path for path in self.good if path.is_relative_to(root)])
        about, data = changed_file(rng, path, self.good[path])

        def work() -> str:
            if data is None:
                path.unlink()
            else:
                path.write_bytes(data)
            try:
                return self.tries[place](path, rng)
            finally:
                self.restore()

        return f"{place}/{path.name} {about}", work

    def _captions(self, path: Path, rng: Rng) -> str:
        if path.is_relative_to(self.model) and rng.random() < 0.3:
            Captioner.from_pretrained(path.parent)
            return "loads"
        backend = "fast" if rng.random() < 0.5 else None
        pipeline = CaptionPipeline.from_pretrained(path.parent, backend=backend)
        how = pipeline.captioner.defaults
        if how.steps * how.candidates * (1 + how.refine) <= 300 and how.spacing != "stride":
            pipeline(self.photo)
            pipeline(self.photo, candidates=3, utility="cider", steps=2)
        return "captions"

    def _resumes(self, path: Path, rng: Rng) -> str:
        self.state.resume(path.parent, self.settings)
        return "resumes"

    def _encoder(self, path: Path, rng: Rng) -> str:
        load_compact(path.parent)
        return "loads"

    def _foreign(self, path: Path, rng: Rng) -> str:
        if path.name == "vector.pth":
            read_vector(path, 24)
        (read_state if path.name.startswith("state") else read_module)(path)
        return "loads"


def changed_file(rng: Rng, path: Path, data: bytes) -> tuple[str, bytes | None]:
    """What was done to the file, and what became of it; None where it is gone."""
    if rng.random() < 0.03:
        return "gone", None
    if path.suffix == ".json":
        return changed_json(rng, data, SMALL)
    if path.suffix == ".gz" and rng.random() < 0.7:
        about, inner = changed_json(rng, gzip.decompress(data), SMALL)
        return about, gzip.compress(inner)
    if path.suffix == ".safetensors" and rng.random() < 0.6:
        return changed_header(rng, data)
    return mutated(rng, data)


def changed_header(rng: Rng, data: bytes) -> tuple[str, bytes]:
    """Safetensors with another list of its tensors."""
    length = int.from_bytes(data[:8], "little")
    about, header = changed(
        rng, json.loads(data[8 : 8 + length]), (*SMALL, "F32", "BF16", "I64", [0, 0], [1 << 40])
    )
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return f"header {about}", len(text).to_bytes(8, "little") + text + data[8 + length :]
