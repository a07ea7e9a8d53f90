"""Frozen, validated settings; presets are TOML files that may build on each other, changed by dotted overrides."""

from __future__ import annotations

import dataclasses
import math
import numbers
import tomllib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from clearcap import registry
from clearcap.errors import InputError, RenamedWarning

__version__ = "0.1.0"

T = TypeVar("T")

RENAMED: dict[str, dict[str, str]] = {  # section -> old name of a setting -> its name; old ones go with 0.2
    "TextConfig": {},
    "DiffusionConfig": {
        "factor": "noise_factor",
        "predicts": "prediction_type",
        "emphasis": "timestep_exponent",
        "given": "infilling",
    },
    "SamplingConfig": {
        "factor": "noise_factor",
        "words": "length",
        "words_from": "min_length",
        "words_to": "max_length",
    },
    "TrainConfig": {"borrowed": "neighbour_captions", "consensus": "agreement"},
    "StepDistillationConfig": {"taught": "samples"},
}
REMOVED: dict[str, dict[str, Any]] = {"TrainConfig": {"label_smoothing": 0.0}}
"""Settings that are gone -> the value with which they did nothing, which is still accepted."""
LENGTHS = {"length", "min_length", "max_length", "words", "words_from", "words_to"}
"""Settings, under all their names, that ask for captions of a length."""
ALIASES = {"num_inference_steps": "steps", "guidance_scale": "guidance"}
"""diffusers' names of sampling settings -> ours."""


def knob(default: Any, help: str, choices: tuple[str, ...] = (), *, part: str = "") -> Any:
    """A documented setting with a default.

    Args:
        default: its default.
        help: what it sets.
        choices: values it may have.
        part: kind of part whose name it is, in the registry.
    """
    return field(default=default, metadata={"help": help, "choices": choices, "part": part})


def require(ok: bool, message: str) -> None:
    """Raise ``InputError(message)`` unless ``ok``: settings fail where they are made."""
    if not ok:
        raise InputError(message)


@dataclass(frozen=True)
class TextConfig:
    """The text space."""

    source: str = knob(
        "", "folder or hub name of a BERT-family masked language model, or of a captioner that has one"
    )
    kind: str = knob("bert-split", "how captions become latents", part="text space")
    split: int = knob(2, "layers of the lower half, which encodes")
    decoder: str = knob("upper", "what stands before the LM head", ("upper", "identity"))
    special: str = knob(
        "normalised",
        "latent of positions that are not words; own: what the lower half makes of them",
        ("zero", "raw", "normalised", "own"),
    )
    filler: str = knob("[PAD]", "token that stands for special positions in the caption loss")
    length: int = knob(20, "positions of a caption, [CLS] and [SEP] included")
    max_words: int = knob(30, "words of a training caption that are kept, before it is cut to length")
    keep_period: bool = knob(False, "keep the full stop at a caption's end")
    function_words: str = knob(
        "",
        "words that a caption may well say twice (a, the, of), separated by spaces; a candidate that says another word "
        "twice is chosen only where all do; empty: any word may be said twice",
    )
    words: str = knob(
        "ptb",
        "what scores take for words: COCO's, or those of any script (clearcap evaluate --tokenizer)",
        ("ptb", "unicode"),
    )
    sides: str = knob(
        "left right",
        "words for a side, blanks between: a photo whose caption says one is not mirrored in training",
    )
    normalise: bool = knob(True, "normalise latents by channel, over the training captions")
    pretrained: bool = knob(True, "take over the weights of text.source, not its sizes and tokenizer alone")

    def __post_init__(self) -> None:
        check_choices(self)
        require(self.length >= 4, f"text.length={self.length} leaves no room for words; use at least 4")
        require(self.max_words >= 1, f"text.max_words={self.max_words} keeps no word; use at least 1")
        require(self.split >= 1, f"text.split={self.split} must be at least 1")


