"""BLIP-base and GIT-base of transformers with random weights, made to write captions of an exact length."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import System

BEAMS = 3
MEAN = (0.481, 0.458, 0.408)  # of both models' image processors, OpenAI CLIP's
STD = (0.269, 0.261, 0.276)


def blip_base(side: int = 224) -> Any:
    """BLIP-base (Li et al. 2022): ViT-B/16 and a 12-layer, 12-head decoder, built from its configuration.

    Args:
        side: pixels of a photo's side; the published captioner takes 384, which costs it 2.9 times the tokens.
    """
    from transformers import BlipConfig

    # Two defaults of the configuration are not the model's: 8 heads, and weights of 1e-10, whose products are
    # denormal numbers that a CPU computes slowly.
    vision = {"image_size": side, "initializer_range": 0.02}
    return blip(BlipConfig(text_config={"num_attention_heads": 12}, vision_config=vision))


def git_base(side: int = 224) -> Any:
    """GIT-base (Wang et al. 2022): ViT-B/16 and a 6-layer decoder over image and text tokens."""
    from transformers import GitConfig

    return git(GitConfig(vision_config={"image_size": side}))


def blip(config: Any) -> Any:
    """An untrained BLIP captioner of a ``BlipConfig``."""
    from transformers import BlipForConditionalGeneration

    torch.manual_seed(0)
    return BlipForConditionalGeneration(config).eval().requires_grad_(False)


def git(config: Any) -> Any:
    """An untrained GIT captioner of a ``GitConfig``."""
    from transformers import GitForCausalLM

    torch.manual_seed(0)
    return GitForCausalLM(config).eval().requires_grad_(False)


@torch.inference_mode()
def write(model: Any, photos: Tensor, tokens: int, *, beams: int = 1, candidates: int = 1) -> Tensor:
    """Captions of exactly ``tokens`` tokens, word by word with a key-value cache; the end token is forbidden.

    Args:
        model: from ``blip`` or ``git``.
        photos: [photos, 3, side, side], RGB in 0..1, of the model's dtype.
        tokens: tokens of a caption after the start token.
        beams: of beam search; 1 is greedy.
        candidates: captions of a photo; more than one are sampled, which beam search does not.

    Returns:
        Ids [photos * candidates, tokens].
    """
    mean, std = (photos.new_tensor(channel).view(1, 3, 1, 1) for channel in (MEAN, STD))
    several = candidates > 1
    how: dict[str, Any] = {
        "pixel_values": (photos - mean) / std,
        "min_new_tokens": tokens,
        "max_new_tokens": tokens,
        "num_beams": 1 if several else beams,
        "do_sample": several,
        "num_return_sequences": candidates,
        "use_cache": True,
    }
    if model.config.model_type == "git":  # BLIP's generate() makes its own start tokens
        start = model.config.bos_token_id
        how["input_ids"] = torch.full((len(photos), 1), start, device=photos.device)
    ids: Tensor = model.generate(**how)[:, 1:]
    return ids


def baselines(name: str, model: Any) -> list[System]:
    """A baseline as its greedy and its beam-search system; several candidates are sampled, under the greedy's name."""
    further = name == "BLIP-base"  # GIT encodes the photo again for each candidate, and would take minutes
    return [
        System(
            f"{name}, greedy",
            name,
            lambda photos, tokens, candidates: write(model, photos, tokens, candidates=candidates),
            at_batches=further,
            at_candidates=further,
        ),
        System(
            f"{name}, beam {BEAMS}",
            name,
            lambda photos, tokens, candidates: write(model, photos, tokens, beams=BEAMS),
            at_batches=further,
        ),
    ]
