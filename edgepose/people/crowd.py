"""Everybody in the frames of one camera or of several: who is there, under which id, smoothed.

A finder looks at whole frames now and then, a tracker per camera says which crops it wants, and the crops of all
cameras go through the pose network as one batch. Without a finder: see :mod:`edgepose.people.single`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgepose.estimator import Estimator, Poses
from edgepose.frame import Frame
from edgepose.people import People
from edgepose.people.appearance import appearances
from edgepose.people.finder import Finder, Found
from edgepose.people.motion import Motion
from edgepose.people.regions import Regions, keep, select
from edgepose.people.seen import CONFIDENT
from edgepose.people.steady import Steady
from edgepose.people.tracker import Following, Tracker
from edgepose.picture import Picture
from edgepose.timing import StageTimer, untimed

IDLE_S = 0.09  # between looks of the finder while nobody is there: every third frame of 30 a second
MOST_IDLE = 9  # frames without a look, whatever the camera's clock says
BESIDE_S = 0.15  # how old an answer of the finder may be that counts for the next frame: people move
LOOK_FRAMES = 2  # after which the answer is taken where frames are begun ahead; it may then be so many BESIDE_S old
CALM_S = 0.11  # between frames, at most, of which one may be begun before the people in the other are known
TURNED = 3  # one in so many looks of the finder is at the image turned by a quarter, for people who lie


class Crowd(Protocol):
    """Whatever turns frames of different cameras into their people."""

    def update(self, frames: Sequence[Frame], timer: StageTimer = untimed) -> list[People]:
        """The people in each of ``frames``, at most one of each camera."""
        ...

    def begin(self, frames: Sequence[Frame], timer: StageTimer = untimed) -> Callable[[], list[People]]:
        """As ``update``, but what it returns waits for the people; the engine may run meanwhile."""
        ...

    def calm(self, frames: Sequence[Frame]) -> bool:
        """Whether others that come ``soon`` may be begun before the people in ``frames`` are known."""
        ...

    def soon(self, frames: Sequence[Frame], following: Sequence[Frame]) -> bool:
        """Whether ``following`` are so soon after ``frames``, and of the same size, that people are where they were."""
        ...


@dataclass(eq=False)
class _Watched:
    """One camera: who counts there, its people, and when the finder looked."""

    regions: Regions
    tracker: Tracker
    motion: Motion
    steady: Steady = field(default_factory=Steady)
    size: tuple[int, int] | None = None  # width and height of its last frame, pixels
    last_ns: int | None = None  # when that was taken
    outside: dict[str, int] = field(default_factory=dict)  # who is followed but does not count -> since when, ns
    looks: int = 0  # of the finder
    turn: int = 0  # how many there had been of all cameras when this one had its last
    looked_ns: int | None = None  # when the frame of its last look was taken
    idle: int = 0  # frames since then in which an empty room was left alone
    before: tuple[Found, _Look] | None = None  # what was seen beside its last frame


@dataclass
class _Look:
    """The finder's, at a frame of a camera."""

    watched: _Watched
    taken_ns: int
    answer: Callable[[], Found]  # waits for it
    frames_ago: int = 1  # of that camera, when the answer is taken


