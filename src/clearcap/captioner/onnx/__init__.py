"""A captioner as ONNX graphs: written, given int8 weights, and run by onnxruntime."""

from __future__ import annotations

from pathlib import Path

FORMAT = "1"  # of the names of inputs, outputs and metadata; a reader of another refuses the file
GRAPHS = {
    "encode": "photos -> keys and values of every layer of the denoiser; also those of no photo",
    "denoise": "one call of the denoiser",
    "decode": "a latent -> token logits",
    "words": "tokens -> their latent, which only captions with fixed words need",
}


def graph_file(folder: Path, name: str) -> Path:
    """Where a graph lies in the folder of an exported captioner."""
    return folder / f"{name}.onnx"


def has_graphs(folder: Path) -> bool:
    """Whether a folder holds all graphs, with trained weights beside them or not."""
    return all(graph_file(folder, name).is_file() for name in GRAPHS)


def is_exported(folder: Path) -> bool:
    """Whether a folder holds graphs and no trained weights beside them."""
    graphs = any(graph_file(folder, name).is_file() for name in GRAPHS)
    return graphs and not any(folder.glob("model*.safetensors"))
