"""Everybody in one camera, followed: which crops to look at next, and who was seen in them.

No engine, no clock and no camera in here. Per frame: ``found`` if the finder looked at the last one; ``wants_finder``,
and if it did ``found`` if the finder looked at this one, which then counts alone; ``boxes``, and at once after it
``expected``; ``wants_appearances``, and ``update`` with them if it did. A frame's ``boxes`` may be asked for before the
``update`` of those before it: see ``calm``.
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

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgepose.estimator import Poses
from edgepose.people import People
from edgepose.people.appearance import alike
from edgepose.people.association import assign, body_scale, constants, inside, iou, nearness, oks, overlap
from edgepose.people.seen import ACCEPT, CONFIDENT, KEEP, PATIENCE_S, joints_box
from edgepose.people.steady import Outages, Steady
from edgepose.people.track import RENEWED, State, Track
from edgepose.skeletons import Skeleton

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

ALONE = 0.1  # share of a person's box in another's, or the other way round, from which its colours may be the other's
NEAR = 1.25  # sides of the crop in longer sides of the box: where crops meet, one may show the other's person
DRESS = 0.75  # share of an answer's agreement that is lost where it is dressed as somebody else here and not at all so

CALM_STEP = 0.033  # box heights (longer sides) that who is calm moves by from one frame to the next, at most

LOOSE = 0.6  # share of ACCEPT that a first sight needs: a finder's box may fit badly, the joints then place the crop

SURER = 1.3  # ratio of the finder's scores from which somebody may have stepped in front of what was refused
FIRST_PAUSE, LONGEST_PAUSE = 0.3, 1.2  # seconds for which a place where nobody was is left alone; doubled each time


@dataclass(frozen=True)
class Following:
    """How people are followed."""

    every: int = 5  # frames between looks of the finder while everybody is seen
    confirm: int = 3  # sights until a person counts (tentative -> confirmed)
    patience: float = PATIENCE_S  # seconds unseen until a person is gone (lost -> gone)
    most: int = 8  # people at once: tracks, hence crops per frame, and as many again if all of them lean


def _meets(boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of the people in ``boxes`` [N, 4] share their place with somebody else [N]."""
    share = inside(boxes, boxes)
    meets = np.maximum(share, share.T) > ALONE
    np.fill_diagonal(meets, False)
    return np.asarray(meets.any(axis=1))


def _near_another(boxes: NDArray[np.float64]) -> bool:
    """Whether crops around two of ``boxes`` [N, 4] meet."""
    middles, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True)
    crops = np.concatenate([middles - NEAR / 2 * sides, middles + NEAR / 2 * sides], axis=1)
    return bool(np.triu(overlap(crops, crops), 1).any())


