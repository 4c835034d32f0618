"""A camera's view in which the truth is known: people walk, a network and a finder look, with their usual faults.

The network answers a crop with one person: who fills it best, or whoever stands in front of that one where two
overlap. Its scores fall when nobody is well inside. The finder misses people, places boxes loosely, and sees some
that are not there. Everything is drawn from the world's own generator, so a seed gives one and the same film.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgepose.crops import box_of_joints
from edgepose.estimator import Poses
from edgepose.people.association import assign, iou
from edgepose.people.tracker import Tracker
from edgepose.sources.several import AHEAD
from tests.people.identity import Sight

WIDTH, HEIGHT = 1280, 720
FPS = 30.0
# MPII joints of a person of height 1 who stands with the feet at (0, 0); x to the right, y downwards.
STANDING = np.array([
    [-0.08, -0.04], [-0.07, -0.27], [-0.06, -0.51], [0.06, -0.51], [0.07, -0.27], [0.08, -0.04],
    [0.0, -0.52], [0.0, -0.80], [0.0, -0.86], [0.0, -1.0],
    [-0.16, -0.46], [-0.14, -0.63], [-0.11, -0.81], [0.11, -0.81], [0.14, -0.63], [0.16, -0.46],
])  # fmt: skip
# How far each joint swings to and fro in a step, in heights; legs against arms, left against right.
SWING = np.array([0.12, 0.05, 0, 0, -0.05, -0.12, 0, 0, 0, 0, -0.10, -0.05, 0, 0, 0.05, 0.10])
STEPS = 0.9  # per second

Place = tuple[float, float, float]  # x and y of the feet in pixels, height in pixels


@dataclass(frozen=True)
class Person:
    """Someone whose ``path`` gives the place at a time in seconds; who has the smaller ``depth`` stands in front."""

    name: str
    path: Callable[[float], Place]
    depth: float | Callable[[float], float] = 0.0
    phase: float = 0.0
    here: Callable[[float], bool] = lambda seconds: True

    def joints(self, seconds: float) -> NDArray[np.float64]:
        """Joints [16, 2] in pixels."""
        x, y, height = self.path(seconds)
        swing = np.sin(2 * np.pi * (STEPS * seconds + self.phase)) * SWING
        return np.array([x, y]) + height * (STANDING + np.column_stack([swing, np.zeros(16)]))


@dataclass(frozen=True)
class View:
    """The people at one time, front-most first."""

    names: list[str]
    joints: NDArray[np.float64]  # [P, 16, 2]
    boxes: NDArray[np.float64]  # [P, 4]
    seen: NDArray[np.bool_]  # [P, 16] joints that are in the frame and not behind somebody


@dataclass
class World:
    """People, and the faults of those who look at them."""

    people: list[Person]
    seed: int = 0
    noise: float = 0.01  # of a sure joint, in heights
    misses: float = 0.1  # share of visible people whom the finder does not find
    ghosts: float = 0.05  # false boxes per look of the finder
    loose: float = 0.05  # error of the finder's boxes' sides, in heights
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def view(self, seconds: float) -> View:
        """Who is where."""
        here = sorted(
            (p for p in self.people if p.here(seconds)),
            key=lambda p: p.depth(seconds) if callable(p.depth) else p.depth,
        )
        joints = np.array([p.joints(seconds) for p in here]).reshape(-1, 16, 2)
        boxes = np.array([box_of_joints(j) for j in joints]).reshape(-1, 4)
        seen = ((joints >= 0) & (joints < [WIDTH, HEIGHT])).all(axis=2)
        for i in range(1, len(here)):
            for x0, y0, x1, y1 in boxes[:i]:
                x, y = joints[i].T
                seen[i] &= ~((x > x0) & (x < x1) & (y > y0) & (y < y1))
        return View([p.name for p in here], joints, boxes, seen)

    def visible(self, view: View) -> NDArray[np.bool_]:
        """Who counts as there [P]: enough joints can be seen that the network's mean score is clear of the bars."""
        return np.asarray(view.seen.mean(axis=1) >= 0.6)

    def estimate(self, view: View, crops: NDArray[np.float64]) -> Poses:
        """What the network says of ``crops`` [N, 4]."""
        n = len(crops)
        # On furniture the network says about 0.5, and its joints lie anywhere.
        joints = crops[:, None, :2] + self.rng.uniform(0, 1, (n, 16, 2)) * (crops[:, None, 2:] - crops[:, None, :2])
        scores = np.clip(self.rng.normal(0.4, 0.1, (n, 16)), 0, 1)
        fills, overlapping = iou(crops, view.boxes), iou(view.boxes, view.boxes)
        for i in range(n):
            # Who is mostly hidden gives no answer and hides nobody's.
            fill = np.where(view.seen.mean(axis=1) > 0.3, fills[i], 0.0)
            if not (fill > 0.2).any():
                continue
            best = int(np.argmax(fill))
            front = int(np.flatnonzero((fill > 0.2) & (overlapping[best] > 0.3))[0])  # people are sorted, nearest first
            height = view.boxes[front, 3] - view.boxes[front, 1]
            sure = np.where(view.seen[front], np.interp(fill[front], [0.2, 0.5], [0.4, 0.9]), 0.25)
            scores[i] = np.clip(sure + self.rng.normal(0, 0.05, 16), 0, 1)
            spread = self.noise * height * np.where(view.seen[front], 1, 4)
            joints[i] = view.joints[front] + self.rng.normal(0, 1, (16, 2)) * spread[:, None]
        return Poses(joints, scores, np.ones((n, 16, 3)))

    def find(self, view: View) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The finder's boxes [M, 4] and scores [M]."""
        seen = self.visible(view) & (self.rng.uniform(size=len(view.names)) >= self.misses)
        boxes = view.boxes[seen]
        boxes = boxes + self.rng.normal(0, 1, boxes.shape) * self.loose * (boxes[:, 3:] - boxes[:, 1:2])
        for _ in range(self.rng.poisson(self.ghosts)):
            (x, y), size = self.rng.uniform(0, [WIDTH - 200, HEIGHT - 300]), self.rng.uniform(60, 300)
            boxes = np.vstack([boxes, [x, y, x + size / 3, y + size]])
        return boxes, self.rng.uniform(0.4, 1, len(boxes))


