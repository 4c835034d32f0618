"""Accuracy of joints: PCKh and PCK, over labelled joints of persons whose box is given.

PCKh@a (Andriluka et al. 2014): the share of joints within ``a`` head lengths of their label. Where a
set has no head box the length is the skeleton's head segment itself (upper neck to head top). The overall figure is
over all joints; MPII's own mean leaves pelvis and thorax out.
PCK@a (Yang & Ramanan 2013; by the torso as Sapp & Taskar 2013): within ``a`` torso lengths, left shoulder to right hip.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose.skeletons import Skeleton

Floats = NDArray[np.floating]

HEAD = 0.54  # torso lengths (left shoulder to right hip) in a head: the median of mpii_sports' training persons


def segment_length(joints: Floats, labelled: NDArray[np.bool_], ends: tuple[int, int]) -> NDArray[np.float64]:
    """Length [N] of the segment between two joints of ``joints`` [N, K, 2]; NaN where an end is unlabelled."""
    a, b = ends
    length = np.linalg.norm(joints[:, a] - joints[:, b], axis=-1)
    return np.where(labelled[:, a] & labelled[:, b] & (length > 0), length, np.nan)


def correct(
    predicted: Floats, truth: Floats, labelled: NDArray[np.bool_], reference: Floats, threshold: float
) -> NDArray[np.float64]:
    """[N, K]: 1 where the joint lies within ``threshold * reference`` of its label, 0 where not, NaN where not judged.

    ``predicted`` and ``truth`` are [N, K, 2] pixels, ``reference`` [N] pixels (NaN: person not judged).
    """
    distance = np.linalg.norm(predicted - truth, axis=-1)
    judged = labelled & np.isfinite(reference)[:, None]
    with np.errstate(invalid="ignore"):
        hit = distance <= threshold * reference[:, None]
    return np.where(judged, hit.astype(np.float64), np.nan)


def _percent(hits: NDArray[np.float64]) -> float | None:
    judged = np.isfinite(hits)
    return round(100 * float(hits[judged].mean()), 2) if judged.any() else None


def score_persons(predicted: Floats, truth: Floats, labelled: NDArray[np.bool_], skeleton: Skeleton) -> dict[str, Any]:
    """All figures for N persons: ``pckh05``, ``pckh01``, ``pck02_torso`` (overall) and ``per_joint``, in percent.

    A figure whose reference segment the skeleton or the labels lack is None. ``pck02_torso`` is over all
    labelled joints; ``pck02_torso_limbs`` over the 12 limb joints alone.
    """
    figures: dict[str, NDArray[np.float64]] = {}
    none = np.full(truth.shape[:2], np.nan)
    if skeleton.head is not None:
        head = segment_length(truth, labelled, (skeleton.index(skeleton.head[0]), skeleton.index(skeleton.head[1])))
        figures["pckh05"] = correct(predicted, truth, labelled, head, 0.5)
        figures["pckh01"] = correct(predicted, truth, labelled, head, 0.1)
    else:
        figures["pckh05"], figures["pckh01"] = none, none
    torso = segment_length(truth, labelled, (skeleton.index(skeleton.torso[0]), skeleton.index(skeleton.torso[1])))
    figures["pck02_torso"] = correct(predicted, truth, labelled, torso, 0.2)

    result: dict[str, Any] = {"persons": len(truth), "joints": int(labelled.sum())}
    result.update({name: _percent(hits) for name, hits in figures.items()})
    limbs = [k for k, name in enumerate(skeleton.joints) if name.endswith(LIMB_JOINTS)]
    result["pck02_torso_limbs"] = _percent(figures["pck02_torso"][:, limbs])
    result["per_joint"] = {
        joint: {name: _percent(hits[:, k]) for name, hits in figures.items()} for k, joint in enumerate(skeleton.joints)
    }
    return result


LIMB_JOINTS = ("ankle", "knee", "hip", "wrist", "elbow", "shoulder")
