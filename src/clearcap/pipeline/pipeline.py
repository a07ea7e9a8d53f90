"""``CaptionPipeline``: photos in, captions with per-word confidence out."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from clearcap.arrays import Array, namespace
from clearcap.captioner.generating import CaptionModel, Generated
from clearcap.captioner.onnx import has_graphs, is_exported
from clearcap.config import LENGTHS, SamplingConfig, number, own_names, sampling_with
from clearcap.data.ahead import ahead
from clearcap.data.fetch import clipped
from clearcap.data.images import PhotoSource, each_photo, is_many, open_image, to_square
from clearcap.data.threads import set_threads, threads
from clearcap.errors import InputError, RenamedWarning, needed
from clearcap.metrics.cider import DocumentFrequency
from clearcap.metrics.learned import ClipScorer
from clearcap.pipeline.infilling import Infilled, Template, gives_most, infill_captions
from clearcap.pipeline.trajectory import Frame, read_step, trajectory
from clearcap.pipeline.words import Attention, alternatives, attention_maps
from clearcap.sampling.selection import Candidates, best_of, diverse, judge
from clearcap.text.tokenizer import DecodedCaption, decode_caption, word_ids


@dataclass(frozen=True)
class CaptionResult:
    """One photo's caption.

    Attributes:
        image: the photo's path or URL, or its place in the list where it has no name.
        caption: the chosen caption.
        confidence: mean probability of its words.
        words: each word and its probability.
        candidates: all captions sampled, in sampling order.
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
        """A few candidates that are good and unlike each other, best first (``clearcap.sampling.selection.diverse``).

        Raises:
            InputError: more than were sampled.
        """
        return [self.candidates[i] for i in diverse(self.candidates, count, novelty=novelty)]


@dataclass(frozen=True)
class Watched:
    """One photo's caption, and how it was chosen.

    Attributes:
        result: what a call gives.
        chosen: index of the candidate that was chosen.
        values: what the selection rule gave each candidate, the higher the better.
    """

    result: CaptionResult
    chosen: int
    values: tuple[float, ...]


Decoded: TypeAlias = list[tuple[str, np.ndarray | InputError]]
"""A batch of photos: names, and pixels or why there are none."""
BACKENDS = ("torch", "prepacked", "compiled", "onnx", "fast")


