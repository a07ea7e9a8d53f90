"""Fixtures: tiny vision models and photos."""

from tiny_vision import checkpoint, photos

__all__ = ["checkpoint", "photos"]
