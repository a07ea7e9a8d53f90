"""Whether an object's word looks at the object: photos with one object pasted in, and where maps have their peaks."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageFilter

from clearcap.config import SamplingConfig, require
from clearcap.data.images import to_square
from clearcap.data.records import CaptionedPhoto
from clearcap.data.writing import make_folder, whole_file
from clearcap.evaluation.journal import Entry, Journal
from clearcap.evaluation.scores import Scored
from clearcap.evaluation.systems import System
from clearcap.metrics.diversity import diversity
from clearcap.metrics.scoring import PhotoId, Scores
from clearcap.metrics.significance import intervals
from clearcap.pipeline import CaptionPipeline
from clearcap.pipeline.words import Attention, attention_maps, lit, occlusion_map, read_layout
from clearcap.text.tokenizer import clean_caption

READINGS = ("attention", "attention-beside", "other-words", "occlusion", "chance", "goal")
"""How a map is had: of the word alone; divided by all words' mean; that of the other words; by covering; none."""
METRIC = "peak-in-object"
GOAL = 0.6
CELLS, SIDE = 7, 4  # cells of the grid a side, and of the pasted photo
NOUNS = (
    "dog", "dogs", "man", "men", "woman", "women", "boy", "girl", "child", "children", "people", "horse", "bike",
    "bicycle", "car", "bird", "boat", "ball", "motorcycle", "baby", "player", "skateboard", "surfer", "skier",
)  # fmt: skip
SURE = 4  # references of a photo that must name its object


@dataclass(frozen=True)
class Pasted:
    """A photo of an object, pasted small into another that shows nothing clearly.

    Attributes:
        id: of the photo with the object.
        pixels: the picture.
        caption: what a person said of the object's photo.
        word: place of the object's word in it.
        inside: cells that the paste covers.
    """

    id: str
    pixels: UInt8[np.ndarray, "size size 3"]
    caption: str
    word: int
    inside: Bool[np.ndarray, "cells cells"]


@dataclass(frozen=True)
class Looked(Entry):
    """Where the word of one picture looks.

    Attributes:
        photo: id of the object's photo.
        caption: that was asked about.
        word: which of its words.
        inside: cells of the object, row by row.
        hits: reading -> share of the peaks that lie in the object.
        seconds: spent on maps of attention.
    """

    photo: str
    caption: str
    word: int
    inside: tuple[int, ...]
    hits: dict[str, float]
    seconds: float

    @property
    def key(self) -> str:
        """The photo."""
        return self.photo


def pasted(
    photos: Sequence[CaptionedPhoto], pipeline: CaptionPipeline, *, count: int, seed: int
) -> Iterator[Pasted]:
    """Pictures with a single large object: a photo that names one, pasted into a blurred one that does not.

    The paste is 4 of 7 cells a side, a third of the picture, at any place of the grid; the rest is another photo,
    blurred until nothing is recognised. The caption is the first of the object's photo that has its word
    once and that the model can be asked about.

    Args:
        photos: with their references.
        pipeline: whose captioner is asked.
        count: pictures at most.
        seed: of the places and of what is behind; the objects are the same with every seed.
    """
    size, made = pipeline.image_size, 0
    for photo in random.Random("objects").sample(list(photos), len(photos)):
        if made == count:
            return
        chance, asked = random.Random(f"{seed} {photo.id}"), _asked(photo, pipeline)
        shuffled = chance.sample(list(photos), len(photos))
        behind = next((one for one in shuffled if not _nouns(one) & _nouns(photo)), None)
        if asked is None or behind is None:
            continue
        caption, word = asked
        picture = Image.fromarray(to_square(behind.image.open(), size)).filter(
            ImageFilter.GaussianBlur(size / 12)
        )
        edges = np.linspace(0, size, CELLS + 1).round().astype(int)
        top, left = chance.randrange(CELLS - SIDE + 1), chance.randrange(CELLS - SIDE + 1)
        height, width = edges[top + SIDE] - edges[top], edges[left + SIDE] - edges[left]
        small = Image.fromarray(to_square(photo.image.open(), size)).resize((width, height))
        picture.paste(small, (edges[left], edges[top]))
        inside = np.zeros((CELLS, CELLS), bool)
        inside[top : top + SIDE, left : left + SIDE] = True
        made += 1
        yield Pasted(photo.id, np.asarray(picture), caption, word, inside)


def look(
    model: str,
    photos: Sequence[CaptionedPhoto],
    out: Path,
    *,
    count: int,
    seed: int,
    tell: Callable[[str], None] = lambda what: None,
) -> dict[str, System]:
    """Ask a captioner where the object's word of each picture looks; a killed run goes on.

    Args:
        model: folder or hub name of a captioner with cross-attention.
        photos: of the split.
        out: folder for what is found.
        count: pictures at most.
        seed: of the pictures.
        tell: told what is going on.

    Returns:
        Reading -> what the runner calls a system: the captions asked about, and ``peak-in-object``, the share of
        pictures whose map has its peak within the object.

    Raises:
        InputError: no such model, it has no cross-attention to a grid, or the photos name no object.
    """
    pipeline = CaptionPipeline.from_pretrained(model, backend="prepacked")
    make_folder(out)
    pictures = list(pasted(photos, pipeline, count=count, seed=seed))
    require(bool(pictures), "no photo names an object that the others do not; pass another corpus")
    tell(f"looking at {len(pictures)} pictures, seed {seed}")
    with Journal(out / f"seed{seed}.jsonl", Looked, [one.id for one in pictures]) as journal:
        for place in journal.left:
            journal.append(_looked(pipeline, pictures[place], seed))
        done = journal.done
    _examples(pipeline, pictures[:8], out / f"seed{seed}.png")
    captions = {one.photo: one.caption for one in done}
    ms = 1000 * statistics.median(one.seconds for one in done)
    return {
        name: System(captions, _scored(captions, {one.photo: one.hits[name] for one in done}), 0, ms, 0.0)
        for name in READINGS
    }


