"""The store of distillation targets: views of photos and what the teacher says about each, on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageEnhance

from clearcap.data.writing import make_folder, new_array, write_json
from clearcap.errors import InputError
from clearcap.training.encoder.teacher import Teacher, load_teacher

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
CHUNK = 256  # photos a worker takes at a time; what an interruption can cost


@dataclass(frozen=True)
class Basis:
    """A partly whitened PCA of teacher features: target = (feature - mean) @ components.

    Component i is divided by the square root of its standard deviation, and all by one number that makes
    the mean variance one. Without that, regression is about the first dozen components; fully whitened, it
    is about the last ones, which are mostly noise. Half way, fine distinctions count and noise does not.
    """

    mean: Float[np.ndarray, " dim"]
    components: Float[np.ndarray, "dim kept"]

    def project(
        self, features: Float[np.ndarray, "batch tokens dim"]
    ) -> Float[np.ndarray, "batch tokens kept"]:
        """Teacher features as distillation targets."""
        return (features - self.mean) @ self.components


def fit_basis(features: Float[np.ndarray, "samples dim"], kept: int) -> Basis:
    """Fit a `Basis` of `kept` components.

    Raises:
        InputError: more components asked for than the features have.
    """
    if kept > features.shape[1]:
        raise InputError(f"dim={kept} exceeds the teacher's {features.shape[1]} features; pass a smaller dim")
    mean = features.mean(0)
    covariance = np.cov(features - mean, rowvar=False, dtype=np.float64)
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1][:kept].clip(1e-12), vectors[:, ::-1][:, :kept]
    deviation = np.sqrt(values)
    scale = 1 / np.sqrt(deviation.mean())  # variance of component i after division is its old deviation
    return Basis(mean.astype(np.float32), (vectors / np.sqrt(deviation) * scale).astype(np.float32))


def list_photos(folders: Iterable[str | Path]) -> list[Path]:
    """Every photo in `folders`, folder by folder, by name.

    Raises:
        InputError: a folder is absent or holds no photo.
    """
    photos: list[Path] = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder of photos; pass an existing one")
        found = sorted(p for p in folder.iterdir() if p.suffix.lower() in PHOTO_SUFFIXES)
        if not found:
            raise InputError(f"{folder}: no photo inside; pass a folder of {', '.join(PHOTO_SUFFIXES)} files")
        photos += found
    return photos


def draw_view(photo: Image.Image, size: int, view: int, seed: int) -> UInt8[np.ndarray, "size size 3"]:
    """View `view` of a photo, squashed to `size` pixels.

    View 0 is the photo itself; the others are random crops (35% to 100% of the area, aspect ratio 3/4 to
    4/3) with brightness, contrast and saturation each off by up to a fifth. Same arguments, same view.
    """
    if view == 0:
        return np.asarray(photo.resize((size, size), Image.Resampling.BICUBIC))
    random = np.random.default_rng((seed, view))
    aspect = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
    area = random.uniform(0.35, 1)
    width, height = min(1.0, np.sqrt(area * aspect)), min(1.0, np.sqrt(area / aspect))  # of the sides
    left, top = random.uniform(0, 1 - width), random.uniform(0, 1 - height)
    box = (
        left * photo.width,
        top * photo.height,
        (left + width) * photo.width,
        (top + height) * photo.height,
    )
    image = photo.resize((size, size), Image.Resampling.BICUBIC, box=box)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(random.uniform(0.8, 1.2))
    return np.asarray(image)


class TargetStore:
    """Memory-mapped arrays in one folder, all indexed [view, photo].

    Attributes:
        photos: the photos' paths, in the order of the second index.
        images: uint8 [views, photos, size, size, 3], the views themselves.
        tokens: float16 [views, photos, grid ** 2, dim], teacher features in the `Basis`.
        logits: float16 [views, photos, classes].
        done: bool [views, photos], which entries are filled; held-out photos have view 0 only.
    """

    def __init__(self, folder: str | Path, writable: bool = False) -> None:
        """Open a store that `create` made.

        Raises:
            InputError: no store there.
        """
        self.folder = Path(folder)
        index = self.folder / "index.json"
        if not index.is_file():
            raise InputError(f"{self.folder}: no distillation targets here; build them first")
        meta = json.loads(index.read_text())
        self.photos = [Path(p) for p in meta["photos"]]
        self.teacher: str = meta["teacher"]
        self.size, self.grid, self.dim = int(meta["size"]), int(meta["grid"]), int(meta["dim"])
        self.seed = int(meta["seed"])
        self._mode: Literal["r", "r+"] = "r+" if writable else "r"
        self.images: UInt8[np.ndarray, "views photos size size 3"] = self._open("images")
        self.tokens: Float[np.ndarray, "views photos tokens dim"] = self._open("tokens")
        self.logits: Float[np.ndarray, "views photos classes"] = self._open("logits")
        self.done: Bool[np.ndarray, "views photos"] = self._open("done")
        self.basis = Basis(np.load(self.folder / "mean.npy"), np.load(self.folder / "components.npy"))

    def _open(self, name: str) -> np.ndarray:
        return np.load(self.folder / f"{name}.npy", mmap_mode=self._mode)

    @staticmethod
    def create(
        folder: str | Path,
        photos: Sequence[Path],
        teacher: Teacher,
        source: str,
        basis: Basis,
        views: int,
        seed: int,
    ) -> TargetStore:
        """Lay out an empty store."""
        folder = Path(folder)
        make_folder(folder)
        lead, size, dim = (views, len(photos)), teacher.image_size, basis.components.shape[1]
        layout: dict[str, tuple[tuple[int, ...], type]] = {
            "images": ((*lead, size, size, 3), np.uint8),
            "tokens": ((*lead, teacher.grid**2, dim), np.float16),
            "logits": ((*lead, teacher.classes), np.float16),
            "done": (lead, np.bool_),
        }
        for name, (shape, dtype) in layout.items():
            if 0 in shape:
                np.save(folder / f"{name}.npy", np.empty(shape, dtype))
            else:
                new_array(folder / f"{name}.npy", dtype, shape)
        np.save(folder / "mean.npy", basis.mean)
        np.save(folder / "components.npy", basis.components)
        meta = {
            "teacher": source,
            "photos": [str(p) for p in photos],
            "size": size,
            "grid": teacher.grid,
            "dim": dim,
            "seed": seed,
        }
        write_json(folder / "index.json", meta)
        return TargetStore(folder)


def read_photo(path: Path) -> Image.Image:
    """An RGB photo.

    Raises:
        InputError: the file is no readable image.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise InputError(f"{path}: not a readable photo ({error}); remove it from the folder") from error


