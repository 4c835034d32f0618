"""What learning is, whatever is learnt: a network, its moving average, the update rule; runs that resume exactly."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from numpy.typing import NDArray
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from edgepose import console
from edgepose.errors import EdgeposeError
from edgepose.files import alone, make_folder, write_beside
from edgepose.validation import validate
from trainer import checkpoints
from trainer.data.samples import Stage
from trainer.models.network import Network
from trainer.optimise import make_optimiser, rate_factor
from trainer.recipe import Course

PRECISIONS: dict[str, Any] = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}


def precision(recipe: Course, *, on_gpu: bool) -> Any:
    """Lightning's name of what the steps are computed in: the recipe's, or on a CPU what that has instructions for."""
    if on_gpu or recipe.precision == "float32":
        return PRECISIONS[recipe.precision]
    able = torch.backends.cpu.get_cpu_capability().startswith("AVX512") or platform.machine() not in ("x86_64", "AMD64")
    if not able:  # bfloat16 takes more than twice float32's time there
        if is_first():
            console.say(f"note: this CPU has no AVX-512; training in float32, faster here than {recipe.precision}")
        return PRECISIONS["float32"]
    return PRECISIONS["bfloat16"]


def steps(recipe: Course) -> list[Stage]:
    """The recipe's stages in steps."""
    return [Stage(s.images // s.batch, s.batch, s.size) for s in recipe.stages]


class Learner(lightning.LightningModule):
    """A network, its moving average, and how a step changes them; ``training_step`` is the subclass's."""

    def __init__(self, course: Course, model: Network) -> None:
        super().__init__()
        self.course = course
        self.model = model
        self.average: AveragedModel | None = None
        self.begin_average()
        self._total = sum(s.steps for s in steps(course))
        self.to(memory_format=torch.channels_last)

    def begin_average(self) -> None:
        """Start the moving average anew, where the recipe has one."""
        if self.course.optimiser.ema:
            self.average = AveragedModel(
                self.model,
                multi_avg_fn=get_ema_multi_avg_fn(self.course.optimiser.ema),  # type: ignore[no-untyped-call]
                use_buffers=True,
            )
            self.average.requires_grad_(False)

    @property
    def best(self) -> nn.Module:
        """The weights to use: the moving average where there is one."""
        module: nn.Module = self.average.module if self.average is not None else self.model
        return module

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        # Here and not in a batch-end hook: callbacks, which save checkpoints, come before the module's hooks.
        if self.average is not None:
            self.average.update_parameters(self.model)

    def configure_optimizers(self) -> Any:
        spec = self.course.optimiser
        optimiser = make_optimiser(spec, self._groups(), self.course.stages[0].batch)

        def course(share: float) -> Callable[[int], float]:
            return lambda step: share * rate_factor(spec, step, self._total) * self._growth(step)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, [course(g["share"]) for g in optimiser.param_groups])
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _groups(self) -> list[dict[str, Any]]:
        """Parameters that share weight decay and rate; the stem apart where it has a rate of its own."""
        spec, own = self.course.optimiser, self.course.optimiser.stem_rate < 1
        stem = [p for name, p in self.model.named_parameters() if own and "stem" in name.split(".")]
        apart = {id(p) for p in stem}
        rest = [p for p in self.model.parameters() if id(p) not in apart]
        groups = []
        for parameters, share in ((rest, 1.0), (stem, spec.stem_rate)):
            # Norms and biases are not weights to shrink.
            for chosen, decay in (
                ([p for p in parameters if p.ndim > 1], spec.weight_decay),
                ([p for p in parameters if p.ndim <= 1], 0.0),
            ):
                if chosen:
                    groups.append({"params": chosen, "weight_decay": decay, "share": share})
        return groups

    def _growth(self, step: int) -> float:
        """The batch at ``step`` over the first stage's, where rates follow batches (linear scaling)."""
        if not self.course.optimiser.reference_batch:
            return 1.0
        passed = 0
        for stage in self.course.stages:
            passed += stage.images // stage.batch
            if step < passed:
                break
        return stage.batch / self.course.stages[0].batch

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["recipe"] = self.course.model_dump(mode="json")


class LearningData(lightning.LightningDataModule, ABC):
    """Training batches, and which labels they are cut from: a resumed run goes on with those that it began with."""

    @abstractmethod
    def labels(self) -> Iterable[tuple[Path, list[NDArray[Any]]]]:
        """Of each sample its image and what is known of it, in order."""

    def state_dict(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for image, known in self.labels():
            digest.update(image.name.encode(errors="surrogateescape"))
            for array in known:
                digest.update(np.ascontiguousarray(array).tobytes())
        return {"labels": digest.hexdigest()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict != self.state_dict():
            raise EdgeposeError(
                "data: the labels (or corrections, or guesses) are not those that the run began with; put them back, "
                "or choose another --out"
            )


def beginning(folder: Path, recipe: Course, *, resume: bool) -> tuple[Path | None, int]:
    """The checkpoint to resume from and its step; makes ``folder`` and writes the recipe into it.

    EdgeposeError: the folder holds a run and ``resume`` was not asked for, or a run of another recipe.
    """
    checkpoint = checkpoints.newest(folder)
    start = 0
    if checkpoint is not None:
        if not resume:
            raise EdgeposeError(f"{folder} already holds a run; add --resume to go on with it, or choose another --out")
        content = checkpoints.read(checkpoint)
        if validate(type(recipe), content["recipe"], str(checkpoint)) != recipe:
            raise EdgeposeError(f"{checkpoint} was made by another recipe; give the recipe it was begun with, "
                                "or choose another --out")  # fmt: skip
        if "global_step" not in content:
            raise EdgeposeError(f"{checkpoint} holds weights alone, as of 'blend', and cannot be resumed; begin with "
                                "it by start_from in another --out")  # fmt: skip
        start = int(content["global_step"])
    make_folder(folder, "choose another --out")
    if is_first():
        with write_beside(folder / "recipe.json") as beside:
            beside.write_text(recipe.model_dump_json(indent=1))
    return checkpoint, start


_BESIDE_THE_POINT = (  # Lightning's warnings of what is so on purpose, or its own
    "You're resuming from a checkpoint that ended before",  # the plan of samples knows where it was
    r"Found \d+ module\(s\) in eval mode",  # frozen stages
    "Consider setting `persistent_workers=True`",  # a run is one epoch: they start once
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
)


class Bar(RichProgressBar):
    """The run's steps. Lightning's own bar shows a resumed run's against those that are left, and an epoch of -2."""

    @property
    def total_train_batches(self) -> int:
        """All that the run makes, those before it was resumed among them."""
        return self.trainer.max_steps * self.trainer.accumulate_grad_batches

    def _get_train_description(self, current_epoch: int) -> str:
        return "training"


def train(
    learner: Learner,
    data: LearningData,
    folder: Path,
    callbacks: list[Callback],
    *,
    checkpoint: Path | None,
    start: int,
    processes: tuple[int, int] = (1, 1),
    max_steps: int | None = None,
) -> Path:
    """Go on from step ``start`` to the recipe's end or ``max_steps``; returns the last checkpoint.

    ``processes``: on this machine, and machines. EdgeposeError where it was interrupted.
    """
    recipe, (local, nodes) = learner.course, processes
    total = sum(s.steps for s in steps(recipe))
    on_gpu = torch.cuda.is_available()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no tips, no list of absent hardware
    saver = checkpoints.Checkpoints(folder, recipe.checkpoint_minutes, checkpoint)
    trainer = lightning.Trainer(
        max_steps=min(max_steps or total, total),
        max_epochs=-1,  # steps alone decide: to Lightning a resumed run is in a later epoch
        precision=precision(recipe, on_gpu=on_gpu),
        gradient_clip_val=recipe.optimiser.clip or None,
        accumulate_grad_batches=recipe.optimiser.accumulate,
        devices=local,
        num_nodes=nodes,
        strategy="ddp" if local * nodes > 1 else "auto",
        use_distributed_sampler=False,  # the plan divides the batches itself
        sync_batchnorm=on_gpu and local * nodes > 1,
        accelerator="gpu" if on_gpu else "cpu",
        # A resumed run logs beside the earlier part, which Lightning's logger would otherwise delete.
        logger=[CSVLogger(folder, name="log", version=f"from-{start:07}", flush_logs_every_n_steps=1),
                TensorBoardLogger(folder, name="", version="tensorboard")],
        log_every_n_steps=max(min(20, total // 10), 1),  # a short run has a curve too
        callbacks=[saver, *callbacks, Bar()],
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )  # fmt: skip
    busy = f"another process is training in {folder}; let it end, or choose another --out"
    ours = alone(folder / ".lock", busy) if is_first() else nullcontext()
    try:
        with ours, warnings.catch_warnings(), saver.between_steps() if local * nodes == 1 else nullcontext():
            for beside_the_point in _BESIDE_THE_POINT:
                warnings.filterwarnings("ignore", message=beside_the_point)
            trainer.fit(learner, data, ckpt_path=checkpoint, weights_only=True)
    except EdgeposeError as error:
        _, traceback, text = str(error).partition("Original Traceback")
        if not traceback:
            raise
        sentence = text.strip().splitlines()[-1].partition(": ")[2]  # a loader process's, behind its exception's name
        raise EdgeposeError(sentence) from None
    except SystemExit:  # how Lightning ends after Ctrl-C, the checkpoint being saved
        if not trainer.interrupted:
            raise
        raise EdgeposeError(f"training was interrupted; go on with --resume --out {folder}") from None
    if trainer.is_global_zero:
        saver.settle()
    return folder / checkpoints.LAST


def is_first() -> bool:
    """Whether this is the first of several training processes, or the only one."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0
