"""``clearcap train`` and what else trains or changes a model: encoders, few-step students, text spaces, exports."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clearcap.cli import options
from clearcap.config import Preset, changes, load_preset, override
from clearcap.errors import InputError

if TYPE_CHECKING:
    from clearcap.data.records import CaptionedPhoto

Overrides = Annotated[
    list[str] | None, typer.Argument(help="settings to change: section.key=value", show_default=False)
]
LeftOut = Annotated[
    list[str] | None, typer.Option(help="corpus whose photos' captions are left out of --text")
]
ShowSettings = Annotated[
    bool, typer.Option("--settings", help="print every setting and its default, then stop")
]
Start = Annotated[str, typer.Argument(help="folder or hub name of a captioner; 'default' is the bundled one")]
Learned = Annotated[
    list[str] | None, typer.Option(help="corpus NAME:ROOT:SPLIT to learn from; several allowed")
]
Watched = Annotated[
    str, typer.Option(help="corpus NAME:ROOT:SPLIT that the captioner is scored on meanwhile")
]
RunFolder = Annotated[Path, typer.Option(help="folder of the run; a killed run goes on from here")]


def photos_of(specs: list[str] | None) -> list[CaptionedPhoto]:
    """The photos of all corpora, whatever their number."""
    from clearcap.data.corpus import open_spec

    return [photo for spec in specs or [] for photo in open_spec(spec, expected=None)]


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
    out: RunFolder = Path("runs/train"),
    settings: ShowSettings = False,
) -> None:
    """Train a captioner. Settings are dotted, for example ``train.lr=1e-4``; ``--settings`` lists them all."""
    if settings:
        show_knobs(Preset)
    from clearcap.training.run import train as run

    run(load_preset(preset, overrides or []), out)


def distill(overrides: Overrides = None, settings: ShowSettings = False) -> None:
    """Distil the compact image encoder from a teacher (``teacher=FILE photos=FOLDER,FOLDER ...``)."""
    from clearcap.training.encoder.distill import distill as run
    from clearcap.training.encoder.settings import DistillConfig

    if settings:
        show_knobs(DistillConfig)
    print(run(DistillConfig(**changes(DistillConfig, overrides or []))).metrics)


def distill_steps(
    model: Annotated[
        str, typer.Argument(help="folder or hub name of the teacher; 'default' is the bundled model")
    ],
    overrides: Overrides = None,
    out: RunFolder = Path("runs/few-steps"),
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
    settings: ShowSettings = False,
) -> None:
    """Distil a captioner into one that needs one or two steps and no guidance."""
    from clearcap.captioner.model import load_captioner
    from clearcap.training.step_distillation.run import distill_steps as run
    from clearcap.training.step_distillation.run import photos_in, settings_for

    captioner, tokenizer = load_captioner(model)
    config = settings_for(captioner.defaults)
    if settings:
        show_knobs(config)
    used, watched = photos_of(data), photos_of([watch] if watch else None)
    used += photos_in(photos or [], {photo.id for photo in [*used, *watched]})
    run(captioner, tokenizer, used, watched, override(config, overrides or []), out)


def finetune(
    model: Start,
    overrides: Overrides = None,
    out: RunFolder = Path("runs/finetune"),
    data: Learned = None,
    text: Annotated[
        list[str] | None,
        typer.Option(help="corpus whose captions are learned without photos; several allowed"),
    ] = None,
    exclude: LeftOut = None,
    watch: Watched = "",
    settings: ShowSettings = False,
) -> None:
    """Fine-tune a captioner, image encoder and all, on captioned photos."""
    from clearcap.captioner.model import load_captioner
    from clearcap.training.joint.run import finetune as run
    from clearcap.training.joint.run import settings_for
    from clearcap.training.run import captions_of

    captioner, tokenizer = load_captioner(model)
    config = settings_for(captioner.defaults)
    if settings:
        show_knobs(config)
    photos, watched = photos_of(data), photos_of([watch] if watch else None)
    alone = captions_of(text or [], exclude or [])
    run(captioner, tokenizer, photos, alone, watched, override(config, overrides or []), out)


def self_critical(
    model: Start,
    overrides: Overrides = None,
    out: RunFolder = Path("runs/self-critical"),
    data: Learned = None,
    text: Annotated[
        list[str] | None,
        typer.Option(help="corpus whose captions say what people write; several allowed"),
    ] = None,
    exclude: LeftOut = None,
    watch: Watched = "",
    settings: ShowSettings = False,
) -> None:
    """Train a captioner's few steps by CIDEr-D of the captions it draws."""
    from clearcap.captioner.model import load_captioner
    from clearcap.training.run import captions_of
    from clearcap.training.self_critical.run import self_critical as run
    from clearcap.training.self_critical.run import settings_for

    captioner, tokenizer = load_captioner(model)
    config = settings_for(captioner.defaults)
    if settings:
        show_knobs(config)
    photos, watched = photos_of(data), photos_of([watch] if watch else None)
    more = captions_of(text or [], exclude or [])
    run(captioner, tokenizer, photos, more, watched, override(config, overrides or []), out)


