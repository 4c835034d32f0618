"""What people look at while a finder learns: recall, precision, a curve, a sheet of scenes with boxes."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import lightning
import numpy as np
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray

from edgepose.crops import apply, crop_affine, warp
from edgepose.files import write_beside
from edgepose.people.finder import Found
from trainer.data.persons import read_image
from trainer.finder.evaluate import LEAST, look, of_network, quality
from trainer.finder.scenes import Scene
from trainer.grid import evenly, write_grid
from trainer.pictures import curves

_TILE = 256


class FinderMonitor(Callback):
    """Every ``every`` steps and at the end: evaluate, append to validation.csv, redraw curve.png and sheet.png."""

    def __init__(self, folder: Path, scenes: list[Scene], every: int) -> None:
        self._folder, self._scenes, self._every = folder, scenes, every
        self._done = -1

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: Any, **__: Any) -> None:
        if trainer.global_step % self._every == 0:
            self._look(trainer, pl_module)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._look(trainer, pl_module)

    def _look(self, trainer: lightning.Trainer, learner: Any) -> None:
        step = trainer.global_step
        if step in (self._done, 0):
            return
        self._done = step
        if self._scenes:
            found = look(of_network(learner.recipe, learner.best), self._scenes, "validating")
            row = {"step": step, **asdict(quality(self._scenes, found, LEAST))}
            for logger in trainer.loggers:
                logger.log_metrics({k: v for k, v in row.items() if k != "step"}, step)
            self._append(row)
            sheet(self._scenes, found, self._folder / "sheet.png")
        curves(self._folder, {"average_precision": "AP@0.5", "recall": "recall", "precision": "precision"})

    def _append(self, row: dict[str, Any]) -> None:
        path = self._folder / "validation.csv"
        rows: list[dict[str, Any]] = []
        if path.exists():
            with path.open(newline="") as file:
                rows = [r for r in csv.DictReader(file) if int(r["step"]) < int(row["step"])]
        with write_beside(path) as beside, beside.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(row), extrasaction="ignore")
            writer.writeheader()
            writer.writerows([*rows, row])
        with write_beside(self._folder / "validation.json") as beside:
            beside.write_text(json.dumps(row, indent=1))


def sheet(scenes: list[Scene], found: list[Found], path: Path, rows: int = 4, columns: int = 6) -> None:
    """A grid of scenes: what was found in green with its score, people in white, unsure places in grey."""
    chosen = evenly(len(scenes), rows * columns)
    write_grid([_tile(scenes[i], found[i]) for i in chosen], columns, path)


def _tile(scene: Scene, found: Found) -> NDArray[np.uint8]:
    image = read_image(scene.image)
    height, width = image.shape[:2]
    affine = crop_affine(np.array([-0.5, -0.5, width - 0.5, height - 0.5]), (_TILE, _TILE), 1.0)
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
