"""What confidence means: how often a word is right that the captioner is so sure of; less where there is no photo."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from clearcap.arrays import Array, Context, as_numpy, cast, namespace
from clearcap.config import number
from clearcap.data.reading import member, read_json
from clearcap.data.writing import write_json
from clearcap.errors import InputError

FILE = "confidence.json"  # beside the weights


@dataclass(frozen=True)
class Calibration:
    """How probabilities become confidence; ``clearcap calibrate`` finds it on photos that the model did not learn from.

    A network trained by its captions' scores is too sure of its words. A logistic curve of the log odds (Platt 1999)
    makes of a word's probability the share of such words that people say of the photo too.

    The network is no less sure of what is no photo: of a black square, of noise, of a page of text. These are the same
    all over, and so are their image tokens, more than those of photos. Beyond what is usual, confidence falls to
    nothing.

    Attributes:
        slope: of the curve, by the log odds of the probability.
        offset: of the curve, where the probability is one half.
        alike: ``likeness`` of image tokens at which confidence is halved; 1 where there is one token only.
        width: likeness by which it falls from 73% to 27%, halved.
    """

    slope: float = 1.0
    offset: float = 0.0
    alike: float = 1.0
    width: float = 0.01

    @classmethod
    def load(cls, file: Path) -> Calibration:
        """What ``save`` wrote.

        Raises:
            InputError: the file holds something else.
        """
        found = read_json(file, "make it anew with clearcap calibrate")
        names = [field.name for field in dataclasses.fields(cls)]
        values = {
            name: number(f"{file}: {name}", member(found, name, float, str(file)), float) for name in names
        }
        if found.keys() != values.keys() or values["width"] <= 0:
            raise InputError(
                f"{file}: must hold {', '.join(names)}, width above 0; make it anew with clearcap calibrate"
            )
        return cls(**values)

    def save(self, file: Path) -> None:
        """Write it as JSON. Raises InputError."""
        write_json(file, dataclasses.asdict(self))

    def right(self, probabilities: Float[np.ndarray, "*words"]) -> Float[np.ndarray, "*words"]:
        """The share of words with such probabilities that are right, in a photo."""
        p = np.clip(np.asarray(probabilities, float), 1e-6, 1 - 1e-6)
        return sigmoid(self.slope * (np.log(p) - np.log1p(-p)) + self.offset)

    def photo(self, likeness: float) -> float:
        """The share of confidence that is left, by how alike a photo's image tokens are."""
        return 1.0 if self.alike >= 1 else float(sigmoid(np.array([(self.alike - likeness) / self.width]))[0])

    def __call__(
        self,
        words: Sequence[str],
        probabilities: Sequence[float],
        likeness: float,
        function_words: Collection[str] = (),
    ) -> tuple[tuple[float, ...], float]:
        """Each word's confidence, and the caption's: the mean of its words of content, or of all where it has none.

        That "a" and "in" are right says little of how good a caption is.

        Args:
            words: of the caption.
            probabilities: of each.
            likeness: of the photo's image tokens.
            function_words: those that are no words of content.
        """
        sure = self.right(np.asarray(probabilities)) * self.photo(likeness)
        content = [p for word, p in zip(words, sure, strict=True) if word.lower() not in function_words]
        return tuple(sure.tolist()), float(np.mean(content or sure)) if len(sure) else 0.0


def likeness(context: Context) -> list[float]:
    """How alike the image tokens of each photo are: 1 where all are the same, 0 where their mean says nothing of them.

    The squared norm of the mean token by the mean of the squared norms, of what cross-attention reads from the tokens
    (its values), which graphs give too; the mean over the denoiser's layers.

    Args:
        context: layers of tensors [photos, ..., tokens, channels], the values last.
    """
    shares = [_share(layer[-1]) for layer in context]
    return np.mean(shares, 0).tolist()


def _share(tokens: Array) -> Float[np.ndarray, " photos"]:
    tokens = as_numpy(cast(tokens, namespace(tokens).float32))
    inner = tuple(range(1, tokens.ndim - 1))
    common = (tokens.mean(-2) ** 2).sum(inner)
    return common / np.maximum((tokens**2).sum(-1).mean(-1).sum(inner[:-1]), 1e-12)


def sigmoid(x: Float[np.ndarray, "*any"]) -> Float[np.ndarray, "*any"]:
    """1 / (1 + exp(-x)), without overflow."""
    return np.exp(-np.logaddexp(0.0, -x))


def fit(
    probabilities: Float[np.ndarray, " words"], right: Float[np.ndarray, " words"]
) -> tuple[float, float]:
    """Slope and offset of the curve of greatest likelihood, by Newton's method.

    Args:
        probabilities: of words.
        right: 1 where the word is right, else 0.

    Raises:
        InputError: all words are right, or none is: nothing tells how sure one may be.
    """
    right = np.asarray(right, float)
    if not 0 < right.mean() < 1:
        raise InputError(
            "all words are right, or none is, so that no confidence can be learned from them; give more photos"
        )
    p = np.clip(np.asarray(probabilities, float), 1e-6, 1 - 1e-6)
    inputs = np.stack((np.log(p) - np.log1p(-p), np.ones_like(p)), 1)
    weights = np.zeros(2)
    for _ in range(50):
        guess = sigmoid(inputs @ weights)
        curvature = (inputs * (guess * (1 - guess))[:, None]).T @ inputs + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, inputs.T @ (right - guess))
        weights += step
        if np.abs(step).max() < 1e-10:
            break
    return float(weights[0]), float(weights[1])
