"""Teachers: frozen vision networks whose last feature map a compact encoder learns to predict."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from clearcap.errors import InputError
from clearcap.training.encoder.tflite import TfliteNetwork, read_graph

Ask: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Photos in 0..1 [batch, 3, height, width] to features, position by position, and logits."""


class TeacherOutput(NamedTuple):
    """What a teacher says about a batch of photos."""

    features: Float[np.ndarray, "batch tokens dim"]  # row-major grid of positions
    logits: Float[np.ndarray, "batch classes"]  # no column at all when the teacher is no classifier


@dataclass(frozen=True)
class Teacher:
    """A frozen network: photos in, a grid of features (and class logits, if it has any) out.

    Attributes:
        image_size: pixels; photos are squashed to image_size x image_size.
        grid: positions along one side; tokens = grid ** 2.
        dim: features of a position.
        classes: how many logits there are.
        ask: what it says of photos.
    """

    image_size: int
    grid: int
    dim: int
    classes: int
    ask: Ask

    @torch.inference_mode()
    def outputs(self, images: UInt8[np.ndarray, "batch height width 3"]) -> TeacherOutput:
        """What it says about RGB photos in bytes."""
        features, logits = self.ask(torch.tensor(images).permute(0, 3, 1, 2).float() / 255)
        return TeacherOutput(features.numpy(), logits.numpy())


def load_teacher(source: str | Path, device: torch.device | None = None) -> Teacher:
    """A teacher from a .tflite file, a transformers model folder or a hub name.

    Args:
        source: where it is.
        device: where it answers about whole batches, a .tflite file in torch's arithmetic; None is this CPU, where
            TensorFlow Lite runs its own files.

    Raises:
        InputError: nothing usable at `source`, or its tokens form no square grid.
    """
    path = Path(source)
    if path.suffix != ".tflite":
        image_size, ask = _pretrained(source, device)
    else:
        image_size, ask = _interpreted(path) if device is None else _in_torch(path, device)
    with torch.inference_mode():
        features, logits = ask(torch.zeros(1, 3, image_size, image_size, device=device))
    (_, tokens, dim), grid = features.shape, math.isqrt(features.shape[1])
    if grid**2 != tokens:
        raise InputError(
            f"{source}: {tokens} patch tokens form no square grid; pass a model with patch tokens"
        )
    return Teacher(image_size, grid, dim, logits.shape[1], ask)


def _pretrained(source: str | Path, device: torch.device | None) -> tuple[int, Ask]:
    """A transformers vision model: patch tokens (class and register tokens dropped) and no logits."""
    from clearcap.vision.transformers import load_pretrained

    encoder = load_pretrained(source).to(device)
    return encoder.image_size, lambda images: (
        encoder(images)[:, encoder.prefix_tokens :].float(),
        images.new_zeros(len(images), 0),
    )


def _in_torch(path: Path, device: torch.device) -> tuple[int, Ask]:
    """A TensorFlow Lite classifier for batches of photos."""
    half = torch.float16 if device.type == "cuda" else torch.float32
    network = TfliteNetwork(path).to(device).to(half)

    def ask(images: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = network(images.to(half, memory_format=torch.channels_last))
        return features.float(), logits.float()

    return network.image_size, ask


def _interpreted(path: Path) -> tuple[int, Ask]:
    """A TensorFlow Lite classifier, read at its last feature map and at its logits.

    The flatbuffer's list of outputs is extended by both tensors, so the interpreter keeps them without
    the debugging mode that preserves every tensor.
    """
    parsed = read_graph(path)  # first of all: it says what is missing
    import flatbuffers
    from ai_edge_litert.interpreter import Interpreter

    exposed = [*map(int, parsed.graph.outputs), parsed.map, parsed.logits]
    parsed.graph.outputs = list(dict.fromkeys(exposed))
    builder = flatbuffers.Builder(path.stat().st_size + 1024)
    builder.Finish(parsed.model.Pack(builder), b"TFL3")
    interpreter = Interpreter(model_content=bytes(builder.Output()), num_threads=1)
    interpreter.allocate_tensors()
    (entrance,) = interpreter.get_input_details()
    details = {d["index"]: d for d in interpreter.get_output_details()}

    def read(index: int) -> Tensor:
        """One output as real numbers: scale * (stored - zero point)."""
        stored = interpreter.get_tensor(index).astype(np.float32)
        scale, zero_point = details[index]["quantization"]
        return torch.from_numpy((stored - zero_point) * scale if scale else stored)

    def ask(images: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = [], []
        for image in images.mul(255).round().byte().permute(0, 2, 3, 1):  # batches are no faster on a CPU
            interpreter.set_tensor(entrance["index"], image[None].contiguous().numpy())
            interpreter.invoke()
            features.append(read(parsed.map).flatten(1, 2))
            logits.append(read(parsed.logits).flatten(1))
        return torch.cat(features), torch.cat(logits)

    return int(entrance["shape"][1]), ask
