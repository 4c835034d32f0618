"""IoU, OKS and assignment, by hand and by properties."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepose.people.association import SIGMAS, assign, body_scale, constants, inside, iou, nearness, oks
from edgepose.skeletons import COCO17, LSP14, MPII16, ROS4HRI18


def test_iou_by_hand():
    a = np.array([[0.0, 0, 10, 10], [0, 0, 0, 0]])
    b = np.array([[0.0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [0, 0, 0, 0]])
    assert np.allclose(iou(a, b), [[1, 50 / 150, 0, 0], [0, 0, 0, 0]])  # boxes that only touch share nothing
    assert iou(a, np.zeros((0, 4))).shape == (2, 0)
    assert iou(np.zeros((0, 4)), b).shape == (0, 4)


def test_inside_is_the_share_of_the_first():
    small, large = np.array([[2.0, 2, 4, 4]]), np.array([[0.0, 0, 3, 10]])
    assert inside(small, large) == pytest.approx(0.5)
    assert inside(large, small) == pytest.approx(2 / 30)
    assert inside(np.zeros((1, 4)), large) == 0


@pytest.mark.parametrize("skeleton", [MPII16, LSP14, COCO17, ROS4HRI18])
def test_every_joint_has_a_constant(skeleton):
    k = constants(skeleton)
    assert k.shape == (len(skeleton),)
    assert np.array_equal(k, k[skeleton.mirror])


def test_cocos_joints_have_cocos_constants():
    """In the order of pycocotools' kpt_oks_sigmas."""
    sigmas = [.26, .25, .25, .35, .35, .79, .79, .72, .72, .62, .62, 1.07, 1.07, .87, .87, .89, .89]  # fmt: skip
    assert np.allclose(constants(COCO17), 2 * np.array(sigmas) / 10)


def test_substitutes_are_those_stated():
    k = dict(zip(MPII16.joints, constants(MPII16), strict=True))
    assert k["pelvis"] == k["left_hip"]
    assert k["thorax"] == k["upper_neck"] == k["right_shoulder"]
    assert k["head_top"] == 2 * SIGMAS["ear"]


def test_oks_of_equal_poses_is_one_and_far_ones_zero():
    pose = np.random.default_rng(0).uniform(0, 100, (3, 16, 2)) + np.array([0, 1000, 2000])[:, None, None]
    alike = oks(pose, pose, np.full(3, 100.0), constants(MPII16))
    assert np.allclose(alike, np.eye(3))


def test_oks_of_one_joint_moved_by_its_own_constant():
    """d = s k: exp(-1/2) for that joint, 1 for the others."""
    k = constants(COCO17)
    a = np.zeros((1, 17, 2))
    b = a.copy()
    b[0, 5, 0] = 80.0 * k[5]
    assert oks(a, b, np.array([80.0]), k) == pytest.approx((16 + np.exp(-0.5)) / 17)


def test_oks_weighs_joints_by_score_and_leaves_out_those_that_are_nan():
    k = constants(COCO17)
    a, b = np.zeros((1, 17, 2)), np.zeros((1, 17, 2))
    b[0, 5] = 1e6
    scores = np.ones((1, 17))
    scores[0, 5] = 0.5
    assert oks(a, b, np.array([80.0]), k, a_scores=scores) == pytest.approx(16 / 16.5)
    assert oks(a, b, np.array([80.0]), k, a_scores=scores, b_scores=scores) == pytest.approx(16 / 16.25)
    b[0, 5] = np.nan
    assert oks(a, b, np.array([80.0]), k) == 1
    assert oks(a, np.full((1, 17, 2), np.nan), np.array([80.0]), k) == 0
    assert oks(a, b[:0], np.array([80.0]), k).shape == (1, 0)


def test_a_person_seen_from_the_side_still_has_a_size():
    assert body_scale(np.array([[0.0, 0, 100, 100]])) == pytest.approx(100)
    assert body_scale(np.array([[0.0, 0, 2, 300]])) == pytest.approx(np.sqrt(100 * 300))
    assert body_scale(np.array([[5.0, 5, 5, 5]])) == 1


def test_the_best_sum_wins_over_the_best_pair():
    assert assign(np.array([[0.9, 0.8], [0.8, 0.1]]), 0.0) == [(0, 1), (1, 0)]


def test_a_pair_below_the_least_neither_counts_nor_displaces():
    assert assign(np.array([[0.6, 0.4], [0.55, 0.1]]), 0.5) == [(0, 0)]  # without the bar: 0-1 and 1-0
    assert assign(np.full((2, 3), 0.1), 0.2) == []
    assert assign(np.zeros((0, 3)), 0.2) == assign(np.zeros((2, 0)), 0.2) == []


@given(st.integers(1, 4), st.integers(1, 4), st.floats(0.05, 0.9), st.integers(0, 1000))
def test_no_other_pairing_is_better(n, m, least, seed):
    similarity = np.random.default_rng(seed).uniform(0, 1, (n, m))
    pairs = assign(similarity, least)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    worth = np.where(similarity >= least, similarity, 0)
    tall = worth if n >= m else worth.T
    orders = itertools.permutations(range(max(n, m)), min(n, m))
    best = max(sum(tall[i, j] for j, i in enumerate(order)) for order in orders)
    assert sum(similarity[i, j] for i, j in pairs) == pytest.approx(best)
    assert all(similarity[i, j] >= least for i, j in pairs)


def test_nearness_falls_with_distance_and_with_another_size():
    a = np.array([[0.0, 0, 50, 100]])
    b = np.array([[0.0, 0, 50, 100], [20, 0, 70, 100], [40, 0, 90, 100], [0, 25, 50, 75]])
    assert np.allclose(nearness(a, b, np.array([40.0])), [[1, 0.5, 0, 0.5]])
    assert nearness(a, b[:0], np.array([40.0])).shape == (1, 0)
    assert nearness(a[:0], b, np.zeros(0)).shape == (0, 4)
