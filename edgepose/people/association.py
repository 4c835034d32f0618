"""Who is who: how alike boxes and poses are, and the best pairing of two lists. Pure functions.

Boxes are [x0, y0, x1, y1] in the continuous coordinates of ``edgepose.crops``; their area has no "+1".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment  # a quarter of a second that the first person must not wait for

from edgepose.skeletons import Skeleton

Floats = NDArray[np.floating]

# How far people who label joints disagree, as a share of the square root of the person's area: the sigmas of COCO's
# keypoint evaluation (https://cocodataset.org/#keypoints-eval), by joint name without its side.
SIGMAS = {
    "nose": 0.026, "eye": 0.025, "ear": 0.035, "shoulder": 0.079, "elbow": 0.072, "wrist": 0.062,
    "hip": 0.107, "knee": 0.087, "ankle": 0.089,
}  # fmt: skip
# COCO does not label these; each takes the sigma of the labelled joint that is most like it.
SUBSTITUTES = {
    "pelvis": "hip",
    "thorax": "shoulder",
    "neck": "shoulder",
    "upper_neck": "shoulder",
    "head_top": "ear",
}
# A person seen from the side has its joints nearly in one line, and yet a body: the shorter side of its box counts as
# at least this share of the longer.
SLIMMEST = 1 / 3


def areas(boxes: Floats) -> NDArray[np.float64]:
    """Area [N] of ``boxes`` [N, 4] in pixels squared; 0 for one that is turned inside out."""
    return np.asarray(np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=1), dtype=np.float64)


def overlap(a: Floats, b: Floats) -> NDArray[np.float64]:
    """Area [N, M] in pixels squared that each of ``a`` [N, 4] shares with each of ``b`` [M, 4]."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.asarray(np.maximum(high - low, 0).prod(axis=2), dtype=np.float64)


def iou(a: Floats, b: Floats) -> NDArray[np.float64]:
    """Intersection over union [N, M], 0..1, of boxes ``a`` [N, 4] and ``b`` [M, 4]; 0 where both are empty."""
    shared = overlap(a, b)
    union = areas(a)[:, None] + areas(b)[None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def inside(a: Floats, b: Floats) -> NDArray[np.float64]:
    """The share [N, M], 0..1, of each of ``a`` [N, 4] that lies in each of ``b`` [M, 4]; 0 for an empty ``a``."""
    shared, own = overlap(a, b), areas(a)[:, None]
    return np.divide(shared, own, out=np.zeros_like(shared), where=own > 0)


def nearness(a: Floats, b: Floats, reach: Floats) -> NDArray[np.float64]:
    """How near [N, M], 0..1, boxes ``b`` [M, 4] are to ``a`` [N, 4] that may have moved by up to ``reach`` [N] pixels.

    1 where they share centre and longer side; 0 at the distance ``reach``; less for another size, by their ratio.
    """
    apart = np.linalg.norm((a[:, None, :2] + a[:, None, 2:] - b[None, :, :2] - b[None, :, 2:]) / 2, axis=2)
    size_a, size_b = ((boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=1.0) for boxes in (a, b))
    ratio = size_a[:, None] / size_b[None]
    return np.asarray(np.clip(1 - apart / reach[:, None], 0, 1) * np.minimum(ratio, 1 / ratio), dtype=np.float64)


def body_scale(boxes: Floats) -> NDArray[np.float64]:
    """The square root [N] in pixels of each person's box area, for ``oks``; see SLIMMEST. Never below one pixel.

    COCO takes the area of the person's outline, about half of the box, so the same OKS is a little easier here.
    """
    sides = np.sort(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
    short, long = sides[:, 0], sides[:, 1]
    return np.asarray(np.maximum(np.sqrt(np.maximum(short, SLIMMEST * long) * long), 1.0), dtype=np.float64)


def constants(skeleton: Skeleton) -> NDArray[np.float64]:
    """Per-joint constants k [K] of ``oks``: twice the sigma, as COCO has it."""
    plain = (joint.removeprefix("left_").removeprefix("right_") for joint in skeleton.joints)
    return np.array([2 * SIGMAS[SUBSTITUTES.get(joint, joint)] for joint in plain])


def oks(
    a: Floats,
    b: Floats,
    scale: Floats,
    k: Floats,
    *,
    a_scores: Floats | None = None,
    b_scores: Floats | None = None,
) -> NDArray[np.float64]:
    """Object keypoint similarity [N, M], 0..1, of poses ``a`` [N, K, 2] and ``b`` [M, K, 2] in pixels.

    ``sum_i w_i exp(-d_i^2 / (2 s^2 k_i^2)) / sum_i w_i`` with d the distance of joint i, s the ``scale`` [N] of the
    persons of ``a`` in pixels and ``k`` [K] of ``constants`` (COCO: w is 1 where the joint is labelled). Here w is the
    product of the joints' scores ``a_scores`` [N, K] and ``b_scores`` [M, K], where given. A joint that is NaN has
    no weight; two poses without a joint in common are not alike (0).
    """
    squared = np.square(a[:, None] - b[None]).sum(axis=3)
    known = np.isfinite(squared)
    weights = known.astype(np.float64)
    if a_scores is not None:
        weights *= a_scores[:, None]
    if b_scores is not None:
        weights *= b_scores[None]
    closeness = np.exp(-np.where(known, squared, 0.0) / (2 * np.square(scale)[:, None, None] * np.square(k)))
    alike: NDArray[np.float64] = (weights * closeness).sum(axis=2)
    total: NDArray[np.float64] = weights.sum(axis=2)
    return np.divide(alike, total, out=np.zeros_like(total), where=total > 0)


def assign(similarity: Floats, least: float) -> list[tuple[int, int]]:
    """Pairs (i, j) of rows and columns of ``similarity`` [N, M], 0..1, with the largest sum (the Hungarian algorithm).

    A pair below ``least`` is never made, nor does it push another pair out.
    """
    allowed = similarity >= least
    if not allowed.any():
        return []
    rows, columns = linear_sum_assignment(np.where(allowed, similarity, 0.0), maximize=True)
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if allowed[i, j]]
