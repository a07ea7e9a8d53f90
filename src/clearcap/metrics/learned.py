"""Scores from pretrained models: CLIPScore, RefCLIPScore and BERTScore."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Float

from clearcap.errors import InputError
from clearcap.metrics.scoring import PhotoId, Scores, check

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

Photo: TypeAlias = "str | Path | Image"
CLIP_WEIGHT = 2.5  # stretches cosines, which hardly exceed 0.4, to about 0..1
CLIP_PREFIX = "A photo depicts "


@dataclass(frozen=True)
class ClipScorer:
    """CLIPScore and RefCLIPScore (Hessel et al. 2021, equations 1 and 2).

    The scorer keeps a loaded model; `ClipScorer.load` fetches the paper's, CLIP ViT-B/32.
    """

    model: Any
    processor: Any
    batch: int = 64

    @classmethod
    def load(
        cls, name: str | Path = "openai/clip-vit-base-patch32", device: str = "cpu", batch: int = 64
    ) -> ClipScorer:
        """Load a CLIP model by its name on the hub or from a folder in the hub's format.

        Raises:
            InputError: there is no such model, or it is not a CLIP model.
        """
        from transformers import CLIPModel, CLIPProcessor

        model, processor = _pretrained(name, CLIPModel, CLIPProcessor, "CLIP model")
        return cls(model.to(device).eval(), processor, batch)

    def score(
        self,
        photos: Mapping[PhotoId, Photo],
        hypotheses: Mapping[PhotoId, str],
        references: Mapping[PhotoId, Sequence[str]] | None = None,
    ) -> Scores:
        """CLIPScore of each candidate and, with references, RefCLIPScore; the corpus score is the mean.

        Args:
            photos: photo -> file or PIL image.
            hypotheses: photo -> candidate (raw text).
            references: photo -> references.

        Raises:
            InputError: photos that differ, or captions that are not text.
        """
        if references is None:
            check(hypotheses, {photo: ["-"] for photo in hypotheses})
        else:
            check(hypotheses, references)
        missing = [photo for photo in hypotheses if photo not in photos]
        if missing:
            raise InputError(
                f"photo {missing[0]!r} has a caption but no image; pass an image for every caption"
            )
        ids = list(hypotheses)
        texts = self.text_features([hypotheses[photo] for photo in ids])
        cosines = (self.image_features([photos[photo] for photo in ids]) * texts).sum(1)
        columns = {"CLIPScore": CLIP_WEIGHT * np.maximum(cosines, 0)}
        if references is not None:
            flat = self.text_features([caption for photo in ids for caption in references[photo]])
            owner = np.repeat(np.arange(len(ids)), [len(references[photo]) for photo in ids])
            nearest = np.zeros(len(ids))  # a negative cosine counts as 0
            np.maximum.at(nearest, owner, (flat * texts[owner]).sum(1))
            product, total = columns["CLIPScore"] * nearest, columns["CLIPScore"] + nearest
            harmonic = np.divide(2 * product, total, out=np.zeros(len(ids)), where=total > 0)
            columns["RefCLIPScore"] = harmonic
        return _table(ids, columns)

    def similarity(self, photo: Photo, captions: Sequence[str]) -> list[float]:
        """Cosine of one photo with each of several captions, for choosing among them."""
        return list((self.text_features(captions) @ self.image_features([photo])[0]).tolist())

    def text_features(self, captions: Sequence[str]) -> Float[np.ndarray, "captions dim"]:
        """Unit vectors of captions, with the paper's prefix; cut at the model's longest text."""
        longest = self.model.config.text_config.max_position_embeddings
        how = {"return_tensors": "pt", "padding": True, "truncation": True, "max_length": longest}
        texts = [CLIP_PREFIX + caption for caption in captions]
        return self._features("get_text_features", texts, lambda part: self.processor(text=part, **how))

    def image_features(self, photos: Sequence[Photo]) -> Float[np.ndarray, "photos dim"]:
        """Unit vectors of photos, resized and cropped as the model's processor says."""

        def read(part: list[Photo]) -> Any:
            return self.processor(images=[_image(photo) for photo in part], return_tensors="pt")

        return self._features("get_image_features", photos, read)

    def _features(
        self, method: str, items: Sequence[Any], read: Callable[[list[Any]], Any]
    ) -> Float[np.ndarray, "items dim"]:
        import torch

        found = []
        for part in _batches(items, self.batch):
            with torch.inference_mode():
                features = getattr(self.model, method)(**read(part).to(self.model.device))
                if not isinstance(features, torch.Tensor):  # newer transformers wrap the projected vector
                    features = features.pooler_output
                found.append(torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy())
        return np.concatenate(found).astype(float)


