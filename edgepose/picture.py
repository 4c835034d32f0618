"""Pictures as decoders give them: BGR, BGRx, grey, or the planes of YUV; and what is taken from them.

Networks see a few crops of a picture. To convert all of it to BGR first costs a CPU more than the crops do, so a frame
keeps its decoder's layout, and colours are converted where they are looked at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Bytes: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class YUV:
    """Luma [H, W], and chroma of the same size or of less: two planes [h, w], or one [h, w, 2] that holds both.

    ``to_bgr`` [3, 4] takes the column (Y, U, V, 1) to B, G, R, all 0..255; see :func:`yuv_to_bgr`. ``steps``: how many
    pixels of luma there are to one of chroma, across and down, 1 or 2; each sample of chroma is that of their middle.
    """

    luma: Bytes
    chroma: tuple[Bytes, ...]
    to_bgr: NDArray[np.float64]
    steps: tuple[int, int] = (1, 1)

    @property
    def shape(self) -> tuple[int, int, int]:
        """As of the BGR image: [H, W, 3]."""
        return (*self.luma.shape[:2], 3)

    def bgr(self, planes: tuple[Bytes, ...]) -> Bytes:
        """BGR [h, w, 3] of luma and chroma of one size: of a part of this picture, or of all of it."""
        return np.asarray(cv2.transform(cv2.merge(planes), self.to_bgr), np.uint8)


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


def samples(memory: Bytes, shape: tuple[int, ...], stride: int) -> Bytes:
    """The samples that ``memory`` [bytes] begins with, in their ``shape`` (rows, columns and, if several, samples).

    A read-only view; ``stride``: bytes from row to row, which may be padded.
    """
    steps = (stride, *(math.prod(shape[axis:]) for axis in range(2, len(shape))), 1)
    return np.lib.stride_tricks.as_strided(memory, shape, steps, writeable=False)


def to_bgr(picture: Picture) -> Bytes:
    """The whole picture [H, W, 3] in BGR, in memory of its own."""
    bgr = part_in_bgr(picture, (0, 0), picture.shape[1::-1])
    return bgr if bgr.flags.owndata else bgr.copy()


def part_in_bgr(picture: Picture, start: tuple[int, int], size: tuple[int, int], factor: int = 1) -> Bytes:
    """BGR [h, w, 3] of a part of ``picture`` that has ``size`` (w, h) when averaged down by ``factor``.

    It starts at pixel ``start`` (x, y), of YUV a multiple of ``steps``, as ``factor`` is if not 1.
    """
    (x, y), (columns, rows) = start, size
    right, below, method = x + columns * factor, y + rows * factor, cv2.INTER_AREA if factor > 1 else cv2.INTER_LINEAR
    if not isinstance(picture, YUV):
        return _as_bgr(_resized(picture[y:below, x:right], size, method))
    (across, down), planes = picture.steps, [_resized(picture.luma[y:below, x:right], size, method)]
    for plane in picture.chroma:
        part = plane[y // down : -(-below // down), x // across : -(-right // across)]
        height, width = part.shape[:2]
        planes.append(_resized(part, (width * across // factor, height * down // factor), method)[:rows, :columns])
    return picture.bgr(tuple(planes))


def _resized(image: Bytes, size: tuple[int, int], method: int) -> Bytes:
    """``image`` [H, W] or [H, W, C] in ``size`` (w, h)."""
    if image.shape[1::-1] == size:
        return image
    small = cv2.resize(image, size, interpolation=method)
    return np.asarray(small, np.uint8).reshape(*size[::-1], *image.shape[2:])  # OpenCV drops a channel that is alone


def _as_bgr(image: Bytes) -> Bytes:
    """``image`` [h, w, C] in BGRx or in grey as BGR [h, w, 3]."""
    if image.shape[2] == 3:
        return image
    code = cv2.COLOR_BGRA2BGR if image.shape[2] == 4 else cv2.COLOR_GRAY2BGR
    return np.asarray(cv2.cvtColor(image, code), np.uint8)


def colours(picture: Picture, x: NDArray[np.intp], y: NDArray[np.intp]) -> Bytes:
    """BGR [..., 3] of the pixels at ``x`` and ``y`` [...], which lie in the picture."""
    if not isinstance(picture, YUV):
        return np.asarray(np.broadcast_to(picture[y, x, :3], (*np.shape(x), 3)))
    across, down = picture.steps
    planes = [picture.luma[y, x], *(plane[y // down, x // across] for plane in picture.chroma)]
    parts = tuple(np.ascontiguousarray(part).reshape(-1, 1, *part.shape[np.ndim(x) :]) for part in planes)
    return np.asarray(picture.bgr(parts).reshape(*np.shape(x), 3), np.uint8)
