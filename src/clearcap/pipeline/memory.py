"""A memory of captioned photos: what people said of the photos most like one, looked up by the encoder's vectors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float16

from clearcap.arrays import ImageTokens
from clearcap.captioner.fingerprint import as_numpy, fingerprint, pooled_tokens
from clearcap.config import number
from clearcap.data.reading import as_kind, member, read_jsonl, read_text
from clearcap.data.records import CaptionedPhoto
from clearcap.data.writing import whole_folder, write_text
from clearcap.errors import InputError, needed
from clearcap.metrics.cider import DocumentFrequency
from clearcap.metrics.words import agreement_words

VECTORS, CAPTIONS = "memory.safetensors", "captions.jsonl"
DIMS = 128  # principal components at most
CHUNK = 256  # photos whose tokens are held at once
COUNT = 25  # neighbours that are looked up
COUNTED = (
    5_000  # photos whose captions n-grams are counted in: a second; the captions of 100,000 would take many
)


@dataclass(frozen=True)
class Neighbour:
    """A remembered photo that is like one at hand.

    Attributes:
        photo: its id.
        captions: what people said of it.
        likeness: cosine of the two photos' vectors.
    """

    photo: str
    captions: tuple[str, ...]
    likeness: float


@dataclass(frozen=True)
class Axes:
    """How pooled image tokens become a vector: the principal components of the remembered photos.

    Attributes:
        mean: of the remembered photos' pooled tokens.
        components: rows; principal components of the channels in units of their deviation, divided by those.
    """

    mean: Float[np.ndarray, " pooled"]
    components: Float[np.ndarray, "dims pooled"]

    @classmethod
    def fit(cls, pooled: Float[np.ndarray, "photos pooled"], dims: int = DIMS) -> Axes:
        """The components of the greatest variance, no more than the photos can tell apart."""
        mean, deviation = pooled.mean(0, dtype=np.float64), pooled.std(0, dtype=np.float64) + 1e-6
        scaled = (pooled - mean) / deviation
        kept = min(dims, len(mean), max(1, len(pooled) - 1))
        components = np.linalg.eigh(scaled.T @ scaled / len(pooled))[1][:, ::-1][:, :kept]
        return cls(mean.astype(np.float32), (components.T / deviation).astype(np.float32))

    def vectors(self, pooled: Float[np.ndarray, "photos pooled"]) -> Float[np.ndarray, "photos dims"]:
        """Vectors of length 1."""
        found = (pooled - self.mean) @ self.components.T
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


@dataclass(frozen=True)
class Memory:
    """Captioned photos that a captioner can look up.

    Attributes:
        vectors: of the photos, of length 1.
        axes: that make such a vector of a photo's tokens.
        encoder: fingerprint of the encoder whose tokens were remembered.
        photos: ids.
        captions: of each photo.
        count: neighbours that are looked up for a photo.
    """

    vectors: Float16[np.ndarray, "photos dims"] = field(repr=False)
    axes: Axes = field(repr=False)
    encoder: Float[np.ndarray, " pooled"] = field(repr=False)
    photos: tuple[str, ...] = field(repr=False)
    captions: tuple[tuple[str, ...], ...] = field(repr=False)
    count: int = COUNT

    def __post_init__(self) -> None:
        number("neighbours", self.count, int, 1)

    def __len__(self) -> int:
        return len(self.photos)

    @classmethod
    def load(cls, folder: str | Path, count: int = COUNT) -> Memory:
        """Read what ``clearcap remember`` wrote.

        Args:
            folder: it lies in.
            count: neighbours that are looked up for a photo.

        Raises:
            InputError: there is none, it is damaged, its two files are of different memories, or what reads it is not
                installed.
        """
        try:
            from safetensors import SafetensorError, safe_open
        except ModuleNotFoundError as fault:
            raise InputError(needed(fault, "a memory") or str(fault)) from fault
        folder = Path(folder)
        file, told = folder / VECTORS, folder / CAPTIONS
        if not file.is_file():
            raise InputError(f"{folder}: holds no memory ({VECTORS}); make one with clearcap remember")
        lines = list(read_jsonl(told, "make the memory again with clearcap remember"))
        photos = tuple(member(line, "photo", str, where) for where, line in lines)
        captions = tuple(
            tuple(as_kind(caption, str, where) for caption in member(line, "captions", list, where))
            for where, line in lines
        )
        try:
            with safe_open(file, "numpy") as held:
                digest = (held.metadata() or {}).get("captions_sha256")
                vectors, mean, components, encoder = map(
                    held.get_tensor, ("vectors", "mean", "components", "encoder")
                )
        except (OSError, SafetensorError) as fault:
            raise InputError(
                f"{file}: cannot be read ({fault}); make it again with clearcap remember"
            ) from fault
        if digest != _digest(read_text(told)):
            raise InputError(
                f"{folder}: {VECTORS} and {CAPTIONS} do not belong together; make both again with clearcap remember"
            )
        return cls(vectors, Axes(mean, components), encoder, photos, captions, count)

    def save(self, folder: str | Path) -> None:
        """Write ``memory.safetensors`` and ``captions.jsonl``, whole. Raises InputError."""
        from safetensors.numpy import save_file

        tensors = {
            "vectors": self.vectors,
            "mean": self.axes.mean,
            "components": self.axes.components,
            "encoder": self.encoder,
        }
        rows = zip(self.photos, self.captions, strict=True)
        text = "".join(
            json.dumps({"photo": photo, "captions": captions}, ensure_ascii=False) + "\n"
            for photo, captions in rows
        )
        with whole_folder(Path(folder)) as fresh:
            write_text(fresh / CAPTIONS, text)
            whole = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
            save_file(whole, fresh / VECTORS, {"captions_sha256": _digest(text)})

    def described(self) -> dict[str, Any]:
        """What manifests say of it."""
        lines = json.dumps([self.photos, self.captions])
        digest = hashlib.sha256(self.vectors.tobytes() + lines.encode()).hexdigest()
        return {"photos": len(self), "neighbours": self.count, "sha256": digest}

    @cached_property
    def frequency(self) -> DocumentFrequency:
        """How rare n-grams are in what it holds, or in a sample of that, for captioners that know no corpus."""
        return DocumentFrequency.of(self.captions[:: -(-len(self) // COUNTED)], agreement_words)

    def neighbours(self, tokens: ImageTokens) -> list[list[Neighbour]]:
        """The remembered photos that are most like some photos, most alike first."""
        likeness = self.axes.vectors(as_numpy(pooled_tokens(tokens))) @ self._wide.T
        count = min(self.count, len(self))
        nearest = np.argpartition(-likeness, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(likeness, nearest, 1), axis=1, kind="stable")
        return [
            [Neighbour(self.photos[i], self.captions[i], float(row[i])) for i in places]
            for row, places in zip(likeness, np.take_along_axis(nearest, order, 1).tolist(), strict=True)
        ]

    @cached_property
    def _wide(self) -> Float[np.ndarray, "photos dims"]:
        """The vectors in float32, which a processor multiplies thirty times as fast."""
        return self.vectors.astype(np.float32)


def remember(
    pipeline: Any,
    photos: Sequence[CaptionedPhoto],
    *,
    batch_size: int = 16,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Memory:
    """A memory of captioned photos, as a captioner's encoder sees them.

    Args:
        pipeline: a ``CaptionPipeline``, whose encoder is used; the memory is for it alone.
        photos: captioned ones.
        batch_size: photos of a forward pass.
        progress: told photos done and in all.

    Raises:
        InputError: no photos, one that cannot be read, or a backend without image tokens.
    """
    if not photos:
        raise InputError("no photos to remember; pass NAME:ROOT:SPLIT of a corpus or a folder with captions")
    encoder = fingerprint(pipeline.captioner)
    found = []
    left = iter(photos)
    while group := list(islice(left, CHUNK)):
        tokens = pipeline.encode_all((photo.image for photo in group), batch_size=batch_size)
        found.append(as_numpy(pooled_tokens(tokens)))
        progress(min(len(found) * CHUNK, len(photos)), len(photos))
    pooled = np.concatenate(found)
    axes = Axes.fit(pooled)
    return Memory(
        axes.vectors(pooled).astype(np.float16),
        axes,
        encoder,
        tuple(photo.id for photo in photos),
        tuple(photo.captions for photo in photos),
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
