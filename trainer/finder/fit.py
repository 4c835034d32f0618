"""Training a finder, driven by its recipe, resumable to the same weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from edgepose import bundle as bundles
from edgepose.errors import EdgeposeError
from edgepose.validation import validate
from trainer import checkpoints
from trainer.data.loader import loader
from trainer.data.samples import Draw, Plan
from trainer.finder.monitor import FinderMonitor
from trainer.finder.recipe import FinderRecipe
from trainer.finder.samples import SceneSamples
from trainer.finder.scenes import Scene, read
from trainer.finder.targets import MAPS, losses
from trainer.fit import begin_with_stem, processes, recipe_at, refuse_difference, refuse_stem
from trainer.learner import Learner, LearningData, beginning, steps, train
from trainer.models import movenet
from trainer.models.build import parts_of
from trainer.models.hourglass import Output, StackedHourglass
from trainer.models.initialise import initialise
from trainer.models.mobile import Mobile, begin
from trainer.models.norms import SETTLED_ON, with_norm
from trainer.targets import to_cells

_RARE = -2.19  # first bias of the centre's logit: one cell in ten is a person, as in the paper's code


def network(recipe: FinderRecipe) -> StackedHourglass:
    """One hourglass with the finder's maps, the centre's as a logit."""
    model = recipe.model
    parts = parts_of(model, recipe.input_size[1])
    made = StackedHourglass(
        MAPS, width=model.width, depth=model.depth, stacks=1, parts=parts, outputs=[Output("people", MAPS)]
    )
    with_norm(made, model.norm)
    if model.initialisation != "he":
        initialise(made, model.initialisation)
    with torch.no_grad():
        last = [m for m in made.heads[0].modules() if isinstance(m, nn.Conv2d)][-1]
        assert last.bias is not None
        last.weight.mul_(0.1)
        last.bias[:] = torch.tensor([_RARE, 2.0, 2.5, 0.0, 0.0])
    return made


class FinderModule(Learner):
    """Learning a finder: what one step is."""

    def __init__(self, recipe: FinderRecipe) -> None:
        super().__init__(recipe, network(recipe))
        self.recipe = recipe

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        # As in a pose network's step: what is random in the network follows from the step alone.
        part = (self.recipe.seed, self.global_step)
        torch.manual_seed(int(np.random.SeedSequence(part).generate_state(1)[0]))
        image = batch["image"].float().contiguous(memory_format=torch.channels_last)
        boxes = [
            to_cells(batch[name].reshape(len(image), -1, 2), self.model.stride).reshape(len(image), -1, 4)
            for name in ("people", "unsure")
        ]
        parts = losses(self.model(image)[-1], *boxes)
        loss = torch.stack(list(parts.values())).sum()
        self.log("loss", loss, prog_bar=True)
        self.log_dict({f"loss_{name}": value for name, value in parts.items()})
        self.log("rate", self.lr_schedulers().get_last_lr()[0])  # type: ignore[union-attr]
        return loss


class SceneData(LearningData):
    """Training batches by plan."""

    def __init__(self, recipe: FinderRecipe, root: Path | None, *, workers: int, start: int = 0) -> None:
        super().__init__()
        self._recipe, self._workers, self._start = recipe, workers, start
        self.scenes: list[Scene] = []
        shares: list[float] = []
        for spec in recipe.data:
            found = read(spec, root)
            self.scenes += found
            shares += [spec.share] * len(found)
        self._shares = np.array(shares)

    def labels(self) -> Iterable[tuple[Path, list[NDArray[Any]]]]:
        return ((s.image, [s.people, s.labelled, s.unsure]) for s in self.scenes)

    def train_dataloader(self) -> DataLoader[Any]:
        recipe = self._recipe
        plan = Plan(self._shares, steps(recipe), recipe.seed, self._start)
        return loader(SceneSamples(self.scenes, recipe.augmentation), plan, self._workers)

    def view(self, count: int) -> Tensor:
        """``count`` training images [N, 3, S, S], RGB 0..255, of the first stage's size, evenly drawn."""
        samples = SceneSamples(self.scenes, self._recipe.augmentation)
        chosen = np.linspace(0, len(samples) - 1, count).astype(int).tolist()
        seed, size = self._recipe.seed, self._recipe.stages[0].size
        images = [samples[Draw(index, (seed, 0, slot), size)]["image"] for slot, index in enumerate(chosen)]
        return torch.from_numpy(np.stack(images)).float()


def fit(
    recipe: FinderRecipe,
    folder: Path,
    *,
    root: Path | None = None,
    resume: bool = False,
    workers: int = 1,
    threads: int = 0,
    devices: int = 1,
    max_steps: int | None = None,
) -> Path:
    """Train ``recipe``, writing everything into ``folder``; returns the last checkpoint; as :func:`trainer.fit.fit`."""
    if processes(devices) != (1, 1):
        raise EdgeposeError("a person finder is trained on one device by one process; leave out --devices and torchrun")
    checkpoint, start = beginning(folder, recipe, resume=resume)
    if threads:
        torch.set_num_threads(threads)
    lightning.seed_everything(recipe.seed, verbose=False)
    learner = FinderModule(recipe)
    if recipe.start_from and recipe.start_with == "stem" and checkpoint is None:
        source = Path(recipe.start_from)  # before the images are gone through
        refuse_stem(recipe.model, recipe_at(source).model, source)
    elif recipe.start_from and checkpoint is None:
        if recipe.start_from.endswith(".onnx") or recipe.start_from in bundles.shipped():
            raise EdgeposeError(f"start_from: {recipe.start_from} is a bundle, and a whole finder begins with a "
                                "checkpoint; add start_with = 'stem' to begin with a pose network's stem")  # fmt: skip
        theirs, model = load_best(Path(recipe.start_from))
        refuse_difference(recipe.model, theirs.model, {"preprocessing", "norm"}, Path(recipe.start_from))
        try:
            learner.model.load_state_dict(model.state_dict())
        except RuntimeError as error:
            raise EdgeposeError(f"start_from: the network in {recipe.start_from} is not the recipe's; "
                                "give them the same [model]") from error  # fmt: skip
    if recipe.pretrained and checkpoint is None:
        movenet.require(Path(recipe.pretrained))  # before the images are gone through
    data = SceneData(recipe, root, workers=workers, start=start)
    if recipe.start_with == "stem" and checkpoint is None:
        begin_with_stem(learner.model, Path(recipe.start_from), data.view)
    if recipe.pretrained and checkpoint is None:
        stem = next(m for m in learner.model.modules() if isinstance(m, Mobile))
        normalise = cast(nn.Module, learner.model.normalise)
        begin(stem, Path(recipe.pretrained), normalise(data.view(SETTLED_ON)))
    scenes = [scene for spec in recipe.validation for scene in read(spec, root)]
    monitor = FinderMonitor(folder, scenes, recipe.validate_every)
    return train(learner, data, folder, [monitor], checkpoint=checkpoint, start=start, max_steps=max_steps)


def load_best(path: Path) -> tuple[FinderRecipe, nn.Module]:
    """The recipe and the best weights of a finder's checkpoint, in float32 on the CPU."""
    content = checkpoints.read(path)
    if content["recipe"].get("role") != "person":
        raise EdgeposeError(f"{path} is a checkpoint of a pose network, not of a person finder; give one of those")
    recipe = validate(FinderRecipe, content["recipe"], str(path))
    learner = FinderModule(recipe)
    try:
        learner.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        raise EdgeposeError(f"{path} does not fit its own recipe: {str(error).splitlines()[0]}") from error
    return recipe, learner.best.eval()
