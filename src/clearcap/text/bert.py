"""BERT's layers and word head under transformers' tensor names, for inference of its frozen halves.

transformers' own classes compute the same (tests/test_bert.py compares them), but importing them costs more time
than everything else that captioning one photo needs. Dropout is left out: both halves are always frozen.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from clearcap.errors import InputError

Attend: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {  # by BertConfig's names
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The activation that a BERT's ``hidden_act`` names.

    Raises:
        InputError: not one of ``ACTIVATIONS``.
    """
    if name not in ACTIVATIONS:
        raise InputError(f"hidden_act={name!r} is not among {', '.join(ACTIVATIONS)}; use another BERT")
    return ACTIVATIONS[name]


def fused_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention by the fused kernel."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention written out, whose bf16 backward is 5x faster than the fused kernel's at caption lengths."""
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1) @ v


class BertLayer(nn.Module):
    """Self-attention and a feed-forward part, each added to its input and normalised after (Devlin et al. 2019)."""

    def __init__(self, *, width: int, heads: int, hidden: int, eps: float, act: str, attend: Attend) -> None:
        """Args:
        width: channels.
        heads: of the attention; divide the width.
        hidden: channels of the feed-forward part.
        eps: of the normalisations.
        act: activation, by BertConfig's name.
        attend: how attention is computed.
        """
        super().__init__()
        if width % heads:
            raise InputError(f"num_attention_heads={heads} does not divide hidden_size={width}; change one")
        self.heads, self.act, self.attend = heads, activation(act), attend
        qkv = {name: nn.Linear(width, width) for name in ("query", "key", "value")}
        self.attention = nn.ModuleDict({"self": nn.ModuleDict(qkv), "output": _added(width, width, eps)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, hidden)})
        self.output = _added(hidden, width, eps)

    def forward(
        self, x: Float[Tensor, "batch length width"], mask: Bool[Tensor, "batch 1 1 length"] | None = None
    ) -> Float[Tensor, "batch length width"]:
        """Attend to the positions that the mask leaves, then the feed-forward part."""
        own: Any = self.attention["self"]
        q, k, v = (
            own[name](x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for name in ("query", "key", "value")
        )
        mixed = self.attend(q, k, v, mask).transpose(1, 2).flatten(2)
        x = _add(self.attention["output"], mixed, x)
        return _add(self.output, self.act(self.intermediate["dense"](x)), x)


class BertEncoder(nn.Module):
    """Token ids to contextual vectors: embeddings and the lower layers."""

    def __init__(
        self, layers: nn.ModuleList, *, vocab: int, width: int, positions: int, types: int, eps: float
    ) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(vocab, width),
                "position_embeddings": nn.Embedding(positions, width),
                "token_type_embeddings": nn.Embedding(types, width),
                "LayerNorm": nn.LayerNorm(width, eps=eps),
            }
        )
        self.encoder = nn.ModuleDict({"layer": layers})

    def forward(
        self, ids: Int[Tensor, "batch length"], mask: Int[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length width"]:
        """The last layer's output; positions where the mask is 0 are not attended to."""
        of: Any = self.embeddings
        place = torch.arange(ids.shape[1], device=ids.device)
        x = of["word_embeddings"](ids) + of["token_type_embeddings"](torch.zeros_like(ids))
        x = of["LayerNorm"](x + of["position_embeddings"](place))
        layers: Any = self.encoder["layer"]
        for layer in layers:
            x = layer(x, mask.bool()[:, None, None, :])
        return x


class BertWordHead(nn.Module):
    """Vectors to token logits, with a word matrix of its own."""

    def __init__(self, *, width: int, vocab: int, eps: float, act: str) -> None:
        super().__init__()
        self.act = activation(act)
        transform = nn.ModuleDict(
            {"dense": nn.Linear(width, width), "LayerNorm": nn.LayerNorm(width, eps=eps)}
        )
        self.predictions = nn.ModuleDict({"transform": transform, "decoder": nn.Linear(width, vocab)})

    def forward(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length vocab"]:
        """Transform, normalise, then products with every word."""
        head: Any = self.predictions
        logits: Tensor = head["decoder"](
            head["transform"]["LayerNorm"](self.act(head["transform"]["dense"](x)))
        )
        return logits


def _added(inputs: int, width: int, eps: float) -> nn.ModuleDict:
    return nn.ModuleDict({"dense": nn.Linear(inputs, width), "LayerNorm": nn.LayerNorm(width, eps=eps)})


def _add(output: Any, h: Tensor, x: Tensor) -> Tensor:
    added: Tensor = output["LayerNorm"](output["dense"](h) + x)
    return added
