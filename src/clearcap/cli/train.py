"""``clearcap train``, ``distill``, ``distill-steps``, ``pretrain-text`` and ``compute-stats``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clearcap.config import Preset

if TYPE_CHECKING:
    from clearcap.data.records import Missing

Overrides = Annotated[
    list[str] | None, typer.Argument(help="settings to change: section.key=value", show_default=False)
]


def knobs_help(config: Any, prefix: str = "") -> str:
    """Every setting of a settings class, or of settings, with its default, one line each."""
    lines = []
    for field in dataclasses.fields(config):
        default = field.default if isinstance(config, type) else getattr(config, field.name)
        if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if dataclasses.is_dataclass(default):
            lines.append(knobs_help(default, f"{prefix}{field.name}."))
            continue
        choices = field.metadata.get("choices") or ()
        among = f" ({', '.join(choices)})" if choices else ""
        shown = " (required)" if default is dataclasses.MISSING else f"={default!r}"
        lines.append(f"{prefix}{field.name}{shown}: {field.metadata.get('help', '')}{among}")
    return "\n".join(lines)


def show_knobs(config: Any) -> None:
    """Print every setting and stop."""
    print(knobs_help(config))
    raise typer.Exit()


def train(
    preset: Annotated[str, typer.Argument(help="preset name or TOML file")] = "compact",
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="folder of the run; a killed run goes on from here")] = Path(
        "runs/train"
    ),
    settings: Annotated[
        bool, typer.Option("--settings", help="print every setting and its default, then stop")
    ] = False,
) -> None:
    """Train a captioner. Settings are dotted, for example ``train.lr=1e-4``; ``--settings`` lists them all."""
    if settings:
        show_knobs(Preset)
    from clearcap.config import load_preset
    from clearcap.training.run import train as run

    run(load_preset(preset, overrides or []), out)


def distill(
    overrides: Overrides = None,
    settings: Annotated[
        bool, typer.Option("--settings", help="print every setting and its default, then stop")
    ] = False,
) -> None:
    """Distil the compact image encoder from a teacher (``teacher=FILE photos=FOLDER,FOLDER ...``)."""
    from clearcap.vision.distill import DistillConfig
    from clearcap.vision.distill import distill as run

    if settings:
        show_knobs(DistillConfig)
    print(run(_from_overrides(DistillConfig, overrides or [])).metrics)


def distill_steps(
    model: Annotated[
        str, typer.Argument(help="folder or hub name of the teacher; 'default' is the bundled model")
    ],
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="folder of the run; a killed run goes on from here")] = Path(
        "runs/few-steps"
    ),
    data: Annotated[
        list[str] | None, typer.Option(help="corpus NAME:ROOT:SPLIT whose photos are used; several allowed")
    ] = None,
    photos: Annotated[
        list[Path] | None,
        typer.Option(help="folder of photos to use too, but for watched ones; several allowed"),
    ] = None,
    watch: Annotated[
        str, typer.Option(help="corpus NAME:ROOT:SPLIT that teacher and student are scored on meanwhile")
    ] = "",
    settings: Annotated[
        bool, typer.Option("--settings", help="print every setting and its default, then stop")
    ] = False,
) -> None:
    """Distil a captioner into one that needs one or two steps and no guidance."""
    from clearcap.config import override
    from clearcap.loading import load_captioner
    from clearcap.training.few_steps import distill_steps as run
    from clearcap.training.few_steps import few_steps, photos_in

    captioner, tokenizer = load_captioner(model)
    config = few_steps(captioner.defaults)
    if settings:
        show_knobs(config)
    used = [photo for spec in data or [] for photo in _corpus(spec, missing="error")]
    watched = list(_corpus(watch, missing="error")) if watch else []
    used += photos_in(photos or [], {photo.id for photo in [*used, *watched]})
    run(captioner, tokenizer, used, watched, override(config, overrides or []), out)


def finetune_encoder(
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="folder of the run; a killed run goes on from here")] = Path(
        "runs/encoder"
    ),
    data: Annotated[
        list[str] | None, typer.Option(help="corpus NAME:ROOT:SPLIT to learn from; several allowed")
    ] = None,
    photos: Annotated[
        list[Path] | None, typer.Option(help="folder of photos without captions; several allowed")
    ] = None,
    watch: Annotated[
        list[str] | None, typer.Option(help="corpus NAME:ROOT:SPLIT to measure on; several allowed")
    ] = None,
    start: Annotated[
        str, typer.Option(help="captioner whose words are used and whose tokens the projection begins at")
    ] = "default",
    settings: Annotated[
        bool, typer.Option("--settings", help="print every setting and its default, then stop")
    ] = False,
) -> None:
    """Fine-tune an ImageNet encoder to captions, together with a word-by-word twin that then writes captions."""
    from clearcap.config import override
    from clearcap.loading import load_network
    from clearcap.training.encoder.run import EncoderConfig
    from clearcap.training.encoder.run import finetune_encoder as run
    from clearcap.training.few_steps import photos_in

    if settings:
        show_knobs(EncoderConfig())
    captioner, tokenizer = load_network(start)
    learned = [photo for spec in data or [] for photo in _corpus(spec, missing="error")]
    watched = [photo for spec in watch or [] for photo in _corpus(spec, missing="error")]
    rest = photos_in(photos or [], {photo.id for photo in [*learned, *watched]})
    opened = [(str(photo.id), photo.image.open) for photo in rest]
    run(
        learned, opened, watched, captioner.vision, tokenizer, override(EncoderConfig(), overrides or []), out
    )


def add_encoder(
    weights: Annotated[Path, typer.Argument(help="state dict of EfficientNet-Lite2")],
    preset: Annotated[str, typer.Argument(help="preset name or TOML file")] = "compact",
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="folder of the run; a killed run goes on from here")] = Path(
        "runs/pair"
    ),
) -> None:
    """Go on training the captioner ``train.init`` with an ImageNet encoder beside its own."""
    from clearcap.config import load_preset
    from clearcap.training.encoder.add import add_encoder as run

    run(load_preset(preset, overrides or []), weights, out)


def pretrain_text(
    data: Annotated[list[str], typer.Option(help="corpus as NAME:ROOT:SPLIT; may be given several times")],
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="folder for the model, in the hub's format")] = Path("runs/text"),
    exclude: Annotated[
        list[str] | None, typer.Option(help="corpus NAME:ROOT:SPLIT whose photos' captions are left out")
    ] = None,
) -> None:
    """Train a compact BERT and its tokenizer on captions, as a text space."""
    from rich.console import Console
    from rich.progress import Progress

    from clearcap.training.text import PretrainTextConfig
    from clearcap.training.text import pretrain_text as run

    config: Any = _from_overrides(PretrainTextConfig, overrides or [])
    held = {photo.id for spec in exclude or [] for photo in _corpus(spec)}
    captions = [c for spec in data for photo in _corpus(spec) if photo.id not in held for c in photo.captions]
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("pre-training", total=config.steps)

        def report(step: int, losses: dict[str, float]) -> None:
            shown = "  ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
            progress.update(task, completed=step, description=shown)

        run(captions, out, config, report)


def compute_stats(
    model: Annotated[Path, typer.Argument(help="folder of a saved captioner; its statistics are replaced")],
    data: Annotated[str, typer.Option(help="corpus as NAME:ROOT:SPLIT")],
    words_only: Annotated[
        bool, typer.Option(help="over words; --no-words-only counts every position")
    ] = True,
) -> None:
    """Compute the text space's mean and deviation on a new corpus and store them in the model."""
    from clearcap.assemble import compute_statistics, tokenize_for
    from clearcap.config import TextConfig, make
    from clearcap.loading import load_captioner

    corpus = _corpus(data)
    captioner, tokenizer = load_captioner(str(model))
    tokenize = tokenize_for(make(TextConfig, captioner.config.text, "text"), tokenizer)
    ids, mask = tokenize([caption for photo in corpus for caption in photo.captions])
    mean, std = compute_statistics(captioner.text, ids, mask, words_only=words_only)
    captioner.text.set_statistics(mean, std)
    captioner.save_pretrained(model)
    print(f"{len(ids)} captions: mean {mean.mean():.4f}, deviation {std.min():.4f} .. {std.max():.4f}")