@dataclass(frozen=True)
class VisionConfig:
    """The image encoder."""

    kind: str = knob(
        "compact",
        "compact (ships with clearcap), efficientnet or the pair of them (trained here), pretrained (transformers) "
        "or timm",
        part="image encoder",
    )
    source: str = knob(
        "",
        "weights: a safetensors file or a captioner's folder (compact, efficientnet, pair), a folder or hub name "
        "(pretrained), a network's name (timm)",
    )
    tokens: int = knob(49, "image tokens the denoiser attends to")
    dim: int = knob(256, "channels of an image token")
    image_size: int = knob(224, "photos are squashed to this many pixels a side")
    mode: str = knob(
        "patches",
        "what a pretrained encoder or a pair gives: all tokens or one vector",
        ("patches", "global"),
    )

    def __post_init__(self) -> None:
        check_choices(self)
        require(self.tokens > 0 and self.dim > 0, "vision.tokens and vision.dim must be positive")


@dataclass(frozen=True)
class DenoiserConfig:
    """The network that is trained."""

    kind: str = knob(
        "cross-attention", "how the photo enters: attended to, appended or fused", part="denoiser"
    )
    width: int = knob(256, "channels")
    depth: int = knob(5, "layers")
    heads: int = knob(4, "attention heads")
    hidden: int = knob(768, "feed-forward channels")
    projected: bool = knob(True, "learned projections in and out (false: LaDiC's channel joining)")
    time_head: str = knob("mlp", "what follows the time sinusoids", ("none", "norm", "mlp"))
    adapter_depth: int = knob(1, "layers that relate image tokens once per photo")
    image_dropout: float = knob(0.1, "dropout on image tokens while training")
    dropout: float = knob(0.0, "dropout in the denoiser while training")
    positions: int = knob(0, "rows of the position table; 0: as many as text.length")
    null: str = knob("learned", "what stands for a hidden photo", ("learned", "mean-colour"))

    def __post_init__(self) -> None:
        check_choices(self)
        for name, least in (
            ("width", 1),
            ("depth", 1),
            ("heads", 1),
            ("hidden", 1),
            ("adapter_depth", 0),
            ("positions", 0),
        ):
            value = getattr(self, name)
            require(value >= least, f"denoiser.{name}={value} must be at least {least}")
        require(
            self.width % self.heads == 0,
            f"denoiser.width={self.width} is not a multiple of heads={self.heads}",
        )
        require(0 <= self.dropout < 1, f"denoiser.dropout={self.dropout} must lie in [0, 1)")


@dataclass(frozen=True)
class DiffusionConfig:
    """Corruption and objective."""

    schedule: str = knob("cosine", "noise schedule", part="noise schedule")
    steps: int = knob(1000, "noise levels")
    noise_factor: float = knob(2.0, "noise factor k while training")
    prediction_type: str = knob("x0", "what the network outputs", ("x0", "epsilon", "v"))
    caption_weight: float = knob(0.2, "lambda of the caption loss")
    drop_image: float = knob(0.1, "probability of hiding the photo, for guidance")
    self_condition: float = knob(0.5, "probability of conditioning on a first prediction")
    timestep_exponent: float = knob(
        1.0, "noise levels are drawn as T u^(1/exponent), u uniform: above 1 favours noisy ones"
    )
    infilling: float = knob(
        0.0,
        "share of captions whose length, and half the time also some of whose words, are given in training",
    )
    objective: str = knob(
        "ladic", "losses: LaDiC's, or CLIP-Diffusion-LM's at many levels at once", part="objective"
    )
    levels: int = knob(100, "diffusion-lm: noise levels of a caption in one step; they share one noise draw")
    distance: str = knob("l1", "diffusion-lm: distance of latents", ("l1", "frobenius"))
    lag: int = knob(0, "diffusion-lm: predict the latent this many levels cleaner; 0 predicts x0")
    dynamic_weight: float = knob(
        0.0, "keep lambda * caption loss at this multiple of the latent loss; 0: fixed lambda"
    )

    image_weight: float = knob(
        0.0, "diffusion-lm, concat: weight of restoring the photo's vector where it was appended"
    )

    def __post_init__(self) -> None:
        check_choices(self)
        require(self.steps >= 2, f"diffusion.steps={self.steps} must be at least 2")
        require(self.noise_factor > 0, f"diffusion.noise_factor={self.noise_factor} must be positive")
        require(
            self.timestep_exponent > 0,
            f"diffusion.timestep_exponent={self.timestep_exponent} must be positive; 1 draws levels evenly",
        )
        require(self.levels >= 1, f"diffusion.levels={self.levels} must be at least 1")
        require(
            0 <= self.lag < self.steps,
            f"diffusion.lag={self.lag} must lie below diffusion.steps={self.steps}",
        )
        for name in ("caption_weight", "dynamic_weight", "image_weight"):
            require(getattr(self, name) >= 0, f"diffusion.{name}={getattr(self, name)} must not be negative")
        require(
            self.infilling == 0 or self.prediction_type == "x0",
            f"diffusion.infilling={self.infilling} needs diffusion.prediction_type=x0, not {self.prediction_type}: "
            "words are given as x0",
        )
        for name in ("drop_image", "self_condition", "infilling"):
            require(
                0 <= getattr(self, name) <= 1, f"diffusion.{name}={getattr(self, name)} is not a probability"
            )


