"""Training: one Lightning module, driven by a recipe, resumable to the same weights."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from edgepose import skeletons
from edgepose.errors import EdgeposeError
from edgepose.files import write_beside
from trainer import checkpoints, qat
from trainer.data.module import PoseData, select, steps
from trainer.distil import Teacher
from trainer.models.build import build
from trainer.models.preprocess import Measured
from trainer.monitor import Monitor
from trainer.optimise import make_optimiser, rate_factor
from trainer.parts import composition_of
from trainer.recipe import Recipe
from trainer.targets import heatmap_loss, output_loss, to_cells

_MEASURED = 256  # crops that preprocessing is measured on
PRECISIONS: dict[str, Any] = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}


class PoseModule(lightning.LightningModule):
    """The network, its moving average, and one step of training."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.model = build(recipe)
        self.average: AveragedModel | None = None
        self._begin_average()
        self.teacher: Teacher | None = None
        self.fresh = False  # whether preprocessing is still to be measured
        self._composition = composition_of(skeletons.get(recipe.skeleton))
        self._total = sum(s.steps for s in steps(recipe))
        self._sigmas = {s.size: s.sigma or recipe.target.sigma * s.size / recipe.input_size for s in recipe.stages}
        self.to(memory_format=torch.channels_last)

    def _begin_average(self) -> None:
        if self.recipe.optimiser.ema:
            self.average = AveragedModel(
                self.model,
                multi_avg_fn=get_ema_multi_avg_fn(self.recipe.optimiser.ema),  # type: ignore[no-untyped-call]
                use_buffers=True,
            )
            self.average.requires_grad_(False)

    def setup(self, stage: str) -> None:
        """Before a checkpoint is restored, so that a resumed run has the quantisers whose state it is given."""
        if self.recipe.quantisation is not None:
            data: PoseData = self.trainer.datamodule  # type: ignore[attr-defined]
            qat.quantise(self.model, data.view(self.recipe.quantisation.crops))
            self._begin_average()

    @property
    def best(self) -> nn.Module:
        """The weights to use: the moving average where there is one."""
        module: nn.Module = self.average.module if self.average is not None else self.model
        return module

    def begin_with(self, path: Path) -> None:
        """Take over the best weights of another run's checkpoint; EdgeposeError where they do not fit."""
        recipe, model = load_best(path)
        ours, theirs = self.recipe.model, recipe.model
        for key in sorted(set(type(ours).model_fields) - {"dropout", "initialisation"}):
            if getattr(ours, key) != getattr(theirs, key):
                raise EdgeposeError(
                    f"start_from: model.{key} is {getattr(theirs, key)} in {path} and {getattr(ours, key)} in the "
                    "recipe; give them the same"
                )
        try:
            self.model.load_state_dict(model.state_dict())
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise EdgeposeError(
                f"start_from: the network in {path} is not the recipe's ({reason}); give them the same [model]"
            ) from error
        # The moving average copies the network at its first update, so it need not be told.

    def on_fit_start(self) -> None:
        # A cascade's image is normalised by a module of its regression, so look everywhere.
        for module in self.model.modules():
            if self.fresh and isinstance(module, Measured):
                data: PoseData = self.trainer.datamodule  # type: ignore[attr-defined]
                module.measure(data.view(_MEASURED).to(self.device))

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        # What is random in a network (dropout, fractional pooling) depends on the step alone: runs resume exactly.
        part = (self.recipe.seed, self.global_step, index % self.recipe.optimiser.accumulate, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(part).generate_state(1)[0]))
        image = batch["image"].float().contiguous(memory_format=torch.channels_last)
        outputs: list[Tensor] = self.model(image)
        joints = to_cells(batch["joints"], self.model.stride)
        labelled = batch["labelled"].float()
        sigma, foreground = self._sigmas[image.shape[-1]], self.recipe.target.foreground
        supervision = self.model.supervision
        losses = [
            output_loss(kind, o, joints, labelled, sigma=sigma, foreground=foreground, composition=self._composition)
            for kind, o in zip(supervision, outputs, strict=True)
        ]
        if self.teacher is not None and self.recipe.distillation is not None:
            alpha = self.recipe.distillation.weight
            taught = self.teacher(image, outputs[-1].shape[-1])
            everywhere = torch.ones_like(labelled)
            for i, kind in enumerate(supervision):
                if kind == "joints":
                    losses[i] = (
                        alpha * heatmap_loss(outputs[i], taught, everywhere, foreground) + (1 - alpha) * losses[i]
                    )
        loss = torch.stack(losses).sum()  # intermediate supervision: every output weighs the same
        shared = self.trainer.world_size > 1
        self.log("loss", loss, prog_bar=True, sync_dist=shared)
        if len(losses) > 1:
            self.log_dict(
                {f"loss_{i + 1}_{kind}": part for i, (kind, part) in enumerate(zip(supervision, losses, strict=True))},
                sync_dist=shared,
            )
        self.log("rate", self.lr_schedulers().get_last_lr()[0])  # type: ignore[union-attr]
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        # Here and not in a batch-end hook: callbacks, which save checkpoints, come before the module's hooks.
        if self.average is not None:
            self.average.update_parameters(self.model)

    def configure_optimizers(self) -> Any:
        spec = self.recipe.optimiser
        # Norms and biases are not weights to shrink.
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        plain = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": spec.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        optimiser = make_optimiser(spec, groups, self.recipe.stages[0].batch)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: rate_factor(spec, step, self._total) * self._growth(step)
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _growth(self, step: int) -> float:
        """The batch at ``step`` over the first stage's, where rates follow batches (linear scaling)."""
        if not self.recipe.optimiser.reference_batch:
            return 1.0
        return self.recipe.at(step + 1).stages[-1].batch / self.recipe.stages[0].batch

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["recipe"] = self.recipe.model_dump(mode="json")


