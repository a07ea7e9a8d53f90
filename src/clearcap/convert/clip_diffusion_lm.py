"""The CLIP-Diffusion-LM authors' checkpoint as a ``Captioner``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clearcap.captioner.loading import load_strictly
from clearcap.captioner.model import Captioner, CaptionerConfig
from clearcap.config import load_preset
from clearcap.convert.folder import load_tokenizer, write_folder
from clearcap.convert.reading import read_module
from clearcap.convert.renaming import ConversionReport, Renaming
from clearcap.errors import InputError
from clearcap.vision.transformers import TransformersEncoder, load_pretrained

BLOCK: tuple[tuple[tuple[str, ...], str], ...] = (  # a DistilBERT layer: their parts, joined, are ours
    (("attention.q_lin", "attention.k_lin", "attention.v_lin"), "attend_self.qkv"),
    (("attention.out_lin",), "attend_self.out"),
    (("sa_layer_norm",), "norm_self"),
    (("ffn.lin1",), "up"),
    (("ffn.lin2",), "down"),
    (("output_layer_norm",), "norm_out"),
)
OUTSIDE: tuple[tuple[str, str], ...] = (
    ("image_linear", "denoiser.image"),
    ("text_linear", "denoiser.text"),
    ("model.distilbert.embeddings.LayerNorm", "denoiser.norm"),
    ("model.vocab_transform", "denoiser.head.0"),
    ("model.vocab_layer_norm", "denoiser.head.2"),
)
POSITION, SEGMENT = "model.distilbert.embeddings.position_embeddings.weight", "segment_embedding.weight"
LAYER = "model.distilbert.transformer.layer."


def convert_clip_diffusion_lm(
    file: str | Path,
    out: str | Path,
    *,
    vision: str | Path = "openai/clip-vit-base-patch32",
    tokenizer: str | Path = "distilbert-base-uncased",
    heads: int = 12,
    length: int = 16,
) -> ConversionReport:
    """Turn the authors' checkpoint into a ``Captioner.from_pretrained`` folder.

    Args:
        file: their ``.pickle`` of the whole module (read without importing or running its classes), or its state
            dict; of the concatenating or the adding model.
        out: the folder to write; must not hold another model.
        vision: folder or hub name of the CLIP model whose image features it was trained on.
        tokenizer: folder or hub name of DistilBERT's tokenizer, or its ``vocab.txt``.
        heads: attention heads of the core network, which no tensor's shape tells.
        length: positions of a caption.

    Raises:
        InputError: a file is missing, damaged or foreign, or its parts do not fit.
    """
    words = load_tokenizer(tokenizer)
    state = read_module(Path(file))
    tokens = {
        "pad": words.pad_token_id,
        "cls": words.cls_token_id,
        "sep": words.sep_token_id,
        "filler": words.pad_token_id,
    }
    captioner, renaming = build_clip_diffusion_lm(
        state,
        vision=load_pretrained(vision, mode="global"),
        tokens=tokens,
        heads=heads,
        length=length,
        source=str(file),
    )
    vocab = captioner.config.bert["vocab_size"]
    if len(words) != vocab:
        raise InputError(
            f"{tokenizer}: {len(words)} tokens, but the checkpoint has {vocab}; pass the tokenizer it was trained with"
        )
    write_folder(captioner, words, Path(out))
    return renaming.report(
        captioner, source=Path(file), out=Path(out), network=captioner.config.denoiser["kind"]
    )


def build_clip_diffusion_lm(
    state: dict[str, Tensor],
    *,
    vision: TransformersEncoder,
    tokens: dict[str, int],
    heads: int = 12,
    length: int = 16,
    dropout: float = 0.1,
    source: str = "checkpoint",
) -> tuple[Captioner, Renaming]:
    """A captioner with the weights of an authors' state dict, and what became of each of its tensors.

    Args:
        state: tensors under the authors' names.
        vision: the encoder of photos, one vector each.
        tokens: ids of "pad", "cls", "sep" and "filler".
        heads: attention heads.
        length: positions of a caption.
        dropout: of the core network, for training on.
        source: the checkpoint's name, for messages.

    Raises:
        InputError: tensors are missing, unknown or of sizes that do not belong together.
    """
    renaming = Renaming(state, source)
    config = _config(renaming, vision, tokens, heads, length, dropout)
    named = {"text.embedding.weight": renaming.take("embedding.weight")}
    renaming.drop_twin("lm_head.weight", named["text.embedding.weight"])
    if "lm_head.bias" in renaming:
        renaming.drop_twin("lm_head.bias", torch.zeros(renaming.shape("lm_head.bias")))
    renaming.drop("model.distilbert.embeddings.position_ids", "0, 1, 2, ...")
    for theirs, ours in OUTSIDE:
        named |= renaming.pair(theirs, ours)
    named["denoiser.position"] = renaming.take(POSITION)
    if SEGMENT in renaming:
        named["denoiser.fuse.segment.weight"] = renaming.take(SEGMENT)
    for i in range(config.denoiser["depth"]):
        for parts, ours in BLOCK:
            named |= renaming.joined_pair(
                [f"{LAYER}{i}.{part}" for part in parts], f"denoiser.blocks.{i}.{ours}"
            )
    renaming.finish()
    captioner = Captioner(config)
    named |= {f"vision.{name}": tensor for name, tensor in vision.state_dict().items()}
    load_strictly(captioner, named, source, "pass a checkpoint whose parts belong together")
    return captioner.eval(), renaming


def _config(
    renaming: Renaming,
    vision: TransformersEncoder,
    tokens: dict[str, int],
    heads: int,
    length: int,
    dropout: float,
) -> CaptionerConfig:
    kind = "concat" if SEGMENT in renaming else "add"
    vocab, dim = renaming.shape("embedding.weight")
    feature_dim = renaming.shape("image_linear.weight")[1]
    if feature_dim != vision.dim:
        raise InputError(
            f"{renaming.source}: reads image vectors of {feature_dim} channels, but the CLIP model gives {vision.dim}; "
            "pass the one it was trained with"
        )
    if dim % heads:
        raise InputError(f"{renaming.source}: width {dim} is not a multiple of {heads} heads; pass heads")
    preset = load_preset(f"clip-diffusion-lm-{kind}")
    return CaptionerConfig(
        text=dataclasses.asdict(preset.text) | {"source": "", "length": length},
        vision=dataclasses.asdict(preset.vision)
        | {"source": "", "tokens": 1, "dim": vision.dim, "image_size": vision.image_size},
        denoiser=dataclasses.asdict(preset.denoiser)
        | {
            "width": dim,
            "depth": renaming.layers(LAYER + "{}.ffn.lin1.weight"),
            "heads": heads,
            "hidden": renaming.shape(f"{LAYER}0.ffn.lin1.weight")[0],
            "positions": renaming.shape(POSITION)[0],
            "dropout": dropout,
        },
        diffusion=dataclasses.asdict(preset.diffusion),
        sampling=dataclasses.asdict(preset.sampling),
        bert={"vocab_size": vocab, "dim": dim},
        tower=vision.settings(),
        tokens=tokens,
    )


def authors_names(named: dict[str, Tensor]) -> dict[str, Tensor]:
    """Trained tensors (parameters or gradients) of a captioner under the authors' names, q, k and v apart."""
    back = {ours: theirs for theirs, ours in OUTSIDE}
    whole = {"denoiser.position": POSITION, "denoiser.fuse.segment.weight": SEGMENT}
    theirs: dict[str, Tensor] = {}
    for ours, tensor in named.items():
        layer, _, part = ours.rpartition(".")
        if ours.startswith("denoiser.blocks."):
            _, _, i, module = layer.split(".", 3)
            names = next(names for names, mine in BLOCK if mine == module)
            for name, piece in zip(names, tensor.chunk(len(names)), strict=True):
                theirs[f"{LAYER}{i}.{name}.{part}"] = piece
        elif layer in back:
            theirs[f"{back[layer]}.{part}"] = tensor
        elif ours in whole:
            theirs[whole[ours]] = tensor
    return theirs


__all__: list[Any] = ["authors_names", "build_clip_diffusion_lm", "convert_clip_diffusion_lm"]
