"""A captioner beside its word-by-word twin: of the same size, trained on the same image tokens, paired on dev splits.

``python -m benchmarks.twin train OUT --data NAME:ROOT:SPLIT ...`` trains the twin of the bundled model (``--model``: of
another one) on corpora; settings such as ``train.steps=2000`` follow. ``python -m benchmarks.twin reward OUT REWARDED``
trains it on by the CIDEr-D of captions that it draws. ``python -m benchmarks.twin teach OUT FILE`` writes what it says
of every view of those photos, for ``data.teacher_captions``. Killed runs go on.
``python -m benchmarks.twin compare OUT RESULTS ... --data NAME:ROOT:SPLIT`` lets it caption a split greedily and with a
beam of three, and tests each folder of ``clearcap evaluate --out`` on the same split against both; it prints one JSON
object.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import Tensor

from clearcap.captioner.model import load_captioner
from clearcap.captioner.network import Network
from clearcap.captioner.prepacked import prepare_for_inference
from clearcap.config import Preset, SamplingConfig, load_preset, make, require
from clearcap.data.corpus import open_spec
from clearcap.data.features import open_features
from clearcap.data.reading import read_json
from clearcap.data.records import CaptionedPhoto
from clearcap.evaluation.run import Evaluation, load_evaluation
from clearcap.evaluation.scores import score_captions
from clearcap.metrics.significance import compare as compare_scores
from clearcap.studies.study import overrides_of
from clearcap.training.log import progress_bar
from clearcap.training.run import cached_features, open_data
from clearcap.training.twin.network import Twin
from clearcap.training.twin.reward import reward_twin
from clearcap.training.twin.run import WEIGHTS, train_twin
from clearcap.training.twin.writing import write, write_teacher_captions

app = typer.Typer(add_completion=False)
BEAMS = {"greedy": 1, "beam of 3": 3}
TIMED = 40  # photos, one at a time
METRICS = ("BLEU-4", "CIDEr-D")
USUAL = {
    "vision": {"kind": "pair"},
    "denoiser": {"dropout": 0.1},  # the twin's: without it likelihood is soon learned by heart
    "data": {"watch_photos": 0, "views": 2, "expected": False},
    "train": {"photos": 32, "copies": 5, "steps": 2000, "warmup": 60, "ema": 0.99, "tracker": "none"},
}
REWARDED = {
    "train": {
        "copies": 2,
        "steps": 500,  # it begins to learn its photos by heart
        "lr": 3e-4,
        "muon_lr": 3e-4,
        "warmup": 30,
        "decay": "cosine",
        "sample_every": 125,
    }
}


@app.command()
def train(
    out: Annotated[Path, typer.Argument(help="folder of the training")],
    overrides: Annotated[list[str] | None, typer.Argument(help="settings, as train.steps=2000")] = None,
    data: Annotated[list[str] | None, typer.Option(help="corpus NAME:ROOT:SPLIT; several allowed")] = None,
    model: Annotated[
        str, typer.Option(help="captioner whose text space and image encoder it shares")
    ] = "default",
) -> None:
    """Train the twin of a captioner."""
    require(bool(data), "no --data; pass a corpus as NAME:ROOT:SPLIT, such as flickr8k:DIR:train")
    where = {"corpus": data[0], "also": data[1:], "features": str(out / "features")}  # type: ignore[index]
    lent = {"text": {"source": model}, "vision": {"source": model}, "data": where}
    train_twin(load_preset("compact", [*overrides_of(USUAL), *overrides_of(lent), *(overrides or [])]), out)


@app.command()
def reward(
    begun: Annotated[Path, typer.Argument(help="folder of the twin's training")],
    out: Annotated[Path, typer.Argument(help="folder of this training")],
    overrides: Annotated[list[str] | None, typer.Argument(help="settings, as train.steps=2000")] = None,
    kept: Annotated[float, typer.Option(help="weight of the cross-entropy of people's captions")] = 0.1,
    share: Annotated[
        float, typer.Option(help="of the rewarded weights in those written; the rest are the first ones")
    ] = 0.5,
) -> None:
    """Train a twin on by the CIDEr-D of the captions it draws."""
    _, _, preset = trained(begun)
    settings = [*overrides_of(dataclasses.asdict(preset)), *overrides_of(REWARDED), *(overrides or [])]
    reward_twin(begun, load_preset("compact", settings), out, kept=kept, share=share)


@app.command()
def teach(
    out: Annotated[Path, typer.Argument(help="folder of the twin's training")],
    captions: Annotated[Path, typer.Argument(help="file of captions to write")],
) -> None:
    """Write the twin's captions of the photos that it was trained on, with a beam of three."""
    twin, tokenizer, preset = trained(out)
    photos, _ = open_data(preset.data)
    with progress_bar(Console(stderr=True)) as progress:
        task = progress.add_task("captioning", total=len(photos))
        write_teacher_captions(
            twin,
            open_features(Path(preset.data.features)),
            [photo.id for photo in photos],
            tokenizer,
            captions,
            advance=lambda count: progress.advance(task, count),
        )