def fit(
    recipe: Recipe,
    folder: Path,
    *,
    root: Path | None = None,
    resume: bool = False,
    workers: int = 1,
    threads: int = 0,
    devices: int = 1,
    max_steps: int | None = None,
) -> Path:
    """Train ``recipe``, writing everything into ``folder``; returns the last checkpoint.

    With ``devices`` > 1, or under torchrun, each process works off its part of every batch (DDP); the samples of a step
    are the same as on one. Batch norm's statistics are shared on GPUs; on CPUs each process has its own.

    With ``resume`` the run goes on from the folder's last checkpoint, to the weights that it would have
    reached without the interruption. ``max_steps`` stops early, as an interruption would.
    EdgeposeError: the folder holds another run, data are missing, or a batch cannot be divided.
    """
    local, nodes = _processes(devices)
    for number, stage in enumerate(recipe.stages):
        if stage.batch % (local * nodes * recipe.optimiser.accumulate):
            raise EdgeposeError(f"stages.{number}.batch {stage.batch} cannot be divided among {local * nodes} processes"
                                f" in {recipe.optimiser.accumulate} parts; choose a multiple")  # fmt: skip
    start_from = checkpoints.newest(folder) if folder.exists() else None
    start = 0
    if start_from is not None:
        if not resume:
            raise EdgeposeError(f"{folder} already holds a run; add --resume to go on with it, or choose another --out")
        content = checkpoints.read(start_from)
        if checkpoints.recipe_of(content, start_from) != recipe:
            raise EdgeposeError(f"{start_from} was made by another recipe; give the recipe it was begun with, "
                                "or choose another --out")  # fmt: skip
        start = int(content["global_step"])
    folder.mkdir(parents=True, exist_ok=True)
    if is_first():
        with write_beside(folder / "recipe.json") as beside:
            beside.write_text(recipe.model_dump_json(indent=1))
    if threads:
        torch.set_num_threads(threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no tips, no list of absent hardware
    lightning.seed_everything(recipe.seed, verbose=False)
    module = PoseModule(recipe)
    if recipe.distillation is not None:
        module.teacher = Teacher(recipe, threads)
    module.fresh = not recipe.start_from and start_from is None
    if recipe.start_from and start_from is None:
        module.begin_with(Path(recipe.start_from))
    data = PoseData(recipe, root, workers=workers, start=start)
    persons = [p for spec in recipe.validation for p in select(spec, data.skeleton, root).persons]
    monitor = Monitor(folder, persons, recipe.validate_every)
    total = sum(s.steps for s in steps(recipe))
    on_gpu = torch.cuda.is_available()
    trainer = lightning.Trainer(
        max_steps=min(max_steps or total, total),
        max_epochs=-1,  # steps alone decide: to Lightning a resumed run is in a later epoch
        precision=PRECISIONS[recipe.precision if on_gpu or recipe.precision != "float16" else "bfloat16"],
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
        callbacks=[checkpoints.Checkpoints(folder, recipe.checkpoint_minutes), monitor, RichProgressBar()],
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )  # fmt: skip
    try:
        trainer.fit(module, data, ckpt_path=start_from, weights_only=True)
    except SystemExit:  # how Lightning ends after Ctrl-C, the checkpoint being saved
        if not trainer.interrupted:
            raise
        raise EdgeposeError(f"training was interrupted; go on with --resume --out {folder}") from None
    return folder / checkpoints.LAST


def is_first() -> bool:
    """Whether this is the first of several training processes, or the only one."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def _processes(devices: int) -> tuple[int, int]:
    """Processes on this machine, and machines: as torchrun says where it started us."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        return local, int(os.environ["WORLD_SIZE"]) // local
    return devices, 1


def load_best(path: Path) -> tuple[Recipe, nn.Module]:
    """The recipe and the best weights of a checkpoint, in float32 on the CPU."""
    content = checkpoints.read(path)
    recipe = checkpoints.recipe_of(content, path)
    module = PoseModule(recipe)
    try:
        module.load_state_dict(qat.plain(content["state_dict"]))
    except RuntimeError as error:
        raise EdgeposeError(f"{path} does not fit its own recipe: {str(error).splitlines()[0]}") from error
    return recipe, module.best.eval()
