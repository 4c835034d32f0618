"""Which way up people are.

Networks learn from people who mostly stand, and know those worse who lie, hang or do a handstand, or whom a rolled
camera sees. Turned upright they are like the others.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgepose.skeletons import Skeleton

LEAN = 45.0  # degrees from upright beyond which a second look is worth its crop; and how far two looks may differ

# Person score of the first look from which there is a second: of furniture the surer of two is too sure.
SOMEBODY = 0.62


def lean(joints: NDArray[np.floating], skeleton: Skeleton) -> NDArray[np.float64]:
    """How far each torso leans [N], -180..180 degrees clockwise as seen, by ``joints`` [N, K, 2] in pixels.

    From the middle of the hips to the middle of the shoulders; 0 is upright, 180 upside down.
    """
    a, b, c, d = (skeleton.index(joint) for joint in ("left_shoulder", "right_shoulder", "left_hip", "right_hip"))
    up = (joints[:, a] + joints[:, b] - joints[:, c] - joints[:, d]) / 2
    return np.asarray(np.degrees(np.arctan2(up[:, 0], -up[:, 1])), dtype=np.float64)


def box_upright(joints: NDArray[np.floating], turn: float, box: NDArray[np.floating]) -> NDArray[np.float64]:
    """The box [4] about the middle of ``box`` [4] whose crop, turned by ``turn`` degrees clockwise, holds ``joints``.

    A body along the diagonal is longer than its upright box, and a crop of that would cut it off once turned.
    ``joints`` [M, 2] in pixels. Never smaller than ``box``.
    """
    cos, sin = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    middle = (box[:2] + box[2:]) / 2
    turned = (joints - middle) @ np.array([[cos, -sin], [sin, cos]]).T
    half = max(float(np.abs(turned).max()), float(max(box[2:] - box[:2])) / 2)
    return np.concatenate([middle - half, middle + half])


def second_counts(
    leaning: NDArray[np.floating],
    first_scores: NDArray[np.floating],
    joints: NDArray[np.floating],
    scores: NDArray[np.floating],
    skeleton: Skeleton,
) -> NDArray[np.bool_]:
    """Whose second look counts [N]: it is surer, and agrees how the person leans; of furniture two looks disagree.

    ``leaning`` [N] and ``first_scores`` [N, K] are of the first look, ``joints`` [N, K, 2] and ``scores`` [N, K] of the
    second.
    """
    surer = scores.mean(axis=1) > first_scores.mean(axis=1)
    return np.asarray(surer & (apart(lean(joints, skeleton), leaning) < LEAN))


def apart(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Degrees [N], 0..180, between directions ``a`` and ``b`` [N] in degrees."""
    return np.asarray(np.abs((a - b + 180) % 360 - 180), dtype=np.float64)
