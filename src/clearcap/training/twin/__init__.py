"""The twin: a word-by-word captioner of the denoiser's size on the same tokens, as yardstick and teacher."""

from __future__ import annotations

from clearcap.training.twin.decoding import beam_search, greedy
from clearcap.training.twin.network import Twin, TwinConfig

__all__ = ["Twin", "TwinConfig", "beam_search", "greedy"]
