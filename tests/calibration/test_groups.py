"""What INT8 lost, told by joint and by group: with the sign of a loss, the worst first."""

from types import SimpleNamespace

import numpy as np

from calibration import groups
from calibration.judge import Answers

NAN = np.nan


def answers(rows):
    """Two joints of four persons: right (1), wrong (0) or not judged."""
    return Answers(np.zeros((4, 2, 2)), {"pckh05": np.array(rows, float)})


FLOAT = answers([[1, 1], [1, 0], [1, NAN], [1, NAN]])
INT8 = answers([[1, 1], [0, 1], [0, NAN], [1, NAN]])


def test_by_joint_a_loss_is_positive_and_comes_first():
    judge = SimpleNamespace(skeleton=SimpleNamespace(joints=("right_wrist", "left_wrist", "nose")))
    three = [
        Answers(np.zeros((4, 3, 2)), {"pckh05": np.column_stack([a.hits["pckh05"][:, ::-1], np.full(4, NAN)])})
        for a in (FLOAT, INT8)
    ]
    lost = groups.by_joint(judge, *three, "pckh05")
    assert list(lost.items()) == [("left_wrist", 50.0), ("right_wrist", -50.0)]


def test_by_group_a_loss_is_positive_and_comes_first():
    masks = {
        "gained": np.array([True, False, False, False]),
        "lost": np.array([False, False, True, False]),
        "both": np.array([False, True, False, True]),
    }
    lost = groups.by_group(masks, FLOAT, INT8, "pckh05")
    assert list(lost.items()) == [("lost (1)", 100.0), ("gained (1)", 0.0), ("both (2)", 0.0)]
    assert groups.by_group({"none": np.zeros(4, bool)}, FLOAT, INT8, "pckh05") == {}
