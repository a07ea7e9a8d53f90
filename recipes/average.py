"""The mean of two captioners' weights: average.py MODEL OTHER OUT SHARE [SETTING=VALUE ...]

It is written as OUT/model. SHARE is OTHER's; settings are those of sampling. Where one was trained on from the other,
both lie in one valley, and between them a captioner often has what each is better at (Wortsman et al. 2022).
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import torch

from clearcap.captioner.model import load_captioner
from clearcap.config import override
from clearcap.training.run import save_model

model, other, out, share, *settings = sys.argv[1:]
captioner, tokenizer = load_captioner(model)
theirs, _ = load_captioner(other)
with torch.no_grad():
    for ours, one in zip(captioner.state_dict().values(), theirs.state_dict().values(), strict=True):
        if ours.is_floating_point() and not torch.equal(
            ours, one
        ):  # what is alike stays so, to the sign of a zero
            ours.lerp_(one.to(ours.dtype), float(share))
captioner.config.sampling = dataclasses.asdict(override(theirs.defaults, settings))
save_model(captioner, tokenizer, Path(out))
