"""Replay of LaDiC's recorded tensors: parts, sampling runs, training steps, captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clearcap.captioner.model import Captioner
from clearcap.config import TrainConfig
from clearcap.convert.comparing import STEPS_TOLERANCE, Comparison, Injected, Recorded, Spy
from clearcap.convert.folder import load_tokenizer
from clearcap.convert.ladic import Heads, TokenIds, authors_names, build_ladic
from clearcap.convert.published_captions import drop_repeated_columns, ladic_captions
from clearcap.diffusion.ladic import Draws
from clearcap.diffusion.noise import Noise, make_noise
from clearcap.diffusion.schedules import cosine_float32, linear
from clearcap.layers import Context, join_contexts, sinusoids
from clearcap.sampling.guidance import (
    Denoise,
    Step,
    conditioned,
    guide,
    guided,
    self_conditioned,
    shifted,
    without_self_conditioning,
)
from clearcap.sampling.refine import ladic_back_and_refine
from clearcap.sampling.solvers import renoise, times_of
from clearcap.text.tokenizer import clean_caption, encode_captions
from clearcap.training.objectives import LadicObjective
from clearcap.training.optimizers import make_optimizers

EMBEDDED_TIMES = (0, 1, 5, 500, 999)


def replay_ladic(weights: dict[str, Tensor], recorded: Recorded, vocab: Path) -> dict[str, Comparison]:
    """Every variant's comparison.

    Args:
        weights: under the authors' names, time LayerNorm included.
        recorded: inputs and outputs.
        vocab: the fixture's ``vocab.txt``.
    """
    about = recorded.about
    results = {
        "components": _components(weights, recorded, vocab),
        "components, time LayerNorm": _denoiser_calls(
            _build(weights, recorded, True), recorded, "comp_timeln"
        ),
        "components, upper layers decode": _upper(weights, recorded),
    }
    for variant, told in about["variants"].items():
        results[f"{variant} sampling"] = _sampling(weights, recorded, variant, told, vocab)
    for variant, told in about["training"]["per_variant"].items():
        results[f"{variant} training"] = _training(weights, recorded, variant, told)
    results["captions"] = _captions(about, vocab)
    return results


def _build(
    weights: dict[str, Tensor], recorded: Recorded, time_norm: bool, decoder: str = "identity"
) -> Captioner:
    sizes, ids = recorded.about["sizes"], recorded.about["token_ids"]
    state = {k: v for k, v in weights.items() if time_norm or not k.startswith("time_layer_norm.")}
    captioner, _ = build_ladic(
        state,
        mean=recorded["const/x_mean"],
        std=recorded["const/x_sigma"],
        heads=Heads(
            sizes["bert"]["num_attention_heads"],
            sizes["diffuser"]["num_attention_heads"],
            sizes["vit"]["num_heads"],
        ),
        tokens=TokenIds(ids["PAD"], ids["CLS"], ids["SEP"], ids["period"]),
        decoder=decoder,
        length=sizes["L"],
        dropout=float(sizes["diffuser"]["hidden_dropout_prob"]),
    )
    return captioner


@torch.no_grad()
def _components(weights: dict[str, Tensor], recorded: Recorded, vocab: Path) -> Comparison:
    captioner = _build(weights, recorded, False)
    compared = _denoiser_calls(captioner, recorded, "comp")
    text, ids, mask = captioner.text, recorded["in/input_ids"], recorded["in/attention_mask"]
    tokenizer = load_tokenizer(vocab)
    cleaned = [clean_caption(caption) for caption in recorded.about["captions_raw"]]
    compared.same("captions_pre", cleaned, recorded.about["captions_pre"])
    mine = encode_captions(tokenizer, cleaned, ids.shape[1])
    compared.same("input_ids", mine[0], ids)
    compared.same("attention_mask", mine[1], mask)
    compared.close("linear", linear(1000), recorded["const/alpha_cumprod_linear"])
    compared.close("cosine", cosine_float32(1000), recorded["const/alpha_cumprod_cosine"])
    rows = recorded["const/t_emb_lookup_rows"]
    compared.close("time rows", sinusoids(torch.tensor(EMBEDDED_TIMES), rows.shape[1], torch.float32), rows)
    compared.close("image", captioner.vision.encode(recorded["in/image"]), recorded["comp/visual_encoder"])
    zeros = recorded["comp/visual_encoder_zero_image"]
    compared.close("null image", captioner.denoiser.null_image.expand_as(zeros), zeros)
    z = text.contextual(ids, mask)
    compared.close("latents", z, recorded["comp/bertlow_latents"])
    unmasked = text.contextual(ids, torch.ones_like(mask))
    compared.close("latents, no mask", unmasked, recorded["comp/bertlow_latents_nomask"])
    compared.close("special latent", text.special, recorded["train/special_emb"])
    compared.close("x0", text.encode(ids, mask), recorded["train/x_0"])
    theirs = recorded["comp/bertlow_latents"]
    normalised = (theirs - text.mean) / text.std
    compared.close("decoder", normalised * text.std + text.mean, recorded["comp/space_decoder_out"])
    compared.close("logits", text.decode(normalised), recorded["comp/logits_official"])
    for name, factor in (("train", 4.0), ("val", 1.0)):
        noised = make_noise("linear", 1000, factor).add(
            recorded["diffuse/x0"], recorded["diffuse/t"], recorded[f"diffuse/{name}_noise"]
        )
        compared.close(f"noised, {name}", noised, recorded[f"diffuse/{name}_out"])
    return compared


@torch.no_grad()
def _denoiser_calls(captioner: Captioner, recorded: Recorded, group: str) -> Comparison:
    compared, denoiser = Comparison(), captioner.denoiser
    x, p, t = (recorded[f"comp/{name}"] for name in ("x_t", "self_cond", "t"))
    view = denoiser.image_context(captioner.vision.encode(recorded["in/image"]))
    with Spy(denoiser.blocks[-1]) as last:
        compared.close("denoiser", denoiser(x, p, t, view), recorded[f"{group}/diffuser_out"])
    compared.close("denoiser, all channels", last.outputs[0], recorded[f"{group}/diffuser_full_hidden"])
    together = denoiser(x, p, torch.full_like(t, 417), view)
    compared.close("denoiser, one time", together, recorded[f"{group}/diffuser_out_scalar_t"])
    nothing = [
        (k.expand(len(x), -1, -1, -1), v.expand(len(x), -1, -1, -1)) for k, v in denoiser.null_context()
    ]
    alone = denoiser(x, torch.zeros_like(p), t, nothing)
    compared.close("denoiser, null image", alone, recorded[f"{group}/diffuser_out_nocond"])
    return compared


@torch.no_grad()
def _upper(weights: dict[str, Tensor], recorded: Recorded) -> Comparison:
    compared, text = Comparison(), _build(weights, recorded, False, decoder="upper").text
    normalised = (recorded["comp/bertlow_latents"] - text.mean) / text.std
    with Spy(text.upper[-1]) as last:
        logits = text.decode(normalised)
    compared.close("decoder", last.outputs[0], recorded["comp/intended_decoder_out"])
    compared.close("logits", logits, recorded["comp/intended_logits"])
    for variant in recorded.about["variants"]:
        decoded = text.decode(recorded[f"{variant}/inf/x_pred_final"])
        compared.same(f"{variant} ids", decoded.argmax(-1), recorded[f"{variant}/inf/intended_argmax_ids"])
        if f"{variant}/inf/intended_logits" in recorded:
            compared.close(f"{variant} logits", decoded, recorded[f"{variant}/inf/intended_logits"])
    return compared


@torch.no_grad()
def _sampling(
    weights: dict[str, Tensor], recorded: Recorded, variant: str, told: dict[str, Any], vocab: Path
) -> Comparison:
    config, run = told["config"], told["inference"]
    captioner = _build(weights, recorded, run["cls"] == "Diffuser_with_LN")
    compared, text = Comparison(), captioner.text
    noise = _noise(config, float(config["VAR_DILATION_VAL"]))
    context = captioner.image_context(captioner.vision.encode(recorded["in/image"]))
    denoise = _branch_by_branch(captioner, noise, context, float(config["CLASSIFIER_FREE_WEIGHT"]))
    if not config["SELF_COND"]:
        denoise = without_self_conditioning(denoise)
    draws = list(recorded[f"{variant}/inf/renoise_draws"])
    visited = times_of("stride", noise.steps, run["STEP"])
    start = recorded[f"{variant}/inf/init_noise"]
    step = self_conditioned(shifted(denoise, run["time_difference"], noise.steps - 1))
    with Spy(captioner.denoiser) as calls:
        if run["flag"]:
            x0 = _back_and_refine(compared, recorded, variant, captioner, step, start, visited, noise, draws)
        else:
            randn = Injected(draws)
            x0 = renoise(step, start, visited, noise, randn)
            compared.same("draws spent", randn.spent, True)
    compared.same("times", [int(given[2][0]) for given in calls.inputs[::2]], run["t_given_to_model"])
    for row, call in enumerate(run["recorded_steps"]):
        with_photo, without = calls.outputs[2 * call : 2 * call + 2]
        for name, mine in (
            ("x_t_per_step", calls.inputs[2 * call][0]),
            ("selfcond_per_step", calls.inputs[2 * call][1]),
            ("cond_pred", with_photo),
            ("uncond_pred", without),
        ):
            compared.close(f"{name} {call}", mine, recorded[f"{variant}/inf/{name}"][row])
    compared.close("x0", x0, recorded[f"{variant}/inf/x_pred_final"])
    compared.close("de-normalised", x0 * text.std + text.mean, recorded[f"{variant}/inf/decoder_in"])
    logits = text.decode(x0)
    if f"{variant}/inf/logits" in recorded:
        compared.close("logits", logits, recorded[f"{variant}/inf/logits"])
    ids = logits.argmax(-1)
    compared.same("ids", ids, recorded[f"{variant}/inf/argmax_ids"])
    compared.same("ids without repeats", drop_repeated_columns(ids), recorded[f"{variant}/inf/decoded_ids"])
    compared.same("captions", ladic_captions(load_tokenizer(vocab), ids), run["captions"])
    together = guided(captioner.denoiser, noise, context, float(config["CLASSIFIER_FREE_WEIGHT"]))
    x, p, t = calls.inputs[0][:3]
    compared.close("both branches in one batch", together(x, p, t), denoise(x, p, t))
    return compared


def _branch_by_branch(captioner: Captioner, noise: Noise, context: Context, scale: float) -> Denoise:
    """Guidance as the authors ran it, each branch a batch of its own: a batch twice as large sums in another order,
    and 34 steps would carry that rounding on."""
    photos = context[0][0].shape[0]
    with_photo = conditioned(captioner.denoiser, noise, context)
    without = conditioned(
        captioner.denoiser, noise, join_contexts(captioner.denoiser.null_context(), photos=photos)
    )

    def denoise(x_t: Tensor, x_self: Tensor, t: Tensor) -> Tensor:
        return guide(with_photo(x_t, x_self, t), without(x_t, x_self, t), scale)

    return denoise


def _back_and_refine(
    compared: Comparison,
    recorded: Recorded,
    variant: str,
    captioner: Captioner,
    step: Step,
    start: Tensor,
    visited: list[int],
    noise: Noise,
    draws: list[Tensor],
) -> Tensor:
    """The authors' Back&Refine with their draws; compares what it judged by."""
    judged: list[Tensor] = []

    def confidence(x0: Tensor) -> Tensor:
        judged.append(captioner.text.decode(x0).softmax(-1).amax(-1))
        return judged[-1]

    turn = next(i for i, t in enumerate(visited) if 0.3 * noise.steps < t < 0.6 * noise.steps)
    randn = Injected([*draws[:turn], *recorded[f"{variant}/inf/backrefine_gaussian"], *draws[turn:]])
    x0 = ladic_back_and_refine(renoise, step, start, visited, noise, randn, confidence=confidence)
    compared.same("draws spent", randn.spent, True)
    compared.close("confidence", judged[0], recorded[f"{variant}/inf/backrefine_confidence"])
    lowest = recorded[f"{variant}/inf/backrefine_lowest_idx"]
    compared.same("restarted", judged[0].argsort(dim=-1, stable=True)[:, : lowest.shape[1]], lowest)
    return x0