def regular(frames: int, fps: float = FPS) -> list[int]:
    """Acquisition times in nanoseconds; the clock's zero is not the film's."""
    return [10**15 + round(i * 1e9 / fps) for i in range(frames)]


def film(
    world: World,
    tracker: Tracker,
    times: Iterable[int],
    clock: Callable[[int], int] = lambda now: now,
    *,
    overlap: bool = False,
) -> list[Sight]:
    """Run ``tracker`` over the frames taken at ``times`` (ns), which the camera's ``clock`` may see as other ones.

    ``overlap``: where the tracker is calm the next frames' boxes are asked for before this one's poses are there.
    Only people who are well visible are true ones. Who is hidden for a good part may be published or not: such a box
    is left out of the record, as benchmarks do with people whom they do not judge.
    """
    frames: list[Sight] = []
    start = None
    begun = deque[tuple[int, View, NDArray[np.float64]]]()

    def finish(but: int = 0) -> None:
        while len(begun) > but:
            judge(*begun.popleft())

    def judge(now: int, view: View, crops: NDArray[np.float64]) -> None:
        people = tracker.update(world.estimate(view, crops), clock(now))
        true = world.visible(view)
        boxes = np.array([box_of_joints(j, s) for j, s in zip(view.joints, view.seen, strict=True)]).reshape(-1, 4)
        judged = np.ones(len(people), dtype=bool)
        for i, j in assign(np.nan_to_num(iou(boxes, people.boxes)), 0.3):
            judged[j] = true[i]
        names, ids = np.array(view.names, dtype=object), np.array(people.ids, dtype=object)
        frames.append(Sight(list(names[true]), boxes[true], list(ids[judged]), people.boxes[judged]))

    for now in times:
        start = now if start is None else start
        if not (overlap and tracker.calm):
            finish()
        view = world.view((now - start) / 1e9)
        if tracker.wants_finder():
            tracker.found(*world.find(view))
        begun.append((now, view, tracker.boxes(clock(now))))
        finish(but=AHEAD)
    finish()
    return frames


