"""The public Python API called with arbitrary arguments, by Hypothesis: each gives a result or an ``InputError``.

Run without the tests' own type checker, which would refuse them first: ``python -m tests.fuzz arguments``.
"""

from __future__ import annotations

import io
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from clearcap import Captioner, CaptionPipeline
from clearcap.config import SamplingConfig, changes, load_preset
from clearcap.data import expand, open_corpus, open_image, open_spec, to_square
from clearcap.data.corpus import parse_spec
from clearcap.errors import InputError, RenamedWarning
from clearcap.evaluation import score_captions
from clearcap.evaluation.files import join
from clearcap.metrics import DocumentFrequency, score, tokenize
from clearcap.metrics.significance import compare, intervals
from clearcap.pipeline.infilling import edit_template, keyword_templates, length_template, parse_template
from clearcap.sampling.selection import choose, diverse
from clearcap.text.tokenizer import clean_caption
from tests.fuzz import SECONDS, Answer, Report, TooLong, limited
from tests.fuzz.photos import picture, written
from tests.tiny_captioner import CAPTIONS, save_tiny_captioner

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 12),
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=12),
    st.binary(max_size=12),
    st.sampled_from(
        ["___", "a ___ dog", "ddim", "mbr", "cider", "cpu", "float16", "folder::all", Path("x"), object()]
    ),
    st.sampled_from([np.int64(3), np.float32(0.5), np.bool_(True), torch.tensor(2), 10**400, float("nan")]),
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    ),
    max_leaves=6,
)
TEXTS = st.one_of(st.sampled_from(CAPTIONS), st.text(max_size=30))
PIXELS = arrays.arrays(
    st.sampled_from([np.uint8, np.uint16, np.int64, np.float32, np.float16, np.bool_, np.complex64, object]),
    st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 17]), max_size=5).map(tuple),
    fill=st.just(0),
)
KNOBS = [
    *("steps", "guidance", "candidates", "select", "utility", "length", "min_length", "max_length", "solver"),
    *("spacing", "refine", "refine_time", "refine_share", "eta", "start", "noise_factor", "early_exit"),
    *(
        "guidance_low",
        "guidance_high",
        "time_offset",
        "self_condition",
        "num_inference_steps",
        "guidance_scale",
    ),
    *("batch_size", "seed", "generator", "words", "refine_threshold", "refine_level", "stepz"),
]
SOLVERS = st.sampled_from(
    ["ddim", "renoise", "ddpm", "dpm-solver", "plain", "uniform", "trailing", "log-snr"]
)
HOW = st.dictionaries(
    st.sampled_from(KNOBS), SOLVERS | st.integers(-1, 9) | st.floats() | SCALARS, max_size=4
)
DEAR = ("steps", "num_inference_steps", "candidates", "refine")  # settings that may ask for hours of work


