"""How good a finder is: recall and average precision at IoU 0.5 on scenes that it did not see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgepose.bundle import Manual
from edgepose.people.association import inside, iou
from edgepose.people.finder import Finder, Found
from trainer.data.persons import read_image
from trainer.engine import TorchEngine
from trainer.finder.recipe import FinderRecipe
from trainer.finder.scenes import Scene
from trainer.progress import progress

IOU = 0.5
LEAST = 0.2  # score at which recall and precision are stated
LOWEST = 0.05  # score down to which the curve of precision goes
_COVERED = 0.5  # share of a box within an unsure place from which it is neither right nor wrong


class WithProbability(nn.Module):
    """The exported finder: the centre's logit through a sigmoid."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.train(model.training)  # an engine puts back the mode that it finds here

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = self.model(image)[-1]
        return [torch.cat([maps[:, :1].sigmoid(), maps[:, 1:]], dim=1)]


@dataclass(frozen=True)
class Quality:
    """Figures in percent, of ``people`` persons in ``images`` scenes; recall and precision at the score ``least``."""

    images: int
    people: int
    average_precision: float
    recall: float
    precision: float
    labelled_recall: float
    least: float


def manual_of(recipe: FinderRecipe) -> Manual:
    """The manual of the finder that ``recipe`` makes, before anything was measured."""
    return Manual(
        name=recipe.name,
        role="person",
        input_size=recipe.input_size,
        padding=1.0,
        recipe=recipe.model_dump(mode="json"),
    )


def of_network(recipe: FinderRecipe, model: nn.Module, threads: int = 0) -> Finder:
    """A finder that runs on torch, for evaluation, with every score from a low bar on."""
    return Finder(TorchEngine(WithProbability(model), threads), manual_of(recipe), least=LOWEST)


def look(finder: Finder, scenes: list[Scene], what: str = "looking for people") -> list[Found]:
    """What ``finder`` finds in each scene."""
    return [finder.find(read_image(scene.image)) for scene in progress(scenes, len(scenes), what)]


def quality(scenes: list[Scene], found: list[Found], least: float) -> Quality:
    """Average precision over all scores (area under the interpolated curve, Pascal VOC 2010), recall at ``least``.

    The higher a box's score, the earlier it takes the free person that it fits best; each person is taken once. A box
    that takes nobody counts neither way where it lies over an unsure place.
    """
    scores: list[float] = []
    right: list[bool] = []
    labelled_hits = labelled = people = 0
    for scene, seen in zip(scenes, found, strict=True):
        matched = _taken(iou(seen.boxes, scene.people))
        doubtful = inside(seen.boxes, scene.unsure).max(axis=1, initial=0.0) >= _COVERED
        people += len(scene.people)
        labelled += int(scene.labelled.sum())
        for i, score in enumerate(seen.scores):
            if i not in matched and doubtful[i]:
                continue
            scores.append(float(score))
            right.append(i in matched)
            labelled_hits += i in matched and score >= least and bool(scene.labelled[matched[i]])
    order = np.argsort(-np.array(scores), kind="stable")
    hits = np.array(right, dtype=bool)[order]
    above = int((np.array(scores)[order] >= least).sum())
    true = np.cumsum(hits)
    precision = true / np.arange(1, len(hits) + 1)
    recall = true / max(people, 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    area = float(np.sum(np.diff(np.concatenate([[0.0], recall])) * envelope)) if len(hits) else 0.0
    return Quality(
        images=len(scenes),
        people=people,
        average_precision=round(100 * area, 2),
        recall=round(100 * float(recall[above - 1]), 2) if above else 0.0,
        precision=round(100 * float(precision[above - 1]), 2) if above else 0.0,
        labelled_recall=round(100 * labelled_hits / max(labelled, 1), 2),
        least=least,
    )


def _taken(alike: NDArray[np.float64]) -> dict[int, int]:
    """Box -> person, of ``alike`` [N, M] by IoU with the boxes in order of score: each takes the best who is free."""
    taken: dict[int, int] = {}
    free = np.ones(alike.shape[1], dtype=bool)
    for i, row in enumerate(np.where(alike >= IOU, alike, 0.0)):
        if (row * free).any():
            taken[i] = int((row * free).argmax())
            free[taken[i]] = False
    return taken
