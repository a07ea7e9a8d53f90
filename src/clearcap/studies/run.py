"""A study run: models trained or one sampled from, every run and seed scored, and the files that say so."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clearcap.config import Preset, SamplingConfig, changes, load_preset, require
from clearcap.data.corpus import open_spec, parse_spec
from clearcap.data.reading import read_json
from clearcap.data.records import CaptionedPhoto
from clearcap.data.writing import write_json, write_text
from clearcap.evaluation.scores import score_captions
from clearcap.evaluation.session import weights_digest
from clearcap.evaluation.systems import NAMES, System, sample_systems
from clearcap.studies.looking import look
from clearcap.studies.picture import draw
from clearcap.studies.results import assess, table_of, times_of
from clearcap.studies.study import LOSSES, Study, StudyRun, overrides_of
from clearcap.training.checkpoint import check_settings

TINY = ("train.steps=3", "train.photos=4", "train.copies=2", "train.warmup=1", "train.log_every=1")
"""What a trial of a study makes of its trainings."""
LIMIT = 12  # photos of a trial
OWN = ('train.tracker="none"', "train.sample_every=0", "data.watch_photos=0")


@dataclass(frozen=True)
class Scale:
    """What a study is run on.

    Attributes:
        data: corpora as NAME:ROOT:SPLIT; the last is captioned and scored, those before it are trained on.
        model: captioner that is sampled from where nothing is trained.
        overrides: settings of all runs, which the study's own of a run come before.
        limit: only the first photos of the split; None: as many as the study says.
        tiny: a trial: a few steps of training, a few photos.
        subset: corpora need not have their published sizes.
        batch_size: photos captioned at once.
    """

    data: tuple[str, ...]
    model: str = "default"
    overrides: tuple[str, ...] = ()
    limit: int | None = None
    tiny: bool = False
    subset: bool = False
    batch_size: int = 16


def run_study(
    study: Study,
    scale: Scale,
    out: Path,
    tell: Callable[[str], None] = lambda what: None,
    *,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Run a study, or go on where a killed one stopped, and write what came of it.

    ``out`` then holds ``results.json``, ``table.md`` and ``picture.png``, the same bytes whether or not the study was
    killed on the way, and ``times.json``, apart, because it is never the same twice. Models that several runs share
    are trained once, photos are encoded once for all models that see them alike.

    Args:
        study: from ``load_study``.
        scale: what it is run on.
        out: its folder.
        tell: told what is going on.
        cache: folder of encoded photos, which studies may share; default ``out``.

    Returns:
        What ``results.json`` holds.

    Raises:
        InputError: settings or data that do not fit, or a folder of another study.
    """
    require(bool(scale.data), "no --data; pass a corpus as NAME:ROOT:SPLIT, such as flickr8k:DIR:dev")
    require(
        len(scale.data) == 1 or study.trains,
        f"study {study.name} trains nothing; pass one corpus, the one to caption",
    )
    require(
        len(scale.data) > 1 or not study.trains,
        f"study {study.name} trains: pass --data with what is trained on, then --data with what is captioned",
    )
    expected = None if scale.subset or scale.tiny else "official"
    measured = open_spec(scale.data[-1], expected=expected)  # type: ignore[arg-type]
    presets = {
        (run.name, seed): preset_of(study, run, seed, scale, cache or out)
        for run in study.runs
        for seed in (study.seeds if study.trains else ())
    }
    asked = json.loads(json.dumps({"study": dataclasses.asdict(study), "scale": dataclasses.asdict(scale)}))
    if (out / "study.json").is_file():
        check_settings(out, read_json(out / "study.json"), asked)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "study.json", asked)

    limit = scale.limit or (LIMIT if scale.tiny else study.photos) or None

    def tokens_file(sees: str) -> Path:
        folder = (cache or out) / "tokens"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{_digest([sees, scale.data[-1], limit])}.safetensors"

    systems: dict[str, list[System]] = {run.name: [] for run in study.runs}
    losses: dict[str, list[dict[str, float]]] = {run.name: [] for run in study.runs}
    curves: dict[str, list[list[dict[str, float]]]] = {run.name: [] for run in study.runs}
    for seed in study.seeds if study.looks else ():
        found = look(
            scale.model, measured.photos, out / "looks", count=limit or len(measured), seed=seed, tell=tell
        )
        for run in study.runs:
            require(
                run.reading in found,
                f"study {study.name}: reading={run.reading!r}; choose one of {', '.join(found)}",
            )
            systems[run.name].append(found[run.reading])
    for seed in study.seeds if not study.looks else ():
        groups: dict[Path | str, dict[str, Mapping[str, Any]]] = {}
        for run in study.runs:
            if run.beams:
                continue
            if study.trains:
                folder = trained(presets[run.name, seed], out, tell, f"{run.name}, seed {seed}")
                curves[run.name].append(_curve(folder))
                losses[run.name].append(_last(curves[run.name][-1]))
                groups.setdefault(folder / "model", {})[run.name] = dataclasses.asdict(
                    presets[run.name, seed].sampling
                )
            else:
                groups.setdefault(scale.model, {})[run.name] = sampling_of(study, run, scale)
        for model, settings in groups.items():
            name = model.parent.name if isinstance(model, Path) else f"seed{seed}"
            seen = _sees(presets[next(iter(settings)), seed]) if study.trains else weights_digest(scale.model)
            tell(f"captioning {len(settings)} x {len(measured.photos[:limit])} photos, {name}")
            found = sample_systems(
                str(model),
                measured,
                settings,
                out=out / "captions" / name,
                tokens=tokens_file(seen),
                limit=limit,
                batch_size=scale.batch_size,
                seed=seed,
                metrics=study.metrics,
            )
            for run_name, system in found.items():
                systems[run_name].append(system)
        for run in (run for run in study.runs if run.beams):
            preset = presets[run.name, seed]
            folder = twin_of(preset, out, tell, f"{run.name}, seed {seed}")
            curves[run.name].append(_curve(folder))
            losses[run.name].append(_last(curves[run.name][-1]))
            tell(f"captioning {len(measured.photos[:limit])} photos, {run.name}, seed {seed}")
            systems[run.name].append(
                write_system(
                    preset,
                    folder,
                    measured.photos[:limit],
                    tokens_file(_sees(preset)),
                    beams=run.beams,
                    batch_size=scale.batch_size,
                    metrics=study.metrics,
                    seed=seed,
                )
            )
    corpora = scale.data[:-1]
    used = max((run.corpora or len(corpora) for run in study.runs), default=0) if study.trains else 0
    about = {
        "corpus": measured.name,
        "split": measured.split,
        "photos": len(systems[study.runs[0].name][0].captions),
        "trained_on": [" ".join((name, split)) for name, _, split in map(parse_spec, corpora[:used])],
        "training": training_of(presets[study.runs[0].name, study.seeds[0]]) if study.trains else "",
        "overrides": list(scale.overrides),
        "tiny": scale.tiny,
    }
    results = assess(study, about, systems, losses)
    times = times_of(study, systems)
    write_json(out / "results.json", results)
    write_text(out / "table.md", table_of(study, results))
    draw(study, results, curves, out / "picture.png")
    write_json(out / "times.json", times)
    return results


