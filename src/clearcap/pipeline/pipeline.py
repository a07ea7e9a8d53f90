"""``CaptionPipeline``: photos in, captions with per-word confidence out."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from clearcap.arrays import Array, ImageTokens, namespace
from clearcap.captioner.fingerprint import check_fingerprint
from clearcap.captioner.folder import SCORER
from clearcap.captioner.generating import CaptionModel, Generated
from clearcap.captioner.onnx import has_graphs, is_exported
from clearcap.config import SamplingConfig, asks_for_length, number, own_names, sampling_with
from clearcap.data.ahead import ahead
from clearcap.data.fetch import clipped
from clearcap.data.images import PhotoSource, each_photo, is_many, open_image, to_square
from clearcap.data.threads import set_threads, threads
from clearcap.errors import InputError, RenamedWarning, needed
from clearcap.metrics.cider import DocumentFrequency
from clearcap.metrics.learned import ClipScorer
from clearcap.pipeline.calibration import FILE as CONFIDENCE
from clearcap.pipeline.calibration import Calibration, likeness
from clearcap.pipeline.infilling import Infilled, Template, gives_most, infill_captions
from clearcap.pipeline.memory import Memory, Neighbour
from clearcap.pipeline.trajectory import Frame, read_step, trajectory
from clearcap.pipeline.words import Attention, alternatives, attention_maps
from clearcap.sampling.selection import Candidates, best_of, diverse, judge
from clearcap.text.tokenizer import DecodedCaption, decode_caption, split_words, word_ids

if TYPE_CHECKING:
    from clearcap.captioner.scorer import Judge


@dataclass(frozen=True)
class CaptionResult:
    """One photo's caption.

    Attributes:
        image: the photo's path or URL, or its place in the list where it has no name.
        caption: the chosen caption.
        confidence: how sure the captioner is of it: the mean over its words, of content alone where the captioner is
            calibrated (``clearcap.pipeline.calibration``).
        words: each word and how sure the captioner is of it: its probability, or where the captioner is calibrated the
            share of such words that are right.
        candidates: all captions sampled, in sampling order.
        remembered: id of the remembered photo that the caption was said of; "" where the captioner wrote it itself.
            Its words then have the cosine of the two photos as their probability.
    """

    image: str
    caption: str
    confidence: float
    words: tuple[tuple[str, float], ...]
    candidates: tuple[str, ...]
    remembered: str = ""

    def to_json(self) -> dict[str, Any]:
        """The fields that ``clearcap caption --json`` prints."""
        words = [{"word": word, "confidence": round(p, 4)} for word, p in self.words]
        told = {
            "image": self.image,
            "caption": self.caption,
            "confidence": round(self.confidence, 4),
            "words": words,
        }
        return told | ({"remembered": self.remembered} if self.remembered else {})

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
        chosen: index of the candidate that was chosen; -1 where a remembered caption was.
        values: what the selection rule gave each candidate, the higher the better; 0 where there was no choice.
    """

    result: CaptionResult
    chosen: int
    values: tuple[float, ...]


Decoded: TypeAlias = list[tuple[str, np.ndarray | InputError]]
"""A batch of photos: names, and pixels or why there are none."""
BLIND = ("mbr", "confidence", "neighbours")
"""Selection rules that do not ask how well captions fit the photo; plug-ins' rules may."""
SEEING = ("similarity", "mbr-and-similarity", "confidence-and-similarity")
"""Selection rules that cannot do without it."""
WITH_MEMORY = {"candidates": 10, "select": "mbr", "utility": "cider"}
BACKENDS = ("torch", "prepacked", "compiled", "onnx", "fast")


