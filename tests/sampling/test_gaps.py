"""What mutants of the core showed that no other test held: each case is written out again by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from tiny_captioner import photos, tiny_captioner

from clearcap.config import DenoiserConfig
from clearcap.denoiser.fused import AddFusion, build_add
from clearcap.diffusion.diffusion_lm import frobenius, l1
from clearcap.diffusion.noise import make_noise
from clearcap.metrics.cider import DocumentFrequency
from clearcap.sampling.refine import BackAndRefine, refined
from clearcap.sampling.selection import choose, diverse
from clearcap.sampling.solvers import renoise


def test_distances_of_latents_are_those_of_numpy() -> None:
    mine, theirs = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).unbind(0)
    error = (mine - theirs).numpy()
    np.testing.assert_allclose(float(l1(mine, theirs)), np.abs(error).sum(1).mean(), rtol=1e-5)
    norms = [np.linalg.norm(one) for one in error]
    np.testing.assert_allclose(float(frobenius(mine, theirs)), np.mean(norms), rtol=1e-5)


def test_a_vector_that_does_not_show_adds_nothing() -> None:
    x, features = torch.randn(2, 3, 4), torch.randn(2, 2, 4)
    visible = torch.tensor([[True, False], [False, True]])
    h, _ = AddFusion()(x, features, visible, torch.ones(2, 3, dtype=torch.bool))
    torch.testing.assert_close(h, x + torch.stack((features[0, 0], features[1, 1]))[:, None])


def test_dropout_reaches_every_layer_of_a_fused_denoiser() -> None:
    sizes = DenoiserConfig(kind="add", width=8, depth=2, heads=2, hidden=8, dropout=0.25)
    denoiser = build_add(sizes, dim=8, length=4, image_dim=6, image_tokens=1)
    rates = [module.p for module in denoiser.modules() if isinstance(module, torch.nn.Dropout)]
    assert rates == [0.25] * 3
    assert [block.attend_self.dropout for block in denoiser.blocks] == [0.25] * 2


def test_agreement_by_cider_weighs_words_by_the_frequency_given() -> None:
    captions = ["a red hat", "a red ball", "a big dog", "a small dog"]
    dogs_are_common = DocumentFrequency.of([["a dog"]] * 50 + [["a red cat"]])
    red_is_common = DocumentFrequency.of([["a red cat"]] * 50 + [["a dog"]])
    assert choose(captions, utility="cider", frequency=dogs_are_common) in (0, 1)
    assert choose(captions, utility="cider", frequency=red_is_common) in (2, 3)


def test_back_and_refine_keeps_by_threshold() -> None:
    sure = torch.tensor([[0.9, 0.1, 0.9, 0.9]])
    seen: list[torch.Tensor] = []

    def denoise(x: torch.Tensor, t: int) -> torch.Tensor:
        seen.append(x)
        return torch.full_like(x, 7.0)

    generator = torch.Generator().manual_seed(0)
    back = BackAndRefine(rounds=1, time=1.0, share=0.0, threshold=0.5)
    solve = refined(renoise, lambda x0: sure, back)
    noise = make_noise("cosine", 1000)
    solve(
        denoise, torch.zeros(1, 4, 2), [999, 500, 0], noise, lambda: torch.randn(1, 4, 2, generator=generator)
    )
    assert (seen[1] == 7).all(-1).tolist() == [[True, False, True, True]]


def test_early_exit_works_on_the_captions_left_and_on_no_other() -> None:
    captioner, _ = tiny_captioner()
    rows: list[int] = []
    handle = captioner.denoiser.register_forward_pre_hook(lambda m, a: rows.append(len(a[0])))
    how = replace(captioner.defaults, solver="plain", steps=12, guidance=0.0, early_exit=1)
    early = captioner.generate(image=photos(5), sampling=how)
    handle.remove()
    assert rows[0] == 5
    assert rows[-1] < 5
    assert early.ids.shape == (5, 1, 10)


def test_a_diverse_set_is_that_of_marginal_relevance_written_out() -> None:
    from clearcap.metrics import bleu

    captions = ["a dog runs on grass", "a dog runs on the grass", "two men on a boat", "a dog on grass"]
    table = bleu.pairwise(captions)
    top = table.max()
    worth = (table.sum(1) - np.diagonal(table)) / 3 / top
    alike = np.maximum(table, table.T) / top
    picked = [int(np.argmax(worth))]
    while len(picked) < 3:
        left = [i for i in range(4) if i not in picked]
        merit = [0.7 * worth[i] - 0.3 * alike[i, picked].max() for i in left]
        picked.append(left[int(np.argmax(merit))])
    assert diverse(captions, 3, novelty=0.3) == picked
