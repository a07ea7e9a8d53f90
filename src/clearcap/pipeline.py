"""``CaptionPipeline``: photos in, captions with per-word confidence out."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from clearcap.config import SamplingConfig
from clearcap.data.images import open_image, to_square
from clearcap.errors import InputError
from clearcap.infill import Filled, Template, fill_captions, gives_most
from clearcap.metrics.cider import DocumentFrequency
from clearcap.metrics.learned import ClipScorer
from clearcap.network import Network
from clearcap.onnx import is_exported
from clearcap.selection import choose, diverse
from clearcap.text.tokens import join_words, words_of
from clearcap.trajectory import Frame, trajectory
from clearcap.vision.build import for_inference


@dataclass(frozen=True)
class CaptionResult:
    """One photo's caption.

    Attributes:
        image: the photo's path or URL, or its place in the list where it has no name.
        caption: the chosen caption.
        confidence: mean probability of its words.
        words: each word and its probability.
        candidates: all captions drawn, in drawing order.
    """

    image: str
    caption: str
    confidence: float
    words: tuple[tuple[str, float], ...]
    candidates: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The fields that ``clearcap caption --json`` prints."""
        words = [{"word": word, "confidence": round(p, 4)} for word, p in self.words]
        return {
            "image": self.image,
            "caption": self.caption,
            "confidence": round(self.confidence, 4),
            "words": words,
        }

    def diverse(self, count: int, novelty: float = 0.5) -> list[str]:
        """A few candidates that are good and unlike each other, best first (``clearcap.selection.diverse``).

        Raises:
            InputError: more than were drawn.
        """
        return [self.candidates[i] for i in diverse(self.candidates, count, novelty=novelty)]