class CaptionPipeline:
    """A captioner with its tokenizer and photo preprocessing.

    Args:
        captioner: any captioner.
        tokenizer: its tokenizer.
        frequency: document frequency for minimum Bayes risk by CIDEr; without one all n-grams weigh the same.
        clip: judges how well a caption fits a photo, for ``select="similarity"``; without one a scorer does.
        source: folder that the captioner was loaded from, which ``save_pretrained`` needs.
        memory: captioned photos; what people said of those that are like a photo helps to caption it.
        scorer: folder of the scorer; default ``source``, if one lies there.
        calibration: what makes confidence of probabilities; without one they are the confidence.

    Raises:
        InputError: the memory was made with another image encoder.
    """

    def __init__(
        self,
        captioner: CaptionModel,
        tokenizer: Any,
        frequency: DocumentFrequency | None = None,
        clip: ClipScorer | None = None,
        source: Path | None = None,
        memory: Memory | None = None,
        scorer: Path | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self.source = source
        self.captioner = captioner.for_inference()
        self.captioner.tokenizer = self.tokenizer = tokenizer
        self.frequency = frequency
        self.clip = clip
        self.memory = memory
        self.calibration = calibration
        if memory is not None:
            check_fingerprint(self.captioner, memory.encoder, "the memory")
        self._scorer = scorer or source

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | None = None,
        *,
        device: Any = None,
        dtype: Any = None,
        backend: str | None = None,
        clip: str | Path | None = None,
        memory: str | Path | Memory | None = None,
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
                folder holds graphs, no GPU is at hand, no device or dtype is asked for and neither a memory nor a
                scorer looks at image tokens, which graphs do not give; else torch. "fast" is the same with prepacked
                for torch; "compiled" is torch.compile's denoiser, which takes a minute at its first call of a shape.
            clip: folder or hub name of a CLIP that candidates may be chosen by (``select="similarity"``), or folder of
                a scorer (``clearcap train-scorer``); default is the scorer that lies beside the weights, if any.
            memory: folder that ``clearcap remember`` wrote with this model, or what ``Memory.load`` made of it.
            options: transformers' own: ``revision``, ``cache_dir``, ``token``, ``local_files_only``,
                ``force_download``, ``subfolder``, ``device_map`` (one device), ``torch_dtype``.

        Raises:
            InputError: there is no such model, its weights do not fit, the backend cannot run it so, or an option is
                not known or cannot be honoured.
        """
        from clearcap.captioner.folder import Loading, find_folder, frequency_file, saved_dtype

        how = Loading.of(device, dtype, **options)
        for name, given, kinds in (("clip", clip, (str, Path)), ("memory", memory, (str, Path, Memory))):
            if given is not None and not isinstance(given, kinds):
                raise InputError(f"{name}={clipped(repr(given))} is no folder; pass its path")
        scorer = Path(clip) if clip is not None and (Path(clip) / SCORER).is_file() else None
        judge = None if clip is None or scorer else ClipScorer.load(clip)
        folder = find_folder("default" if model is None else str(model), **how.hub)
        counted = frequency_file(str(folder))
        frequency = DocumentFrequency.load(counted) if counted else None
        measured = folder / CONFIDENCE
        calibration = Calibration.load(measured) if measured.is_file() else None
        kind = saved_dtype(folder) if "auto" in (dtype, options.get("torch_dtype")) else how.dtype
        if backend == "packed":
            warnings.warn("the backend 'packed' is called 'prepacked' now", RenamedWarning, stacklevel=2)
            backend = "prepacked"
        looking = "a memory" if memory is not None else "a scorer" if scorer else None
        if backend is not None and backend not in BACKENDS:
            raise InputError(f"unknown backend {backend!r}; choose one of {', '.join(BACKENDS)}")
        if backend in (None, "fast"):
            other = "torch" if backend is None else "prepacked"
            backend = chosen_backend(folder, how.device, kind, other, looking is not None)
        if backend == "onnx" and looking:
            raise InputError(
                f"{looking} looks at image tokens, which graphs do not give: leave backend out, or use a folder with "
                "the weights that its graphs were written of"
            )
        if backend == "onnx":
            from clearcap.captioner.onnx.runtime import load_graphs

            if (
                str("cpu" if how.device is None else how.device) != "cpu"
                or str(kind or "float32").removeprefix("torch.") != "float32"
            ):
                raise InputError(
                    f"{folder}: graphs run on the CPU with the weights they were written with, "
                    f"not on {how.device or 'cpu'} in {kind or 'float32'}; leave device and dtype out"
                )
            return cls(*load_graphs(folder), frequency, judge, folder, calibration=calibration)
        try:
            from clearcap.captioner.placing import load_placed
        except ModuleNotFoundError as fault:
            raise InputError(
                needed(fault, f"captioning with {looking or folder} by torch") or str(fault)
            ) from fault
        known = Memory.load(memory) if isinstance(memory, (str, Path)) else memory
        placed = load_placed(folder, how.device, kind, backend)
        return cls(*placed, frequency, judge, folder, known, scorer, calibration)

    @cached_property
    def scorer(self) -> Judge | None:
        """What judges by similarity where no CLIP was given, if there is one.

        Raises:
            InputError: it is damaged, the captioner gives no image tokens, or torch is not installed.
        """
        if self._scorer is None or not (self._scorer / SCORER).is_file():
            return None
        try:
            from clearcap.captioner.scorer import Judge
        except ModuleNotFoundError as fault:
            raise InputError(needed(fault, "a scorer") or str(fault)) from fault
        return Judge.load(self._scorer / SCORER, self.captioner, self.tokenizer)

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
            InputError: it runs graphs or prepacked weights, which stay as they are, or there is no such device or type.
        """
        captioner: Any = self.captioner
        try:
            captioner.to(*place, **named)
        except (RuntimeError, AssertionError, TypeError) as fault:  # torch's, by device
            asked = ", ".join([*map(str, place), *(f"{name}={value}" for name, value in named.items())])
            reason = (str(fault) or type(fault).__name__).splitlines()[0]
            raise InputError(
                f"to({asked}) cannot be done ({reason}); pass cpu, cuda or a type of torch"
            ) from fault
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
        if self.calibration is not None:
            self.calibration.save(Path(save_directory) / CONFIDENCE)

    def push_to_hub(self, repo_id: str, **options: Any) -> Any:
        """Upload what ``save_pretrained`` writes, as transformers' models do. Raises InputError."""
        return self._whole().push_to_hub(repo_id, **options)

    def _whole(self) -> Any:
        """The captioner as a transformers model, with the weights that it was loaded with."""
        from clearcap.captioner.folder import find_dtype
        from clearcap.captioner.model import Captioner, load_captioner

        if isinstance(self.captioner, Captioner):
            self.captioner.tokenizer = self.tokenizer
            return self.captioner
        if self.source is None:
            raise InputError("this pipeline was not loaded from a folder; save its Captioner instead")
        captioner: Any = load_captioner(str(self.source))[0]
        return captioner.to(find_dtype(str(self.dtype)))  # NumPy's, where it runs graphs

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
            at_once: batches captioned at the same time, each by its share of the threads: on a CPU more photos a
                second, and each of them later.
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
        whole = self.whole_words() if asks_for_length(how) else None
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
        whole = self.whole_words() if asks_for_length(how) else None

        def shown(step: int, t: int, tensors: dict[str, Array]) -> dict[str, Array]:
            if step == 0:
                show(self._frames(-1, t, tensors["noisy"]))
            show(self._frames(step, t, tensors["latents"], sampling.once))
            return {}

        with self.captioner.inference():
            tokens = self.captioner.encode_image(self.pixels([photo]))
        generated = self.captioner.generate(
            image=tokens,
            seed=checked_seed(seed),
            sampling=sampling,
            callback_on_step_end=shown,
            whole_words=whole,
        )
        return self._chosen([(name, photo)], tokens, generated, sampling)[0]

    def _frames(self, index: int, t: int, latents: Array, once: bool = False) -> list[Frame]:
        """What each caption's latent says."""
        return [read_step(self.captioner, self.tokenizer, index, t, one[None], once) for one in latents]

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
            sampling=sampling_with(self.captioner.defaults, {"guidance": 0.0} | own_names(how)),
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
            sampling=sampling_with(self.captioner.defaults, how),
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
            sampling=sampling_with(self.captioner.defaults, how),
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
        image: Float[Array, "tokens dim"] | None = None,
        remembered: int = 0,
    ) -> int:
        """Index of the candidate that the sampling settings choose.

        Args:
            captions: candidates for one photo.
            confidences: each one's word probabilities.
            how: sampling settings.
            photo: which a CLIP compares the captions with, squashed as the captioner sees it.
            image: its tokens, which a scorer compares them with.
            remembered: how many of them, at the end, are of remembered photos.

        Raises:
            InputError: similarity is asked for without a CLIP or a scorer, or without what it looks at.
        """
        if len(captions) == 1:
            return 0
        candidates = self._judged(captions, confidences, how, photo, image, remembered)
        return best_of(judge(candidates, how.select), candidates)

    def _judged(
        self,
        captions: Sequence[str],
        confidences: Sequence[Sequence[float]],
        how: SamplingConfig,
        photo: UInt8[np.ndarray, "height width 3"] | None,
        image: Float[Array, "tokens dim"] | None,
        remembered: int,
    ) -> Candidates:
        """Candidates with what the sampling settings judge them by; arguments and errors as for ``choose``."""
        similarity: Sequence[float] | None = None
        if how.select not in BLIND:
            if self.clip is not None and photo is not None:
                similarity = self.clip.similarity(Image.fromarray(photo), captions)
            elif self.clip is None and image is not None and self.scorer is not None:
                similarity = self.scorer.similarity(image, captions).tolist()
            elif how.select in SEEING:
                raise InputError(
                    f"select={how.select} compares captions with the photo: caption with "
                    "CaptionPipeline.from_pretrained(model, clip=FOLDER) or clearcap caption --clip FOLDER, the "
                    "folder of a CLIP or of a scorer that clearcap train-scorer made"
                )
        frequency = self.frequency or (self.memory.frequency if self.memory else None)
        return Candidates(
            captions,
            confidences,
            similarity,
            how.utility,
            frequency,
            remembered,
            self.captioner.function_words,
            how.length_penalty,
        )

    def sampling(self, /, **how: Any) -> SamplingConfig:
        """The model's sampling settings with some of them changed (``clearcap.config.sampling_with``).

        With a memory ten captions are drawn and chosen by their agreement in CIDEr unless told otherwise: one alone
        would be outvoted by the remembered ones, BLEU chooses worse among these (LOG.md), and their words have no
        probability that could be weighed. Lengths stay the model's.

        Raises:
            InputError: an unknown setting, a value that it cannot have, or neighbours are asked for without a memory.
        """
        usual = WITH_MEMORY if self.memory else {}
        found = sampling_with(self.captioner.defaults, usual | own_names(how))
        if found.select == "neighbours" and not self.memory:
            raise InputError("select=neighbours chooses among remembered captions; pass memory=FOLDER")
        return found

    def pixels(self, photos: Sequence[np.ndarray]) -> Array:
        """Square uint8 photos as the captioner's input [photos, 3, size, size] in 0..1."""
        return self.captioner.pixels(np.stack(photos))

    def whole_words(self) -> Bool[np.ndarray, " vocab"]:
        """Which tokens are words by themselves: what a length that is asked for is kept by."""
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
        with self.captioner.inference():
            image = self.captioner.encode_image(pixels)
        generated = self.captioner.generate(image=image, seed=seed, sampling=sampling, whole_words=whole)
        return [one.result for one in self._chosen(photos, image, generated, sampling)]

    def _chosen(
        self,
        photos: Sequence[tuple[str, np.ndarray]],
        image: ImageTokens,
        generated: Generated,
        sampling: SamplingConfig,
    ) -> list[Watched]:
        """Each photo's caption, chosen among what was drawn and what is remembered."""
        near = self.memory.neighbours(image) if self.memory else [[] for _ in photos]
        alike = [0.0] * len(photos)
        if self.calibration:
            with self.captioner.inference():
                alike = likeness(self.captioner.image_context(image))
        return [
            self._result(name, photo, tokens, candidates, neighbours, sampling, same)
            for (name, photo), tokens, candidates, neighbours, same in zip(
                photos, image, self.decode(generated), near, alike, strict=True
            )
        ]

    def _result(
        self,
        name: str,
        photo: np.ndarray,
        tokens: Array,
        candidates: Sequence[DecodedCaption],
        neighbours: Sequence[Neighbour],
        sampling: SamplingConfig,
        alike: float,
    ) -> Watched:
        drawn = tuple(one.text for one in candidates)
        said = [(caption, one) for one in neighbours for caption in one.captions]
        captions = [*drawn, *(caption for caption, _ in said)]
        trust = [one.confidence for one in candidates] + [
            (max(one.likeness, 0.0),) * len(split_words(caption)) for caption, one in said
        ]
        best, values = 0, [0.0]
        if len(captions) > 1:
            judged = self._judged(captions, trust, sampling, photo, tokens, len(said))
            values = judge(judged, sampling.select)
            best = best_of(values, judged)
        words = candidates[best].words if best < len(drawn) else split_words(captions[best])
        source = said[best - len(drawn)][1].photo if best >= len(drawn) else ""
        sure: Sequence[float] = trust[best]
        mean = float(np.mean(sure)) if sure else 0.0
        if self.calibration and not source:
            sure, mean = self.calibration(words, sure, alike, self.captioner.function_words)
        told = tuple(zip(words, sure, strict=True))
        result = CaptionResult(name, captions[best], mean, told, drawn, source)
        return Watched(result, best if best < len(drawn) else -1, tuple(values[: len(drawn)]))


