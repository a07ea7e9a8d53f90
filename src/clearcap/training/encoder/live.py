"""Views drawn, mixed and shown to the teacher within the step that learns from them, for a GPU.

A student that never sees the same view twice, and always sees the very pixels that its teacher sees, has nothing to
overfit to: with mixtures of photos among the views it approaches the teacher as long as it is trained (Beyer et al.
2022, "Knowledge distillation: a good teacher is patient and consistent").
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from clearcap.data.ahead import ahead
from clearcap.training.encoder.batches import Batch, Split, shrunk, step_generator, to_unit
from clearcap.training.encoder.starting import FITTED_PHOTOS, turning
from clearcap.training.encoder.targets import BASIS_PHOTOS, Basis, draw_view, fit_basis, read_photo
from clearcap.training.encoder.teacher import load_teacher
from clearcap.vision.compact import CompactEncoder, load_compact

WHOLE = 0.2  # share of views that are the whole photo, as at captioning
MIXED = 0.5  # share of views that are mixtures of two
AT_ONCE = 256  # photos shown to a network outside training


class LiveData:
    """All photos as bytes in the device's memory, and a teacher beside them."""

    def __init__(
        self,
        split: Split,
        photos: Sequence[Path],
        teacher: str,
        dim: int,
        seed: int,
        init: str,
        device: torch.device,
        report: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Read every photo and fit the axes of the targets.

        Args:
            split: of the photos.
            photos: files, squashed to the teacher's size.
            teacher: of `load_teacher`.
            dim: width of the targets.
            seed: of the views.
            init: folder of an encoder whose axes the targets are turned to; "" for none.
            device: where photos, teacher and student are.
            report: called with (photos read, photos in all).

        Raises:
            InputError: a photo or the teacher cannot be read.
        """
        self.split, self.seed, self.device = split, seed, device
        self.network = load_teacher(teacher, device)
        self.size, self.grid, self.classes = self.network.image_size, self.network.grid, self.network.classes
        pixels = torch.empty(len(photos), 3, self.size, self.size, dtype=torch.uint8)

        def squashed(path: Path) -> UInt8[np.ndarray, "size size 3"]:
            return draw_view(read_photo(path), self.size, 0, 0)

        threads = os.cpu_count() or 1
        for i, view in enumerate(ahead(squashed, photos, threads=threads, depth=4 * threads)):
            pixels[i] = torch.tensor(view).permute(2, 0, 1)
            report(i + 1, len(photos))
        self.photos = pixels.to(device)
        self.words, self.known = split.words.to(device), split.known.to(device)
        order = torch.randperm(len(split.rows), generator=torch.Generator().manual_seed(seed))
        features, _ = self._asked(split.rows[order[:BASIS_PHOTOS]])
        basis = fit_basis(features.flatten(0, 1).cpu().numpy(), dim)
        if init:
            basis = self._turned(basis, load_compact(init))
        self.mean = torch.from_numpy(basis.mean).to(device)
        self.components = torch.from_numpy(basis.components).to(device)

    def _whole(self, rows: Tensor, size: int = AT_ONCE) -> Iterator[Tensor]:
        """Photos as they are, `size` at once."""
        return (to_unit(self.photos[part]) for part in rows.to(self.device).split(size))

    @torch.inference_mode()
    def _asked(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """What the teacher says of whole photos."""
        features, logits = zip(*map(self.network.ask, self._whole(rows)), strict=True)
        return torch.cat(features), torch.cat(logits)

    @torch.inference_mode()
    def _turned(self, basis: Basis, encoder: CompactEncoder) -> Basis:
        """The basis whose targets are nearest to the tokens of an encoder, so that it goes on in its own axes."""
        rows, encoder = self.split.rows[:FITTED_PHOTOS], encoder.to(self.device)
        own = torch.cat([encoder(images) for images in self._whole(rows)]).flatten(0, 1).cpu().double()
        targets = torch.from_numpy(basis.project(self._asked(rows)[0].cpu().numpy()))
        rotation = turning(targets.flatten(0, 1).double(), own)
        return Basis(basis.mean, (basis.components @ rotation.numpy()).astype(np.float32))

    def batches(self, start: int, size: int, image_size: Callable[[], int]) -> Iterator[Batch]:
        """Batches from step `start` on, each a function of seed and step, at the size of the moment."""
        for step in range(start, 2**31):
            batch = self.batch(step, size)
            images, tokens = shrunk(batch.images, batch.tokens, image_size())
            yield batch._replace(images=images, tokens=tokens)

    @torch.no_grad()
    def batch(self, step: int, size: int) -> Batch:
        """`size` fresh views, some of them mixed, and what the teacher says of them.

        Raises:
            InputError: fewer photos than a batch.
        """
        rows = self.split.rows_of(step, size, self.seed).to(self.device)
        generator = step_generator(self.seed, step, self.device)
        images = recoloured(drawn(self.photos[rows], generator), generator)
        share = torch.rand(size, device=self.device, generator=generator)
        mixed = torch.rand(size, device=self.device, generator=generator) < MIXED
        share = torch.where(mixed, share, torch.ones_like(share))
        images = mix(images, share[:, None, None, None])
        features, logits = self.network.ask(images)
        words, known = mix(self.words[rows], share[:, None]), self.known[rows]
        known = known & (known.roll(1) | ~mixed)
        return Batch(images, (features - self.mean) @ self.components, logits, words, known)

    def held(self, size: int) -> tuple[Iterator[Tensor], Tensor, Tensor]:
        """The held-out photos in batches of `size`, their targets and the teacher's logits of them."""
        rows = torch.tensor(self.split.held_out, dtype=torch.int64)
        features, logits = self._asked(rows)
        return self._whole(rows, size), (features - self.mean) @ self.components, logits


def drawn(
    photos: UInt8[Tensor, "batch 3 height width"], generator: torch.Generator
) -> Float[Tensor, "batch 3 height width"]:
    """Random crops (35% to 100% of the area, aspect ratio 3/4 to 4/3) stretched to the whole, half of them mirrored."""
    count, device = len(photos), photos.device
    random = torch.rand(6, count, device=device, generator=generator)
    aspect = torch.exp((2 * random[0] - 1) * math.log(4 / 3))
    area = torch.where(random[1] < WHOLE, torch.ones_like(aspect), 0.35 + 0.65 * random[2])
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    width, height = width.masked_fill(area == 1, 1), height.masked_fill(area == 1, 1)  # shares of the sides
    # Centres in -1..1; a crop of share w leaves 1 - w on either side of the middle.
    x, y = (2 * random[3] - 1) * (1 - width), (2 * random[4] - 1) * (1 - height)
    width = torch.where(random[5] < 0.5, -width, width)
    affine = torch.cat(
        (torch.diag_embed(torch.stack((width, height), 1)), torch.stack((x, y), 1)[..., None]), 2
    )
    grid = F.affine_grid(affine, list(photos.shape), align_corners=False)
    return F.grid_sample(to_unit(photos), grid, padding_mode="border", align_corners=False)


def recoloured(
    images: Float[Tensor, "batch 3 height width"], generator: torch.Generator
) -> Float[Tensor, "batch 3 height width"]:
    """Brightness, contrast and saturation each off by up to a fifth, each channel by up to 15%."""

    def around_one(amount: float, channels: int = 1) -> Tensor:
        shape = (len(images), channels, 1)
        return 1 + amount * (2 * torch.rand(shape, device=images.device, generator=generator) - 1)

    # All four at once: one matrix [out, in] and one constant per photo, since each is linear in the three channels.
    saturation, contrast, gain = around_one(0.2), around_one(0.2), around_one(0.2) * around_one(0.15, 3)
    same, mean = torch.eye(3, device=images.device), torch.full((3, 3), 1 / 3, device=images.device)
    matrix = gain * contrast * (saturation * same + (1 - saturation) * mean)
    flat = images.flatten(2)
    constant = gain * (1 - contrast) * flat.mean((1, 2), keepdim=True)
    return torch.baddbmm(constant, matrix, flat).clamp_(0, 1).view_as(images)


def mix(
    values: Float[Tensor, "batch *rest"], share: Float[Tensor, "batch *ones"]
) -> Float[Tensor, "batch *rest"]:
    """`share` of each row and the rest of its neighbour (Zhang et al. 2018, mixup)."""
    return torch.lerp(values.roll(1, 0), values, share)
