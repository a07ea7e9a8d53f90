"""``clearcap evaluate``: a captioner's scores on a corpus, or the difference between two evaluations."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clearcap.cli import options
from clearcap.errors import InputError

if TYPE_CHECKING:
    from clearcap.evaluation.run import Evaluation


def evaluate(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="other sampling settings: solver=ddim refine=1 noise_factor=2 ...", show_default=False
        ),
    ] = None,
    model: options.Model = "default",
    data: options.Data = "",
    root: options.Root = "",
    split: options.Split = "",
    option: options.ReaderOption = None,
    subset: options.Subset = False,
    steps: options.Steps = None,
    guidance: Annotated[float | None, typer.Option(help="classifier-free guidance scale")] = None,
    candidates: Annotated[int | None, typer.Option(help="captions sampled per photo")] = None,
    select: options.Select = None,
    utility: Annotated[
        str | None, typer.Option(help="what mbr compares candidates by: bleu or cider")
    ] = None,
    clip: Annotated[
        str | None, typer.Option(help="folder or hub name of a CLIP or scorer, which similarity goes by")
    ] = None,
    memory: options.MemoryFolder = None,
    neighbours: options.Neighbours = 25,
    metrics: Annotated[
        str, typer.Option(help="to score by besides BLEU, ROUGE-L and CIDEr-D: METEOR,SPICE or a plug-in's")
    ] = "",
    tokenizer: Annotated[
        str,
        typer.Option(help="what scores take for words: ptb (COCO's) or unicode; default is the model's"),
    ] = "",
    seed: options.Seed = 0,
    limit: options.Limit = None,
    batch_size: Annotated[int, typer.Option(help="photos at once")] = 16,
    out: Annotated[
        Path | None, typer.Option(help="folder for captions and scores; an interrupted run resumes")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="folder for the HTML report and pictures (and OUT's files)")
    ] = None,
    curves: Annotated[
        Path | None, typer.Option(help="curves.jsonl of the training run; found beside the model")
    ] = None,
    shuffle_photos: Annotated[
        bool, typer.Option("--shuffle-photos", help="also score against other photos' references")
    ] = False,
    as_json: options.AsJson = False,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(help="test two OUT folders against each other")
    ] = None,
) -> None:
    """Caption every photo of a split and score the captions: BLEU, ROUGE-L, CIDEr-D, with intervals."""
    if compare is not None:
        compare_folders(compare, as_json)
        return
    how = options.sampling_settings(
        overrides, steps=steps, guidance=guidance, candidates=candidates, select=select, utility=utility
    )
    corpus = options.open_split(data, root, split, option, subset)
    from clearcap.evaluation.run import evaluate as run

    with options.shown_progress("captioning") as advance:
        found = run(
            model,
            corpus,
            out=out or report,
            limit=limit,
            batch_size=batch_size,
            seed=seed,
            shuffle=shuffle_photos,
            clip=clip,
            memory=options.open_memory(memory, neighbours),
            progress=advance,
            tokenizer=tokenizer,
            metrics=[name.strip() for name in metrics.split(",") if name.strip()],
            **how,
        )
    if as_json:
        print(json.dumps(found.to_json(), ensure_ascii=False))
    else:
        _print(found)
    if report is not None:
        from clearcap.captioner.folder import training_curves
        from clearcap.evaluation.report import write_report

        for path in write_report(found, corpus, report, curves=curves or training_curves(model)):
            print(f"wrote {path}", file=sys.stderr)


def _print(found: Evaluation) -> None:
    from clearcap.evaluation.scores import tokenizer_said

    manifest, scored, shuffled = found.manifest, found.scored, found.shuffled or {}
    how = f"{manifest['steps']} steps, guidance {manifest['guidance']:g}, seed {manifest['seed']}"
    if manifest["candidates"] > 1:
        how += f", {manifest['candidates']} candidates by {manifest['select']}"
    rows = [
        [name, f"{value:.4f}", options.in_interval(scored.intervals.get(name))]
        + ([f"{shuffled[name]:.4f}" if name in shuffled else ""] if shuffled else [])
        for name, value in scored.scores.corpus.items()
    ]
    console = options.show_table(
        ["metric", "score", "95% interval", *(["other photos' references"] if shuffled else [])],
        rows,
        title=f"{manifest['model']} on {manifest['corpus']} {manifest['split']}",
        caption=how,
    )
    if tokenizer_said(manifest, "the manifest") != "ptb":
        console.print(
            f"Words: {manifest['metrics']['tokenizer']}. Not comparable with scores of COCO's tokeniser.",
            highlight=False,
        )
    diversity, length = scored.diversity, scored.diversity["length"]
    repeating = diversity.get("repeating_share")
    again = "" if repeating is None else f"; {repeating:.1%} say a word of content twice"
    console.print(
        f"{manifest['photos']:,} photos, {manifest['references']:,} references. "
        f"{diversity['distinct']:,} distinct captions ({diversity['distinct_share']:.1%}), "
        f"{diversity['vocabulary']:,} words, {length['mean']:.1f} ± {length['deviation']:.1f} "
        f"words a caption{again}. Captioning took {found.seconds:.1f} s.",
        highlight=False,
    )
    if found.trust:
        console.print(
            f"Confidence: calibration error {found.trust.calibration_error:.3f} a word, rank correlation with "
            f"CIDEr-D {found.trust.rank_correlation:.2f}.",
            highlight=False,
        )


def compare_folders(folders: tuple[Path, Path], as_json: bool) -> None:
    """Test two finished evaluations against each other, and print what comes out.

    Raises:
        InputError: they are of other photos or references, or their words were cut by different tokenisers.
    """
    from clearcap.evaluation.run import load_evaluation
    from clearcap.evaluation.scores import metrics_of, tokenizer_said

    a, b = (load_evaluation(folder) for folder in folders)
    if any(b.references.get(photo, texts) != texts for photo, texts in a.references.items()) or not (
        a.references.keys() & b.references.keys()
    ):
        raise InputError(
            f"{folders[0]} and {folders[1]} have other photos or references; evaluate on the same split"
        )
    words = [tokenizer_said(found.manifest, str(f)) for found, f in zip((a, b), folders, strict=True)]
    if words[0] != words[1]:
        raise InputError(
            f"{folders[0]} is scored with --tokenizer {words[0]} and {folders[1]} with {words[1]}, whose scores "
            "cannot be compared; score both with one: clearcap score OUT/results.json OUT/references.json --tokenizer"
        )
    chosen = [name for name in metrics_of(a.manifest["metrics"]) if name in metrics_of(b.manifest["metrics"])]
    captions = [{one.photo: one.caption for one in found.captions} for found in (a, b)]
    print_comparison(
        captions,
        a.references,
        chosen,
        names=[str(folder) for folder in folders],
        as_json=as_json,
        tokenizer=words[0],
    )


def print_comparison(
    captions: Sequence[dict[str, str]],
    references: Mapping[str, Sequence[str]],
    metrics: Sequence[str],
    *,
    names: Sequence[str],
    as_json: bool,
    seed: int = 0,
    tokenizer: str = "ptb",
) -> None:
    """Test two systems against each other on the photos that both caption, and print what comes out.

    Raises:
        InputError: no photo is captioned by both.
    """
    from clearcap.data.records import several
    from clearcap.evaluation.scores import compare_captions

    compared = compare_captions(captions, references, metrics, names=names, seed=seed, tokenizer=tokenizer)
    if compared.alone:
        told = f"{several(compared.alone, 'photo')} left out, captioned only by {names[0]} or {names[1]}"
        print(f"clearcap: {told}", file=sys.stderr)
    found, (a, b) = compared.tests, compared.corpus
    if as_json:
        rows = {name: {"A": a[name], "B": b[name], **row.to_json()} for name, row in found.items()}
        about = {"A": names[0], "B": names[1], "photos": compared.photos, "left_out": len(compared.alone)}
        about["tokenizer"] = tokenizer
        print(json.dumps({**about, **rows}, ensure_ascii=False))
        return
    options.show_table(
        ("metric", "A", "B", "A - B", "95% interval", "p boot.", "p perm."),
        (
            (
                name,
                f"{a[name]:.4f}",
                f"{b[name]:.4f}",
                f"{row.difference.estimate:+.4f}",
                options.in_interval((row.difference.low, row.difference.high), "+.4f"),
                f"{row.p_bootstrap:.4f}",
                f"{row.p_permutation:.4f}",
            )
            for name, row in found.items()
        ),
        title=f"A: {names[0]}\nB: {names[1]}",
        caption=f"{compared.photos:,} photos, paired" + options.told_words(tokenizer),
    )