@dataclass(frozen=True)
class BertScorer:
    """BERTScore (Zhang et al. 2020): greedy matching of contextual token vectors.

    Attributes:
        model, tokenizer: a loaded encoder and its tokenizer.
        layer: which layer's output to compare (17 for roberta-large, as the paper selects).
        idf: weigh tokens by their rarity in the references.
        baseline: precision, recall and F of unrelated captions; when given, scores are rescaled so that these
            become 0. For roberta-large, layer 17, English, the authors publish
            (0.83150584, 0.8314941, 0.83122575).
    """

    model: Any
    tokenizer: Any
    layer: int = 17
    idf: bool = False
    baseline: tuple[float, float, float] | None = None
    batch: int = 64

    @classmethod
    def load(
        cls,
        name: str | Path = "FacebookAI/roberta-large",
        layer: int = 17,
        idf: bool = False,
        baseline: tuple[float, float, float] | None = None,
        device: str = "cpu",
        batch: int = 64,
    ) -> BertScorer:
        """Load an encoder by its name on the hub or from a folder in the hub's format.

        Raises:
            InputError: there is no such model, or it has fewer layers than `layer`.
        """
        from transformers import AutoModel, AutoTokenizer

        model, tokenizer = _pretrained(name, AutoModel, AutoTokenizer, "text encoder")
        if not 0 <= layer <= model.config.num_hidden_layers:
            raise InputError(
                f"layer={layer} does not exist in {name}, which has {model.config.num_hidden_layers}; "
                f"pass layer<={model.config.num_hidden_layers}"
            )
        return cls(model.to(device).eval(), tokenizer, layer, idf, baseline, batch)

    def score(self, hypotheses: Mapping[PhotoId, str], references: Mapping[PhotoId, Sequence[str]]) -> Scores:
        """Precision, recall and F of each candidate ("BERTScore-P", "-R", "BERTScore"); corpus scores are means.

        With several references each of the three is the best over them. An empty candidate or reference
        scores 0.

        Raises:
            InputError: photos that differ, or captions that are not text.
        """
        check(hypotheses, references)
        ids = list(hypotheses)
        flat = [caption.strip() for photo in ids for caption in references[photo]]
        weight = self._weights(flat)
        encoded = self._encode(flat, weight)
        own = self._encode([hypotheses[photo].strip() for photo in ids], weight)
        matches = (
            [_match(hypothesis, next(encoded)) for _ in references[photo]]
            for photo, hypothesis in zip(ids, own, strict=True)
        )
        best = np.array([np.max(scores, axis=0) for scores in matches])
        if self.baseline is not None:
            low = np.array(self.baseline)
            best = (best - low) / (1 - low)
        return _table(ids, dict(zip(("BERTScore-P", "BERTScore-R", "BERTScore"), best.T, strict=True)))

    def _weights(self, references: Sequence[str]) -> dict[int, float]:
        """Token id -> weight, for tokens that do not weigh 1."""
        special = dict.fromkeys((self.tokenizer.cls_token_id, self.tokenizer.sep_token_id), 0.0)
        if not self.idf:
            return special
        seen = Counter(token for caption in references for token in set(self._tokens(caption)["input_ids"]))
        documents = len(references)
        return {token: math.log((documents + 1) / (n + 1)) for token, n in seen.items()} | {
            -1: math.log(documents + 1)  # tokens that no reference holds
        }

    def _tokens(self, text: str | list[str], **how: Any) -> Any:
        longest = min(self.tokenizer.model_max_length, 512)
        return self.tokenizer(text, truncation=True, max_length=longest, **how)

    def _encode(self, captions: Sequence[str], weight: Mapping[int, float]) -> Iterator[_Encoded]:
        import torch

        for part in _batches(captions, self.batch):
            inputs = self._tokens(part, return_tensors="pt", padding=True).to(self.model.device)
            with torch.inference_mode():
                output = self.model(**inputs, output_hidden_states=True).hidden_states[self.layer]
                vectors = torch.nn.functional.normalize(output.float(), dim=-1)
            rows = zip(part, inputs["input_ids"], inputs["attention_mask"].bool(), vectors, strict=True)
            for caption, tokens, mask, hidden in rows:
                other = weight.get(-1, 1.0)
                weights = [weight.get(token, other) for token in tokens[mask].tolist()]
                yield _Encoded(hidden[mask].cpu(), np.array(weights, float), empty=not caption)


@dataclass(frozen=True)
class _Encoded:
    vectors: torch.Tensor  # tokens x dim, of length 1
    weights: Float[np.ndarray, " tokens"]
    empty: bool


def _match(hypothesis: _Encoded, reference: _Encoded) -> tuple[float, float, float]:
    if hypothesis.empty or reference.empty:
        return 0.0, 0.0, 0.0
    similarity = (hypothesis.vectors @ reference.vectors.T).numpy().astype(float)
    precision = _mean(similarity.max(1), hypothesis.weights)
    recall = _mean(similarity.max(0), reference.weights)
    total = precision + recall
    return precision, recall, 2 * precision * recall / total if total else 0.0


def _mean(values: Float[np.ndarray, " tokens"], weights: Float[np.ndarray, " tokens"]) -> float:
    total = weights.sum()
    return float(values @ weights / total) if total else 0.0


def _table(ids: Sequence[PhotoId], columns: Mapping[str, Float[np.ndarray, " photos"]]) -> Scores:
    return Scores(
        {name: float(values.mean()) for name, values in columns.items()},
        {name: dict(zip(ids, values.tolist(), strict=True)) for name, values in columns.items()},
    )


def _pretrained(name: str | Path, model: Any, companion: Any, kind: str) -> tuple[Any, Any]:
    try:
        return model.from_pretrained(str(name)), companion.from_pretrained(str(name))
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{name} could not be loaded as a {kind} ({reason}); pass a name on the hub or a folder in its format"
        ) from error


def _image(photo: Photo) -> Image:
    from PIL import Image as images

    if isinstance(photo, images.Image):
        return photo.convert("RGB")
    try:
        with images.open(photo) as opened:
            return opened.convert("RGB")
    except OSError as error:
        raise InputError(f"{photo} is not a readable image ({error}); replace it or leave it out") from error


def _batches(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