class CaptionPipeline:
    """A captioner with its tokenizer and photo preprocessing.

    Args:
        captioner: any captioner.
        tokenizer: its tokenizer.
        frequency: document frequency for minimum Bayes risk by CIDEr; without one all n-grams weigh the same.
        clip: judges how well a caption fits a photo, for ``select="similarity"``.
    """

    def __init__(
        self,
        captioner: Network,
        tokenizer: Any,
        frequency: DocumentFrequency | None = None,
        clip: ClipScorer | None = None,
    ) -> None:
        self.captioner = captioner.eval()
        self.tokenizer = tokenizer
        self.frequency = frequency
        self.clip = clip

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        backend: str | None = None,
        clip: str | Path | None = None,
    ) -> CaptionPipeline:
        """Load a captioner, for inference: a ``Network``, not its transformers coat (``Captioner``).

        Args:
            model: a folder, hub name, or one of those that ship: "default" (also None), "few-steps".
            device: where it runs; None is a GPU if there is one, else the CPU.
            dtype: of weights and activations.
            backend: "torch"; "packed", torch with weights laid out for the CPU's matrix products
                (``clearcap.packed``): a paper-size model is up to 1.5 times faster, captions are the same up to
                rounding, and the captioner cannot be saved; or "onnx" for a folder that ``clearcap export --onnx``
                wrote, which runs on the CPU with the weights it was written with. None is what the folder holds,
                torch where it holds both; "fast" is the same with packed for torch; "compiled" is torch.compile's
                denoiser, which takes a minute at its first call of a shape.
            clip: folder or hub name of a CLIP that candidates may be chosen by (``select="similarity"``).

        Raises:
            InputError: there is no such model, its weights do not fit, or the backend cannot run it so.
        """
        from clearcap.loading import find_folder, load_frequency, load_network

        scorer = None if clip is None else ClipScorer.load(clip)
        source = str(model or "default")
        folder = find_folder(source)
        if backend not in (None, "torch", "packed", "compiled", "onnx", "fast"):
            raise InputError(f"unknown backend {backend!r}; choose torch, packed, compiled, onnx or fast")
        if backend == "fast":
            backend = "onnx" if is_exported(folder) else "packed"
        if backend == "onnx" or (backend is None and is_exported(folder)):
            from clearcap.onnx.runtime import load_graphs

            if torch.device(device or "cpu").type != "cpu" or dtype != torch.float32:
                raise InputError(
                    f"{folder}: graphs run on the CPU with the weights they were written with, "
                    f"not on {device or 'cpu'} in {dtype}; leave device and dtype out"
                )
            return cls(*load_graphs(folder), load_frequency(source), scorer)
        captioner, tokenizer = load_network(source)
        captioner.vision = for_inference(captioner.vision)
        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        captioner = captioner.to(place, dtype)
        if backend == "packed":
            from clearcap.packed import prepare_for_inference

            captioner = prepare_for_inference(captioner)
        if backend == "compiled":
            captioner.denoiser.compile(dynamic=True)
        return cls(captioner, tokenizer, load_frequency(source), scorer)

    def __call__(self, images: Any, *, batch_size: int = 16, seed: int = 0, **how: Any) -> Any:
        """Caption photos.

        Args:
            images: a path, URL, PIL image, array or tensor, or a list of them.
            batch_size: photos per forward pass.
            seed: same seed, same captions, whatever the batch size.
            how: fields of ``SamplingConfig``: ``steps``, ``guidance``, ``candidates``, ``select`` ...

        Returns:
            A ``CaptionResult``, or a list of them for a list of photos.

        Raises:
            InputError: a photo cannot be read (use ``stream`` to go on with the others).
        """
        many = isinstance(images, (list, tuple))
        results = []
        for result in self.stream(images if many else [images], batch_size=batch_size, seed=seed, **how):
            if isinstance(result, InputError):
                raise result
            results.append(result)
        return results if many else results[0]

    def stream(
        self, images: Iterable[Any], *, batch_size: int = 16, seed: int = 0, **how: Any
    ) -> Iterator[CaptionResult | InputError]:
        """As a call, one result at a time; a photo that cannot be read yields its error in its place.

        The next batches are decoded by threads while the current one is captioned.
        """
        sampling = self.sampling(**how)
        for batch in _decoded(images, batch_size, int(self.captioner.config.vision["image_size"])):
            good = [(name, pixels) for name, pixels in batch if not isinstance(pixels, InputError)]
            captioned = iter(self._caption(good, sampling, seed) if good else [])
            for _, pixels in batch:
                yield pixels if isinstance(pixels, InputError) else next(captioned)

    def fill(
        self, image: Any, template: str | Template | Sequence[Template], *, seed: int = 0, **how: Any
    ) -> Filled:
        """Fill the blanks of a caption of one photo: ``pipeline.fill(photo, "two ___ on a ___").text``.

        Args:
            image: a photo.
            template: text with ``___`` (one word) or ``___{1,3}`` (a range), or templates from
                ``clearcap.infill``: ``length_template``, ``edit_template``, ``keyword_templates``.
            seed: same seed, same words.
            how: fields of ``SamplingConfig``. Guidance is off by default where the template gives more words than
                it asks for: beside given words it costs accuracy (LOG.md).

        Raises:
            InputError: the photo cannot be read or the template cannot be met.
        """
        if gives_most(template):
            how = {"guidance": 0.0} | {name: value for name, value in how.items() if value is not None}
        return fill_captions(
            self.captioner,
            self.tokenizer,
            self.encode(image),
            [template],
            seed=seed,
            sampling=self.sampling(**how),
        )[0]

    def trajectory(
        self,
        image: Any,
        *,
        seed: int = 0,
        show: Callable[[Sequence[Frame]], None] = lambda frames: None,
        **how: Any,
    ) -> list[Frame]:
        """One photo's caption at each step, with each word's confidence; arguments as for a call."""
        return trajectory(
            self.captioner,
            self.tokenizer,
            self.encode(image),
            seed=seed,
            sampling=self.sampling(**how),
            show=show,
        )

    @torch.inference_mode()
    def encode(self, image: Any) -> Tensor:
        """One photo's image tokens [1, tokens, dim].

        Raises:
            InputError: the photo cannot be read.
        """
        size = int(self.captioner.config.vision["image_size"])
        _, pixels = _read(0, image, size)
        if isinstance(pixels, InputError):
            raise pixels
        return self.captioner.encode_image(self.pixels([pixels]))

    @torch.inference_mode()
    def encode_all(
        self,
        images: Iterable[Any],
        *,
        batch_size: int = 16,
        progress: Callable[[int], None] = lambda photos: None,
    ) -> Tensor:
        """Photos' image tokens [photos, tokens, dim], for whoever captions them several times.

        Args:
            images: as for a call.
            batch_size: photos per forward pass.
            progress: told how many photos each batch added.

        Raises:
            InputError: a photo cannot be read, or there are none.
        """
        encoded = []
        for batch in _decoded(images, batch_size, int(self.captioner.config.vision["image_size"])):
            squares = []
            for _, pixels in batch:
                if isinstance(pixels, InputError):
                    raise pixels
                squares.append(pixels)
            encoded.append(self.captioner.encode_image(self.pixels(squares)))
            progress(len(batch))
        if not encoded:
            raise InputError("no photos to encode; pass at least one")
        return torch.cat(encoded)

    def choose(
        self,
        captions: Sequence[str],
        confidences: Sequence[Sequence[float]],
        how: SamplingConfig,
        photo: UInt8[np.ndarray, "height width 3"] | None = None,
    ) -> int:
        """Index of the candidate that the sampling settings choose.

        Args:
            captions: candidates for one photo.
            confidences: each one's word probabilities.
            how: sampling settings.
            photo: which ``select="similarity"`` compares the captions with, squashed as the captioner sees it.

        Raises:
            InputError: similarity is asked for without a CLIP or a photo.
        """
        if len(captions) == 1:
            return 0
        similarity = None
        if how.select == "similarity":
            if self.clip is None or photo is None:
                raise InputError(
                    "select=similarity compares captions with the photo by a CLIP: caption with "
                    "CaptionPipeline.from_pretrained(model, clip=FOLDER) or clearcap caption --clip FOLDER"
                )
            similarity = self.clip.similarity(Image.fromarray(photo), captions)
        return choose(
            captions,
            how.select,
            confidences=confidences,
            similarity=similarity,
            utility=how.utility,
            frequency=self.frequency,
        )

    def sampling(self, **how: Any) -> SamplingConfig:
        """The model's sampling settings with some of them changed (None leaves one as it is).

        ``words`` without ``words_from`` or ``words_to`` is the length of every candidate.
        """
        how = {name: value for name, value in how.items() if value is not None}
        if "words" in how:
            how = {"words_from": 0, "words_to": 0} | how
        known = {field.name for field in dataclasses.fields(SamplingConfig)}
        unknown = sorted(set(how) - known)
        if unknown:
            raise InputError(
                f"unknown sampling setting {unknown[0]!r}; choose among {', '.join(sorted(known))}"
            )
        return dataclasses.replace(self.captioner.defaults, **how)

    def _caption(
        self, photos: Sequence[tuple[str, np.ndarray]], sampling: SamplingConfig, seed: int
    ) -> list[CaptionResult]:
        drawn = self.captioner.generate(self.pixels([p for _, p in photos]), seed=seed, sampling=sampling)
        return [
            self._result(name, photo, ids, confidence, sampling)
            for (name, photo), ids, confidence in zip(
                photos, drawn.ids.cpu(), drawn.confidence.cpu(), strict=True
            )
        ]

    def pixels(self, photos: Sequence[np.ndarray]) -> Tensor:
        """Square uint8 photos as the captioner's input [photos, 3, size, size] in 0..1."""
        batch = torch.from_numpy(np.stack(photos)).to(self.captioner.device)
        return batch.permute(0, 3, 1, 2).to(self.captioner.dtype) / 255

    def _result(
        self, name: str, photo: np.ndarray, ids: Tensor, confidence: Tensor, sampling: SamplingConfig
    ) -> CaptionResult:
        special = self.captioner.text.special_ids
        read = [
            words_of(self.tokenizer, i, c, special)
            for i, c in zip(ids.tolist(), confidence.tolist(), strict=True)
        ]
        captions = [join_words(words) for words, _ in read]
        confidences = [trust for _, trust in read]
        best = self.choose(captions, confidences, sampling, photo)
        words, trust = read[best]
        mean = float(np.mean(trust)) if trust else 0.0
        return CaptionResult(
            name, captions[best], mean, tuple(zip(words, trust, strict=True)), tuple(captions)
        )


def _decoded(
    images: Iterable[Any], batch_size: int, size: int
) -> Iterator[list[tuple[str, np.ndarray | InputError]]]:
    """Batches of squashed photos, decoded two batches ahead; a single photo here and now, which is sooner."""
    coming = iter(enumerate(images))
    first = list(islice(coming, 2))
    if len(first) == 1:
        yield [_read(*first[0], size)]
        return
    source = chain(first, coming)
    with ThreadPoolExecutor(max_workers=4) as pool:
        waiting: deque[list[Future[tuple[str, np.ndarray | InputError]]]] = deque()
        while True:
            while len(waiting) < 3:
                group = list(islice(source, batch_size))
                if not group:
                    break
                waiting.append([pool.submit(_read, i, image, size) for i, image in group])
            if not waiting:
                return
            yield [future.result() for future in waiting.popleft()]


def _read(place: int, image: Any, size: int) -> tuple[str, np.ndarray | InputError]:
    name = str(image) if isinstance(image, (str, Path)) else f"photo {place}"
    if isinstance(image, InputError):
        return name, image
    try:
        return name, to_square(open_image(image, at_least=size), size)
    except InputError as fault:
        return name, fault
