"""A camera's time that never runs backwards, and when it was away."""

from __future__ import annotations

from collections import deque

_RECENT = 5  # intervals between frames
_LONGER = 1.5  # times the longest of them: what a camera takes now and then
_LEAST = 1.0  # s; no camera is away for less


class Steady:
    """Turns frames' times into steady ones: where a clock is set back, or a time repeats, no time has passed."""

    def __init__(self) -> None:
        self._last_ns: int | None = None
        self._passed_ns = 0

    def __call__(self, taken_ns: int) -> int:
        """Nanoseconds since the first frame, of the frame taken at ``taken_ns``."""
        if self._last_ns is not None:
            self._passed_ns += max(0, taken_ns - self._last_ns)
        self._last_ns = taken_ns
        return self._passed_ns


class Outages:
    """Tells a camera that was away from one that is slow, by how long it takes between frames."""

    def __init__(self) -> None:
        self._last_ns: int | None = None
        self._intervals = deque[int](maxlen=_RECENT)
        self._was_away = False

    def away(self, now_ns: int, patience: float) -> bool:
        """Whether it was, before the frame at the steady time ``now_ns``: for more than ``patience`` seconds, and more
        than it takes now and then.
        """
        interval = 0 if self._last_ns is None else now_ns - self._last_ns
        bar = max(patience, _LEAST) * 1e9 + _LONGER * max(self._intervals, default=0)
        away, slow = interval > bar, self._was_away
        if self._last_ns is not None and (slow or not away):  # one outage is not yet a pace
            self._intervals.append(interval)
        self._last_ns, self._was_away = now_ns, away
        return away
