"""Replay of CLIP-Diffusion-LM's recorded tensors: forward passes, losses, training steps, five iterations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from clearcap.captioner.model import Captioner
from clearcap.convert.clip_diffusion_lm import authors_names, build_clip_diffusion_lm
from clearcap.convert.comparing import Comparison, Injected, Recorded, Spy, compare_training
from clearcap.convert.published_captions import drop_repeated_columns
from clearcap.diffusion.diffusion_lm import DISTANCES, LevelDraws
from clearcap.diffusion.noise import make_noise
from clearcap.diffusion.schedules import cosine_float32
from clearcap.sampling.guidance import called_back, conditioned, guide, self_conditioned
from clearcap.sampling.solvers import plain, times_of
from clearcap.training.objectives import DiffusionLMObjective
from clearcap.vision.transformers import TransformersEncoder, build_pretrained

ITERATIONS = 5
LEARNING_RATE = 1e-3  # of the recorded steps
GUIDED_SHARE = 0.2  # rows whose draw lies above are guided
DISTANCE = {"series_sum_sample_mean": "l1", "mse_series_mean": "frobenius", "mse_series_sum": "frobenius"}


def replay_clip_diffusion_lm(recorded: Recorded) -> dict[str, Comparison]:
    """Every variant's comparison.

    Args:
        recorded: the fixture, with the weights of the concatenating model.
    """
    results = {"components": _components(recorded)}
    for variant, told in recorded.about["variants"].items():
        results[f"{variant} forward"] = _forward(recorded, variant, told)
        results[f"{variant} training"] = _training(recorded, variant, told)
        results[f"{variant} five iterations"] = _iterations(recorded, variant, told)
    return results


def _build(recorded: Recorded, config: dict[str, Any]) -> Captioner:
    concat = config["CLIP_ADDING_METHOD"] == "concat"
    state = {k: v for k, v in recorded.weights.items() if concat or k != "segment_embedding.weight"}
    bert = config["distilbert"]
    captioner, _ = build_clip_diffusion_lm(
        state,
        vision=_untrained_clip(config["CLIP_DIM"]),
        tokens={"pad": 0, "cls": 101, "sep": 102, "filler": 0},
        heads=bert["n_heads"],
        length=config["MAX_LENGTH"],
        dropout=float(bert["dropout"]),
    )
    return nn.Module.to(captioner, recorded.dtype)


def _untrained_clip(dim: int) -> TransformersEncoder:
    """An image encoder that gives vectors of the recorded size; the fixture brings the vectors themselves."""
    tiny = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    tiny |= {"image_size": 8, "patch_size": 8}
    return build_pretrained("CLIPVisionModel", tiny, dim, "global", 8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@torch.no_grad()
def _components(recorded: Recorded) -> Comparison:
    compared = Comparison("components")
    told = next(iter(recorded.about["variants"].values()))
    compared.close("cosine", torch.from_numpy(cosine_float32(1000)), recorded["const/alpha_cumprod"])
    x, t, eps = (recorded[f"diffuse/{name}"] for name in ("x", "t", "noise"))
    noised = make_noise("cosine-float32", 1000).add(x, t[:, None].expand(-1, len(x)), eps)
    compared.close("noised", noised.flatten(0, 1), recorded["diffuse/out"])
    space = _build(recorded, told["config"]).text
    x0 = space.encode(recorded["in/input_ids"], recorded["in/attention_mask"])
    compared.close("x0", x0, recorded["emb/x_0"])
    a, b = recorded["lossfn/a"], recorded["lossfn/b"]
    for name, value in told["lossfn"].items():
        compared.close(name, DISTANCES[DISTANCE[name]](a, b), value)
    return compared


@torch.no_grad()
def _forward(recorded: Recorded, variant: str, told: dict[str, Any]) -> Comparison:
    compared, captioner = Comparison("forward"), _build(recorded, told["config"])
    theirs, w = recorded.under(f"{variant}/"), told["config"]["CLASSIFIER_FREE_WEIGHT"]
    denoiser, x, words = captioner.denoiser, recorded["fwd/x"], recorded["in/attention_mask"].bool()
    image = torch.stack((recorded["in/image_clip"], recorded["in/text_clip"]), 1)
    asked = recorded["fwd/concat_mask"][:, 1].bool()
    rows = asked & (w > 0)
    with Spy(denoiser.head) as hidden:
        denoiser(x, None, None, denoiser.image_context(image, torch.zeros_like(asked)), words=words)
        if bool(rows.any()):
            denoiser(x[rows], None, None, denoiser.image_context(image[rows]), words=words[rows])
    without, led = hidden.outputs[0], hidden.outputs[0].clone()
    compared.close("unguided", without, theirs["fwd_unguided/hidden"])
    if bool(rows.any()):
        led[rows] = guide(hidden.outputs[1], without[rows], w)
    compared.close("hidden", led, theirs["fwd/hidden"])
    compared.close("logits", captioner.logits(led[:, : x.shape[1]]), theirs["fwd/logits"])
    return compared


@torch.no_grad()
def _iterations(recorded: Recorded, variant: str, told: dict[str, Any]) -> Comparison:
    compared, captioner = Comparison("sampling"), _build(recorded, told["config"])
    theirs = recorded.under(f"{variant}/inf/")
    image = torch.stack((recorded["in/image_clip"], torch.zeros_like(recorded["in/text_clip"])), 1)
    noise = captioner.noise(1.0)
    context = captioner.denoiser.image_context(image, torch.zeros(len(image), dtype=torch.bool))
    start = recorded["inf/init_noise"][:, : captioner.length]
    predicted: list[Tensor] = []

    def keep(step: int, t: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        predicted.append(tensors["latents"])
        return {}

    denoise = self_conditioned(called_back(conditioned(captioner.denoiser, noise, context), keep))
    times = times_of("uniform", noise.steps, ITERATIONS)
    with Spy(captioner.denoiser.head) as hidden:
        logits = captioner.logits(plain(denoise, start, times, noise, Injected([])))
    compared.close("hidden", torch.stack(hidden.outputs), theirs["hidden_per_iter"])
    ids = torch.stack([captioner.logits(x0).argmax(-1) for x0 in predicted])
    compared.same("ids of each iteration", ids, theirs["per_iter_ids"])
    compared.close("logits", logits, theirs["logits"])
    compared.same("ids", logits.argmax(-1), theirs["argmax_ids"])
    once = drop_repeated_columns(logits.argmax(-1))
    compared.same("ids without repeats", once, theirs["after_unique_consecutive"])
    return compared


def _training(recorded: Recorded, variant: str, told: dict[str, Any]) -> Comparison:
    config = told["config"]
    compared, captioner = Comparison("training"), _build(recorded, config).train()
    w, weight = float(config["CLASSIFIER_FREE_WEIGHT"]), float(config["ROUNDING_WEIGHT"])
    lag = 0 if config["X_0_PREDICTION"] else config["X_T_STEP_INTERVAL"]
    noise = make_noise("cosine-float32" if config["COSIN_SCHEDULE"] else "linear", config["STEP_TOT"])
    captioner.objective = replace(captioner.objective, distance=DISTANCE[config["LOSS_FUNC"]], lag=lag)
    objective = DiffusionLMObjective(captioner, noise, guide=w)
    ids = recorded["in/input_ids"]
    image, text = recorded["in/image_clip"], recorded["in/text_clip"]
    # The adding model never touches the caption's vector unless it guides, the concatenating one always holds it.
    both = w > 0 or config["CLIP_ADDING_METHOD"] == "concat"
    features = torch.stack((image, text), 1) if both else image[:, None]
    x0 = captioner.text.encode(ids, recorded["in/attention_mask"])
    keep = torch.ones(len(ids), dtype=torch.bool)

    def take_step(step: int) -> Tensor:
        mine = objective.losses(features, keep, x0, ids, _draws(recorded, variant, step, len(ids)))
        losses = {
            "total": mine.latent + weight * mine.rounding,
            "x_t_loss": mine.noisy,
            "x_1_loss": mine.first,
            "prob_loss_weighted": weight * mine.rounding,
        }
        for name, value in losses.items():
            compared.close(f"{name}, step {step}", value, told["train"][step][name])
        return losses["total"]

    rates, norms, theirs = (
        [LEARNING_RATE] * len(told["train"]),
        told["grad_norms_step0"],
        recorded.under(f"{variant}/"),
    )
    compare_training(compared, captioner, objective, theirs, rates, take_step, authors_names, norms)
    return compared


def _draws(recorded: Recorded, variant: str, step: int, captions: int) -> LevelDraws:
    """The recorded draws of a step; theirs are level-major, ours caption-major."""
    theirs = recorded.under(f"{variant}/train{step}/")
    t = (theirs["t"] if "t" in theirs else recorded[f"train{step}/t"]).flatten()
    noise, guided = theirs["noise"], None
    if "guidance_rand" in theirs:
        drawn = theirs["guidance_rand"][:, 0] > GUIDED_SHARE
        drawn[0], drawn[1] = False, True  # the authors see to it that both branches have a row
        guided = drawn.view(len(t), captions).T.flatten()
    first, target = (noise[1], noise[0]) if len(noise) == 2 else (noise[2], noise[1])
    keep_image = torch.ones(captions, dtype=torch.bool)
    return LevelDraws(t, noise[0], eps_first=first, eps_target=target, guided=guided, keep_image=keep_image)