@dataclass(frozen=True)
class SamplingConfig:
    """How captions are drawn by default."""

    solver: str = knob("ddim", "solver", part="solver")
    steps: int = knob(8, "calls of the denoiser (the stride, where spacing is stride)")
    spacing: str = knob("uniform", "which noise levels are visited", part="spacing")
    guidance: float = knob(1.0, "classifier-free guidance scale")
    guidance_low: float = knob(0.0, "lowest noise level that is guided, as a share of T")
    guidance_high: float = knob(1.0, "highest noise level that is guided, as a share of T")
    noise_factor: float = knob(2.0, "noise factor k while sampling")
    start: float = knob(2.0, "standard deviation of the pure noise a caption starts from")
    eta: float = knob(0.0, "DDIM's share of fresh noise")
    time_offset: int = knob(0, "added to the time the network is told")
    self_condition: bool = knob(True, "feed each prediction back")
    clamp: bool = knob(False, "move each prediction but the last to the nearest words; needs length")
    once: bool = knob(
        False,
        "say each word of content once: where it is less sure, the next likeliest word (see text.function_words)",
    )
    early_exit: int = knob(0, "a caption is done after so many repetitions of its tokens; 0 runs every step")
    refine: int = knob(0, "rounds of Back&Refine")
    refine_time: float = knob(0.5, "noise level at which it goes back, as a share of T")
    refine_share: float = knob(0.5, "share of the positions that it keeps, the most confident ones")
    refine_threshold: float = knob(0.0, "keep positions at least this probable instead; 0 keeps by share")
    refine_level: float = knob(
        0.0, "noise level that kept words restart from, as a share of T; 0 keeps them clean"
    )
    length: int = knob(0, "words of a caption, which the denoiser is given; 0 leaves its length to the model")
    min_length: int = knob(0, "further candidates have every length from this, in turn; 0: ``length``")
    max_length: int = knob(0, "and at most this; 0: ``length``")
    candidates: int = knob(1, "captions drawn per photo")
    select: str = knob("mbr", "choice among candidates", part="selection rule")
    utility: str = knob("bleu", "what minimum Bayes risk compares candidates by", ("bleu", "cider"))
    length_penalty: float = knob(
        1.0,
        "confidence divides a candidate's log-probability by its words to this power: above 1 favours longer ones",
    )

    def __post_init__(self) -> None:
        check_choices(self)
        require(self.steps >= 1, f"sampling.steps={self.steps} must be at least 1")
        require(self.guidance >= 0, f"sampling.guidance={self.guidance} must not be negative")
        require(self.candidates >= 1, f"sampling.candidates={self.candidates} must be at least 1")
        require(self.length >= 0, f"sampling.length={self.length} must not be negative")
        low, high = self._shortest_and_longest
        require(
            0 <= low <= self.length <= high and (self.length > 0 or high == 0),
            f"sampling.length={self.length} must lie between min_length={low} and max_length={high}; set those to 0 "
            "for the same length in all candidates",
        )
        require(self.early_exit >= 0, f"sampling.early_exit={self.early_exit} must not be negative")
        require(self.refine >= 0, f"sampling.refine={self.refine} must not be negative")
        require(
            self.guidance_low <= self.guidance_high,
            f"sampling.guidance_low={self.guidance_low} is above guidance_high={self.guidance_high}; swap them",
        )
        require(
            self.length > 0 or not self.clamp,
            "sampling.clamp needs captions of told lengths; pass sampling.length=10, say, or clamp=false",
        )
        require(
            self.eta == 0 or self.solver == "ddim",
            f"sampling.eta={self.eta} is DDIM's alone, not {self.solver}'s; set eta=0 or solver=ddim",
        )
        require(
            0 <= self.length_penalty <= 10,
            f"sampling.length_penalty={self.length_penalty} must lie between 0 and 10; 1 favours no length",
        )
        for name in ("refine_time", "refine_share", "refine_threshold", "refine_level", "eta"):
            require(
                0 <= getattr(self, name) <= 1,
                f"sampling.{name}={getattr(self, name)} must lie between 0 and 1",
            )

    @property
    def _shortest_and_longest(self) -> tuple[int, int]:
        return self.min_length or self.length, self.max_length or self.length

    def length_of(self, candidate: int) -> int:
        """Words of a candidate: the first one has ``length``, the others every length in turn; 0 is any."""
        low, high = self._shortest_and_longest
        others = high - low + 1 - (low <= self.length <= high)
        turn = candidate % (1 + others)
        if turn == 0:
            return self.length
        length = low + turn - 1
        return length + (low <= self.length <= length)