def build_targets(
    folder: str | Path,
    photos: Sequence[Path],
    held_out: frozenset[str],
    teacher: str,
    views: int,
    dim: int,
    seed: int = 0,
    workers: int = 1,
    basis_photos: int = 3000,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> TargetStore:
    """Fill a store of targets in `folder`, or what is missing of one that an interruption left.

    Args:
        folder: where the arrays go.
        photos: every photo, in order.
        held_out: file names that get view 0 only and take no part in the basis.
        teacher: a .tflite file, a model folder or a hub name.
        views: views of each photo, the photo itself included.
        dim: width of the targets.
        seed: of the views and of the photos that the basis is fitted on.
        workers: processes, one core each.
        basis_photos: how many photos the basis is fitted on.
        report: called with (entries done, entries in all).

    Raises:
        InputError: a photo or the teacher cannot be read, or the folder holds other targets.
    """
    folder = Path(folder)
    if not (folder / "index.json").exists():
        network = load_teacher(teacher)
        own = [p for p in photos if p.name not in held_out]
        basis = _fit_basis_on(own, network, dim, seed, basis_photos)
        TargetStore.create(folder, photos, network, teacher, basis, views, seed)
    store = TargetStore(folder)
    if store.photos != list(photos) or store.tokens.shape[0] < views or store.dim != dim:
        raise InputError(f"{folder}: holds targets of other photos or settings; pass another cache folder")
    wanted = np.ones((views, len(photos)), bool)  # the store may hold more views than this run asks for
    wanted[1:, [i for i, p in enumerate(photos) if p.name in held_out]] = False
    jobs: list[tuple[str, str, int, list[int]]] = []
    for view in range(views):
        missing = np.flatnonzero(wanted[view] & ~store.done[view]).tolist()
        jobs += [(str(folder), teacher, view, missing[i : i + CHUNK]) for i in range(0, len(missing), CHUNK)]
    total, left = int(wanted.sum()), sum(len(rows) for *_, rows in jobs)
    report(total - left, total)
    if not jobs:
        return store
    for filled in _run(jobs, workers):
        left -= filled
        report(total - left, total)
    return TargetStore(folder)


def _fit_basis_on(photos: Sequence[Path], teacher: Teacher, dim: int, seed: int, count: int) -> Basis:
    """The basis of the feature grids of `count` photos drawn at random."""
    rows = np.random.default_rng(seed).permutation(len(photos))[:count]
    images = (draw_view(read_photo(photos[i]), teacher.image_size, 0, seed) for i in rows)
    return fit_basis(np.concatenate([teacher.features(image[None])[0] for image in images]), dim)


def _run(jobs: Sequence[tuple[str, str, int, list[int]]], workers: int) -> Iterator[int]:
    """Fill every job's rows, here or in worker processes; yields how many, job by job."""
    if workers == 1:
        yield from (_fill(*job) for job in jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from (future.result() for future in as_completed([pool.submit(_fill, *job) for job in jobs]))


def _fill(folder: str, teacher: str, view: int, rows: list[int]) -> int:
    """Fill one view of some photos; returns how many."""
    store, network = TargetStore(folder, writable=True), load_teacher(teacher)
    for row in rows:
        image = draw_view(read_photo(store.photos[row]), store.size, view, seed=store.seed * 1_000_003 + row)
        output = network.outputs(image[None])
        store.images[view, row] = image
        store.tokens[view, row] = store.basis.project(output.features)[0]
        store.logits[view, row] = output.logits[0]
        store.done[view, row] = True
    return len(rows)
