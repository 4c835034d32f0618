"""One person per camera, without a finder, for a fixed rig: each frame's crop is the box of the last frame's joints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from edgepose.crops import box_of_joints
from edgepose.estimator import Estimator, Poses
from edgepose.frame import Frame
from edgepose.people import People
from edgepose.people.motion import Motion
from edgepose.people.regions import Regions, keep
from edgepose.people.search import Counts, Search, anywhere
from edgepose.people.seen import CONFIDENT, KEEP, PATIENCE_S
from edgepose.people.steady import Outages, Steady
from edgepose.people.track import EXPECTED
from edgepose.picture import Picture
from edgepose.timing import StageTimer, untimed

SHRINK = 0.1  # of the way, per frame, that a box comes in to one that is much smaller
PATIENCE = 8  # frames unseen in a row after which the search begins anew


class SinglePerson:
    """Finds one person, follows it, and searches again when its scores fall.

    ``run`` is a short text that differs from run to run; ids are ``<run>-1``, ``<run>-2``, ... and never
    come back.
    """

    def __init__(self, estimator: Estimator, run: str) -> None:
        self._estimator = estimator
        self._search = Search(estimator)
        self._run = run
        self._count = 0
        self._unseen = 0
        self._box: NDArray[np.float64] | None = None
        self._joints: NDArray[np.float64] | None = None  # [1, K, 2] of the frame before, NaN where they were not sure

    def forget(self) -> None:
        """Whoever was followed is gone; search anew."""
        self._box = self._joints = None
        self._search.restart()

    def update(
        self, picture: Picture, timer: StageTimer = untimed, counts: Counts = anywhere, *, soon: bool = True
    ) -> People:
        """The person in the next frame's ``picture`` [H, W, 3], if there is one who ``counts``.

        ``soon``: it was taken so soon after the last one that joints are about where they were.
        """
        if self._box is None:
            self._box = self._search.look(picture, timer, counts)
            if self._box is None:
                return self._nobody()
            self._count += 1
            self._unseen = 0
        poses = self._estimator.estimate(picture, self._box[None], timer, expected=self._joints if soon else None)
        seen = poses.person_scores[0] >= KEEP
        self._joints = np.where(poses.scores[..., None] >= CONFIDENT, poses.joints, np.nan) if seen else None
        if seen:
            self._box = self._next_box(poses, self._box)
        if not seen or not counts(self._box):
            self._unseen += 1
            if self._unseen >= PATIENCE:
                self.forget()
            return self._nobody()
        self._unseen = 0
        return People([f"{self._run}-{self._count}"], self._box[None].copy(), poses)

    def _next_box(self, poses: Poses, last: NDArray[np.float64]) -> NDArray[np.float64]:
        """The box of the joints that are sure, coming in slowly where it is much smaller; where few are, the last."""
        sure = poses.scores[0] >= CONFIDENT
        if sure.sum() < 4:
            return last
        box = box_of_joints(poses.joints[0], sure)
        if max(box[2:] - box[:2]) < 0.8 * max(last[2:] - last[:2]):
            # Feet that are unsure for a moment must not be cut off, or they would never be seen again.
            slowly = last + SHRINK * (box - last)
            box = np.concatenate([np.minimum(box[:2], slowly[:2]), np.maximum(box[2:], slowly[2:])])
        return box

    def _nobody(self) -> People:
        k = len(self._estimator.skeleton)
        return People([], np.zeros((0, 4)), Poses(np.zeros((0, k, 2)), np.zeros((0, k)), np.zeros((0, k, 3))))


@dataclass(eq=False)
class _Alone:
    """One camera, and the one person in it."""

    regions: Regions
    person: SinglePerson
    motion: Motion
    steady: Steady = field(default_factory=Steady)
    outages: Outages = field(default_factory=Outages)
    size: tuple[int, int] | None = None  # width and height of its last frame, pixels
    last_ns: int | None = None  # when that was taken, steady


class OneEach:
    """One person per camera; a :class:`edgepose.people.crowd.Crowd`."""

    def __init__(
        self,
        estimator: Estimator,
        run: str,
        regions: dict[str, Regions],
        *,
        smoothing: str = "off",
        hold_sides: bool = True,
    ) -> None:
        """As :class:`edgepose.people.crowd.Everybody`."""
        self._cameras = {
            name: _Alone(
                of_camera,
                SinglePerson(estimator, run if len(regions) == 1 else f"{run}-{name}"),
                Motion(estimator.skeleton, smoothing, hold_sides),
            )
            for name, of_camera in regions.items()
        }

    def begin(self, frames: Sequence[Frame], timer: StageTimer = untimed) -> Callable[[], list[People]]:
        """See :class:`edgepose.people.crowd.Crowd`; nothing runs before it is waited for."""
        return partial(self.update, frames, timer)

    def calm(self, frames: Sequence[Frame]) -> bool:
        """See ``Crowd``: never, each crop is that of the last joints."""
        return False

    def soon(self, frames: Sequence[Frame], following: Sequence[Frame]) -> bool:
        """See ``Crowd``: nothing is begun, as nobody is ever calm."""
        return False

    def update(self, frames: Sequence[Frame], timer: StageTimer = untimed) -> list[People]:
        """See ``Crowd``."""
        return [self._in_one(frame, timer) for frame in frames]

    def _in_one(self, frame: Frame, timer: StageTimer) -> People:
        alone = self._cameras[frame.camera]
        now_ns = alone.steady(frame.steady_ns)
        if alone.outages.away(now_ns, PATIENCE_S) or alone.size not in (None, frame.size):
            alone.person.forget()
        alone.size = frame.size
        soon = alone.last_ns is None or now_ns - alone.last_ns <= EXPECTED * 1e9
        alone.last_ns = now_ns
        counts = partial(_counts, alone.regions, frame.size)
        people = alone.person.update(frame.picture, timer, counts, soon=soon)
        return alone.motion.follow(people, frame.steady_ns)


def _counts(regions: Regions, size: tuple[int, int], box: NDArray[np.float64]) -> bool:
    return bool(keep(regions, box[None], size)[0])
