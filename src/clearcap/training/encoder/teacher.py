"""Teachers: frozen vision networks whose last feature map a compact encoder learns to predict."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from clearcap.errors import InputError
from clearcap.training.encoder.tflite import read_graph


class TeacherOutput(NamedTuple):
    """What a teacher says about a batch of photos."""

    features: Float[np.ndarray, "batch tokens dim"]  # row-major grid of positions
    logits: Float[np.ndarray, "batch classes"]  # no column at all when the teacher is no classifier


class Teacher(ABC):
    """A frozen network: photos in, a grid of features (and class logits, if it has any) out."""

    image_size: int  # pixels; photos are squashed to image_size x image_size
    grid: int  # positions along one side; tokens = grid ** 2
    dim: int
    classes: int

    @abstractmethod
    def outputs(self, images: UInt8[np.ndarray, "batch height width 3"]) -> TeacherOutput:
        """Run the network on RGB photos."""

    def features(
        self, images: UInt8[np.ndarray, "batch height width 3"]
    ) -> Float[np.ndarray, "batch tokens dim"]:
        """The feature grid alone, positions row by row."""
        return self.outputs(images).features


class TfliteTeacher(Teacher):
    """A TensorFlow Lite classifier, read at its last feature map and at its logits.

    The flatbuffer's list of outputs is extended by both tensors, so the interpreter keeps them without
    the debugging mode that preserves every tensor.
    """

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        """Load `path` on `threads` cores.

        Raises:
            InputError: the file is absent or no TFLite model, or ai-edge-litert is not installed.
        """
        content, map_index, logits_index = _expose_last_map(
            Path(path)
        )  # first of all: it says what is missing
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_content=content, num_threads=threads)
        self._interpreter.allocate_tensors()
        self._input: int = self._interpreter.get_input_details()[0]["index"]
        details = {d["index"]: d for d in self._interpreter.get_output_details()}
        self._map, self._logits = details[map_index], details[logits_index]
        self.image_size = int(self._interpreter.get_input_details()[0]["shape"][1])
        self.grid, self.dim = int(self._map["shape"][1]), int(self._map["shape"][3])
        self.classes = int(self._logits["shape"][-1])

    def outputs(self, images: UInt8[np.ndarray, "batch height width 3"]) -> TeacherOutput:
        """Run the network, one photo at a time (batches are no faster on a CPU)."""
        features = np.empty((len(images), self.grid**2, self.dim), np.float32)
        logits = np.empty((len(images), self.classes), np.float32)
        for row, image in enumerate(images):
            self._interpreter.set_tensor(self._input, image[None])
            self._interpreter.invoke()
            features[row] = self._read(self._map).reshape(self.grid**2, self.dim)
            logits[row] = self._read(self._logits).reshape(self.classes)
        return TeacherOutput(features, logits)

    def _read(self, detail: dict[str, Any]) -> Float[np.ndarray, "..."]:
        """One output tensor as real numbers: scale * (stored - zero point)."""
        stored = self._interpreter.get_tensor(detail["index"]).astype(np.float32)
        scale, zero_point = detail["quantization"]
        return (stored - zero_point) * scale if scale else stored


def _expose_last_map(path: Path) -> tuple[bytes, int, int]:
    """The model's bytes with its last feature map and logits among the outputs, and both indices."""
    parsed = read_graph(path)
    import flatbuffers

    exposed = [*map(int, parsed.graph.outputs), parsed.map, parsed.logits]
    parsed.graph.outputs = list(dict.fromkeys(exposed))
    builder = flatbuffers.Builder(path.stat().st_size + 1024)
    builder.Finish(parsed.model.Pack(builder), b"TFL3")
    return bytes(builder.Output()), parsed.map, parsed.logits


class PretrainedTeacher(Teacher):
    """A transformers vision model, by hub name or local folder, read through `load_pretrained`."""

    def __init__(self, source: str | Path) -> None:
        """Load the model.

        Raises:
            InputError: the model cannot be loaded, or its tokens form no square grid.
        """
        from clearcap.vision.transformers import load_pretrained

        self._encoder = load_pretrained(source)
        self.image_size, self.dim, self.classes = self._encoder.image_size, self._encoder.dim, 0
        self.grid = square_grid(self._encoder.tokens - self._encoder.prefix_tokens, source)

    def outputs(self, images: UInt8[np.ndarray, "batch height width 3"]) -> TeacherOutput:
        """Patch tokens (class and register tokens dropped) and no logits."""
        import torch

        pixels = torch.tensor(images).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            tokens = self._encoder(pixels)[:, self._encoder.prefix_tokens :]
        return TeacherOutput(tokens.numpy(), np.empty((len(images), 0), np.float32))


def square_grid(patches: int, source: str | Path) -> int:
    """A side of the square that patch tokens form.

    Raises:
        InputError: they form none.
    """
    side = math.isqrt(patches)
    if side**2 != patches:
        raise InputError(
            f"{source}: {patches} patch tokens form no square grid; pass a model with patch tokens"
        )
    return side


def load_teacher(source: str | Path) -> Teacher:
    """A teacher from a .tflite file, a transformers model folder or a hub name.

    Raises:
        InputError: nothing usable at `source`.
    """
    return TfliteTeacher(source) if Path(source).suffix == ".tflite" else PretrainedTeacher(source)