def sampling_with(defaults: SamplingConfig, how: Mapping[str, Any]) -> SamplingConfig:
    """Sampling settings with some of them changed, under our names or diffusers' (None leaves one as it is).

    ``length`` without ``min_length`` or ``max_length`` is that of every candidate; ``length=0``, which leaves it to the
    model, samples without ``clamp``, which needs to know it.

    Raises:
        InputError: an unknown setting, a value that it cannot have, or one given under both names.
    """
    how = renamed(SamplingConfig, own_names(how))
    if "length" in how:
        how = {"min_length": 0, "max_length": 0} | how
        how = how if how["length"] else {"clamp": False} | how
    known = {field.name for field in dataclasses.fields(SamplingConfig)}
    for name in how:
        require(name in known, f"unknown sampling setting {name!r}; choose among {', '.join(sorted(known))}")
    return dataclasses.replace(defaults, **how) if how else defaults


def asks_for_length(how: Mapping[str, Any]) -> bool:
    """Whether sampling settings that are asked for name a length, which then is kept to the word."""
    return not LENGTHS.isdisjoint(own_names(how))


def own_names(how: Mapping[str, Any]) -> dict[str, Any]:
    """The sampling settings that are given (not None), diffusers' names among them replaced by ours.

    Raises:
        InputError: a setting is given under both names.
    """
    for alias, name in ALIASES.items():
        if how.get(alias) is not None and how.get(name) is not None:
            raise InputError(f"{alias!r} is diffusers' name of {name!r}; pass one of them")
    return {ALIASES.get(name, name): value for name, value in how.items() if value is not None}


@dataclass(frozen=True)
class TrainConfig:
    """How the denoiser is fitted."""

    init: str = knob("", "folder or hub name of a captioner to go on with")
    denoiser: str = knob(
        "", "folder or hub name of a captioner whose denoiser is begun with, as far as its weights fit"
    )
    steps: int = knob(20000, "optimiser steps")
    photos: int = knob(32, "photos a step (of each process)")
    copies: int = knob(12, "noised captions per photo and step; they share the photo's keys and values")
    optimizer: str = knob(
        "adamw",
        "muon orthogonalises the matrices' updates, adamw the rest; plain-adamw has torch's defaults for everything",
        ("adamw", "muon", "plain-adamw"),
    )
    lr: float = knob(1e-3, "peak learning rate of AdamW")
    muon_lr: float = knob(0.01, "peak learning rate of Muon")
    weight_decay: float = knob(0.01, "weight decay of matrices")
    warmup: int = knob(300, "warm-up steps")
    decay: str = knob("cosine", "learning-rate decay", ("constant", "linear", "cosine", "log"))
    end: float = knob(0.0, "learning rate at the end, as a share of the peak")
    clip: float = knob(1.0, "greatest gradient norm; 0 never clips")
    ema: float = knob(0.999, "decay of the averaged weights; 0 keeps none")
    agreement: float = knob(
        0.0, "how much more often captions are sampled that agree with the photo's others (1: much)"
    )
    neighbour_captions: int = knob(
        0, "captions of other photos that agree most with a photo's own, added to them"
    )
    text_only: float = knob(0.0, "share of photos in a step that are text-only captions from data.text")
    bf16: bool = knob(True, "matrix products in bf16")
    compile: bool = knob(False, "torch.compile the denoiser")
    seed: int = knob(0, "seed of every draw")
    log_every: int = knob(20, "steps between log lines")
    save_every: int = knob(500, "steps between checkpoints")
    sample_every: int = knob(1000, "steps between evaluations with sample captions; 0 never")
    tracker: str = knob("tensorboard", "where curves go", ("none", "tensorboard", "wandb", "trackio"))

    def __post_init__(self) -> None:
        check_choices(self)
        require(
            self.steps >= 1 and self.photos >= 1 and self.copies >= 1,
            "train.steps, photos and copies must be >= 1",
        )
        require(0 <= self.ema < 1, f"train.ema={self.ema} must lie in [0, 1)")
        require(self.lr > 0, f"train.lr={self.lr} must be positive")
        require(0 <= self.end <= 1, f"train.end={self.end} must lie in [0, 1]")
        require(
            self.decay != "log" or self.end > 0, "train.decay=log never reaches 0; set train.end, say to 0.5"
        )
        for name in ("agreement", "neighbour_captions"):
            require(getattr(self, name) >= 0, f"train.{name}={getattr(self, name)} must not be negative")
        require(0 <= self.text_only < 1, f"train.text_only={self.text_only} must lie in [0, 1)")


