"""``Network``: text space, image encoder and denoiser as one module that draws captions.

``clearcap.captioner.Captioner`` is the same as a transformers model. The two are apart because importing
transformers' models takes longer than captioning a photo.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from clearcap.config import DenoiserConfig, DiffusionConfig, SamplingConfig, TextConfig, VisionConfig, make
from clearcap.denoiser import Denoiser, build_denoiser
from clearcap.diffusion import Noise, make_noise
from clearcap.errors import InputError
from clearcap.fused import FEATURES, FusedDenoiser, build_fused
from clearcap.guidance import Denoise, Known, guided_in_part, view_rows, without_memory
from clearcap.layers import KeysValues
from clearcap.refine import Back, refined
from clearcap.sampling import (
    Callback,
    Settling,
    Watch,
    called_back,
    ignore,
    randn_rows,
    row_generators,
    solver,
)
from clearcap.schedule import times
from clearcap.text.embedding import EmbeddingSpace
from clearcap.text.spaces import SplitBertSpace, build_split_bert


@dataclass(frozen=True)
class Settings:
    """Everything that rebuilds a captioner without a hub: sections as in a preset, the towers' own settings
    (``bert`` and ``tower``) and special token ids (``tokens``)."""

    text: dict[str, Any]
    vision: dict[str, Any]
    denoiser: dict[str, Any]
    diffusion: dict[str, Any]
    sampling: dict[str, Any]
    bert: dict[str, Any]
    tower: dict[str, Any]
    tokens: dict[str, int]


@dataclass(frozen=True)
class Drawn:
    """Captions of a batch of photos, as token ids.

    Attributes:
        ids: most probable token at every position.
        confidence: its probability.
    """

    ids: Int[Tensor, "photos candidates length"]
    confidence: Float[Tensor, "photos candidates length"]


@dataclass(frozen=True)
class Caption:
    """One caption to be drawn.

    Attributes:
        photo: row of the photo it is about.
        stream: number that its random draws depend on, besides the seed.
        words: how many tokens its words are, which the denoiser is told; 0 leaves that to the denoiser.
    """

    photo: int
    stream: int = 0
    words: int = 0


@dataclass(frozen=True)
class Parts:
    """What a captioner is put together from.

    Attributes:
        text: a text space, or what runs its graphs (``clearcap.onnx.runtime``).
        vision: an image encoder, or the same.
        denoiser: a denoiser, or the same.
    """

    text: Any
    vision: Any
    denoiser: Any


class Network(nn.Module):
    """A diffusion image captioner (LaDiC and relatives)."""

    config: Any  # Settings, or what has its fields
    text: Any  # a TextSpace; nn.Module's own typing would make each part "Tensor or Module"
    vision: Any  # an ImageEncoder
    denoiser: Any  # a Denoiser or a FusedDenoiser

    def __init__(self, config: Settings, parts: Parts | None = None) -> None:
        """Args:
        config: settings.
        parts: made elsewhere; default are those of the settings, untrained.
        """
        super().__init__()
        self.config = config
        self.assemble(config, parts or build_parts(config))

    def assemble(self, config: Any, parts: Parts) -> None:
        """Take the parts and the settings that drawing captions depends on.

        Raises:
            InputError: impossible settings.
        """
        self.defaults = make(SamplingConfig, config.sampling, "sampling")
        self.objective = make(DiffusionConfig, config.diffusion, "diffusion")
        self.length = make(TextConfig, config.text, "text").length
        self.text, self.vision, self.denoiser = parts.text, parts.vision, parts.denoiser

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are stored in."""
        return next(self.parameters()).dtype

    def noise(self, factor: float) -> Noise:
        """The corruption with the given noise factor, on the model's device."""
        made = make_noise(self.objective.schedule, self.objective.steps, factor, self.objective.predicts)
        return dataclasses.replace(made, alpha_bar=made.alpha_bar.to(self.device))

    def encode_image(
        self, pixel_values: Float[Tensor, "photos 3 height width"]
    ) -> Float[Tensor, "photos tokens dim"]:
        """Image tokens of photos given as RGB in 0..1, squashed to the encoder's size."""
        return self.vision(pixel_values)

    def see(self, image: Float[Tensor, "photos tokens dim"]) -> list[KeysValues]:
        """What the denoiser keeps of the photos: one entry of keys and values per layer."""
        return self.denoiser.see(image)

    @torch.inference_mode()
    def generate(
        self,
        pixel_values: Float[Tensor, "photos 3 height width"] | None = None,
        *,
        image: Float[Tensor, "photos tokens image_dim"] | None = None,
        seed: int = 0,
        names: list[int] | None = None,
        sampling: SamplingConfig | None = None,
        watch: Watch = ignore,
        callback_on_step_end: Callback | None = None,
    ) -> Drawn:
        """Draw captions.

        Args:
            pixel_values: photos, or
            image: their tokens, already encoded.
            seed: same seed, same captions.
            names: a number per photo that its draws depend on (default: 0 for each, so that a photo's
                captions do not depend on its place in the batch).
            sampling: how; default the model's own.
            watch: sees every step.
            callback_on_step_end: as in diffusers: ``callback(step, time, {"latents": x0, "noisy": x_t})`` after
                every prediction; the "latents" of the dictionary it returns replace it.

        Returns:
            Candidates in drawing order, not yet chosen among.
        """
        if image is None:
            if pixel_values is None:
                raise InputError("nothing to caption; pass pixel_values or image")
            image = self.encode_image(pixel_values)
        how = sampling or self.defaults
        photos = len(image)
        captions = [
            Caption(i, name * 1000 + copy, how.told_words(copy))
            for i, name in enumerate(names or [0] * photos)
            for copy in range(how.candidates)
        ]
        x0 = self.draw(
            image, captions, seed=seed, sampling=how, watch=watch, callback_on_step_end=callback_on_step_end
        )
        confidence, ids = self.read(x0, captions).softmax(-1).max(-1)
        return Drawn(ids.unflatten(0, (photos, -1)), confidence.unflatten(0, (photos, -1)))

    @torch.inference_mode()
    def draw(
        self,
        image: Float[Tensor, "photos tokens image_dim"] | None,
        captions: Sequence[Caption],
        *,
        seed: int = 0,
        sampling: SamplingConfig | None = None,
        watch: Watch = ignore,
        callback_on_step_end: Callback | None = None,
        known: Known | None = None,
    ) -> Float[Tensor, "captions length dim"]:
        """Draw caption latents: what ``generate`` decodes.

        Args:
            image: image tokens; everything that depends on a photo alone is computed once. None draws without
                a photo, and without guidance: what the model says when it sees nothing (all captions are about
                photo 0 then).
            captions: what is drawn, grouped by photo.
            seed, sampling, watch, callback_on_step_end: as for ``generate``; the number of candidates is that
                of ``captions``.
            known: latents known before (see ``clearcap.infill``); default what the lengths that ``captions`` are
                told say.
        """
        how = sampling or self.defaults
        known = known or self.told_lengths(captions)
        noise = self.noise(how.factor)
        view, guidance = (
            (self.denoiser.see_nothing(), 0.0) if image is None else (self.see(image), how.guidance)
        )
        photos = 1 if image is None else len(image)
        photo = torch.tensor([caption.photo for caption in captions], device=self.device)
        shared = torch.equal(
            photo, torch.arange(photos, device=self.device).repeat_interleave(len(photo) // photos)
        )  # equally many of each photo can share its keys and values

        def build(rows: Tensor | None) -> Denoise:
            seen = (
                view if rows is None and shared else view_rows(view, photo if rows is None else photo[rows])
            )
            denoise = guided_in_part(
                self.denoiser, noise, seen, guidance, how.guidance_low, how.guidance_high
            )
            denoise = denoise if how.self_condition else without_memory(denoise)
            return known.clamp(denoise, rows) if known else denoise

        streams = row_generators(seed, [caption.stream for caption in captions], self.device)
        randn = randn_rows(streams, self.length, self.text.dim)
        back = Back(
            rounds=how.refine,
            time=how.refine_time,
            share=how.refine_share,
            threshold=how.refine_threshold,
            level=how.refine_level,
        )
        solve = refined(
            solver(how.solver, how.eta), self.confidence, back, how.start, known.fixed if known else None
        )
        denoise: Denoise = Settling(build, self.logits, how.early_exit) if how.early_exit else build(None)
        return solve(
            called_back(denoise, callback_on_step_end) if callback_on_step_end else denoise,
            how.start * randn(),
            times(how.spacing, noise.steps, how.steps),
            noise,
            randn,
            time_offset=how.time_offset,
            watch=watch,
        )

    def told_lengths(self, captions: Sequence[Caption]) -> Known | None:
        """How the denoiser is told how long captions are: the latents of all positions but their words are known.

        Raises:
            InputError: a caption is longer than the model's, or the model has no mask token to stand for words.
        """
        words = torch.tensor([caption.words for caption in captions], device=self.device)
        if not bool(words.any()):
            return None
        tokens = self.config.tokens
        if "mask" not in tokens:
            raise InputError("words: this model was not trained to be told a caption's length; pass words=0")
        if int(words.max()) > self.length - 2:
            raise InputError(
                f"words={int(words.max())}: captions of this model have at most {self.length - 2} words; ask for fewer"
            )
        place = torch.arange(self.length, device=self.device)
        blank = (place >= 1) & (place <= words[:, None])
        ids = torch.where(
            blank, tokens["mask"], torch.where(place > words[:, None] + 1, tokens["pad"], tokens["sep"])
        )
        ids[:, 0] = tokens["cls"]
        latent = self.text.encode(ids, (place <= words[:, None] + 1).long()).float()
        return Known(latent, ~blank & (words > 0)[:, None])

    def read(
        self, x0: Float[Tensor, "captions length dim"], captions: Sequence[Caption]
    ) -> Float[Tensor, "captions length vocab"]:
        """Token logits of captions, in float32; none but words where the denoiser was told that words are."""
        logits = self.logits(x0)
        special = list(self.text.special_ids)
        for row, caption in zip(logits, captions, strict=True):
            row[1 : caption.words + 1, special] = -torch.inf
        return logits

    def logits(self, x0: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length vocab"]:
        """Token logits of clean latents, in float32."""
        return self.text.decode(x0.to(self.dtype)).float()

    def confidence(self, x0: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length"]:
        """The probability of each position's most probable token."""
        return self.logits(x0).softmax(-1).amax(-1)

    def forward(self, pixel_values: Tensor, **how: Any) -> Drawn:
        """As ``generate``: a captioner has no other forward pass worth a name."""
        return self.generate(pixel_values, **how)


def build_parts(config: Any) -> Parts:
    """The parts that settings describe, with random weights.

    Raises:
        InputError: impossible settings, or parts that do not fit each other.
    """
    text, vision = make(TextConfig, config.text, "text"), make(VisionConfig, config.vision, "vision")
    space, encoder = build_text(text, config), build_vision(vision, config)
    sizes = make(DenoiserConfig, config.denoiser, "denoiser")
    return Parts(space, encoder, make_denoiser(sizes, text, vision, space.dim))


def make_denoiser(
    sizes: DenoiserConfig, text: TextConfig, vision: VisionConfig, dim: int
) -> Denoiser | FusedDenoiser:
    """The denoiser of a configuration, untrained.

    Raises:
        InputError: sizes that do not fit each other.
    """
    needed = text.length + (0 if sizes.kind == "cross-attention" else FEATURES)
    if 0 < sizes.positions < needed:
        raise InputError(
            f"denoiser.positions={sizes.positions} is too few for text.length={text.length}; "
            f"set denoiser.positions to {needed} or more, or to 0"
        )
    if sizes.kind == "cross-attention":
        return build_denoiser(
            dim=dim,
            width=sizes.width,
            depth=sizes.depth,
            heads=sizes.heads,
            hidden=sizes.hidden,
            image_dim=vision.dim,
            image_tokens=vision.tokens,
            length=sizes.positions or needed,
            projected=sizes.projected,
            time_head=sizes.time_head,
            adapter_depth=sizes.adapter_depth,
            image_dropout=sizes.image_dropout,
            dropout=sizes.dropout,
            learned_null=sizes.null == "learned",
        )
    if sizes.width != dim or vision.tokens != 1:
        raise InputError(
            f"a denoiser of kind {sizes.kind} needs denoiser.width={dim} (the latent's) and vision.tokens=1 (one "
            f"vector a photo), not {sizes.width} and {vision.tokens}; set vision.mode='global' and those sizes"
        )
    return build_fused(
        sizes.kind,
        width=sizes.width,
        depth=sizes.depth,
        heads=sizes.heads,
        hidden=sizes.hidden,
        feature_dim=vision.dim,
        length=sizes.positions or needed,
        dropout=sizes.dropout,
    )


def build_text(text: TextConfig, config: Any) -> SplitBertSpace | EmbeddingSpace:
    """The text space of a configuration, with random weights."""
    if text.kind == "embedding":
        return EmbeddingSpace(
            vocab=config.bert["vocab_size"],
            dim=config.bert["dim"],
            pad_id=config.tokens["pad"],
            cls_id=config.tokens["cls"],
            sep_id=config.tokens["sep"],
        )
    positions = config.bert.get("max_position_embeddings", 512)  # BERT's default
    if text.length > positions:
        raise InputError(
            f"text.length={text.length} exceeds the {positions} positions of the BERT it starts from; "
            "shorten it, or take a BERT of more positions"
        )
    return build_split_bert(
        config.bert,
        split=text.split,
        identity_decoder=text.decoder == "identity",
        pad_id=config.tokens["pad"],
        cls_id=config.tokens["cls"],
        sep_id=config.tokens["sep"],
        filler_id=config.tokens["filler"],
    )


def build_vision(vision: VisionConfig, config: Any) -> nn.Module:
    """The image encoder of a configuration, with random weights."""
    from clearcap.vision.build import build_encoder

    own = {} if vision.kind == "pretrained" else {"dim": vision.dim, "image_size": vision.image_size}
    encoder: Any = build_encoder(vision.kind, **own, **config.tower)
    if (encoder.tokens, encoder.dim) != (vision.tokens, vision.dim):
        raise InputError(
            f"vision.tokens={vision.tokens} and vision.dim={vision.dim}, but the encoder makes {encoder.tokens} tokens "
            f"of {encoder.dim} channels; set them to that"
        )
    return encoder.requires_grad_(False).eval()
