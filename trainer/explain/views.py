"""Persons as a network sees them: their crops, and what it says of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgepose.bundle import Manual
from edgepose.crops import apply, crop_affine, to_input, warp
from edgepose.estimator import Estimator
from trainer.data.persons import Person, read_image
from trainer.progress import progress


@dataclass(frozen=True)
class View:
    """One person's crop and the network's answer; positions in pixels of the crop."""

    crop: NDArray[np.uint8]  # [H, W, 3] BGR
    image: NDArray[np.float32]  # [3, H, W] RGB 0..255, the network's input
    heatmaps: NDArray[np.float32]  # [K, h, w]
    joints: NDArray[np.float64]  # [K, 2]
    scores: NDArray[np.float64]  # [K]


def crops(manual: Manual, persons: list[Person]) -> NDArray[np.uint8]:
    """The persons' crops [N, H, W, 3] (BGR) as the model's manual wants them."""
    made = [
        warp(read_image(p.image), crop_affine(p.box, manual.input_size, manual.padding), manual.input_size)
        for p in progress(persons, len(persons), "crops")
    ]
    return np.stack(made)


def view(estimator: Estimator, person: Person) -> View:
    """Look at one person through the code that runs on the device."""
    manual = estimator.manual
    photo = read_image(person.image)
    affine = crop_affine(person.box, manual.input_size, manual.padding)
    crop = warp(photo, affine, manual.input_size)
    image = np.empty((3, *crop.shape[:2]), dtype=np.float32)
    to_input(crop, image)
    heatmaps = estimator.engine.infer(image[None])[0].copy()
    poses = estimator.estimate(photo, person.box[None])
    return View(crop, image, heatmaps, apply(affine, poses.joints[0]), poses.scores[0])
