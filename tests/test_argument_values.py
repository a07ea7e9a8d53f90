"""Arguments of impossible values, in a process of their own: the tests' type checker would refuse them first."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tiny_captioner import save_tiny_captioner

START = """
import sys, numpy as np, torch
from clearcap import Captioner, CaptionPipeline
from clearcap.config import SamplingConfig, TrainConfig
from clearcap.errors import InputError
from clearcap.metrics import score
from clearcap.pipeline.infilling import edit_template, keyword_templates, length_template
from clearcap.sampling.selection import choose
photo = np.zeros((40, 60, 3), np.uint8)
nan, inf = float("nan"), float("inf")
def never():
    raise AssertionError("work has begun")
    yield
pipeline = CaptionPipeline.from_pretrained(sys.argv[1])
"""
FAULTS = {  # expression -> beginning of its error
    "SamplingConfig(steps=2.5)": "sampling.steps=2.5 must be of type int",
    "SamplingConfig(steps='3')": "sampling.steps='3' must be of type int",
    "SamplingConfig(steps=True)": "sampling.steps=True must be of type int",
    "SamplingConfig(steps=None)": "sampling.steps=None must be of type int",
    "SamplingConfig(guidance=nan)": "sampling.guidance=nan must be finite",
    "SamplingConfig(guidance=np.float32('inf'))": "sampling.guidance=np.float32(inf) must be finite",
    "SamplingConfig(guidance='much')": "sampling.guidance='much' must be of type float",
    "SamplingConfig(guidance=1j)": "sampling.guidance=1j must be of type float",
    "SamplingConfig(self_condition=1)": "sampling.self_condition=1 must be of type bool",
    "SamplingConfig(solver=None)": "sampling.solver=None must be of type str",
    "SamplingConfig(eta=nan)": "sampling.eta=nan must be finite",
    "TrainConfig(lr=inf)": "train.lr=inf must be finite",
    "TrainConfig(steps=1.0)": "train.steps=1.0 must be of type int",
    "pipeline(never(), batch_size=0)": "batch_size=0 must be at least 1",
    "pipeline(never(), batch_size=-1)": "batch_size=-1 must be at least 1",
    "pipeline(never(), batch_size=2.0)": "batch_size=2.0 must be of type int",
    "pipeline(never(), batch_size=None)": "batch_size=None must be of type int",
    "pipeline(never(), seed=-1)": "seed=-1 must be at least 0",
    "pipeline(never(), seed=2**63)": "seed=9223372036854775808 must be at most 9223372036854775807",
    "pipeline(never(), seed=1.5)": "seed=1.5 must be of type int",
    "pipeline(never(), seed='7')": "seed='7' must be of type int",
    "pipeline(never(), seed=True)": "seed=True must be of type int",
    "pipeline(never(), steps=2.5)": "sampling.steps=2.5 must be of type int",
    "pipeline(never(), guidance=inf)": "sampling.guidance=inf must be finite",
    "pipeline(never(), guidance_scale='x')": "sampling.guidance='x' must be of type float",
    "pipeline(never(), stepz=2)": "unknown sampling setting 'stepz'",
    "pipeline.stream(never(), batch_size=0)": "batch_size=0 must be at least 1",
    "pipeline.stream(never(), stepz=0)": "unknown sampling setting 'stepz'",
    "pipeline.encode_all(never(), batch_size=0)": "batch_size=0 must be at least 1",
    "pipeline.fill(photo, 'a ___', seed=-1)": "seed=-1 must be at least 0",
    "pipeline.fill(photo, 'a ___', steps=0.5)": "sampling.steps=0.5 must be of type int",
    "pipeline.trajectory(photo, seed=0.5)": "seed=0.5 must be of type int",
    "CaptionPipeline.from_pretrained(device='gpu')": "device='gpu' cannot be used",
    "CaptionPipeline.from_pretrained(device=1.5)": "device='1.5' cannot be used",
    "CaptionPipeline.from_pretrained(dtype='float')": "",
    "CaptionPipeline.from_pretrained(clip=3)": "clip=3 is no folder",
    "CaptionPipeline.from_pretrained(memory=3)": "memory=3 is no folder",
    "CaptionPipeline.from_pretrained(memory='nosuch')": "nosuch: holds no memory",
    "Captioner.from_pretrained(sys.argv[1], config=3)": "config is of type int; pass a CaptionerConfig",
    "CaptionPipeline.from_pretrained(dtype=16)": "dtype=16 is no type to compute in",
    "pipeline(never(), batch_size=10**400)": "batch_size=1000",
    "pipeline(never(), generator=3)": "generator=3 must be a torch.Generator",
    "pipeline(never(), guidance=10**400)": "sampling.guidance=1000",
    "pipeline.fill(photo, 3)": "3 is no template",
    "pipeline.fill(photo, [])": "[] is no template",
    "length_template(2.5)": "low=2.5 must be of type int",
    "keyword_templates(7, 3)": "keywords=7 must be a list of str",
    "keyword_templates(['dog', None], 3)": "keywords[1]=None must be of type str",
    "edit_template('a dog', ['dog'], 'x')": "slack='x' must be of type int",
    "choose([1, 2])": "captions[0]=1 must be of type str",
    "score({'a': 'x'}, 3)": "the references are of type int",
    "score({'a': 'x'}, {'a': None})": "the references of photo 'a' must be a list",
    "pipeline(3)": "the image is of type int",
    "pipeline(None)": "the image is of type NoneType",
}
EQUAL = {  # expression -> one that gives the same
    "SamplingConfig(steps=np.int64(3), guidance=np.float32(0.5))": "SamplingConfig(steps=3, guidance=0.5)",
    "type(SamplingConfig(length=np.uint8(4)).length)": "int",
    "SamplingConfig(guidance=2).guidance": "2",
    "pipeline([photo] * 3, seed=np.int64(3), batch_size=np.uint8(2))": "pipeline([photo] * 3, seed=3, batch_size=2)",
    "pipeline(np.stack([photo] * 3), seed=3)": "pipeline([photo] * 3, seed=3)",
    "pipeline(iter([photo] * 3), seed=3)": "pipeline([photo] * 3, seed=3)",
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = save_tiny_captioner(tmp_path_factory.mktemp("model"))
    lines = [START]
    for call in FAULTS:
        lines += ["try:", f"    {call}; print('no error')"]
        lines += ["except Exception as fault:", "    print(type(fault).__name__, repr(str(fault)))"]
    lines += [f"print(({one}) == ({other}))" for one, other in EQUAL.items()]
    command = [sys.executable, "-c", "\n".join(lines), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(zip([*FAULTS, *EQUAL], done.stdout.splitlines(), strict=True))


@pytest.mark.parametrize("call", FAULTS)
def test_an_impossible_value_is_one_line_before_any_work(call: str, answers: dict[str, str]) -> None:
    if not FAULTS[call]:
        assert answers[call] == "no error"
        return
    assert answers[call].startswith(f'InputError "{FAULTS[call]}') or answers[call].startswith(
        f"InputError '{FAULTS[call]}"
    )
    assert "\\n" not in answers[call]


@pytest.mark.parametrize("call", EQUAL)
def test_numbers_and_photos_of_other_libraries_are_welcome(call: str, answers: dict[str, str]) -> None:
    assert answers[call] == "True"
