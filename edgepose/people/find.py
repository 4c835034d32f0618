"""Find a person without a detector: a coarse pass of the pose network over windows of the frame.

The network was trained on a person that is centred and fills its input. A window that holds one so
gets sharp heatmaps; the best window's joints then give the person's box.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgepose.crops import box_of_joints
from edgepose.estimator import Estimator, Poses, StageTimer, untimed

# Window sides as shares of the frame's shorter side, largest first: most cameras see people that
# fill a good part of the frame. The last is for someone at the back of the room.
SHARES = (1.0, 0.7, 0.45)
OVERLAP = 0.5


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


def joints_box(poses: Poses, index: int, confident: float) -> NDArray[np.float64] | None:
    """Box [4] of a person's joints whose score is at least ``confident``; None with fewer than four of them."""
    sure = poses.scores[index] >= confident
    return box_of_joints(poses.joints[index], sure) if sure.sum() >= 4 else None


class Search:
    """A pass over the windows, a few per frame so that a live loop keeps its rate.

    ``look`` is called frame by frame until it returns a box. It goes through the windows largest
    first; the best of each frame's few is looked at again, closer, and accepted if its score holds.
    """

    def __init__(self, estimator: Estimator, *, accept: float, confident: float, per_frame: int = 6) -> None:
        self._estimator = estimator
        self._accept, self._confident, self._per_frame = accept, confident, per_frame
        self._size = (0, 0)
        self._windows = np.zeros((0, 4))
        self._next = 0

    def restart(self) -> None:
        """Begin again with the largest windows."""
        self._next = 0

    def look(self, image: NDArray[np.uint8], timer: StageTimer = untimed) -> NDArray[np.float64] | None:
        """The box [4] of a person in ``image`` [H, W, 3], or None if none was found this time."""
        height, width = image.shape[:2]
        if self._size != (width, height):
            self._size = (width, height)
            self._windows = windows(width, height, self._estimator.manual.padding)
            self._next = 0
        part = self._windows[self._next : self._next + self._per_frame]
        self._next = (self._next + len(part)) % len(self._windows)
        poses = self._estimator.estimate(image, part, timer)
        best = int(np.argmax(poses.person_scores))
        # A window cuts the person loosely; the closer look decides, so the first bar is lower.
        if poses.person_scores[best] < 0.6 * self._accept:
            return None
        box = joints_box(poses, best, self._confident)
        if box is None:
            return None
        closer = self._estimator.estimate(image, box[None], timer)
        if closer.person_scores[0] < self._accept:
            return None
        return joints_box(closer, 0, self._confident)
