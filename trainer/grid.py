"""Contact sheets: equal tiles in rows, written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgepose.errors import EdgeposeError
from edgepose.files import write_beside

_PICTURES = (".png", ".jpg", ".jpeg")
_PLOTS = (*_PICTURES, ".pdf", ".svg")


def evenly(total: int, most: int) -> list[int]:
    """At most ``most`` positions, evenly spread over ``total``."""
    return [int(i) for i in np.linspace(0, total - 1, min(total, most)).astype(int)]


def write_grid(tiles: list[NDArray[np.uint8]], columns: int, path: Path) -> None:
    """Write equally sized BGR ``tiles`` to ``path``, ``columns`` a row; the last row is filled up with black."""
    filled = [*tiles, *[np.zeros_like(tiles[0])] * (-len(tiles) % columns)]
    picture = np.vstack([np.hstack(filled[i : i + columns]) for i in range(0, len(filled), columns)])
    write_picture(picture, path)


def write_picture(picture: NDArray[np.uint8], path: Path) -> None:
    """Write a BGR ``picture`` [H, W, 3]; EdgeposeError as of ``require_picture``, and where it cannot be encoded."""
    require_picture(path)
    done, encoded = cv2.imencode(path.suffix, picture)
    if not done:
        raise EdgeposeError(f"{path}: a picture of {picture.shape[1]} x {picture.shape[0]} pixels cannot be encoded as "
                            f"{path.suffix}")  # fmt: skip
    with write_beside(path) as beside:
        beside.write_bytes(encoded.tobytes())


def require_picture(*paths: Path | None, drawn: bool = False) -> None:
    """EdgeposeError where a file's name, where it was given, is not that of a picture: to be asked first.

    ``drawn``: by Matplotlib, which writes PDF and SVG too.
    """
    known = _PLOTS if drawn else _PICTURES
    for path in paths:
        if path is not None and path.suffix.lower() not in known:
            raise EdgeposeError(f"{path}: a picture's file name ends in {', '.join(known[:-1])} or {known[-1]}")
