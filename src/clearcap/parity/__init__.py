"""Replaying tensors recorded from the authors' networks through our own modules."""

from __future__ import annotations

from clearcap.parity.replaying import replay

__all__ = ["replay"]
