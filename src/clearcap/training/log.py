"""A training as its user sees it: a bar, curves and sample captions, in files and in a tracker."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from clearcap.captioner.folder import CURVES, SAMPLES
from clearcap.data.writing import write_text
from clearcap.errors import InputError
from clearcap.metrics import score
from clearcap.training.checkpoint import reached_step
from clearcap.training.loop import StepReport, make_accelerator

SHOWN = 8  # watched photos whose captions are printed and kept
Captions = dict[str | int, str]
"""A caption of each photo, by id."""
Scored = tuple[Captions, dict[str, float]]
"""Captions of photos by id, and their scores by name."""


@dataclass
class RunLog:
    """The files, the bar and the tracker of a run.

    Attributes:
        out: the run's folder.
        console: where samples are printed.
        progress: where the bar is.
        accelerator: see ``tracked_accelerator``.
    """

    out: Path
    console: Console
    progress: Progress
    accelerator: Any

    def begin(self, steps: int) -> int:
        """Show a bar of so many steps, and drop what the files say of steps that will be repeated.

        Returns:
            The step that the run goes on from.
        """
        reached = reached_step(self.out / "checkpoint")
        self.task = self.progress.add_task("training", total=steps, completed=reached)
        self.started = time.monotonic()
        for file in (self.out / CURVES, self.out / SAMPLES):
            keep_until(file, reached or -1)  # what was said before the first step is said again, too
        return reached

    def report(self, measured: StepReport) -> None:
        """Write down what a step measured.

        Raises:
            InputError: a loss is not finite.
        """
        if not math.isfinite(measured.latent + measured.caption):
            raise InputError(
                f"the loss is not finite at step {measured.step}; lower train.lr and start again"
            )
        line = dataclasses.asdict(measured) | {"seconds": round(time.monotonic() - self.started, 1)}
        _append(self.out / CURVES, line)
        self.accelerator.log({k: v for k, v in line.items() if k != "step"}, step=measured.step)
        shown = f"latent {measured.latent:.3f}  caption {measured.caption:.3f}  lr {measured.lr:.1e}"
        self.progress.update(self.task, completed=measured.step, description=shown)

    def samples(self, step: int, sampled: Scored) -> None:
        """Write down and print captions of watched photos at a step, and their scores."""
        captions, scores = sampled
        some = dict(list(captions.items())[:SHOWN])
        _append(self.out / SAMPLES, {"step": step, "scores": scores, "captions": some})
        self.accelerator.log(scores, step=step)
        lines = [f"step {step}: {shown(scores)}", *(f"  {caption}" for caption in some.values())]
        self.console.print(*lines, sep="\n")


def scored(
    captions: Captions, references: Mapping[str | int, Sequence[str]], tokenizer: str = "ptb"
) -> Scored:
    """Captions with their scores; ``distinct`` is the share of them that are unlike all others."""
    scores = score(
        captions, {name: list(told) for name, told in references.items()}, tokenizer=tokenizer
    ).corpus
    scores["distinct"] = len(set(captions.values())) / max(len(captions), 1)
    return captions, scores


def shown(scores: dict[str, float]) -> str:
    """Scores in a line."""
    return ", ".join(f"{name} {value:.4f}" for name, value in scores.items())


def tracked_accelerator(tracker: str, out: Path) -> Any:
    """An accelerator that logs to the named tracker ("none": nowhere)."""
    accelerator = make_accelerator(log_with=None if tracker == "none" else tracker, project_dir=out)
    if tracker != "none":
        accelerator.init_trackers("clearcap")
    return accelerator


def progress_bar(console: Console, shown: bool = True) -> Progress:
    """Bars with counts and the time that is left; of several processes the main one alone shows them."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not shown)


def keep_until(file: Path, step: int) -> None:
    """Drop the lines of later steps than that from which a run goes on, and a line that was cut short."""
    if file.is_file():
        lines = file.read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        write_text(file, "".join(kept))


def _append(file: Path, line: dict[str, Any]) -> None:
    with file.open("a") as lines:
        lines.write(json.dumps(line) + "\n")
