"""The CLIP-Diffusion-LM authors' checkpoint as a ``Captioner``."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from clearcap.captioner.loading import load_strictly
from clearcap.captioner.model import Captioner, CaptionerConfig
from clearcap.captioner.towers import special_ids
from clearcap.config import load_preset
from clearcap.convert.folder import load_tokenizer, sections, write_folder
from clearcap.convert.reading import read_module
from clearcap.convert.renaming import ConversionReport, Parts, Renaming, in_authors_names
from clearcap.errors import InputError
from clearcap.vision.transformers import TransformersEncoder, load_pretrained

BLOCK: Parts = (  # a DistilBERT layer
    (("attention.q_lin", "attention.k_lin", "attention.v_lin"), "attend_self.qkv"),
    (("attention.out_lin",), "attend_self.out"),
    (("sa_layer_norm",), "norm_self"),
    (("ffn.lin1",), "up"),
    (("ffn.lin2",), "down"),
    (("output_layer_norm",), "norm_out"),
)
LAYER = "model.distilbert.transformer.layer.{}."
OUTSIDE = {
    "denoiser.image": "image_linear",
    "denoiser.text": "text_linear",
    "denoiser.norm": "model.distilbert.embeddings.LayerNorm",
    "denoiser.head.0": "model.vocab_transform",
    "denoiser.head.2": "model.vocab_layer_norm",
}
POSITION, SEGMENT = "model.distilbert.embeddings.position_embeddings.weight", "segment_embedding.weight"


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
    captioner, renaming = build_clip_diffusion_lm(
        state,
        vision=load_pretrained(vision, mode="global"),
        tokens=special_ids(words, words.pad_token),
        heads=heads,
        length=length,
        source=str(file),
    )
    kind = captioner.config.denoiser["kind"]
    return write_folder(captioner, renaming, words, out, words=tokenizer, network=kind)


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
    named["denoiser.position"] = renaming.take(POSITION)
    if SEGMENT in renaming:
        named["denoiser.fuse.segment.weight"] = renaming.take(SEGMENT)
    named |= renaming.pairs(OUTSIDE) | renaming.blocks(BLOCK, "denoiser.blocks.{}.", LAYER)
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
        **sections(
            preset,
            text={"length": length},
            vision={"tokens": 1, "dim": vision.dim, "image_size": vision.image_size},
            denoiser={
                "width": dim,
                "depth": renaming.layers(f"{LAYER}ffn.lin1.weight"),
                "heads": heads,
                "hidden": renaming.shape(LAYER.format(0) + "ffn.lin1.weight")[0],
                "positions": renaming.shape(POSITION)[0],
                "dropout": dropout,
            },
        ),
        bert={"vocab_size": vocab, "dim": dim},
        tower=vision.settings(),
        tokens=tokens,
    )


authors_names = partial(
    in_authors_names,
    parts=BLOCK,
    block=LAYER,
    layers=OUTSIDE,
    whole={"denoiser.position": POSITION, "denoiser.fuse.segment.weight": SEGMENT},
)