def training_of(preset: Preset) -> str:
    """How long a training of a study is, in words."""
    train, limit = preset.train, preset.data.limit
    text = f"{train.steps:,} steps of {train.photos * train.copies} captions"
    return text + (f", the first {limit:,} photos of a corpus" if limit else "")


def preset_of(study: Study, run: StudyRun, seed: int, scale: Scale, cache: Path) -> Preset:
    """All settings of a training of a study, its features kept in a folder of the cache.

    Raises:
        InputError: a setting that does not exist or fit, or fewer corpora than the run is trained on.
    """
    corpora = scale.data[:-1]
    require(
        run.corpora <= len(corpora),
        f"study {study.name}: {run.name} is trained on {run.corpora} corpora; pass --data for each, and then the "
        "one to caption",
    )
    used = corpora[: run.corpora or None]
    where: dict[str, Any] = {"corpus": used[0], "also": list(used[1:]), "watch": scale.data[-1]}
    where |= {"expected": not (scale.subset or scale.tiny)}
    words = [*overrides_of(study.settings), *(TINY if scale.tiny else ()), *scale.overrides]
    words += [*overrides_of(run.settings), *OWN, *overrides_of({"data": where}), f"train.seed={seed}"]
    preset = load_preset(study.base, words)
    seen = [_sees(preset), preset.data.views, preset.data.limit, list(used)]
    features = cache / "features" / _digest(seen)
    return load_preset(study.base, [*words, *overrides_of({"data": {"features": str(features)}})])


