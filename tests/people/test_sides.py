"""Left and right of each person, held over time."""

from __future__ import annotations

import itertools
from contextlib import closing

import numpy as np
import pytest

from edgepose import bundle as bundles
from edgepose import engines, skeletons, sources
from edgepose.engines import Options
from edgepose.estimator import Estimator, Poses
from edgepose.frame import Frame
from edgepose.people.crowd import Everybody
from edgepose.people.finder import Finder
from edgepose.people.regions import Regions
from edgepose.people.sides import LONGEST, Sides
from tests.conftest import CLIP

SKELETON = skeletons.MPII16
MIRROR = SKELETON.mirror
LEGS = np.flatnonzero(SKELETON.lower)


def person(turn: float = 180.0, stride: float = 0.0) -> Poses:
    """Someone of 400 px, turned by ``turn`` degrees (0 faces the camera), one foot ``stride`` px before the other."""
    widths = {"shoulder": 90, "elbow": 120, "wrist": 110, "hip": 60, "knee": 50, "ankle": 40}
    heights = {"head": 0, "upper": 50, "thorax": 70, "shoulder": 70, "elbow": 130, "wrist": 190}
    heights |= {"pelvis": 200, "hip": 200, "knee": 300, "ankle": 400}
    joints = np.zeros((1, len(SKELETON), 2))
    for k, name in enumerate(SKELETON.joints):
        side, _, part = name.rpartition("_")
        sign = {"left": 1, "right": -1}.get(side, 0)
        part = part if side in ("left", "right") else name.split("_")[0]
        x = sign * widths.get(part, 0) / 2 * np.cos(np.radians(turn))
        if part in ("knee", "ankle", "wrist"):
            x += sign * stride / 2 * (-1 if part == "wrist" else 1)
        joints[0, k] = 500 + x, 50 + heights[part]
    covariance = np.tile(np.arange(len(SKELETON), dtype=float)[:, None], (1, 1, 3)) + 1
    return Poses(joints, np.linspace(0.6, 0.9, len(SKELETON))[None], covariance)


def exchanged(poses: Poses, which: slice | np.ndarray = slice(None)) -> Poses:
    """``poses`` with left and right of the joints ``which`` exchanged."""
    order = np.arange(len(SKELETON))
    order[which] = MIRROR[which]
    return Poses(poses.joints[:, order], poses.scores[:, order], poses.covariance[:, order])


def same(a: Poses, b: Poses) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("joints", "scores", "covariance"))


def played(given: list[Poses], fps: float = 30.0, ids: tuple[str, ...] = ("a",)) -> list[Poses]:
    sides = Sides(SKELETON)
    return [sides.hold(list(ids), poses, int(n / fps * 1e9)) for n, poses in enumerate(given)]


@pytest.mark.parametrize("frames", [1, 12, 25])
@pytest.mark.parametrize("turn", [180.0, 0.0, 215.0])
def test_sides_that_change_places_at_once_are_put_right(turn, frames):
    right = person(turn)
    got = played([right] * 40 + [exchanged(right)] * frames + [right] * 5)
    assert all(same(poses, right) for poses in got), "scores and covariances go with their joints"


@pytest.mark.parametrize("then", [True, False])
def test_joints_in_one_place_tell_nothing(then):
    """As where a network cannot decide; after such a frame it may be wrong, and must not be believed for long."""
    right = person()
    collapsed = Poses((right.joints + exchanged(right).joints) / 2, right.scores, right.covariance)
    after = [exchanged(right)] * 2 if then else []
    got = played([right] * 40 + [collapsed, *after] + [right] * 20)
    assert same(got[40], collapsed)
    assert all(same(poses, right) for poses in got[41:])


def test_after_an_unclear_turn_nothing_is_held_against_the_network():
    """Slowly through the side view: what it had agreed on before was the other direction."""
    given = [person(turn) for turn in [180.0] * 60 + list(np.linspace(180, 90, 10)) + [90.0] * 30 + [0.0] * 30]
    assert all(same(a, b) for a, b in zip(given, played(given), strict=True))


def test_who_was_seen_wrongly_first_is_soon_right():
    right = person()
    got = played([exchanged(right)] * 4 + [right] * 20)
    assert not same(got[3], right)
    assert all(same(poses, right) for poses in got[9:])


def test_a_network_that_insists_is_believed_in_the_end():
    right = person()
    got = played([right] * 90 + [exchanged(right)] * 90)
    last = max(n for n, poses in enumerate(got) if same(poses, right))
    assert 0.9 * LONGEST <= (last - 89) / 30 <= LONGEST
    assert all(same(poses, exchanged(right)) for poses in got[last + 1 :])


@pytest.mark.parametrize("which", [LEGS, np.flatnonzero(~SKELETON.lower)], ids=["legs", "arms"])
def test_arms_and_legs_are_put_right_by_themselves(which):
    right = person()
    assert all(same(poses, right) for poses in played([right] * 20 + [exchanged(right, which)] * 3))


def test_a_led_pair_that_the_network_has_right_stays():
    right = person()
    ankles = np.array([SKELETON.index("left_ankle"), SKELETON.index("right_ankle")])
    but_ankles = np.setdiff1d(np.arange(len(SKELETON)), ankles)
    assert same(played([right] * 20 + [exchanged(right, but_ankles)])[-1], right)


