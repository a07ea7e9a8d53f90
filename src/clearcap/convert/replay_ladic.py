"""Replay of LaDiC's recorded tensors: parts, sampling runs, training steps, captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clearcap.arrays import Context, join_contexts
from clearcap.arrays.layers import sinusoid_rates, sinusoids_at
from clearcap.captioner.model import Captioner
from clearcap.convert.comparing import Comparison, Injected, Recorded, Spy, compare_training
from clearcap.convert.folder import load_tokenizer
from clearcap.convert.ladic import Heads, authors_names, build_ladic
from clearcap.convert.published_captions import drop_repeated_columns, ladic_captions
from clearcap.diffusion.ladic import Draws
from clearcap.diffusion.noise import Noise, make_noise
from clearcap.diffusion.schedules import cosine_float32, linear
from clearcap.sampling.guidance import (
    Denoise,
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

EMBEDDED_TIMES = (0, 1, 5, 500, 999)
NEAR = 4  # units in the last place that a library's float32 exp is off at most


class RecordedTime(nn.Module):
    """A time embedding by the rates of the processor that recorded.

    An angle is a time, up to 999, times a rate that float32's ``exp`` made. Processors differ in the last bits of
    those, which moves a sinusoid by up to 6e-5: more than all else that a replay differs in.
    """

    def __init__(self, rates: Tensor, head: nn.Module) -> None:
        """Args:
        rates: angles of a step, [width / 2].
        head: behind the sinusoids.
        """
        super().__init__()
        self.rates, self.head = rates, head

    def forward(self, t: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Of each time, [..., width]."""
        return self.head(sinusoids_at(t, self.rates).to(dtype))


def recorded_rates(rows: Tensor) -> Tensor:
    """The float32 rates by which sinusoids of ``EMBEDDED_TIMES`` were made: of the floats near each those that fit.

    Args:
        rows: [times, width].

    Returns:
        [width / 2]
    """
    exact = sinusoid_rates(rows.shape[1], torch.float64).float()
    near = torch.stack(
        [(exact.view(torch.int32) + off).view(torch.float32) for off in range(-NEAR, NEAR + 1)]
    )
    angles = (torch.tensor(EMBEDDED_TIMES)[:, None, None] * near).double()  # [times, floats, width / 2]
    misses = torch.maximum(
        (angles.sin() - rows[:, None, ::2]).abs(), (angles.cos() - rows[:, None, 1::2]).abs()
    )
    return near.gather(0, misses.amax(0).argmin(0, keepdim=True))[0]


def replay_ladic(recorded: Recorded, vocab: Path) -> dict[str, Comparison]:
    """Every variant's comparison.

    Args:
        recorded: the fixture, with the weights of the network that has time LayerNorm.
        vocab: the fixture's ``vocab.txt``.
    """
    about, tokenizer = recorded.about, load_tokenizer(vocab)
    results = {
        "components": _components(recorded, tokenizer),
        "components, time LayerNorm": _denoiser_calls(_build(recorded, True), recorded, "comp_timeln"),
        "components, upper layers decode": _upper(recorded),
    }
    for variant, told in about["variants"].items():
        results[f"{variant} sampling"] = _sampling(recorded, variant, told, tokenizer)
    for variant, told in about["training"]["per_variant"].items():
        results[f"{variant} training"] = _training(recorded, variant, told)
    results["captions"] = _captions(about, tokenizer)
    return results


def _build(recorded: Recorded, time_norm: bool, decoder: str = "identity") -> Captioner:
    sizes, ids = recorded.about["sizes"], recorded.about["token_ids"]
    state = {k: v for k, v in recorded.weights.items() if time_norm or not k.startswith("time_layer_norm.")}
    text, denoiser = (sizes[name]["num_attention_heads"] for name in ("bert", "diffuser"))
    captioner, _ = build_ladic(
        state,
        mean=recorded["const/x_mean"],
        std=recorded["const/x_sigma"],
        heads=Heads(text, denoiser, sizes["vit"]["num_heads"]),
        tokens={"pad": ids["PAD"], "cls": ids["CLS"], "sep": ids["SEP"], "filler": ids["period"]},
        decoder=decoder,
        length=sizes["L"],
        dropout=float(sizes["diffuser"]["hidden_dropout_prob"]),
    )
    captioner = nn.Module.to(captioner, recorded.dtype)
    rates = recorded_rates(recorded["const/t_emb_lookup_rows"].float())
    captioner.denoiser.time = RecordedTime(rates, captioner.denoiser.time.head)
    return captioner


