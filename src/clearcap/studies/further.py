"""What tells diffusion from writing word by word, beside scores: position, length, blanks, noise in the photo, time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from clearcap.config import Preset, SamplingConfig, TextConfig, make
from clearcap.data.images import to_square
from clearcap.data.reading import as_kind, read_json
from clearcap.data.records import CaptionedPhoto
from clearcap.data.writing import make_folder, whole_file, write_json
from clearcap.evaluation.hidden_words import Hidden, hide_words
from clearcap.evaluation.positions import LENGTHS, POSITIONS, position_errors, scores_by_length
from clearcap.evaluation.scores import score_captions
from clearcap.pipeline import CaptionPipeline
from clearcap.pipeline.infilling import infill_captions, layouts_of
from clearcap.training.twin.network import Twin
from clearcap.training.twin.writing import write

TIMED = (6, 9, 12, 15)
NOISE = (0.1, 0.2, 0.4)
"""Standard deviations of the noise added to photos, whose values lie in 0..1."""
PROMPTED, FILLED = "twin, prompted", "diffusion, filling"


class Compared:
    """A captioner and its twin, trained alike, on the photos of a split.

    Attributes:
        pipeline: of the captioner.
        twin: word by word.
        tokenizer: of both.
        tokens: image tokens of the photos.
        photos: with their references.
        sampling: how the captioner captions.
        seed: of captions, noise and hidden words.
    """

    def __init__(
        self,
        model: Path,
        twin: tuple[Twin, Any],
        tokens: Float[Tensor, "photos tokens dim"],
        photos: Sequence[CaptionedPhoto],
        preset: Preset,
        seed: int,
    ) -> None:
        self.pipeline = CaptionPipeline.from_pretrained(model, backend="prepacked")
        (self.twin, self.tokenizer), self.tokens, self.photos = twin, tokens, photos
        self.sampling, self.seed = preset.sampling, seed

    def said(self, tokens: Float[Tensor, "photos tokens dim"], batch: int = 16) -> list[str]:
        """The captioner's captions."""
        return [
            candidates[0].text
            for group in tokens.split(batch)
            for candidates in self.pipeline.decode(self._generated(group, self.sampling))
        ]

    def _generated(self, tokens: Tensor, sampling: SamplingConfig) -> Any:
        return self.pipeline.captioner.generate(image=tokens, seed=self.seed, sampling=sampling)

    def noisy(self, deviation: float) -> Float[Tensor, "photos tokens dim"]:
        """Image tokens of the photos with noise."""

        def pictures() -> Iterator[np.ndarray]:
            for number, photo in enumerate(self.photos):
                clean = to_square(photo.image.open(), self.pipeline.image_size) / 255
                noise = np.random.default_rng([self.seed, number]).normal(0, deviation, clean.shape)
                yield (255 * np.clip(clean + noise, 0, 1)).round().astype(np.uint8)

        return self.pipeline.encode_all(pictures())

    def noise_scores(self, beams: Sequence[int]) -> dict[str, dict[str, float]]:
        """CIDEr-D of captions of noisy photos, by deviation, of the captioner and of the twin by beams."""
        references = {photo.id: photo.captions for photo in self.photos}
        found: dict[str, dict[str, float]] = {}
        for deviation in (0.0, *NOISE):
            tokens = self.noisy(deviation) if deviation else self.tokens
            texts = {"diffusion": self.said(tokens)}
            for count in beams:
                texts[f"twin, beam {count}"] = write(self.twin, tokens, self.tokenizer, beams=count)
            for name, some in texts.items():
                captions = {photo.id: text for photo, text in zip(self.photos, some, strict=True)}
                scored = score_captions(captions, references, metrics=("CIDEr-D",)).scores
                found.setdefault(name, {})[f"{deviation:g}"] = scored.corpus["CIDEr-D"]
        return found

    def filled(self) -> dict[str, Any]:
        """How often a reference's hidden word is found: by filling, and by the twin prompted with what is before it.

        A diffusion captioner is given the words on both sides at once; the twin reads only what it has written.
        """
        captioner = self.pipeline.captioner
        text = make(TextConfig, captioner.config.text, "text")
        first = [CaptionedPhoto(one.id, one.image, one.captions[:1]) for one in self.photos]
        rows, _ = hide_words(
            first, 1, self.tokenizer, length=text.length, keep_period=text.keep_period, seed=self.seed
        )
        answers: dict[str, list[str]] = {FILLED: [], PROMPTED: []}
        for start in range(0, len(rows), 32):
            group = rows[start : start + 32]
            found = infill_captions(
                captioner,
                self.tokenizer,
                self.tokens[[one.photo for one in group]],
                [one.template() for one in group],
                seed=self.seed,
                sampling=self.sampling,
            )
            answers[FILLED] += [one.words[0] for one in found]
            answers[PROMPTED] += self._prompted(group, text.keep_period)
        right = {
            name: [word.lower() == one.answers[0].lower() for word, one in zip(words, rows, strict=True)]
            for name, words in answers.items()
        }
        return {"references": len(rows)} | {name: statistics.fmean(some) for name, some in right.items()}

    @torch.inference_mode()
    def _prompted(self, rows: Sequence[Hidden], keep_period: bool) -> list[str]:
        allowed = torch.as_tensor(self.pipeline.whole_words())
        words = []
        for row in rows:
            (layout,) = layouts_of(row.template(), self.tokenizer, self.twin.length, keep_period=keep_period)
            ((place,),) = layout.blanks
            h, _ = self.twin.read(
                torch.tensor([layout.ids[:place]]), self.twin.image_context(self.tokens[[row.photo]])
            )
            logits = self.twin.logits(h[0, -1]).masked_fill(~allowed, -torch.inf)
            words.append(self.tokenizer.convert_ids_to_tokens(int(logits.argmax())))
        return words

    def times(self, beams: Sequence[int], batch: int = 16, rounds: int = 3) -> dict[str, dict[str, float]]:
        """Milliseconds a photo by the length of captions: steps of diffusion do not grow, words to write do.

        The twin is stopped after so many tokens; what it would write does not matter for the time.
        """
        tokens = self.tokens[:batch]
        found: dict[str, dict[str, float]] = {}
        for length in TIMED:
            # Diffusion computes all positions, whatever the length.
            runs: dict[str, Callable[[], Any]] = {
                "diffusion": partial(self._generated, tokens, self.sampling)
            }
            for count in beams:
                runs[f"twin, beam {count}"] = partial(_written, self.twin, tokens, count, length)
            for name, work in runs.items():
                taken = []
                for _ in range(rounds):
                    started = time.perf_counter()
                    work()
                    taken.append(time.perf_counter() - started)
                found.setdefault(name, {})[str(length)] = 1000 * statistics.median(taken) / len(tokens)
        return found