@dataclass(frozen=True)
class _Asked:
    """The boxes that were asked for in a frame."""

    taken_ns: int
    now_ns: int  # steady
    # Each track, and by what the finder's boxes changed its crop [4] and its predicted joints [K, 2], if they did.
    tracks: list[tuple[Track, tuple[NDArray[np.float64], NDArray[np.float64]] | None]]


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
        self._tracks: list[Track] = []
        self._refusals: list[_Refusal] = []
        self._named = 0
        self._since_look = following.every
        self._found: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
        self._asked = deque[_Asked]()  # of frames that had no ``update`` yet
        self._last_ns, self._pause_ns = 0, 0  # when the last frame was taken, and how long after the one before it
        self._steady = Steady()
        self._outages = Outages()

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

    @property
    def calm(self) -> bool:
        """Whether nobody is lost or just found, near another, or fast.

        Then the boxes of the next frames, taken later but soon, need not wait for this one's poses: those of a
        few frames before tell enough.
        """
        if self.empty or self._pause_ns <= 0 or _near_another(self._crops()):
            return False
        step = CALM_STEP / (self._pause_ns / 1e9)  # sides per second
        return all(
            t.state != "lost" and t.sights > 1 and np.hypot(*t.velocity) <= step * max(t.crop[2:] - t.crop[:2])
            for t in self._tracks
        )

    def found(self, boxes: NDArray[np.floating], scores: NDArray[np.floating], frames_ago: int = 0) -> None:
        """The finder's answer for this frame, before ``boxes``: ``boxes`` [M, 4] in pixels with ``scores`` [M].

        ``frames_ago``: how old the answer is; the next look is due ``Following.every`` frames after the looked-at one.
        """
        self._found = np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(scores, np.float64)
        self._since_look = frames_ago

    def boxes(self, taken_ns: int) -> NDArray[np.float64]:
        """The boxes [N, 4] to estimate in the frame taken at ``taken_ns`` (nanoseconds): tracks, then newcomers.

        Of frames without their ``update`` no two are taken at the same time.
        """
        now_ns = self._steady(taken_ns)
        self._last_ns, self._pause_ns = now_ns, now_ns - self._last_ns
        if self._outages.away(now_ns, self._following.patience):
            self.restart()
        self._retire(now_ns)
        for track in self._tracks:
            track.predict(now_ns)
        predicted = {track: (track.crop, track.ahead) for track in self._tracks}
        if self._found is not None:
            self._place_found(*self._found, now_ns)
            self._found = None
        changes = [
            (track, self._change(track, *predicted.get(track, (track.crop, track.ahead)))) for track in self._tracks
        ]
        self._asked.append(_Asked(taken_ns, now_ns, changes))
        self._since_look += 1
        return self._crops()

    def expected(self) -> NDArray[np.float64]:
        """Where the joints [N, K, 2] in the ``boxes`` asked for last should be, pixels; NaN where that is not known."""
        now_ns = self._last_ns
        return np.array([track.expected(now_ns) for track in self._tracks]).reshape(-1, len(self._k), 2)

    @staticmethod
    def _change(
        track: Track, crop: NDArray[np.float64], ahead: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """By what ``track`` differs from its predicted ``crop`` [4] and joints ``ahead`` [K, 2], if it does."""
        if track.crop is crop and track.ahead is ahead:
            return None
        return track.crop - crop, np.nan_to_num(track.ahead - ahead)  # a joint that is not known yet may be so by then

    def wants_appearances(self, taken_ns: int) -> bool:
        """Whether ``update`` should be given appearances for this frame, after ``boxes``.

        They tell nothing while everybody is seen and nobody is near another, so that they are only kept up to date.
        """
        asked = self._asked_for(taken_ns)
        tracks = self._back_in(asked)
        if any(t.state == "lost" or t.worn_ns is None or asked.now_ns - t.worn_ns >= RENEWED * 1e9 for t in tracks):
            return True
        return _near_another(np.array([t.crop for t in tracks]).reshape(-1, 4))

    def update(self, poses: Poses, taken_ns: int, appearances: NDArray[np.float64] | None = None) -> People:
        """The people seen in the frame, by the ``poses`` of exactly the boxes that ``boxes`` gave, in their order.

        ``appearances`` [N, R, 3] of :mod:`edgepose.people.appearance` tell people apart who meet; without, places do.
        """
        asked = self._asked_for(taken_ns)
        if len(poses) != len(asked.tracks):
            raise ValueError(f"{len(poses)} poses for {len(asked.tracks)} boxes")
        self._asked.popleft()
        now_ns, present = asked.now_ns, self._back_in(asked)
        newer = [t for t in self._tracks if t not in present]
        if len(present) < len(poses):  # who was forgotten since
            still = np.array([t in present for t, *_ in asked.tracks])
            poses = Poses(poses.joints[still], poses.scores[still], poses.covariance[still])
            appearances = appearances[still] if appearances is not None else None
        self._tracks = present
        seen, means = self._share_out(poses, appearances), poses.person_scores
        for i, track in enumerate(self._tracks):
            if i in seen:
                track.see(poses.joints[seen[i]], poses.scores[seen[i]], now_ns, CONFIDENT)
                # The first sight may be of a box that fits badly; the one that makes a person count may not.
                enough = track.sights >= self._following.confirm and means[seen[i]] >= ACCEPT
                if track.state == "lost" or (track.state == "tentative" and enough):
                    self._confirm(track)
            elif track.state == "tentative":
                track.state = "gone"
                self._refuse(track.crop, track.found, now_ns)
            else:
                track.state = "lost"
        if appearances is not None:
            self._remember(seen, appearances, now_ns)
        here = [(track, seen[i]) for i, track in enumerate(self._tracks) if i in seen and track.state == "confirmed"]
        self._retire(now_ns)
        self._tracks += newer
        return self._people(poses, here)

    def _asked_for(self, taken_ns: int) -> _Asked:
        """What was asked for in the frame taken at ``taken_ns``; what was before it has no ``update`` any more."""
        while self._asked and self._asked[0].taken_ns != taken_ns:
            self._asked.popleft()
        if not self._asked:
            raise ValueError("no boxes were asked for in this frame")
        return self._asked[0]

    def _back_in(self, asked: _Asked) -> list[Track]:
        """The tracks that ``asked`` and are still there, predicted for its frame by what is known now."""
        present = []
        for track, change in asked.tracks:
            if track in self._tracks:
                present.append(track)
                track.predict(asked.now_ns)
                if change is not None:
                    track.crop, track.ahead = track.crop + change[0], track.ahead + change[1]
        return present

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

    def _confirm(self, track: Track) -> None:
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
        shaky = np.array([self._tracks[i].mean < ACCEPT for i in seen], dtype=bool)
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
            track = Track("tentative", boxes[index], joints, np.zeros(k), never, now_ns, found=float(scores[index]))
            track.predict(now_ns)
            self._tracks.append(track)

    def _remember(self, seen: dict[int, int], appearances: NDArray[np.float64], now_ns: int) -> None:
        """Learn the appearance of the people who were ``seen``, {track: answer}, where nobody else is near."""
        boxes = np.array([t.box if i in seen else t.crop for i, t in enumerate(self._tracks)]).reshape(-1, 4)
        meets = _meets(boxes)
        for i, answer in seen.items():
            if meets[i]:
                self._tracks[i].worn_ns = now_ns
            else:
                self._tracks[i].wear(appearances[answer], now_ns)

    def _share_out(self, poses: Poses, appearances: NDArray[np.float64] | None) -> dict[int, int]:
        """Which answer each track that was seen is given: {track: answer}, both as positions."""
        if not self._tracks:
            return {}
        crops = self._crops()
        boxes = [joints_box(poses, i) for i in range(len(poses))]
        answered = np.array([crop if box is None else box for box, crop in zip(boxes, crops, strict=True)])
        likeness = self._likeness(poses, answered, appearances)
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
        told = {"confirmed": KEEP, "lost": KEEP, "tentative": ACCEPT}
        return np.array([told[t.state] * (1.0 if t.sights or t.state != "tentative" else LOOSE) for t in self._tracks])

    def _likeness(
        self, poses: Poses, answered: NDArray[np.float64], appearances: NDArray[np.float64] | None
    ) -> NDArray[np.float64]:
        """How well each answer agrees with each track's prediction [tracks, answers], 0..1.

        The mean of OKS and of IoU of the boxes ``answered`` [N, 4]; IoU alone for a newcomer, who has no joints yet.
        Less where the ``appearances`` [N, R, 3] of the answer are more like another track's: who is alone may step into
        the shade.
        """
        crops = self._crops()
        boxes = iou(crops, answered)
        ahead = np.stack([t.ahead for t in self._tracks])
        scores = np.stack([t.scores for t in self._tracks])
        joints = oks(ahead, poses.joints, body_scale(crops), self._k, a_scores=scores, b_scores=poses.scores)
        new = np.array([t.sights == 0 for t in self._tracks])
        likeness = np.where(new[:, None], boxes, (boxes + joints) / 2)
        if appearances is not None:
            dress = alike(np.stack([t.appearance for t in self._tracks]), appearances)
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

    def _people(self, poses: Poses, here: list[tuple[Track, int]]) -> People:
        """What is published of the tracks that are ``here``, each with its answer's position."""
        chosen = np.array([index for _, index in here], dtype=np.intp)
        mine = Poses(poses.joints[chosen], poses.scores[chosen], poses.covariance[chosen])
        boxes = [joints_box(mine, i) for i in range(len(mine))]
        shown = [track.crop if box is None else box for box, (track, _) in zip(boxes, here, strict=True)]
        return People([track.id for track, _ in here], np.array(shown).reshape(-1, 4), mine)
