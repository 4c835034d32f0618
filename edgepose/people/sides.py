"""Left and right of each person, held over time.

Of people seen from behind a network takes left for right now and then, for a frame or a dozen. But shoulders do not
change places between two frames, nor do hips: the line from the right one to the left one turns, and is short while it
does. So where it points the other way at once, at its full length, the network is contradicted, for as long as it had
agreed before, two seconds at most. Then it is believed: it may have been wrong until now. Where it cannot decide a
network has both joints of a pair in one place: lines that are short tell nothing, and compared is the last long one.

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

LONGEST = 2.0  # s; for how long the network is contradicted at most
UNSEEN = 1.0  # s; after which a person begins anew
LEAST = 0.05  # of the person's size; a shorter line may point anywhere
TURN = 7.5  # radians per second, more than a turn in a second: nobody turns faster
WIDTH = 5.0  # s in which it is forgotten how long a line has been
ABOUT = -0.5  # cosine of the angle between two lines from which one has turned about (120 degrees)
FADING = 0.3  # s in which agreement fades while nothing can be told
# Of the longest that a line has been; a shorter one tells nothing: where a network cannot decide it has both joints of
# a pair in one place for a frame.
SHORT = 0.3
_NONE = np.zeros(0, dtype=np.intp)


@dataclass
class _Held:
    """Of one person, as of the last sight. The leaders are the shoulders and the hips, in this order."""

    seen_ns: int
    lines: NDArray[np.float64]  # [P, 2] from the right joint of each pair to the left one, when last long; as published
    long_ns: list[int]  # when each leader's line was last long
    agreed: list[float]  # seconds for which the network has agreed with each leader's line
    widest: list[float]  # pixels; how long each leader's line has been


@dataclass
class _Seen:
    """Of one person, what the network says in this frame."""

    now_ns: int
    lines: NDArray[np.float64]  # [P, 2]
    lengths: NDArray[np.float64]  # [P]
    sure: NDArray[np.bool_]  # [P] both joints
    size: Callable[[], float]  # the person's, pixels


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

    def hold(self, ids: list[str], poses: Poses, taken_ns: int) -> Poses:
        """The ``poses`` of persons ``ids`` [N] in a frame taken at ``taken_ns``, left and right as they were."""
        self._held = {i: h for i, h in self._held.items() if abs(taken_ns - h.seen_ns) <= UNSEEN * 1e9}
        lines = poses.joints[:, self._left] - poses.joints[:, self._right]
        sure = np.minimum(poses.scores[:, self._left], poses.scores[:, self._right]) >= SURE
        lengths = np.hypot(lines[..., 0], lines[..., 1])
        exchanged: dict[int, NDArray[np.intp]] = {}  # row -> which pairs
        for row, name in enumerate(ids):
            held = self._held.get(name)
            if held is None:
                self._held[name] = _Held(taken_ns, lines[row], [taken_ns] * 2, [0.0] * 2, [0.0] * 2)
                continue
            seen = _Seen(taken_ns, lines[row], lengths[row], sure[row], partial(_size, poses, row))
            wrong = [pairs for which in (0, 1) if len(pairs := self._wrong(held, which, seen))]
            held.seen_ns = taken_ns
            if wrong:
                exchanged[row] = np.concatenate(wrong)
        return self._exchange(poses, exchanged) if exchanged else poses

    def _wrong(self, held: _Held, which: int, seen: _Seen) -> NDArray[np.intp]:
        """Which of the pairs that a leader leads the network has exchanged."""
        lead, led = self._led[which]
        seconds, passed = (max(seen.now_ns - before, 0) / 1e9 for before in (held.seen_ns, held.long_ns[which]))
        (ax, ay), (bx, by) = held.lines[lead].tolist(), seen.lines[lead].tolist()
        before, now, along = math.hypot(ax, ay), float(seen.lengths[lead]), ax * bx + ay * by
        widest = held.widest[which] = max(held.widest[which] * math.exp(-seconds / WIDTH), now)
        agreed, wrong = held.agreed[which], _NONE
        if not seen.sure[lead] or now < SHORT * widest:  # both joints in one place, or seen from the side
            held.agreed[which] = agreed * math.exp(-seconds / FADING)
            return wrong
        if along >= -ABOUT * before * now:
            agreed = min(agreed + seconds, LONGEST)
        elif along > ABOUT * before * now:
            agreed *= math.exp(-seconds / FADING)
        elif min(before, now) > max(widest * math.sin(min(TURN * passed, math.pi) / 2), LEAST * seen.size()):
            agreed = max(agreed - seconds, 0.0)
            if agreed > 0:
                wrong = led[(seen.lines[led] * held.lines[led]).sum(axis=1) < 0]
        else:
            agreed = 0.0  # it may have turned
        seen.lines[wrong] *= -1
        long = led[seen.lengths[led] >= SHORT * widest]
        held.lines[long] = seen.lines[long]
        held.long_ns[which], held.agreed[which] = seen.now_ns, agreed
        return wrong

    def _exchange(self, poses: Poses, which: dict[int, NDArray[np.intp]]) -> Poses:
        """``poses`` with left and right of the pairs ``which`` exchanged, {row: pairs}."""
        order = np.tile(np.arange(poses.scores.shape[1]), (len(poses), 1))
        for row, pairs in which.items():
            order[row, self._left[pairs]], order[row, self._right[pairs]] = self._right[pairs], self._left[pairs]
        rows = np.arange(len(poses))[:, None]
        return Poses(poses.joints[rows, order], poses.scores[rows, order], poses.covariance[rows, order])