@torch.inference_mode()
def _written(twin: Twin, tokens: Tensor, beams: int, words: int) -> None:
    """Write exactly so many words and the end: as many cached calls, and the choice among continuations."""
    context, past = twin.image_context(tokens), None
    ids = torch.zeros(len(tokens) * beams, 1, dtype=torch.long)
    rows = torch.arange(len(ids))
    for _ in range(words + 1):
        h, past = twin.read(ids, context, past)
        logits = twin.logits(h[:, -1]).float().log_softmax(-1)
        best = logits.unflatten(0, (len(tokens), beams)).flatten(1).topk(2 * beams).indices
        ids = (best[:, :beams] % logits.shape[-1]).reshape(-1, 1)
        past = [(k[rows], v[rows]) for k, v in past] if beams > 1 else past


def further_of(
    model: Path,
    twin: tuple[Twin, Any],
    tokens: Float[Tensor, "photos tokens dim"],
    photos: Sequence[CaptionedPhoto],
    preset: Preset,
    *,
    path: Path,
    beams: Sequence[int],
    seed: int,
) -> dict[str, Any]:
    """Blanks, noise and times of one seed, kept in a file so that a killed study does not measure them again.

    Args:
        model: folder of the captioner.
        twin: trained beside it, and its tokenizer.
        tokens: image tokens of the photos.
        photos: of the split.
        preset: of the captioner.
        path: the file.
        beams: the twin's searches.
        seed: of everything drawn.
    """
    if path.is_file():
        return as_kind(read_json(path), dict, str(path))
    both = Compared(model, twin, tokens, photos, preset, seed)
    found = {"fill": both.filled(), "noise": both.noise_scores(beams), "ms": both.times(beams)}
    make_folder(path.parent)
    write_json(path, found)
    return found


