"""How long the stages of the loop take, frame by frame."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import numpy as np

STAGES = (
    "decode",
    "wait for frame",
    "look for people",
    "infer, finder",
    "crop",
    "infer",
    "decode heatmaps",
    "follow",
    "publish",
)


class StageTimer(Protocol):
    """Times named stages; ``with timer('crop'): ...``."""

    def __call__(self, stage: str) -> AbstractContextManager[None]: ...


@contextmanager
def untimed(stage: str) -> Iterator[None]:
    """The timer that does not time."""
    yield


class Timings:
    """A :class:`StageTimer` that sums each stage within a frame."""

    def __init__(self) -> None:
        self._frames: list[dict[str, float]] = []
        self._ends: list[float] = []
        self._current: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - start)

    def add(self, stage: str, seconds: float) -> None:
        """Book ``seconds`` on ``stage`` of the current frame."""
        self._current[stage] = self._current.get(stage, 0.0) + seconds

    def end_frame(self) -> None:
        """Close the frame's account."""
        self._frames.append(self._current)
        self._ends.append(time.perf_counter())
        self._current = {}

    def span(self, warm_up: int) -> tuple[int, float]:
        """Frames after the first ``warm_up``, and the wall-clock seconds that they took."""
        count = len(self._ends) - warm_up
        return count, self._ends[-1] - self._ends[warm_up - 1]

    def table(self, warm_up: int) -> dict[str, dict[str, float]]:
        """Milliseconds per frame of each stage that occurred after ``warm_up`` frames: mean, p50, p95, p99."""
        frames = self._frames[warm_up:]
        seen = {stage for frame in frames for stage in frame}
        rows = {}
        for stage in STAGES:
            if stage in seen:
                values = np.array([f.get(stage, 0.0) for f in frames]) * 1e3
                p50, p95, p99 = np.percentile(values, [50, 95, 99])
                rows[stage] = {"mean": values.mean(), "p50": p50, "p95": p95, "p99": p99}
        return {stage: {k: round(float(v), 3) for k, v in row.items()} for stage, row in rows.items()}
