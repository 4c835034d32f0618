"""Find a person without a detector: a coarse pass of the pose network over windows of the frame.

The network was trained on a person that is centred and fills its input. A window that holds one so
gets sharp heatmaps; the best window's joints then give the person's box.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgepose.estimator import Estimator
from edgepose.people.seen import ACCEPT, joints_box
from edgepose.picture import Picture
from edgepose.timing import StageTimer, untimed

# Window sides as shares of the frame's shorter side, largest first: most cameras see people that
# fill a good part of the frame. The last is for someone at the back of the room.
SHARES = (1.0, 0.7, 0.45)
OVERLAP = 0.5

Counts: TypeAlias = Callable[[NDArray[np.float64]], bool]  # whether somebody in a box [4] counts


def anywhere(box: NDArray[np.float64]) -> bool:
    """Everybody counts."""
    return True


def windows(width: int, height: int, padding: float) -> NDArray[np.float64]:
    """Boxes [M, 4] whose padded crops are square windows that cover the frame at three sizes.

    Within one size they start in the middle of the frame and go outwards.
    """
    rows: list[tuple[float, float, float, float]] = []
    for share in SHARES:
        side = share * min(width, height)
        xs, ys = _starts(width, side), _starts(height, side)
        centres = [(x + side / 2, y + side / 2) for y in ys for x in xs]
        centres.sort(key=lambda c: abs(c[0] - width / 2) + abs(c[1] - height / 2))
        half = side / padding / 2
        rows += [(x - half - 0.5, y - half - 0.5, x + half - 0.5, y + half - 0.5) for x, y in centres]
    return np.array(rows)


def _starts(length: float, side: float) -> list[float]:
    """Evenly spaced starts of windows of ``side`` that cover ``length``, overlapping by OVERLAP or more."""
    spare = length - side
    count = int(np.ceil(spare / (side * (1 - OVERLAP)))) + 1 if spare > 1 else 1
    return [float(v) for v in np.linspace(0, max(spare, 0), count)]


class Search:
    """A pass over the windows, a few per frame so that a live loop keeps its rate and an empty room costs little.

    ``look`` is called frame by frame until it returns a box. Each time it takes the next of the largest windows,
    where most people are, and some of the smaller ones; the best of these is looked at again, closer, and
    accepted if its score holds.
    """

    def __init__(self, estimator: Estimator, per_frame: int = 4) -> None:
        self._estimator, self._per_frame = estimator, per_frame
        self._size = (0, 0)
        self._large = self._small = np.zeros((0, 4))
        self._looks = 0

    def restart(self) -> None:
        """Begin again with the middle of the frame."""
        self._looks = 0

    def look(
        self, picture: Picture, timer: StageTimer = untimed, counts: Counts = anywhere
    ) -> NDArray[np.float64] | None:
        """The box [4] of a person in ``picture`` [H, W, 3] who ``counts``, or None if none was found this time."""
        poses = self._estimator.estimate(picture, self._next(picture.shape[1], picture.shape[0]), timer)
        scores = poses.person_scores
        boxes = [joints_box(poses, i) for i in range(len(poses))]
        # A window cuts the person loosely; the closer look decides, so the first bar is lower.
        there = [i for i, box in enumerate(boxes) if box is not None and scores[i] >= 0.6 * ACCEPT and counts(box)]
        best = boxes[max(there, key=lambda i: scores[i])] if there else None
        if best is None:
            return None
        closer = self._estimator.estimate(picture, best[None], timer)
        if closer.person_scores[0] < ACCEPT:
            return None
        return joints_box(closer, 0)

    def _next(self, width: int, height: int) -> NDArray[np.float64]:
        """The windows of this frame [per_frame, 4]."""
        if self._size != (width, height):
            self._size = (width, height)
            boxes = windows(width, height, self._estimator.manual.padding)
            side = boxes[:, 2] - boxes[:, 0]
            self._large, self._small = boxes[side >= side[0] - 1e-6], boxes[side < side[0] - 1e-6]
            self._looks = 0
        rest = self._per_frame - 1
        large = self._large[self._looks % len(self._large)]
        small = self._small[np.arange(self._looks * rest, (self._looks + 1) * rest) % len(self._small)]
        self._looks += 1
        return np.vstack([large, small])