def summary(
    captions: Mapping[str, Sequence[Mapping[str, str]]],
    references: Mapping[str, Sequence[str]],
    measured: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """All of it, seeds averaged and each seed's own figures beside, but for times.

    Args:
        captions: run -> each seed's captions.
        references: photo -> references.
        measured: what ``further_of`` gave, seed by seed.
    """
    return {
        "position_errors": {
            name: [position_errors(one, references) for one in some] for name, some in captions.items()
        },
        "by_length": {
            name: [scores_by_length(one, references) for one in some] for name, some in captions.items()
        },
        "fill": [one["fill"] for one in measured],
        "noise": [one["noise"] for one in measured],
    }


def further_table(found: Mapping[str, Any]) -> str:
    """The summary as Markdown; each figure the mean over seeds."""
    lines = ["", "| run | " + " | ".join(f"error at word {n + 1}" for n in range(0, POSITIONS, 3)) + " | "]
    lines[-1] += " | ".join(f"BLEU-4, {low} to {high} words" for low, high in LENGTHS) + " |"
    lines.append("|---" * (1 + len(range(0, POSITIONS, 3)) + len(LENGTHS)) + "|")
    for name, some in found["position_errors"].items():
        cells = [_mean([one[place] for one in some], "{:.0%}") for place in range(0, POSITIONS, 3)]
        for low, high in LENGTHS:
            values = [one.get(f"{low}-{high}", {}).get("BLEU-4") for one in found["by_length"][name]]
            cells.append(_mean(values, "{:.3f}"))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    deviations = list(found["noise"][0]["diffusion"])
    lines += [
        "",
        f"| CIDEr-D with noise of | {' | '.join(deviations)} |",
        "|---" * (1 + len(deviations)) + "|",
    ]
    for name in found["noise"][0]:
        cells = [
            _mean([one[name][deviation] for one in found["noise"]], "{:.3f}") for deviation in deviations
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    filled, prompted = (_mean([one[name] for one in found["fill"]], "{:.1%}") for name in (FILLED, PROMPTED))
    lines += [
        "",
        f"One word hidden in each of {found['fill'][0]['references']} references: diffusion finds {filled}, given the "
        f"words on both sides; the twin {prompted}, prompted with the words before it.",
        "",
    ]
    return "\n".join(lines)


def draw_further(found: Mapping[str, Any], path: Path) -> None:
    """Three panels: error by position, BLEU-4 by length, CIDEr-D by noise."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 3.2), layout="constrained", facecolor="white")
    errors, lengths, noise = figure.subplots(1, 3)
    for name, some in found["position_errors"].items():
        means = [_value([one[place] for one in some]) for place in range(POSITIONS)]
        errors.plot(range(1, POSITIONS + 1), means, ".-", lw=1, label=name)
        by_length = [
            _value([one.get(f"{low}-{high}", {}).get("BLEU-4") for one in found["by_length"][name]])
            for low, high in LENGTHS
        ]
        lengths.plot([f"{low}-{high}" for low, high in LENGTHS], by_length, "o-", lw=1, label=name)
    for name, first in found["noise"][0].items():
        values = [_value([one[name][deviation] for one in found["noise"]]) for deviation in first]
        noise.plot(list(map(float, first)), values, "o-", lw=1, label=name)
    for axes, x, y in (
        (errors, "position of a word", "in no reference"),
        (lengths, "words of the caption", "BLEU-4"),
        (noise, "noise in the photo", "CIDEr-D"),
    ):
        axes.set_xlabel(x, fontsize=9)
        axes.set_ylabel(y, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.legend(frameon=False, fontsize=7)
    with whole_file(path) as fresh:
        figure.savefig(fresh, dpi=90, metadata={"Software": None})


def _value(values: Sequence[float | None]) -> float:
    """The mean of what there is; NaN, which is not drawn, where there is nothing."""
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if there else float("nan")


def _mean(values: Sequence[float | None], shape: str) -> str:
    value = _value(values)
    return "" if np.isnan(value) else shape.format(value)
