"""Training samples: scenes at many scales, one or four to an input, drawn as a pure function of the step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from edgepose.crops import BORDER, apply, compose, crop_affine, warp, whole_image
from trainer.augment import Augmentation, colour_noise
from trainer.data.persons import read_image
from trainer.data.samples import Draw
from trainer.finder.recipe import SceneAugmentation
from trainer.finder.scenes import Boxes, Scene

MOST = 64  # people in a sample
UNSURE = 256  # unsure places: who is small, cut off, in a crowd or beyond MOST, of four scenes in a mosaic
_SMALLEST = 10.0  # side in input pixels below which a person is left out of the loss
_VISIBLE = 0.4  # share of a person inside the picture below which it is left out of the loss

Affine = NDArray[np.float64]


@dataclass(frozen=True)
class Rectangle:
    """Part of the input, pixels."""

    x0: int
    y0: int
    x1: int
    y1: int


class SceneSamples(Dataset[dict[str, NDArray[np.generic]]]):
    """``image`` [3, S, S] uint8 RGB; ``people`` [MOST, 4], ``unsure`` [UNSURE, 4] in input pixels, NaN for none."""

    def __init__(self, scenes: list[Scene], augmentation: SceneAugmentation) -> None:
        self._scenes, self._augmentation = scenes, augmentation
        self._colour = Augmentation(colour=augmentation.colour, blur=augmentation.blur)

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, draw: Draw) -> dict[str, NDArray[np.generic]]:
        rng = np.random.default_rng(draw.seed)
        size = draw.size
        picture = np.empty((size, size, 3), dtype=np.uint8)
        picture[:] = BORDER
        people: list[Boxes] = []
        unsure: list[Boxes] = []
        for place, index in self._places(rng, draw):
            part, seen, doubtful = self._part(rng, self._scenes[index], place)
            picture[place.y0 : place.y1, place.x0 : place.x1] = part
            people.append(seen)
            unsure.append(doubtful)
        sure = np.concatenate(people)
        picture = colour_noise(self._colour, rng, picture)
        return {
            "image": np.ascontiguousarray(picture[:, :, ::-1].transpose(2, 0, 1)),
            "people": _filled(sure, MOST),
            "unsure": _filled(np.concatenate([sure[MOST:], *unsure]), UNSURE),
        }

    def _places(self, rng: np.random.Generator, draw: Draw) -> list[tuple[Rectangle, int]]:
        size = draw.size
        if rng.random() >= self._augmentation.mosaic:
            return [(Rectangle(0, 0, size, size), draw.index)]
        x, y = (int(v) for v in rng.uniform(0.35, 0.65, 2) * size)
        corners = [(0, 0, x, y), (x, 0, size, y), (0, y, x, size), (x, y, size, size)]
        others = rng.integers(0, len(self._scenes), 3).tolist()
        return [(Rectangle(*c), i) for c, i in zip(corners, [draw.index, *others], strict=True)]

    def _part(self, rng: np.random.Generator, scene: Scene, place: Rectangle) -> tuple[NDArray[np.uint8], Boxes, Boxes]:
        """A scene as it looks in ``place``; its people and unsure places in input pixels."""
        image = read_image(scene.image)
        height, width = image.shape[:2]
        size = (place.x1 - place.x0, place.y1 - place.y0)
        low, high = self._augmentation.scale
        scale = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        shift = tuple(rng.uniform(-0.5, 0.5, 2) * abs(scale - 1))
        affine = crop_affine(
            whole_image(width, height),
            size,
            1.0,
            scale=scale,
            shift=(float(shift[0]), float(shift[1])),
            flip=bool(rng.random() < self._augmentation.flip),
        )
        into = compose(np.array([[1.0, 0, place.x0], [0, 1.0, place.y0]]), affine)
        seen, visible = _clipped(moved(into, scene.people), place)
        small = (seen[:, 2:] - seen[:, :2]).max(axis=1, initial=0) < _SMALLEST
        kept = (visible >= _VISIBLE) & ~small
        doubtful, shown = _clipped(moved(into, scene.unsure), place)
        unsure = np.concatenate([seen[~kept & (visible > 0)], doubtful[shown > 0]])
        return warp(image, affine, size), seen[kept], unsure


def moved(affine: Affine, boxes: Boxes) -> Boxes:
    """``boxes`` [N, 4] through a map without rotation, corners in order again after a mirroring."""
    corners = np.stack([apply(affine, boxes[:, :2]), apply(affine, boxes[:, 2:])])
    return np.concatenate([corners.min(axis=0), corners.max(axis=0)], axis=1)


def _clipped(boxes: Boxes, place: Rectangle) -> tuple[Boxes, NDArray[np.float64]]:
    """Boxes cut off at the edges of ``place``, and the share of each that is left."""
    low, high = np.array([place.x0, place.y0]) - 0.5, np.array([place.x1, place.y1]) - 0.5
    cut = np.concatenate([np.clip(boxes[:, :2], low, high), np.clip(boxes[:, 2:], low, high)], axis=1)
    whole = np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1e-9)
    return cut, (cut[:, 2:] - cut[:, :2]).prod(axis=1) / whole


def _filled(boxes: Boxes, most: int) -> NDArray[np.float32]:
    rows = np.full((most, 4), np.nan, dtype=np.float32)
    rows[: min(len(boxes), most)] = boxes[:most]
    return rows
