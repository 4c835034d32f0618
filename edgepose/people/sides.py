"""Left and right of each person, held over time.

Of people seen from behind a network takes left for right now and then, for a frame or a dozen. But shoulders do not
change places between two frames, nor do hips: the line from the right one to the left one turns, and is short while it
does. So where it points the other way at once, at its full length, the network is contradicted, for as long as it had
agreed before, a second at most. Then it is believed: it may have been wrong until now.

Shoulders lead arms and faces, hips lead legs. Elbows, wrists, knees and ankles do pass each other: of a led pair both
are put right where their line has turned about with their leaders'; by themselves they are never contradicted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from edgepose.estimator import Poses
from edgepose.people.smooth import SURE, sizes
from edgepose.skeletons import Skeleton

LONGEST = 1.0  # s; for how long the network is contradicted at most; and after which an unseen person begins anew
LEAST = 0.05  # of the person's size; a shorter line may point anywhere
TURN = 7.5  # radians per second, more than a turn in a second: nobody turns faster
WIDTH = 5.0  # s in which it is forgotten how long a line has been
ABOUT = -0.5  # cosine of the angle between two lines from which one has turned about (120 degrees)
FADING = 0.3  # s in which agreement fades while nothing can be told
_NONE = np.zeros(0, dtype=np.intp)


@dataclass
class _Held:
    """Of one person, as of the last sight."""

    seen_ns: int
    lines: NDArray[np.float64]  # [P, 2] from the right joint of each pair to the left one, as published
    sure: NDArray[np.bool_]  # [P] both joints were sure
    agreed: list[float]  # seconds for which the network has agreed, of those whom shoulders lead, and hips
    widest: list[float]  # pixels; how long the leaders' lines have been


def _size(poses: Poses, row: int) -> float:
    return float(sizes(poses)[row])


class Sides:
    """Holds left and right of one camera's people. No clock in here: time comes in with the frame."""

    def __init__(self, skeleton: Skeleton) -> None:
        pairs = [(skeleton.index(left), skeleton.index(right)) for left, right in skeleton.mirror_pairs]
        self._left, self._right = (np.array(side, dtype=np.intp) for side in zip(*pairs, strict=True))
        lower = skeleton.lower[self._left]
        self._led = [
            (skeleton.mirror_pairs.index((f"left_{lead}", f"right_{lead}")), np.flatnonzero(lower == below))
            for lead, below in (("shoulder", False), ("hip", True))
        ]
        self._held: dict[str, _Held] = {}

    def hold(self, ids: list[str], poses: Poses, acquired_ns: int) -> Poses:
        """The ``poses`` of persons ``ids`` [N] in a frame taken at ``acquired_ns``, left and right as they were."""
        self._held = {i: h for i, h in self._held.items() if abs(acquired_ns - h.seen_ns) <= LONGEST * 1e9}
        lines = poses.joints[:, self._left] - poses.joints[:, self._right]
        sure = np.minimum(poses.scores[:, self._left], poses.scores[:, self._right]) >= SURE
        exchanged: dict[int, NDArray[np.intp]] = {}  # row -> which pairs
        for row, name in enumerate(ids):
            before, now = self._held.get(name), _Held(acquired_ns, lines[row], sure[row], [0.0, 0.0], [0.0, 0.0])
            if before is not None:
                wrong = self._wrong(before, now, partial(_size, poses, row))
                if len(wrong):
                    now.lines[wrong] *= -1
                    exchanged[row] = wrong
            self._held[name] = now
        return self._exchange(poses, exchanged) if exchanged else poses

    def _wrong(self, before: _Held, now: _Held, size: Callable[[], float]) -> NDArray[np.intp]:
        """Which pairs the network has exchanged, by its answer ``now``, which is told for how long it has agreed."""
        seconds = max(now.seen_ns - before.seen_ns, 0) / 1e9
        wrong = [_NONE]
        for which, (lead, led) in enumerate(self._led):
            (ax, ay), (bx, by) = before.lines[lead].tolist(), now.lines[lead].tolist()
            shorter, longer = sorted((math.hypot(ax, ay), math.hypot(bx, by)))
            along, agreed = ax * bx + ay * by, before.agreed[which]
            widest = now.widest[which] = max(before.widest[which] * math.exp(-seconds / WIDTH), longer)
            faded = agreed * math.exp(-seconds / FADING)
            if not (before.sure[lead] and now.sure[lead]) or abs(along) < -ABOUT * shorter * longer:
                agreed = faded
            elif along >= 0:
                agreed = min(agreed + seconds, LONGEST)
            elif shorter <= max(widest * math.sin(min(TURN * seconds, math.pi) / 2), LEAST * size()):
                agreed = faded
            else:
                agreed = max(agreed - seconds, 0.0)
                if agreed > 0:
                    wrong.append(led[(now.lines[led] * before.lines[led]).sum(axis=1) < 0])
            now.agreed[which] = agreed
        return np.concatenate(wrong) if len(wrong) > 1 else _NONE

    def _exchange(self, poses: Poses, which: dict[int, NDArray[np.intp]]) -> Poses:
        """``poses`` with left and right of the pairs ``which`` exchanged, {row: pairs}."""
        order = np.tile(np.arange(poses.scores.shape[1]), (len(poses), 1))
        for row, pairs in which.items():
            order[row, self._left[pairs]], order[row, self._right[pairs]] = self._right[pairs], self._left[pairs]
        rows = np.arange(len(poses))[:, None]
        return Poses(poses.joints[rows, order], poses.scores[rows, order], poses.covariance[rows, order])