class Api:
    """What is called, by name, with the arguments that Hypothesis finds."""

    def __init__(self, folder: Path) -> None:
        self.model = save_tiny_captioner(folder / "model")
        self.pipeline = CaptionPipeline.from_pretrained(self.model)
        self.photo = picture("RGB", 0)
        jpeg = written("JPEG")
        photos = st.one_of(
            st.just(self.photo),
            st.just(jpeg),
            st.builds(io.BytesIO, st.just(jpeg) | st.binary(max_size=40)),
            PIXELS,
            PIXELS.filter(lambda a: a.dtype.kind in "uifb" and a.dtype != np.uint16).map(torch.from_numpy),
            st.fixed_dictionaries({"bytes": st.just(jpeg) | SCALARS, "path": SCALARS}),
            ANYTHING.filter(lambda value: not is_address(value)),
        )
        many = st.one_of(photos, st.lists(photos, max_size=3), st.lists(photos, max_size=2).map(iter))
        texts = st.lists(TEXTS | ANYTHING, max_size=4) | ANYTHING
        by_photo = st.dictionaries(st.sampled_from("abc"), TEXTS | ANYTHING, max_size=3) | ANYTHING
        references = st.dictionaries(st.sampled_from("abc"), texts, max_size=3) | ANYTHING
        whole = st.sampled_from(["a", "b"])
        good = st.fixed_dictionaries({"a": TEXTS, "b": TEXTS})
        lists = st.fixed_dictionaries({"a": st.lists(TEXTS, min_size=1), "b": st.lists(TEXTS, min_size=1)})
        template = TEXTS.map(lambda text: f"{text} ___") | ANYTHING
        pipe = self.pipeline
        self.calls: dict[
            str, tuple[Callable[..., Any], st.SearchStrategy[tuple[tuple[Any, ...], dict[str, Any]]]]
        ] = {
            "pipeline": (self._cheap(pipe.__call__), args(many, how=HOW)),
            "stream": (
                self._cheap(lambda images, **how: list(pipe.stream(images, **how))),
                args(many, how=HOW),
            ),
            "fill": (self._cheap(pipe.fill), args(photos, template, how=HOW)),
            "trajectory": (self._cheap(pipe.trajectory), args(photos, how=HOW)),
            "encode_all": (
                lambda images, size: pipe.encode_all(images, batch_size=size),
                args(many, SCALARS),
            ),
            "from_pretrained": (
                lambda **how: CaptionPipeline.from_pretrained(self.model, **how),
                args(how=options("device", "dtype", "backend", "torch_dtype", "device_map", "revision", "x")),
            ),
            "Captioner.from_pretrained": (
                lambda **how: Captioner.from_pretrained(self.model, **how),
                args(how=options("device", "dtype", "torch_dtype", "device_map", "attn_implementation", "x")),
            ),
            "SamplingConfig": (lambda how: SamplingConfig(**how), args(HOW.map(fields))),
            "changes": (lambda words: changes(SamplingConfig, words), args(st.lists(st.text(max_size=20)))),
            "load_preset": (load_preset, args(st.text(max_size=9), st.lists(st.text(max_size=20)))),
            "open_image": (open_image, args(photos, how=st.just({}))),
            "to_square": (
                lambda image, size: to_square(open_image(image), size),
                args(photos, st.integers(1, 99)),
            ),
            "expand": (expand, args(st.lists(st.text(max_size=9).filter(is_quiet), max_size=3))),
            "open_corpus": (
                open_corpus,
                args(st.text(max_size=9) | st.just("folder"), st.text(max_size=9), TEXTS),
            ),
            "open_spec": (open_spec, args(st.text(max_size=20))),
            "parse_spec": (parse_spec, args(st.text(max_size=20))),
            "score": (score, args(by_photo | good, references | lists)),
            "score_captions": (
                lambda one, other, seed: score_captions(one, other, seed=seed),
                args(by_photo | good, references | lists, SCALARS),
            ),
            "join": (join, args(good | st.dictionaries(whole, TEXTS), lists)),
            "intervals": (
                lambda one, other, samples, level, seed: intervals(score(one, other), samples, level, seed),
                args(good, lists, SCALARS.filter(is_small), SCALARS, SCALARS),
            ),
            "compare": (
                lambda a, b, c, seed: compare(score(a, c), score(b, c), seed=seed),
                args(good, good, lists, SCALARS),
            ),
            "tokenize": (tokenize, args(texts)),
            "DocumentFrequency.of": (DocumentFrequency.of, args(st.lists(texts, max_size=3))),
            "parse_template": (parse_template, args(template)),
            "length_template": (length_template, args(SCALARS, SCALARS, TEXTS | SCALARS)),
            "edit_template": (edit_template, args(TEXTS | ANYTHING, texts, SCALARS)),
            "keyword_templates": (
                keyword_templates,
                args(texts, st.integers(-1, 9) | SCALARS, st.integers(-1, 9) | SCALARS),
            ),
            "choose": (
                lambda captions, rule, utility: choose(captions, rule, utility=utility),
                args(
                    texts,
                    st.sampled_from(["mbr", "x"]) | SCALARS,
                    st.sampled_from(["bleu", "cider"]) | SCALARS,
                ),
            ),
            "diverse": (
                lambda captions, count, novelty: diverse(captions, count, novelty=novelty),
                args(texts, SCALARS, SCALARS),
            ),
            "clean_caption": (clean_caption, args(TEXTS | ANYTHING, SCALARS, SCALARS)),
        }

    @staticmethod
    def _cheap(call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, but for settings that rightly ask for very much work."""

        def cheap(*arguments: Any, **how: Any) -> Any:
            hypothesis.assume(all(is_small(how.get(name)) for name in DEAR))
            return call(*arguments, **how)

        return cheap


def args(*each: Any, how: Any = None) -> st.SearchStrategy[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Positional and named arguments."""
    return st.tuples(st.tuples(*each), how if how is not None else st.just({}))


def options(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    """Some of these with values of any kind."""
    return st.dictionaries(st.sampled_from(names), ANYTHING, max_size=2)


def fields(how: dict[str, Any]) -> dict[str, Any]:
    """Those of the settings that are fields of ``SamplingConfig``."""
    return {name: value for name, value in how.items() if name in SamplingConfig.__dataclass_fields__}


def is_small(value: Any) -> bool:
    """Whether work that grows with a value ends soon."""
    try:
        return not abs(value) > 50
    except Exception:
        return True


def is_address(value: Any) -> bool:
    """Whether it would be fetched."""
    return isinstance(value, str) and "://" in value


def is_quiet(path: str) -> bool:
    """Whether a name is looked for on the disk, and no deeper than where we stand."""
    return path != "-" and not set(path) & set("*?[/~@.")


def calling(call: Callable[..., Any], counted: Counter[str]) -> Callable[[Any], None]:
    """The call with what is given, whose end is counted."""

    def once(given: Any) -> None:
        arguments, named = given
        try:
            with warnings.catch_warnings(record=True), limited(SECONDS):
                warnings.simplefilter("always", RenamedWarning)
                call(*arguments, **named)
            counted["result"] += 1
        except InputError as fault:
            if len(str(fault).splitlines()) != 1:
                raise AssertionError(str(fault)) from fault
            counted["one line"] += 1
        except TooLong:
            raise AssertionError(f"took more than {SECONDS:.0f} s") from None

    return once


def fuzz_arguments(folder: Path, count: int, seed: int, told: Callable[[Answer], None]) -> Report:
    """Call everything public, ``count`` times in all; each fault is shrunk by Hypothesis before it is told."""
    torch.set_num_threads(1)
    api, report, begun = Api(folder), Report(), time.monotonic()
    for name, (call, strategy) in api.calls.items():
        counted: Counter[str] = Counter()

        test = hypothesis.settings(
            max_examples=max(1, count // len(api.calls)),
            database=None,
            deadline=None,
            print_blob=False,
            suppress_health_check=list(hypothesis.HealthCheck),
        )(hypothesis.seed(seed)(hypothesis.given(strategy)(calling(call, counted))))
        try:
            test()
        except Exception:
            lines = traceback.format_exc().strip()
            answer = Answer(report.ends.total(), name, "fault", told=lines)
            report.add(answer)
            told(answer)
        report.ends.update(counted)
    report.seconds = time.monotonic() - begun
    return report
