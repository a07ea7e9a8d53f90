"""``clearcap convert`` and ``clearcap parity``: the published systems' checkpoints and recorded tensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from clearcap.convert import ConversionReport

convert = typer.Typer(
    help="Turn the authors' checkpoints into folders for from_pretrained.", no_args_is_help=True
)


@convert.command()
def ladic(
    file: Annotated[
        Path, typer.Argument(help="LaDiC.bin, model.safetensors or an accelerate save_state folder")
    ],
    out: Annotated[Path, typer.Argument(help="folder to write")],
    mean: Annotated[Path, typer.Option(help="the authors' mean_emb_split.pickle")],
    std: Annotated[Path, typer.Option(help="the authors' std_emb_split.pickle")],
    tokenizer: Annotated[str, typer.Option(help="folder, vocab.txt or hub name")] = "bert-base-uncased",
    decoder: Annotated[
        str, typer.Option(help="identity (as trained) or upper (as the paper says)")
    ] = "identity",
    length: Annotated[int, typer.Option(help="positions of a caption")] = 24,
) -> None:
    """Convert LaDiC's weights; every tensor that is dropped is named."""
    from clearcap.convert import convert_ladic

    _print(convert_ladic(file, out, mean=mean, std=std, tokenizer=tokenizer, decoder=decoder, length=length))


@convert.command("clip-diffusion-lm")
def clip_diffusion_lm(
    file: Annotated[Path, typer.Argument(help="the authors' .pickle, read without running anything in it")],
    out: Annotated[Path, typer.Argument(help="folder to write")],
    vision: Annotated[str, typer.Option(help="CLIP: folder or hub name")] = "openai/clip-vit-base-patch32",
    tokenizer: Annotated[str, typer.Option(help="folder, vocab.txt or hub name")] = "distilbert-base-uncased",
    heads: Annotated[int, typer.Option(help="attention heads of the core network")] = 12,
    length: Annotated[int, typer.Option(help="positions of a caption")] = 16,
) -> None:
    """Convert CLIP-Diffusion-LM's weights; every tensor that is dropped is named."""
    from clearcap.convert import convert_clip_diffusion_lm

    _print(
        convert_clip_diffusion_lm(file, out, vision=vision, tokenizer=tokenizer, heads=heads, length=length)
    )


def parity(
    folder: Annotated[Path, typer.Argument(help="recorded fixture: README.json and two .safetensors files")],
) -> None:
    """Replay tensors recorded from the authors' networks; exit status 1 where any differs by more than its bound.

    Differences are shares of a recorded tensor's greatest magnitude: in float32, as recorded, then from a replay in
    float64, which is the recording's own rounding.
    """
    from clearcap.convert.replaying import compare

    results = compare(folder)
    for variant, one in results.items():
        bounds = f"float64 {one.rounding:.1e}, bound {one.bound:.0e}"
        print(f"{'ok  ' if one.ok else 'FAIL'}  {one.worst:.1e}  {variant}  ({bounds})")
    if not all(one.ok for one in results.values()):
        raise typer.Exit(1)


def _print(report: ConversionReport) -> None:
    print(f"{report.network}: {report.kept} tensors, {report.numbers:,} numbers -> {report.out}")
    for dropped in report.dropped:
        print(f"dropped {dropped}")
