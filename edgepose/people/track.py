"""One person, followed: what is known as of the last sight, and where it should be now."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgepose.crops import box_of_joints
from edgepose.people.appearance import REGIONS

State = Literal["tentative", "confirmed", "lost", "gone"]

SMOOTHING = 0.15  # seconds over which velocity is averaged
RESHAPING = 0.15  # seconds in which the crop takes on the shape of the joints
EXPECTED = 0.35  # seconds for which a joint is expected where it was, moved on with the body
MEMORY = 1.0  # seconds for which an unsure joint is carried along
DAMPING = 1.5  # seconds in which an unseen person is thought to stop; prediction never goes further than this
FASTEST = 3.0  # box heights (longer sides) per second: a sprint
SETTLED = 0.3  # seconds after the first sight until which any velocity is believed: it starts from none
WEARING = 0.5  # seconds over which an appearance is averaged
RENEWED = 0.15  # seconds after which the appearance of who is alone is taken again


@dataclass(eq=False)
class Track:
    """What is known of a person, as of its last sight, and where it should be in the present frame.

    A joint that becomes unsure is carried along with the body for a while: a leg behind somebody else, or one unsure
    ankle, must neither halve the crop nor move its middle away from the person's.
    """

    state: State
    box: NDArray[np.float64]  # [4] that the next crop comes from
    joints: NDArray[np.float64]  # [K, 2]; NaN where not known
    scores: NDArray[np.float64]  # [K] when last sure
    sure_ns: NDArray[np.int64]  # [K] when each joint was last sure; -1 never
    seen_ns: int  # of the last sight; of the found box before the first
    id: str = ""  # named when confirmed, so that false starts use up no name
    found: float = 0.0  # the finder's score of who is new
    first_ns: int = 0  # of the first sight
    sights: int = 0
    mean: float = 0.0  # score of the last sight
    velocity: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))  # of the whole body, pixels per second
    crop: NDArray[np.float64] = field(default_factory=lambda: np.zeros(4))  # predicted box of the present frame
    ahead: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))  # [K, 2] predicted joints
    appearance: NDArray[np.float64] = field(default_factory=lambda: np.full((len(REGIONS), 3), np.nan))  # when alone
    worn_ns: int | None = None  # when that was last taken
    jolt: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))  # of the last sight, if not believed

    def predict(self, now_ns: int) -> None:
        """Constant velocity that dies away: ``v T (1 - exp(-t / T))`` pixels in t seconds."""
        unseen = max(now_ns - self.seen_ns, 0) / 1e9
        shift = self.velocity * DAMPING * (1 - math.exp(-unseen / DAMPING))
        self.crop = self.box + np.concatenate([shift, shift])
        self.ahead = self.joints + shift

    def expected(self, now_ns: int) -> NDArray[np.float64]:
        """Where each joint that was sure a moment ago should be in the present frame [K, 2]; NaN where unknown."""
        fresh = (self.sure_ns == self.seen_ns) & (now_ns - self.seen_ns <= EXPECTED * 1e9)
        return np.where(fresh[:, None], self.ahead, np.nan)

    def place(self, box: NDArray[np.float64]) -> None:
        """In the present frame the person is in ``box`` [4], not where it was predicted."""
        old = np.maximum(self.crop[2:] - self.crop[:2], 1.0)
        self.ahead = box[:2] + (self.ahead - self.crop[:2]) / old * (box[2:] - box[:2])
        self.crop = box

    def look_beyond(self, box: NDArray[np.float64]) -> None:
        """In the present frame the crop reaches as far as the found ``box`` [4] does."""
        self.crop = np.concatenate([np.minimum(self.crop[:2], box[:2]), np.maximum(self.crop[2:], box[2:])])

    def see(self, joints: NDArray[np.float64], scores: NDArray[np.float64], now_ns: int, confident: float) -> None:
        """A sight of the person: ``joints`` [K, 2] with ``scores`` [K]."""
        sure = scores >= confident
        if not self.sights:
            self.first_ns = now_ns
        self._measure(joints, sure & (self.sure_ns == self.seen_ns), now_ns)
        carried = ~sure & np.isfinite(self.ahead[:, 0]) & (now_ns - self.sure_ns <= MEMORY * 1e9)
        both = sure & np.isfinite(self.ahead[:, 0])
        off = _median(joints[both] - self.ahead[both]) if both.any() else np.zeros(2)
        self.joints = np.where(sure[:, None], joints, np.where(carried[:, None], self.ahead + off, np.nan))
        self.scores = np.where(sure, scores, self.scores)
        self.sure_ns = np.where(sure, now_ns, self.sure_ns)
        known = sure | carried
        around = box_of_joints(self.joints, known) if known.sum() >= 4 else self.crop
        # A wrist that is seen in the furniture for a frame or two must not stretch the crop.
        fresh = 1 - math.exp(-(now_ns - self.seen_ns) / 1e9 / RESHAPING) if self.sights else 1.0
        self.box = self.crop + fresh * (around - self.crop)
        self.seen_ns, self.mean = now_ns, float(scores.mean())
        self.sights += 1

    def wear(self, appearance: NDArray[np.float64], now_ns: int) -> None:
        """What the person looks like [R, 3], seen alone."""
        # The first one after a meeting or an absence may still be another's, and counts like any other.
        seconds = RENEWED if self.worn_ns is None else min((now_ns - self.worn_ns) / 1e9, RENEWED)
        share = 1 - math.exp(-seconds / WEARING)
        self.worn_ns = now_ns
        mixed = self.appearance + share * (appearance - self.appearance)
        mixed = np.where(np.isfinite(self.appearance), mixed, appearance)
        self.appearance = np.where(np.isfinite(appearance), mixed, self.appearance)

    def _measure(self, joints: NDArray[np.float64], both: NDArray[np.bool_], now_ns: int) -> None:
        """Velocity from the joints [K, 2] that were sure in ``both`` [K] the last sight and this one."""
        seconds = (now_ns - self.seen_ns) / 1e9
        if both.sum() < 4 or seconds <= 0:
            return
        # The median: a leg taken for the other one is no motion.
        change = _median(joints[both] - self.joints[both]) / seconds - self.velocity
        height = max(float(max(self.box[2:] - self.box[:2])), 1.0)
        # Who is seen wrongly once, and rightly again, has not moved. Two jolts the same way are how somebody moves.
        jolts = float(np.hypot(*change)) > FASTEST * height and now_ns - self.first_ns > SETTLED * 1e9
        before, self.jolt = self.jolt, change if jolts and not self.jolt.any() else np.zeros(2)
        if jolts and not change @ before > 0:
            return
        self.velocity = self.velocity + (1 - math.exp(-seconds / SMOOTHING)) * change
        self.velocity *= min(1.0, FASTEST * height / max(float(np.hypot(*self.velocity)), 1e-6))


def _median(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median [2] of ``points`` [M, 2], none of them NaN: ``np.median``, at a tenth of its time for so few."""
    ordered = np.sort(points, axis=0)
    return np.asarray((ordered[(len(points) - 1) // 2] + ordered[len(points) // 2]) / 2)
