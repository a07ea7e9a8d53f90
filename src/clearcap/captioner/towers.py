"""A captioner ready to be trained, from a preset and pretrained text and image towers, or from another captioner."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from clearcap import registry
from clearcap.captioner.building import check_tokens
from clearcap.captioner.folder import local_folder, read_settings
from clearcap.captioner.model import Captioner, CaptionerConfig, load_captioner
from clearcap.config import Preset, TextConfig, VisionConfig
from clearcap.errors import InputError
from clearcap.text.tokenizer import clean_caption, encode_captions
from clearcap.vision.trained import TrainedEncoder


def build_captioner(preset: Preset, *, seed: int = 0) -> tuple[Captioner, Any]:
    """A captioner with pretrained towers and a new denoiser, and its tokenizer.

    Args:
        preset: settings; ``text.source`` names the masked language model, ``vision.source`` the image encoder.
        seed: of the denoiser's initial weights.

    Raises:
        InputError: a tower is missing or does not fit.
    """
    kind = registry.find("text space", preset.text.kind)
    pretrained, tokenizer = load_language_model(preset.text.source, kind.pretrained_class)
    tokens = special_ids(tokenizer, preset.text.filler)
    if tokens["filler"] == tokenizer.unk_token_id:
        raise InputError(
            f"text.filler={preset.text.filler!r} is not in the vocabulary of {preset.text.source}"
        )
    encoder = load_encoder(preset.vision)
    check_tokens(preset.vision, encoder)
    config = CaptionerConfig(
        **preset.of_the_model(),
        bert=kind.sizes_of(pretrained),
        tower=encoder.settings(),
        tokens=tokens | {"mask": tokenizer.mask_token_id},
    )
    torch.manual_seed(seed)
    captioner = Captioner(config)
    if preset.text.pretrained:
        captioner.text.copy_weights(pretrained)
    if preset.vision.source:  # else it stays as the seed drew it
        captioner.vision.load_state_dict(encoder.state_dict(), strict=True)
    if preset.train.denoiser:
        start, _ = load_captioner(preset.train.denoiser)
        copy_what_fits(captioner.denoiser, start.denoiser)
    if preset.denoiser.null == "mean-colour":  # stands for no photo in LaDiC's code
        with torch.no_grad():
            captioner.denoiser.null_image.copy_(captioner.vision.null_image())
    return captioner, tokenizer


@torch.no_grad()
def copy_what_fits(denoiser: Any, start: Any) -> None:
    """Begin a denoiser with another's weights: of each tensor that both have, as much as both have of it.

    One of fewer layers takes the first, a narrower feed-forward part the first channels. Where its latents are
    another text space's it says nothing of use yet, but its layers know how to attend to the photo.

    Raises:
        InputError: the two have no weight in common.
    """
    given = start.state_dict()
    common = {name: tensor for name, tensor in denoiser.state_dict().items() if name in given}
    if not common:
        raise InputError("train.denoiser: the two denoisers are of different kinds; leave it out")
    for name, tensor in common.items():
        both = tuple(slice(min(sizes)) for sizes in zip(tensor.shape, given[name].shape, strict=True))
        tensor[both] = given[name][both].to(tensor.dtype)


def continue_captioner(preset: Preset) -> tuple[Captioner, Any]:
    """The captioner that ``train.init`` names, to go on with, and its tokenizer.

    Its parts and its text statistics are kept; dropout, corruption and sampling are the preset's, and so is the image
    encoder where ``vision.source`` gives the weights of one that was trained here: its tokens have the same shape.

    Raises:
        InputError: it is missing, or the preset describes other parts than it has.
    """
    start, tokenizer = load_captioner(preset.train.init)
    kind = registry.find("image encoder", preset.vision.kind)
    replaced = bool(preset.vision.source) and issubclass(kind, TrainedEncoder)
    free = {"text.source", "vision.source", "denoiser.dropout", "denoiser.image_dropout"}
    if replaced:
        free.add("vision.kind")
    for section in ("text", "vision", "denoiser"):
        asked, has = dataclasses.asdict(getattr(preset, section)), getattr(start.config, section)
        fixed = [key for key in asked if f"{section}.{key}" not in free]
        changed = [key for key in fixed if has.get(key, asked[key]) != asked[key]]
        if changed:
            raise InputError(
                f"train.init={preset.train.init} has {section}.{changed[0]}={has[changed[0]]!r}, not "
                f"{asked[changed[0]]!r}; pass {section}.{changed[0]}={has[changed[0]]} or train without train.init"
            )
    config = copy.deepcopy(start.config)
    config.tokens = {**config.tokens, "mask": tokenizer.mask_token_id}
    for section in ("denoiser", "diffusion", "sampling"):
        setattr(config, section, dataclasses.asdict(getattr(preset, section)))
    vision = load_encoder(preset.vision) if replaced else start.vision
    check_tokens(preset.vision, vision)
    if replaced:
        config.vision = {**config.vision, "kind": preset.vision.kind}
        config.tower = vision.settings()
    captioner = Captioner(config)
    for name, part in (("text", start.text), ("vision", vision), ("denoiser", start.denoiser)):
        getattr(captioner, name).load_state_dict(part.state_dict(), strict=True)
    return captioner, tokenizer


def load_encoder(vision: VisionConfig) -> Any:
    """The image encoder that ``vision.source`` names: a trained network, or that of a captioner.

    Raises:
        InputError: it is missing, or of another kind than ``vision.kind``.
    """
    kind = registry.find("image encoder", vision.kind)
    if not _is_captioner(vision.source):
        return kind.load(vision)
    start, _ = load_captioner(vision.source)
    if (has := start.config.vision["kind"]) != vision.kind:
        raise InputError(
            f"vision.source={vision.source} has an image encoder of kind {has}; pass vision.kind={has}"
        )
    encoder = kind.build(vision, start.vision.settings())
    encoder.load_state_dict(start.vision.state_dict())
    return encoder


def _is_captioner(source: str) -> bool:
    """Whether a folder at hand, or the name of a model that ships, is a captioner's."""
    try:
        return bool(source) and bool(read_settings(local_folder(source)))
    except InputError:
        return False