def finetune_encoder(
    overrides: Overrides = None,
    out: RunFolder = Path("runs/encoder"),
    data: Learned = None,
    photos: Annotated[
        list[Path] | None, typer.Option(help="folder of photos without captions; several allowed")
    ] = None,
    watch: Annotated[
        list[str] | None, typer.Option(help="corpus NAME:ROOT:SPLIT to measure on; several allowed")
    ] = None,
    start: Annotated[
        str, typer.Option(help="captioner whose vocabulary is used and whose image tokens are begun at")
    ] = "default",
    settings: ShowSettings = False,
) -> None:
    """Fine-tune an ImageNet encoder to captions, together with a word-by-word twin that then writes captions."""
    from clearcap.captioner.model import load_captioner
    from clearcap.training.encoder.run import EncoderConfig
    from clearcap.training.encoder.run import finetune_encoder as run
    from clearcap.training.step_distillation.run import photos_in

    if settings:
        show_knobs(EncoderConfig())
    captioner, tokenizer = load_captioner(start)
    learned, watched = photos_of(data), photos_of(watch)
    rest = photos_in(photos or [], {photo.id for photo in [*learned, *watched]})
    config = override(EncoderConfig(), overrides or [])
    run(learned, rest, watched, captioner.vision, tokenizer, config, out)


def train_scorer(
    model: Start,
    overrides: Overrides = None,
    out: RunFolder = Path("runs/scorer"),
    data: Learned = None,
    watch: Annotated[
        list[str] | None, typer.Option(help="corpus NAME:ROOT:SPLIT to measure recall on; several allowed")
    ] = None,
    settings: ShowSettings = False,
) -> None:
    """Train a small contrastive scorer on a captioner's image tokens: --select similarity goes by it."""
    from clearcap.captioner.model import load_captioner
    from clearcap.training.scorer.run import train_scorer as run
    from clearcap.training.scorer.run import usual_settings

    config = usual_settings()
    if settings:
        show_knobs(config)
    captioner, tokenizer = load_captioner(model)
    run(captioner, tokenizer, photos_of(data), photos_of(watch), override(config, overrides or []), out)


def add_encoder(
    weights: Annotated[Path, typer.Argument(help="state dict of EfficientNet-Lite2, a .pth file")],
    preset: Annotated[str, typer.Argument(help="preset name or TOML file")] = "compact",
    overrides: Overrides = None,
    out: RunFolder = Path("runs/pair"),
) -> None:
    """Go on training the captioner ``train.init`` with an ImageNet encoder beside its own."""
    from clearcap.training.encoder.add import add_encoder as run

    run(load_preset(preset, overrides or []), weights, out)