def _looked(pipeline: CaptionPipeline, picture: Pasted, seed: int) -> Looked:
    started = time.perf_counter()
    looks = _attention(pipeline, picture)
    seconds = time.perf_counter() - started
    others = np.delete(looks.maps, picture.word, 0)
    covered = occlusion_map(
        pipeline.captioner, pipeline.tokenizer, picture.pixels, picture.caption, picture.word,
        grid=CELLS, seed=seed, sampling=_unguided(pipeline),
    )  # fmt: skip
    hits = {
        "attention": _hit(looks.maps[picture.word], picture.inside),
        "attention-beside": _hit(looks.beside_the_others()[picture.word], picture.inside),
        "other-words": float(np.mean([_hit(one, picture.inside) for one in others])),
        "occlusion": _hit(covered, picture.inside),
        "chance": float(picture.inside.mean()),
        "goal": GOAL,
    }
    inside = tuple(int(one) for one in picture.inside.ravel())
    return Looked(picture.id, picture.caption, picture.word, inside, hits, seconds)


def _attention(pipeline: CaptionPipeline, picture: Pasted) -> Attention:
    with pipeline.captioner.inference():
        image = pipeline.captioner.encode_image(pipeline.pixels([picture.pixels]))
    looks = attention_maps(
        pipeline.captioner, pipeline.tokenizer, image, picture.caption, sampling=_unguided(pipeline)
    )
    require(
        looks.maps.shape[1] == CELLS,
        f"maps of this model are {looks.maps.shape[1]} cells a side, not {CELLS}; the study pastes by those",
    )
    return looks


def _unguided(pipeline: CaptionPipeline) -> SamplingConfig:
    return pipeline.sampling(guidance=0.0, candidates=1)


def _hit(heat: Float[np.ndarray, "cells cells"], inside: Bool[np.ndarray, "cells cells"]) -> float:
    """Whether the greatest value lies inside."""
    return float(inside.ravel()[int(heat.argmax())])


def _nouns(photo: CaptionedPhoto) -> set[str]:
    """Objects that any reference names."""
    return {word for text in photo.captions for word in _words(text) if word in NOUNS}


def _asked(photo: CaptionedPhoto, pipeline: CaptionPipeline) -> tuple[str, int] | None:
    """A caption of a photo with the place of its object's word; the object is what most references name, if any."""
    counts = {noun: sum(noun in _words(text) for text in photo.captions) for noun in sorted(_nouns(photo))}
    noun = max(counts, key=lambda one: counts[one], default="")
    if counts.get(noun, 0) < min(SURE, len(photo.captions)):
        return None
    captioner, unknown = pipeline.captioner, pipeline.tokenizer.unk_token
    for text in photo.captions:
        caption = clean_caption(text, max_words=captioner.length, keep_period=False)
        pieces = pipeline.tokenizer.tokenize(caption)
        if caption.split().count(noun) != 1 or len(pieces) > captioner.length - 2 or unknown in pieces:
            continue
        _, words, _ = read_layout(captioner, pipeline.tokenizer, caption)
        if noun in words:
            return caption, words.index(noun)
    return None


def _words(text: str) -> list[str]:
    return clean_caption(text, max_words=1000, keep_period=False).split()


def _scored(captions: dict[str, str], hits: dict[PhotoId, float]) -> Scored:
    scores = Scores({METRIC: statistics.fmean(hits.values())}, {METRIC: hits})
    low_high = {name: (one.low, one.high) for name, one in intervals(scores).items()}
    said = diversity([[caption] for caption in captions.values()])
    figures: dict[str, Any] = {
        "distinct_share": said.distinct_corpus / said.captions,
        "length": {"mean": said.lengths.mean},
    }
    return Scored(scores, low_high, figures)


def _examples(pipeline: CaptionPipeline, pictures: Sequence[Pasted], path: Path) -> None:
    """Pictures, and below each where its word looks beside the others."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.5 * len(pictures), 3.4), layout="constrained", facecolor="white")
    grid = figure.subplots(2, len(pictures), squeeze=False)
    for (above, below), picture in zip(grid.T, pictures, strict=True):
        looks = _attention(pipeline, picture)
        shown = Image.fromarray(picture.pixels)
        above.imshow(shown.resize((112, 112)))
        above.set_title(looks.words[picture.word], fontsize=9)
        below.imshow(lit(shown, looks.beside_the_others()[picture.word], 112))
    for axes in grid.ravel():
        axes.axis("off")
    with whole_file(path) as fresh:
        figure.savefig(fresh, dpi=60, metadata={"Software": None})
