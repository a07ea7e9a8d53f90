"""``CaptionModel``: how a text space, an image encoder and a denoiser generate captions, whatever runs them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from clearcap.arrays import (
    Array,
    Context,
    ImageTokens,
    Latents,
    Logits,
    TokenIds,
    cast,
    namespace,
    select_photos,
    softmax,
)
from clearcap.captioner.building import Parts
from clearcap.config import DiffusionConfig, SamplingConfig, TextConfig, make
from clearcap.diffusion.noise import Noise, make_noise
from clearcap.errors import InputError
from clearcap.sampling.guidance import Callback, Denoise, FixedLatents
from clearcap.sampling.randomness import randn_rows
from clearcap.sampling.sampler import Sampler, build_sampler


@dataclass(frozen=True)
class Generated:
    """Captions of a batch of photos, as token ids.

    Attributes:
        ids: most probable token at every position.
        confidence: its probability.
    """

    ids: Int[Array, "photos candidates length"]
    confidence: Float[Array, "photos candidates length"]


@dataclass(frozen=True)
class CaptionRequest:
    """One caption to be sampled.

    Attributes:
        photo: row of the photo it is about.
        stream: number that its noise depends on, besides the seed.
        length: how many tokens its words are, which the denoiser is given; 0 leaves that to the denoiser.
    """

    photo: int
    stream: int = 0
    length: int = 0


class CaptionModel(ABC):
    """A diffusion image captioner (LaDiC and relatives): torch's is ``Network``, onnxruntime's ``GraphModel``.

    Arrays are those of what runs it: torch's tensors or NumPy's arrays.
    """

    config: Any  # Settings, or what has its fields
    text: Any  # a TextSpace; nn.Module's own typing would make each part "Tensor or Module"
    vision: Any  # an ImageEncoder
    denoiser: Any  # a Denoiser
    image_tokens: (
        bool  # whether ``encode_image`` gives them; graphs give the denoiser's keys and values instead
    )
    tokenizer: Any = None  # the text space's, where it is known
    libraries: tuple[str, ...]  # packages that the numbers of captions depend on, besides NumPy

    def take(self, config: Any, parts: Parts) -> None:
        """Take the parts, and of the settings what generating captions depends on.

        Raises:
            InputError: impossible settings.
        """
        self.defaults = make(SamplingConfig, config.sampling, "sampling")
        self.objective = make(DiffusionConfig, config.diffusion, "diffusion")
        text = make(TextConfig, config.text, "text")
        self.length, self.function_words = text.length, frozenset(text.function_words.split())
        self.text, self.vision, self.denoiser = parts.text, parts.vision, parts.denoiser

    @property
    @abstractmethod
    def device(self) -> Any:
        """Where the weights are."""

    @property
    @abstractmethod
    def dtype(self) -> Any:
        """What the weights are stored in."""

    @abstractmethod
    def for_inference(self) -> CaptionModel:
        """The same captioner, no longer in training."""

    @abstractmethod
    def inference(self) -> AbstractContextManager[Any]:
        """What everything runs in that needs no gradients."""

    @abstractmethod
    def asarray(self, values: Any, dtype: Any = None) -> Array:
        """Numbers as an array where the weights are, in a type of its library (default: their own)."""

    @abstractmethod
    def pixels(
        self, photos: UInt8[np.ndarray, "photos height width 3"]
    ) -> Float[Array, "photos 3 height width"]:
        """Photos as the captioner's input, in 0..1."""

    def noise(self, factor: float) -> Noise:
        """The corruption with the given noise factor, on the model's device."""
        return noise_of(self.objective, factor, self._place)

    def sampler(self, how: SamplingConfig) -> Sampler:
        """The sampler of settings."""
        return sampler_of(how, self.objective, self._place)

    @property
    def _place(self) -> Any:
        """The device of torch that tables are put on; None: they are NumPy's."""
        return self.device

    def encode_image(self, pixel_values: Float[Array, "photos 3 height width"]) -> ImageTokens:
        """Image tokens of photos given as RGB in 0..1, squashed to the encoder's size."""
        return self.vision(pixel_values)

    def image_context(self, image: ImageTokens) -> Context:
        """What the denoiser keeps of the photos for all its calls."""
        return self.denoiser.image_context(image)

    def generate(
        self,
        pixel_values: Float[Array, "photos 3 height width"] | None = None,
        *,
        image: ImageTokens | None = None,
        seed: int = 0,
        names: list[int] | None = None,
        sampling: SamplingConfig | None = None,
        callback_on_step_end: Callback | None = None,
        whole_words: Bool[Array, " vocab"] | None = None,
    ) -> Generated:
        """Caption photos.

        Args:
            pixel_values: photos, or
            image: their tokens, already encoded.
            seed: same seed, same captions.
            names: a number per photo that its noise depends on (default: 0 for each, so that a photo's
                captions do not depend on its place in the batch).
            sampling: how; default the model's own.
            callback_on_step_end: as in diffusers: ``callback(step, time, {"latents": x0, "noisy": x_t})`` after
                every prediction; the "latents" of the dictionary it returns replace it.
            whole_words: tokens that are words by themselves; captions with a given length are then read as exactly
                so many of them.

        Returns:
            Candidates in sampling order, not yet chosen among.

        Raises:
            InputError: neither photos nor tokens are given, or a setting does not fit the captioner.
        """
        with self.inference():
            if image is None:
                if pixel_values is None:
                    raise InputError("nothing to caption; pass pixel_values or image")
                image = self.encode_image(pixel_values)
            how = sampling or self.defaults
            requests = [
                CaptionRequest(photo, name * 1000 + candidate, how.length_of(candidate))
                for photo, name in enumerate(names or [0] * len(image))
                for candidate in range(how.candidates)
            ]
            x0 = self.sample(
                image, requests, seed=seed, sampler=self.sampler(how), callback=callback_on_step_end
            )
            return self.read(x0, requests, photos=len(image), whole_words=whole_words, once=how.once)

    def read(
        self,
        x0: Float[Array, "captions length dim"],
        requests: Sequence[CaptionRequest],
        *,
        photos: int = 1,
        whole_words: Bool[Array, " vocab"] | None = None,
        once: bool = False,
    ) -> Generated:
        """The most probable tokens of sampled latents.

        Args:
            x0: clean latents.
            requests: what was sampled, equally many captions of each photo.
            photos: how many.
            whole_words: as for ``generate``.
            once: say each word of content once.
        """
        with self.inference():
            logits = self.word_logits(x0, requests)
            if once:
                say_once(
                    logits,
                    [range(1, (request.length or self.length - 2) + 1) for request in requests],
                    self.often,
                )
            probabilities = softmax(logits)
            if whole_words is not None:
                self.keep_lengths(probabilities, requests, self.asarray(whole_words))
            confidence, ids = namespace(x0).amax(probabilities, axis=-1), probabilities.argmax(-1)
            shape = photos, -1, x0.shape[1]
            return Generated(ids.reshape(shape), confidence.reshape(shape))

    def sample(
        self,
        image: ImageTokens | None,
        requests: Sequence[CaptionRequest],
        *,
        seed: int = 0,
        sampler: Sampler | None = None,
        fixed: FixedLatents | None = None,
        callback: Callback | None = None,
    ) -> Float[Array, "captions length dim"]:
        """Sample caption latents: what ``generate`` reads words from.

        Args:
            image: image tokens; everything that depends on a photo alone is computed once. None samples without
                a photo, and without guidance: what the model says with the null context (all captions are about
                photo 0 then).
            requests: what is sampled, grouped by photo.
            seed: same seed, same captions.
            sampler: how; default that of the model's own settings.
            fixed: latents known beforehand (see ``clearcap.pipeline.infilling``); default what the lengths of
                ``requests`` say.
            callback: as for ``generate``.
        """
        sampler = sampler or self.sampler(self.defaults)
        with self.inference():
            known = fixed or self.fixed_lengths(requests)
            return sampler.run(
                self.denoise_of_rows(image, requests, sampler),
                self.logits,
                randn_rows(
                    seed,
                    [request.stream for request in requests],
                    self.length,
                    self.text.dim,
                    self.asarray,
                ),
                known,
                callback,
                lambda x0: self.nearest_words(x0, known, once=sampler.once),
            )

    def denoise_of_rows(
        self, image: ImageTokens | None, requests: Sequence[CaptionRequest], sampler: Sampler
    ) -> Callable[[Array | None], Denoise]:
        """The denoiser of some rows of the requests (``None``: of all), with their photos bound.

        Args:
            image: the photos' tokens; None: captions of no photo.
            requests: whose photo each caption is of.
            sampler: how it is guided.
        """
        context = self.denoiser.null_context() if image is None else self.image_context(image)
        photos = 1 if image is None else len(image)
        of_rows = [request.photo for request in requests]
        shared = of_rows == [place * photos // len(of_rows) for place in range(len(of_rows))]
        photo = self.asarray(of_rows)  # where each has equally many captions, these can share its context

        def build(rows: Array | None) -> Denoise:
            whole = rows is None and shared
            mine = context if whole else select_photos(context, photo if rows is None else photo[rows])
            return sampler.denoise(self.denoiser, mine, guidance=image is not None)

        return build

    def fixed_lengths(self, requests: Sequence[CaptionRequest]) -> FixedLatents | None:
        """How the denoiser is given lengths: the latents of all positions but a caption's words are known.

        Raises:
            InputError: a caption is longer than the model's, or the model has no mask token to stand for words.
        """
        longest = max((request.length for request in requests), default=0)
        if not longest:
            return None
        tokens = self.config.tokens
        if "mask" not in tokens:
            raise InputError(
                "length: this model was not trained to be given a caption's length; pass length=0"
            )
        if longest > self.length - 2:
            raise InputError(
                f"length={longest}: captions of this model have at most {self.length - 2} words; ask for fewer"
            )
        length = self.asarray([request.length for request in requests])[:, None]
        xp = namespace(length)
        place = xp.arange(self.length, device=length.device)
        word = (place >= 1) & (place <= length)
        ids = xp.where(word, tokens["mask"], xp.where(place > length + 1, tokens["pad"], tokens["sep"]))
        ids[:, 0] = tokens["cls"]
        latent = cast(self.text.encode(ids, cast(place <= length + 1, xp.int64)), xp.float32)
        return FixedLatents(latent, ~word & (length > 0), ids)

    @property
    def often(self) -> frozenset[int]:
        """Tokens that a caption may well say twice; all of them where the tokenizer is not known."""
        if self.tokenizer is None:
            return frozenset(range(self.config.bert["vocab_size"]))
        return said_often(self.tokenizer, tuple(self.text.special_ids), self.function_words)

    def nearest_words(
        self,
        x0: Float[Array, "captions length dim"],
        known: FixedLatents | None,
        read: Callable[[Logits], TokenIds] = lambda logits: logits.argmax(-1),
        once: bool = False,
    ) -> Float[Array, "captions length dim"]:
        """The latents of the words that predictions say.

        Args:
            x0: predictions.
            known: tokens that are given, of which only the others are read.
            read: the words of logits; default the most probable ones.
            once: say each word of content once.

        Raises:
            InputError: nothing is known of the captions, not even their lengths.
        """
        if known is None or known.ids is None:
            raise InputError("clamp=True needs captions of told lengths; pass length=10, say, or clamp=False")
        xp = namespace(x0)
        logits = self.logits(x0)
        logits[..., list(self.text.special_ids)] = -np.inf
        if once:
            say_once(
                logits,
                [[i for i, told in enumerate(row) if not told] for row in known.mask.tolist()],
                self.often,
            )
        ids = xp.where(known.mask, known.ids, read(logits))
        return cast(self.text.encode(ids, cast(ids != self.config.tokens["pad"], xp.int64)), xp.float32)

    def word_logits(
        self, x0: Float[Array, "captions length dim"], requests: Sequence[CaptionRequest]
    ) -> Float[Array, "captions length vocab"]:
        """Token logits of captions, in float32; of words alone at the positions that a given length says are words."""
        logits = self.logits(x0)
        special = list(self.text.special_ids)
        for row, request in zip(logits, requests, strict=True):
            row[1 : request.length + 1, special] = -np.inf
        return logits

    def keep_lengths(
        self,
        probabilities: Float[Array, "captions length vocab"],
        requests: Sequence[CaptionRequest],
        whole_words: Bool[Array, " vocab"],
    ) -> None:
        """Leave, in place, what keeps given lengths: one whole word at each position that a length says is a word.

        A caption that would repeat a word at the next position, and so be shorter when read, is read without any pair
        of words that it has already.

        Args:
            probabilities: of every token at every position.
            requests: the captions' lengths; 0 leaves a caption alone.
            whole_words: tokens that are words by themselves.
        """
        special = namespace(whole_words).zeros_like(whole_words)
        special[list(self.text.special_ids)] = True
        for row, request in zip(probabilities, requests, strict=True):
            if request.length == 0:
                continue
            words = row[1 : request.length + 1]
            row[0] *= special
            row[request.length + 1 :] *= special
            words *= whole_words
            best = words.argmax(-1)
            if not bool((best[1:] == best[:-1]).any()):
                continue
            followers: dict[int, list[int]] = {}
            previous = int(best[0])
            for word in words[1:]:
                after = followers.setdefault(previous, [previous])
                word[after] = 0
                previous = int(word.argmax())
                after.append(previous)

    def logits(self, x0: Latents) -> Logits:
        """Token logits of clean latents, in float32."""
        return cast(self.text.decode(cast(x0, self.dtype)), namespace(x0).float32)


@lru_cache(maxsize=8)  # for a tokenizer copies its whole vocabulary to tell it
def said_often(tokenizer: Any, special: tuple[int, ...], words: frozenset[str]) -> frozenset[int]:
    """The special tokens and those of the words that a tokenizer knows."""
    vocab = tokenizer.get_vocab()
    return frozenset([*special, *(vocab[word] for word in words if word in vocab)])


def say_once(
    logits: Float[Array, "captions length vocab"], places: Sequence[Sequence[int]], often: frozenset[int]
) -> None:
    """Leave, in place, each word of content at the one of its places where it is likeliest.

    Words that are said all at once may be said at two places, where one of them is another word's: "a baby holding a
    baby". The less sure place says its next likeliest word.

    Args:
        logits: of every token at every position.
        places: positions of each caption's words.
        often: tokens that may be said twice.
    """
    xp = namespace(logits)
    for caption, (mine, first) in enumerate(zip(places, logits.argmax(-1).tolist(), strict=True)):
        row = logits[caption]
        said = {place: first[place] for place in mine}
        while True:
            counts = Counter(token for token in said.values() if token not in often)
            token, times = max(counts.items(), key=lambda item: item[1], default=(0, 0))
            if times < 2:
                break
            where = [place for place in mine if said[place] == token]
            doubt = [xp.exp(row[place] - row[place].max()).sum().item() for place in where]
            surest = where[doubt.index(min(doubt))]
            for place in where:
                if place != surest:
                    row[place, token] = -np.inf
                    said[place] = int(row[place].argmax())


def noise_of(objective: DiffusionConfig, factor: float, device: Any) -> Noise:
    """The corruption that settings describe, with the given noise factor; ``device`` as for ``make_noise``."""
    return make_noise(objective.schedule, objective.steps, factor, objective.prediction_type, device)


@lru_cache(maxsize=64)
def sampler_of(how: SamplingConfig, objective: DiffusionConfig, device: Any) -> Sampler:
    """The sampler that settings describe; made once for each, not for every batch."""
    return build_sampler(how, noise_of(objective, how.noise_factor, device))
