"""``clearcap rate``: people's judgement of captions, asked on a local page."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from clearcap.cli import options

app = typer.Typer(add_completion=False)
Out = Annotated[Path, typer.Option(help="folder of the rating: plan, photos, answers, report")]
OUT = Path("runs") / "rating"


@app.callback(invoke_without_command=True)
def rate(
    context: typer.Context,
    data: options.Data = "",
    system: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FILE of captions (results.json of evaluate, or what score reads); repeat"),
    ] = None,
    out: Out = OUT,
    photos: Annotated[int, typer.Option(help="photos to rate, chosen by the seed")] = 50,
    seed: Annotated[int, typer.Option(help="of the choice and of every order")] = 0,
    option: options.ReaderOption = None,
    subset: options.Subset = False,
    host: Annotated[str, typer.Option(help="address to listen at; 0.0.0.0 is every one")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen at; 0 takes a free one")] = 8010,
) -> None:
    """Serve a page that shows photos with captions of several systems, blind, and asks for 1 to 5.

    A rating that was begun goes on: clearcap rate --out DIR.
    """
    if context.invoked_subcommand is not None:
        return
    from clearcap.errors import InputError
    from clearcap.evaluation.rating.plan import PLAN, make_plan, open_plan
    from clearcap.evaluation.rating.server import make_server

    if (out / PLAN).is_file():
        if system or data:
            raise InputError(
                f"{out} holds a rating; leave --data and --system out to go on, or choose another"
            )
        plan = open_plan(out)
    else:
        named = [text.partition("=") for text in system or []]
        if bad := [name + equals + file for name, equals, file in named if not (name and file)]:
            raise InputError(f"--system {bad[0]!r} is not of the form NAME=FILE")
        if len({name for name, _, _ in named}) < len(named):
            raise InputError("two systems have one name; give each --system its own")
        corpus = options.open_split(data, "", "", option, subset)
        results = {name: Path(file) for name, _, file in named}
        plan = make_plan(corpus.photos, results, out, count=photos, seed=seed)
    with make_server(plan, out, host, port) as server:
        address = f"http://{host}:{server.server_address[1]}/"
        print(address, flush=True)
        print(
            f"clearcap: {len(plan.items)} captions of {len(plan.photos)} photos; Ctrl-C ends", file=sys.stderr
        )
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print(f"clearcap: answers are in {out}; clearcap rate report --out {out}", file=sys.stderr)


@app.command()
def report(out: Out = OUT, as_json: options.AsJson = False) -> None:
    """Mean opinion scores with intervals, agreement between raters, and a picture: report.json, .md and .png."""
    from clearcap.evaluation.rating.report import table_of, write_report

    found = write_report(out)
    print(json.dumps(found, ensure_ascii=False) if as_json else table_of(found))
