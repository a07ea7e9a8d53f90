"""A scorer: how well captions fit a photo, as the cosine of two vectors of a small contrastive model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from clearcap.arrays import ImageTokens
from clearcap.arrays.layers import Block, init_bert
from clearcap.captioner.fingerprint import check_fingerprint, pooled_tokens
from clearcap.captioner.generating import CaptionModel
from clearcap.config import check_choices, knob, require
from clearcap.data.writing import whole_file
from clearcap.errors import InputError
from clearcap.text.tokenizer import clean_caption

AGAIN = "make it with clearcap train-scorer"


@dataclass(frozen=True)
class ScorerConfig:
    """Sizes of a scorer; the defaults come to 3 MB in float16."""

    width: int = knob(128, "channels of the text tower")
    depth: int = knob(2, "layers of the text tower")
    heads: int = knob(4, "attention heads of the text tower")
    hidden: int = knob(384, "feed-forward channels of the text tower")
    length: int = knob(24, "word pieces of a caption that are read")
    looks: int = knob(4, "weighted means of a photo's tokens, beside their mean and maximum")
    inner: int = knob(256, "hidden channels of the photo tower")
    dim: int = knob(256, "channels of the vectors that are compared")

    def __post_init__(self) -> None:
        check_choices(self)
        for name, value in asdict(self).items():
            require(value >= 1, f"scorer.{name}={value} must be at least 1")
        require(
            self.width % self.heads == 0,
            f"scorer.width={self.width} is not a multiple of scorer.heads={self.heads}",
        )


class PhotoTower(nn.Module):
    """A photo's tokens to a vector: mean, maximum and a few learned weighted means, then two layers."""

    def __init__(self, image_dim: int, looks: int, inner: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.looks = nn.Linear(image_dim, looks)
        self.norm = nn.LayerNorm((2 + looks) * image_dim)
        self.drop = nn.Dropout(dropout)
        self.up, self.down = nn.Linear((2 + looks) * image_dim, inner), nn.Linear(inner, dim)

    def forward(self, tokens: ImageTokens) -> Float[Tensor, "photos dim"]:
        """Vectors of photos, not yet of length 1."""
        tokens = tokens.float()
        weighted = self.looks(tokens).softmax(1).transpose(1, 2) @ tokens
        seen = self.drop(self.norm(torch.cat((pooled_tokens(tokens), weighted.flatten(1)), 1)))
        return self.down(self.drop(F.gelu(self.up(seen))))


class TextTower(nn.Module):
    """A caption's word pieces to a vector: a small transformer, then the mean and the maximum of its positions."""

    def __init__(
        self,
        vocab: int,
        width: int,
        depth: int,
        heads: int,
        hidden: int,
        length: int,
        dim: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(vocab, width)
        self.positions = nn.Parameter(torch.zeros(length, width))
        self.norm = nn.LayerNorm(width)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(width, heads, hidden, None, dropout, eps=1e-6) for _ in range(depth)
        )
        self.out = nn.Linear(2 * width, dim)

    def forward(self, ids: Int[Tensor, "captions length"], pad: int) -> Float[Tensor, "captions dim"]:
        """Vectors of captions, not yet of length 1; ``pad`` is the padding's id."""
        ids = ids[
            :, : max(1, int((ids != pad).sum(1).max()))
        ]  # no caption goes on behind the longest one's end
        said = ids != pad
        said[:, 0] = True  # a caption without a word has a vector, too
        h = self.drop(self.norm(self.words(ids) + self.positions[: ids.shape[1]]))
        mask = torch.where(said, 0.0, -1e4)[:, None, None]
        for block in self.blocks:
            h = block(h, mask=mask)
        mean = (h * said[..., None]).sum(1) / said.sum(1, keepdim=True)
        return self.out(torch.cat((mean, h.masked_fill(~said[..., None], -1e4).amax(1)), 1))


class Scorer(nn.Module):
    """Photos and captions as unit vectors of one space (CLIP, Radford et al. 2021, at a thousandth of its size).

    Attributes:
        sizes: of its towers.
        scale: logarithm of what cosines are multiplied by in training.
    """

    def __init__(
        self, sizes: ScorerConfig, *, vocab: int, image_dim: int, pad: int, dropout: float = 0.0
    ) -> None:
        """Args:
        sizes: of its towers.
        vocab: word pieces of the captioner's tokenizer.
        image_dim: channels of its image tokens.
        pad: word piece that stands behind captions.
        dropout: while training.
        """
        super().__init__()
        self.sizes, self.pad = sizes, pad
        self.photos = PhotoTower(image_dim, sizes.looks, sizes.inner, sizes.dim, dropout)
        self.texts = TextTower(
            vocab, sizes.width, sizes.depth, sizes.heads, sizes.hidden, sizes.length, sizes.dim, dropout
        )
        self.scale = nn.Parameter(torch.tensor(np.log(1 / 0.07), dtype=torch.float32))
        self.apply(init_bert)

    def photo_vectors(self, tokens: ImageTokens) -> Float[Tensor, "photos dim"]:
        """Unit vectors of photos, of their image tokens."""
        return F.normalize(self.photos(tokens), dim=-1)

    def text_vectors(self, ids: Int[Tensor, "captions length"]) -> Float[Tensor, "captions dim"]:
        """Unit vectors of captions, of their word pieces."""
        return F.normalize(self.texts(ids, self.pad), dim=-1)


@dataclass(frozen=True)
class Judge:
    """A scorer with the tokenizer of the captioner that it belongs to."""

    scorer: Scorer
    tokenizer: Any

    @classmethod
    def load(cls, file: Path, captioner: CaptionModel, tokenizer: Any) -> Judge:
        """Read a scorer that belongs to a captioner.

        Args:
            file: ``scorer.safetensors``.
            captioner: it; the scorer goes to its device.
            tokenizer: its.

        Raises:
            InputError: the file is missing or damaged, or was made for another encoder or vocabulary, or the captioner
                gives no image tokens.
        """
        from safetensors import SafetensorError, safe_open

        if not file.is_file():
            raise InputError(f"{file}: no such file; {AGAIN}")
        try:
            with safe_open(file, "pt") as held:
                about = json.loads((held.metadata() or {})["clearcap.scorer"])
                state = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118  # no mapping
            known = state.pop("encoder").numpy()
            scorer = Scorer(
                ScorerConfig(**about["sizes"]),
                vocab=len(state["texts.words.weight"]),
                image_dim=state["photos.looks.weight"].shape[1],
                pad=about["pad"],
            )
            scorer.load_state_dict({name: tensor.float() for name, tensor in state.items()})
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as fault:
            reason = " ".join(str(fault).split())
            raise InputError(f"{file}: no scorer can be read from it ({reason}); {AGAIN}") from fault
        if about.get("vocabulary") != vocabulary_digest(tokenizer):
            raise InputError(f"{file} was made with another vocabulary; make it again with this model")
        check_fingerprint(captioner, known, str(file))
        return cls(scorer.eval().to(captioner.device), tokenizer)

    @torch.inference_mode()
    def similarity(
        self, tokens: Float[Tensor, "tokens image_dim"], captions: Sequence[str]
    ) -> Float[np.ndarray, " captions"]:
        """Cosine of one photo, given as its image tokens, with each of several captions."""
        ids = word_pieces(self.tokenizer, captions, self.scorer.sizes.length, self.scorer.pad)
        texts = self.scorer.text_vectors(ids.to(tokens.device))
        return (texts @ self.scorer.photo_vectors(tokens[None])[0]).cpu().numpy()


def save_scorer(scorer: Scorer, tokenizer: Any, encoder: Float[np.ndarray, " pooled"], file: Path) -> None:
    """Write a scorer in float16, with the fingerprint of the encoder whose tokens it reads.

    Args:
        scorer: trained.
        tokenizer: the captioner's.
        encoder: fingerprint of the captioner's encoder.
        file: to write, whole.
    """
    from safetensors.torch import save_file

    about = {"sizes": asdict(scorer.sizes), "pad": scorer.pad, "vocabulary": vocabulary_digest(tokenizer)}
    state = {name: tensor.detach().half().cpu().contiguous() for name, tensor in scorer.state_dict().items()}
    with whole_file(file) as fresh:
        save_file(
            {**state, "encoder": torch.from_numpy(encoder)}, fresh, {"clearcap.scorer": json.dumps(about)}
        )


def word_pieces(
    tokenizer: Any, captions: Sequence[str], length: int, pad: int
) -> Int[Tensor, "captions length"]:
    """Ids of captions' word pieces, without special tokens, cut and padded to a length."""
    found = [
        list(tokenizer.convert_tokens_to_ids(tokenizer.tokenize(clean_caption(caption, keep_period=False))))[
            :length
        ]
        for caption in captions
    ]
    ids = torch.full((len(found), length), pad)
    for row, pieces in zip(ids, found, strict=True):
        row[: len(pieces)] = torch.tensor(pieces, dtype=ids.dtype)
    return ids


def vocabulary_digest(tokenizer: Any) -> str:
    """SHA-256 of a tokenizer's word pieces and their ids."""
    pieces = sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0]))
    return hashlib.sha256(json.dumps(pieces).encode()).hexdigest()
