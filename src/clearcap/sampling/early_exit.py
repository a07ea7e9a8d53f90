"""Early exit: captions whose words have stopped changing leave the batch."""

from __future__ import annotations

from collections.abc import Callable

from clearcap.arrays import Array, namespace
from clearcap.errors import InputError
from clearcap.sampling.guidance import Denoise


class EarlyExit:
    """A denoiser that stops working on captions whose decoded tokens have stopped changing.

    A caption that showed the same tokens in ``patience`` + 1 predictions in a row keeps its prediction for good:
    the network is called on the others only, and not at all once none is left. Randomness is drawn as before, so
    nobody's caption depends on who left. Rising noise levels begin a new round (Back&Refine), with everyone back.

    Args:
        build: the denoiser of some rows of the batch (``None``: of all).
        decode: predictions -> token logits.
        patience: repetitions that settle a caption, at least 1.
    """

    def __init__(
        self, build: Callable[[Array | None], Denoise], decode: Callable[[Array], Array], patience: int = 1
    ) -> None:
        if patience < 1:
            raise InputError(f"patience={patience} must be at least 1 repetition of the same tokens")
        self._build = build
        self._decode = decode
        self._patience = patience
        self._last_t = -1
        self._denoise: Denoise
        self._active: Array
        self._same: Array
        self._x0: Array
        self._ids: Array

    def __call__(self, x_t: Array, x_self: Array, t: Array) -> Array:
        now = int(t[0])
        if now >= self._last_t:
            self._begin(x_t)
        self._last_t = now
        rows = self._active
        if not len(rows):
            return self._x0
        xp = namespace(x_t)
        x0 = self._denoise(x_t[rows], x_self[rows], t[rows])
        ids = self._decode(x0).argmax(-1)
        repeated = (ids == self._ids[rows]).all(-1)
        self._same[rows] = xp.where(repeated, self._same[rows] + 1, 0)
        self._ids[rows] = ids
        self._x0 = xp.asarray(self._x0, copy=True, device=x_t.device)  # the last one is in use
        self._x0[rows] = x0
        moving = self._same[rows] < self._patience
        if not bool(moving.all()):
            self._active = rows[moving]
            self._denoise = self._build(self._active)
        return self._x0

    def _begin(self, x_t: Array) -> None:
        self._denoise = self._build(None)
        xp = namespace(x_t)
        self._active = xp.arange(len(x_t), device=x_t.device)
        self._same = xp.zeros(len(x_t), dtype=xp.int64, device=x_t.device)
        self._x0 = xp.zeros_like(x_t)
        self._ids = xp.full(x_t.shape[:2], -1, device=x_t.device)
