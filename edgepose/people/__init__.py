"""People in a camera's frames: found, followed, named. Time comes in with the frame; no clock is read here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgepose.estimator import Poses
from edgepose.people.smooth import Smoothed


@dataclass(frozen=True)
class People:
    """The persons of one frame: ids, boxes [N, 4] in image pixels, poses, in the same order.

    ``motion``: how the joints move, where somebody watched; the joints in it are those of ``poses``.
    """

    ids: list[str]
    boxes: NDArray[np.float64]
    poses: Poses
    motion: Smoothed | None = None

    def __len__(self) -> int:
        return len(self.ids)
