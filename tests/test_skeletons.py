import numpy as np
import pytest

from edgepose import EdgeposeError
from edgepose.skeletons import COCO17, LSP14, MPII16, ROS4HRI18, SKELETONS, convert, get, joint_map


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=lambda s: s.name)
def test_joints_limbs_and_mirror_are_consistent(skeleton):
    assert len(set(skeleton.joints)) == len(skeleton) == int("".join(c for c in skeleton.name if c.isdigit())[-2:])
    assert all(0 <= i < len(skeleton) for limb in skeleton.limb_indices for i in limb)
    mirror = skeleton.mirror
    assert (mirror[mirror] == np.arange(len(skeleton))).all()
    for left, right in skeleton.mirror_pairs:
        assert mirror[skeleton.index(left)] == skeleton.index(right)
    middle = [k for k, n in enumerate(skeleton.joints) if not n.startswith(("left_", "right_"))]
    assert (mirror[middle] == middle).all()
    # every joint hangs on a limb
    assert {i for limb in skeleton.limb_indices for i in limb} == set(range(len(skeleton)))


def test_orders_are_the_data_sets_own():
    assert MPII16.joints[:3] == ("right_ankle", "right_knee", "right_hip")
    assert MPII16.joints[6:10] == ("pelvis", "thorax", "upper_neck", "head_top")
    assert LSP14.joints[-2:] == ("neck", "head_top")
    assert COCO17.joints[0] == "nose"
    assert COCO17.joints[5:7] == ("left_shoulder", "right_shoulder")


def test_a_joint_without_counterpart_is_absent_not_guessed():
    to_mpii = joint_map(LSP14, MPII16)
    assert len(to_mpii) == 13  # twelve limb joints and the head top
    for absent in ("pelvis", "thorax", "upper_neck"):
        assert MPII16.index(absent) not in to_mpii
    assert len(joint_map(MPII16, COCO17)) == 12
    assert len(joint_map(COCO17, ROS4HRI18)) == 17


def test_convert_fills_absent_joints_with_nan_and_keeps_the_rest():
    joints = np.arange(28.0).reshape(1, 14, 2)
    out = convert(joints, LSP14, MPII16)
    assert out.shape == (1, 16, 2)
    assert (out[0, MPII16.index("left_wrist")] == joints[0, LSP14.index("left_wrist")]).all()
    assert np.isnan(out[0, MPII16.index("thorax")]).all()
    back = convert(out, MPII16, LSP14)
    known = ~np.isnan(back[0, :, 0])
    assert known.sum() == 13
    assert (back[0, known] == joints[0, known]).all()


def test_unknown_skeleton_names_the_nearest():
    with pytest.raises(EdgeposeError, match="unknown skeleton 'mpii61'; did you mean 'mpii16'"):
        get("mpii61")
    with pytest.raises(EdgeposeError, match="unknown joint 'left_rist'.*did you mean 'left_wrist'"):
        MPII16.index("left_rist")
