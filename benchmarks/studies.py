"""All studies whole, one after another, and the pages of docs that show what came of those that are finished.

``python -m benchmarks.studies run DATA OUT`` runs every study that OUT does not hold yet (names behind OUT choose
some), the cheapest first, on one thread, with photos encoded once for all; DATA holds Flickr8k and Flickr30k as
``flickr8k`` and ``flickr30k``. It goes on where it was killed. ``python -m benchmarks.studies pages OUT docs`` writes
``studies-ladic.md`` and ``studies-clip-diffusion-lm.md`` with their pictures. A study that OUT does not hold whole
keeps what the page says of it, so that studies can be run on several machines; one that never ended is on neither page.
``python -m benchmarks.studies losses OUT`` says whether the models of a study that ended at a lower loss score higher.
"""

from __future__ import annotations

import datetime
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image

from clearcap.config import __version__
from clearcap.data.reading import read_json
from clearcap.data.writing import write_json, write_text
from clearcap.evaluation.confidence import rank_correlation
from clearcap.studies.run import Scale, run_study
from clearcap.studies.study import LOSSES, Study, load_study, studies

app = typer.Typer(add_completion=False)
PAGES = {"studies-ladic": "LaDiC", "studies-clip-diffusion-lm": "CLIP-Diffusion-LM"}
PARAGRAPH_TEXT = ("length=64", "max_words=60", "steps=1500", "batch=48")
WIDTH = 900  # pixels of a picture
COLOURS = 64


@app.command()
def run(
    data: Annotated[Path, typer.Argument(help="folder with flickr8k and flickr30k")],
    out: Annotated[Path, typer.Argument(help="folder of all studies")],
    names: Annotated[list[str] | None, typer.Argument(help="studies; default is all")] = None,
) -> None:
    """Run studies whole, the cheapest first."""
    import torch

    torch.set_num_threads(1)
    for study in sorted(map(load_study, names or studies()), key=lambda one: one.minutes):
        if not (out / study.name / "whole.json").is_file():
            run_whole(study, data, out)


def run_whole(study: Study, data: Path, out: Path) -> None:
    """Run one study to its end, and write what it took beside its results."""
    folder = out / study.name
    clock, loads = Clock(folder / "spent.json"), [os.getloadavg()[0]]

    def tell(what: str) -> None:
        loads.append(os.getloadavg()[0])
        clock.read()
        print(f"{datetime.datetime.now():%H:%M:%S} {study.name}: {what}", flush=True)

    scale = Scale(data_of(study, data), overrides=overrides_for(study, data, out))
    run_study(study, scale, folder, tell, cache=out / "cache")
    about = about_run(study, data, clock.read()) | {"load": statistics.fmean(loads)}
    write_json(folder / "whole.json", about)


class Clock:
    """Seconds by the clock and of the processor that a study took, with those of the runs that were killed."""

    def __init__(self, file: Path) -> None:
        """Args:
        file: where they are kept.
        """
        self.file = file
        self.before = read_json(file) if file.is_file() else [0.0, 0.0]
        self.start = (time.time(), time.process_time())

    def read(self) -> list[float]:
        """Both until now, which the file holds from here on."""
        now = (time.time(), time.process_time())
        spent = [
            earlier + at - start for earlier, at, start in zip(self.before, now, self.start, strict=True)
        ]
        write_json(self.file, spent)
        return spent


def overrides_for(study: Study, data: Path, out: Path) -> tuple[str, ...]:
    """Settings that a study cannot do without: of paragraphs a text space that is long enough, made where it is not."""
    if study.name != "ladic-paragraph":
        return ()
    text = out / "paragraph-text"
    if not (text / "model.safetensors").is_file():
        spec = data_of(study, data)[0]
        command = [sys.executable, "-m", "clearcap", "pretrain-text", "--data", spec, "--out", str(text)]
        subprocess.run([*command, *PARAGRAPH_TEXT], check=True)
    return (f"text.source={text}",)


def data_of(study: Study, data: Path) -> tuple[str, ...]:
    """Corpora of a study: Flickr8k's training and dev photos, and Flickr30k's for more data."""
    train, dev = f"flickr8k:{data / 'flickr8k'}:train", f"flickr8k:{data / 'flickr8k'}:dev"
    if not study.trains:
        return (dev,)
    if study.name == "ladic-paragraph":
        return (f"joined:{train}", f"joined:{dev}")
    more = any(one.corpora != 1 for one in study.runs)
    return (train, f"folder:{data / 'flickr30k'}:train", dev) if more else (train, dev)


