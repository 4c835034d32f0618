"""Occlusion sensitivity: which part of the picture each joint stands on (Zeiler & Fergus 2014, sec. 4.2).

A grey square slides over the crop. Where covering the picture makes a joint's heatmap fall at the place of its
undisturbed peak, the network needed what was there. Works with any engine.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgepose.crops import BORDER
from edgepose.engines import Engine
from edgepose.errors import EdgeposeError

_BATCH = 16


@dataclass(frozen=True)
class Sensitivity:
    """By how much each of K joints' heatmaps fell, for each place of the square."""

    drop: NDArray[np.float32]  # [K, rows, cols] heatmap value without the square minus with it
    peak: NDArray[np.float32]  # [K] the undisturbed value
    step: int  # pixels of the crop between places; place (i, j) is centred on pixel step * (i, j) + (step - 1) / 2
    size: tuple[int, int]  # width and height of the crop, pixels

    def share(self) -> NDArray[np.float32]:
        """The drop as a share of the peak [K, H, W], 0..1, on the crop's pixels."""
        width, height = self.size
        rows, cols = self.drop.shape[1:]
        shares = np.clip(self.drop / np.maximum(np.abs(self.peak), 1e-6)[:, None, None], 0, 1)
        whole = [cv2.resize(s, (cols * self.step, rows * self.step), interpolation=cv2.INTER_LINEAR) for s in shares]
        return np.stack(whole)[:, :height, :width].astype(np.float32)

    def strongest(self) -> NDArray[np.float64]:
        """Where the drop is largest [K, 2], (x, y) in pixels of the crop."""
        row, col = np.divmod(self.drop.reshape(len(self.drop), -1).argmax(1), self.drop.shape[2])
        return np.stack([col, row], axis=1) * self.step + (self.step - 1) / 2


def defaults(size: tuple[int, int], square: int = 0, step: int = 0) -> tuple[int, int]:
    """Side and step of the square in pixels; 0 stands for a sixth and a sixteenth of the crop's shorter side.

    EdgeposeError: a square or step that does not fit the crop.
    """
    short = min(size)
    square, step = square or max(short // 6, 1), step or max(short // 16, 1)
    for what, value in (("square", square), ("step", step)):
        if not 1 <= value <= short:
            raise EdgeposeError(f"occlusion {what} {value} does not fit a crop of {size[0]}x{size[1]} pixels; "
                                f"choose 1 to {short}")  # fmt: skip
    return square, step


def occlusion(engine: Engine, image: NDArray[np.float32], square: int = 0, step: int = 0) -> Sensitivity:
    """Slide a grey square of side ``square`` by ``step`` pixels over ``image`` [3, H, W], RGB 0..255; see defaults."""
    height, width = image.shape[1:]
    square, step = defaults((width, height), square, step)
    heatmaps = engine.infer(image[None])[0]
    joints = np.arange(len(heatmaps))
    cells = heatmaps.reshape(len(heatmaps), -1).argmax(1)
    peak = heatmaps.reshape(len(heatmaps), -1)[joints, cells].copy()
    rows, cols = -(-height // step), -(-width // step)
    places = [(row, col) for row in range(rows) for col in range(cols)]
    drop = np.zeros((len(joints), rows, cols), dtype=np.float32)
    grey = np.array(BORDER[::-1], dtype=np.float32).reshape(3, 1, 1)
    for start in range(0, len(places), _BATCH):
        chosen = places[start : start + _BATCH]
        batch = np.repeat(image[None], len(chosen), axis=0)
        for covered, (row, col) in zip(batch, chosen, strict=True):
            top, left = row * step + (step - square) // 2, col * step + (step - square) // 2
            covered[:, max(top, 0) : top + square, max(left, 0) : left + square] = grey
        values = engine.infer(batch).reshape(len(chosen), len(joints), -1)[:, joints, cells]
        for value, (row, col) in zip(values, chosen, strict=True):
            drop[:, row, col] = peak - value
    return Sensitivity(drop, peak, step, (width, height))
