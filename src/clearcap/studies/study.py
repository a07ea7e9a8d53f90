"""A study as its file says it: what it asks, which runs answer, what the paper found, what would confirm it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from clearcap.config import make, require

FIGURES = ("bars", "line", "losses")
KINDS = ("higher", "as good")
TIME, LOSSES = "ms", ("latent loss", "caption loss")


@dataclass(frozen=True)
class StudyRun:
    """One row of the paper's table.

    Attributes:
        name: by which claims and files call it.
        shown: what it is.
        settings: sections of a preset that differ; of sampling alone, where nothing is trained.
        beams: 0 samples by diffusion; otherwise the captioner's word-by-word twin is trained in its place and
            writes with so many beams.
        reading: nothing is captioned: how the map of an object's word is had (``clearcap.evaluation.looking``).
        corpora: how many of the corpora are trained on; 0 is all.
        x: its place on the horizontal axis of a line.
        line: the line that it lies on.
        paper: the paper's figures by metric, as fractions.
    """

    name: str
    shown: str = ""
    settings: dict = field(default_factory=dict)
    beams: int = 0
    reading: str = ""
    corpora: int = 1
    x: float = 0.0
    line: str = ""
    paper: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """What the paper says of two runs, and what confirms it (``clearcap.studies.verdict``).

    Attributes:
        says: the claim in words.
        of, than: the two runs.
        kind: "higher": ``of`` has the higher figure; "as good": it is not lower than ``than`` by ``margin`` or more.
        metric: figure that decides: a score's name, "latent loss", "caption loss" or "ms"; empty is the study's.
        margin: difference that does not count; of "ms" a share.
    """

    says: str
    of: str
    than: str
    kind: str = "higher"
    metric: str = ""
    margin: float = 0.0


@dataclass(frozen=True)
class Study:
    """One file.

    Attributes:
        name: the file's, without suffix.
        asks: the question.
        paper: the table or figure that it repeats.
        base: preset that its models are trained from; empty where the given model is sampled from as it is.
        seeds: of training and sampling, two or more.
        minutes: estimate of its time on one core.
        photos: photos that are captioned and scored unless the command says otherwise; 0 is all.
        against: run that the others are tested against.
        decides: score by which claims are decided unless they say otherwise.
        metrics: names in the registry of further metrics.
        figure: how the results are drawn.
        axis: what the horizontal axis of a line is.
        differs: in what it is another study than the paper's.
        further: whether captioner and twin are measured beside each other in more ways than by scores
            (``clearcap.studies.further``).
        settings: of all runs.
        runs: rows of the table.
        claims: what the paper says of them.
    """

    name: str
    asks: str
    paper: str
    minutes: float
    against: str
    runs: tuple[StudyRun, ...]
    claims: tuple[Claim, ...]
    base: str = ""
    seeds: tuple[int, ...] = (0, 1)
    photos: int = 0
    decides: str = "CIDEr-D"
    metrics: tuple[str, ...] = ()
    figure: str = "bars"
    axis: str = ""
    differs: str = ""
    further: bool = False
    settings: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        where, names = f"study {self.name}", [run.name for run in self.runs]
        require(1 < len(names) == len(set(names)), f"{where}: name two runs or more, each once")
        require(
            1 < len(self.seeds) == len(set(self.seeds)),
            f"{where}: seeds={list(self.seeds)} show no spread; name two or more, each once",
        )
        require(self.against in names, f"{where}: against={self.against!r} is none of its runs")
        require(
            self.figure in FIGURES, f"{where}: figure={self.figure!r}; choose one of {', '.join(FIGURES)}"
        )
        for run in self.runs:
            require(
                run.name.replace("-", "").replace(".", "").isalnum(),
                f"{where}: {run.name!r} cannot name a file; use letters, digits, dots and hyphens",
            )
            sections = sorted({*run.settings, *self.settings} - {"sampling"})
            require(
                self.trains or not sections,
                f"{where}: {run.name} sets {', '.join(sections)}, but nothing is trained; name a base",
            )
        first = {run.beams > 0 for run in self.runs[:1]}
        require(
            first == {False} and (self.trains or not any(run.beams for run in self.runs)),
            f"{where}: a run with beams needs a study that trains and begins with one without",
        )
        require(
            not self.looks or (not self.trains and all(run.reading for run in self.runs)),
            f"{where}: a run with a reading needs a study that trains nothing, whose other runs have one too",
        )
        require(
            not self.further or any(run.beams for run in self.runs),
            f"{where}: further=true compares a captioner with its twin; add a run with beams",
        )
        for claim in self.claims:
            require(claim.kind in KINDS, f"{where}: kind={claim.kind!r}; choose one of {', '.join(KINDS)}")
            for one in (claim.of, claim.than):
                require(one in names, f"{where}: the claim {claim.says!r} is about {one!r}, none of its runs")

    @property
    def trains(self) -> bool:
        """Whether it trains models."""
        return bool(self.base)

    @property
    def preset(self) -> str:
        """The base as ``load_preset`` finds it: the file of one that ships with the studies, else the base itself."""
        own = _folder() / "bases" / f"{self.base}.toml"
        return str(own) if own.is_file() else self.base

    @property
    def looks(self) -> bool:
        """Whether it asks where words look, and captions nothing."""
        return any(run.reading for run in self.runs)

    def about(self) -> dict[str, Any]:
        """What ``clearcap study list --json`` says of it."""
        return {
            "name": self.name,
            "asks": self.asks,
            "paper": self.paper,
            "runs": len(self.runs) * len(self.seeds),
            "minutes": self.minutes,
            "trains": self.trains,
        }


def studies() -> list[str]:
    """Names of the studies that ship."""
    return sorted(Path(str(file)).stem for file in _folder().iterdir() if str(file).endswith(".toml"))


def load_study(name: str) -> Study:
    """A study by name, or a TOML file by path.

    Its ``base`` is one of the presets of ``studies/bases``, a preset that ships, or a .toml file beside it.

    Raises:
        InputError: there is none, or it does not say what ``Study`` asks for.
    """
    path = Path(name) if name.endswith(".toml") else _folder() / f"{name}.toml"
    require(path.is_file(), f"no study {name!r}; choose one of {', '.join(studies())} or pass a .toml file")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        require(False, f"{path}: not valid TOML ({fault}); mend that line")
    for needed in ("asks", "paper", "minutes", "against", "runs", "claims"):
        require(needed in tables, f"{path}: has no {needed!r}; add it")
    base = str(tables.get("base", ""))
    if base.endswith(".toml"):
        tables["base"] = str(path.parent / base)
    return make(Study, {"name": path.stem} | tables, where=str(path))


def overrides_of(tables: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Nested settings as ``section.key=value``, the one way in which settings travel."""
    for key, value in tables.items():
        if isinstance(value, Mapping):
            yield from overrides_of(value, f"{above}{key}.")
        else:
            yield f"{above}{key}={json.dumps(value)}"


def _folder() -> Path:
    return Path(str(resources.files("clearcap"))) / "studies"
