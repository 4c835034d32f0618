"""Skeletons drawn into images."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edgepose.skeletons import Skeleton

LEFT, RIGHT, MIDDLE = (80, 220, 90), (60, 120, 255), (255, 200, 60)  # BGR


def colour(name: str) -> tuple[int, int, int]:
    """Green for the person's left, orange for the right, blue for the middle."""
    return LEFT if name.startswith("left_") else RIGHT if name.startswith("right_") else MIDDLE


def draw_pose(
    image: NDArray[np.uint8],
    joints: NDArray[np.floating],
    visible: NDArray[np.bool_],
    skeleton: Skeleton,
    thickness: int = 2,
) -> None:
    """Draw limbs and joints [K, 2] into a BGR image, in place; a limb needs both its ends ``visible`` [K]."""
    # Four fractional bits keep sub-pixel positions steady in video.
    at = [(round(x * 16), round(y * 16)) if v else (0, 0)
          for (x, y), v in zip(joints.tolist(), visible.tolist(), strict=True)]  # fmt: skip
    for a, b in skeleton.limb_indices:
        if visible[a] and visible[b]:
            name = skeleton.joints[a] if skeleton.joints[a].startswith(("left_", "right_")) else skeleton.joints[b]
            cv2.line(image, at[a], at[b], colour(name), thickness, cv2.LINE_AA, 4)
    for k, name in enumerate(skeleton.joints):
        if visible[k]:
            cv2.circle(image, at[k], (thickness + 1) * 16, (255, 255, 255), -1, cv2.LINE_AA, 4)
            cv2.circle(image, at[k], thickness * 16, colour(name), -1, cv2.LINE_AA, 4)
