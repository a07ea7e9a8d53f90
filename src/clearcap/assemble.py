"""A new, untrained captioner from a preset and pretrained text and image towers."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clearcap.captioner import Captioner, CaptionerConfig
from clearcap.config import Preset, TextConfig, VisionConfig
from clearcap.errors import InputError
from clearcap.loading import load_captioner
from clearcap.text.spaces import SplitBertSpace, TextSpace, copy_from_masked_lm, word_positions
from clearcap.text.tokens import clean_caption, encode_captions
from clearcap.vision.pretrained import PretrainedEncoder, load_pretrained

BERT_FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
    "pad_token_id",
)


def assemble(preset: Preset, *, seed: int = 0) -> tuple[Captioner, Any]:
    """A captioner with pretrained towers and a new denoiser, and its tokenizer.

    Args:
        preset: settings; ``text.source`` names the masked language model, ``vision.source`` the image encoder.
        seed: of the denoiser's initial weights.

    Raises:
        InputError: a tower is missing or does not fit.
    """
    masked_lm, tokenizer = load_masked_lm(preset.text.source, preset.text.kind)
    tower = load_tower(preset.vision) if preset.vision.kind == "pretrained" else None
    filler = tokenizer.convert_tokens_to_ids(preset.text.filler)
    if filler == tokenizer.unk_token_id:
        raise InputError(
            f"text.filler={preset.text.filler!r} is not in the vocabulary of {preset.text.source}"
        )
    config = CaptionerConfig(
        **preset.of_the_model(),
        bert=text_sizes(masked_lm, preset.text.kind),
        tower={} if tower is None else tower.settings(),
        tokens={
            "pad": tokenizer.pad_token_id,
            "cls": tokenizer.cls_token_id,
            "sep": tokenizer.sep_token_id,
            "filler": filler,
            "mask": tokenizer.mask_token_id,
        },
    )
    torch.manual_seed(seed)
    captioner = Captioner(config)
    if preset.text.kind == "embedding":
        captioner.text.set_words(masked_lm.get_input_embeddings().weight)
    else:
        copy_from_masked_lm(captioner.text, masked_lm)
    if tower is not None:
        captioner.vision.load_state_dict(tower.state_dict(), strict=True)
        if preset.denoiser.null == "mean-colour":
            set_null_photo(captioner)
    elif preset.vision.source:
        load_compact_encoder(captioner, Path(preset.vision.source))
    return captioner, tokenizer


def continued(preset: Preset) -> tuple[Captioner, Any]:
    """The captioner that ``train.init`` names, to go on with, and its tokenizer.

    Its parts and its text statistics are kept; dropout, corruption, sampling and, where ``vision.source`` is given,
    the weights of an image encoder trained here are the preset's.

    Raises:
        InputError: it is missing, or the preset describes other parts than it has.
    """
    start, tokenizer = load_captioner(preset.train.init)
    for section in ("text", "vision", "denoiser"):
        asked, has = dataclasses.asdict(getattr(preset, section)), getattr(start.config, section)
        free = ["source", "dropout", "image_dropout"]
        if section == "vision" and preset.vision.kind != "pretrained" and preset.vision.source:
            free.append("kind")  # another encoder with tokens of the same shape
        fixed = [key for key in asked if key not in free]
        changed = [key for key in fixed if has.get(key, asked[key]) != asked[key]]
        if changed:
            raise InputError(
                f"train.init={preset.train.init} has {section}.{changed[0]}={has[changed[0]]!r}, not "
                f"{asked[changed[0]]!r}; pass {section}.{changed[0]}={has[changed[0]]} or train without train.init"
            )
    config = copy.deepcopy(start.config)
    config.tokens = {**config.tokens, "mask": tokenizer.mask_token_id}
    config.denoiser = dataclasses.asdict(preset.denoiser)
    config.diffusion = dataclasses.asdict(preset.diffusion)
    config.sampling = dataclasses.asdict(preset.sampling)
    replaced = preset.vision.kind != "pretrained" and bool(preset.vision.source)
    if replaced and preset.vision.kind != config.vision["kind"]:
        config.vision = {**config.vision, "kind": preset.vision.kind}
        config.tower = {}
    captioner = Captioner(config)
    for name in ("text", "denoiser") if replaced else ("text", "denoiser", "vision"):
        getattr(captioner, name).load_state_dict(getattr(start, name).state_dict(), strict=True)
    if replaced:
        load_compact_encoder(captioner, Path(preset.vision.source))
    return captioner, tokenizer


def text_sizes(masked_lm: Any, kind: str) -> dict[str, Any]:
    """What rebuilds the text space's tower without its weights."""
    if kind == "embedding":
        vocab, dim = masked_lm.get_input_embeddings().weight.shape
        return {"vocab_size": vocab, "dim": dim}
    return {field: getattr(masked_lm.config, field) for field in BERT_FIELDS}


