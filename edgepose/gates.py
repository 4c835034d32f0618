"""When a pose message is worth publishing. No clock is read here: time comes in with the frame."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from edgepose.people import People
from edgepose.validation import STRICT

ABSENT = 0.3  # seconds unseen from which somebody went: who is hidden for a frame or two neither goes nor comes
SURE = 0.5  # joint score from which a movement counts; below it, it is mostly the network's own wandering


class Gate(BaseModel):
    """How often one camera's poses are published; without settings, every frame.

    ``rate`` is a ceiling also for what ``on_change`` and ``heartbeat`` would let through. Only who comes or
    goes is told at once; somebody went who was not seen for ABSENT seconds.
    """

    model_config = STRICT

    rate: Annotated[float, Field(ge=0)] = 0  # messages per second, at most; 0: every frame
    on_change: Annotated[float, Field(ge=0)] = 0  # movement in shares of the box's longer side; 0: off
    heartbeat: Annotated[float, Field(gt=0)] = 1.0  # seconds after which ``on_change`` lets through what rests


class Gatekeeper:
    """Decides frame by frame what is published; counts all that it lets through as published.

    Coming and going passes at once, against ``rate`` and ``on_change``: whoever listens must not go on
    believing in a person who left, or learn late of one who came. So does the first frame. Who is out of sight for
    less than ABSENT seconds has not gone and does not come back; but whom a message left out is told when all are in
    sight, where the next one is far.

    All other messages keep to ``rate``: in any second fewer than rate + 2 pass, so at most one more than a whole
    rate. One that is due while somebody is out of sight waits, ABSENT seconds at most, until it is known who is here.
    The average is met where frames come often enough: when messages are due does not move with the frames that
    happened to pass, so nothing drifts.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._period = 1 / gate.rate if gate.rate else 0.0  # seconds
        self._seen_ns: int | None = None  # of the last frame, passed or not
        # What was published last: joints [K, 2] and the box's longer side, both in pixels, by id.
        self._published: dict[str, tuple[NDArray[np.float64], float]] = {}
        self._unseen: dict[str, float] = {}  # who is here -> seconds since its last sight
        self._left_out: set[str] = set()  # who was out of sight in the last message
        self._wait = 0.0  # seconds until the next message is due; negative: overdue
        self._silence = 0.0  # seconds since the last message

    def passes(self, people: People, taken_ns: int) -> bool:
        """Whether ``people`` of the frame taken at ``taken_ns`` (nanoseconds) are to be published.

        Ask once for each frame. Where time runs backwards (a camera restarted, a clock was set) no time has
        passed, so that waiting goes on for as long as it would have.
        """
        first = self._seen_ns is None
        elapsed = 0.0 if self._seen_ns is None else max(0, taken_ns - self._seen_ns) / 1e9
        self._seen_ns = taken_ns
        self._wait -= elapsed
        self._silence += elapsed
        # Early by up to half a frame is in time: this frame is nearer to when the message is due than the next.
        due = self._wait <= min(elapsed, self._period) / 2
        came_or_went = self._count(people.ids, elapsed)
        # All at once, so that two who flicker in turns are no message at every frame.
        all_here = len(self._unseen) == len(people.ids)
        back = self._period > ABSENT and all_here and not self._left_out.isdisjoint(people.ids)
        # For a whole period listeners would believe somebody gone who is hidden for a frame.
        early = self._period > ABSENT and -self._wait < ABSENT and any(map(self._unseen.get, self._published))
        if not (first or came_or_went or back or (due and not early and self._worth_it(people))):
            return False
        # At most half a period is made up for, else a message after a long rest would bring a burst.
        half = self._period / 2
        self._wait = self._period + min(max(self._wait, -half), half)
        self._silence = 0.0
        self._left_out = self._unseen.keys() - set(people.ids)
        sides = (people.boxes[:, 2:] - people.boxes[:, :2]).max(axis=1).tolist()
        self._published = dict(zip(people.ids, zip(people.poses.joints.copy(), sides, strict=True), strict=True))
        return True

    def _count(self, ids: list[str], elapsed: float) -> bool:
        """Whether somebody came, or somebody went of whom listeners still believe that it is here."""
        came = any(name not in self._unseen for name in ids)
        self._unseen = {name: unseen + elapsed for name, unseen in self._unseen.items()} | dict.fromkeys(ids, 0.0)
        gone = {name for name, unseen in self._unseen.items() if unseen >= ABSENT}
        self._unseen = {name: unseen for name, unseen in self._unseen.items() if name not in gone}
        return came or not gone.isdisjoint(self._published)

    def _worth_it(self, people: People) -> bool:
        return self._gate.on_change == 0 or self._silence >= self._gate.heartbeat or self._moved(people)

    def _moved(self, people: People) -> bool:
        """Whether a sure joint is far from where it was last published, or somebody was not in that message."""
        for name, joints, scores in zip(people.ids, people.poses.joints, people.poses.scores, strict=True):
            if name not in self._published:
                return True
            published, side = self._published[name]
            distance = np.linalg.norm(joints - published, axis=1)  # [K] pixels
            if np.any(distance[scores >= SURE] > self._gate.on_change * side):
                return True
        return False
