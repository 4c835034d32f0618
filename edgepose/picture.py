"""Pictures as decoders give them: BGR, BGRx, grey, or the planes of YUV; and what is taken from them.

Networks see a few crops of a picture. To convert all of it to BGR first costs a CPU more than the crops do, so a frame
keeps its decoder's layout, and colours are converted where they are looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Bytes: TypeAlias = NDArray[np.uint8]
COLOURLESS = 128  # U and V of greys


@dataclass(frozen=True, eq=False)
class YUV:
    """Luma [H, W], and chroma of the same size or of less: two planes [h, w], or one [h, w, 2] that holds both.

    ``to_bgr`` [3, 4] takes the column (Y, U, V, 1) to B, G, R, all 0..255; see :func:`yuv_to_bgr`. ``steps``: how many
    pixels of luma there are to one of chroma, across and down. ``origin``: where in the luma, in pixels (x, y), the
    centre of the first chroma sample lies.
    """

    luma: Bytes
    chroma: tuple[Bytes, ...]
    to_bgr: NDArray[np.float64]
    steps: tuple[int, int] = (1, 1)
    origin: tuple[float, float] = (0.0, 0.0)

    @property
    def shape(self) -> tuple[int, int, int]:
        """As of the BGR image: [H, W, 3]."""
        return (*self.luma.shape[:2], 3)

    def grey(self, value: float) -> int:
        """The luma of a grey whose B, G and R are ``value``; its U and V are COLOURLESS."""
        y, u, v, offset = (float(weight) for weight in self.to_bgr[0])
        return round((value - offset - (u + v) * COLOURLESS) / y)

    def bgr(self, planes: tuple[Bytes, ...], out: Bytes | None = None) -> Bytes:
        """BGR [h, w, 3] of luma and chroma of one size: of a part of this picture, or of all of it."""
        return np.asarray(cv2.transform(cv2.merge(planes), self.to_bgr, dst=out), np.uint8)


# An array is BGR [H, W, 3], BGRx [H, W, 4] without a meaning of x, or grey [H, W, 1].
Picture: TypeAlias = "Bytes | YUV"


def yuv_to_bgr(kr: float, kb: float, *, full_range: bool) -> NDArray[np.float64]:
    """The map [3, 4] of :class:`YUV` for 8 bits (ITU-R BT.709, items 3.2 to 3.4, solved for R, G, B).

    ``kr`` and ``kb`` are the shares of red and blue in the luma: 0.299 and 0.114 by BT.601, 0.2126 and 0.0722 by
    BT.709. ``full_range``: Y, U and V use all of 0..255, as in JPEG; otherwise Y 16..235, U and V 16..240.
    """
    kg = 1 - kr - kb
    blue, red = 2 * (1 - kb), 2 * (1 - kr)
    linear = 255 * np.array([[1, blue, 0], [1, -kb * blue / kg, -kr * red / kg], [1, 0, red]])
    offset, scale = ((0, 128, 128), (255, 255, 255)) if full_range else ((16, 128, 128), (219, 224, 224))
    linear = linear / np.array(scale, np.float64)
    return np.column_stack([linear, -linear @ np.array(offset, np.float64)])


def to_bgr(picture: Picture) -> Bytes:
    """The whole picture [H, W, 3] in BGR, in memory of its own; each sample of chroma stands for its pixels."""
    if isinstance(picture, YUV):
        height, width = picture.luma.shape
        whole = [cv2.resize(plane, (width, height), interpolation=cv2.INTER_NEAREST) for plane in picture.chroma]
        return picture.bgr((picture.luma, *(np.asarray(plane, np.uint8) for plane in whole)))
    return as_bgr(picture) if picture.shape[2] != 3 else np.array(picture, np.uint8)


def as_bgr(image: Bytes, out: Bytes | None = None) -> Bytes:
    """``image`` [h, w, 4] in BGRx, or in grey [h, w] or [h, w, 1], as BGR [h, w, 3]; into ``out`` where given."""
    code = cv2.COLOR_BGRA2BGR if image.shape[2:] == (4,) else cv2.COLOR_GRAY2BGR
    return np.asarray(cv2.cvtColor(image, code, out), np.uint8)


def colours(picture: Picture, x: NDArray[np.intp], y: NDArray[np.intp]) -> Bytes:
    """BGR [..., 3] of the pixels at ``x`` and ``y`` [...], which lie in the picture."""
    if not isinstance(picture, YUV):
        return np.asarray(np.broadcast_to(picture[y, x, :3], (*np.shape(x), 3)))
    across, down = picture.steps
    planes = [picture.luma[y, x], *(plane[y // down, x // across] for plane in picture.chroma)]
    parts = tuple(np.ascontiguousarray(part).reshape(-1, 1, *part.shape[np.ndim(x) :]) for part in planes)
    return np.asarray(picture.bgr(parts).reshape(*np.shape(x), 3), np.uint8)
