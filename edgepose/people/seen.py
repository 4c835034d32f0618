"""When the pose network has seen a person, and where: the bars that following shares."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgepose.crops import box_of_joints
from edgepose.estimator import Poses

# Of furniture the network says 0.65 at most, of people 0.8 to 0.97; who was accepted has more room than who is new.
ACCEPT = 0.7  # person score from which a found person counts
KEEP = 0.62  # person score below which the person counts as unseen
CONFIDENT = 0.4  # joint score from which a joint shapes the box
PATIENCE_S = 1.0  # seconds unseen until a person is gone, where nothing else is said


def joints_box(poses: Poses, index: int) -> NDArray[np.float64] | None:
    """Box [4] of a person's joints that are ``CONFIDENT``; None with fewer than four of them."""
    sure = poses.scores[index] >= CONFIDENT
    return box_of_joints(poses.joints[index], sure) if sure.sum() >= 4 else None
