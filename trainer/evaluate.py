"""Accuracy of a bundle or checkpoint on labelled persons, their box given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose import bundle as bundles
from edgepose import engines
from edgepose.estimator import Estimator
from edgepose.metrics import score_persons
from edgepose.skeletons import Skeleton
from trainer.data.persons import Person, read_image
from trainer.engine import TorchEngine, manual_of, refuse_engine
from trainer.progress import progress


@dataclass(frozen=True)
class Predictions:
    """What the network said of N persons, beside what the labels say; image pixels."""

    persons: list[Person]
    joints: NDArray[np.float64]  # [N, K, 2]
    scores: NDArray[np.float64]  # [N, K]
    covariance: NDArray[np.float64]  # [N, K, 3]

    @property
    def truth(self) -> NDArray[np.float64]:
        """Labels [N, K, 2]."""
        return np.stack([p.joints for p in self.persons])

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """[N, K]"""
        return np.stack([p.labelled for p in self.persons])


def predict(estimator: Estimator, persons: list[Person], what: str = "evaluating", batch: int = 16) -> Predictions:
    """Run ``estimator`` on every person's own box; persons of one image are decoded once and batched."""
    ordered = sorted(persons, key=lambda p: str(p.image))
    joints, scores, covariance = [], [], []
    for image, group in progress(_by_image(ordered), len({p.image for p in ordered}), what):
        boxes = np.stack([p.box for p in group])
        for start in range(0, len(boxes), batch):
            poses = estimator.estimate(image, boxes[start : start + batch])
            joints.append(poses.joints)
            scores.append(poses.scores)
            covariance.append(poses.covariance)
    return Predictions(ordered, np.concatenate(joints), np.concatenate(scores), np.concatenate(covariance))


def _by_image(ordered: list[Person]) -> Iterator[tuple[NDArray[np.uint8], list[Person]]]:
    for path, group in groupby(ordered, key=lambda p: p.image):
        yield read_image(path), list(group)


def open_estimator(model: str, engine: str = "auto", threads: int = 0, *, second_look: bool = False) -> Estimator:
    """An estimator for a bundle (name or file) on ``engine``, or for a checkpoint on torch."""
    if model.endswith(".ckpt"):
        from trainer.fit import load_best

        refuse_engine(model, engine)
        recipe, network = load_best(Path(model))
        return Estimator(TorchEngine(network, threads), manual_of(recipe), second_look=second_look)
    bundle = bundles.load(model, role="pose")
    running = engines.load(bundle, engine, engines.Options(threads=threads))
    return Estimator(running, bundle.manual, second_look=second_look)


def figures(predictions: Predictions, skeleton: Skeleton) -> dict[str, Any]:
    """The metrics of :func:`edgepose.metrics.score_persons`, and PCKh@0.5 or PCK@0.2 by activity if known."""
    result = score_persons(predictions.joints, predictions.truth, predictions.labelled, skeleton)
    activities = np.array([p.activity for p in predictions.persons])
    names = sorted(set(activities) - {""})
    if names:
        result["by_activity"] = {}
        for name in names:
            at = activities == name
            part = score_persons(predictions.joints[at], predictions.truth[at], predictions.labelled[at], skeleton)
            result["by_activity"][name] = {k: part[k] for k in ("persons", "pckh05", "pckh01", "pck02_torso")}
    return result
