"""``python -m benchmarks.paper_size``: LaDiC at paper size with random weights, the published loop against ours."""

from __future__ import annotations

import copy
import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from clearcap.captioner.model import Captioner, CaptionerConfig
from clearcap.captioner.prepacked import PackedLinear, packable, prepare_for_inference
from clearcap.config import Preset, SamplingConfig, load_preset
from clearcap.diffusion.noise import Noise
from clearcap.sampling.guidance import guide
from clearcap.sampling.solvers import uniform_times

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
INTRODUCTION = """\
LaDiC at paper size, random weights, {threads} threads; seconds per photo,
medians of {repeats} rounds in which naive, ours and the matrix product take turns
naive: plain torch; every step encodes the photo and the empty photo and calls the denoiser for each.
       All its steps cost the same: its second step of a round is timed (the first finds caches full of
       other work, which would count against it), and naive = steps * step + decoding. (The authors'
       "30 steps" are 34 such calls.)
ours: generate() of the captioner after prepare_for_inference, whole, as many steps in the same dtype"""
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
    """One setting's measures, each the median of a few.

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
    repeats: int = 3,
    report: Callable[[str], None] = print,
) -> list[Row]:
    """Measure and report, a line for each setting.

    Args:
        steps: numbers of steps, each one call of the denoiser (a batch of two branches, or two calls).
        batches: photos at once.
        dtypes: "float32", "bfloat16".
        repeats: rounds; in each, the published loop, ours and the matrix product take turns.
        report: takes each line.
    """
    report(INTRODUCTION.format(threads=torch.get_num_threads(), repeats=repeats))
    plain = paper_size_captioner()
    operations = count_operations(plain)
    rows = []
    for dtype in dtypes:
        cast: Any = plain  # transformers' stub of .to() takes no dtype
        cast.to(DTYPES[dtype])
        prepared = prepare_for_inference(copy.deepcopy(plain))
        for batch in batches:
            for row in _compare(plain, prepared, dtype, batch, steps, repeats, operations):
                rows.append(row)
                report(
                    f"{dtype:8s} batch {batch} steps {row.steps:2d}: naive {row.naive:7.2f} s  ours {row.ours:6.2f} s  "
                    f"{row.ratio:4.1f}x  {row.gflops:6.0f} of {row.peak:.0f} GFLOP/s = {row.efficiency:.2f}"
                )
        report(_check(plain, DTYPES[dtype], min(steps)))
    return rows


def _compare(
    plain: Captioner,
    prepared: Captioner,
    dtype: str,
    batch: int,
    steps: Sequence[int],
    repeats: int,
    operations: Callable[[int, int], float],
) -> list[Row]:
    pixels = _photos(batch).to(DTYPES[dtype])
    naive_laps(plain, pixels[:1], 1)  # the first call in a dtype prepares its kernels
    _ours(prepared, pixels[:1], 1)
    naive: list[tuple[float, float]] = []
    peaks: list[float] = []
    ours: dict[int, list[float]] = {count: [] for count in steps}
    for _ in range(repeats):
        _, step, decoding = naive_laps(plain, pixels, 2)
        naive.append((step, decoding))
        for count in steps:
            ours[count].append(_seconds(partial(_ours, prepared, pixels, count)))
        peaks.append(matrix_rate(DTYPES[dtype]))
    step_seconds, decode_seconds = (statistics.median(times) for times in zip(*naive, strict=True))
    peak = statistics.median(peaks)
    rows = []
    for count in steps:
        seconds = statistics.median(ours[count])
        reckoned = count * step_seconds + decode_seconds
        rate = operations(batch, count) / seconds / 1e9
        rows.append(Row(dtype, batch, count, reckoned / batch, seconds / batch, rate, peak))
    return rows


def _check(plain: Captioner, dtype: torch.dtype, steps: int) -> str:
    """The whole published loop for one photo against what its second step says it takes."""
    *laps, decoding = naive_laps(plain, _photos(1).to(dtype), steps)
    reckoned = steps * laps[1] + decoding
    return f"  check: {steps} whole naive steps {sum(laps) + decoding:.2f} s, reckoned from the second {reckoned:.2f} s"


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


def naive_laps(captioner: Captioner, pixels: Tensor, steps: int) -> list[float]:
    """Seconds of each step of the published loop, and at the end of decoding."""
    clock = [time.perf_counter()]
    naive_loop(captioner, pixels, steps, lambda: clock.append(time.perf_counter()))
    return [after - before for before, after in pairwise(clock)]


@torch.inference_mode()
def naive_loop(
    captioner: Captioner, pixels: Tensor, steps: int, lap: Callable[[], None] = lambda: None
) -> Tensor:
    """The published loop: every step encodes the photo and the empty photo and runs each branch by itself.

    Args:
        captioner: not prepared for inference.
        pixels: photos.
        steps: calls of the denoiser, for each branch.
        lap: called after each step and after decoding.
    """
    how: SamplingConfig = captioner.defaults
    noise: Noise = captioner.noise(how.noise_factor)
    generator = torch.Generator().manual_seed(0)
    shape = (len(pixels), captioner.length, captioner.text.dim)
    x = torch.randn(shape, generator=generator).to(pixels.dtype)
    x0 = torch.zeros_like(x)
    empty = torch.zeros_like(pixels)
    times = uniform_times(noise.steps, steps)
    for level, following in pairwise(times):
        t = torch.full((len(pixels),), level)
        with_photo = captioner.denoiser(x, x0, t, captioner.image_context(captioner.encode_image(pixels)))
        without = captioner.denoiser(x, x0, t, captioner.image_context(captioner.encode_image(empty)))
        x0 = guide(with_photo, without, how.guidance)
        if following:
            fresh = torch.randn(shape, generator=generator).to(x.dtype)
            x = noise.add(x0, torch.full((len(pixels),), following), fresh).to(x.dtype)
        lap()
    ids: Tensor = captioner.logits(x0).argmax(-1)
    lap()
    return ids


def matrix_rate(dtype: torch.dtype, size: int = 2048, device: str | torch.device = "cpu") -> float:
    """GFLOP/s of a square matrix product, the best of a few: plain, and with a packed matrix where that can be."""
    a = torch.randn(size, size).to(device, dtype)
    layer = nn.Linear(size, size, bias=False, device=device, dtype=dtype).requires_grad_(False)
    ways: list[Callable[[Tensor], Tensor]] = [lambda x: x @ layer.weight]
    if packable(layer):
        ways.append(PackedLinear(layer))

    def product(way: Callable[[Tensor], Tensor]) -> None:
        way(a)[:1, :1].cpu()  # waits for a GPU

    with torch.inference_mode():
        best = min(_seconds(partial(product, way), warmup=1) for way in ways for _ in range(4))
    return 2 * size**3 / best / 1e9


def count_operations(captioner: Captioner) -> Callable[[int, int], float]:
    """Floating-point operations of ours by batch and steps, from torch's counts of three small runs.

    A run of the plain captioner costs c + batch * (a + b * steps): the null photo, a photo, a step of it. Prepared
    for inference it does not look at the null photo, so c is left out. Attention is not in torch's count.
    """
    from torch.utils.flop_counter import FlopCounterMode

    def count(batch: int, steps: int) -> float:
        with FlopCounterMode(display=False) as counter:
            _ours(captioner, _photos(batch), steps)
        return float(counter.get_total_flops())

    one, two_photos, two_steps = count(1, 1), count(2, 1), count(1, 2)
    step = two_steps - one
    photo = two_photos - one - step
    return lambda batch, steps: batch * (photo + step * steps)


def _seconds(work: Callable[[], Any], warmup: int = 0) -> float:
    for _ in range(warmup):
        work()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    run()
