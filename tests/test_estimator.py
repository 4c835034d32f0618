"""Crops of an image -> joints in its pixels: each crop by its own map, and how sure, by numbers that are known."""

import numpy as np

from edgepose.estimator import Estimator
from edgepose.skeletons import MPII16
from tests.conftest import tiny_manual
from tests.test_upright import Scripted, drawn

IMAGE = np.zeros((500, 500, 3), np.uint8)
BOX = np.array([[10.0, 20, 60, 90]])


def in_the_middle(**manual):
    """Of everybody's joints at one place."""
    maps = drawn(np.tile([8.0, 8], (16, 1)), 0.7)
    return Estimator(Scripted(maps), tiny_manual(**manual)).estimate(IMAGE, BOX)


def test_covariance_is_of_the_image_by_the_height_of_the_peak_and_by_joint():
    plain = in_the_middle(decode={"moment_radius": 8})
    cell = (1.25 * 70 / 64 * 4) ** 2  # pixels of the image squared; a peak is drawn one cell wide, and two high
    assert np.allclose(plain.covariance[0, :, 0], cell, rtol=0.05)
    assert np.allclose(plain.covariance[0, :, 2], 4 * cell, rtol=0.05)
    scale, factor = np.arange(1.0, 17), {"raw": [0, 0.7, 1], "factor": [9, 3, 1]}
    scaled = in_the_middle(decode={"moment_radius": 8}, covariance_scale=scale.tolist(), ellipses=factor)
    assert np.allclose(scaled.covariance[0], plain.covariance[0] * 3 * scale[:, None], rtol=1e-3)


def test_joints_are_expected_in_each_crop_by_its_own_map():
    left, right = MPII16.index("left_knee"), MPII16.index("right_knee")
    maps = drawn(np.tile([3.0, 8], (16, 1)), 0.9)
    maps[0, right] += drawn(np.tile([12.0, 8], (16, 1)), 0.6)[0, right]
    manual, boxes = tiny_manual(decode={"mirror_ratio": 0.7}), np.concatenate([[[300.0, 300, 320, 320]], BOX])
    alone = Estimator(Scripted(maps), manual).estimate(IMAGE, BOX)
    assert np.allclose(alone.joints[0, left], alone.joints[0, right])  # both in one place
    expected = np.full((2, 16, 2), np.nan)
    expected[1, left] = alone.joints[0, left] + [2, 0]
    expected[1, right] = alone.joints[0, left] + [45, -3]
    found = Estimator(Scripted(np.concatenate([maps, maps])), manual).estimate(IMAGE, boxes, expected=expected)
    assert 40 < found.joints[1, right, 0] - found.joints[1, left, 0] < 60


def test_nobody_is_not_looked_at_again():
    """Someone who lies, but so unsure as furniture is: the engine has no answer to a second batch."""
    lower = [any(part in joint for part in ("hip", "knee", "ankle", "pelvis")) for joint in MPII16.joints]
    lying = np.tile([8.0, 8], (16, 1))
    lying[:, 0] = np.where(lower, 5, 11)
    found = Estimator(Scripted(drawn(lying, 0.5)), tiny_manual(), second_look=True).estimate(IMAGE, BOX)
    assert len(found.joints) == 1