@dataclass(frozen=True)
class DataConfig:
    """What is trained on and what is watched."""

    corpus: str = knob("", "what is trained on, as NAME:ROOT:SPLIT, such as flickr8k:DIR:train")
    also: tuple[str, ...] = knob(
        (), "further corpora that are trained on, each as NAME:ROOT:SPLIT, commas between"
    )
    watch: str = knob(
        "dev", "what the periodic evaluation captions: a split of that corpus, or another NAME:ROOT:SPLIT"
    )
    teacher_captions: str = knob(
        "",
        "file of another captioner's captions, added to people's: lines of "
        '{"photo": "a.jpg", "captions": ["..."]}',
    )
    teacher_alone: bool = knob(
        False, "leave people's captions out of photos that data.teacher_captions has captions of"
    )
    name: str = knob("flickr8k", "deprecated: NAME of data.corpus")
    root: str = knob("", "deprecated: ROOT of data.corpus")
    split: str = knob("train", "deprecated: SPLIT of data.corpus")
    limit: int = knob(0, "only so many photos of each corpus that is trained on, the first ones; 0 is all")
    expected: bool = knob(True, "insist on the published number of photos; false trains on a subset")
    watch_photos: int = knob(200, "photos of the periodic evaluation")
    features: str = knob("cache/features", "folder of the image-feature cache; made where missing")
    views: int = knob(4, "augmented views of each training photo in the cache, the photo itself included")
    mirror: bool = knob(True, "mirror half of the photos, but for those whose captions name a side")
    text: str = knob("", "captions without photos, as NAME:ROOT:SPLIT of a corpus (see train.text_only)")
    text_exclude: str = knob("", "corpus NAME:ROOT:SPLIT whose photos' captions data.text must not give")

    def __post_init__(self) -> None:
        for spec in (self.corpus, *self.also, self.text, self.text_exclude):
            require(spec.count(":") >= 2 or not spec, f"{spec!r} is not a corpus of the form NAME:ROOT:SPLIT")
        require(self.limit >= 0, f"data.limit={self.limit} must not be negative; 0 is all")
        require(
            bool(self.teacher_captions) or not self.teacher_alone,
            "data.teacher_alone=true has no teacher; name its file: data.teacher_captions=FILE",
        )
        if self.root and not self.corpus:
            warnings.warn(
                f"data.root is deprecated; pass data.corpus={self.trained}", RenamedWarning, stacklevel=4
            )
        require(
            self.watched not in (self.trained, *self.also),
            f"data.watch={self.watch!r} is the training split; choose another",
        )

    @property
    def trained(self) -> str:
        """What is trained on, as NAME:ROOT:SPLIT."""
        return self.corpus or f"{self.name}:{self.root}:{self.split}"

    @property
    def watched(self) -> str:
        """What the periodic evaluation captions, as NAME:ROOT:SPLIT."""
        return self.watch if ":" in self.watch else f"{self.trained.rpartition(':')[0]}:{self.watch}"