class CaptionPipeline:
    """A captioner with its tokenizer and photo preprocessing.

    Args:
        captioner: any captioner.
        tokenizer: its tokenizer.
        frequency: document frequency for minimum Bayes risk by CIDEr; without one all n-grams weigh the same.
        clip: judges how well a caption fits a photo, for ``select="similarity"``.
        source: folder that the captioner was loaded from, which ``save_pretrained`` needs.
    """

    def __init__(
        self,
        captioner: CaptionModel,
        tokenizer: Any,
        frequency: DocumentFrequency | None = None,
        clip: ClipScorer | None = None,
        source: Path | None = None,
    ) -> None:
        self.source = source
        self.captioner = captioner.for_inference()
        self.tokenizer = tokenizer
        self.frequency = frequency
        self.clip = clip

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | None = None,
        *,
        device: Any = None,
        dtype: Any = None,
        backend: str | None = None,
        clip: str | Path | None = None,
        **options: Any,
    ) -> CaptionPipeline:
        """Load a captioner, for inference: a ``Network``, not the transformers model (``Captioner``).

        Args:
            model: a folder, hub name, or "default" (also None), which ships.
            device: where it runs; None is a GPU if there is one, else the CPU.
            dtype: of weights and activations, or its name; default float32, "auto" is what was saved.
            backend: "torch"; "prepacked", torch with weights laid out for the CPU's matrix products
                (``clearcap.captioner.prepacked``): a paper-size model is up to 1.5 times faster, captions are the
                same up to rounding, and the captioner cannot be saved; or "onnx" for a folder that
                ``clearcap export`` wrote, which needs no torch and runs on the CPU in float32. None is onnx where the
                folder holds graphs, no GPU is at hand and no device or dtype is asked for, else torch; "fast" is the
                same with prepacked for torch; "compiled" is torch.compile's denoiser, which takes a minute at its
                first call of a shape.
            clip: folder or hub name of a CLIP that candidates may be chosen by (``select="similarity"``).
            options: transformers' own: ``revision``, ``cache_dir``, ``token``, ``local_files_only``,
                ``force_download``, ``subfolder``, ``device_map`` (one device), ``torch_dtype``.

        Raises:
            InputError: there is no such model, its weights do not fit, the backend cannot run it so, or an option is
                not known or cannot be honoured.
        """
        from clearcap.captioner.folder import Loading, find_folder, frequency_file, saved_dtype

        how = Loading.of(device, dtype, **options)
        scorer = None if clip is None else ClipScorer.load(clip)
        folder = find_folder(str(model or "default"), **how.hub)
        counted = frequency_file(str(folder))
        frequency = DocumentFrequency.load(counted) if counted else None
        kind = saved_dtype(folder) if "auto" in (dtype, options.get("torch_dtype")) else how.dtype
        if backend == "packed":
            warnings.warn("the backend 'packed' is called 'prepacked' now", RenamedWarning, stacklevel=2)
            backend = "prepacked"
        if backend is not None and backend not in BACKENDS:
            raise InputError(f"unknown backend {backend!r}; choose one of {', '.join(BACKENDS)}")
        if backend in (None, "fast"):
            backend = chosen_backend(folder, how.device, kind, "torch" if backend is None else "prepacked")
        if backend == "onnx":
            from clearcap.captioner.onnx.runtime import load_graphs

            if (
                str(how.device or "cpu") != "cpu"
                or str(kind or "float32").removeprefix("torch.") != "float32"
            ):
                raise InputError(
                    f"{folder}: graphs run on the CPU with the weights they were written with, "
                    f"not on {how.device or 'cpu'} in {kind or 'float32'}; leave device and dtype out"
                )
            return cls(*load_graphs(folder), frequency, scorer, folder)
        try:
            from clearcap.captioner.placing import load_placed
        except ModuleNotFoundError as fault:
            raise InputError(needed(fault, f"captioning with {folder} by torch") or str(fault)) from fault
        return cls(*load_placed(folder, how.device, kind, backend), frequency, scorer, folder)

    @property
    def device(self) -> Any:
        """Where the captioner is."""
        return self.captioner.device

    @property
    def dtype(self) -> Any:
        """What its weights are stored in."""
        return self.captioner.dtype

    def to(self, *place: Any, **named: Any) -> CaptionPipeline:
        """Move or cast the captioner, as torch's modules are.

        Raises:
            InputError: it runs graphs or prepacked weights, which stay as they are.
        """
        captioner: Any = self.captioner
        captioner.to(*place, **named)
        return self

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Write the captioner as it was loaded, with its tokenizer, so that every loader opens the folder.

        Args:
            save_directory: folder to write.
            options: as for ``Captioner.save_pretrained``.

        Raises:
            InputError: it was put together by hand of parts that cannot be saved.
        """
        self._whole().save_pretrained(save_directory, **options)
        if self.frequency is not None:
            from clearcap.captioner.folder import FREQUENCY

            self.frequency.save(Path(save_directory) / FREQUENCY)

    def push_to_hub(self, repo_id: str, **options: Any) -> Any:
        """Upload what ``save_pretrained`` writes, as transformers' models do. Raises InputError."""
        return self._whole().push_to_hub(repo_id, **options)

    def _whole(self) -> Any:
        """The captioner as a transformers model, with the weights that it was loaded with."""
        from clearcap.captioner.model import Captioner, load_captioner

        if isinstance(self.captioner, Captioner):
            self.captioner.tokenizer = self.tokenizer
            return self.captioner
        if self.source is None:
            raise InputError("this pipeline was not loaded from a folder; save its Captioner instead")
        captioner: Any = load_captioner(str(self.source))[0]
        return captioner.to(self.dtype)

    def __call__(self, images: Any, *, batch_size: int = 16, seed: int = 0, **how: Any) -> Any:
        """Caption photos.

        Args:
            images: a photo of any kind that ``clearcap.data.open_image`` knows (path, URL, bytes, file object, PIL
                image, array, tensor ...), or several: a list, a generator, a stacked array or tensor.
            batch_size: photos per forward pass.
            seed: same seed, same captions, whatever the batch size.
            how: fields of ``SamplingConfig`` (``steps``, ``guidance``, ``candidates``, ``select`` ...), or diffusers'
                names: ``num_inference_steps`` and ``guidance_scale`` for ``steps`` and ``guidance``, and a
                ``generator`` whose initial seed is the seed. A ``length`` that is asked for here is kept to the word.

        Returns:
            A ``CaptionResult``, or a list of them for several photos.

        Raises:
            InputError: a photo cannot be read (use ``stream`` to go on with the others).
        """
        many = is_many(images)
        results = []
        for result in self.stream(images if many else [images], batch_size=batch_size, seed=seed, **how):
            if isinstance(result, InputError):
                raise result
            results.append(result)
        return results if many else results[0]

    def stream(
        self,
        images: Iterable[Any],
        *,
        batch_size: int = 16,
        seed: int = 0,
        workers: int = 4,
        at_once: int = 1,
        **how: Any,
    ) -> Iterator[CaptionResult | InputError]:
        """As a call, one result at a time; a photo that cannot be read yields its error in its place.

        The next batches are decoded by threads while the current one is captioned.

        Args:
            images: as for a call.
            batch_size: photos per forward pass.
            seed: same seed, same captions, whatever the batch size.
            workers: threads that decode.
            at_once: batches captioned at the same time, each by its share of torch's threads: on a CPU more photos
                a second, and each of them later.
            how: as for a call.

        Raises:
            InputError: at once, for arguments that cannot be.
        """
        generator = how.pop("generator", None)
        if generator is not None and not callable(getattr(generator, "initial_seed", None)):
            raise InputError(f"generator={generator!r} must be a torch.Generator")
        seed = checked_seed(seed) if generator is None else generator.initial_seed()
        batch_size = number("batch_size", batch_size, int, 1, 2**31)
        workers, at_once = number("workers", workers, int, 1, 1024), number("at_once", at_once, int, 1, 1024)
        sampling = self.sampling(**how)
        asked = not LENGTHS.isdisjoint(own_names(how))
        whole = self._whole_words() if asked else None
        batches = _decoded(images, batch_size, self.image_size, workers)

        def captioned(batch: Decoded) -> list[CaptionResult | InputError]:
            return self._results(batch, sampling, seed, whole)

        return chain.from_iterable(
            map(captioned, batches) if at_once == 1 else _at_once(captioned, batches, at_once)
        )

    def _results(
        self,
        batch: Decoded,
        sampling: SamplingConfig,
        seed: int,
        whole: Bool[np.ndarray, " vocab"] | None,
    ) -> list[CaptionResult | InputError]:
        good = [(name, pixels) for name, pixels in batch if not isinstance(pixels, InputError)]
        captioned = iter(self._caption(good, sampling, seed, whole) if good else [])
        return [pixels if isinstance(pixels, InputError) else next(captioned) for _, pixels in batch]

    def watch(
        self,
        image: Any,
        show: Callable[[Sequence[Frame]], None] = lambda frames: None,
        *,
        seed: int = 0,
        **how: Any,
    ) -> Watched:
        """Caption one photo as a call does, and see every candidate after every step.

        Args:
            image: a photo.
            show: given a frame of each candidate: first of the noise they start from (index -1), then of each step.
            seed: as for a call.
            how: as for a call.

        Raises:
            InputError: the photo cannot be read.
        """
        name, photo = _read(0, image, self.image_size)
        if isinstance(photo, InputError):
            raise photo
        sampling = self.sampling(**how)
        whole = None if LENGTHS.isdisjoint(own_names(how)) else self._whole_words()

        def shown(step: int, t: int, tensors: dict[str, Array]) -> dict[str, Array]:
            if step == 0:
                show(self._frames(-1, t, tensors["noisy"]))
            show(self._frames(step, t, tensors["latents"]))
            return {}

        generated = self.captioner.generate(
            self.pixels([photo]),
            seed=checked_seed(seed),
            sampling=sampling,
            callback_on_step_end=shown,
            whole_words=whole,
        )
        (candidates,) = self.decode(generated)
        judged = self._judged(
            [one.text for one in candidates], [one.confidence for one in candidates], sampling, photo
        )
        values = judge(judged, sampling.select)
        return Watched(
            self._result(name, photo, candidates, sampling), best_of(values, judged), tuple(values)
        )

    def _frames(self, index: int, t: int, latents: Array) -> list[Frame]:
        """What each caption's latent says."""
        return [read_step(self.captioner, self.tokenizer, index, t, one[None]) for one in latents]

    def attention(self, image: Any, caption: str = "", *, seed: int = 0, **how: Any) -> Attention:
        """Where each word of a caption looks: ``pipeline.attention(photo).maps`` is [words, grid, grid].

        Args:
            image: a photo.
            caption: of it, whoever wrote it; default is what a call says.
            seed: as for a call.
            how: as for a call.

        Raises:
            InputError: the photo cannot be read, the caption is too long or has a word that the model has not, its
                denoiser does not attend to a photo's parts, or it runs as graphs (``backend="torch"`` does not).
        """
        caption = caption or self(image, seed=seed, **how).caption
        sampling = self.sampling(**how)
        return attention_maps(self.captioner, self.tokenizer, self.encode(image), caption, sampling=sampling)

    def alternatives(
        self, image: Any, caption: str, *, count: int = 5, seed: int = 0, **how: Any
    ) -> list[tuple[tuple[str, float], ...]]:
        """For each word of a caption the likeliest ones in its place, the others staying; each with its probability.

        Args:
            image: a photo.
            caption: of it, whoever wrote it.
            count: words to name for each.
            seed: same seed, same words.
            how: as for ``fill``.

        Raises:
            InputError: the photo cannot be read, or the caption is too long or has a word that the model has not.
        """
        return alternatives(
            self.captioner,
            self.tokenizer,
            self.encode(image),
            caption,
            count=count,
            seed=checked_seed(seed),
            sampling=self.sampling(**{"guidance": 0.0} | own_names(how)),
        )

    def fill(
        self,
        image: Any,
        template: str | Template | Sequence[Template],
        *,
        seed: int = 0,
        forbid: Sequence[str] = (),
        **how: Any,
    ) -> Infilled:
        """Fill the blanks of a caption of one photo: ``pipeline.fill(photo, "two ___ on a ___").text``.

        Args:
            image: a photo.
            template: text with ``___`` (one word) or ``___{1,3}`` (a range), or templates from
                ``clearcap.pipeline.infilling``: ``length_template``, ``edit_template``, ``keyword_templates``.
            seed: same seed, same words.
            forbid: words that no blank may be filled with.
            how: fields of ``SamplingConfig``. Guidance is off by default where the template gives more words than
                it asks for: beside given words it costs accuracy (LOG.md).

        Raises:
            InputError: the photo cannot be read or the template cannot be met.
        """
        if gives_most(template):
            how = {"guidance": 0.0} | own_names(how)
        return infill_captions(
            self.captioner,
            self.tokenizer,
            self.encode(image),
            [template],
            seed=checked_seed(seed),
            forbid=forbid,
            sampling=self.sampling(**how),
        )[0]

    def trajectory(
        self,
        image: Any,
        *,
        seed: int = 0,
        show: Callable[[Sequence[Frame]], None] = lambda frames: None,
        noise: bool = False,
        **how: Any,
    ) -> list[Frame]:
        """One photo's caption at each step, with each word's confidence (``clearcap.pipeline.trajectory.trajectory``).

        Args:
            image: a photo.
            seed: as for a call.
            show: given all frames so far after each step.
            noise: whether a frame before the first step shows the noise itself, read as words.
            how: as for a call.
        """
        return trajectory(
            self.captioner,
            self.tokenizer,
            self.encode(image),
            seed=checked_seed(seed),
            sampling=self.sampling(**how),
            show=show,
            noise=noise,
        )

    @property
    def image_size(self) -> int:
        """Pixels a side that photos are squashed to."""
        return int(self.captioner.config.vision["image_size"])

    def encode(self, image: Any) -> Array:
        """One photo's image tokens [1, tokens, dim].

        Raises:
            InputError: the photo cannot be read.
        """
        _, pixels = _read(0, image, self.image_size)
        if isinstance(pixels, InputError):
            raise pixels
        with self.captioner.inference():
            return self.captioner.encode_image(self.pixels([pixels]))

    def encode_all(
        self,
        images: Iterable[Any],
        *,
        batch_size: int = 16,
        progress: Callable[[int], None] = lambda photos: None,
    ) -> Array:
        """Photos' image tokens [photos, tokens, dim], for whoever captions them several times.

        Args:
            images: as for a call.
            batch_size: photos per forward pass.
            progress: told how many photos each batch added.

        Raises:
            InputError: a photo cannot be read, or there are none.
        """
        encoded = []
        batch_size = number("batch_size", batch_size, int, 1, 2**31)
        for batch in _decoded(images, batch_size, self.image_size, 4):
            squares = []
            for _, pixels in batch:
                if isinstance(pixels, InputError):
                    raise pixels
                squares.append(pixels)
            with self.captioner.inference():
                encoded.append(self.captioner.encode_image(self.pixels(squares)))
            progress(len(batch))
        if not encoded:
            raise InputError("no photos to encode; pass at least one")
        with self.captioner.inference():
            return namespace(encoded[0]).concat(encoded)

    def decode(self, generated: Generated) -> list[list[DecodedCaption]]:
        """The candidates of each photo as words."""
        special = self.captioner.text.special_ids
        return [
            [decode_caption(self.tokenizer, ids, special, trust) for ids, trust in zip(*photo, strict=True)]
            for photo in zip(generated.ids.tolist(), generated.confidence.tolist(), strict=True)
        ]

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
        candidates = self._judged(captions, confidences, how, photo)
        return best_of(judge(candidates, how.select), candidates)

    def _judged(
        self,
        captions: Sequence[str],
        confidences: Sequence[Sequence[float]],
        how: SamplingConfig,
        photo: UInt8[np.ndarray, "height width 3"] | None,
    ) -> Candidates:
        """Candidates with what the sampling settings judge them by; arguments and errors as for ``choose``."""
        similarity = None
        if how.select == "similarity":
            if self.clip is None or photo is None:
                raise InputError(
                    "select=similarity compares captions with the photo by a CLIP: caption with "
                    "CaptionPipeline.from_pretrained(model, clip=FOLDER) or clearcap caption --clip FOLDER"
                )
            similarity = self.clip.similarity(Image.fromarray(photo), captions)
        return Candidates(captions, confidences, similarity, how.utility, self.frequency)

    def sampling(self, **how: Any) -> SamplingConfig:
        """The model's sampling settings with some of them changed (``clearcap.config.sampling_with``)."""
        return sampling_with(self.captioner.defaults, how)

    def pixels(self, photos: Sequence[np.ndarray]) -> Array:
        """Square uint8 photos as the captioner's input [photos, 3, size, size] in 0..1."""
        return self.captioner.pixels(np.stack(photos))

    def _whole_words(self) -> Bool[np.ndarray, " vocab"]:
        """Which tokens are words by themselves."""
        special = self.captioner.text.special_ids
        return word_ids(self.tokenizer, special, max(self.tokenizer.get_vocab().values()) + 1)

    def _caption(
        self,
        photos: Sequence[tuple[str, np.ndarray]],
        sampling: SamplingConfig,
        seed: int,
        whole: Bool[np.ndarray, " vocab"] | None,
    ) -> list[CaptionResult]:
        pixels = self.pixels([photo for _, photo in photos])
        generated = self.captioner.generate(pixels, seed=seed, sampling=sampling, whole_words=whole)
        return [
            self._result(name, photo, candidates, sampling)
            for (name, photo), candidates in zip(photos, self.decode(generated), strict=True)
        ]

    def _result(
        self, name: str, photo: np.ndarray, candidates: Sequence[DecodedCaption], sampling: SamplingConfig
    ) -> CaptionResult:
        captions = tuple(one.text for one in candidates)
        best = self.choose(captions, [one.confidence for one in candidates], sampling, photo)
        words, trust = candidates[best].words, candidates[best].confidence
        mean = float(np.mean(trust)) if trust else 0.0
        return CaptionResult(name, captions[best], mean, tuple(zip(words, trust, strict=True)), captions)


