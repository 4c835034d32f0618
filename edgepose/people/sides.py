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
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgepose.estimator import Poses
from edgepose.people.smooth import SURE, sizes
from edgepose.skeletons import Skeleton

LONGEST = 1.0  # s; for how long the network is contradicted at most; and after which an unseen person begins anew
LEAST = 0.05  # of the person's size; a shorter line may point anywhere
TURN = 0.7  # sizes per second; a line shorter than this in a frame's time may have turned about: a fast pirouette
ABOUT = -0.5  # cosine of the angle between two lines from which one has turned about (120 degrees)
FADING = 0.3  # s in which agreement fades while nothing can be told


@dataclass
class _Held:
    """Of one person, as of the last sight."""

    seen_ns: int
    lines: NDArray[np.float64]  # [P, 2] from the right joint of each pair to the left one, as published
    sure: NDArray[np.bool_]  # [P] both joints were sure
    agreed: list[float]  # seconds for which the network has agreed, of those whom shoulders lead, and hips


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
        size = sizes(poses)
        order = np.tile(np.arange(poses.scores.shape[1]), (len(ids), 1))
        for row, name in enumerate(ids):
            held = self._held.get(name)
            if held is None:
                self._held[name] = _Held(acquired_ns, lines[row], sure[row], [0.0] * len(self._led))
                continue
            wrong = self._wrong(held, lines[row], sure[row], float(size[row]), acquired_ns)
            lines[row, wrong] *= -1
            order[row, self._left[wrong]], order[row, self._right[wrong]] = self._right[wrong], self._left[wrong]
            held.seen_ns, held.lines, held.sure = acquired_ns, lines[row], sure[row]
        rows = np.arange(len(ids))[:, None]
        return Poses(poses.joints[rows, order], poses.scores[rows, order], poses.covariance[rows, order])

    def _wrong(
        self, held: _Held, lines: NDArray[np.float64], sure: NDArray[np.bool_], size: float, now_ns: int
    ) -> NDArray[np.intp]:
        """Which pairs the network has exchanged; ``lines`` [P, 2] and ``sure`` [P] as it gives them."""
        seconds = max(now_ns - held.seen_ns, 0) / 1e9
        shortest = max(LEAST, TURN * seconds) * size
        turned = (lines * held.lines).sum(axis=1)  # cosines, times both lengths
        wrong = [np.zeros(0, dtype=np.intp)]
        for which, (lead, led) in enumerate(self._led):
            before, now = math.hypot(*held.lines[lead]), math.hypot(*lines[lead])
            agreed = held.agreed[which]
            cosine = turned[lead] / max(before * now, 1e-9)
            if not (sure[lead] and held.sure[lead]) or min(before, now) <= shortest or ABOUT < cosine < -ABOUT:
                agreed *= math.exp(-seconds / FADING)
            elif cosine > 0:
                agreed = min(agreed + seconds, LONGEST)
            else:
                agreed = max(agreed - seconds, 0.0)
                if agreed > 0:
                    wrong.append(led[turned[led] < 0])
            held.agreed[which] = agreed
        return np.concatenate(wrong)
