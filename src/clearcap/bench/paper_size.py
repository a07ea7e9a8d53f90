"""LaDiC at paper size with random weights: the published sampling loop against ours, side by side in one run."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from clearcap.captioner import Captioner, CaptionerConfig
from clearcap.config import Preset, SamplingConfig, load_preset
from clearcap.diffusion import Noise
from clearcap.schedule import uniform_times

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BERT_BASE = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
VIT_BASE = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,
    "layer_norm_eps": 1e-6,
}


@dataclass(frozen=True)
class Row:
    """One setting's measures.

    Attributes:
        dtype, batch, steps: the setting.
        naive: seconds per photo of the published loop.
        ours: seconds per photo of ours.
        gflops: what ours achieved, in GFLOP/s.
        peak: the machine's measured rate of a large matrix product in that dtype, in GFLOP/s.
    """

    dtype: str
    batch: int
    steps: int
    naive: float
    ours: float
    gflops: float
    peak: float

    @property
    def ratio(self) -> float:
        """How many times faster ours is."""
        return self.naive / self.ours

    @property
    def efficiency(self) -> float:
        """Achieved over possible."""
        return self.gflops / self.peak


def run(
    *,
    steps: Sequence[int] = (5, 30),
    batches: Sequence[int] = (1, 8),
    dtypes: Sequence[str] = ("float32", "bfloat16"),
    naive_steps: int = 2,
    report: Callable[[str], None] = print,
) -> list[Row]:
    """Measure and report, a line for each setting.

    Args:
        steps: numbers of steps.
        batches: photos at once.
        dtypes: "float32", "bfloat16".
        naive_steps: steps of the published loop that are timed; all its steps cost the same, so the rest is
            reckoned, not waited for.
        report: takes each line.
    """
    report(f"LaDiC at paper size, random weights, {torch.get_num_threads()} threads; seconds per photo")
    report(f"naive: image encoder and both branches at every step, timed over {naive_steps} steps and scaled")
    captioner = paper_size_captioner()
    operations = count_operations(captioner)
    rows = []
    for dtype in dtypes:
        cast: Any = captioner  # transformers' stub of .to() takes no dtype
        cast.to(DTYPES[dtype])
        for batch in batches:
            for row in _compare(captioner, dtype, batch, steps, naive_steps, operations):
                rows.append(row)
                report(
                    f"{dtype:8s} batch {batch} steps {row.steps:2d}: naive {row.naive:7.2f} s  ours {row.ours:6.2f} s  "
                    f"{row.ratio:4.1f}x  {row.gflops:6.0f} of {row.peak:.0f} GFLOP/s = {row.efficiency:.2f}"
                )
    return rows


def _compare(
    captioner: Captioner,
    dtype: str,
    batch: int,
    steps: Sequence[int],
    naive_steps: int,
    operations: Callable[[int, int], float],
) -> Iterator[Row]:
    pixels = _photos(batch).to(DTYPES[dtype])
    naive_loop(captioner, pixels[:1], 1)  # the first call in a dtype prepares its kernels
    per_step = _seconds(lambda: naive_loop(captioner, pixels, naive_steps)) / naive_steps
    for count in steps:
        seconds = _seconds(partial(_ours, captioner, pixels, count))
        gflops = operations(batch, count) / seconds / 1e9
        peak = matrix_rate(DTYPES[dtype])  # beside the run, for machines that others use too
        yield Row(dtype, batch, count, per_step * count / batch, seconds / batch, gflops, peak)


def _photos(batch: int) -> Tensor:
    return torch.rand(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def _ours(captioner: Captioner, pixels: Tensor, steps: int) -> object:
    how = dataclasses.replace(captioner.defaults, steps=steps, spacing="uniform")
    return captioner.generate(pixels, sampling=how)


def paper_size_captioner(preset: Preset | None = None) -> Captioner:
    """``ladic-base-authors`` with random weights."""
    preset = preset or load_preset("ladic-base-authors")
    torch.manual_seed(0)
    config = CaptionerConfig(
        **preset.of_the_model(),
        bert=BERT_BASE,
        tower={
            "architecture": "BlipVisionModel",
            "config": VIT_BASE,
            "projection": None,
            "mode": "patches",
            "image_size": 224,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
        },
        tokens={"pad": 0, "cls": 101, "sep": 102, "filler": 1012},
    )
    return Captioner(config).eval()


@torch.inference_mode()
def naive_loop(captioner: Captioner, pixels: Tensor, steps: int) -> Tensor:
    """The published loop: every step encodes the photo and the empty photo and runs each branch by itself."""
    how: SamplingConfig = captioner.defaults
    noise: Noise = captioner.noise(how.factor)
    generator = torch.Generator().manual_seed(0)
    shape = (len(pixels), captioner.length, captioner.text.dim)
    x = torch.randn(shape, generator=generator).to(pixels.dtype)
    x0 = torch.zeros_like(x)
    empty = torch.zeros_like(pixels)
    times = uniform_times(noise.steps, steps)
    for level, following in pairwise(times):
        t = torch.full((len(pixels),), level)
        with_photo = captioner.denoiser(x, x0, t, captioner.see(captioner.encode_image(pixels)))
        without = captioner.denoiser(x, x0, t, captioner.see(captioner.encode_image(empty)))
        x0 = (1 + how.guidance) * with_photo - how.guidance * without
        if following:
            fresh = torch.randn(shape, generator=generator).to(x.dtype)
            x = noise.add(x0, torch.full((len(pixels),), following), fresh).to(x.dtype)
    ids: Tensor = captioner.logits(x0).argmax(-1)
    return ids


def matrix_rate(dtype: torch.dtype, size: int = 2048, device: str | torch.device = "cpu") -> float:
    """GFLOP/s of a square matrix product, the best of a few."""
    a, b = (torch.randn(size, size).to(device, dtype) for _ in range(2))

    def product() -> None:
        (a @ b)[:1, :1].cpu()  # waits for a GPU

    best = min(_seconds(product, warmup=1) for _ in range(4))
    return 2 * size**3 / best / 1e9


def count_operations(captioner: Captioner) -> Callable[[int, int], float]:
    """Floating-point operations of ours by batch and steps, from torch's counts of three small runs.

    What they cost is c + batch * (a + b * steps): the null photo once, a photo once, a step of it.
    """
    from torch.utils.flop_counter import FlopCounterMode

    def count(batch: int, steps: int) -> float:
        with FlopCounterMode(display=False) as counter:
            _ours(captioner, _photos(batch), steps)
        return float(counter.get_total_flops())

    one, two_photos, two_steps = count(1, 1), count(2, 1), count(1, 2)
    step = two_steps - one
    photo = two_photos - one - step
    return lambda batch, steps: one - photo - step + batch * (photo + step * steps)


def _seconds(work: Callable[[], Any], warmup: int = 0) -> float:
    for _ in range(warmup):
        work()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
