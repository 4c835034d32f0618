"""Training: one Lightning module, driven by a recipe, resumable to the same weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import lightning
import numpy as np
import torch
from torch import Tensor, nn

from edgepose import bundle as bundles
from edgepose import skeletons
from edgepose.errors import EdgeposeError
from edgepose.files import kind
from trainer import bundled, checkpoints, qat
from trainer.data.module import PoseData, select
from trainer.distil import Teacher
from trainer.learner import Learner, beginning, train
from trainer.models import movenet
from trainer.models.build import build
from trainer.models.hourglass import StackedHourglass
from trainer.models.mobile import Mobile, begin, inherit
from trainer.models.norms import SETTLED_ON
from trainer.models.preprocess import Measured
from trainer.monitor import Monitor
from trainer.parts import composition_of
from trainer.recipe import Model, Recipe, refuse_lone_value
from trainer.targets import heatmap_loss, output_loss, to_cells

_OF_A_STEM = {"stem", "multiplier", "shallow", "preprocessing", "norm"}  # keys of [model]
FREE = {"dropout", "initialisation", "frozen"}  # keys of [model] that the weights know nothing of
_MEASURED = 256  # crops that preprocessing is measured on


class PoseModule(Learner):
    """Learning a recipe's pose network: what one step is."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe, build(recipe))
        self.recipe = recipe
        self.teacher: Teacher | None = None
        self.fresh = False  # whether preprocessing is still to be measured
        self._composition = composition_of(skeletons.get(recipe.skeleton))
        self._sigmas = {s.size: s.sigma or recipe.target.sigma * s.size / recipe.input_size for s in recipe.stages}

    def setup(self, stage: str) -> None:
        """Before a checkpoint is restored, so that a resumed run has the quantisers whose state it is given.

        And before several processes are given the first one's weights.
        """
        if self.fresh and self.recipe.pretrained:
            self._begin_pretrained(Path(self.recipe.pretrained))
        if self.recipe.quantisation is not None:
            data: PoseData = self.trainer.datamodule  # type: ignore[attr-defined]
            qat.quantise(self.model, data.view(self.recipe.quantisation.crops))
            self.begin_average()

    def begin_with(self, path: Path, crops: Callable[[int], Tensor]) -> None:
        """Take over the best weights of another run's checkpoint, or a bundle's; EdgeposeError where they do not fit.

        Of ``crops``, count -> [N, 3, S, S], RGB 0..255, a bundle's batch norms take their statistics.
        """
        recipe = self.check(path)
        if self.recipe.start_with == "stem":
            begin_with_stem(self.model, path, crops)
            return
        model = network_at(path, crops)
        try:
            if self.recipe.model.stacks > recipe.model.stacks:
                cast(StackedHourglass, self.model).grow_from(cast(StackedHourglass, model))
            else:
                self.model.load_state_dict(model.state_dict())
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise EdgeposeError(
                f"start_from: the network in {path} is not the recipe's ({reason}); give them the same [model]"
            ) from error
        # The moving average copies the network at its first update, so it need not be told.

    def check(self, path: Path) -> Recipe:
        """The recipe of the network in ``path``; EdgeposeError where that is not what ours can begin with."""
        recipe = recipe_at(path)
        if self.recipe.start_with == "stem":
            refuse_stem(self.recipe.model, recipe.model, path)
            return recipe
        if recipe.skeleton != self.recipe.skeleton:
            raise EdgeposeError(f"start_from: {path} speaks of skeleton {recipe.skeleton}, the recipe of "
                                f"{self.recipe.skeleton}; give them the same")  # fmt: skip
        ours, theirs = self.recipe.model, recipe.model
        grows = ours.kind == "stacked-hourglass" and ours.attention is None and ours.stacks > theirs.stacks
        free = FREE | ({"stacks"} if grows else set())
        refuse_difference(ours, theirs, set(type(ours).model_fields) - free, path)
        return recipe

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.teacher is not None:
            checkpoint["teacher"] = self.teacher.sha256

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.teacher is not None and checkpoint.get("teacher", self.teacher.sha256) != self.teacher.sha256:
            raise EdgeposeError("distillation.teacher: it is not the file that the run began with; put that back, or "
                                "choose another --out")  # fmt: skip

    def on_fit_start(self) -> None:
        # A cascade's image is normalised by a module of its regression, so look everywhere.
        for module in self.model.modules():
            if self.fresh and isinstance(module, Measured):
                data: PoseData = self.trainer.datamodule  # type: ignore[attr-defined]
                module.measure(data.view(_MEASURED).to(self.device))

    def _begin_pretrained(self, path: Path) -> None:
        """Take a stem's weights over from a published model; EdgeposeError where it is another."""
        stem = next(m for m in self.model.modules() if isinstance(m, Mobile))
        data: PoseData = self.trainer.datamodule  # type: ignore[attr-defined]
        normalise = cast(nn.Module, self.model.normalise)
        begin(stem, path, normalise(data.view(SETTLED_ON)))

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        # What is random in a network (dropout, fractional pooling) depends on the step alone: runs resume exactly.
        part = (self.recipe.seed, self.global_step, index % self.recipe.optimiser.accumulate, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(part).generate_state(1)[0]))
        image = batch["image"].float().contiguous(memory_format=torch.channels_last)
        outputs: list[Tensor] = self.model(image)
        joints = to_cells(batch["joints"], self.model.stride)
        labelled = batch["labelled"].float()
        goal: dict[str, Any] = {
            "sigma": self._sigmas[image.shape[-1]],
            "foreground": self.recipe.target.foreground,
            "false_peaks": self.recipe.target.false_peaks,
            "composition": self._composition,
        }
        supervision = self.model.supervision
        losses = [output_loss(kind, o, joints, labelled, **goal) for kind, o in zip(supervision, outputs, strict=True)]
        if self.teacher is not None and self.recipe.distillation is not None:
            alpha = self.recipe.distillation.weight
            taught = self.teacher(image, outputs[-1].shape[-1])
            everywhere = torch.ones_like(labelled)
            for i, kind in enumerate(supervision):
                if kind == "joints":
                    theirs = heatmap_loss(
                        outputs[i], taught, everywhere, goal["foreground"], false_peaks=goal["false_peaks"]
                    )
                    losses[i] = alpha * theirs + (1 - alpha) * losses[i]
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
    local, nodes = processes(devices)
    if torch.cuda.is_available() and local > (here := torch.cuda.device_count()):
        raise EdgeposeError(f"{local} processes need as many GPUs, and this machine has {here}; ask for fewer devices")
    for number, stage in enumerate(recipe.stages):
        if stage.batch % (local * nodes * recipe.optimiser.accumulate):
            raise EdgeposeError(f"stages.{number}.batch {stage.batch} cannot be divided among {local * nodes} processes"
                                f" in {recipe.optimiser.accumulate} parts; choose a multiple")  # fmt: skip
        try:
            refuse_lone_value(number, stage, recipe.model, local * nodes * recipe.optimiser.accumulate)
        except ValueError as error:
            raise EdgeposeError(str(error)) from error
    checkpoint, start = beginning(folder, recipe, resume=resume)
    if threads:
        torch.set_num_threads(threads)
    lightning.seed_everything(recipe.seed, verbose=False)
    module = PoseModule(recipe)
    if recipe.distillation is not None:
        module.teacher = Teacher(recipe, threads)
    module.fresh = (not recipe.start_from or recipe.start_with == "stem") and checkpoint is None
    if recipe.pretrained and checkpoint is None:  # both before minutes are spent on cutting crops
        movenet.require(Path(recipe.pretrained))
    if recipe.start_from and checkpoint is None:
        module.check(Path(recipe.start_from))
    data = PoseData(recipe, root, workers=workers, start=start)
    if recipe.start_from and checkpoint is None:
        module.begin_with(Path(recipe.start_from), data.view)
    persons = [p for spec in recipe.validation for p in select(spec, data.skeleton, root).persons]
    monitor = Monitor(folder, persons, recipe.validate_every)
    return train(
        module,
        data,
        folder,
        [monitor],
        checkpoint=checkpoint,
        start=start,
        processes=(local, nodes),
        max_steps=max_steps,
    )


