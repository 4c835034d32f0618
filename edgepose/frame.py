"""What a source hands out: one image and when it was taken."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Frame:
    """One camera image.

    ``image`` [H, W, 3] is BGR uint8 and may be a read-only view of the pipeline's memory: it stays valid
    as long as the Frame is referenced, and whoever draws must copy. ``acquired_ns`` is the UTC time of
    acquisition in nanoseconds, from the pipeline's clock, not from when Python saw it.
    """

    image: NDArray[np.uint8]
    acquired_ns: int
    seq: int  # counts what the source produced, dropped frames included, from 0
    camera: str