def chosen_backend(folder: Path, device: Any, dtype: Any, other: str) -> str:
    """ "onnx", or ``other`` where that cannot run a folder's captioner as it is asked for."""
    if is_exported(folder):
        return "onnx"
    torch_alone = device is not None or dtype is not None or not has_graphs(folder) or gpu_at_hand()
    return other if torch_alone else "onnx"


def gpu_at_hand() -> bool:
    """Whether torch, where it is installed, has a GPU; it is not imported on machines without NVIDIA's driver."""
    if not Path("/dev/nvidiactl").exists() or find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


def checked_seed(seed: Any) -> int:
    """A seed that every generator takes. Raises InputError."""
    return int(number("seed", seed, int, 0, 2**63 - 1))


def _at_once(
    captioned: Callable[[Decoded], list[CaptionResult | InputError]], batches: Iterable[Decoded], count: int
) -> Iterator[list[CaptionResult | InputError]]:
    """Batches captioned by threads, in order, each with its share of torch's own threads."""
    all_threads = threads()
    share = max(1, all_threads // count)

    def in_thread(batch: Decoded) -> list[CaptionResult | InputError]:
        set_threads(share)  # a thread's own, as far as OpenMP goes
        return captioned(batch)

    try:
        yield from ahead(in_thread, batches, threads=count, depth=count + 1)
    finally:
        set_threads(all_threads)


def _decoded(images: Iterable[Any], batch_size: int, size: int, workers: int) -> Iterator[Decoded]:
    """Batches of squashed photos, decoded two batches ahead by threads; a single photo without them."""
    coming = iter(enumerate(each_photo(images)))
    first = list(islice(coming, 2))
    if len(first) == 1:
        yield [_read(*first[0], size)]
        return
    source = chain(first, coming)
    with ThreadPoolExecutor(workers) as pool:
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
    name = f"photo {place}"
    if isinstance(image, PhotoSource):
        name = image.name
    elif isinstance(image, (str, Path)):
        name = clipped(image) if isinstance(image, str) and image.startswith("data:") else str(image)
    if isinstance(image, InputError):
        return name, image
    try:
        return name, to_square(open_image(image, at_least=size), size)
    except InputError as fault:
        return name, fault
