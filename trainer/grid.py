"""Contact sheets: equal tiles in rows, written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgepose.files import write_beside


def evenly(total: int, most: int) -> list[int]:
    """At most ``most`` positions, evenly spread over ``total``."""
    return [int(i) for i in np.linspace(0, total - 1, min(total, most)).astype(int)]


def write_grid(tiles: list[NDArray[np.uint8]], columns: int, path: Path) -> None:
    """Write equally sized BGR ``tiles`` to ``path``, ``columns`` a row; the last row is filled up with black."""
    filled = [*tiles, *[np.zeros_like(tiles[0])] * (-len(tiles) % columns)]
    picture = np.vstack([np.hstack(filled[i : i + columns]) for i in range(0, len(filled), columns)])
    with write_beside(path) as beside:
        cv2.imwrite(str(beside), picture)
