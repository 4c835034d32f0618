"""Checkpoints: the last and the one before, each whole; read without executing pickles."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from edgepose.errors import EdgeposeError
from edgepose.files import kind, write_beside
from edgepose.validation import validate
from trainer.recipe import Recipe

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
_NEXT = "next.ckpt"  # the last one to be; it stays where a run is killed between two renamings


class Checkpoints(Callback):
    """Saves every ``minutes``, at the end, and when training is interrupted."""

    def __init__(self, folder: Path, minutes: float, resumed: Path | None = None) -> None:
        """``resumed``: the checkpoint from which the run goes on. If that is not the last one, that one is damaged."""
        self._folder, self._seconds = folder, minutes * 60
        self._resumed, self._whole = resumed, resumed is None or resumed.name == LAST
        self._saved = time.monotonic()
        self._step = -1
        self._stop = False

    @contextmanager
    def between_steps(self) -> Iterator[None]:
        """Ctrl-C ends the run when the step under way is done, since its state is whole then; a second one at once."""

        def stop(*_: Any) -> None:
            self._stop = True
            signal.signal(signal.SIGINT, signal.default_int_handler)

        if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # not ours to change
            yield
            return
        signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _save(self, trainer: lightning.Trainer) -> None:
        if trainer.global_step == self._step:
            return
        last, following = self._folder / LAST, self._folder / _NEXT
        if trainer.is_global_zero:
            with write_beside(following) as beside:
                trainer.save_checkpoint(beside)
            if last.exists() and self._whole:
                last.replace(self._folder / PREVIOUS)
            following.replace(last)
            self._whole = True
        else:
            trainer.save_checkpoint(following)  # writes nothing here, but all processes must take part
        self._saved, self._step = time.monotonic(), trainer.global_step

    def settle(self) -> None:
        """After a run that had nothing left to do, and saved nothing: it was resumed from the last checkpoint."""
        if self._resumed is not None and not self._whole:
            self._resumed.replace(self._folder / LAST)
            self._whole = True

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any, **__: Any) -> None:
        # Before a batch and not after one: only then does Lightning count the one before as done.
        if self._stop and _between_steps(trainer):
            raise KeyboardInterrupt
        due = time.monotonic() - self._saved >= self._seconds
        if trainer.world_size > 1:  # clocks differ; one decision for all
            due = trainer.strategy.reduce_boolean_decision(due, all=False)
        if due and trainer.global_step > 0 and _between_steps(trainer):
            self._save(trainer)

    def on_train_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        self._save(trainer)

    def on_exception(self, trainer: lightning.Trainer, *args: Any) -> None:
        if trainer.world_size > 1:
            return  # the others may be elsewhere: the last save stands
        # Between the optimiser's step and the schedule's the state is of neither step; the last save then stands.
        whole = all(c.scheduler.last_epoch == trainer.global_step for c in trainer.lr_scheduler_configs)
        if trainer.global_step > 0 and whole and _between_steps(trainer):
            self._save(trainer)


def _between_steps(trainer: lightning.Trainer) -> bool:
    """Whether no batch is being worked off, nor parts of one without the rest."""
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    return bool(batches.started == batches.processed and batches.completed % trainer.accumulate_grad_batches == 0)


def read(path: Path) -> dict[str, Any]:
    """The checkpoint's contents; EdgeposeError where it is absent, damaged or not ours."""
    if kind(path) != "file":
        raise EdgeposeError(f"checkpoint {path} does not exist; check the path")
    if path.suffix == ".onnx":
        raise EdgeposeError(f"{path} is a bundle, no checkpoint; give the last.ckpt of a run (a bundle's scores are "
                            "fitted anew by 'edgepose-train refit')")  # fmt: skip
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a foreign file leads torch's unpickler to
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise EdgeposeError(
            f"{path} is not a whole checkpoint ({reason}); use the one before it, {PREVIOUS}"
        ) from error
    ours = isinstance(content, dict) and all(isinstance(content.get(key), dict) for key in ("recipe", "state_dict"))
    if not ours:
        raise EdgeposeError(f"{path} is not an edgepose-train checkpoint; 'edgepose-train fit' writes them")
    return dict(content)


def newest(folder: Path) -> Path | None:
    """The checkpoint to resume from: the last, or where that is damaged or absent another; None if there is none."""
    faults = []
    for name in (LAST, _NEXT, PREVIOUS):
        path = folder / name
        if kind(path) != "nothing":
            try:
                read(path)
                return path
            except EdgeposeError as error:
                faults.append(str(error))
    if faults:
        raise EdgeposeError("; ".join(faults))
    return None


def recipe_of(content: dict[str, Any], path: Path) -> Recipe:
    """The recipe that made the checkpoint of a pose network."""
    if content["recipe"].get("role", "pose") != "pose":
        raise EdgeposeError(f"{path} is a checkpoint of a person finder, not of a pose network; give one of those")
    return validate(Recipe, content["recipe"], str(path))
