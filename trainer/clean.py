"""Find wrong labels with a trained network: look at every person and its mirror image, and judge the labels by both."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepose.crops import apply, crop_affine, warp
from edgepose.draw import draw_pose
from edgepose.estimator import Estimator
from trainer.data.cleaning import Correction, judge, numbered
from trainer.data.persons import Person, PersonSet, read_image
from trainer.grid import evenly, write_grid
from trainer.progress import progress

_TILE = 192


@dataclass
class Cleaned:
    """What :func:`clean` found: the corrections, and whom they are of."""

    persons: int
    joints: int  # labelled ones
    corrections: list[Correction] = field(default_factory=list)
    whose: list[Person] = field(default_factory=list, repr=False)

    def summary(self) -> str:
        """One paragraph for the terminal."""
        sides = Counter(c.exchange for c in self.corrections)
        return (
            f"{len(self.corrections)} of {self.persons} persons have labels that the network contradicts: sides are "
            f"exchanged of {sides['all']} persons, {sides['arms']} pairs of arms and {sides['legs']} of legs; "
            f"{sum(len(c.hide) for c in self.corrections)} of {self.joints} joints are hidden"
        )


def clean(persons: PersonSet, estimator: Estimator) -> Cleaned:
    """Judge the labels of ``persons``: everybody of the set, in the skeleton of ``estimator``."""
    skeleton = estimator.skeleton
    labelled = [
        (person, name)
        for person, name in zip(persons.persons, numbered(persons.persons), strict=True)
        if person.labelled.any()
    ]
    found = Cleaned(len(labelled), int(sum(person.labelled.sum() for person, _ in labelled)))
    for person, name in progress(labelled, len(labelled), f"cleaning {persons.name}"):
        looks, scores = _both(estimator, read_image(person.image), person.box)
        correction = judge(person, name, looks, scores, skeleton)
        if correction is not None:
            found.corrections.append(correction)
            found.whose.append(person)
    return found


def _both(
    estimator: Estimator, image: NDArray[np.uint8], box: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Joints [2, K, 2] and scores [2, K] of the person in ``box`` [4] as it is, and mirrored and back."""
    last = image.shape[1] - 1
    mirrored = np.ascontiguousarray(image[:, ::-1])
    across = np.array([last - box[2], box[1], last - box[0], box[3]])
    straight, turned = estimator.estimate_all([image, mirrored], [box[None], across[None]])
    order = estimator.skeleton.mirror
    back = turned.joints[0][order] * [-1, 1] + [last, 0]
    return np.stack([straight.joints[0], back]), np.stack([straight.scores[0], turned.scores[0][order]])


def sheet(found: Cleaned, persons: PersonSet, path: Path, count: int = 40) -> None:
    """A contact sheet of corrected persons, at least one, evenly drawn: the photograph, its labels, these corrected."""
    tiles = []
    for i in evenly(len(found.whose), count):
        person, after = found.whose[i], found.corrections[i].apply(found.whose[i], persons.skeleton)
        affine = crop_affine(person.box, (_TILE, _TILE), 1.4)
        plain = warp(read_image(person.image), affine, (_TILE, _TILE))
        row = [plain]
        for each in (person, after):
            row.append(plain.copy())
            draw_pose(row[-1], apply(affine, each.joints), each.labelled, persons.skeleton, 1)
        tiles.append(np.hstack(row))
    write_grid(tiles, 2, path)
