"""How long the stages of the loop take, frame by frame."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

STAGES = ("decode", "crop", "infer", "decode heatmaps", "publish")


class Timings:
    """A stage timer (see :class:`edgepose.estimator.StageTimer`) that sums each stage within a frame."""

    def __init__(self) -> None:
        self._frames: list[dict[str, float]] = []
        self._current: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._current[stage] = self._current.get(stage, 0.0) + time.perf_counter() - start

    def end_frame(self) -> None:
        """Close the frame's account."""
        self._frames.append(self._current)
        self._current = {}

    def table(self, warm_up: int) -> dict[str, dict[str, float]]:
        """Milliseconds per frame and stage after the first ``warm_up`` frames: mean, p50, p95, p99."""
        frames = self._frames[warm_up:]
        rows = {}
        for stage in STAGES:
            values = np.array([f.get(stage, 0.0) for f in frames]) * 1e3
            if len(values):
                p50, p95, p99 = np.percentile(values, [50, 95, 99])
                rows[stage] = {"mean": values.mean(), "p50": p50, "p95": p95, "p99": p99}
        return {stage: {k: round(float(v), 3) for k, v in row.items()} for stage, row in rows.items()}