def sampling_of(study: Study, run: StudyRun, scale: Scale) -> dict[str, Any]:
    """Settings of a run of a study that trains nothing. Raises InputError."""
    words = [*overrides_of(study.settings), *scale.overrides, *overrides_of(run.settings)]
    return changes(SamplingConfig, words)


def trained(preset: Preset, out: Path, tell: Callable[[str], None], what: str) -> Path:
    """The folder of a training, which is trained where it is not yet; runs that only sample otherwise share it.

    Args:
        preset: its settings.
        out: folder of the study.
        tell: told what is going on.
        what: what the training is called.

    Raises:
        InputError: as ``clearcap.training.run.train``.
    """
    from clearcap.training.run import train

    folder = out / "models" / _key(preset)
    if not (folder / "trained.json").is_file():
        tell(f"training {what}")
        train(preset, folder)
        write_json(folder / "trained.json", {"run": what})
    return folder


def twin_of(preset: Preset, out: Path, tell: Callable[[str], None], what: str) -> Path:
    """The folder of the training of a captioner's word-by-word twin; arguments and errors as for ``trained``."""
    from clearcap.training.twin.run import WEIGHTS, train_twin

    folder = out / "models" / f"twin-{_key(preset)}"
    if not (folder / WEIGHTS).is_file():
        tell(f"training {what}")
        train_twin(preset, folder)
    return folder


def write_system(
    preset: Preset,
    folder: Path,
    photos: Sequence[CaptionedPhoto],
    tokens: Path,
    *,
    beams: int,
    batch_size: int,
    metrics: Sequence[str],
    seed: int,
) -> System:
    """What a twin writes about photos, scored and timed as captioners are.

    Args:
        preset: of the captioner whose twin it is.
        folder: of the twin's training.
        photos: the split's.
        tokens: file of their image tokens, made when a captioner of the study was sampled.
        beams: of the search.
        batch_size: photos at once.
        metrics: besides BLEU, ROUGE-L and CIDEr-D.
        seed: of the bootstrap.
    """
    from safetensors.torch import load_file

    from clearcap.training.twin.run import train_twin
    from clearcap.training.twin.writing import write

    twin, tokenizer = train_twin(preset, folder)
    kept = load_file(tokens)
    texts: list[str] = []
    seconds: list[float] = []
    for group in kept["tokens"].split(batch_size):
        started = time.perf_counter()
        texts += write(twin, group, tokenizer, beams=beams, batch=batch_size)
        seconds.append((time.perf_counter() - started) / len(group))
    captions = {photo.id: text for photo, text in zip(photos, texts, strict=True)}
    references = {photo.id: photo.captions for photo in photos}
    scored = score_captions(captions, references, metrics=[*NAMES, *metrics], seed=seed)
    ms = 1000 * statistics.median(seconds)
    return System(captions, scored, twin.length - 1, ms, float(kept["ms"]))


def _key(preset: Preset) -> str:
    """What tells trainings apart: every setting but those of sampling."""
    about = dataclasses.asdict(preset)
    return _digest(
        {name: about[name] for name in about if name != "sampling"} | {"data": _kept(about["data"])}
    )


def _kept(data: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of data without the folder of the cache, which may be moved."""
    return {name: value for name, value in data.items() if name != "features"}


def _sees(preset: Preset) -> str:
    """What tells encodings of photos apart."""
    return _digest(dataclasses.asdict(preset.vision))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _curve(folder: Path) -> list[dict[str, float]]:
    """Losses of a training by step."""
    lines = [json.loads(line) for line in (folder / "curves.jsonl").read_text().splitlines()]
    names = dict(zip(("latent", "caption"), LOSSES, strict=True))
    return [
        {"step": float(one["step"])} | {shown: float(one[name]) for name, shown in names.items()}
        for one in lines
    ]


def _last(curve: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Losses of the last tenth of a training, on average."""
    tail = curve[-max(1, len(curve) // 10) :]
    return {name: sum(one[name] for one in tail) / len(tail) for name in LOSSES}
