"""The recipe's data, ready for the training loop: training plan and validation persons."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from edgepose import skeletons
from edgepose.crops import crop_affine
from edgepose.errors import EdgeposeError
from edgepose.skeletons import Skeleton
from trainer.data.background import windows
from trainer.data.cache import CropCache, open_cache
from trainer.data.cleaning import correct
from trainer.data.loader import loader
from trainer.data.persons import Person, PersonSet, from_behind, load, to_skeleton, unlabelled
from trainer.data.samples import Plan, Samples
from trainer.data.splits import join_twins, take, why_empty
from trainer.grid import evenly
from trainer.learner import LearningData, steps
from trainer.recipe import DataSet, Recipe


def everybody(spec: DataSet, target: Skeleton, root: Path | None) -> PersonSet:
    """All persons of one data set's split in the target skeleton, also who has none of its joints labelled."""
    native = load(spec.data, root)
    if not set(native.skeleton.joints) & set(target.joints):
        raise EdgeposeError(f"data '{spec.data}' has no joint of skeleton {target.name}: its own are "
                            f"{', '.join(native.skeleton.joints[:3])} ..., and that has {', '.join(target.joints[:3])} "
                            "...; joints count by their names: choose another skeleton, or name them so")  # fmt: skip
    chosen = native if spec.split == "all" else take(join_twins(native), spec.split)
    return PersonSet(native.name, target, [to_skeleton(p, native.skeleton, target) for p in chosen.persons])


def select(spec: DataSet, target: Skeleton, root: Path | None) -> PersonSet:
    """The persons of one data set's split, in the target skeleton; EdgeposeError when nobody is left."""
    whole = everybody(spec, target, root)
    if spec.corrections:
        whole = correct(whole, Path(spec.corrections))
    persons = [p for p in whole.persons if p.labelled.any()]
    if spec.limit:
        persons = [persons[i] for i in evenly(len(persons), spec.limit)]
    if not persons:
        raise EdgeposeError(f"data '{spec.data}' has no labelled person in split '{spec.split}'{why_empty(spec.split)}")
    return PersonSet(whole.name, target, persons)


class PoseData(LearningData):
    """Training batches by plan; validation is evaluated in full by the module, not loaded here."""

    def __init__(self, recipe: Recipe, root: Path | None, *, workers: int, start: int = 0) -> None:
        super().__init__()
        self._recipe, self._root, self._workers, self._start = recipe, root, workers, start
        self.skeleton = skeletons.get(recipe.skeleton)
        self._persons: list[Person] = []
        self._caches: list[tuple[int, CropCache]] = []
        self._shares: list[float] = []

    def prepare_data(self) -> None:
        """Cut the crops, on one process, before the others map them."""
        self.setup("fit")

    def setup(self, stage: str) -> None:
        if self._persons:
            return
        sets = [(spec, select(spec, self.skeleton, self._root)) for spec in self._recipe.data]
        if self._recipe.distillation is None:
            self._refuse_unlabelled([chosen for _, chosen in sets])
        for spec, chosen in sets:
            cache = open_cache(chosen, self._recipe.input_size, self._recipe.padding)
            self._caches.append((len(self._persons), cache))
            self._persons += chosen.persons if spec.labels else [unlabelled(p) for p in chosen.persons]
            self._shares += [spec.share * (spec.behind if from_behind(p, self.skeleton) else 1) for p in chosen.persons]
        for background in self._recipe.background:
            nobodies = windows(background, self.skeleton, self._recipe.padding, self._root)
            cache = open_cache(nobodies, self._recipe.input_size, self._recipe.padding)
            self._caches.append((len(self._persons), cache))
            self._persons += nobodies.persons
            self._shares += [background.share] * len(nobodies.persons)

    def _refuse_unlabelled(self, sets: list[PersonSet]) -> None:
        """EdgeposeError for joints that nobody labels: the network would learn that they are nowhere."""
        labelled = np.any([p.labelled for chosen in sets for p in chosen.persons], axis=0)
        lacking = [joint for joint, known in zip(self.skeleton.joints, labelled, strict=True) if not known]
        if lacking:
            raise EdgeposeError(
                f"skeleton: no person in data labels {', '.join(lacking)} of {self.skeleton.name}; choose the data's "
                "own skeleton, or add data that labels them"
            )

    def labels(self) -> Iterable[tuple[Path, list[NDArray[Any]]]]:
        self.setup("fit")
        return ((p.image, [p.joints, p.labelled, p.box]) for p in self._persons)

    def train_dataloader(self) -> DataLoader[Any]:
        recipe = self._recipe
        samples = Samples(self._persons, self._caches, self.skeleton, recipe.padding, recipe.augmentation)
        plan = Plan(
            np.array(self._shares),
            steps(recipe),
            recipe.seed,
            self._start,
            parts=recipe.optimiser.accumulate,
            rank=self.trainer.global_rank if self.trainer else 0,
            world=self.trainer.world_size if self.trainer else 1,
        )
        return loader(samples, plan, self._workers)

    def view(self, count: int) -> Tensor:
        """At most ``count`` training crops as they are, evenly drawn: [N, 3, S, S], RGB 0..255, at exported size S."""
        self.setup("fit")
        size = (self._recipe.input_size, self._recipe.input_size)
        crops = []
        for index in evenly(len(self._persons), count):
            first, cache = next((f, c) for f, c in reversed(self._caches) if index >= f)
            affine = crop_affine(self._persons[index].box, size, self._recipe.padding)
            crops.append(cache.sample(index - first, affine, size)[:, :, ::-1].transpose(2, 0, 1))
        return torch.from_numpy(np.stack(crops).astype(np.float32))