@torch.no_grad()
def _components(recorded: Recorded, tokenizer: Any) -> Comparison:
    captioner = _build(recorded, False)
    compared, theirs = _denoiser_calls(captioner, recorded, "comp"), recorded.under("comp/")
    text, ids, mask = captioner.text, recorded["in/input_ids"], recorded["in/attention_mask"]
    # the authors' cleaning lower-cases; ours leaves that to the vocabulary, which does it for BERT's
    cleaned = [clean_caption(caption).lower() for caption in recorded.about["captions_raw"]]
    compared.same("captions_pre", cleaned, recorded.about["captions_pre"])
    mine = encode_captions(tokenizer, cleaned, ids.shape[1])
    compared.same("input_ids", mine[0], ids)
    compared.same("attention_mask", mine[1], mask)
    compared.close("linear", torch.from_numpy(linear(1000)), recorded["const/alpha_cumprod_linear"])
    compared.close("cosine", torch.from_numpy(cosine_float32(1000)), recorded["const/alpha_cumprod_cosine"])
    rows = recorded["const/t_emb_lookup_rows"]
    rates = recorded_rates(rows)
    compared.close("time rates", sinusoid_rates(rows.shape[1], torch.float32) / rates, torch.ones_like(rates))
    compared.close("time rows", sinusoids_at(torch.tensor(EMBEDDED_TIMES), rates), rows)
    compared.close("image", captioner.vision.encode(recorded["in/image"]), theirs["visual_encoder"])
    zeros = theirs["visual_encoder_zero_image"]
    compared.close("null image", captioner.denoiser.null_image.expand_as(zeros), zeros)
    compared.close("latents", text.contextual(ids, mask), theirs["bertlow_latents"])
    unmasked = text.contextual(ids, torch.ones_like(mask))
    compared.close("latents, no mask", unmasked, theirs["bertlow_latents_nomask"])
    compared.close("special latent", text.special, recorded["train/special_emb"])
    compared.close("x0", text.encode(ids, mask), recorded["train/x_0"])
    normalised = (theirs["bertlow_latents"] - text.mean) / text.std
    compared.close("decoder", normalised * text.std + text.mean, theirs["space_decoder_out"])
    compared.close("logits", text.decode(normalised), theirs["logits_official"])
    diffused = recorded.under("diffuse/")
    for name, factor in (("train", 4.0), ("val", 1.0)):
        noise = make_noise("linear", 1000, factor)
        noised = noise.add(diffused["x0"], diffused["t"], diffused[f"{name}_noise"])
        compared.close(f"noised, {name}", noised, diffused[f"{name}_out"])
    return compared


@torch.no_grad()
def _denoiser_calls(captioner: Captioner, recorded: Recorded, group: str) -> Comparison:
    compared, denoiser, theirs = Comparison("components"), captioner.denoiser, recorded.under(f"{group}/")
    x, p, t = (recorded[f"comp/{name}"] for name in ("x_t", "self_cond", "t"))
    view = denoiser.image_context(captioner.vision.encode(recorded["in/image"]))
    with Spy(denoiser.blocks[-1]) as last:
        compared.close("denoiser", denoiser(x, p, t, view), theirs["diffuser_out"])
    compared.close("denoiser, all channels", last.outputs[0], theirs["diffuser_full_hidden"])
    together = denoiser(x, p, torch.full_like(t, 417), view)
    compared.close("denoiser, one time", together, theirs["diffuser_out_scalar_t"])
    alone = denoiser(x, torch.zeros_like(p), t, join_contexts(denoiser.null_context(), photos=len(x)))
    compared.close("denoiser, null image", alone, theirs["diffuser_out_nocond"])
    return compared


