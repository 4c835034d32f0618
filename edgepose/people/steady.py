"""A camera's time that never runs backwards."""

from __future__ import annotations


class Steady:
    """Turns frames' times into steady ones: where a clock is set back, or a time repeats, no time has passed."""

    def __init__(self) -> None:
        self._last_ns: int | None = None
        self._passed_ns = 0

    def __call__(self, acquired_ns: int) -> int:
        """Nanoseconds since the first frame, of the frame taken at ``acquired_ns``."""
        if self._last_ns is not None:
            self._passed_ns += max(0, acquired_ns - self._last_ns)
        self._last_ns = acquired_ns
        return self._passed_ns
