"""What people wear: the colours of torso and thighs, which tell two people apart where their joints cannot.

A look is [R, 3]: the median CIELAB colour of each of the REGIONS, NaN where its joints are not sure.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edgepose.estimator import Poses
from edgepose.skeletons import Skeleton

# From one pair of joints to another, and between which shares of the way a region lies. A thigh is a line: both joints
# of its pairs are one.
_TORSO = (("right_shoulder", "left_shoulder"), ("right_hip", "left_hip"))
_RIGHT_THIGH = (("right_hip", "right_hip"), ("right_knee", "right_knee"))
_LEFT_THIGH = (("left_hip", "left_hip"), ("left_knee", "left_knee"))
REGIONS = ((_TORSO, 0.1, 0.5), (_TORSO, 0.5, 0.9), (_RIGHT_THIGH, 0.2, 0.9), (_LEFT_THIGH, 0.2, 0.9))
_GRID = 5  # points along each side of a region
APART = 25.0  # CIELAB distance at which two looks are hardly alike (exp(-1/2)); different clothes are often 30 to 60


def looks(image: NDArray[np.uint8], poses: Poses, skeleton: Skeleton, confident: float) -> NDArray[np.float64]:
    """The look [N, R, 3] of each of ``poses`` in ``image`` [H, W, 3], BGR; joints of a lower score are not sure."""
    height, width = image.shape[:2]
    found = np.full((len(poses), len(REGIONS), 3), np.nan)
    across = np.linspace(0.2, 0.8, _GRID)[None, :, None]  # not the rim, which is background
    for number, ((first, second), begin, end) in enumerate(REGIONS):
        corners = [skeleton.index(joint) for joint in (*first, *second)]
        down = np.linspace(begin, end, _GRID)[:, None, None]
        sure = (poses.scores[:, corners] >= confident) & np.isfinite(poses.joints[:, corners, 0])
        for person in np.flatnonzero(sure.all(axis=1)):
            a, b, c, d = poses.joints[person, corners]
            points = (1 - down) * ((1 - across) * a + across * b) + down * ((1 - across) * c + across * d)
            x, y = np.rint(points.reshape(-1, 2)).astype(int).T
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            if inside.mean() >= 0.5:
                colours = image[y[inside], x[inside]].astype(np.float32)[None] / 255
                found[person, number] = np.median(cv2.cvtColor(colours, cv2.COLOR_BGR2LAB)[0], axis=0)
    return found


def alike(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """How alike [N, M], 0..1, looks ``a`` [N, R, 3] and ``b`` [M, R, 3] are; NaN where they share no region."""
    apart = np.linalg.norm(a[:, None] - b[None], axis=3)
    known = np.isfinite(apart)
    near = np.where(known, np.exp(-np.square(np.where(known, apart, 0.0) / APART) / 2), 0.0)
    count = known.sum(axis=2)
    return np.asarray(np.divide(near.sum(axis=2), count, out=np.full(count.shape, np.nan), where=count > 0))