@torch.no_grad()
def _upper(recorded: Recorded) -> Comparison:
    compared, text = Comparison("components"), _build(recorded, False, decoder="upper").text
    normalised = (recorded["comp/bertlow_latents"] - text.mean) / text.std
    with Spy(text.upper[-1]) as last:
        logits = text.decode(normalised)
    compared.close("decoder", last.outputs[0], recorded["comp/intended_decoder_out"])
    compared.close("logits", logits, recorded["comp/intended_logits"])
    for variant in recorded.about["variants"]:
        theirs = recorded.under(f"{variant}/inf/")
        decoded = text.decode(theirs["x_pred_final"])
        compared.same(f"{variant} ids", decoded.argmax(-1), theirs["intended_argmax_ids"])
        if "intended_logits" in theirs:
            compared.close(f"{variant} logits", decoded, theirs["intended_logits"])
    return compared


@torch.no_grad()
def _sampling(recorded: Recorded, variant: str, told: dict[str, Any], tokenizer: Any) -> Comparison:
    config, run, theirs = told["config"], told["inference"], recorded.under(f"{variant}/inf/")
    captioner = _build(recorded, run["cls"] == "Diffuser_with_LN")
    compared, text = Comparison("sampling"), captioner.text
    noise = _noise(config, float(config["VAR_DILATION_VAL"]))
    context = captioner.image_context(captioner.vision.encode(recorded["in/image"]))
    scale = float(config["CLASSIFIER_FREE_WEIGHT"])
    denoise = _branch_by_branch(captioner, noise, context, scale)
    if not config["SELF_COND"]:
        denoise = without_self_conditioning(denoise)
    draws, start = list(theirs["renoise_draws"]), theirs["init_noise"]
    visited = times_of("stride", noise.steps, run["STEP"])
    step = self_conditioned(shifted(denoise, run["time_difference"], noise.steps - 1))
    judged: list[Tensor] = []

    def confidence(x0: Tensor) -> Tensor:
        judged.append(text.decode(x0).softmax(-1).amax(-1))
        return judged[-1]

    with Spy(captioner.denoiser) as calls:
        if run["flag"]:  # the authors' Back&Refine
            turn = next(i for i, t in enumerate(visited) if 0.3 * noise.steps < t < 0.6 * noise.steps)
            randn = Injected([*draws[:turn], *theirs["backrefine_gaussian"], *draws[turn:]])
            x0 = ladic_back_and_refine(renoise, step, start, visited, noise, randn, confidence=confidence)
            compared.close("confidence", judged[0], theirs["backrefine_confidence"])
            lowest = theirs["backrefine_lowest_idx"]
            restarted = judged[0].argsort(dim=-1, stable=True)[:, : lowest.shape[1]]
            compared.same("restarted", restarted, lowest)
        else:
            randn = Injected(draws)
            x0 = renoise(step, start, visited, noise, randn)
    compared.same("draws spent", randn.spent, True)
    compared.same("times", [int(given[2][0]) for given in calls.inputs[::2]], run["t_given_to_model"])
    for row, call in enumerate(run["recorded_steps"]):
        given, predicted = calls.inputs[2 * call][:2], calls.outputs[2 * call : 2 * call + 2]
        names = ("x_t_per_step", "selfcond_per_step", "cond_pred", "uncond_pred")
        for name, mine in zip(names, (*given, *predicted), strict=True):
            compared.close(f"{name} {call}", mine, theirs[name][row])
    compared.close("x0", x0, theirs["x_pred_final"])
    compared.close("de-normalised", x0 * text.std + text.mean, theirs["decoder_in"])
    logits = text.decode(x0)
    if "logits" in theirs:
        compared.close("logits", logits, theirs["logits"])
    ids = logits.argmax(-1)
    compared.same("ids", ids, theirs["argmax_ids"])
    compared.same("ids without repeats", drop_repeated_columns(ids), theirs["decoded_ids"])
    compared.same("captions", ladic_captions(tokenizer, ids), run["captions"])
    together = guided(captioner.denoiser, noise, context, scale)
    x, p, t = calls.inputs[0][:3]
    compared.close("both branches in one batch", together(x, p, t), denoise(x, p, t))
    return compared


