"""Batches through an engine, the next one prepared while one runs, where the engine can do that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

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


class Begun:
    """An engine, and what was begun on it: every answer stays valid until it is taken, whatever is run meanwhile.

    Of so many runs as an engine has ``lanes``, one if it does not say, it keeps the answers by itself.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: list[_Answer] = []  # not taken yet
        self._lanes: int = getattr(engine, "lanes", 1)
        self._runs = 0

    def infer(self, images: Images) -> Heatmaps:
        """Heatmaps of ``images`` [N, 3, H, W], valid until anything else is run."""
        self._spare(len(images))
        self._runs += 1
        return self._engine.infer(images)

    def begin(self, images: Images) -> Callable[[], Heatmaps]:
        """Begin to run ``images``; what is returned waits for their heatmaps, and is called once.

        An engine that cannot run them beside anything runs them now.
        """
        start: Callable[[Images], Callable[[], Heatmaps]] | None = getattr(self._engine, "start", None)
        if start is None or self._in_slices(len(images)):
            heatmaps = self.infer(images).copy()
            return lambda: heatmaps
        self._spare(len(images))
        answer = _Answer(start(images), self._runs)
        self._runs += 1
        self._waiting.append(answer)
        return partial(self._take, answer)

    def _take(self, answer: _Answer) -> Heatmaps:
        self._waiting.remove(answer)
        return answer.heatmaps()

    def _spare(self, count: int) -> None:
        """Copy the answers that are lost when ``count`` more images are run."""
        for answer in self._waiting:
            if answer.run <= self._runs - self._lanes or self._in_slices(count):
                answer.keep()

    def _in_slices(self, count: int) -> bool:
        """Whether so many images are more than the engine begins at once."""
        return count > getattr(self._engine, "max_batch", count)


@dataclass(eq=False)
class _Answer:
    wait: Callable[[], Heatmaps]
    run: int  # which of the engine's, counted from 0
    kept: Heatmaps | None = None

    def keep(self) -> None:
        """Copy the heatmaps, if that was not done."""
        self.kept = self.wait().copy() if self.kept is None else self.kept

    def heatmaps(self) -> Heatmaps:
        return self.wait() if self.kept is None else self.kept
