"""Everybody in one camera, followed: which crops to look at next, and who was seen in them.

No engine, no clock and no camera in here. Per frame: ``found`` if the finder looked at the last one; ``wants_finder``,
and if it did ``found`` if the finder looked at this one, which then counts alone; ``boxes``; ``wants_looks``, and
``update`` with looks if it did.
Where frames' times run backwards, as after a clock was set, no time passes.

A track is in one of four states; only confirmed ones are published, and only in frames in which they were seen.

    state       seen                             not seen
    ---------   ------------------------------   -------------------------------------
    tentative   confirmed at the N-th sight      gone
    confirmed   stays                            lost
    lost        confirmed again, same id         gone after ``patience`` seconds unseen
    gone        never comes back                 (nothing refers to it any more)

Seen means that one of the frame's answers was given to the track. The network answers once per crop, and where people
meet it answers with whoever is in front: two crops may see one person, or each see the other's. So first all but one
of the answers that show the same person are dropped (by OKS), then the rest are shared out by how well they agree with
each track's prediction (OKS and IoU, Hungarian algorithm) and with what the person wore when last seen alone: confirmed
tracks first, then lost ones, then tentative ones, as whoever was seen last knows best where to be.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgepose.crops import box_of_joints
from edgepose.estimator import Poses
from edgepose.people import People
from edgepose.people.association import assign, body_scale, constants, inside, iou, nearness, oks, overlap
from edgepose.people.find import joints_box
from edgepose.people.follow import ACCEPT, CONFIDENT, KEEP
from edgepose.people.looks import REGIONS, alike
from edgepose.people.steady import Pace, Steady
from edgepose.skeletons import Skeleton

State = Literal["tentative", "confirmed", "lost", "gone"]
Order = Literal["confirmed", "lost", "tentative"]
ORDER: tuple[Order, ...] = get_args(Order)  # who chooses first among the answers

# Agreement with its prediction, 0..1, from which an answer may belong to a track. A lost one's place is a guess.
ANSWER_LEAST: dict[Order, float] = {"confirmed": 0.3, "lost": 0.2, "tentative": 0.1}
WELL = 0.5  # IoU from which a found box shows the person of a track that was just seen
POOR = 0.3  # IoU from which it may, if that track is not well seen itself
LOST = 0.1  # nearness from which it may be a lost person
LOST_REACH, LOST_SPEED = 0.1, 0.5  # how far from its prediction a lost person may be: box heights, and more per second
COVERED = 0.7  # share of a found box within a track's box from which it shows nobody new
SAME = 0.45  # OKS from which two answers show one person: of two people who merely overlap it is near nought

ALONE = 0.1  # share of a person's box in another's, or of the other's in it, from which its look may be the other's
WEARING = 0.5  # seconds over which a look is averaged
RENEWED = 0.15  # seconds after which the look of who is alone is taken again
NEAR = 1.25  # sides of the crop in longer sides of the box: where crops meet, one may show the other's person
DRESS = 0.75  # share of an answer's agreement that is lost where it is dressed as somebody else here and not at all so

SMOOTHING = 0.15  # seconds over which velocity is averaged
LOOSE = 0.6  # share of ACCEPT that a first sight needs: a finder's box may fit badly, the joints then place the crop

RESHAPING = 0.15  # seconds in which the crop takes on the shape of the joints
MEMORY = 1.0  # seconds for which an unsure joint is carried along
DAMPING = 1.5  # seconds in which an unseen person is thought to stop; prediction never goes further than this
FASTEST = 3.0  # box heights (longer sides) per second: a sprint
SURER = 1.3  # ratio of the finder's scores from which somebody may have stepped in front of what was refused
FIRST_PAUSE, LONGEST_PAUSE = 0.3, 1.2  # seconds for which a place where nobody was is left alone; doubled each time


@dataclass(frozen=True)
class Following:
    """How people are followed."""

    every: int = 5  # frames between looks of the finder while everybody is seen
    confirm: int = 3  # sights until a person counts (tentative -> confirmed)
    patience: float = 1.0  # seconds unseen until a person is gone (lost -> gone)
    accept: float = ACCEPT  # person score, 0..1, that a new person needs in each sight until it counts; the first may
    # be less sure, and is then not the one that makes it count
    keep: float = KEEP  # person score, 0..1, below which a followed person counts as unseen
    confident: float = CONFIDENT  # joint score, 0..1, from which a joint shapes the box
    most: int = 8  # people at once: tracks, hence crops per frame, and as many again if all of them lean


@dataclass
class _Track:
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
    sights: int = 0
    mean: float = 0.0  # score of the last sight
    velocity: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))  # of the whole body, pixels per second
    crop: NDArray[np.float64] = field(default_factory=lambda: np.zeros(4))  # predicted box of the present frame
    ahead: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))  # [K, 2] predicted joints
    look: NDArray[np.float64] = field(default_factory=lambda: np.full((len(REGIONS), 3), np.nan))  # when last alone
    worn_ns: int | None = None  # when the look was last taken

    def predict(self, now_ns: int) -> None:
        """Constant velocity that dies away: ``v T (1 - exp(-t / T))`` pixels in t seconds."""
        unseen = max(now_ns - self.seen_ns, 0) / 1e9
        shift = self.velocity * DAMPING * (1 - math.exp(-unseen / DAMPING))
        self.crop = self.box + np.tile(shift, 2)
        self.ahead = self.joints + shift

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
        self._measure(joints, sure & (self.sure_ns == self.seen_ns), (now_ns - self.seen_ns) / 1e9)
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

    def wear(self, look: NDArray[np.float64], now_ns: int) -> None:
        """What the person looks like [R, 3], seen alone."""
        # The first look after a meeting or an absence may still be another's, and counts like any other.
        seconds = RENEWED if self.worn_ns is None else min((now_ns - self.worn_ns) / 1e9, RENEWED)
        share = 1 - math.exp(-seconds / WEARING)
        self.worn_ns = now_ns
        mixed = np.where(np.isfinite(self.look), self.look + share * (look - self.look), look)
        self.look = np.where(np.isfinite(look), mixed, self.look)

    def _measure(self, joints: NDArray[np.float64], both: NDArray[np.bool_], seconds: float) -> None:
        """Velocity from the joints [K, 2] that were sure in ``both`` [K] the last sight and this one."""
        if both.sum() < 4 or seconds <= 0:
            return
        # The median: a leg taken for the other one is no motion.
        moved = _median(joints[both] - self.joints[both]) / seconds
        self.velocity = self.velocity + (1 - math.exp(-seconds / SMOOTHING)) * (moved - self.velocity)
        limit = FASTEST * max(float(max(self.box[2:] - self.box[:2])), 1.0)
        self.velocity *= min(1.0, limit / max(float(np.hypot(*self.velocity)), 1e-6))


def _median(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median [2] of ``points`` [M, 2], none of them NaN: ``np.median``, at a tenth of its time for so few."""
    ordered = np.sort(points, axis=0)
    return np.asarray((ordered[(len(points) - 1) // 2] + ordered[len(points) // 2]) / 2)


def _meets(boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of the people in ``boxes`` [N, 4] share their place with somebody else [N]."""
    share = inside(boxes, boxes)
    meets = np.maximum(share, share.T) > ALONE
    np.fill_diagonal(meets, False)
    return np.asarray(meets.any(axis=1))


@dataclass
class _Refusal:
    """A place in which the finder saw somebody and the pose network did not: a coat, a chair, a poster."""

    box: NDArray[np.float64]  # [4]
    score: float  # the finder's
    since_ns: int
    pause: float  # seconds

    def holds(self, now_ns: int) -> bool:
        """Whether the place is still left alone. It is remembered for as long again, to know it when it comes back."""
        return now_ns - self.since_ns <= self.pause * 1e9


class Tracker:
    """Follows everybody in one camera. Ids are ``<run>-1``, ``<run>-2``, ... and never come back.

    ``run`` is a short text that differs from run to run.
    """

    def __init__(self, run: str, skeleton: Skeleton, following: Following = Following()) -> None:
        self._run = run
        self._k, self._mirror = constants(skeleton), skeleton.mirror
        self._following = following
        self._tracks: list[_Track] = []
        self._refusals: list[_Refusal] = []
        self._named = 0
        self._since_look = following.every
        self._found: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
        self._steady = Steady()
        self._pace = Pace()

    def wants_finder(self) -> bool:
        """Whether to look for people in the coming frame: nobody is here, one is lost, or it is time again."""
        if self.searches:
            return True
        return len(self._tracks) < self._following.most and self._since_look >= self._following.every

    @property
    def searches(self) -> bool:
        """Whether nobody is here, or somebody is lost: the finder's answer should be of the coming frame itself."""
        return self.empty or any(t.state == "lost" for t in self._tracks)

    @property
    def empty(self) -> bool:
        """Whether nobody is here, nor may be."""
        return not self._tracks

    def found(self, boxes: NDArray[np.floating], scores: NDArray[np.floating], frames_ago: int = 0) -> None:
        """The finder's answer for this frame, before ``boxes``: ``boxes`` [M, 4] in pixels with ``scores`` [M].

        ``frames_ago``: how old the answer is.
        """
        self._found = np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(scores, np.float64)
        self._since_look = frames_ago

    def boxes(self, acquired_ns: int) -> NDArray[np.float64]:
        """The boxes [N, 4] to estimate in the frame taken at ``acquired_ns`` (nanoseconds): tracks, then newcomers."""
        now_ns = self._steady(acquired_ns)
        if self._pace.away(now_ns, self._following.patience):
            self.restart()
        self._retire(now_ns)
        for track in self._tracks:
            track.predict(now_ns)
        if self._found is not None:
            self._place_found(*self._found, now_ns)
            self._found = None
        return self._crops()

    def wants_looks(self, acquired_ns: int) -> bool:
        """Whether ``update`` should be given looks for this frame, after ``boxes``.

        They tell nothing while everybody is seen and nobody is near another, so that they are only kept up to date.
        """
        now_ns = self._steady(acquired_ns)
        if any(t.state == "lost" or t.worn_ns is None or now_ns - t.worn_ns >= RENEWED * 1e9 for t in self._tracks):
            return True
        boxes = self._crops()
        middles, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True)
        crops = np.concatenate([middles - NEAR / 2 * sides, middles + NEAR / 2 * sides], axis=1)
        return bool(np.triu(overlap(crops, crops), 1).any())

    def update(self, poses: Poses, acquired_ns: int, looks: NDArray[np.float64] | None = None) -> People:
        """The people seen in the frame, by the ``poses`` of exactly the boxes that ``boxes`` gave, in their order.

        ``looks`` [N, R, 3] of :mod:`edgepose.people.looks` tell people apart who meet; without, places alone do.
        """
        if len(poses) != len(self._tracks):
            raise ValueError(f"{len(poses)} poses for {len(self._tracks)} boxes")
        self._since_look += 1
        now_ns = self._steady(acquired_ns)
        seen, means = self._share_out(poses, looks), poses.person_scores
        for i, track in enumerate(self._tracks):
            if i in seen:
                track.see(poses.joints[seen[i]], poses.scores[seen[i]], now_ns, self._following.confident)
                # The first sight may be of a box that fits badly; the one that makes a person count may not.
                enough = track.sights >= self._following.confirm and means[seen[i]] >= self._following.accept
                if track.state == "lost" or (track.state == "tentative" and enough):
                    self._confirm(track)
            elif track.state == "tentative":
                track.state = "gone"
                self._refuse(track.crop, track.found, now_ns)
            else:
                track.state = "lost"
        if looks is not None:
            self._remember(seen, looks, now_ns)
        here = [(track, seen[i]) for i, track in enumerate(self._tracks) if i in seen and track.state == "confirmed"]
        self._retire(now_ns)
        return self._people(poses, here)

    @property
    def ids(self) -> set[str]:
        """Everybody who is followed and has an id, seen or lost."""
        return {t.id for t in self._tracks if t.id}

    def restart(self) -> None:
        """Whoever is seen from now on is somebody new: the camera was away, or its images have another size."""
        self._tracks, self._refusals = [], []

    def forget(self, ids: Iterable[str]) -> None:
        """Follow these people no longer; who is found again later gets a new id."""
        gone = set(ids)
        self._tracks = [t for t in self._tracks if not t.id or t.id not in gone]

    def _confirm(self, track: _Track) -> None:
        track.state = "confirmed"
        if not track.id:
            self._named += 1
            track.id = f"{self._run}-{self._named}"

    def _retire(self, now_ns: int) -> None:
        """Forget who is gone: lost for too long."""
        for track in self._tracks:
            if track.state == "lost" and now_ns - track.seen_ns > self._following.patience * 1e9:
                track.state = "gone"
        self._tracks = [t for t in self._tracks if t.state != "gone"]

    def _refuse(self, box: NDArray[np.float64], score: float, now_ns: int) -> None:
        """Nobody was in ``box`` [4]: do not spend a crop on it at every look, and less and less often."""
        self._refusals = [r for r in self._refusals if now_ns - r.since_ns <= 2 * r.pause * 1e9]
        again = [r for r in self._refusals if iou(box[None], r.box[None])[0, 0] > WELL]
        pause = min(2 * max((r.pause for r in again), default=FIRST_PAUSE / 2), LONGEST_PAUSE)
        self._refusals = [r for r in self._refusals if not any(r is a for a in again)] + [
            _Refusal(box, score, now_ns, pause)
        ]

    def _in(self, *states: State) -> NDArray[np.intp]:
        """Positions of the tracks in one of these states."""
        return np.array([i for i, track in enumerate(self._tracks) if track.state in states], dtype=np.intp)

    def _crops(self) -> NDArray[np.float64]:
        return np.array([t.crop for t in self._tracks]).reshape(-1, 4)

    def _place_found(self, boxes: NDArray[np.float64], scores: NDArray[np.float64], now_ns: int) -> None:
        """Found boxes [M, 4] go to the tracks that they fit; the rest are newcomers, unless somebody covers them."""
        crops = self._crops()
        seen, lost = self._in("confirmed", "tentative"), self._in("lost")
        free = np.ones(len(boxes), dtype=bool)
        shaky = np.array([self._tracks[i].mean < self._following.accept for i in seen], dtype=bool)
        meets = _meets(crops)
        for row, column in assign(iou(crops[seen], boxes), WELL):
            # The joints of the last frame place a crop better than a finder does, but they cannot tell of feet that the
            # crop cut off. Where people meet the finder's box is between them.
            free[column] = shaky[row] = False
            if not meets[seen[row]]:
                self._tracks[seen[row]].look_beyond(boxes[column])
        unseen = np.array([now_ns - self._tracks[i].seen_ns for i in lost]) / 1e9
        reach = (LOST_REACH + LOST_SPEED * unseen) * (crops[lost, 2:] - crops[lost, :2]).max(axis=1, initial=1.0)
        near, shared = nearness(crops[lost], boxes, reach), iou(crops[seen[shaky]], boxes)
        for rows, likeness, least in ((lost, near, LOST), (seen[shaky], shared, POOR)):
            columns = np.flatnonzero(free)
            for row, column in assign(likeness[:, columns], least):
                self._tracks[rows[row]].place(boxes[columns[column]])
                free[columns[column]] = False
        crops = self._crops()[seen]
        covered = ((inside(boxes, crops) > COVERED) | (iou(boxes, crops) > WELL)).any(axis=1)
        refusals = [r for r in self._refusals if r.holds(now_ns)]
        there = iou(boxes, np.array([r.box for r in refusals]).reshape(-1, 4)) > WELL
        refused = there & (scores[:, None] < SURER * np.array([r.score for r in refusals]))
        newcomers = np.flatnonzero(free & ~covered & ~refused.any(axis=1))
        # Where there is no place for all, the largest come first: mostly the nearest.
        longer = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0.0)
        newcomers = newcomers[np.argsort(-longer[newcomers], kind="stable")]
        k = len(self._k)
        for index in newcomers[: max(self._following.most - len(self._tracks), 0)]:
            joints, never = np.full((k, 2), np.nan), np.full(k, -1, dtype=np.int64)
            track = _Track("tentative", boxes[index], joints, np.zeros(k), never, now_ns, found=float(scores[index]))
            track.predict(now_ns)
            self._tracks.append(track)

    def _remember(self, seen: dict[int, int], looks: NDArray[np.float64], now_ns: int) -> None:
        """Learn the looks of the people who were ``seen``, {track: answer}, where nobody else is near."""
        boxes = np.array([t.box if i in seen else t.crop for i, t in enumerate(self._tracks)]).reshape(-1, 4)
        meets = _meets(boxes)
        for i, answer in seen.items():
            if meets[i]:
                self._tracks[i].worn_ns = now_ns
            else:
                self._tracks[i].wear(looks[answer], now_ns)

    def _share_out(self, poses: Poses, looks: NDArray[np.float64] | None) -> dict[int, int]:
        """Which answer each track that was seen is given: {track: answer}, both as positions."""
        if not self._tracks:
            return {}
        crops = self._crops()
        boxes = [joints_box(poses, i, self._following.confident) for i in range(len(poses))]
        answered = np.array([crop if box is None else box for box, crop in zip(boxes, crops, strict=True)])
        likeness = self._likeness(poses, answered, looks)
        free = self._one_each(poses, answered, likeness)
        given: dict[int, int] = {}
        likeness = np.where(poses.person_scores >= self._bars()[:, None], likeness, 0.0)
        for state in ORDER:
            rows, columns = self._in(state), np.flatnonzero(free)
            for row, column in assign(likeness[np.ix_(rows, columns)], ANSWER_LEAST[state]):
                given[int(rows[row])] = int(columns[column])
                free[columns[column]] = False
        return given

    def _bars(self) -> NDArray[np.float64]:
        """The person score [N] that each track needs to count as seen."""
        told = {"confirmed": self._following.keep, "lost": self._following.keep, "tentative": self._following.accept}
        return np.array([told[t.state] * (1.0 if t.sights or t.state != "tentative" else LOOSE) for t in self._tracks])

    def _likeness(
        self, poses: Poses, answered: NDArray[np.float64], looks: NDArray[np.float64] | None
    ) -> NDArray[np.float64]:
        """How well each answer agrees with each track's prediction [tracks, answers], 0..1.

        The mean of OKS and of IoU of the boxes ``answered`` [N, 4]; IoU alone for a newcomer, who has no joints yet.
        Less where the ``looks`` [N, R, 3] of the answer are more like another track's: who is alone may step into
        the shade.
        """
        crops = self._crops()
        boxes = iou(crops, answered)
        ahead = np.stack([t.ahead for t in self._tracks])
        scores = np.stack([t.scores for t in self._tracks])
        joints = oks(ahead, poses.joints, body_scale(crops), self._k, a_scores=scores, b_scores=poses.scores)
        new = np.array([t.sights == 0 for t in self._tracks])
        likeness = np.where(new[:, None], boxes, (boxes + joints) / 2)
        if looks is not None:
            dress = alike(np.stack([t.look for t in self._tracks]), looks)
            best = np.nan_to_num(dress).max(axis=0)
            likeness *= np.where(np.isfinite(dress), 1 - DRESS * (best - dress), 1.0)
        return np.asarray(likeness)

    def _one_each(
        self, poses: Poses, answered: NDArray[np.float64], likeness: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Which answers [N] to keep so that no person is answered twice: those that fit their crop's track best."""
        means, scale, bars = poses.person_scores, body_scale(answered), self._bars()
        if not np.triu(overlap(answered, answered), 1).any():
            return np.asarray(means >= bars)
        # Of one person seen from behind, one crop may take left for right and another not.
        same = np.zeros((len(poses), len(poses)))
        for order in (np.arange(len(self._k)), self._mirror):
            joints, scores = poses.joints[:, order], poses.scores[:, order]
            same = np.maximum(same, oks(poses.joints, joints, scale, self._k, a_scores=poses.scores, b_scores=scores))
        kept = np.zeros(len(poses), dtype=bool)
        for index in np.argsort(-np.diagonal(likeness) * means, kind="stable"):
            kept[index] = means[index] >= bars[index] and not (same[index, kept] > SAME).any()
        return kept

    def _people(self, poses: Poses, here: list[tuple[_Track, int]]) -> People:
        """What is published of the tracks that are ``here``, each with its answer's position."""
        chosen = np.array([index for _, index in here], dtype=np.intp)
        mine = Poses(poses.joints[chosen], poses.scores[chosen], poses.covariance[chosen])
        boxes = [joints_box(mine, i, self._following.confident) for i in range(len(mine))]
        shown = [track.crop if box is None else box for box, (track, _) in zip(boxes, here, strict=True)]
        return People([track.id for track, _ in here], np.array(shown).reshape(-1, 4), mine)
