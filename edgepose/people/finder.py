"""Where people are: a small network of our own looks at the whole, letterboxed image.

Its five maps are a centre heatmap, the logarithms of width and height, and the way from the cell to the centre, all in
cells (Zhou et al. 2019, Objects as Points). A person is a cell that no neighbour exceeds; there is nothing to suppress
afterwards but boxes of the same person from two cells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from edgepose.bundle import Manual
from edgepose.crops import apply, crop_affine, invert, to_input, warp, whole_image
from edgepose.engines import Engine
from edgepose.errors import EdgeposeError
from edgepose.heatmaps import cells_to_input
from edgepose.people.association import areas, iou
from edgepose.picture import Picture
from edgepose.timing import StageTimer, untimed

_AROUND = 1  # cells either side that a peak must not be exceeded in
_LARGEST = 6.0  # ln cells: no box is larger, whatever the network says
_SAME = 0.6  # IoU from which the weaker of two boxes goes


@dataclass(frozen=True)
class Found:
    """``boxes`` [N, 4] in image pixels, tight around the joints; ``scores`` [N] 0..1, the highest first."""

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.boxes)


def peaks(centre: NDArray[np.float32 | np.float64], least: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the cells of ``centre`` [h, w] that reach ``least`` and that no neighbour exceeds."""
    around = cv2.dilate(centre, np.ones((2 * _AROUND + 1,) * 2, np.uint8))  # the largest of each neighbourhood
    rows, columns = np.nonzero((centre >= least) & (centre >= around))
    return rows, columns


def decode(maps: NDArray[np.floating], least: float, most: int = 32) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Boxes [N, 4] in cells and scores [N] from one image's ``maps`` [5, h, w], the highest score first."""
    rows, columns = peaks(maps[0], least)
    order = np.argsort(-maps[0][rows, columns], kind="stable")[:most]
    rows, columns = rows[order], columns[order]
    _, width, height, dx, dy = maps[:, rows, columns].astype(np.float64)
    centre = np.stack([columns + dx, rows + dy], axis=1)
    half = np.exp(np.minimum(np.stack([width, height], axis=1), _LARGEST)) / 2
    boxes, scores = np.concatenate([centre - half, centre + half], axis=1), maps[0][rows, columns].astype(np.float64)
    kept: list[int] = []
    for i in range(len(boxes)):
        if not kept or iou(boxes[i : i + 1], boxes[kept]).max() < _SAME:
            kept.append(i)
    return boxes[kept], scores[kept]


class Finder:
    """A finder ready to run. Not for use by two threads at once."""

    def __init__(self, engine: Engine, manual: Manual, least: float = 0.2) -> None:
        """``least``: score from which something counts as a person."""
        self.engine, self.manual, self.least = engine, manual, least
        width, height = manual.input_size
        self._inputs = np.zeros((1, 3, height, width), dtype=np.float32)
        self._crop = np.zeros((height, width, 3), dtype=np.uint8)

    def find(self, picture: Picture, timer: StageTimer = untimed, *, turned: bool = False) -> Found:
        """The people in a ``picture`` [H, W, 3]; what lies beside it is nobody.

        ``turned``: the network is shown the picture turned by a quarter, for people who lie: then they stand, or stand
        on their head. EdgeposeError where the engine gives no numbers.
        """
        return self.begin(picture, timer, turned=turned)()

    def begin(self, picture: Picture, timer: StageTimer = untimed, *, turned: bool = False) -> Callable[[], Found]:
        """As ``find``, but what it returns waits for the answer; the engine runs meanwhile where it can do that.

        One look at a time: the answer is taken before the next one begins.
        """
        with timer("look for people"):
            height, width = picture.shape[:2]
            whole = whole_image(width, height)
            affine = self._letterbox(whole, turned)
            warp(picture, affine, self.manual.input_size, out=self._crop)
            to_input(self._crop, self._inputs[0])
            start = getattr(self.engine, "start", None)
            running = start(self._inputs) if start is not None else lambda: self.engine.infer(self._inputs)
        return partial(self._answer, running, affine, whole, timer)

    def _answer(
        self,
        running: Callable[[], NDArray[np.float32]],
        affine: NDArray[np.float64],
        whole: NDArray[np.float64],
        timer: StageTimer,
    ) -> Found:
        """The people in the ``whole`` image [4], once the network has seen it through ``affine``."""
        with timer("infer, finder"):
            maps = running()[0]
        with timer("look for people"):
            expected = (self.manual.maps, *(side // self.manual.stride for side in self._crop.shape[:2]))
            if maps.shape != expected:
                raise ValueError(f"maps {maps.shape} are not the {expected} of finder {self.manual.name}")
            if not np.isfinite(maps).all():
                raise EdgeposeError(f"engine {self.engine.name} gave no numbers for finder {self.manual.name} in "
                                    f"{self.engine.precision}; try another --precision or --engine")  # fmt: skip
            cells, scores = decode(maps, self.least)
            corners = cells_to_input(cells.reshape(-1, 2), self.manual.stride)
            ends = apply(invert(affine), corners).reshape(-1, 2, 2)
            boxes = np.concatenate([ends.min(axis=1), ends.max(axis=1)], axis=1)  # a quarter turn exchanges the ends
            low, high = whole[:2], whole[2:]
            boxes = np.concatenate([np.clip(boxes[:, :2], low, high), np.clip(boxes[:, 2:], low, high)], axis=1)
            seen = areas(boxes) > 0
        return Found(boxes[seen], scores[seen])

    def _letterbox(self, whole: NDArray[np.float64], turned: bool) -> NDArray[np.float64]:
        """The map [2, 3] by which the network sees the ``whole`` image [4]."""
        upright = crop_affine(whole, self.manual.input_size, 1.0)
        if not turned:
            return upright
        sides, size = whole[2:] - whole[:2], np.array(self.manual.input_size)
        smaller = (size / sides[::-1]).min() / (size / sides).min()  # what must fit into what the sides exchanged leave
        return crop_affine(whole, self.manual.input_size, 1.0, scale=float(smaller), rotation=90)
