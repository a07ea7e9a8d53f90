"""A BERT split in half as text space (LaDiC, section 3.2)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from clearcap.errors import InputError
from clearcap.layers import init_bert
from clearcap.text.bert import (
    Attend,
    BertEncoder,
    BertLayer,
    BertWordHead,
    fused_attention,
    plain_attention,
)
from clearcap.text.interface import TextSpace


class SplitBertSpace(TextSpace):
    """A BERT split in half (LaDiC, section 3.2).

    The lower layers encode; latents are normalised per channel; every position that is not a word takes one
    fixed latent; the upper layers (none: the identity of the authors' code) and an untied, trainable LM head
    decode.
    """

    encoder: Any  # a BertEncoder; nn.Module's own typing would make its parts "Tensor or Module"
    upper: nn.ModuleList
    lm_head: Any  # a BertWordHead
    mean: Tensor
    std: Tensor
    special: Tensor

    def __init__(
        self,
        *,
        encoder: nn.Module,
        upper: nn.ModuleList,
        lm_head: nn.Module,
        dim: int,
        pad_id: int,
        cls_id: int,
        sep_id: int,
        filler_id: int,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.upper = upper
        self.lm_head = lm_head
        self.dim = dim
        self.filler_id = filler_id
        self.special_ids = tuple(sorted({pad_id, cls_id, sep_id, filler_id}))
        self._replaced = torch.tensor(sorted({pad_id, cls_id, sep_id}))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        self.register_buffer("special", torch.zeros(dim))
        self.encoder.requires_grad_(False).eval()  # dropout would blur statistics and special latent too
        self.upper.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> SplitBertSpace:
        """The frozen halves stay in evaluation mode: dropout in the encoder would make x0 a moving target."""
        super().train(mode)
        self.encoder.eval()
        self.upper.eval()
        return self

    @torch.no_grad()
    def contextual(
        self, ids: Int[Tensor, "batch length"], mask: Int[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length dim"]:
        """The lower half's output, not normalised."""
        return self.encoder(ids, mask)

    @torch.no_grad()
    def encode(
        self, ids: Int[Tensor, "batch length"], mask: Int[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length dim"]:
        x = (self.contextual(ids, mask) - self.mean) / self.std
        return torch.where(word_positions(mask)[..., None], x, self.special)

    def decode(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length vocab"]:
        h = x * self.std + self.mean
        for layer in self.upper:
            h = layer(h)
        return self.lm_head(h)

    @torch.no_grad()
    def masked_logits(
        self, ids: Int[Tensor, "batch length"], mask: Int[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length vocab"]:
        """What the whole BERT says stands at each position, [MASK]s included: its masked language model.

        Both halves are as they were pre-trained; the LM head has since been trained to read latents, so this is
        a weaker language model than the one the halves came from.

        Raises:
            InputError: the decoder is the identity, so there is no upper half.
        """
        if not len(self.upper):
            raise InputError(
                "this text space kept no upper half of its BERT, so it is no masked language model; pass one"
            )
        h = self.contextual(ids, mask)
        for layer in self.upper:
            h = layer(h, mask[:, None, None, :].bool())
        return self.lm_head(h)

    def targets(self, ids: Int[Tensor, "batch length"]) -> Int[Tensor, "batch length"]:
        return torch.where(torch.isin(ids, self._replaced.to(ids.device)), self.filler_id, ids)

    @torch.no_grad()
    def set_statistics(self, mean: Float[Tensor, " dim"], std: Float[Tensor, " dim"]) -> None:
        """Channel statistics of the corpus (see ``clearcap.training.statistics``).

        Raises:
            InputError: a standard deviation is not positive.
        """
        if not bool((std > 0).all()):
            raise InputError("a latent channel never varies (std 0); compute statistics on more captions")
        self.mean.copy_(mean)
        self.std.copy_(std)

    @torch.no_grad()
    def set_special_latent(self, kind: str, ids: Int[Tensor, "1 length"]) -> None:
        """What every position that is not a word holds.

        Args:
            kind: "zero" (the paper), "raw" (the authors' code: the lower half's vector of "." put, not
                normalised, among normalised ones) or "normalised" (the same vector, normalised).
            ids: ``[CLS] . [SEP]``.
        """
        vector = self.contextual(ids, torch.ones_like(ids))[0, 1]
        choices = {
            "zero": torch.zeros_like(vector),
            "raw": vector,
            "normalised": (vector - self.mean) / self.std,
        }
        if kind not in choices:
            raise InputError(f"unknown special latent {kind!r}; choose one of {', '.join(choices)}")
        self.special.copy_(choices[kind])


def word_positions(mask: Int[Tensor, "batch length"]) -> Tensor:
    """True where a word stands: inside [CLS] .. [SEP], never the first or last position (LaDiC's mask')."""
    words = torch.roll(mask, -1, dims=1).bool()
    words[:, 0] = False
    words[:, -1] = False
    return words


def build_split_bert(
    bert: dict[str, Any],
    *,
    split: int,
    identity_decoder: bool,
    pad_id: int,
    cls_id: int,
    sep_id: int,
    filler_id: int,
) -> SplitBertSpace:
    """A randomly initialised split BERT.

    Args:
        bert: sizes by their names in ``transformers.BertConfig``; ``num_hidden_layers`` counts both halves.
        split: layers of the lower half.
        identity_decoder: decode with the LM head alone, as the authors' code does.
        pad_id, cls_id, sep_id: the tokenizer's special tokens.
        filler_id: the token that stands for special positions in the caption loss.
    """
    depth, width, eps = bert["num_hidden_layers"], bert["hidden_size"], bert.get("layer_norm_eps", 1e-12)
    act = bert.get("hidden_act", "gelu")
    if not 0 < split <= depth:
        raise InputError(f"split={split} must lie between 1 and the {depth} layers of the BERT")

    def layers(count: int, attend: Attend) -> nn.ModuleList:
        sizes = {"heads": bert["num_attention_heads"], "hidden": bert["intermediate_size"]}
        return nn.ModuleList(
            BertLayer(width=width, eps=eps, act=act, attend=attend, **sizes) for _ in range(count)
        )

    space = SplitBertSpace(
        encoder=BertEncoder(
            layers(split, fused_attention),
            vocab=bert["vocab_size"],
            width=width,
            positions=bert.get("max_position_embeddings", 512),
            types=bert.get("type_vocab_size", 2),
            eps=eps,
        ),
        upper=layers(0 if identity_decoder else depth - split, plain_attention),
        lm_head=BertWordHead(width=width, vocab=bert["vocab_size"], eps=eps, act=act),
        dim=width,
        pad_id=pad_id,
        cls_id=cls_id,
        sep_id=sep_id,
        filler_id=filler_id,
    )
    space.encoder.apply(init_bert)
    return space


@torch.no_grad()
def copy_from_masked_lm(space: SplitBertSpace, masked_lm: Any) -> None:
    """Fill a split BERT from a ``BertForMaskedLM``: lower and upper layers, and the LM head, untied.

    Args:
        space: made with the same sizes.
        masked_lm: ``transformers.BertForMaskedLM`` with at least the layers that ``space`` has.
    """
    bert = masked_lm.bert
    lower = space.encoder.encoder["layer"]
    split = len(lower)
    space.encoder.embeddings.load_state_dict(bert.embeddings.state_dict())
    halves = [(lower, bert.encoder.layer[:split])]
    if len(space.upper):  # the identity decoder has no use for the upper half
        halves.append((space.upper, bert.encoder.layer[split:]))
    for half, layers in halves:
        for mine, theirs in zip(half, layers, strict=True):
            mine.load_state_dict(theirs.state_dict())
    head = {k: v for k, v in masked_lm.cls.state_dict().items() if k != "predictions.bias"}
    space.lm_head.load_state_dict(head)
