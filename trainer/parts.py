"""The body as a hierarchy of parts: joints, bones, limbs (Tang, Yu & Wu 2018).

Three semantic levels; on the MPII skeleton of 16 joints they hold 16, 12 and 6 parts, as published.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from edgepose.skeletons import Skeleton

# Chains of joints; of each, the joints that a skeleton has are used.
_CHAINS = (
    ("right_ankle", "right_knee", "right_hip"),
    ("left_hip", "left_knee", "left_ankle"),
    ("right_hip", "pelvis", "left_hip"),
    ("thorax", "upper_neck", "neck", "head_top"),
    ("right_wrist", "right_elbow", "right_shoulder"),
    ("left_shoulder", "left_elbow", "left_wrist"),
)


@dataclass(frozen=True)
class Composition:
    """Parts as chains of joint indices: ``bones`` of two joints, ``limbs`` of one bone or more."""

    bones: tuple[tuple[int, ...], ...]
    limbs: tuple[tuple[int, ...], ...]


def composition_of(skeleton: Skeleton) -> Composition:
    """The skeleton's bones and limbs; none where it has no chain that we know."""
    limbs = []
    for chain in _CHAINS:
        present = tuple(skeleton.index(j) for j in chain if j in skeleton.joints)
        if len(present) > 1:
            limbs.append(present)
    return Composition(tuple(bone for limb in limbs for bone in pairwise(limb)), tuple(limbs))
