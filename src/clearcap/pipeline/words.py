"""A caption word by word: where on the photo each one looks, and which words could stand in its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from clearcap.arrays import Array, namespace, softmax
from clearcap.captioner.generating import CaptionModel, CaptionRequest
from clearcap.config import SamplingConfig, TextConfig, make, number
from clearcap.data.images import open_image
from clearcap.data.writing import whole_file
from clearcap.errors import InputError
from clearcap.pipeline.infilling import Layout, Template, fixed_words, layouts_of, neighbours
from clearcap.text.tokenizer import decode_caption, side_by_side, word_ids

DOWN, ACROSS = ("top", "middle", "bottom"), ("left", "centre", "right")


@dataclass(frozen=True)
class Attention:
    """Where a caption's words look.

    Attributes:
        words: of the caption.
        maps: each word's weights over the photo, rows from the top; they sum to 1 (to less where the image encoder has
            a class token beside the grid, which is left out).
    """

    words: tuple[str, ...]
    maps: Float[np.ndarray, "words grid grid"]

    def beside_the_others(self) -> Float[np.ndarray, "words grid grid"]:
        """Each word's map divided by the mean of all, from 0 where that is least to 1 where it is most.

        All words look most at the same few plain places; what a word looks at itself shows beside the others.
        """
        ratio = self.maps / np.maximum(self.maps.mean(0, keepdims=True), 1e-12)
        low, high = ratio.min((1, 2), keepdims=True), ratio.max((1, 2), keepdims=True)
        return (ratio - low) / np.maximum(high - low, 1e-12)


def attention_maps(
    captioner: CaptionModel,
    tokenizer: Any,
    image: Float[Array, "1 tokens image_dim"],
    caption: str,
    *,
    sampling: SamplingConfig | None = None,
) -> Attention:
    """Where each word of a caption looks: cross-attention at the last step, averaged over layers and heads.

    The caption's words stand in their places from the first step on, so that any caption can be asked about.

    Args:
        captioner: any captioner in torch whose denoiser attends to image tokens.
        tokenizer: its tokenizer.
        image: the photo's image tokens.
        caption: of the photo, whoever wrote it.
        sampling: as for ``generate``.

    Raises:
        InputError: the caption is too long or has an unknown word, or the model has no cross-attention
            or runs as graphs.
    """
    if "torch" not in captioner.libraries:
        raise InputError(
            "where words look can be seen in torch alone, and this model runs as graphs; "
            'load it by CaptionPipeline.from_pretrained(model, backend="torch")'
        )
    from clearcap.captioner.attention import mean_attention, on_grid, recorded_attention

    layout, words, places = read_layout(captioner, tokenizer, caption)
    if not words:
        raise InputError(f"{caption!r} has no words to look; give a caption")
    with captioner.inference():
        with recorded_attention(captioner.denoiser) as layers:
            captioner.sample(
                image,
                [CaptionRequest(0)],
                sampler=captioner.sampler(sampling or captioner.defaults),
                fixed=fixed_words(captioner, [layout]),
            )
        positions = mean_attention(layers)
        maps = on_grid(namespace(positions).stack([positions[list(place)].mean(0) for place in places]))
    return Attention(words, maps.cpu().numpy())


def occlusion_map(
    captioner: CaptionModel,
    tokenizer: Any,
    photo: UInt8[np.ndarray, "size size 3"],
    caption: str,
    word: int,
    *,
    grid: int,
    seed: int = 0,
    sampling: SamplingConfig | None = None,
) -> Float[np.ndarray, "grid grid"]:
    """How much less sure a captioner is of a word where a part of the photo is covered, the other words being given.

    Windows of two by two cells are covered with the photo's mean colour, one after another at every place; a cell's
    value is the mean loss of log-probability, in nats, over the windows that cover it.

    Args:
        captioner: any captioner.
        tokenizer: its tokenizer.
        photo: pixels as the captioner takes them.
        caption: of the photo, whoever wrote it.
        word: which of its words; of one with several pieces the first counts.
        grid: cells a side, 2 or more.
        seed: same seed, same map.
        sampling: as for ``generate``.

    Raises:
        InputError: the caption is too long or has an unknown word.
    """
    layout, _, places = read_layout(captioner, tokenizer, caption)
    place, mask = places[word][0], tokenizer.convert_tokens_to_ids("[MASK]")
    row = Layout((*layout.ids[:place], mask, *layout.ids[place + 1 :]), ((place,),))
    edges = np.linspace(0, photo.shape[0], grid + 1).round().astype(int)
    windows = [(top, left) for top in range(grid - 1) for left in range(grid - 1)]
    shown = np.repeat(photo[None], 1 + len(windows), 0)  # the whole photo first
    for copy, (top, left) in zip(shown[1:], windows, strict=True):
        copy[edges[top] : edges[top + 2], edges[left] : edges[left + 2]] = photo.mean((0, 1)).round()
    with captioner.inference():
        x0 = captioner.sample(
            captioner.encode_image(captioner.pixels(shown)),
            [CaptionRequest(place) for place in range(len(shown))],
            seed=seed,
            sampler=captioner.sampler(sampling or captioner.defaults),
            fixed=fixed_words(captioner, [row] * len(shown)),
        )
        p = softmax(captioner.logits(x0))[:, place, layout.ids[place]]
    sure = np.log(np.maximum(np.array([float(one) for one in p]), 1e-30))
    lost, covered = np.zeros((grid, grid)), np.zeros((grid, grid))
    for loss, (top, left) in zip(sure[0] - sure[1:], windows, strict=True):
        lost[top : top + 2, left : left + 2] += loss
        covered[top : top + 2, left : left + 2] += 1
    return lost / covered


def alternatives(
    captioner: CaptionModel,
    tokenizer: Any,
    image: Float[Array, "1 tokens image_dim"],
    caption: str,
    *,
    count: int = 5,
    seed: int = 0,
    sampling: SamplingConfig | None = None,
) -> list[tuple[tuple[str, float], ...]]:
    """What else could stand in place of each word of a caption, the others staying as they are.

    Args:
        captioner: any captioner.
        tokenizer: its tokenizer.
        image: the photo's image tokens.
        caption: of the photo, whoever wrote it.
        count: words to name for each.
        seed: same seed, same words.
        sampling: as for ``generate``.

    Returns:
        For each word the likeliest whole words in its place with their probabilities, its own among them if it is.

    Raises:
        InputError: the caption is too long or has an unknown word.
    """
    count = number("count", count, int, 1, 1000)
    layout, _, places = read_layout(captioner, tokenizer, caption)
    mask = tokenizer.convert_tokens_to_ids("[MASK]")
    rows = [
        Layout((*layout.ids[: place[0]], mask, *layout.ids[place[-1] + 1 :]), ((place[0],),))
        for place in places
    ]
    with captioner.inference():
        x0 = captioner.sample(
            image,
            [CaptionRequest(0, i) for i in range(len(rows))],
            seed=seed,
            sampler=captioner.sampler(sampling or captioner.defaults),
            fixed=fixed_words(captioner, rows),
        )
        probabilities = softmax(captioner.logits(x0))
    allowed = captioner.asarray(word_ids(tokenizer, captioner.text.special_ids, probabilities.shape[-1]))
    found = []
    for row, ((position,),), of_words in zip(rows, (row.blanks for row in rows), probabilities, strict=True):
        p = of_words[position] * allowed
        p[neighbours(row.ids, position, tokenizer)] = 0  # no word twice in a row
        ids = namespace(p).argsort(-p, stable=True)[:count]
        found.append(tuple(zip(tokenizer.convert_ids_to_tokens(ids.tolist()), p[ids].tolist(), strict=True)))
    return found


def read_layout(
    captioner: CaptionModel, tokenizer: Any, caption: str
) -> tuple[Layout, tuple[str, ...], Sequence[tuple[int, ...]]]:
    """A caption's token ids as a layout without blanks, its words, and the positions of each word's pieces.

    Raises:
        InputError: the caption is empty or too long, or has a word that the model has not.
    """
    keep_period = make(TextConfig, captioner.config.text, "text").keep_period
    (layout,) = layouts_of(Template((caption,)), tokenizer, captioner.length, keep_period=keep_period)
    decoded = decode_caption(tokenizer, layout.ids, captioner.text.special_ids)
    return layout, decoded.words, decoded.places


def caption_of(words: Sequence[str]) -> str:
    """Words as a text again, with spaces between where their script has any."""
    return side_by_side(words)


def place_of(heat: Float[np.ndarray, "rows columns"]) -> str:
    """Where the greatest value of a map lies, in words: "top left"."""
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    down, across = DOWN[int(3 * row // heat.shape[0])], ACROSS[int(3 * column // heat.shape[1])]
    return "centre" if (down, across) == ("middle", "centre") else f"{down} {across}"


def lit(image: Any, heat: Float[np.ndarray, "rows columns"], side: int = 480) -> Image.Image:
    """A photo, dim where a map is 0 and warmly lit where it is 1.

    Args:
        image: a photo.
        heat: the map, 0 to 1.
        side: pixels of the picture's longer side at most.

    Raises:
        InputError: the photo cannot be read.
    """
    picture = small(image, side)
    photo = np.asarray(picture, dtype=np.float32)
    spread = Image.fromarray(heat.astype(np.float32)).resize(picture.size, Image.Resampling.BICUBIC)
    light = np.clip(np.asarray(spread), 0, 1)[..., None]
    dim, warm = 0.4 * photo.mean(-1, keepdims=True), 0.75 * photo + np.array([95.0, 60.0, 5.0])
    return Image.fromarray((dim * (1 - light) + warm * light).clip(0, 255).astype(np.uint8))


def small(image: Any, side: int) -> Image.Image:
    """A photo no larger than so many pixels a side. Raises InputError."""
    picture = open_image(image, at_least=side)
    picture.thumbnail((side, side))
    return picture


def save_attention(attention: Attention, image: Any, path: str | Path) -> None:
    """Write one picture: the photo once for every word, lit where that looks more than the caption's other words do.

    Raises:
        InputError: the photo cannot be read, or the suffix is no picture's.
    """
    from matplotlib.figure import Figure

    path = Path(path)
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise InputError(f"{path}: attention is written as .png, .svg or .pdf; rename the file")
    heats = attention.beside_the_others()
    pictures = [lit(image, heat, 240) for heat in heats]
    columns = min(5, len(pictures))
    rows = -(-len(pictures) // columns)
    tall = pictures[0].height / pictures[0].width
    figure = Figure(figsize=(1.6 * columns, rows * (1.6 * tall + 0.3)), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, word, picture in zip(grid, attention.words, pictures, strict=False):
        axes.imshow(picture)
        axes.set_title(word, fontsize=10, parse_math=False)
    for axes in grid:
        axes.axis("off")
    with whole_file(path) as fresh:
        figure.savefig(fresh, dpi=80)
