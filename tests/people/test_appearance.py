"""What people wear: measured on drawn people, told apart, and remembered by a tracker."""

import cv2
import numpy as np
import pytest

from edgepose.estimator import Poses
from edgepose.people.appearance import REGIONS, alike, appearances
from edgepose.people.tracker import Following, Tracker
from edgepose.skeletons import COCO17, LSP14, MPII16

RED, BLUE, GREY, GREEN = (40, 40, 200), (200, 60, 40), (128, 128, 128), (40, 160, 40)
STANDING = {
    "head": (0.0, -0.1), "shoulder": (0.1, 0.0), "elbow": (0.18, 0.15), "wrist": (0.18, 0.3), "hip": (0.08, 0.35),
    "knee": (0.08, 0.65), "ankle": (0.08, 0.95),
}  # fmt: skip


def pose(skeleton, x, y, height):
    """Joints [K, 2] of a person who faces the camera: the right side is on the left of the picture."""
    joints = []
    for name in skeleton.joints:
        side = -1 if name.startswith("right_") else 1 if name.startswith("left_") else 0
        dx, dy = STANDING.get(name.removeprefix("left_").removeprefix("right_"), STANDING["head"])
        joints.append((x + side * dx * height, y + dy * height))
    return np.array(joints)


def poses(*joints, score=0.9):
    stacked = np.stack(joints)
    count, k = stacked.shape[:2]
    return Poses(stacked, np.full((count, k), score), np.tile([1.0, 0.0, 1.0], (count, k, 1)))


NOBODY = Poses(np.zeros((0, 16, 2)), np.zeros((0, 16)), np.zeros((0, 16, 3)))


def draw(image, skeleton, joints, shirt, trousers):
    """A person in ``shirt`` and ``trousers``, BGR."""
    at = {name: joints[i].round().astype(int) for i, name in enumerate(skeleton.joints)}
    torso = [at[j] for j in ("right_shoulder", "left_shoulder", "left_hip", "right_hip")]
    cv2.fillPoly(image, [np.array(torso)], shirt)
    for side in ("left", "right"):
        cv2.line(image, at[f"{side}_hip"].tolist(), at[f"{side}_knee"].tolist(), trousers, 11)


def room():
    return np.full((240, 400, 3), 90, np.uint8)


@pytest.mark.parametrize("skeleton", [MPII16, LSP14, COCO17], ids=lambda s: s.name)
def test_shirt_and_trousers_are_measured(skeleton):
    image, joints = room(), pose(skeleton, 100, 60, 150)
    draw(image, skeleton, joints, RED, BLUE)
    (found,) = appearances(image, poses(joints), skeleton, 0.4)
    for colour, regions in ((RED, found[:2]), (BLUE, found[2:])):
        lab = cv2.cvtColor(np.float32([[colour]]) / 255, cv2.COLOR_BGR2LAB)[0, 0]
        assert np.allclose(regions, lab, atol=1)


def test_what_cannot_be_measured_is_not_known():
    image, joints = room(), pose(MPII16, 100, 60, 150)
    draw(image, MPII16, joints, RED, BLUE)
    unsure = poses(joints)
    unsure.scores[0, MPII16.index("left_knee")] = 0.2
    known = np.isfinite(appearances(image, unsure, MPII16, 0.4)[0]).all(axis=1)
    assert known.tolist() == [True, True, True, False]
    outside = poses(joints + np.array([1000, 0]))
    assert np.isnan(appearances(image, outside, MPII16, 0.4)).all()
    assert appearances(image, NOBODY, MPII16, 0.4).shape == (0, len(REGIONS), 3)


def test_an_appearance_is_like_itself_in_other_light_and_unlike_other_clothes():
    image = room()
    left, right = pose(MPII16, 100, 60, 150), pose(MPII16, 300, 60, 150)
    draw(image, MPII16, left, RED, BLUE)
    draw(image, MPII16, right, GREEN, GREY)
    bright = cv2.convertScaleAbs(image, alpha=1.15, beta=5)
    first, second = (appearances(i, poses(left, right), MPII16, 0.4) for i in (image, bright))
    found = alike(first, second)
    assert np.diagonal(found).min() > 0.8
    assert max(found[0, 1], found[1, 0]) < 0.4
    assert np.isnan(alike(first, np.full_like(second, np.nan))).all()


