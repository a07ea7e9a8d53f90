"""A BERT split in half as text space (LaDiC, section 3.2): the lower layers encode, the upper ones decode.

Its layers have transformers' tensor names. transformers' own classes compute the same (tests/text/test_bert.py
compares them), but importing them takes longer than everything else that captioning one photo needs. Dropout is left
out: both halves are always frozen.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from clearcap.arrays import Latents, Logits, TokenIds
from clearcap.arrays.layers import Hidden, init_bert
from clearcap.config import TextConfig
from clearcap.errors import InputError
from clearcap.text.interface import TextSpace

BERT_FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
    "pad_token_id",
)
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

    def forward(self, x: Hidden, mask: Bool[Tensor, "batch 1 1 length"] | None = None) -> Hidden:
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

    def forward(self, ids: TokenIds, mask: TokenIds) -> Hidden:
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

    def forward(self, x: Hidden) -> Logits:
        """Transform, normalise, then products with every word."""
        head: Any = self.predictions
        logits: Tensor = head["decoder"](
            head["transform"]["LayerNorm"](self.act(head["transform"]["dense"](x)))
        )
        return logits


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
    pretrained_class = "BertForMaskedLM"

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
        self.reassigned = True  # whether positions that are not words take the special latent
        self.special_ids = tuple(sorted({pad_id, cls_id, sep_id, filler_id}))
        self._replaced = torch.tensor(sorted({pad_id, cls_id, sep_id}))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        self.register_buffer("special", torch.zeros(dim))
        self.encoder.requires_grad_(False).eval()  # dropout would blur statistics and special latent too
        self.upper.requires_grad_(False).eval()

    @classmethod
    def build(cls, text: TextConfig, sizes: dict[str, Any], tokens: dict[str, int]) -> SplitBertSpace:
        """A randomly initialised split BERT; arguments as for ``TextSpace.build``.

        ``sizes`` go by their names in ``transformers.BertConfig``; ``num_hidden_layers`` counts both halves.

        Raises:
            InputError: the split, the length or the activation does not fit the BERT.
        """
        bert, split = sizes, text.split
        depth, width, eps = bert["num_hidden_layers"], bert["hidden_size"], bert.get("layer_norm_eps", 1e-12)
        positions, act = bert.get("max_position_embeddings", 512), bert.get("hidden_act", "gelu")
        if text.length > positions:
            raise InputError(
                f"text.length={text.length} exceeds the {positions} positions of the BERT it starts from; "
                "shorten it, or take a BERT of more positions"
            )
        if not 0 < split <= depth:
            raise InputError(f"split={split} must lie between 1 and the {depth} layers of the BERT")

        def layers(count: int, attend: Attend) -> nn.ModuleList:
            heads, hidden = bert["num_attention_heads"], bert["intermediate_size"]
            return nn.ModuleList(
                BertLayer(width=width, heads=heads, hidden=hidden, eps=eps, act=act, attend=attend)
                for _ in range(count)
            )

        space = cls(
            encoder=BertEncoder(
                layers(split, fused_attention),
                vocab=bert["vocab_size"],
                width=width,
                positions=positions,
                types=bert.get("type_vocab_size", 2),
                eps=eps,
            ),
            upper=layers(0 if text.decoder == "identity" else depth - split, plain_attention),
            lm_head=BertWordHead(width=width, vocab=bert["vocab_size"], eps=eps, act=act),
            dim=width,
            pad_id=tokens["pad"],
            cls_id=tokens["cls"],
            sep_id=tokens["sep"],
            filler_id=tokens["filler"],
        )
        space.encoder.apply(init_bert)
        space.reassigned = text.special != "own"
        return space

    @classmethod
    def sizes_of(cls, pretrained: Any) -> dict[str, Any]:
        """The fields of a BERT's settings that its halves depend on."""
        return {field: getattr(pretrained.config, field) for field in BERT_FIELDS}

    @torch.no_grad()
    def copy_weights(self, pretrained: Any) -> None:
        """Lower and upper layers of a ``transformers.BertForMaskedLM``, and its LM head, untied."""
        bert, lower = pretrained.bert, self.encoder.encoder["layer"]
        split = len(lower)
        self.encoder.embeddings.load_state_dict(bert.embeddings.state_dict())
        halves = [(lower, bert.encoder.layer[:split])]
        if len(self.upper):  # the identity decoder has no use for the upper half
            halves.append((self.upper, bert.encoder.layer[split:]))
        for half, layers in halves:
            for mine, theirs in zip(half, layers, strict=True):
                mine.load_state_dict(theirs.state_dict())
        head = {k: v for k, v in pretrained.cls.state_dict().items() if k != "predictions.bias"}
        self.lm_head.load_state_dict(head)

    def language_model(self) -> Any:
        """The ``transformers.BertForMaskedLM`` whose halves these are: what ``copy_weights`` takes over.

        Raises:
            InputError: the decoder is the identity, so there is no upper half.
        """
        from transformers import BertConfig, BertForMaskedLM

        if not len(self.upper):
            raise InputError("this text space kept no upper half of its BERT, so it cannot be split anew")
        layers = [*self.encoder.encoder["layer"], *self.upper]
        words, head = self.encoder.embeddings["word_embeddings"], self.lm_head.state_dict()
        first = layers[0]
        bert = BertForMaskedLM(
            BertConfig(
                vocab_size=words.num_embeddings,
                hidden_size=self.dim,
                num_hidden_layers=len(layers),
                num_attention_heads=first.heads,
                intermediate_size=first.intermediate["dense"].out_features,
                max_position_embeddings=self.encoder.embeddings["position_embeddings"].num_embeddings,
                type_vocab_size=self.encoder.embeddings["token_type_embeddings"].num_embeddings,
                layer_norm_eps=self.encoder.embeddings["LayerNorm"].eps,
                hidden_act=next(name for name, act in ACTIVATIONS.items() if act is first.act),
                tie_word_embeddings=False,
            )
        )
        bert.bert.embeddings.load_state_dict(self.encoder.embeddings.state_dict())
        for theirs, mine in zip(bert.bert.encoder.layer, layers, strict=True):
            theirs.load_state_dict(mine.state_dict())
        bert.cls.load_state_dict(head | {"predictions.bias": head["predictions.decoder.bias"]})
        return bert

    def fit(
        self,
        ids: Int[Tensor, "captions length"],
        mask: Int[Tensor, "captions length"],
        text: TextConfig,
        tokenizer: Any,
    ) -> None:
        """Channel statistics of a tokenised corpus, and the latent of positions that are not words."""
        # The authors' statistics cover every position; words are all that is normalised otherwise.
        if text.normalise:
            self.set_statistics(*self.statistics(ids, mask, words_only=text.special != "raw"))
        period = [tokenizer.cls_token_id, tokenizer.convert_tokens_to_ids("."), tokenizer.sep_token_id]
        self.set_special_latent(text.special, torch.tensor([period]))

    @torch.no_grad()
    def statistics(
        self,
        ids: Int[Tensor, "captions length"],
        mask: Int[Tensor, "captions length"],
        *,
        words_only: bool,
        batch: int = 512,
    ) -> tuple[Float[Tensor, " dim"], Float[Tensor, " dim"]]:
        """Mean and unbiased standard deviation of each latent channel over a corpus (LaDiC, section 3.2).

        Args:
            ids, mask: tokenised captions.
            words_only: over words (which are all that gets normalised) or over every position, as the authors did.
            batch: captions encoded at once.

        Returns:
            Both in float32; accumulated in float64.
        """
        total, square, count = torch.zeros(self.dim).double(), torch.zeros(self.dim).double(), 0
        for i, m in zip(ids.split(batch), mask.split(batch), strict=True):
            z = self.contextual(i, m)
            z = (z[word_positions(m)] if words_only else z.flatten(0, 1)).double().cpu()
            total, square, count = total + z.sum(0), square + (z * z).sum(0), count + len(z)
        mean = total / count
        return mean.float(), ((square - count * mean * mean) / (count - 1)).clamp_min(0).sqrt().float()

    def train(self, mode: bool = True) -> SplitBertSpace:
        """The frozen halves stay in evaluation mode: dropout in the encoder would make x0 a moving target."""
        super().train(mode)
        self.encoder.eval()
        self.upper.eval()
        return self

    @torch.no_grad()
    def contextual(self, ids: TokenIds, mask: TokenIds) -> Latents:
        """The lower half's output, not normalised."""
        return self.encoder(ids, mask)

    @torch.no_grad()
    def encode(self, ids: TokenIds, mask: TokenIds) -> Latents:
        """Normalised latents of captions, with the special latent where no word stands."""
        x = (self.contextual(ids, mask) - self.mean) / self.std
        return torch.where(word_positions(mask)[..., None], x, self.special) if self.reassigned else x

    def decode(self, x: Latents) -> Logits:
        """Token logits of latents, through the upper half and the LM head."""
        h = x * self.std + self.mean
        for layer in self.upper:
            h = layer(h)
        return self.lm_head(h)

    @torch.no_grad()
    def masked_logits(self, ids: TokenIds, mask: TokenIds) -> Logits:
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

    def targets(self, ids: TokenIds) -> TokenIds:
        """The captions' tokens, the filler where no word stands."""
        return torch.where(torch.isin(ids, self._replaced.to(ids.device)), self.filler_id, ids)

    @torch.no_grad()
    def set_statistics(self, mean: Float[Tensor, " dim"], std: Float[Tensor, " dim"]) -> None:
        """Channel statistics of the corpus (see ``statistics``).

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
                normalised, among normalised ones), "normalised" (the same vector, normalised) or "own" (that vector
                too, but no position takes it).
            ids: ``[CLS] . [SEP]``.

        Raises:
            InputError: the kind is unknown.
        """
        vector = self.contextual(ids, torch.ones_like(ids))[0, 1]
        choices = {
            "zero": torch.zeros_like(vector),
            "raw": vector,
            "normalised": (vector - self.mean) / self.std,
            "own": (vector - self.mean) / self.std,
        }
        if kind not in choices:
            raise InputError(f"unknown special latent {kind!r}; choose one of {', '.join(choices)}")
        self.special.copy_(choices[kind])


def word_positions(mask: TokenIds) -> Tensor:
    """True where a word stands: inside [CLS] .. [SEP], never the first or last position (LaDiC's mask')."""
    words = torch.roll(mask, -1, dims=1).bool()
    words[:, 0] = False
    words[:, -1] = False
    return words


def _added(inputs: int, width: int, eps: float) -> nn.ModuleDict:
    return nn.ModuleDict({"dense": nn.Linear(inputs, width), "LayerNorm": nn.LayerNorm(width, eps=eps)})


def _add(output: Any, h: Tensor, x: Tensor) -> Tensor:
    added: Tensor = output["LayerNorm"](output["dense"](h) + x)
    return added
