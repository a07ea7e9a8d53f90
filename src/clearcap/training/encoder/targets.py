"""The store of distillation targets: views of photos and what the teacher says about each, on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageEnhance

from clearcap.errors import InputError
from clearcap.training.encoder.teacher import Teacher, load_teacher

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
BASIS_PHOTOS = 3000  # that a basis is fitted on
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
    box = tuple(np.array([left, top, left + width, top + height]) * (photo.size * 2))
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
        """Open a store that `build_targets` made.

        Raises:
            InputError: no store there.
        """
        index = Path(folder) / "index.json"
        if not index.is_file():
            raise InputError(f"{folder}: no distillation targets here; build them first")
        about = json.loads(index.read_text())
        self.photos = [Path(photo) for photo in about["photos"]]
        self.teacher: str = about["teacher"]
        self.seed = int(about["seed"])
        opened = partial(np.load, mmap_mode="r+" if writable else "r")
        self.images: UInt8[np.ndarray, "views photos size size 3"] = opened(index.with_name("images.npy"))
        self.tokens: Float[np.ndarray, "views photos tokens dim"] = opened(index.with_name("tokens.npy"))
        self.logits: Float[np.ndarray, "views photos classes"] = opened(index.with_name("logits.npy"))
        self.done: Bool[np.ndarray, "views photos"] = opened(index.with_name("done.npy"))
        self.basis = Basis(*(np.load(index.with_name(f"{name}.npy")) for name in ("mean", "components")))
        self.size, self.grid = self.images.shape[2], math.isqrt(self.tokens.shape[2])


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
        report: called with (entries done, entries in all).

    Raises:
        InputError: a photo or the teacher cannot be read, or the folder holds other targets.
    """
    folder = Path(folder)
    if not (folder / "index.json").exists():
        network = load_teacher(teacher)
        own = [photo for photo in photos if photo.name not in held_out]
        own = [own[i] for i in np.random.default_rng(seed).permutation(len(own))[:BASIS_PHOTOS]]
        images = (draw_view(read_photo(photo), network.image_size, 0, seed) for photo in own)
        features = np.concatenate([network.outputs(image[None]).features[0] for image in images])
        _lay_out(folder, photos, network, teacher, fit_basis(features, dim), views, seed)
    store = TargetStore(folder)
    if store.photos != list(photos) or store.tokens.shape[0] < views or store.tokens.shape[3] != dim:
        raise InputError(f"{folder}: holds targets of other photos or settings; pass another cache folder")
    wanted = np.ones((views, len(photos)), bool)  # the store may hold more views than this run asks for
    wanted[1:, [photo.name in held_out for photo in photos]] = False
    missing = np.argwhere(wanted & ~store.done[:views]).tolist()
    chunks = [missing[i : i + CHUNK] for i in range(0, len(missing), CHUNK)]
    total = int(wanted.sum())
    done = total - len(missing)
    report(done, total)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        fill = partial(_fill, folder, teacher)
        for filled in pool.map(fill, chunks) if workers > 1 else map(fill, chunks):
            done += filled
            report(done, total)
    return TargetStore(folder)


def _lay_out(
    folder: Path, photos: Sequence[Path], teacher: Teacher, source: str, basis: Basis, views: int, seed: int
) -> None:
    """An empty store (sparse files, so nothing is written yet)."""
    folder.mkdir(parents=True, exist_ok=True)
    lead, size = (views, len(photos)), teacher.image_size
    layout: dict[str, tuple[tuple[int, ...], type]] = {
        "images": ((*lead, size, size, 3), np.uint8),
        "tokens": ((*lead, teacher.grid**2, basis.components.shape[1]), np.float16),
        "logits": ((*lead, teacher.classes), np.float16),
        "done": (lead, np.bool_),
    }
    for name, (shape, dtype) in layout.items():
        if 0 in shape:
            np.save(folder / f"{name}.npy", np.empty(shape, dtype))
        else:
            np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape)
    np.save(folder / "mean.npy", basis.mean)
    np.save(folder / "components.npy", basis.components)
    about = {"teacher": source, "photos": [str(photo) for photo in photos], "seed": seed}
    (folder / "index.json").write_text(json.dumps(about))


def _fill(folder: Path, teacher: str, places: list[list[int]]) -> int:
    """Fill some entries [view, photo]; returns how many."""
    store, network = TargetStore(folder, writable=True), load_teacher(teacher)
    for view, row in places:
        image = draw_view(read_photo(store.photos[row]), store.size, view, seed=store.seed * 1_000_003 + row)
        output = network.outputs(image[None])
        store.images[view, row] = image
        store.tokens[view, row] = store.basis.project(output.features)[0]
        store.logits[view, row] = output.logits[0]
        store.done[view, row] = True
    return len(places)
