"""What a track knows of its joints from one frame to the next, and how answers are weighed against it."""

import numpy as np
import pytest

from edgepose.crops import box_of_joints
from edgepose.estimator import Poses
from tests.people.test_track import QUIET, SECOND, followed, new
from tests.people.world import World, regular, stands

TIMES = regular(200)


def nothing(_joints, _scores):
    pass


class AtRest:
    """Somebody who stands, seen without any noise in so many frames; ``step`` is the next one, its answer changed."""

    def __init__(self, frames=6):
        self.world = World([stands(600)], **QUIET, noise=0.0)
        self.view, self.tracker, self.frames = self.world.view(0), new(), 0
        self.tracker.found(self.view.boxes, np.ones(1))
        for _ in range(frames):
            self.step()

    def step(self, change=nothing):
        answers = self.world.estimate(self.view, self.boxes())
        answers.scores[:] = 0.9
        change(answers.joints, answers.scores)
        self.tracker.update(answers, TIMES[self.frames])
        self.frames += 1
        return self.track

    def boxes(self):
        return self.tracker.boxes(TIMES[self.frames])

    @property
    def track(self):
        return self.tracker._tracks[0]


def test_a_joint_that_is_unsure_is_known_for_another_second():
    def unsure(_joints, scores):
        scores[0, [0, 5]] = 0.1

    somebody = AtRest()
    known = [bool(np.isfinite(somebody.step(unsure).joints[0, 0])) for _ in range(44)]
    assert all(known[:28])
    assert not any(known[34:])


def test_a_joint_that_is_unsure_goes_with_the_body():
    def jump(joints, scores):
        joints[0, :, 0] += 12
        joints[0, 0], scores[0, 0] = 0, 0.1

    somebody = AtRest(30)
    track = somebody.step(jump)
    assert track.joints[0, 0] == pytest.approx(somebody.view.joints[0, 0, 0] + 12, abs=1)
    assert track.scores[0] == 0.9


def test_a_crop_that_is_placed_takes_the_joints_along():
    somebody = AtRest()
    somebody.boxes()
    crop, ahead = somebody.track.crop.copy(), somebody.track.ahead.copy()
    at = crop[:2] + 50
    somebody.track.place(np.concatenate([at, at + 2 * (crop[2:] - crop[:2])]))
    assert np.allclose(somebody.track.ahead, at + 2 * (ahead - crop[:2]))


def test_velocity_is_of_joints_that_were_sure_twice():
    """One that was hidden may be anywhere since."""

    def hidden(_joints, scores):
        scores[0, 6:] = 0.1

    def back(joints, _scores):
        joints[0, 6:, 0] += 8

    somebody = AtRest(20)
    somebody.step(hidden)
    assert np.abs(somebody.step(back).velocity).max() < 1


def test_who_is_shaky_is_placed_by_the_finder():
    def shaky(_joints, scores):
        scores[:] = 0.65

    somebody = AtRest()
    somebody.step(shaky)
    x0, y0, x1, y1 = somebody.view.boxes[0]
    aside = np.array([[x0 + 0.42 * (x1 - x0), y0, x1 + 0.42 * (x1 - x0), y1]])
    somebody.tracker.found(aside, np.ones(1))
    assert np.allclose(somebody.boxes(), aside)


def test_of_one_person_twice_the_better_fit_stays():
    world = World([stands(400), stands(520)], **QUIET)
    tracker, _ = followed(world, world.view(0), [0, 1, 2])
    answers = world.estimate(world.view(0), tracker.boxes(3))
    twice = Poses(answers.joints[[0, 0]], answers.scores[[0, 0]], answers.covariance[[0, 0]])
    boxes = np.array([box_of_joints(joints) for joints in twice.joints])
    assert tracker._one_each(twice, boxes, np.diag([0.8, 0.9])).tolist() == [False, True]
    assert tracker._one_each(twice, boxes, np.diag([0.9, 0.8])).tolist() == [True, False]


def test_a_first_sight_may_be_less_sure_than_later_ones():
    tracker = new()
    tracker.found(np.array([[100.0, 100, 180, 300]]), np.ones(1))
    joints = np.random.default_rng(0).uniform([100, 100], [180, 300], (1, 16, 2))
    assert len(tracker.boxes(0)) == 1
    tracker.update(Poses(joints, np.full((1, 16), 0.5), np.ones((1, 16, 3))), 0)
    assert len(tracker.boxes(SECOND // 30)) == 1


@pytest.mark.parametrize("moves", ["box", "joints"])
def test_likeness_is_of_the_box_and_of_the_joints(moves):
    """Where one of them is elsewhere, half is left."""
    somebody = AtRest()
    crops = somebody.boxes()
    joints = somebody.track.ahead[None] + (5000 if moves == "joints" else 0)
    boxes = crops + (5000 if moves == "box" else 0)
    answers = Poses(joints, np.full((1, 16), 0.9), np.ones((1, 16, 3)))
    assert somebody.tracker._likeness(answers, boxes, None)[0, 0] == pytest.approx(0.5, abs=0.01)