def meeting(shirts, *, crosses, with_appearances):
    """Two people walk up to each other, stand on one spot where only the one in front is seen, and pass or turn back.

    Returns whether each id of the two ends where it belongs. Places alone cannot tell the one from the other.
    """
    tracker = Tracker("run", MPII16, Following(confirm=1))
    for number in range(80):
        away = max(abs(40 - number) - 5, 0) * 4.0  # pixels either way of the middle
        away = -away if crosses and number > 40 else away
        joints = [pose(MPII16, 200 - away, 60, 150), pose(MPII16, 200 + away, 60, 150)]
        image = room()
        front = 1 if number < 40 else 0  # on the spot the first steps in front
        for person in (1 - front, front):
            draw(image, MPII16, joints[person], shirts[person], shirts[person])
        here = joints if abs(away) > 20 else [joints[front]]
        if tracker.wants_finder():
            tracker.found(np.array([[*j.min(axis=0), *j.max(axis=0)] for j in here]), np.full(len(here), 0.9))
        boxes = tracker.boxes(number * 40_000_000)
        answers = [min(here, key=lambda j: abs(j[:, 0].mean() - box[::2].mean())) for box in boxes]
        seen = poses(*answers) if answers else NOBODY
        wanted = with_appearances and tracker.wants_appearances(number * 40_000_000)
        people = tracker.update(seen, number * 40_000_000, appearances(image, seen, MPII16, 0.4) if wanted else None)
    middles = {name: float(box[::2].mean()) for name, box in zip(people.ids, people.boxes, strict=True)}
    return set(middles) == {"run-1", "run-2"} and (middles["run-1"] > 200) == crosses


@pytest.mark.parametrize("crosses", [True, False], ids=["pass", "turn back"])
def test_people_who_meet_on_one_spot_keep_their_ids_by_their_clothes(crosses):
    assert meeting((RED, BLUE), crosses=crosses, with_appearances=True)


def test_who_is_alone_may_step_into_another_light():
    tracker, joints = Tracker("run", MPII16, Following(confirm=1)), pose(MPII16, 200, 60, 150)
    for number in range(40):
        image = room()
        shirt = RED if number < 20 else tuple(min(2 * c + 55, 255) for c in RED)
        draw(image, MPII16, joints, shirt, shirt)
        if tracker.wants_finder():
            tracker.found(np.array([[*joints.min(axis=0), *joints.max(axis=0)]]), np.ones(1))
        count = len(tracker.boxes(number * 40_000_000))
        seen = poses(*[joints] * count)
        people = tracker.update(seen, number * 40_000_000, appearances(image, seen, MPII16, 0.4))
        assert people.ids == ["run-1"]


@pytest.mark.parametrize("crosses", [True, False], ids=["pass", "turn back"])
def test_by_places_alone_they_do_not(crosses):
    """What the test above is worth."""
    assert not meeting((RED, BLUE), crosses=crosses, with_appearances=False)


def test_the_first_appearance_after_a_meeting_counts_like_any_other():
    """Two meet for two seconds; from then on the first is seen in other clothes, which are learnt bit by bit."""
    tracker, known = Tracker("run", MPII16, Following(confirm=1)), []
    red, green = (np.tile([50.0, a, 0.0], (len(REGIONS), 1)) for a in (60.0, -60.0))
    for number in range(110):
        apart = max(200 - 8 * number, 40, 8 * (number - 70))
        joints = [pose(MPII16, 200 - apart / 2, 60, 150), pose(MPII16, 200 + apart / 2, 60, 150)]
        if number == 0:
            tracker.found(np.array([[*j.min(axis=0), *j.max(axis=0)] for j in joints]), np.ones(2))
        tracker.boxes(number * 40_000_000)
        wanted = tracker.wants_appearances(number * 40_000_000)
        worn = np.stack([red if number < 30 else green, red])
        people = tracker.update(poses(*joints), number * 40_000_000, worn if wanted else None)
        assert people.ids == ["run-1", "run-2"]
        known.append(tracker._tracks[0].appearance[0, 1])
    steps = -np.diff(known)
    assert np.flatnonzero(steps)[0] > 65  # not while they met
    assert 0 < steps.max() < 0.3 * 120
    assert known[-1] < 0


def test_appearances_are_wanted_where_people_are_near_or_lost_and_else_now_and_then():
    def wanted(apart, here=2):
        """In how many of 25 images, one second, of two people at rest; all but ``here`` are hidden in the last 20."""
        tracker, count = Tracker("run", MPII16, Following(confirm=1)), 0
        joints = [pose(MPII16, 100, 60, 150), pose(MPII16, 100 + apart, 60, 150)]
        for number in range(25):
            if tracker.wants_finder():
                tracker.found(np.array([[*j.min(axis=0), *j.max(axis=0)] for j in joints]), np.ones(2))
            boxes = tracker.boxes(number * 40_000_000)
            seen = poses(*[min(joints, key=lambda j: abs(j[:, 0].mean() - box[::2].mean())) for box in boxes])
            if number >= 5:
                seen.scores[here:] = 0.0
            wants = tracker.wants_appearances(number * 40_000_000)
            tracker.update(seen, number * 40_000_000, np.zeros((2, len(REGIONS), 3)) if wants else None)
            count += wants
        return count

    assert wanted(apart=200) == 7  # every 160 ms
    assert wanted(apart=75) == 25
    assert wanted(apart=200, here=1) >= 20
