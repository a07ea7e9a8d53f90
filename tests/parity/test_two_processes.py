"""Two processes take the step that one process takes on their joined batch; the authors' code never synchronised."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as processes
from safetensors.torch import load_file, save_file
from tiny_captioner import photos, tiny_captioner
from torch import Tensor

from clearcap.diffusion.ladic import Draws
from clearcap.training.objectives import LadicObjective

PHOTOS, COPIES, LENGTH = 4, 2, 10


def batch(rows: slice) -> tuple[Tensor, Tensor, Tensor, Tensor, Draws]:
    """Some photos of one joined batch, photo-major."""
    captioner, tokenizer = tiny_captioner()
    generator = torch.Generator().manual_seed(5)
    captions = slice(rows.start * COPIES, rows.stop * COPIES)
    count = PHOTOS * COPIES
    x0 = torch.randn(count, LENGTH, captioner.text.dim, generator=generator)
    ids = torch.randint(5, len(tokenizer), (count, LENGTH), generator=generator)
    t = torch.randint(1000, (count,), generator=generator)
    eps = torch.randn(x0.shape, generator=generator)
    keep = torch.tensor([True, False, True, True])
    draws = Draws(t[captions], eps[captions], keep[rows], True)
    return photos(PHOTOS)[rows], torch.ones(rows.stop - rows.start).bool(), x0[captions], ids[captions], draws


def step(run: Any, backward: Any, rows: slice) -> None:
    latent, caption = run(*batch(rows))
    backward(latent + 0.2 * caption)


def gradients(objective: LadicObjective) -> dict[str, Tensor]:
    return {k: p.grad.clone() for k, p in objective.named_parameters() if p.grad is not None}


def work(rank: int, port: int, out: str) -> None:
    """One of two processes, with half of the photos."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    torch.set_num_threads(1)
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    captioner, _ = tiny_captioner()
    objective = LadicObjective(
        captioner.eval(), captioner.noise(2.0)
    )  # no dropout: each process would draw its own
    half = PHOTOS // 2
    step(accelerator.prepare_model(objective), accelerator.backward, slice(rank * half, (rank + 1) * half))
    save_file(gradients(objective), Path(out) / f"{rank}.safetensors")
    accelerator.end_training()  # which also takes the process group down


@pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this torch was built without torch.distributed"
)
def test_two_processes_equal_one_with_the_joined_batch(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes.spawn(work, args=(port, str(tmp_path)), nprocs=2)
    captioner, _ = tiny_captioner()
    objective = LadicObjective(captioner.eval(), captioner.noise(2.0))
    objective.zero_grad()
    step(objective, lambda loss: loss.backward(), slice(0, PHOTOS))
    joined = gradients(objective)
    captioner.zero_grad()
    for rank in range(2):
        mine = load_file(tmp_path / f"{rank}.safetensors")
        assert mine.keys() == joined.keys()
        for name, gradient in joined.items():
            torch.testing.assert_close(mine[name], gradient, atol=1e-6, rtol=1e-6, msg=name)
