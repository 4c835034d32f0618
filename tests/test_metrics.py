import numpy as np

from edgepose.metrics import score_persons
from edgepose.skeletons import COCO17, MPII16


def person():
    truth = np.zeros((1, 16, 2))
    truth[0] = np.arange(32).reshape(16, 2) * 10.0
    truth[0, MPII16.index("upper_neck")] = [100, 100]
    truth[0, MPII16.index("head_top")] = [100, 60]  # head 40 px: PCKh@0.5 within 20, @0.1 within 4
    truth[0, MPII16.index("left_shoulder")] = [80, 120]
    truth[0, MPII16.index("right_hip")] = [80, 220]  # torso 100 px: PCK@0.2 within 20
    return truth


def test_hand_computed_case():
    truth = person()
    predicted = truth.copy()
    predicted[0, 0, 0] += 21  # outside 20: wrong everywhere
    predicted[0, 1, 0] += 19  # within 20, outside 4
    predicted[0, 4, 1] += 3.9  # within 4
    labelled = np.ones((1, 16), bool)
    labelled[0, 15] = False
    predicted[0, 15] += 999  # unlabelled: does not count
    found = score_persons(predicted, truth, labelled, MPII16)
    assert found["persons"] == 1
    assert found["joints"] == 15
    assert found["pckh05"] == round(100 * 14 / 15, 2)
    assert found["pckh01"] == round(100 * 13 / 15, 2)
    assert found["pck02_torso"] == round(100 * 14 / 15, 2)
    assert found["pck02_torso_limbs"] == round(100 * 10 / 11, 2)
    assert found["per_joint"]["right_ankle"] == {"pckh05": 0.0, "pckh01": 0.0, "pck02_torso": 0.0}
    assert found["per_joint"]["right_knee"] == {"pckh05": 100.0, "pckh01": 0.0, "pck02_torso": 100.0}
    assert found["per_joint"]["left_wrist"]["pckh05"] is None


def test_the_limit_itself_counts_as_correct():
    truth, labelled = person(), np.ones((1, 16), bool)
    predicted = truth.copy()
    predicted[0, 0, 0] += 20.0
    assert score_persons(predicted, truth, labelled, MPII16)["pckh05"] == 100.0


def test_a_person_without_reference_is_not_judged():
    truth = np.concatenate([person(), person()])
    labelled = np.ones((2, 16), bool)
    labelled[1, MPII16.index("head_top")] = False
    predicted = truth.copy()
    predicted[1] += 1000
    found = score_persons(predicted, truth, labelled, MPII16)
    assert found["pckh05"] == 100.0  # only the first person has a head segment
    assert found["pck02_torso"] == round(100 * 16 / 31, 2)


def test_a_skeleton_without_head_has_no_pckh():
    truth = np.random.default_rng(0).uniform(0, 100, (3, 17, 2))
    found = score_persons(truth, truth, np.ones((3, 17), bool), COCO17)
    assert found["pckh05"] is None
    assert found["pckh01"] is None
    assert found["pck02_torso"] == 100.0
