"""What people look at while a finder learns: recall, precision, a curve, a sheet of scenes with boxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgepose.crops import apply, crop_affine, warp, whole_image
from edgepose.people.finder import Found
from trainer.data.persons import read_image
from trainer.finder.evaluate import LEAST, look, of_network, quality
from trainer.finder.scenes import Scene
from trainer.grid import evenly, write_grid
from trainer.monitor import Periodic

_TILE = 256


class FinderMonitor(Periodic):
    """A finder's recall and precision, and a sheet of scenes, sheet.png."""

    drawn: Mapping[str, str] = {"average_precision": "AP@0.5", "recall": "recall", "precision": "precision"}

    def __init__(self, folder: Path, scenes: list[Scene], every: int) -> None:
        super().__init__(folder, every)
        self._scenes = scenes

    def measure(self, step: int, learner: Any) -> dict[str, Any]:
        """See :func:`trainer.finder.evaluate.quality`."""
        if not self._scenes:
            return {}
        found = look(of_network(learner.recipe, learner.best), self._scenes, "validating")
        sheet(self._scenes, found, self.folder / "sheet.png")
        return asdict(quality(self._scenes, found, LEAST))


def sheet(scenes: list[Scene], found: list[Found], path: Path, rows: int = 4, columns: int = 6) -> None:
    """A grid of scenes: what was found in green with its score, people in white, unsure places in grey."""
    chosen = evenly(len(scenes), rows * columns)
    write_grid([_tile(scenes[i], found[i]) for i in chosen], columns, path)


def _tile(scene: Scene, found: Found) -> NDArray[np.uint8]:
    image = read_image(scene.image)
    height, width = image.shape[:2]
    affine = crop_affine(whole_image(width, height), (_TILE, _TILE), 1.0)
    tile = warp(image, affine, (_TILE, _TILE))

    def draw(box: NDArray[np.float64], colour: tuple[int, int, int]) -> tuple[int, int]:
        (x0, y0), (x1, y1) = np.round(apply(affine, box.reshape(2, 2))).astype(int).tolist()
        cv2.rectangle(tile, (x0, y0), (x1, y1), colour, 1)
        return x0, y0

    for box in scene.unsure:
        draw(box, (150, 150, 150))
    for box in scene.people:
        draw(box, (255, 255, 255))
    for box, score in zip(found.boxes, found.scores, strict=True):
        if score >= LEAST:
            x, y = draw(box, (60, 220, 60))
            cv2.putText(
                tile, f"{score:.2f}", (x, y + 10), cv2.FONT_HERSHEY_SIMPLEX, 0.35, (60, 220, 60), 1, cv2.LINE_AA
            )
    return tile
