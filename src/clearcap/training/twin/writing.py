"""A twin's captions as text, and the file of them that a denoiser learns from."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from clearcap.data.features import Features
from clearcap.data.writing import whole_lines
from clearcap.text.tokenizer import decode_caption
from clearcap.training.twin.decoding import beam_search
from clearcap.training.twin.network import Twin


def write(
    twin: Twin,
    tokens: Float[Tensor, "photos tokens dim"],
    tokenizer: Any,
    *,
    beams: int = 3,
    batch: int = 100,
) -> list[str]:
    """A caption of each photo.

    Args:
        twin: in evaluation mode.
        tokens: of the photos.
        tokenizer: of the twin's tokens.
        beams: of the search.
        batch: photos at once.
    """
    captions: list[str] = []
    special = set(tokenizer.all_special_ids)
    for group in tokens.split(batch):
        found = beam_search(
            twin,
            group,
            first=tokenizer.cls_token_id,
            end=tokenizer.sep_token_id,
            pad=tokenizer.pad_token_id,
            beams=beams,
        )
        captions += [decode_caption(tokenizer, ids, special).text for ids in found.ids.tolist()]
    return captions


def write_teacher_captions(
    twin: Twin,
    features: Features,
    names: Sequence[str],
    tokenizer: Any,
    out: Path,
    *,
    beams: int = 3,
    batch: int = 100,
    advance: Callable[[int], None] = lambda photos: None,
) -> None:
    """Write the twin's captions of photos, one of each view, to lines of ``{"photo": id, "captions": [...]}``.

    ``clearcap.training.examples.read_teacher_captions`` reads them. A killed run goes on behind its last whole line.

    Args:
        twin: in evaluation mode.
        features: tokens of the photos' views.
        names: ids of the photos.
        tokenizer: of the twin's tokens.
        out: the file.
        beams: of the search.
        batch: photos at once.
        advance: told how many photos are done.
    """
    done = len(whole_lines(out))
    advance(done)
    views = len(features.tokens)
    rows = features.rows(names)
    with out.open("a") as file:
        for start in range(done, len(names), batch):
            group = rows[start : start + batch]
            written = [
                write(twin, features.gather(torch.full_like(group, view), group), tokenizer, beams=beams)
                for view in range(views)
            ]
            for name, captions in zip(names[start : start + batch], zip(*written, strict=True), strict=True):
                file.write(json.dumps({"photo": name, "captions": list(dict.fromkeys(captions))}) + "\n")
            file.flush()
            advance(len(group))