def _branch_by_branch(captioner: Captioner, noise: Noise, context: Context, scale: float) -> Denoise:
    """Guidance as the authors ran it, each branch a batch of its own: a batch twice as large sums in another order,
    and 34 steps would carry that rounding on."""
    nothing = join_contexts(captioner.denoiser.null_context(), photos=context[0][0].shape[0])
    with_photo, without = (conditioned(captioner.denoiser, noise, each) for each in (context, nothing))

    def denoise(x_t: Tensor, x_self: Tensor, t: Tensor) -> Tensor:
        return guide(with_photo(x_t, x_self, t), without(x_t, x_self, t), scale)

    return denoise


def _training(recorded: Recorded, variant: str, told: dict[str, Any]) -> Comparison:
    about = recorded.about["variants"][variant]
    config = about["config"]
    captioner = _build(recorded, about["inference"]["cls"] == "Diffuser_with_LN").train()
    compared = Comparison("training")
    objective = LadicObjective(captioner, _noise(config, float(config["VAR_DILATION"])))
    ids, mask, weight = recorded["in/input_ids"], recorded["in/attention_mask"], config["ROUNDING_WEIGHT"]
    with torch.no_grad():
        image, x0 = captioner.vision.encode(recorded["in/image"]), captioner.text.encode(ids, mask)

    def take_step(step: int) -> Tensor:
        theirs = recorded.under(f"{variant}/train{step}/")
        keep = theirs["cfg_rand"] > config["CLASSIFIER_FREE_PROB"]
        draws = Draws(theirs["t"], theirs["noise"], keep, told["selfcond_used"][step])
        if "kept_image" in theirs:
            compared.same("kept images", keep.long(), theirs["kept_image"])
        with Spy(captioner.denoiser) as calls, Spy(captioner.text.lm_head) as head:
            latent, caption = objective(image, torch.ones_like(keep), x0, ids, draws)
        mine = {"x_t": calls.inputs[-1][0], "x_pred": calls.outputs[-1]}
        mine |= {"selfcond_pred": calls.outputs[0], "logits": head.outputs[0]}
        for name, tensor in mine.items():
            if name in theirs:
                compared.close(f"{name}, step {step}", tensor, theirs[name])
        square = (calls.outputs[-1] - x0).square()
        losses = {
            "total": latent + weight * caption,
            "x_t_loss": latent,
            "prob_loss_weighted": weight * caption,
            "valid_token_loss": square[mask == 1].mean(),
            "pad_loss": square[mask == 0].mean(),
        }
        for name, value in losses.items():
            compared.close(f"{name}, step {step}", value, told["losses"][step][name])
        return losses["total"]

    norms = recorded.about["training"].get("grad_norms_step0", {}).get(variant, {})
    norms = {name: norm for name, norm in norms.items() if norm is not None}
    theirs = recorded.under(f"{variant}/")
    compare_training(compared, captioner, objective, theirs, told["lr"], take_step, authors_names, norms)
    return compared


def _captions(about: dict[str, Any], tokenizer: Any) -> Comparison:
    compared = Comparison("captions")
    for number, case in enumerate(about["postprocess"]["cases"]):
        ids = torch.tensor(case["ids"])
        once = drop_repeated_columns(ids).tolist()
        compared.same(f"repeats {number}", once, case["after_unique_consecutive"])
        compared.same(f"captions {number}", ladic_captions(tokenizer, ids), case["captions"])
    return compared


def _noise(config: dict[str, Any], factor: float) -> Noise:
    return make_noise("cosine-float32" if config["COSIN_SCHEDULE"] else "linear", config["STEP_TOT"], factor)
