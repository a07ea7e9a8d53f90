"""``clearcap score``: anyone's captions, in the COCO result format, scored against anyone's references."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from clearcap.cli import options


def score(
    results: Annotated[
        Path, typer.Argument(help="COCO results (JSON list), or captions.jsonl", show_default=False)
    ],
    references: Annotated[
        Path, typer.Argument(help="COCO annotations, or captions.jsonl", show_default=False)
    ],
    metrics: Annotated[
        str, typer.Option(help="of BLEU, ROUGE-L, CIDEr-D, METEOR, SPICE and those of plug-ins, with commas")
    ] = "BLEU,ROUGE-L,CIDEr-D",
    subset: Annotated[
        bool, typer.Option("--subset", help="score only the photos that RESULTS captions")
    ] = False,
    compare: Annotated[
        Path | None, typer.Option(help="another result file for the same photos: paired test")
    ] = None,
    seed: Annotated[int, typer.Option(help="of the bootstrap")] = 0,
    as_json: options.AsJson = False,
) -> None:
    """Score a result file: corpus scores with 95% intervals, unrounded with --json."""
    from clearcap.evaluation.files import match, read_references, read_results
    from clearcap.evaluation.scores import score_captions

    names = (str(results), str(references))
    candidates = read_results(results)
    held = match(candidates, read_references(references), names=names, subset=subset)
    chosen = [name.strip() for name in metrics.split(",")]
    candidates = {photo: candidates[photo] for photo in held}
    if compare is not None:
        from clearcap.cli.evaluate import print_comparison

        other = read_results(compare)
        match(other, held, names=(str(compare), names[0]))
        a, b = (score_captions(one, held, metrics=chosen).scores for one in (candidates, other))
        print_comparison((a, b), (results, compare), as_json, seed)
        return

    scored = score_captions(candidates, held, metrics=chosen, seed=seed)
    if as_json:
        found = {**scored.scores.corpus, "intervals": scored.intervals, "captions": scored.diversity}
        print(json.dumps({**found, "photos": len(held)}))
        return
    options.show_table(
        ("metric", "score", "95% interval"),
        (
            (name, f"{value:.4f}", options.in_interval(scored.intervals.get(name)))
            for name, value in scored.scores.corpus.items()
        ),
        title=f"{results} against {references}",
        caption=f"{len(held):,} photos",
    )