@app.command()
def compare(
    out: Annotated[Path, typer.Argument(help="folder of the twin's training")],
    results: Annotated[list[Path], typer.Argument(help="folders of clearcap evaluate --out on that split")],
    data: Annotated[str, typer.Option(help="the split that is captioned, as NAME:ROOT:SPLIT")],
) -> None:
    """Test evaluations of a captioner against its twin, photo by photo."""
    twin, tokenizer, preset = trained(out)
    captioner, _ = load_captioner(preset.text.source)
    photos = open_spec(data, expected=None).photos
    with progress_bar(Console(stderr=True)) as progress:
        tokens = out / "watched" / data.replace("/", "_")
        features = cached_features(captioner, photos, tokens, 1, progress)
    rows = features.rows([photo.id for photo in photos])
    image = features.gather(torch.zeros_like(rows), rows)
    evaluations = {str(folder): load_evaluation(folder) for folder in results}
    writers = {name: partial(write, twin, tokenizer=tokenizer, beams=beams) for name, beams in BEAMS.items()}
    found: dict[str, Any] = {"photos": len(photos), "parameters": parameters(captioner, twin)}
    for name, writer in writers.items():
        said = dict(zip([photo.id for photo in photos], writer(image), strict=True))
        found[name] = against(said, photos, evaluations)
    prepared = prepare_for_inference(captioner)
    generators = {folder: generating(prepared, one, folder) for folder, one in evaluations.items()}
    found["ms a photo behind its encoder"] = times({**writers, **generators}, image)
    print(json.dumps(found, ensure_ascii=False, indent=1))


def against(
    said: dict[str, str], photos: Sequence[CaptionedPhoto], evaluations: dict[str, Evaluation]
) -> dict[str, Any]:
    """Scores of the twin's captions, by photo, and of each evaluation less these."""
    scored = score_captions(said, {photo.id: photo.captions for photo in photos})
    tests = {folder: compare_scores(one.scored.scores, scored.scores) for folder, one in evaluations.items()}
    return {
        **{metric: [scored.scores.corpus[metric], *scored.intervals[metric]] for metric in METRICS},
        "captions": scored.diversity,
        "said": said,
        "against it": {
            folder: {metric: test[metric].to_json() for metric in METRICS} for folder, test in tests.items()
        },
    }


def generating(prepared: Network, evaluation: Evaluation, folder: str) -> Callable[[Tensor], object]:
    """Captions one photo's image tokens as an evaluation did."""
    manifest = evaluation.manifest
    how = {name: manifest[name] for name in ("steps", "guidance", "candidates", "select")}
    sampling = make(SamplingConfig, how | manifest["sampling"], where=folder)
    return lambda image: prepared.generate(image=image, sampling=sampling)


def trained(out: Path) -> tuple[Twin, Any, Preset]:
    """The twin in a folder, its tokenizer, and the settings of its training. Raises InputError where there is none."""
    require((out / WEIGHTS).is_file(), f"{out}: holds no trained twin; run the train command first")
    preset = make(Preset, read_json(out / "preset.json"), where=str(out / "preset.json"))
    return *train_twin(preset, out), preset


def parameters(captioner: Network, twin: Twin) -> dict[str, int]:
    """Weights of the captioner's denoiser, of its text space, and of the twin, which stands in the place of both."""
    parts = {"denoiser": captioner.denoiser, "text space": captioner.text, "twin": twin}
    return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}


def times(writers: dict[str, Callable[[Tensor], object]], image: Tensor) -> dict[str, float]:
    """Milliseconds a photo that comes alone, medians over photos that all writers caption in turn."""
    spent: dict[str, list[float]] = {name: [] for name in writers}
    for photo in image[:TIMED].split(1):
        for name, writer in writers.items():
            started = time.perf_counter()
            writer(photo)
            spent[name].append(1000 * (time.perf_counter() - started))
    return {name: statistics.median(some) for name, some in spent.items()}


if __name__ == "__main__":
    app()
