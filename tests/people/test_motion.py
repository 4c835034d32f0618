"""What becomes of people's joints over time: smoothed as they are seen, forgotten with whom the regions leave out."""

from dataclasses import replace

import numpy as np
import pytest

from edgepose.people.regions import Regions
from edgepose.people.smooth import FORGET, KINDS, smoother
from edgepose.people.tracker import Following
from tests.people.test_crowd import LEFT, STEP, Seeing, everybody, film, one_each, stands

FRAMES = 60
NOISE = np.random.default_rng(3).normal(0, 0.3, (FRAMES, 16, 2))


def walked(kind, crowd, speed):
    """The people of each frame: one who moves by ``speed`` px per frame, seen with noise, smoothed by ``kind``."""
    seeing = Seeing([stands(120)])

    def walk(number):
        seeing.scenes[0] = [stands(120 + speed * number) + NOISE[number]]

    return film(crowd(seeing, {"door": Regions()}, smoothing=kind), ["door"], FRAMES, each=walk)["door"]


@pytest.mark.parametrize("crowd", [everybody, one_each])
@pytest.mark.parametrize("kind", KINDS)
def test_joints_are_smoothed_as_they_are_seen(crowd, kind):
    """Every frame's by the smoother that was asked for, at the frame's own time; and they are the motion's."""
    raw, seen = walked("off", crowd, 4), walked(kind, crowd, 4)
    reference = smoother(kind)
    for number, (before, after) in enumerate(zip(raw, seen, strict=True)):
        expected = reference.smooth(before.ids, before.poses, 10**15 + number * STEP)
        np.testing.assert_allclose(after.poses.joints, expected.joints)
        np.testing.assert_allclose(after.poses.covariance, expected.covariance)
        np.testing.assert_allclose(after.motion.velocity, expected.velocity)
        assert np.array_equal(after.poses.joints, after.motion.joints)
    assert len(seen[-1]) == 1
    np.testing.assert_allclose(raw[-1].poses.joints[0], stands(120 + 4 * (FRAMES - 1)) + NOISE[-1])
    assert np.allclose(seen[-1].poses.joints, raw[-1].poses.joints) == (kind == "off")
    if kind != "off":  # 4 px in 40 ms
        np.testing.assert_allclose(seen[-1].motion.velocity[0].mean(axis=0), [100, 0], atol=15)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "off"])
def test_whom_the_regions_left_out_begins_anew(kind):
    """Who walks out of them and back keeps the id, but not what was known of the motion before."""
    seeing, turn, out = Seeing([stands(230)]), 20, 40
    patient = Following(patience=4.0)
    crowd = everybody(seeing, {"door": Regions(only=[LEFT])}, smoothing=kind, following=patient)
    at = [230] * 10 + [230 + 8 * n for n in range(turn)] + [230 + 8 * turn] * out
    at += [230 + 8 * (turn - n) for n in range(turn)] + [230] * 5
    noise = np.random.default_rng(5).normal(0, 1, (len(at), 16, 2))

    def walk(number):
        seeing.scenes[0] = [stands(at[number]) + noise[number]]

    seen = film(crowd, ["door"], len(at), each=walk)["door"]
    away = [number for number, people in enumerate(seen) if number > 10 and not len(people)]
    assert (away[-1] - away[0]) * STEP > FORGET * 1e9
    assert {name for people in seen for name in people.ids} == {"run-1"}
    back = away[-1] + 1
    np.testing.assert_allclose(seen[back].poses.joints[0], stands(at[back]) + noise[back])
    assert not np.any(seen[back].motion.velocity)
    assert not np.allclose(seen[-1].poses.joints[0], stands(at[-1]) + noise[-1])


class Doubtful(Seeing):
    """Sees its people with a joint score that the test sets."""

    score = 0.9

    def _answers(self, people, boxes):
        poses = super()._answers(people, boxes)
        return replace(poses, scores=np.where(poses.scores > 0.5, self.score, poses.scores))


@pytest.mark.parametrize("crowd", [everybody, one_each])
def test_who_was_accepted_has_more_room_than_who_is_new(crowd):
    """By the two bars, 0.7 and 0.62: a person must not flicker, and furniture must not become one."""
    seeing = Doubtful([stands(300)])
    looking = crowd(seeing, {"door": Regions()})

    def ids(score, start, frames):
        seeing.score = score
        return [people.ids for people in film(looking, ["door"], frames, start)["door"]]

    assert ids(0.66, 0, 40) == [[]] * 40
    assert ids(0.75, 40, 60)[-1] == ["run-1"]
    assert ids(0.66, 100, 40) == [["run-1"]] * 40
    assert ids(0.60, 140, 5) == [[]] * 5
    assert ids(0.66, 145, 5)[-1] == ["run-1"]
