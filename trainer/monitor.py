"""What people look at while a network learns: validation figures, curves, a sheet of predictions."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from edgepose import skeletons
from edgepose.estimator import Estimator
from edgepose.files import write_beside
from trainer.data.persons import Person
from trainer.engine import TorchEngine, manual_of
from trainer.evaluate import figures, predict
from trainer.pictures import contact_sheet, curves


class Monitor(Callback):
    """Every ``every`` steps and at the end: evaluate, append to validation.csv, redraw curve.png and sheet.png."""

    def __init__(self, folder: Path, persons: list[Person], every: int) -> None:
        self._folder, self._persons, self._every = folder, persons, every
        self._done = -1

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *_: Any, **__: Any) -> None:
        if trainer.global_step % self._every == 0:
            self._look(trainer, pl_module)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._look(trainer, pl_module)

    def _look(self, trainer: lightning.Trainer, module: Any) -> None:
        step = trainer.global_step
        if not trainer.is_global_zero or step in (self._done, 0):
            return
        self._done = step
        if self._persons:
            recipe = module.recipe
            # While a smaller stage is trained the network is judged at that stage's size.
            estimator = Estimator(TorchEngine(module.best), manual_of(recipe.at(step)))
            predictions = predict(estimator, self._persons, "validating")
            skeleton = skeletons.get(recipe.skeleton)
            found = figures(predictions, skeleton)
            row = {"step": step, **{k: v for k, v in found.items() if isinstance(v, int | float)}}
            for logger in trainer.loggers:
                logger.log_metrics({k: v for k, v in row.items() if k != "step"}, step)
            self._append(row)
            with write_beside(self._folder / "validation.json") as beside:
                beside.write_text(json.dumps({"step": step, **found}, indent=1))
            contact_sheet(predictions, skeleton, self._folder / "sheet.png")
        curves(self._folder)

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
