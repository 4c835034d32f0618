"""Leaving frames out, where a source cannot be asked for fewer."""

from __future__ import annotations


class RateLimit:
    """Says which frames are too many for ``fps`` frames per second; those that stay keep their times."""

    def __init__(self, fps: int) -> None:
        """``fps`` 0: none is too many."""
        self._step_ns = 1_000_000_000 // fps if fps else 0
        self._next_ns: int | None = None
        self._last_ns = 0

    def skips(self, taken_ns: int) -> bool:
        """Whether to leave out the frame that was taken at ``taken_ns``; where time runs backwards it begins anew."""
        if not self._step_ns:
            return False
        if self._next_ns is None or taken_ns < self._last_ns:  # a film begins again, a camera's clock was set
            self._next_ns = taken_ns
        self._last_ns = taken_ns
        if taken_ns < self._next_ns - self._step_ns // 20:
            return True
        self._next_ns = max(self._next_ns + self._step_ns, taken_ns + self._step_ns // 2)
        return False
