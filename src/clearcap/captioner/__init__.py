"""A captioner: text space, image encoder and denoiser as one network; built, loaded, run and shared."""

from __future__ import annotations

from typing import Any

__all__ = ["Captioner", "CaptionerConfig"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # not sooner: transformers' models are slow to import
        from clearcap.captioner import model

        return getattr(model, name)
    raise AttributeError(f"module 'clearcap.captioner' has no attribute {name!r}")