def export(
    model: Annotated[str, typer.Argument(help="folder or hub name of a captioner")],
    out: Annotated[Path, typer.Argument(help="folder to write")],
    onnx: Annotated[
        bool, typer.Option("--onnx", help="graphs for onnxruntime on a CPU, instead of weights for torch")
    ] = False,
    int8: Annotated[bool, typer.Option("--int8", help="with --onnx: int8 weights of linear layers")] = False,
    shares: Annotated[
        Path | None, typer.Option(help="exported model beside OUT whose equal weights are left out")
    ] = None,
) -> None:
    """Write a captioner for distribution: at half the size, or as graphs. --model OUT captions with either."""
    from clearcap.errors import InputError

    if onnx:
        from clearcap.onnx.export import export_graphs

        export_graphs(model, out, int8=int8)
        return
    if int8:
        raise InputError("--int8 is for graphs; pass --onnx with it")
    from clearcap.loading import export as run

    run(model, out, shares)


def _corpus(spec: str, missing: Missing = "keep") -> Any:
    from clearcap.data.corpus import open_corpus
    from clearcap.errors import InputError

    parts = spec.split(":")
    if len(parts) not in (2, 3):
        raise InputError(f"corpus {spec!r} is not of the form NAME:ROOT:SPLIT")
    split = parts[2] if len(parts) == 3 else "all"
    return open_corpus(parts[0], parts[1], split, missing=missing, expected=None)


def _from_overrides(kind: type, overrides: list[str]) -> Any:
    """A flat settings class from ``key=value`` words."""
    from clearcap.config import make
    from clearcap.errors import InputError

    values: dict[str, Any] = {}
    types = {field.name: str(field.type) for field in dataclasses.fields(kind)}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or key not in types:
            raise InputError(f"setting {override!r} is not KEY=VALUE with a known key; see --settings")
        try:
            values[key] = _parse(text, types[key])
        except ValueError as fault:
            raise InputError(f"{key}={text}: not {types[key]}; see --settings") from fault
    return (
        kind(**values)
        if any(isinstance(v, tuple) for v in values.values())
        else make(kind, values, kind.__name__)
    )


def _parse(text: str, kind: str) -> Any:
    """A value of the type that an annotation names; several are separated by commas.

    Raises:
        ValueError: it is none.
    """
    if kind.startswith("tuple["):
        element = kind.removeprefix("tuple[").split(",")[0]
        return tuple(_parse(part, element) for part in text.split(",") if part)
    if kind == "bool":
        return {"true": True, "false": False}.get(text.lower(), text)
    return {"int": int, "float": float}.get(kind, str)(text)