def load_tower(vision: VisionConfig) -> PretrainedEncoder:
    """A pretrained image encoder that fits the settings.

    Raises:
        InputError: it is missing, or gives other tokens than the settings say.
    """
    if not vision.source:
        raise InputError("vision.source is empty; pass vision.source=<folder or hub name of a vision model>")
    tower = load_pretrained(
        vision.source, "global" if vision.mode == "global" else "patches", vision.image_size
    )
    if (tower.tokens, tower.dim) != (vision.tokens, vision.dim):
        raise InputError(
            f"{vision.source} gives {tower.tokens} tokens of {tower.dim} channels, not {vision.tokens} of "
            f"{vision.dim}; pass vision.tokens={tower.tokens} vision.dim={tower.dim}"
        )
    return tower


@torch.no_grad()
def set_null_photo(captioner: Captioner) -> None:
    """A photo of the mean colour stands for no photo: the authors' normalised photo of zeros (LaDiC's code)."""
    side = captioner.vision.image_size
    captioner.denoiser.null_image.copy_(captioner.vision.encode(torch.zeros(1, 3, side, side))[0])


def load_masked_lm(source: str, kind: str = "bert-split") -> tuple[Any, Any]:
    """A masked language model and its tokenizer, by hub name or folder, safetensors only.

    Args:
        source: a BERT for kind "bert-split", any with a word embedding (DistilBERT) for kind "embedding".
        kind: the text space it is for.

    Raises:
        InputError: nothing loadable there, or tensors missing or unexpected.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForMaskedLM, AutoTokenizer, BertForMaskedLM

    if not source:
        raise InputError(
            "text.source is empty; pass text.source=<folder or hub name> (see clearcap pretrain-text)"
        )
    loader: Any = BertForMaskedLM if kind == "bert-split" else AutoModelForMaskedLM
    try:
        masked_lm, loading = loader.from_pretrained(
            source,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
            attn_implementation="sdpa",
        )
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, SafetensorError) as fault:
        raise InputError(f"text.source={source!r} cannot be loaded ({str(fault).splitlines()[0]})") from fault
    unneeded = (
        "bert.pooler.",
        "cls.seq_relationship.",
    )  # of next-sentence prediction, in Google's checkpoints
    unexpected = [key for key in map(str, loading["unexpected_keys"]) if not key.startswith(unneeded)]
    resized = [str(key) for key, *_ in loading["mismatched_keys"]]
    for fault_, keys in (
        ("missing", sorted(loading["missing_keys"])),
        ("unexpected", sorted(unexpected)),
        ("of another size than config.json says", sorted(resized)),
    ):
        if keys:
            raise InputError(
                f"{source}: {keys[0]} is {fault_}; is it a masked language model of BERT's kind?"
            )
    return masked_lm.eval(), tokenizer


def load_compact_encoder(captioner: Captioner, file: Path) -> None:
    """Strictly load the weights of an encoder that was trained here."""
    from safetensors.torch import load_file

    if not file.is_file():
        raise InputError(
            f"vision.source={str(file)!r} does not exist; clearcap distill and finetune-encoder make one"
        )
    captioner.vision.load_state_dict(load_file(file), strict=True)


def tokenize_for(text: TextConfig, tokenizer: Any) -> Callable[[Sequence[str]], tuple[Tensor, Tensor]]:
    """Raw captions -> ids and mask, cleaned and padded as the preset says."""

    def tokenize(captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        cleaned = [clean_caption(caption, text.max_words, text.keep_period) for caption in captions]
        return encode_captions(tokenizer, cleaned, text.length)

    return tokenize


@torch.no_grad()
def compute_statistics(
    space: SplitBertSpace, ids: Tensor, mask: Tensor, *, words_only: bool, batch: int = 512
) -> tuple[Tensor, Tensor]:
    """Mean and unbiased standard deviation of each latent channel over a corpus (LaDiC, section 3.2).

    Args:
        space: its lower half encodes.
        ids, mask: tokenised captions.
        words_only: over words (which are all that gets normalised) or over every position, as the authors did.

    Returns:
        Two vectors [dim], float32; accumulated in float64.
    """
    total, square, count = torch.zeros(space.dim).double(), torch.zeros(space.dim).double(), 0
    for i, m in zip(ids.split(batch), mask.split(batch), strict=True):
        z = space.contextual(i, m)
        z = (z[word_positions(m)] if words_only else z.flatten(0, 1)).double().cpu()
        total, square, count = total + z.sum(0), square + (z * z).sum(0), count + len(z)
    mean = total / count
    return mean.float(), ((square - count * mean * mean) / (count - 1)).clamp_min(0).sqrt().float()


def settle_text(space: TextSpace, text: TextConfig, tokenizer: Any, ids: Tensor, mask: Tensor) -> None:
    """What a text space learns from its corpus before training: nothing, where latents are word embeddings.

    Args:
        space: gets its statistics and its special latent.
        text: the preset's settings.
        tokenizer: the space's.
        ids, mask: the corpus, tokenised.
    """
    if not isinstance(space, SplitBertSpace):
        return
    # The authors' statistics cover every position; words are all that is normalised otherwise.
    space.set_statistics(*compute_statistics(space, ids, mask, words_only=text.special != "raw"))
    period = [tokenizer.cls_token_id, tokenizer.convert_tokens_to_ids("."), tokenizer.sep_token_id]
    space.set_special_latent(text.special, torch.tensor([period]))
