"""The LaDiC authors' checkpoint as a ``Captioner``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from clearcap.captioner.loading import load_strictly
from clearcap.captioner.model import Captioner, CaptionerConfig
from clearcap.captioner.towers import special_ids
from clearcap.config import load_preset
from clearcap.convert.folder import load_tokenizer, sections, write_folder
from clearcap.convert.reading import read_state, read_vector
from clearcap.convert.renaming import ConversionReport, Parts, Renaming, in_authors_names
from clearcap.errors import InputError

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)  # the authors' image normalisation, RGB in 0..1
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)

BLOCK: Parts = (  # a layer of the denoiser
    (tuple(f"attention.self.{part}" for part in ("query", "key", "value")), "attend_self.qkv"),
    (("attention.output.dense",), "attend_self.out"),
    (("attention.output.LayerNorm",), "norm_self"),
    (("crossattention.self.query",), "attend_image.q"),
    (("crossattention.self.key", "crossattention.self.value"), "attend_image.kv"),
    (("crossattention.output.dense",), "attend_image.out"),
    (("crossattention.output.LayerNorm",), "norm_image"),
    (("intermediate.dense",), "up"),
    (("output.dense",), "down"),
    (("output.LayerNorm",), "norm_out"),
)
LAYER = "diffuser.encoder.layer.{}."
POSITION = "diffuser.embeddings.position_embeddings.weight"
OUTSIDE = {"denoiser.norm": "diffuser.embeddings.LayerNorm"}
TIME = {"denoiser.time.head": "time_layer_norm"}
HEAD = {
    f"text.lm_head.predictions.{part}": f"lm_head.predictions.{part}"
    for part in ("decoder", "transform.dense", "transform.LayerNorm")
}
TOWER: Parts = (  # a layer of the image encoder
    (("mlp.fc1",), "mlp.fc1"),
    (("mlp.fc2",), "mlp.fc2"),
    (("norm1",), "layer_norm1"),
    (("norm2",), "layer_norm2"),
    (("attn.qkv",), "self_attn.qkv"),
    (("attn.proj",), "self_attn.projection"),
)
BERT_TOKENS = {"pad": 0, "cls": 101, "sep": 102, "filler": 1012}  # of BERT-base-uncased; the filler is "."


@dataclass(frozen=True)
class Heads:
    """Attention heads of LaDiC's three transformers, which no tensor's shape tells."""

    text: int = 12
    denoiser: int = 16
    vision: int = 12


def convert_ladic(
    file: str | Path,
    out: str | Path,
    *,
    mean: str | Path,
    std: str | Path,
    tokenizer: str | Path = "bert-base-uncased",
    heads: Heads = Heads(),
    decoder: str = "identity",
    length: int = 24,
) -> ConversionReport:
    """Turn the authors' checkpoint into a ``Captioner.from_pretrained`` folder.

    Args:
        file: ``LaDiC.bin``, ``model.safetensors`` or an accelerate ``save_state`` folder; of the class with or
            without time LayerNorm.
        out: the folder to write; must not hold another model.
        mean: the authors' ``mean_emb_split.pickle``, a vector [dim].
        std: their ``std_emb_split.pickle``.
        tokenizer: folder or hub name of BERT's tokenizer, or its ``vocab.txt``.
        heads: attention heads; the defaults are the released model's.
        decoder: "identity", what the released weights were trained with, or "upper", the paper's top six layers.
        length: positions of a caption.

    Raises:
        InputError: a file is missing, damaged or foreign, or its parts do not fit.
    """
    words = load_tokenizer(tokenizer)
    state = read_state(Path(file))
    dim = Renaming(state, str(file)).shape("space_encoder.embeddings.word_embeddings.weight")[1]
    captioner, renaming = build_ladic(
        state,
        mean=read_vector(Path(mean), dim),
        std=read_vector(Path(std), dim),
        heads=heads,
        tokens=special_ids(words, "."),
        decoder=decoder,
        length=length,
        source=str(file),
    )
    network = "Diffuser_with_LN" if "time_layer_norm.weight" in state else "Diffuser"
    return write_folder(captioner, renaming, words, out, words=tokenizer, network=network)


def build_ladic(
    state: dict[str, Tensor],
    *,
    mean: Tensor,
    std: Tensor,
    heads: Heads = Heads(),
    tokens: dict[str, int] = BERT_TOKENS,
    decoder: str = "identity",
    length: int = 24,
    dropout: float = 0.1,
    source: str = "checkpoint",
) -> tuple[Captioner, Renaming]:
    """A captioner with the weights of an authors' state dict, and what became of each of its tensors.

    Args:
        state: tensors under the authors' names.
        mean: of each latent channel, [dim].
        std: likewise.
        heads: attention heads.
        tokens: ids of "pad", "cls", "sep" and "filler", the full stop.
        decoder: "identity" or "upper".
        length: positions of a caption.
        dropout: of the denoiser, for training on.
        source: the checkpoint's name, for messages.

    Raises:
        InputError: tensors are missing, unknown or of sizes that do not belong together.
    """
    renaming = Renaming(state, source)
    config = _config(renaming, heads, tokens, decoder, length, dropout)
    split = config.text["split"]
    named = _text(renaming, split, decoder) | _vision(renaming) | _denoiser(renaming)
    renaming.finish()
    captioner = Captioner(config)
    null_image, special = captioner.denoiser.null_image, captioner.text.special
    named |= {"text.mean": mean, "text.std": std, "text.special": special, "denoiser.null_image": null_image}
    load_strictly(captioner, named, source, "pass a checkpoint whose parts belong together")
    period = torch.tensor([[tokens["cls"], tokens["filler"], tokens["sep"]]])
    captioner.text.set_special_latent("raw" if decoder == "identity" else "zero", period)
    with torch.no_grad():  # the authors' "no photo" is a normalised photo of zeros
        zeros = torch.zeros(1, 3, captioner.vision.image_size, captioner.vision.image_size)
        null_image.copy_(captioner.vision.encode(zeros)[0])
    return captioner.eval(), renaming


def _config(
    renaming: Renaming, heads: Heads, tokens: dict[str, int], decoder: str, length: int, dropout: float
) -> CaptionerConfig:
    embeddings = {
        name: renaming.shape(f"space_encoder.embeddings.{name}_embeddings.weight")
        for name in ("word", "position", "token_type")
    }
    vocab, dim = embeddings["word"]
    width = renaming.shape(POSITION)[1]
    image_dim, _, patch, _ = renaming.shape("visual_encoder.patch_embed.proj.weight")
    image_tokens = renaming.shape("visual_encoder.pos_embed")[1]
    side = math.isqrt(image_tokens - 1) * patch
    split = renaming.layers("space_encoder.encoder.layer.{}.output.dense.weight")
    for name, size, count in (
        ("text", dim, heads.text),
        ("denoiser", width, heads.denoiser),
        ("vision", image_dim, heads.vision),
    ):
        if size % count:
            raise InputError(
                f"{renaming.source}: {name} width {size} is not a multiple of {count} heads; pass heads"
            )
    if width != 2 * dim:
        raise InputError(
            f"{renaming.source}: a denoiser {width} wide does not fit a text space of {dim} channels"
        )
    preset = load_preset("ladic-base-authors" if decoder == "identity" else "ladic-base")
    return CaptionerConfig(
        **sections(
            preset,
            text={"split": split, "decoder": decoder, "length": length},
            vision={"tokens": image_tokens, "dim": image_dim, "image_size": side},
            denoiser={
                "width": width,
                "depth": renaming.layers(f"{LAYER}output.dense.weight"),
                "heads": heads.denoiser,
                "dropout": dropout,
                "hidden": renaming.shape(LAYER.format(0) + "intermediate.dense.weight")[0],
                "positions": renaming.shape(POSITION)[0],
                "time_head": "norm" if "time_layer_norm.weight" in renaming else "none",
            },
        ),
        bert={
            "vocab_size": vocab,
            "hidden_size": dim,
            "num_hidden_layers": renaming.layers("space_decoder.encoder.layer.{}.output.dense.weight"),
            "num_attention_heads": heads.text,
            "intermediate_size": renaming.shape("space_encoder.encoder.layer.0.intermediate.dense.weight")[0],
            "hidden_act": "gelu",
            "max_position_embeddings": embeddings["position"][0],
            "type_vocab_size": embeddings["token_type"][0],
            "layer_norm_eps": 1e-12,
            "pad_token_id": tokens["pad"],
        },
        tower={
            "architecture": "BlipVisionModel",
            "config": {
                "hidden_size": image_dim,
                "intermediate_size": renaming.shape("visual_encoder.blocks.0.mlp.fc1.weight")[0],
                "num_hidden_layers": renaming.layers("visual_encoder.blocks.{}.mlp.fc1.weight"),
                "num_attention_heads": heads.vision,
                "image_size": side,
                "patch_size": patch,
                "layer_norm_eps": 1e-6,  # timm's, which transformers' default (1e-5) is not
            },
            "projection": None,
            "mode": "patches",
            "image_size": side,
            "mean": list(PIXEL_MEAN),
            "std": list(PIXEL_STD),
        },
        tokens=tokens,
    )


def _text(renaming: Renaming, split: int, decoder: str) -> dict[str, Tensor]:
    renaming.drop("space_encoder.embeddings.position_ids", "0, 1, 2, ...")
    named = renaming.prefixed("space_encoder.", "text.encoder.")
    named |= renaming.pairs(HEAD)
    renaming.drop_twin("lm_head.predictions.bias", named["text.lm_head.predictions.decoder.bias"])
    if decoder == "upper":
        layers = renaming.layers("space_decoder.encoder.layer.{}.output.dense.weight")
        for i in range(split, layers):
            named |= renaming.prefixed(f"space_decoder.encoder.layer.{i}.", f"text.upper.{i - split}.")
    for known in ("embeddings.", "encoder.layer.", "cls.predictions."):
        renaming.drop(f"space_decoder.{known}", "no part of the authors' forward pass")
    return named


def _vision(renaming: Renaming) -> dict[str, Tensor]:
    mine = "vision.tower."
    named = {
        f"{mine}embeddings.class_embedding": renaming.take("visual_encoder.cls_token"),
        f"{mine}embeddings.position_embedding": renaming.take("visual_encoder.pos_embed"),
    }
    named |= renaming.pair(f"{mine}embeddings.patch_embedding", "visual_encoder.patch_embed.proj")
    named |= renaming.blocks(TOWER, f"{mine}encoder.layers.{{}}.", "visual_encoder.blocks.{}.")
    return named | renaming.pair(f"{mine}post_layernorm", "visual_encoder.norm")


def _denoiser(renaming: Renaming) -> dict[str, Tensor]:
    renaming.drop("diffuser.embeddings.position_ids", "0, 1, 2, ...")
    renaming.drop("diffuser.embeddings.word_embeddings.weight", "latents enter without a word embedding")
    named = {"denoiser.position": renaming.take(POSITION)}
    timed = TIME if "time_layer_norm.weight" in renaming else {}
    return named | renaming.pairs(OUTSIDE | timed) | renaming.blocks(BLOCK, "denoiser.blocks.{}.", LAYER)


authors_names = partial(
    in_authors_names,
    parts=BLOCK,
    block=LAYER,
    layers=OUTSIDE | TIME | HEAD,
    whole={
        "denoiser.position": POSITION,
        "text.lm_head.predictions.decoder.bias": "lm_head.predictions.bias",  # one parameter of two names
    },
)
