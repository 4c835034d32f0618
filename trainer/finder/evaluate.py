"""How good a finder is: recall and average precision at IoU 0.5 on scenes that it did not see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from edgepose.bundle import Manual
from edgepose.people.association import assign, iou
from edgepose.people.finder import Finder, Found
from trainer.data.persons import read_image
from trainer.engine import TorchEngine
from trainer.finder.recipe import FinderRecipe
from trainer.finder.scenes import Scene
from trainer.progress import progress

IOU = 0.5
_LEAST = 0.05  # score down to which the curve goes
_COVERED = 0.5  # share of a box within an unsure place from which it is neither right nor wrong


class WithProbability(nn.Module):
    """The exported finder: the centre's logit through a sigmoid."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> list[Tensor]:
        import torch

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


def of_network(recipe: FinderRecipe, model: nn.Module) -> Finder:
    """A finder that runs on torch, for evaluation, with every score from a low bar on."""
    return Finder(TorchEngine(WithProbability(model)), manual_of(recipe), least=_LEAST)


def look(finder: Finder, scenes: list[Scene], what: str = "looking for people") -> list[Found]:
    """What ``finder`` finds in each scene."""
    return [finder.find(read_image(scene.image)) for scene in progress(scenes, len(scenes), what)]


def quality(scenes: list[Scene], found: list[Found], least: float) -> Quality:
    """Average precision over all scores (area under the interpolated curve, Pascal VOC 2010), recall at ``least``.

    A box over an unsure place counts neither way; each person counts once.
    """
    scores: list[float] = []
    right: list[bool] = []
    labelled_hits = labelled = people = 0
    for scene, seen in zip(scenes, found, strict=True):
        pairs = assign(iou(seen.boxes, scene.people), IOU)
        matched = dict(pairs)
        doubtful = _covered(seen.boxes, scene.unsure)
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


def _covered(boxes: NDArray[np.float64], unsure: NDArray[np.float64]) -> NDArray[np.bool_]:
    """[N]: whether most of a box lies in one of the ``unsure`` places."""
    if not len(unsure) or not len(boxes):
        return np.zeros(len(boxes), dtype=bool)
    low = np.maximum(boxes[:, None, :2], unsure[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], unsure[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    area = np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1e-9)
    return np.asarray((shared / area[:, None]).max(axis=1) >= _COVERED)
