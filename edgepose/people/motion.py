"""How the joints of one camera's people move: their sides held, then smoothed."""

from __future__ import annotations

from dataclasses import replace

from edgepose.estimator import Poses
from edgepose.people import People
from edgepose.people.sides import Sides
from edgepose.people.smooth import smoother
from edgepose.skeletons import Skeleton


class Motion:
    """How the joints of one camera's people move: their sides held, then smoothed."""

    def __init__(self, skeleton: Skeleton, smoothing: str, hold_sides: bool) -> None:
        self._sides = Sides(skeleton) if hold_sides else None
        self._smoother = smoother(smoothing)

    def follow(self, people: People, taken_ns: int) -> People:
        """``people`` with joints, covariances and velocities as they are seen over time."""
        poses = people.poses if self._sides is None else self._sides.hold(people.ids, people.poses, taken_ns)
        at = self._smoother.smooth(people.ids, poses, taken_ns)
        return replace(people, poses=Poses(at.joints, poses.scores, at.covariance), motion=at)
