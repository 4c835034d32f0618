"""What people look at while a network learns: validation figures, curves, a sheet of predictions."""

from __future__ import annotations

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from edgepose import skeletons
from edgepose.console import say
from edgepose.estimator import Estimator
from edgepose.files import write_beside
from trainer.data.persons import Person
from trainer.engine import TorchEngine, manual_of
from trainer.evaluate import figures, predict
from trainer.pictures import POSE_FIGURES, contact_sheet, curves


class Periodic(Callback, ABC):
    """Every ``every`` steps and at the end: measure, append to validation.csv, redraw curve.png, say how it goes."""

    drawn: Mapping[str, str]  # figure -> its label in the curve

    def __init__(self, folder: Path, every: int) -> None:
        self.folder = folder
        self._every, self._done = every, -1

    @abstractmethod
    def measure(self, step: int, learner: Any) -> dict[str, Any]:
        """The figures at ``step``, and pictures beside them; nothing where there is nobody to measure on."""

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
        if found := self.measure(step, module):
            scalars = {k: v for k, v in found.items() if isinstance(v, int | float)}
            for logger in trainer.loggers:
                logger.log_metrics(scalars, step)
            self._append({"step": step, **scalars})
            with write_beside(self.folder / "validation.json") as beside:
                beside.write_text(json.dumps({"step": step, **found}, indent=1))
        told = ", ".join(f"{label} {found[key]:.1f}" for key, label in self.drawn.items() if found.get(key) is not None)
        say(f"step {step} of {trainer.max_steps}{told and ': '}{told}")
        curves(self.folder, self.drawn)

    def _append(self, row: dict[str, Any]) -> None:
        path = self.folder / "validation.csv"
        rows: list[dict[str, Any]] = []
        if path.exists():
            with path.open(newline="") as file:
                rows = [r for r in csv.DictReader(file) if int(r["step"]) < int(row["step"])]
        with write_beside(path) as beside, beside.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(row), extrasaction="ignore")
            writer.writeheader()
            writer.writerows([*rows, row])


class Monitor(Periodic):
    """A pose network's accuracy, and a sheet of predictions, sheet.png."""

    drawn = POSE_FIGURES

    def __init__(self, folder: Path, persons: list[Person], every: int) -> None:
        super().__init__(folder, every)
        self._persons = persons

    def measure(self, step: int, learner: Any) -> dict[str, Any]:
        """See :func:`trainer.evaluate.figures`."""
        if not self._persons:
            return {}
        recipe = learner.recipe
        # While a smaller stage is trained the network is judged at that stage's size.
        estimator = Estimator(TorchEngine(learner.best), manual_of(recipe.at(step)))
        predictions = predict(estimator, self._persons, "validating")
        skeleton = skeletons.get(recipe.skeleton)
        contact_sheet(predictions, skeleton, self.folder / "sheet.png")
        return figures(predictions, skeleton)
