"""A teacher captioner's own captions of photos: sampled once, kept on disk, chosen among, and served as targets."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from clearcap.captioner.generating import CaptionRequest
from clearcap.captioner.model import Captioner
from clearcap.config import SamplingConfig, TextConfig, TrainConfig
from clearcap.data.features import Features, flip
from clearcap.data.writing import make_folder, new_array, write_json
from clearcap.errors import InputError
from clearcap.sampling.randomness import randn_rows
from clearcap.sampling.selection import choose
from clearcap.text.tokenizer import decode_caption
from clearcap.training.checkpoint import check_settings
from clearcap.training.examples import photos_of_step, sided
from clearcap.training.loop import generator_at

BATCH = 32  # photos of one chunk, the unit in which sampling resumes
TARGETS = ("draw", "mbr", "mbr-photo")


@dataclass(frozen=True)
class TeacherSamples:
    """What a teacher says about photos in several variants: 2v is view v of the feature cache, 2v + 1 its mirror image.

    Attributes:
        x0: the teacher's final predictions, float16.
        ids: its tokens.
        rows: each photo's row in the feature cache.
        seed: of the draws.
    """

    x0: np.memmap  # [variants, photos, draws, length, dim]
    ids: np.memmap  # [variants, photos, draws, length]
    rows: Int[Tensor, " photos"]
    seed: int

    def stream(self, variant: int, photo: int, draw: int) -> int:
        """The stream that a draw's noise comes from (see ``CaptionRequest``)."""
        _, photos, draws = self.ids.shape[:3]
        return (variant * photos + photo) * draws + draw


