"""Text spaces: caption ids to a normalised latent x0, and a latent back to token logits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from clearcap.errors import InputError


class TextSpace(nn.Module, ABC):
    """What a diffusion captioner needs to know about text.

    Attributes:
        dim: channels of a latent.
        special_ids: token ids that are not words ([PAD], [CLS], [SEP], and what stands for them).
        filler_id: the token that stands for every special position in the caption loss.
    """

    dim: int
    special_ids: tuple[int, ...]
    filler_id: int

    @abstractmethod
    def encode(
        self, ids: Int[Tensor, "batch length"], mask: Int[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length dim"]:
        """The clean latent x0 of captions."""

    @abstractmethod
    def decode(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length vocab"]:
        """Token logits of (predicted) clean latents."""

    @abstractmethod
    def targets(self, ids: Int[Tensor, "batch length"]) -> Int[Tensor, "batch length"]:
        """The token ids the caption loss asks for."""


class SplitBertSpace(TextSpace):
    """A BERT split in half (LaDiC, section 3.2).

    The lower layers encode; latents are normalised per channel; every position that is not a word takes one
    fixed latent; the upper layers (none: the identity of the authors' code) and an untied, trainable LM head
    decode.
    """

    encoder: Any  # a BertModel; nn.Module's own typing would make its parts "Tensor or Module"
    upper: nn.ModuleList
    lm_head: Any  # a BertOnlyMLMHead
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
        return self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state

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
        attend = torch.where(mask[:, None, None, :].bool(), 0.0, -1e4).to(h.dtype)  # added to the scores
        for layer in self.upper:
            h = layer(h, attend)
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
        bert: fields of ``transformers.BertConfig``; ``num_hidden_layers`` counts both halves.
        split: layers of the lower half.
        identity_decoder: decode with the LM head alone, as the authors' code does.
        pad_id, cls_id, sep_id: the tokenizer's special tokens.
        filler_id: the token that stands for special positions in the caption loss.
    """
    from transformers import BertConfig, BertModel
    from transformers.models.bert.modeling_bert import BertLayer, BertOnlyMLMHead

    whole = BertConfig(**bert)
    if not 0 < split <= whole.num_hidden_layers:
        raise InputError(
            f"split={split} must lie between 1 and the {whole.num_hidden_layers} layers of the BERT"
        )
    whole._attn_implementation = "eager"  # the fused kernel's bf16 backward is 5x slower at caption lengths
    lower = BertConfig(**{**bert, "num_hidden_layers": split})
    lower._attn_implementation = "sdpa"
    upper = (
        []
        if identity_decoder
        else [BertLayer(whole, layer_idx=i) for i in range(split, whole.num_hidden_layers)]
    )
    lm_head = BertOnlyMLMHead(whole)
    del lm_head.predictions.bias  # a second name of decoder.bias that forward never reads
    return SplitBertSpace(
        encoder=BertModel(lower, add_pooling_layer=False),
        upper=nn.ModuleList(upper),
        lm_head=lm_head,
        dim=whole.hidden_size,
        pad_id=pad_id,
        cls_id=cls_id,
        sep_id=sep_id,
        filler_id=filler_id,
    )


@torch.no_grad()
def copy_from_masked_lm(space: SplitBertSpace, masked_lm: Any) -> None:
    """Fill a split BERT from a ``BertForMaskedLM``: lower and upper layers, and the LM head, untied.

    Args:
        space: made with the same sizes.
        masked_lm: ``transformers.BertForMaskedLM`` with at least the layers that ``space`` has.
    """
    bert = masked_lm.bert
    split = len(space.encoder.encoder.layer)
    space.encoder.embeddings.load_state_dict(bert.embeddings.state_dict())
    halves = [(space.encoder.encoder.layer, bert.encoder.layer[:split])]
    if len(space.upper):  # the identity decoder has no use for the upper half
        halves.append((space.upper, bert.encoder.layer[split:]))
    for half, layers in halves:
        for mine, theirs in zip(half, layers, strict=True):
            mine.load_state_dict(theirs.state_dict())
    head = {k: v for k, v in masked_lm.cls.state_dict().items() if k != "predictions.bias"}
    space.lm_head.load_state_dict(head)
