"""``clearcap evaluate-fill``: how often hidden words of the references are guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clearcap.cli import options

if TYPE_CHECKING:
    from clearcap.evaluation.infilling import FillEvaluation


def evaluate_fill(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="sampling settings to change: steps=5 guidance=1 ...", show_default=False),
    ] = None,
    model: options.Model = "default",
    data: options.Data = "",
    root: options.Root = "",
    split: options.Split = "",
    option: options.ReaderOption = None,
    subset: options.Subset = False,
    limit: options.Limit = None,
    hidden: Annotated[str, typer.Option(help="numbers of words to hide in each reference")] = "1,2,4",
    masked_lm: Annotated[
        str | None,
        typer.Option(help="masked language model to compare with; default the captioner's own text space"),
    ] = None,
    seed: Annotated[int, typer.Option(help="of the hidden places and of the samples")] = 0,
    batch_size: Annotated[int, typer.Option(help="photos at once, with all their references")] = 8,
    out: Annotated[
        Path | None, typer.Option(help="folder for answers and fill.json; a killed run resumes")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Hide words of every reference and have them guessed with the photo, without it, and by a masked LM."""
    from clearcap.evaluation.infilling import evaluate_fill as run

    how = options.sampling_settings(overrides)
    counts = options.number_list(hidden, int, "--hidden")
    corpus = options.open_split(data, root, split, option, subset)
    with options.shown_progress("starting") as advance:
        found = run(
            model,
            corpus,
            hidden=counts,
            masked_lm=masked_lm,
            out=out,
            limit=limit,
            batch_size=batch_size,
            seed=seed,
            progress=advance,
            **how,
        )
    if as_json:
        print(json.dumps(found.to_json(), ensure_ascii=False))
    else:
        _print(found)


def _print(found: FillEvaluation) -> None:
    from clearcap.evaluation.infilling import SYSTEMS

    manifest, figures = found.manifest, found.to_json()["hidden"]
    rows = []
    for count, one in figures.items():
        for name, label in (("words", "all"), ("content_words", "content")):
            row = one[name]
            if not row["hidden"]:
                continue
            ratio, lead = row["photo_to_no_photo"], row["photo_minus_masked_lm"]
            rows.append(
                (
                    count if label == "all" else "",
                    f"{label} ({row['hidden']:,})",
                    *(
                        f"{row[s]['accuracy']:.3f} ({options.in_interval(row[s]['interval'], '.3f')})"
                        for s in SYSTEMS
                    ),
                    f"{ratio['ratio']:.2f} ({options.in_interval(ratio['interval'], '.2f')})",
                    f"{lead['difference']:+.3f} ({options.in_interval(lead['interval'], '+.3f')})",
                )
            )
    console = options.show_table(
        ("hidden", "words", *SYSTEMS, "photo / no photo", "photo - masked LM"),
        rows,
        title=f"{manifest['model']} on {manifest['corpus']} {manifest['split']}, {manifest['photos']:,} photos",
        caption=f"share of hidden words guessed exactly, 95% over photos; seed {manifest['seed']}; "
        f"masked LM: {manifest['masked_lm']}",
        words=("words",),
        width=170,
    )
    for count, one in figures.items():
        speed = ", ".join(f"{name} {ms:.1f}" for name, ms in one["ms_per_reference"].items())
        console.print(
            f"{count} hidden: {one['references']:,} references ({one['cut']:,} cut, {one['left_out']:,} left out), "
            f"fixed words unchanged in {one['fixed_words_unchanged']:.2%}; ms a reference: {speed}",
            highlight=False,
        )