def ids_by_person(frames: Iterable[Sight]) -> dict[str, set[str]]:
    """Every id under which each person was published."""
    named: dict[str, set[str]] = {}
    for frame in frames:
        alike = iou(frame.truth_boxes, frame.boxes)
        for i, j in zip(*np.nonzero(alike > 0.6), strict=True):
            if alike[i, j] == alike[:, j].max():
                named.setdefault(frame.truth_ids[i], set()).add(frame.ids[j])
    return named


def published_once(frames: Iterable[Sight]) -> bool:
    """Whether nobody has two boxes, and no id two people, in any frame."""
    for frame in frames:
        twice = (iou(frame.truth_boxes, frame.boxes) > 0.7).sum(axis=1) > 1
        if len(set(frame.ids)) < len(frame.ids) or twice.any():
            return False
    return True


def walk(x: float, speed: float, height: float = 300, feet: float = 600) -> Callable[[float], Place]:
    """From ``x`` at a constant ``speed`` in pixels per second."""
    return lambda t: (x + speed * t, feet, height)


def stands(x: float, here: Callable[[float], bool] = lambda seconds: True) -> Person:
    """Someone who stays at ``x``."""
    return Person(f"at {x}", walk(x, 0), here=here)


def pace(
    low: float, high: float, speed: float, start: float, *, height: float, feet: float
) -> Callable[[float], Place]:
    """To and fro between ``low`` and ``high`` in x at about ``speed`` pixels per second, from ``start`` (0..2 laps)."""

    def path(t: float) -> Place:
        lap = start + speed * t / (high - low)
        # A triangle wave with rounded corners: people slow down to turn.
        wave = np.arcsin(0.97 * np.sin(np.pi * lap)) / np.arcsin(0.97)
        return (low + high) / 2 + (high - low) / 2 * wave, feet, height

    return path


def crossing(seed: int) -> World:
    """Four people walk to and fro across the frame and meet often; each at a depth of its own.

    They set out a quarter of a round apart and walk about as fast, so they meet face to face rather than side by side.
    """
    rng = np.random.default_rng(1000 + seed)
    people = []
    for i in range(4):
        depth = i + rng.uniform(0, 0.5)
        height, feet = 360 - 30 * depth, 680 - 20 * depth
        path = pace(
            150, WIDTH - 150, rng.uniform(200, 280), 0.5 * i + rng.uniform(-0.15, 0.15), height=height, feet=feet
        )
        people.append(Person(f"P{i}", path, depth, rng.uniform()))
    return World(people, seed)


def sway(middle: float, reach: float, period: float, lag: float, depth: float) -> Callable[[float], Place]:
    """About ``middle`` in x, ``reach`` pixels to either side, in ``period`` seconds."""
    return lambda t: (middle + reach * np.sin(2 * np.pi * (t + lag) / period), 680 - 20 * depth, 360 - 30 * depth)


def group(seed: int) -> World:
    """Four people stand together, shift about, and partly hide one another."""
    rng = np.random.default_rng(2000 + seed)
    people = []
    for i in range(4):
        depth, middle = i + rng.uniform(0, 0.5), 420 + 130 * i + rng.uniform(-30, 30)
        path = sway(middle, rng.uniform(40, 110), rng.uniform(3, 7), rng.uniform(0, 6), depth)
        people.append(Person(f"P{i}", path, depth, rng.uniform()))
    return World(people, seed)


def passing(seed: int) -> World:
    """Six people come in from either side, one after another, and go out at the other."""
    rng = np.random.default_rng(3000 + seed)
    people = []
    for i in range(6):
        depth, speed, right = i % 3 + rng.uniform(0, 0.5), rng.uniform(200, 380), rng.uniform() < 0.5
        begin = 1.2 * i + rng.uniform(0, 0.6)
        x = -80 - speed * begin if right else WIDTH + 80 + speed * begin
        path = walk(x, speed if right else -speed, 360 - 40 * depth, 680 - 25 * depth)
        people.append(Person(f"P{i}", path, depth, rng.uniform()))
    return World(people, seed)


SCENES: dict[str, Callable[[int], World]] = {"crossing": crossing, "group": group, "entering and leaving": passing}