class Everybody:
    """All people of all cameras, with a finder."""

    def __init__(
        self,
        estimator: Estimator,
        finder: Finder,
        run: str,
        regions: dict[str, Regions],
        *,
        following: Following | None = None,
        smoothing: str = "off",
        hold_sides: bool = True,
        lying: bool = True,
    ) -> None:
        """``regions``: camera -> which of its people count. ``run`` begins every id, see :class:`Tracker`.

        ``hold_sides``: see :mod:`edgepose.people.sides`. ``lying``: the finder looks for people who lie, too.
        """
        self._estimator, self._finder, self._lying = estimator, finder, lying
        following = following or Following()
        self._every, self._patience = following.every, following.patience
        self._beside: _Look | None = None
        self._cameras = {
            name: _Watched(
                of_camera,
                Tracker(
                    run if len(regions) == 1 else f"{run}-{name}",
                    estimator.skeleton,
                    replace(following, most=min(following.most, of_camera.most or following.most)),
                ),
                Motion(estimator.skeleton, smoothing, hold_sides),
            )
            for name, of_camera in regions.items()
        }

    def update(self, frames: Sequence[Frame], timer: StageTimer = untimed) -> list[People]:
        """See :class:`Crowd`; the crops of all frames are one batch."""
        pictures, boxes, expected = self._crops(frames, timer)
        poses = self._estimator.estimate_all(pictures, boxes, timer, expected=expected)
        return self._people(frames, poses, timer)

    def begin(self, frames: Sequence[Frame], timer: StageTimer = untimed) -> Callable[[], list[People]]:
        """See :class:`Crowd`."""
        pictures, boxes, expected = self._crops(frames, timer, ahead=True)
        answer = self._estimator.begin_all(pictures, boxes, timer, expected=expected)
        return lambda: self._people(frames, answer(), timer)

    def calm(self, frames: Sequence[Frame]) -> bool:
        """See :class:`Crowd`."""
        return bool(frames) and all(self._cameras[frame.camera].tracker.calm for frame in frames)

    def soon(self, frames: Sequence[Frame], following: Sequence[Frame]) -> bool:
        """See :class:`Crowd`."""
        before = {frame.camera: frame for frame in frames}
        pairs = [(before[frame.camera], frame) for frame in following if frame.camera in before]
        return all(a.size == b.size and 0 < b.steady_ns - a.steady_ns <= CALM_S * 1e9 for a, b in pairs)

    def _crops(
        self, frames: Sequence[Frame], timer: StageTimer, *, ahead: bool = False
    ) -> tuple[list[Picture], list[NDArray[np.float64]], list[NDArray[np.float64]]]:
        """The pictures of ``frames``, the boxes to estimate in each, and where their joints should be.

        Where nobody is lost the finder looks beside the pose network, and what it sees counts for the camera's next
        frame: with a core of its own, or on a GPU, looking costs the loop next to no time. Where one film's frames are
        begun ``ahead`` it counts for the next but one, so that it has the time of two. One look at a time: of several
        cameras the one that waited longest has it.
        """
        alone = len(self._cameras) == 1
        if self._beside is not None and ahead and alone and self._beside.frames_ago < LOOK_FRAMES:
            self._beside.frames_ago += 1
        else:
            self.settle()
        waiting = [frame for frame in frames if self._inform(frame, timer)]
        if waiting and self._beside is None:
            self._beside = self._begin(min(waiting, key=lambda frame: self._cameras[frame.camera].turn), timer)
        with timer("follow"):
            trackers = [self._cameras[frame.camera].tracker for frame in frames]
            boxes = [tracker.boxes(frame.steady_ns) for tracker, frame in zip(trackers, frames, strict=True)]
            return [frame.picture for frame in frames], boxes, [tracker.expected() for tracker in trackers]

    def _people(self, frames: Sequence[Frame], poses: Sequence[Poses], timer: StageTimer) -> list[People]:
        with timer("follow"):
            return [self._in_one(frame, mine) for frame, mine in zip(frames, poses, strict=True)]

    def settle(self) -> None:
        """Wait for the look that was begun beside frames before; its camera's next frame will know what was seen."""
        if self._beside is not None:
            look, self._beside = self._beside, None
            look.watched.before = look.answer(), look

    def _inform(self, frame: Frame, timer: StageTimer) -> bool:
        """Tell the frame's tracker what the finder saw before, or sees now; whether it should look beside."""
        watched = self._cameras[frame.camera]
        tracker = watched.tracker
        if watched.size not in (None, frame.size):  # where people were tells nothing of where they are
            watched.before = watched.looked_ns = None
            tracker.restart()
        watched.size = frame.size
        before, watched.before = watched.before, None
        last_ns, watched.last_ns = watched.last_ns, frame.steady_ns
        if before is not None:
            found, look = before
            if self._soon(look.taken_ns, frame, look.frames_ago * BESIDE_S):
                tracker.found(found.boxes, found.scores, look.frames_ago)
        if not tracker.wants_finder() or (tracker.empty and self._idles(watched, frame)):
            return False
        if self._every > 1 and not tracker.searches and self._soon(last_ns, frame):
            return True
        self.settle()  # one look at a time; of this camera only the new one counts
        now = self._begin(frame, timer).answer()
        watched.before = None
        tracker.found(now.boxes, now.scores)
        return False

    def _idles(self, watched: _Watched, frame: Frame) -> bool:
        """Whether a look was just taken: an empty room, day and night, need not be looked at at every frame."""
        ago = 0 if watched.looked_ns is None else frame.steady_ns - watched.looked_ns
        idles = self._every > 1 and 0 < ago < IDLE_S * 1e9 and watched.idle < MOST_IDLE
        watched.idle = watched.idle + 1 if idles else 0
        return idles

    @staticmethod
    def _soon(before_ns: int | None, frame: Frame, seconds: float = BESIDE_S) -> bool:
        """Whether ``frame`` was taken so soon after ``before_ns`` that people are where they were."""
        return before_ns is not None and 0 <= frame.steady_ns - before_ns <= seconds * 1e9

    def _begin(self, frame: Frame, timer: StageTimer) -> _Look:
        """Begin to look at ``frame`` with the finder."""
        watched = self._cameras[frame.camera]
        watched.looks += 1
        watched.looked_ns = frame.steady_ns
        watched.turn = sum(camera.looks for camera in self._cameras.values())
        turned = self._lying and watched.looks % TURNED == 0
        running = self._finder.begin(frame.picture, timer, turned=turned)
        return _Look(watched, frame.steady_ns, partial(self._answer, running, watched.regions, frame.size))

    @staticmethod
    def _answer(running: Callable[[], Found], regions: Regions, size: tuple[int, int]) -> Found:
        # Whoever does not count costs no crop. How many count is seen when the pose network has had its word.
        found = running()
        counts = keep(regions, found.boxes, size, all_of_them=True)
        return Found(found.boxes[counts], found.scores[counts])

    def _in_one(self, frame: Frame, poses: Poses) -> People:
        watched = self._cameras[frame.camera]
        worn = None
        if watched.tracker.wants_appearances(frame.steady_ns):
            worn = appearances(frame.picture, poses, self._estimator.skeleton, CONFIDENT)
        people = watched.tracker.update(poses, frame.steady_ns, worn)
        counts = keep(watched.regions, people.boxes, frame.size)
        watched.tracker.forget(self._long_outside(watched, frame, people, counts))
        return watched.motion.follow(select(people, counts), frame.steady_ns)

    def _long_outside(self, watched: _Watched, frame: Frame, people: People, counts: NDArray[np.bool_]) -> list[str]:
        """Who has not counted for longer than a person may be unseen: they cost crops, and places that others need."""
        before, now = watched.outside, watched.steady(frame.steady_ns)
        unseen = watched.tracker.ids - set(people.ids)  # where they were, they are
        since = {name: start for name, start in before.items() if name in unseen}
        since |= {name: before.get(name, now) for name, in_ in zip(people.ids, counts, strict=True) if not in_}
        watched.outside = since
        return [name for name, start in since.items() if now - start > self._patience * 1e9]