def processes(devices: int) -> tuple[int, int]:
    """Processes on this machine, and machines: as torchrun says where it started us."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        if devices not in (1, local):
            raise EdgeposeError(f"torchrun started {local} processes on this machine, not {devices}; "
                                "leave --devices out")  # fmt: skip
        return local, int(os.environ["WORLD_SIZE"]) // local
    return devices, 1


def recipe_at(path: Path) -> Recipe:
    """The recipe of the pose network in ``path``: a checkpoint, or a bundle (its file, or its name); EdgeposeError."""
    if _is_bundle(path):
        bundle = bundles.load(path)
        if bundle.manual.role != "pose":
            raise EdgeposeError(f"start_from: {path} is a person finder; name a pose model or its checkpoint")
        return bundled.recipe_of(bundle)
    if kind(path) == "nothing":
        models = ", ".join(name for name in bundles.shipped() if not name.endswith(("int8", "int8-cpu", "finder")))
        raise EdgeposeError(f"start_from: {path} is neither a file nor a shipped model ({models}); check the name")
    return checkpoints.recipe_of(checkpoints.read(path), path)


def network_at(path: Path, crops: Callable[[int], Tensor]) -> nn.Module:
    """The pose network in ``path``, with its best weights; ``crops`` as in :meth:`PoseModule.begin_with`."""
    if _is_bundle(path):
        return bundled.restore(bundles.load(path), crops(SETTLED_ON))
    return load_best(path)[1]


def _is_bundle(path: Path) -> bool:
    return path.suffix == ".onnx" or str(path) in bundles.shipped()


def refuse_stem(ours: Model, theirs: Model, path: Path) -> None:
    """EdgeposeError where the network of ``theirs``, found in ``path``, has not the stem mobile that ``ours`` needs."""
    # A deeper stem has all that a shallow one needs.
    refuse_difference(ours, theirs, _OF_A_STEM - ({"shallow"} if ours.shallow else set()), path)
    if theirs.kind == "cascade":
        raise EdgeposeError(
            f"start_from: {path} is a cascade, whose stem sees more than an image; name another network"
        )


def begin_with_stem(network: nn.Module, path: Path, crops: Callable[[int], Tensor]) -> None:
    """Give the stem mobile of ``network`` the weights of the pose network in ``path``, which was not refused.

    ``crops`` as in :meth:`PoseModule.begin_with`.
    """
    model = network_at(path, crops)
    inherit(*(next(m for m in each.modules() if isinstance(m, Mobile)) for each in (network, model)))


def refuse_difference(ours: Model, theirs: Model, keys: set[str], path: Path) -> None:
    """EdgeposeError where ``ours`` differs in one of ``keys`` from ``theirs``, found in ``path``."""
    for key in sorted(keys):
        if getattr(ours, key) != getattr(theirs, key):
            raise EdgeposeError(
                f"start_from: model.{key} is {getattr(theirs, key)} in {path} and {getattr(ours, key)} in the "
                "recipe; give them the same"
            )


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