def pretrain_text(
    data: Annotated[
        list[str] | None, typer.Option(help="corpus as NAME:ROOT:SPLIT; may be given several times")
    ] = None,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="folder for the model, in the hub's format")] = Path("runs/text"),
    exclude: Annotated[
        list[str] | None, typer.Option(help="corpus NAME:ROOT:SPLIT whose photos' captions are left out")
    ] = None,
    settings: ShowSettings = False,
) -> None:
    """Train a compact BERT and its tokenizer on captions, as a text space."""
    from clearcap.training.run import captions_of
    from clearcap.training.text import PretrainTextConfig
    from clearcap.training.text import pretrain_text as run

    if settings:
        show_knobs(PretrainTextConfig)
    if not data:
        raise InputError("no --data; pass --data NAME:ROOT:SPLIT")
    config = PretrainTextConfig(**changes(PretrainTextConfig, overrides or []))
    with options.shown_progress("pre-training") as advance:

        def report(step: int, losses: dict[str, float]) -> None:
            shown = "  ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
            advance(step, config.steps, shown)

        run(captions_of(data, exclude or []), out, config, report)


def compute_stats(
    model: Annotated[Path, typer.Argument(help="folder of a saved captioner; its statistics are replaced")],
    data: Annotated[str, typer.Option(help="corpus as NAME:ROOT:SPLIT")],
    words_only: Annotated[
        bool, typer.Option(help="over words; --no-words-only counts every position")
    ] = True,
) -> None:
    """Compute the text space's mean and deviation on a new corpus and store them in the model."""
    from clearcap.captioner.model import load_captioner
    from clearcap.captioner.towers import tokenize_for
    from clearcap.config import TextConfig, make
    from clearcap.training.run import captions_of

    captioner, tokenizer = load_captioner(str(model))
    tokenize = tokenize_for(make(TextConfig, captioner.config.text, "text"), tokenizer)
    ids, mask = tokenize(captions_of([data]))
    mean, std = captioner.text.statistics(ids, mask, words_only=words_only)
    captioner.text.set_statistics(mean, std)
    captioner.save_pretrained(model)
    print(f"{len(ids)} captions: mean {mean.mean():.4f}, deviation {std.min():.4f} .. {std.max():.4f}")


def export(
    model: Annotated[str, typer.Argument(help="folder or hub name of a captioner")],
    out: Annotated[Path, typer.Argument(help="folder to write")],
    onnx: Annotated[
        bool, typer.Option("--onnx", help="graphs alone, with weights of their own, for onnxruntime")
    ] = False,
    graphs: Annotated[
        bool, typer.Option(help="beside the weights, graphs that share them, to caption without torch")
    ] = True,
    int8: Annotated[bool, typer.Option("--int8", help="with --onnx: int8 weights of linear layers")] = False,
    web: Annotated[bool, typer.Option("--web", help="small graphs for the page in web/, instead")] = False,
    photos: Annotated[
        Path | None,
        typer.Option(
            help="with --web: photos by which weights are rounded, the first 64 (default: one that ships)"
        ),
    ] = None,
    shares: Annotated[
        str, typer.Option(help="exported model, such as default, of which equal parts are left out")
    ] = "",
    setting: options.Settings = None,
) -> None:
    """Write a captioner for distribution: weights at half the size, and graphs that share them or stand alone.

    --model OUT captions with either; what --web writes is for the page (docs/browser.md).
    """
    if web and (onnx or int8 or shares):
        raise InputError("--web writes one kind of files; pass it alone")
    if photos and not web:
        raise InputError("--photos is for the graphs of the page in web/; pass --web with it")
    if web:
        from clearcap.bench.latency import sample_photo
        from clearcap.captioner.onnx.web import export_web
        from clearcap.data.paths import expand

        found = expand([str(photos or sample_photo())])
        for entry in found:
            if isinstance(entry, InputError):
                raise entry
        export_web(model, out, photos=found)
        return
    if onnx:
        from clearcap.captioner.onnx.export import export_graphs

        export_graphs(model, out, int8=int8)
        return
    if int8:
        raise InputError("--int8 is for graphs of their own; pass --onnx with it")
    from clearcap.captioner.hub import export as run

    run(model, out, shares, graphs=graphs, sampling=options.sampling_settings(setting))