def _training(
    weights: dict[str, Tensor], recorded: Recorded, variant: str, told: dict[str, Any]
) -> Comparison:
    about = recorded.about["variants"][variant]
    config = about["config"]
    captioner = _build(weights, recorded, about["inference"]["cls"] == "Diffuser_with_LN").train()
    compared = Comparison()
    noise = _noise(config, float(config["VAR_DILATION"]))
    objective = LadicObjective(captioner, noise)
    plain = TrainConfig(optimizer="plain-adamw", lr=max(told["lr"]) or 1e-3)
    (optimizer,) = make_optimizers(objective, plain)
    ids, mask = recorded["in/input_ids"], recorded["in/attention_mask"]
    with torch.no_grad():
        image, x0 = captioner.vision.encode(recorded["in/image"]), captioner.text.encode(ids, mask)
    for step, lr in enumerate(told["lr"]):
        group = f"{variant}/train{step}/"
        keep = recorded[f"{group}cfg_rand"] > config["CLASSIFIER_FREE_PROB"]
        draws = Draws(recorded[f"{group}t"], recorded[f"{group}noise"], keep, told["selfcond_used"][step])
        if f"{group}kept_image" in recorded:
            compared.same("kept images", keep.long(), recorded[f"{group}kept_image"])
        with Spy(captioner.denoiser) as calls, Spy(captioner.text.lm_head) as head:
            latent, caption = objective(image, torch.ones_like(keep), x0, ids, draws)
        total = latent + config["ROUNDING_WEIGHT"] * caption
        optimizer.zero_grad()
        total.backward()
        for name, mine in (
            ("x_t", calls.inputs[-1][0]),
            ("x_pred", calls.outputs[-1]),
            ("selfcond_pred", calls.outputs[0]),
            ("logits", head.outputs[0]),
        ):
            if group + name in recorded:
                compared.close(f"{name}, step {step}", mine, recorded[group + name])
        square = (calls.outputs[-1] - x0).square()
        for name, value in (
            ("total", total),
            ("x_t_loss", latent),
            ("prob_loss_weighted", config["ROUNDING_WEIGHT"] * caption),
            ("valid_token_loss", square[mask == 1].mean()),
            ("pad_loss", square[mask == 0].mean()),
        ):
            compared.number(f"{name}, step {step}", value.detach(), told["losses"][step][name])
        trained = {k: p for k, p in captioner.named_parameters() if p.requires_grad and p.grad is not None}
        if step == 0:
            gradients = authors_names({k: p.grad for k, p in trained.items() if p.grad is not None})
            compared.gradients(gradients, recorded.under(f"{variant}/grad0/"))
            norms = recorded.about["training"].get("grad_norms_step0", {}).get(variant, {})
            for name, norm in norms.items():
                if name in gradients and norm is not None:
                    compared.number(f"gradient norm of {name}", gradients[name].norm(), norm)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
    after = authors_names(dict(captioner.named_parameters()))
    compared.tensors(
        "after the steps, ", after, recorded.under(f"{variant}/after{len(told['lr'])}/"), STEPS_TOLERANCE
    )
    return compared


def _captions(about: dict[str, Any], vocab: Path) -> Comparison:
    compared, tokenizer = Comparison(), load_tokenizer(vocab)
    for number, case in enumerate(about["postprocess"]["cases"]):
        ids = torch.tensor(case["ids"])
        compared.same(
            f"repeats {number}", drop_repeated_columns(ids).tolist(), case["after_unique_consecutive"]
        )
        compared.same(f"captions {number}", ladic_captions(tokenizer, ids), case["captions"])
    return compared


def _noise(config: dict[str, Any], factor: float) -> Noise:
    return make_noise("cosine-float32" if config["COSIN_SCHEDULE"] else "linear", config["STEP_TOT"], factor)