def about_run(study: Study, data: Path, spent: list[float]) -> dict[str, Any]:
    """Command, seeds, time and machine of a study that ended."""
    corpora = [one.replace(str(data), "DATA") for one in data_of(study, data)]
    words = " ".join(f"--data {one}" for one in corpora)
    return {
        "command": f"clearcap study {study.name} {words} --out OUT",
        "seeds": list(study.seeds),
        "wall_seconds": spent[0],
        "processor_seconds": spent[1],
        "date": f"{datetime.date.today():%d %B %Y}",
        "machine": f"one thread of {_processor()}",
        "version": __version__,
    }


@app.command()
def pages(
    out: Annotated[Path, typer.Argument(help="folder of all studies")],
    docs: Annotated[Path, typer.Argument(help="folder of the pages")],
) -> None:
    """Write the pages of the finished studies."""
    for name, paper in PAGES.items():
        page = docs / f"{name}.md"
        mine = [one for one in map(load_study, studies()) if one.paper.startswith(paper)]
        told = sections_of(page.read_text()) if page.is_file() else {}
        told |= {
            one.name: _section(one, out / one.name, docs)
            for one in mine
            if (out / one.name / "whole.json").is_file()
        }
        left = [f"`{one.name}`" for one in mine if one.name not in told]
        lines = [
            f"# {paper}: what its tables and figures come to here",
            "",
            "Written by `python -m benchmarks.studies pages` from the studies that were run whole; what they are and",
            "when a claim is confirmed is in [studies.md](studies.md). All is far smaller than the paper's: verdicts",
            "are about this scale.",
            "",
            f"**Not run whole yet**: {', '.join(left)}." if left else "All of its studies were run whole.",
            "",
        ]
        for one in mine:
            lines += [f"<!-- study {one.name} -->", "", told[one.name], ""] if one.name in told else []
        write_text(page, "\n".join(lines).rstrip() + "\n")


@app.command()
def losses(out: Annotated[Path, typer.Argument(help="folder of all studies")]) -> None:
    """Whether a lower loss means a higher CIDEr-D: the rank correlation over the trained models of each study.

    It says little of a study whose runs do not minimise the same loss.
    """
    for study in map(load_study, studies()):
        if study.trains and (out / study.name / "whole.json").is_file():
            models = models_of(read_json(out / study.name / "results.json"))
            found = [
                f"{loss} {rank_correlation([one[loss] for one in models], [one['CIDEr-D'] for one in models]):+.2f}"
                for loss in LOSSES
            ]
            typer.echo(f"{study.name}: {len(models)} models, {', '.join(found)}")


def models_of(results: dict[str, Any]) -> list[dict[str, float]]:
    """Losses and CIDEr-D of every model, one a seed, that captions by diffusion; of runs that share one, the first."""
    models: dict[tuple[float, ...], dict[str, float]] = {}
    for run in results["runs"]:
        for loss, score in zip(run["losses"], run["scores"]["CIDEr-D"]["seeds"], strict=True):
            if loss["latent loss"]:  # the word-by-word twin has none
                models.setdefault(tuple(loss[name] for name in LOSSES), loss | {"CIDEr-D": score})
    return list(models.values())


def sections_of(page: str) -> dict[str, str]:
    """What a page says of each study, by its name."""
    parts = re.split(r"^<!-- study (\S+) -->$", page, flags=re.MULTILINE)[1:]
    return {name: text.strip() for name, text in zip(parts[::2], parts[1::2], strict=True)}


def _section(study: Study, folder: Path, docs: Path) -> str:
    about = read_json(folder / "whole.json")
    table = (folder / "table.md").read_text().rstrip()
    times = read_json(folder / "times.json")
    for name in ("picture", "further"):
        if (folder / f"{name}.png").is_file():
            _small(folder / f"{name}.png", docs / f"{study.name}-{name}.png")
            table += f"\n\n![{study.name}: {name}]({study.name}-{name}.png)"
    for one in times["claims"]:
        table += f"\n\nBy time: {one['says']}: {one['verdict']} ({one['ratio']:.2f} times the milliseconds)."
    seeds = ", ".join(map(str, about["seeds"]))
    processor, clock = (about[f"{kind}_seconds"] / 60 for kind in ("processor", "wall"))
    return (
        f"{table}\n\n`{about['command']}`; seeds {seeds}; {processor:.0f} minutes of the processor, {clock:.0f} by the "
        f"clock, {about['machine']} whose load average was {about['load']:.0f}, {about['date']}."
    )


def _small(picture: Path, to: Path) -> None:
    """The picture, small enough for docs."""
    with Image.open(picture) as opened:
        shown = opened.convert("RGB")
    shown.thumbnail((WIDTH, WIDTH))
    shown.quantize(COLOURS).save(to, optimize=True)


def _processor() -> str:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    app()