@dataclass(frozen=True)
class Preset:
    """A captioner and how it is trained: one TOML file."""

    text: TextConfig = field(default_factory=TextConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    data: DataConfig = field(default_factory=DataConfig)

    def of_the_model(self) -> dict[str, dict[str, Any]]:
        """The sections that a saved captioner carries, as plain values."""
        names = ("text", "vision", "denoiser", "diffusion", "sampling")
        return {name: dataclasses.asdict(getattr(self, name)) for name in names}


NUMBERS: dict[Any, type] = {"int": int, "float": float}  # as fields' annotations spell them


def number(
    name: str, value: Any, kind: type, low: int | float = -math.inf, high: int | float = math.inf
) -> Any:
    """A number that a caller gave, as Python's own: the one check for the command line, settings and arguments.

    Args:
        name: what messages call it.
        value: an int or a float, NumPy's included.
        kind: ``int``, or ``float`` for finite ones; an int given for a float stays one.
        low: the least it may be.
        high: the most.

    Raises:
        InputError: another type, not finite, or out of range.
    """
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole and (kind is int or isinstance(value, bool) or not isinstance(value, numbers.Real)):
        raise InputError(f"{name}={value!r} must be of type {kind.__name__}")
    own = int(value) if whole else float(value)
    try:
        finite = math.isfinite(own)
    except OverflowError:  # an int beyond every float
        finite = kind is int
    require(finite, f"{name}={value!r} must be finite")
    require(own >= low, f"{name}={value!r} must be at least {low}")
    require(own <= high, f"{name}={value!r} must be at most {high}")
    return own


def text(name: str, value: Any) -> str:
    """A text that a caller gave. Raises InputError."""
    require(isinstance(value, str), f"{name}={value!r} must be of type str")
    return str(value)


def texts(name: str, values: Any) -> list[str]:
    """Several texts that a caller gave. Raises InputError."""
    several = isinstance(values, Iterable) and not isinstance(values, (str, bytes, Mapping))
    require(several, f"{name}={values!r} must be a list of str")
    return [text(f"{name}[{place}]", value) for place, value in enumerate(values)]


def check_choices(config: Any) -> None:
    """Raise InputError where a field's value is of another type than declared, or outside its declared choices.

    Numbers of other libraries become Python's own.
    """
    section = type(config).__name__.removesuffix("Config").lower()
    for f in dataclasses.fields(config):
        choices, part = f.metadata.get("choices"), f.metadata.get("part")
        value = getattr(config, f.name)
        if f.type in NUMBERS:
            value = number(f"{section}.{f.name}", value, NUMBERS[f.type])
            object.__setattr__(config, f.name, value)
        elif f.type == "bool" or f.type == "str":
            kind = bool if f.type == "bool" else str
            require(isinstance(value, kind), f"{section}.{f.name}={value!r} must be of type {f.type}")
        if part:
            registry.check(part, value)
        if choices and value not in choices:
            raise InputError(f"{f.name}={value!r} is not known; choose one of {', '.join(choices)}")


def presets() -> list[str]:
    """Names of the presets that ship."""
    folder = resources.files("clearcap") / "configs"
    return sorted(Path(str(entry)).stem for entry in folder.iterdir() if str(entry).endswith(".toml"))


def load_preset(name: str, overrides: Sequence[str] = ()) -> Preset:
    """A preset by name, or a TOML file by path, with overrides such as ``train.lr=1e-4``.

    Raises:
        InputError: unknown preset, section or key, a value of the wrong type, or an invalid combination.
    """
    tables = _read_preset(name)
    for override in overrides:
        _apply(Preset, tables, override)
    return make(Preset, tables, where=name)


def _read_preset(name: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """The sections of a preset under today's names, on top of those of the preset that its ``base`` names.

    Args:
        name: the preset.
        above: the presets that build on it.
    """
    folder = Path(str(resources.files("clearcap"))) / "configs"
    path = Path(name) if name.endswith(".toml") else folder / f"{name}.toml"
    try:
        tables: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as fault:
        raise InputError(
            f"no preset {name!r}; choose one of {', '.join(presets())} or pass a .toml file"
        ) from fault
    except (OSError, ValueError, RecursionError) as fault:  # ValueError: also what is not UTF-8
        raise InputError(f"{path}: not valid TOML ({fault}); mend that line") from fault
    base, kinds = tables.pop("base", None), get_type_hints(Preset)
    tables = {
        section: renamed(kinds[section], table) if section in kinds and isinstance(table, dict) else table
        for section, table in tables.items()
    }
    if base is None:
        return tables
    require(isinstance(base, str), f"{path}: base={base!r} names no preset; pass its name or its file")
    require(base not in (*above, name), f"{path}: is its own base; name another preset")
    below = _read_preset(base, (*above, name))
    return below | {
        section: below.get(section, {}) | table if isinstance(table, dict) else table
        for section, table in tables.items()
    }


def override(config: T, overrides: Sequence[str]) -> T:
    """The settings with some of them changed, as in ``train.lr=1e-4``.

    Raises:
        InputError: unknown key, a value of the wrong type, or an invalid combination.
    """
    tables: dict[str, Any] = dataclasses.asdict(config)  # type: ignore[call-overload]
    for text in overrides:
        _apply(type(config), tables, text)
    return make(type(config), tables, where="settings")


def make(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    """Build a (nested) settings class from a table, strictly.

    Raises:
        InputError: a setting is unknown, or a value is not of its kind.
    """
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, value in renamed(kind, table).items():
        if key not in hints:
            raise InputError(f"{where}: unknown setting {key!r}; choose one of {', '.join(hints)}")
        values[key] = _convert(value, hints[key], f"{where}: {key}")
    return kind(**values)


def changes(kind: type, overrides: Sequence[str]) -> dict[str, Any]:
    """The fields of one settings class that ``key=value`` words change, of the right types.

    Args:
        kind: the settings class.
        overrides: such as ``steps=5`` or ``sampling.solver=ddim``.

    Raises:
        InputError: no such field, or a value of the wrong type.
    """
    section = kind.__name__.removesuffix("Config").lower() + "."
    table: dict[str, Any] = {}
    for override in overrides:
        _apply(kind, table, override.removeprefix(section))
    hints = get_type_hints(kind)
    for key in table:
        require(key in hints, f"unknown setting {key!r}; choose one of {', '.join(hints)}")
    return {key: _convert(value, hints[key], key) for key, value in table.items()}


def renamed(kind: type, table: Mapping[str, Any], *, warn: bool = True) -> dict[str, Any]:
    """A table of settings under today's names.

    Args:
        kind: the settings class.
        table: names -> values.
        warn: whether somebody wrote the names just now, and may be told; saved files keep theirs.

    Raises:
        InputError: a setting is given under both names.
    """
    old, gone = RENAMED.get(kind.__name__, {}), REMOVED.get(kind.__name__, {})
    table = {key: value for key, value in table.items() if key not in gone or value != gone[key]}
    for key in table:
        if key not in old:
            continue
        require(old[key] not in table, f"{key!r} is the old name of {old[key]!r}; pass one of them")
        if warn:
            warnings.warn(f"the setting {key!r} is called {old[key]!r} now", RenamedWarning, stacklevel=2)
    return {old.get(key, key): value for key, value in table.items()}


def _convert(value: Any, hint: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise InputError(f"{where} must be a table of settings, not {value!r}")
        return make(hint, value, where)  # type: ignore[arg-type]
    if get_origin(hint) is tuple:  # of one type; several are separated by commas
        kind = get_args(hint)[0]
        parts = value.split(",") if isinstance(value, str) else value
        parts = [part for part in (parts if isinstance(parts, (list, tuple)) else [parts]) if part != ""]
        return tuple(_convert(part if kind is str else _parse(part), kind, where) for part in parts)
    if hint is bool and isinstance(value, str):
        value = {"true": True, "false": False}.get(value.lower(), value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise InputError(f"{where}={value!r} must be of type {hint.__name__}")
    return value


def _apply(kind: type, tables: dict[str, Any], override: str) -> None:
    """Set one ``section.key=value`` in the tables of a settings class, under today's names."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise InputError(f"override {override!r} is not of the form section.key=value")
    table, last = tables, keys[-1]
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        kind = get_type_hints(kind).get(key, kind)
        if not isinstance(table, dict):
            raise InputError(f"override {override!r}: {key!r} is a value, not a section")
    table |= renamed(kind, {last: _parse(text)})


def _parse(text: Any) -> Any:
    """The value that a text stands for: TOML's, or the text itself where it is a bare word."""
    try:
        return tomllib.loads(f"value = {text}")["value"] if isinstance(text, str) else text
    except tomllib.TOMLDecodeError:
        return text
