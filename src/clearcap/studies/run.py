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

from clearcap.config import Preset, SamplingConfig, changes, load_preset, number, require
from clearcap.data.corpus import open_spec, parse_spec
from clearcap.data.reading import read_json
from clearcap.data.records import CaptionedPhoto
from clearcap.data.writing import make_folder, write_json, write_text
from clearcap.evaluation.looking import look
from clearcap.evaluation.scores import score_captions
from clearcap.evaluation.session import weights_digest
from clearcap.evaluation.systems import NAMES, System, sample_systems
from clearcap.studies.further import draw_further, further_of, further_table, summary
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
    are trained once, photos are encoded once for all models that see them alike, also by studies that share a cache.

    Args:
        study: from ``load_study``.
        scale: what it is run on.
        out: its folder.
        tell: told what is going on.
        cache: folder of encoded photos and trained models, which studies may share; default ``out``.

    Returns:
        What ``results.json`` holds.

    Raises:
        InputError: settings or data that do not fit, or a folder of another study.
    """
    number("batch_size", scale.batch_size, int, 1)
    require(bool(scale.data), "no --data; pass a corpus as NAME:ROOT:SPLIT, such as flickr8k:DIR:dev")
    require(
        len(scale.data) == 1 or study.trains,
        f"study {study.name} trains nothing; pass one corpus, the one to caption",
    )
    require(
        len(scale.data) > 1 or not study.trains,
        f"study {study.name} trains: pass --data with what is trained on, then --data with what is captioned",
    )
    at = Running(study, scale, out, cache or out, tell)
    asked = json.loads(json.dumps({"study": dataclasses.asdict(study), "scale": dataclasses.asdict(scale)}))
    if (out / "study.json").is_file():
        check_settings(out, read_json(out / "study.json"), asked)
    make_folder(out)
    write_json(out / "study.json", asked)
    for seed in study.seeds:
        if study.looks:
            at.look(seed)
            continue
        at.sample(seed)
        at.write(seed)
        if study.further:
            at.measure_further(seed)
    results = assess(study, at.about(), at.systems, at.losses)
    times = times_of(study, at.systems)
    table = table_of(study, results)
    if study.further:
        captions = {name: [one.captions for one in some] for name, some in at.systems.items()}
        references = {photo.id: photo.captions for photo in at.photos}
        results["further"] = summary(captions, references, at.measures)
        times["by_length"] = [one["ms"] for one in at.measures]
        table += further_table(results["further"])
        draw_further(results["further"], out / "further.png")
    write_json(out / "results.json", results)
    write_text(out / "table.md", table)
    draw(study, results, at.curves, out / "picture.png")
    write_json(out / "times.json", times)
    return results


class Running:
    """A study on its way: what it is run on, and what has come of its runs.

    Attributes:
        photos: that are captioned.
        systems: run -> each seed's captions and scores.
        losses: run -> each seed's losses at the end.
        curves: run -> each seed's losses by step.
        measures: each seed's comparison of captioner and twin.
    """

    def __init__(
        self, study: Study, scale: Scale, out: Path, cache: Path, tell: Callable[[str], None]
    ) -> None:
        """Raises InputError where settings or data do not fit."""
        self.study, self.scale, self.out, self.cache, self.tell = study, scale, out, cache, tell
        expected = None if scale.subset or scale.tiny else "official"
        self.measured = open_spec(scale.data[-1], expected=expected)  # type: ignore[arg-type]
        self.limit = scale.limit or (LIMIT if scale.tiny else study.photos) or None
        self.photos = self.measured.photos[: self.limit]
        self.presets = {
            (run.name, seed): preset_of(study, run, seed, scale, cache)
            for run in study.runs
            for seed in (study.seeds if study.trains else ())
        }
        self.systems: dict[str, list[System]] = {run.name: [] for run in study.runs}
        self.losses: dict[str, list[dict[str, float]]] = {run.name: [] for run in study.runs}
        self.curves: dict[str, list[list[dict[str, float]]]] = {run.name: [] for run in study.runs}
        self.measures: list[dict[str, Any]] = []

    def look(self, seed: int) -> None:
        """Where words look, whatever the reading."""
        found = look(
            self.scale.model,
            self.measured.photos,
            self.out / "looks",
            count=self.limit or len(self.measured),
            seed=seed,
            tell=self.tell,
        )
        for run in self.study.runs:
            require(
                run.reading in found,
                f"study {self.study.name}: reading={run.reading!r}; choose one of {', '.join(found)}",
            )
            self.systems[run.name].append(found[run.reading])

    def sample(self, seed: int) -> None:
        """Train and caption by diffusion; runs that only sample otherwise share a model, and its encoding of photos."""
        groups: dict[Path | str, dict[str, Mapping[str, Any]]] = {}
        for run in (run for run in self.study.runs if not run.beams):
            if self.study.trains:
                preset = self.presets[run.name, seed]
                folder = trained(preset, self.cache, self.tell, f"{run.name}, seed {seed}")
                self._trained(run.name, folder)
                groups.setdefault(folder / "model", {})[run.name] = dataclasses.asdict(preset.sampling)
            else:
                groups.setdefault(self.scale.model, {})[run.name] = sampling_of(self.study, run, self.scale)
        for model, settings in groups.items():
            name = model.parent.name if isinstance(model, Path) else f"seed{seed}"
            self.tell(f"captioning {len(settings)} x {len(self.photos)} photos, {name}")
            found = sample_systems(
                str(model),
                self.measured,
                settings,
                out=self.out / "captions" / name,
                tokens=self.tokens(self.presets.get((next(iter(settings)), seed))),
                limit=self.limit,
                batch_size=self.scale.batch_size,
                seed=seed,
                metrics=self.study.metrics,
            )
            for run_name, system in found.items():
                self.systems[run_name].append(system)

    def write(self, seed: int) -> None:
        """Train and caption word by word."""
        for run in (run for run in self.study.runs if run.beams):
            preset = self.presets[run.name, seed]
            folder = twin_of(preset, self.cache, self.tell, f"{run.name}, seed {seed}")
            self._trained(run.name, folder)
            self.tell(f"captioning {len(self.photos)} photos, {run.name}, seed {seed}")
            self.systems[run.name].append(
                write_system(
                    preset,
                    folder,
                    self.photos,
                    self.tokens(preset),
                    beams=run.beams,
                    batch_size=self.scale.batch_size,
                    metrics=self.study.metrics,
                    seed=seed,
                )
            )

    def measure_further(self, seed: int) -> None:
        """Captioner and twin beside each other: blanks, noise, times."""
        from safetensors.torch import load_file

        from clearcap.training.twin.run import train_twin

        first = self.presets[self.study.runs[0].name, seed]
        of_twin = next(self.presets[run.name, seed] for run in self.study.runs if run.beams)
        self.tell(f"blanks, noise and times, seed {seed}")
        self.measures.append(
            further_of(
                trained(first, self.cache, self.tell, "") / "model",
                train_twin(of_twin, twin_of(of_twin, self.cache, self.tell, "")),
                load_file(self.tokens(first))["tokens"],
                self.photos,
                first,
                path=self.out / "further" / f"seed{seed}.json",
                beams=[run.beams for run in self.study.runs if run.beams],
                seed=seed,
            )
        )

    def tokens(self, preset: Preset | None) -> Path:
        """File of the photos' tokens, as the encoder of a preset, or of the given model, gives them."""
        folder = self.cache / "tokens"
        make_folder(folder)
        sees = _sees(preset) if preset else weights_digest(self.scale.model)
        return folder / f"{_digest([sees, self.scale.data[-1], self.limit])}.safetensors"

    def about(self) -> dict[str, Any]:
        """What it was run on, for the results."""
        study, corpora = self.study, self.scale.data[:-1]
        used = max((run.corpora or len(corpora) for run in study.runs), default=0) if study.trains else 0
        return {
            "corpus": self.measured.name,
            "split": self.measured.split,
            "photos": len(self.systems[study.runs[0].name][0].captions),
            "trained_on": [" ".join((name, split)) for name, _, split in map(parse_spec, corpora[:used])],
            "training": training_of(self.presets[study.runs[0].name, study.seeds[0]]) if study.trains else "",
            "overrides": list(self.scale.overrides),
            "tiny": self.scale.tiny,
        }

    def _trained(self, name: str, folder: Path) -> None:
        self.curves[name].append(_curve(folder))
        self.losses[name].append(_last(self.curves[name][-1]))


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
    preset = load_preset(study.preset, words)
    seen = [_sees(preset), preset.data.views, preset.data.limit, list(used)]
    features = cache / "features" / _digest(seen)
    return load_preset(study.preset, [*words, *overrides_of({"data": {"features": str(features)}})])


def sampling_of(study: Study, run: StudyRun, scale: Scale) -> dict[str, Any]:
    """Settings of a run of a study that trains nothing. Raises InputError."""
    words = [*overrides_of(study.settings), *scale.overrides, *overrides_of(run.settings)]
    return changes(SamplingConfig, words)


def trained(preset: Preset, cache: Path, tell: Callable[[str], None], what: str) -> Path:
    """The folder of a training, which is trained where it is not yet; runs that only sample otherwise share it.

    Args:
        preset: its settings.
        cache: folder below which models are kept.
        tell: told what is going on.
        what: what the training is called.

    Raises:
        InputError: as ``clearcap.training.run.train``.
    """
    from clearcap.training.run import train

    folder = cache / "models" / _key(preset)
    if not (folder / "trained.json").is_file():
        tell(f"training {what}")
        train(preset, folder)
        write_json(folder / "trained.json", {"run": what})
    return folder


def twin_of(preset: Preset, cache: Path, tell: Callable[[str], None], what: str) -> Path:
    """The folder of the training of a captioner's word-by-word twin; arguments and errors as for ``trained``."""
    from clearcap.training.twin.run import WEIGHTS, train_twin

    folder = cache / "models" / f"twin-{_key(preset)}"
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