def chosen_backend(folder: Path, device: Any, dtype: Any, other: str, looking: bool = False) -> str:
    """How a folder's captioner is run where that is left open: by onnxruntime if it can be.

    Args:
        folder: of the captioner.
        device: asked for, if any.
        dtype: asked for, if any.
        other: the backend of torch to take where graphs cannot do what is asked for.
        looking: whether a memory or a scorer is given, which look at image tokens; a scorer that lies beside the
            weights does where torch is installed, and is left alone where it is not.
    """
    if is_exported(folder):
        return "onnx"
    torch_alone = device is not None or dtype is not None or not has_graphs(folder) or gpu_at_hand()
    if torch_alone:
        return other
    if looking or ((folder / SCORER).is_file() and find_spec("torch") is not None):
        return "prepacked"
    return "onnx"


def gpu_at_hand() -> bool:
    """Whether torch, where it is installed, has a GPU; it is not imported on machines without NVIDIA's driver."""
    if not Path("/dev/nvidiactl").exists() or find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


def cpu_batch(candidates: int) -> int:
    """Photos a batch where a CPU captions a batch a thread: more take longer a photo, and memory (LOG.md)."""
    return min(16, max(4, 32 // candidates))


def checked_seed(seed: Any) -> int:
    """A seed that every generator takes. Raises InputError."""
    return int(number("seed", seed, int, 0, 2**63 - 1))


def _at_once(
    captioned: Callable[[Decoded], list[CaptionResult | InputError]], batches: Iterable[Decoded], count: int
) -> Iterator[list[CaptionResult | InputError]]:
    """Batches captioned by threads, in order, each with its share of the threads that compute."""
    all_threads = threads()
    share = max(1, all_threads // count)

    def in_thread(batch: Decoded) -> list[CaptionResult | InputError]:
        set_threads(share)
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
