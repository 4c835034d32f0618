"""Batches through an engine, the next one prepared while one runs, where the engine can do that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from edgepose.engines import Engine

Images = NDArray[np.float32]
Heatmaps = NDArray[np.float32]


def pipelined(engine: Engine, batches: Iterable[Images]) -> Iterator[Heatmaps]:
    """Heatmaps of each batch [N, 3, H, W], in order; each is valid until the next one is asked for.

    ``batches`` is drawn one ahead, and may give the same array again and again: the engine copies it. An engine
    without ``start`` runs them one by one, and nothing is drawn ahead.
    """
    start: Callable[[Images], Callable[[], Heatmaps]] | None = getattr(engine, "start", None)
    if start is None:
        for images in batches:
            yield engine.infer(images)
        return
    before: Callable[[], Heatmaps] | None = None
    for images in batches:
        following = start(images)
        if before is not None:
            yield before()
        before = following
    if before is not None:
        yield before()