def special_ids(tokenizer: Any, filler: str) -> dict[str, int]:
    """Ids of the special tokens that a captioner needs, and of the one that stands for them in the caption loss."""
    special = {"pad": tokenizer.pad_token_id, "cls": tokenizer.cls_token_id, "sep": tokenizer.sep_token_id}
    return {**special, "filler": tokenizer.convert_tokens_to_ids(filler)}


def load_language_model(source: str, class_name: str) -> tuple[Any, Any]:
    """A pretrained language model and its tokenizer, by hub name or folder, safetensors only.

    Args:
        source: folder or hub name; of a captioner, the language model of its text space.
        class_name: the transformers class that it is loaded as.

    Raises:
        InputError: nothing loadable there, or tensors missing or unexpected.
    """
    import transformers
    from safetensors import SafetensorError

    if not source:
        raise InputError(
            "text.source is empty; pass text.source=<folder or hub name> (see clearcap pretrain-text)"
        )
    if _is_captioner(source):
        start, tokenizer = load_captioner(source)
        return start.text.language_model().eval(), tokenizer
    try:
        model, loading = getattr(transformers, class_name).from_pretrained(
            source,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
            attn_implementation="sdpa",
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, SafetensorError) as fault:
        raise InputError(f"text.source={source!r} cannot be loaded ({str(fault).splitlines()[0]})") from fault
    # Of next-sentence prediction, in Google's checkpoints.
    unneeded = ("bert.pooler.", "cls.seq_relationship.")
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
    return model.eval(), tokenizer


def tokenize_for(text: TextConfig, tokenizer: Any) -> Callable[[Sequence[str]], tuple[Tensor, Tensor]]:
    """Raw captions -> ids and mask, cleaned and padded as the preset says."""

    def tokenize(captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        cleaned = [clean_caption(caption, text.max_words, text.keep_period) for caption in captions]
        return encode_captions(tokenizer, cleaned, text.length)

    return tokenize
