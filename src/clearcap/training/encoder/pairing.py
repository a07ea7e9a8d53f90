"""Gives a trained captioner a second encoder: what it adds to each token is learned with the denoiser, from nothing."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clearcap.diffusion.ladic import Draws
from clearcap.diffusion.noise import Noise
from clearcap.training.objectives import LadicObjective
from clearcap.vision.compact import CompactEncoder
from clearcap.vision.efficientnet import HEAD, EfficientNetEncoder, settings_of_both


class Basis(NamedTuple):
    """What turns the second encoder's last grid into features: they are (grid - mean) @ components."""

    mean: Float[Tensor, " channels"]
    components: Float[Tensor, "channels features"]

    def features(
        self, grid: Float[Tensor, "photos tokens channels"]
    ) -> Float[Tensor, "photos tokens features"]:
        """Features of last grids."""
        return (grid - self.mean) @ self.components


class PairedObjective(LadicObjective):
    """LaDiC's losses on tokens to which a linear map of a second encoder's features is added.

    The map begins at zero, so that the captioner begins where it was.
    """

    def __init__(self, captioner: Any, noise: Noise, features: int) -> None:
        """Args:
        captioner: the one that goes on.
        noise: corruption.
        features: channels of the second encoder's features, which stand behind the first one's tokens.
        """
        super().__init__(captioner, noise)
        self.dim = int(captioner.config.vision["dim"])
        self.mix = nn.Linear(features, self.dim)
        nn.init.zeros_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)

    def mixed(self, image: Float[Tensor, "photos tokens both"]) -> Float[Tensor, "photos tokens dim"]:
        """The tokens that the denoiser sees."""
        return image[..., : self.dim] + self.mix(image[..., self.dim :])

    def forward(
        self, image: Tensor, has_image: Tensor, x0: Tensor, ids: Tensor, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        """Latent loss and caption loss, as of ``LadicObjective``; ``image`` holds both encoders' channels."""
        return super().forward(self.mixed(image), has_image, x0, ids, draws)


@torch.no_grad()
def paired(
    captioner: Any,
    second: EfficientNetEncoder,
    basis: Basis,
    mix: nn.Linear,
) -> Any:
    """The captioner with both encoders: the linear map and the features it is of become the second one's projection.

    Args:
        captioner: trained with ``PairedObjective``; its encoder is the compact one.
        second: its last grid gave the features.
        basis: of the features.
        mix: the trained map.
    """
    assert isinstance(captioner.vision, CompactEncoder)
    weight = mix.weight.double() @ basis.components.double().T
    assert weight.shape[1] == HEAD
    second = copy.deepcopy(second)
    second.project.weight.copy_(weight)
    second.project.bias.copy_(mix.bias.double() - weight @ basis.mean.double())
    config = copy.deepcopy(captioner.config)
    config.vision = {**config.vision, "kind": "pair", "source": ""}
    config.tower = settings_of_both(captioner.vision, second)
    made = type(captioner)(config)
    for part, trained in (
        (made.text, captioner.text),
        (made.denoiser, captioner.denoiser),
        (made.vision.compact, captioner.vision),
        (made.vision.efficientnet, second),
    ):
        part.load_state_dict(trained.state_dict(), strict=True)
    return made.eval()


@torch.no_grad()
def between(before: Any, after: Any, way: float, map_scale: float = 1.0) -> Any:
    """A captioner whose weights lie between those it began at and those it came to (Wortsman et al. 2022).

    What a short training forgets comes back sooner than what it learned goes.

    Args:
        before: the captioner that ``PairedObjective`` began with.
        after: what ``paired`` made; left as it is.
        way: 0 takes text space and denoiser of ``before``, 1 of ``after``.
        map_scale: factor of what the second encoder adds.
    """
    made = copy.deepcopy(after)
    old = dict(before.named_parameters())
    for name, p in made.named_parameters():
        if not name.startswith("vision."):
            p.lerp_(old[name].to(p.dtype), 1 - way)
    made.vision.efficientnet.project.weight.mul_(map_scale)
    made.vision.efficientnet.project.bias.mul_(map_scale)
    return made