def features_of(
    features: Features, variants: Int[Tensor, " photos"], rows: Int[Tensor, " photos"]
) -> Float[Tensor, "photos tokens dim"]:
    """Image tokens of the given variants of the given photos."""
    image = features.gather(variants // 2, rows)
    return torch.where((variants % 2 == 1)[:, None, None], flip(image), image)


@torch.inference_mode()
def sample_teacher(
    captioner: Captioner,
    features: Features,
    rows: Int[Tensor, " photos"],
    folder: Path,
    *,
    sampling: SamplingConfig,
    variants: int,
    draws: int,
    seed: int,
    advance: Callable[[int], None] = lambda captions: None,
) -> TeacherSamples:
    """Sample the teacher's captions, or go on where a killed call stopped.

    Every draw has a noise stream of its own and chunks are always the same, so a resumed call writes what one
    never killed would have written.

    Args:
        captioner: the teacher.
        features: image tokens.
        rows: the photos' rows in it.
        folder: where ``x0.npy``, ``ids.npy`` and ``progress.json`` go; about 5 kB a caption at the bundled size.
        sampling: how the teacher captions.
        variants: of each photo, at most twice the cache's views.
        draws: of each variant.
        seed: of the noise.
        advance: told how many captions have been sampled.

    Raises:
        InputError: more variants than the cache has, or the folder holds captions sampled otherwise.
    """
    if not 1 <= variants <= 2 * len(features.tokens):
        raise InputError(
            f"variants={variants}, but the feature cache's {len(features.tokens)} views and their mirror images "
            f"are {2 * len(features.tokens)}; lower it, or make a cache of more views"
        )
    settings = {
        "teacher": _fingerprint(captioner),
        "photos": hashlib.sha256("\n".join(features.names[i] for i in rows.tolist()).encode()).hexdigest(),
        "sampling": dataclasses.asdict(sampling),
        "variants": variants,
        "draws": draws,
        "seed": seed,
    }
    make_folder(folder)
    done = _done(folder, settings)
    shape = (variants, len(rows), draws, captioner.length)
    x0 = _open(folder / "x0.npy", np.float16, (*shape, captioner.text.dim), new=done == 0)
    ids = _open(folder / "ids.npy", np.int32, shape, new=done == 0)
    samples = TeacherSamples(x0, ids, rows, seed)
    chunks = [(variant, start) for variant in range(variants) for start in range(0, len(rows), BATCH)]
    for number, (variant, start) in enumerate(chunks):
        photos = range(start, min(start + BATCH, len(rows)))
        if number >= done:
            image = features_of(features, torch.full((len(photos),), variant), rows[start : photos.stop])
            wanted = [
                CaptionRequest(i, samples.stream(variant, photo, draw), sampling.length_of(draw))
                for i, photo in enumerate(photos)
                for draw in range(draws)
            ]
            drawn = captioner.sample(
                image.to(captioner.device), wanted, seed=seed, sampler=captioner.sampler(sampling)
            )
            x0[variant, start : photos.stop] = drawn.cpu().unflatten(0, (-1, draws)).numpy()
            ids[variant, start : photos.stop] = (
                captioner.logits(drawn).argmax(-1).cpu().unflatten(0, (-1, draws)).numpy()
            )
            x0.flush()
            ids.flush()
            write_json(folder / "progress.json", {"settings": settings, "done": number + 1})
        advance(len(photos) * draws)
    return samples


def read_captions(
    samples: TeacherSamples, tokenizer: Any, special_ids: Sequence[int]
) -> list[list[list[str]]]:
    """The teacher's captions as text: [variants][photos][draws]."""
    return [
        [[decode_caption(tokenizer, ids, special_ids).text for ids in draws] for draws in photos]
        for photos in samples.ids.tolist()
    ]


def choose_targets(
    captions: Sequence[Sequence[Sequence[str]]],
    how: str,
    utility: str = "bleu",
    sides: str = TextConfig.sides,
) -> Int[Tensor, "variants photos 2"] | None:
    """Which caption (variant and draw) each variant of each photo is to be given.

    Args:
        captions: of ``read_captions``.
        how: "draw": none is chosen, a draw is the target of its own start noise; "mbr": the draw of the variant
            with minimum Bayes risk; "mbr-photo": that among the draws of all the photo's variants, where
            captions that name a side, wrong for the mirror image, stand back.
        utility: of minimum Bayes risk.
        sides: words for a side, in the captions' language.

    Raises:
        InputError: ``how`` is unknown.
    """
    if how not in TARGETS:
        raise InputError(f"target={how!r} is not known; choose one of {', '.join(TARGETS)}")
    if how == "draw":
        return None
    names_a_side = sided(sides).search
    chosen = torch.zeros(len(captions), len(captions[0]), 2, dtype=torch.int64)
    for photo in range(len(captions[0])):
        if how == "mbr":
            for variant, photos in enumerate(captions):
                chosen[variant, photo] = torch.tensor([variant, choose(photos[photo], utility=utility)])
            continue
        pool = [(v, d) for v, photos in enumerate(captions) for d in range(len(photos[photo]))]
        pool = [(v, d) for v, d in pool if not names_a_side(captions[v][photo][d])] or pool
        best = choose([captions[v][photo][d] for v, d in pool], utility=utility)
        chosen[:, photo] = torch.tensor(pool[best])
    return chosen


def take_targets(
    samples: TeacherSamples,
    chosen: Int[Tensor, "variants photos 2"] | None,
    features: Features,
    config: TrainConfig,
    step: int,
    rank: int,
    world: int,
    *,
    calls: int,
) -> tuple[
    Float[Tensor, "photos tokens image_dim"],
    Float[Tensor, "batch length dim"],
    Int[Tensor, "batch length"],
    Float[Tensor, "calls batch length dim"],
]:
    """The batch of a step: photos, targets and the noise of each of the student's calls; photo-major.

    A pure function of seed, step and rank; every photo once per epoch, in a random variant. Where no target was
    chosen the first call's noise is the one that the teacher's draw started from.

    Args:
        samples: targets.
        chosen: of ``choose_targets``.
        features: image tokens.
        config: photos, copies and seed.
        step, rank, world: place in the run.
        calls: of the student.
    """
    variants, photos, draws, length = samples.ids.shape
    picked = photos_of_step(photos, config.photos, config.seed, step, rank, world)
    generator = generator_at(config.seed, 1, step, rank)
    variant = torch.randint(variants, (config.photos,), generator=generator)
    first = torch.randint(draws, (config.photos, 1), generator=generator)
    draw = ((first + torch.arange(config.copies)) % draws).flatten()
    photo, shown = picked.repeat_interleave(config.copies), variant.repeat_interleave(config.copies)
    noise = torch.randn(calls, len(photo), length, samples.x0.shape[-1], generator=generator)
    said = shown
    if chosen is None:
        streams = [
            samples.stream(*place)
            for place in zip(shown.tolist(), photo.tolist(), draw.tolist(), strict=True)
        ]
        noise[0] = randn_rows(samples.seed, streams, length, noise.shape[-1], torch.from_numpy)()
    else:
        said, draw = chosen[shown, photo].unbind(-1)
    place = said.numpy(), photo.numpy(), draw.numpy()
    x0 = torch.from_numpy(samples.x0[place].astype(np.float32))
    ids = torch.from_numpy(samples.ids[place].astype(np.int64))
    return features_of(features, variant, samples.rows[picked]), x0, ids, noise


def _fingerprint(captioner: Captioner) -> str:
    """A hash of what the teacher's captions depend on, its image encoder apart."""
    digest = hashlib.sha256()
    for part in (captioner.denoiser, captioner.text):
        for name, tensor in sorted(part.state_dict().items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _done(folder: Path, settings: dict[str, Any]) -> int:
    """Chunks that were sampled into the folder, with these settings."""
    file = folder / "progress.json"
    if not file.is_file():
        return 0
    progress = json.loads(file.read_text())
    check_settings(folder, progress.get("settings", {}), settings)
    return int(progress["done"])


def _open(file: Path, dtype: type, shape: tuple[int, ...], *, new: bool) -> np.memmap:
    if new:
        return new_array(file, dtype, shape)
    try:
        stored = np.lib.format.open_memmap(file, "r+")
    except (OSError, ValueError) as fault:
        raise InputError(f"{file} cannot be read ({fault}); delete its folder to draw again") from fault
    if stored.shape != shape:
        raise InputError(f"{file} is of shape {stored.shape}, not {shape}; delete its folder to draw again")
    return stored
