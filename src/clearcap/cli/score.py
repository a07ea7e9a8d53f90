"""``clearcap score``: anyone's captions, in the COCO result format, scored against anyone's references."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from clearcap.cli import options
from clearcap.errors import InputError


def score(
    results: Annotated[
        Path, typer.Argument(help="COCO results (JSON list), .jsonl or .csv", show_default=False)
    ],
    references: Annotated[
        Path, typer.Argument(help="COCO annotations, Karpathy's JSON, .jsonl or .csv", show_default=False)
    ],
    metrics: Annotated[
        str, typer.Option(help="of BLEU, ROUGE-L, CIDEr-D, METEOR, SPICE and those of plug-ins, with commas")
    ] = "BLEU,ROUGE-L,CIDEr-D",
    subset: Annotated[
        bool, typer.Option("--subset", help="score only the photos that RESULTS captions")
    ] = False,
    compare: Annotated[
        Path | None, typer.Option(help="another result file: paired test on the photos that both caption")
    ] = None,
    photos: Annotated[
        Path | None,
        typer.Option(
            help="folder of the photos: adds the captions' similarity to them by the model's scorer"
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="with --photos: captioner whose encoder and scorer judge")
    ] = "default",
    scorer: Annotated[
        str | None, typer.Option(help="with --photos: folder of the scorer; default that of the model")
    ] = None,
    tokenizer: options.Tokenizer = "ptb",
    seed: Annotated[int, typer.Option(help="of the bootstrap")] = 0,
    as_json: options.AsJson = False,
) -> None:
    """Score a result file: corpus scores with 95% intervals, unrounded with --json."""
    from clearcap.evaluation.files import join, read_references, read_results
    from clearcap.evaluation.scores import score_captions

    known = read_references(references)
    chosen = [name.strip() for name in metrics.split(",")]
    names = (str(results), str(references))
    candidates, held = join(read_results(results), known, names=names, subset=subset or compare is not None)
    if compare is not None:
        if photos is not None:
            raise InputError("--photos adds a figure of one result file; leave --compare out")
        from clearcap.cli.evaluate import print_comparison

        others, _ = join(read_results(compare), known, names=(str(compare), names[1]), subset=True)
        both = (str(results), str(compare))
        join(candidates | others, known, names=(" and ".join(both), names[1]), subset=subset)
        print_comparison(
            (candidates, others), known, chosen, names=both, as_json=as_json, seed=seed, tokenizer=tokenizer
        )
        return

    scored = score_captions(candidates, held, metrics=chosen, seed=seed, tokenizer=tokenizer)
    corpus, found_intervals = dict(scored.scores.corpus), dict(scored.intervals)
    if photos is not None:
        from clearcap.evaluation.photo_similarity import photo_files, photo_similarity
        from clearcap.pipeline import CaptionPipeline

        pipeline = CaptionPipeline.from_pretrained(model, backend="fast", clip=scorer)
        fit = photo_similarity(candidates, photo_files(known, candidates, photos), pipeline, seed=seed)
        corpus |= fit.scores.corpus
        found_intervals |= fit.intervals
    if as_json:
        found = {**corpus, "intervals": found_intervals, "captions": scored.diversity}
        print(json.dumps({**found, "photos": len(held), "tokenizer": tokenizer}))
        return
    options.show_table(
        ("metric", "score", "95% interval"),
        (
            (name, f"{value:.4f}", options.in_interval(found_intervals.get(name)))
            for name, value in corpus.items()
        ),
        title=f"{results} against {references}",
        caption=f"{len(held):,} photos" + options.told_words(tokenizer),
    )
