"""Skeletons: named joints, limbs, mirror pairs, and maps from one skeleton to another.

Left and right are the person's own. A joint of one skeleton that has no counterpart in
another is absent from the map; it is never guessed from its neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgepose.errors import unknown

_LOWER = {"pelvis", "hip", "knee", "ankle"}


@dataclass(frozen=True)
class Skeleton:
    """An ordered list of joints and how they hang together.

    ``limbs`` are pairs of joint names; ``torso`` and ``head`` are the segments that
    normalise PCK@0.2 and PCKh (None where the skeleton lacks one).
    """

    name: str
    joints: tuple[str, ...]
    limbs: tuple[tuple[str, str], ...]
    torso: tuple[str, str] = ("left_shoulder", "right_hip")
    head: tuple[str, str] | None = None

    def __len__(self) -> int:
        return len(self.joints)

    def index(self, joint: str) -> int:
        """Position of ``joint``; raises EdgeposeError for an unknown name."""
        try:
            return self.joints.index(joint)
        except ValueError:
            raise unknown("joint", joint, self.joints, f"skeleton {self.name}") from None

    @cached_property
    def limb_indices(self) -> tuple[tuple[int, int], ...]:
        """Limbs as pairs of joint indices."""
        return tuple((self.index(a), self.index(b)) for a, b in self.limbs)

    @cached_property
    def lower(self) -> NDArray[np.bool_]:
        """Which joints [K] belong to the lower body: from the hips down."""
        return np.array([j.split("_")[-1] in _LOWER for j in self.joints])

    @cached_property
    def mirror(self) -> NDArray[np.intp]:
        """Permutation [K] that swaps left and right: ``mirrored = joints[mirror]``."""
        swapped = (
            j.replace("left_", "right_") if j.startswith("left_") else j.replace("right_", "left_") for j in self.joints
        )
        return np.array([self.index(j) for j in swapped], dtype=np.intp)

    @cached_property
    def mirror_pairs(self) -> tuple[tuple[str, str], ...]:
        """(left, right) joint names."""
        return tuple((j, j.replace("left_", "right_")) for j in self.joints if j.startswith("left_"))


_ARMS = (
    ("right_wrist", "right_elbow"),
    ("right_elbow", "right_shoulder"),
    ("left_shoulder", "left_elbow"),
    ("left_elbow", "left_wrist"),
)
_LEGS = (
    ("right_ankle", "right_knee"),
    ("right_knee", "right_hip"),
    ("left_hip", "left_knee"),
    ("left_knee", "left_ankle"),
)

MPII16 = Skeleton(
    name="mpii16",
    joints=(
        "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle",
        "pelvis", "thorax", "upper_neck", "head_top",
        "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
    ),
    limbs=(
        *_LEGS, *_ARMS,
        ("right_hip", "pelvis"), ("left_hip", "pelvis"), ("pelvis", "thorax"),
        ("thorax", "upper_neck"), ("upper_neck", "head_top"),
        ("right_shoulder", "thorax"), ("left_shoulder", "thorax"),
    ),
    head=("upper_neck", "head_top"),
)  # fmt: skip

LSP14 = Skeleton(
    name="lsp14",
    joints=(
        "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle",
        "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
        "neck", "head_top",
    ),
    limbs=(
        *_LEGS, *_ARMS,
        ("right_hip", "left_hip"), ("right_shoulder", "right_hip"), ("left_shoulder", "left_hip"),
        ("right_shoulder", "neck"), ("left_shoulder", "neck"), ("neck", "head_top"),
    ),
    head=("neck", "head_top"),
)  # fmt: skip

COCO17 = Skeleton(
    name="coco17",
    joints=(
        "nose", "left_eye", "right_eye", "left_ear", "right_ear",
        "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
        "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
    ),
    limbs=(
        *_LEGS, *_ARMS,
        ("left_hip", "right_hip"), ("left_shoulder", "right_shoulder"),
        ("left_shoulder", "left_hip"), ("right_shoulder", "right_hip"),
        ("nose", "left_eye"), ("nose", "right_eye"), ("left_eye", "left_ear"), ("right_eye", "right_ear"),
    ),
)  # fmt: skip

# ROS4HRI (REP-155) names 18 joints; these are the ones whose meaning is the same point of the body.
ROS4HRI18 = Skeleton(
    name="ros4hri18",
    joints=(
        "nose", "neck",
        "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
        "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
        "right_eye", "left_eye", "right_ear", "left_ear",
    ),
    limbs=(
        *_LEGS, *_ARMS,
        ("neck", "right_shoulder"), ("neck", "left_shoulder"), ("neck", "right_hip"), ("neck", "left_hip"),
        ("neck", "nose"), ("nose", "right_eye"), ("nose", "left_eye"),
        ("right_eye", "right_ear"), ("left_eye", "left_ear"),
    ),
)  # fmt: skip
SKELETONS: dict[str, Skeleton] = {s.name: s for s in (MPII16, LSP14, COCO17, ROS4HRI18)}


def get(name: str) -> Skeleton:
    """The skeleton of that name; EdgeposeError names the nearest known one."""
    try:
        return SKELETONS[name]
    except KeyError:
        raise unknown("skeleton", name, SKELETONS) from None


def joint_map(source: Skeleton, target: Skeleton) -> dict[int, int]:
    """Map ``{target index: source index}`` of the joints that both skeletons name.

    Same name means the same point of the body. LSP's ``neck`` lies between MPII's thorax and
    upper neck, so it has no counterpart in mpii16.
    """
    return {t: source.joints.index(name) for t, name in enumerate(target.joints) if name in source.joints}


def convert(joints: NDArray[np.floating], source: Skeleton, target: Skeleton) -> NDArray[np.float64]:
    """Reorder ``joints`` [..., K_source, D] to [..., K_target, D]; absent joints become NaN."""
    out = np.full((*joints.shape[:-2], len(target), joints.shape[-1]), np.nan)
    for t, s in joint_map(source, target).items():
        out[..., t, :] = joints[..., s, :]
    return out
