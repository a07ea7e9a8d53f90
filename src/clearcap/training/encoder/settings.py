"""What a distillation run can be told."""

from __future__ import annotations

from dataclasses import dataclass

from clearcap.config import check_choices, knob, require
from clearcap.vision.compact import STRIDE


@dataclass(frozen=True)
class DistillConfig:
    """Settings of a distillation run; ``clearcap distill --settings`` prints them with their meaning."""

    teacher: str = knob("", "required: a .tflite file, a model folder or a hub name")
    photos: tuple[str, ...] = knob((), "required: folders of photos")
    out: str = knob("runs/distill", "folder for checkpoint, metrics and the exported encoder")
    cache: str = knob("cache/distill", "folder for the teacher's features (gigabytes)")
    held_out: str = knob("", "text file with photo names, one a line, for validation only; nothing for none")
    captions: str = knob(
        "", "CSV file (image,caption) whose frequent words are an extra target; nothing for none"
    )
    captioned: str = knob(
        "", "text file with the names of the photos whose captions may be trained on; nothing for all"
    )
    dim: int = knob(256, "width of the encoder's tokens")
    widths: tuple[int, ...] = knob((48, 64, 160, 256), "channels at strides 4, 8, 16, 32")
    depths: tuple[int, ...] = knob((0, 2, 2, 2), "residual blocks at each stride")
    mixers: int = knob(1, "transformer blocks over the final grid")
    views: int = knob(
        5,
        "views of each photo, the photo itself included, made beforehand; 0: every view drawn, mixed and shown to the "
        "teacher in the step that learns from it, which takes a GPU",
    )
    words: int = knob(500, "how many caption words to predict")
    steps: int = knob(0, "optimiser steps; 0 when minutes decides")
    minutes: float = knob(
        68.0,
        "wall-clock length of the training, the learning rate reaching zero at its end; 0 when steps decides",
    )
    batch: int = knob(64, "photos per step")
    sizes: tuple[int, ...] = knob(
        (128, 160, 0),
        "sides of the photos in pixels, in order of use: small ones are cheap, so early steps are many; the last "
        "one 0 for the teacher's own; empty: that throughout",
    )
    switches: tuple[float, ...] = knob(
        (0.65, 0.8), "shares of the run at which the next size takes over; one fewer than sizes"
    )
    lr: float = knob(2e-3, "peak learning rate (AdamW)")
    weight_decay: float = knob(0.03, "of matrices and kernels")
    warmup: float = knob(0.04, "share of the run during which the learning rate rises")
    ema: float = knob(0.998, "decay of the running average of weights that is exported")
    class_weight: float = knob(1.0, "weight of the class loss")
    word_weight: float = knob(0.02, "weight of the word loss")
    temperature: float = knob(2.0, "softening of the teacher's classes")
    bf16: bool = knob(True, "compute in bfloat16 where autocast does")
    checkpoint_minutes: float = knob(4.0, "wall-clock time between checkpoints")
    validate_steps: int = knob(500, "steps between validations")
    workers: int = knob(2, "processes that compute the teacher's features")
    seed: int = knob(0, "of everything random")
    init: str = knob(
        "", "folder of an encoder that a distillation wrote, to go on from, and whose axes the tokens keep"
    )
    optimizer: str = knob(
        "adamw", "adamw, or muon for matrices and kernels and AdamW for the rest", ("adamw", "muon")
    )

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            InputError: a value is out of range; the message names it.
        """
        check_choices(self)
        require(bool(self.teacher), "teacher: none given; pass a .tflite file, a model folder or a hub name")
        require(bool(self.photos), "photos: no folder given; pass at least one folder of photos")
        above_0 = ["dim", "batch", "lr", "temperature", "checkpoint_minutes", "validate_steps", "workers"]
        from_0 = ["views", "words", "steps", "minutes", "weight_decay", "class_weight", "word_weight"]
        for names, allowed, meaning in (
            (above_0, lambda value: value > 0, "a number above 0"),
            (from_0, lambda value: value >= 0, "0 or more"),
            (["warmup", "ema"], lambda value: 0 <= value < 1, "a share, 0 or more and below 1"),
        ):
            for name in names:
                require(allowed(getattr(self, name)), f"{name}={getattr(self, name)}: pass {meaning}")
        require(
            (self.steps > 0) != (self.minutes > 0),
            f"steps={self.steps}, minutes={self.minutes}: pass one of them, the other as 0",
        )
        require(
            len(self.switches) == max(0, len(self.sizes) - 1),
            f"switches={self.switches}: pass one fewer than sizes={self.sizes}",
        )
        require(
            not any(size % STRIDE for size in self.sizes),
            f"sizes={self.sizes}: pass multiples of {STRIDE}, or 0 for the teacher's size",
        )