def only(poses: Poses, lowest: float) -> Poses:
    """Who is seen down to ``lowest`` px: joints below are unsure."""
    return Poses(poses.joints, np.where(poses.joints[..., 1] <= lowest, poses.scores, 0.1), poses.covariance)


@pytest.mark.parametrize("lowest", [1000, 260, 200], ids=["whole", "from the hips up", "from the chest up"])
@pytest.mark.parametrize("seconds", [0.5, 0.7, 1.0])
@pytest.mark.parametrize("fps", [10.0, 15.0, 30.0, 60.0])
def test_who_turns_round_is_left_alone(fps, seconds, lowest):
    """Half a turn, at any phase of the frames."""
    for phase in np.linspace(0, 1, 7):
        times = (np.arange(int(3 * fps)) + phase) / fps
        given = [only(person(float(np.clip((t - 1.0) / seconds, 0, 1) * 180)), lowest) for t in times]
        assert all(same(a, b) for a, b in zip(given, played(given, fps), strict=True)), phase


@pytest.mark.parametrize("fps", [10.0, 30.0])
@pytest.mark.parametrize("turn", [90.0, 60.0, 0.0])
def test_who_walks_is_left_alone(turn, fps):
    """Legs and arms pass each other once in half a second."""
    times = np.arange(int(4 * fps)) / fps
    given = [person(turn, 160 * np.sin(2 * np.pi * t)) for t in times]
    assert all(same(a, b) for a, b in zip(given, played(given, fps), strict=True))


def test_unsure_shoulders_tell_nothing():
    right = person()
    doubtful = Poses(right.joints, np.full_like(right.scores, 0.3), right.covariance)
    assert same(played([right] * 20 + [exchanged(doubtful)])[-1], exchanged(doubtful))


def test_frames_far_apart_tell_nothing():
    right = person()
    got = played([right] * 5 + [exchanged(right)] * 2, fps=2)
    assert same(got[-1], exchanged(right))


def together(*persons: Poses) -> Poses:
    return Poses(*(np.concatenate([getattr(p, n) for p in persons]) for n in ("joints", "scores", "covariance")))


def test_everybody_has_sides_of_their_own_and_nobody_is_remembered_for_long():
    right, sides = person(), Sides(SKELETON)
    for n in range(20):
        sides.hold(["a", "b"], together(right, right), n * 33_000_000)
    given = together(exchanged(right), right)
    assert same(sides.hold(["a", "b"], given, 20 * 33_000_000), together(right, right))
    nobody = Poses(right.joints[:0], right.scores[:0], right.covariance[:0])
    assert len(sides.hold([], nobody, 21 * 33_000_000)) == 0
    assert same(sides.hold(["a"], exchanged(right), 3_000_000_000), exchanged(right)), "two seconds later"


@pytest.mark.parametrize("second", [20 * 33_000_000, 0], ids=["the same time again", "a clock set back"])
def test_times_that_do_not_pass_are_no_error(second):
    right, sides = person(), Sides(SKELETON)
    for n in range(21):
        sides.hold(["a"], right, n * 33_000_000)
    assert same(sides.hold(["a"], exchanged(right), second), right)


@pytest.mark.parametrize("name", sorted(skeletons.SKELETONS))
def test_every_skeleton_has_its_pairs_led(name):
    skeleton = skeletons.get(name)
    led = np.concatenate([pairs for _, pairs in Sides(skeleton)._led])
    assert sorted(led) == list(range(len(skeleton.mirror_pairs)))


def places_changed(hold_sides: bool, model: str = "edgepose-s", engine: str = "auto") -> int:
    """How often shoulders or hips of the shipped clip's first woman, seen from behind, change places at once."""
    pose, found = bundles.load(model), bundles.load("edgepose-finder", role="person")
    lines = []
    with (
        closing(engines.load(pose, engine, Options(threads=2))) as looking,
        closing(engines.load(found, "auto", Options(threads=2))) as finding,
        sources.open_source(str(CLIP)) as source,
    ):
        pieces = Estimator(looking, pose.manual), Finder(finding, found.manual)
        crowd = Everybody(*pieces, "r", {"": Regions()}, hold_sides=hold_sides)
        for number, frame in enumerate(itertools.islice(source, 150, 192)):
            (people,) = crowd.update([Frame(frame.image, frame.acquired_ns, number, "")])
            joints = people.poses.joints
            lines += [joints[0, [13, 3]] - joints[0, [12, 2]]] if len(people) else []
        crowd.settle()
    lengths = np.hypot(*np.moveaxis(np.array(lines), -1, 0))
    turned = (np.array(lines[1:]) * np.array(lines[:-1])).sum(axis=2) < 0
    return int((turned & (np.minimum(lengths[1:], lengths[:-1]) > 20)).any(axis=1).sum())


def test_on_the_shipped_clip_sides_hold():
    assert places_changed(hold_sides=False) > 0, "else this film shows nothing"
    assert places_changed(hold_sides=True) == 0


def test_on_the_shipped_clip_sides_hold_better_in_int8():
    """By its eight bits, the same on every CPU."""
    loose, held = (places_changed(hold, "edgepose-s-int8", "reference") for hold in (False, True))
    assert held < loose
