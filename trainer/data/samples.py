"""Training samples, drawn as a pure function of the step, so that a resumed run sees the same ones.

A :class:`Plan` says for every step which persons are drawn, with which random seed, at which input
size. :class:`Samples` turns one such draw into a crop and its joints.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from edgepose.crops import apply
from edgepose.skeletons import Skeleton
from trainer.augment import Augmentation, colour_noise, degrade, draw_affine, framing, truncate
from trainer.data.cache import CropCache
from trainer.data.persons import Person

NOWHERE = -1e4  # pixels: a joint there leaves every heatmap empty


@dataclass(frozen=True)
class Stage:
    """A stretch of training at one input size."""

    steps: int
    batch: int
    size: int


@dataclass(frozen=True)
class Draw:
    """One sample to make: person ``index``, random ``seed``, network input ``size`` in pixels."""

    index: int
    seed: tuple[int, int, int]
    size: int


class Plan(Sampler[list[Draw]]):
    """The batches of a whole run, from step ``start`` on.

    ``shares`` [N] is how often each person is drawn per pass; a pass is a fresh shuffle in which a
    person with share 2.5 appears two or three times. A step's batch comes in ``parts``, and of each part process
    ``rank`` of ``world`` makes every world-th sample: however it is divided, a step has the same samples.
    """

    def __init__(
        self,
        shares: NDArray[np.float64],
        stages: list[Stage],
        seed: int,
        start: int = 0,
        *,
        parts: int = 1,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._shares = shares
        self._stages = stages
        self._seed = seed
        self._start = start
        self._parts, self._rank, self._world = parts, rank, world

    def __len__(self) -> int:
        # The whole run's length, also when resumed: Lightning counts steps from its beginning.
        return sum(s.steps for s in self._stages) * self._parts

    def _pass(self, number: int) -> NDArray[np.intp]:
        rng = np.random.default_rng((self._seed, number))
        times = np.floor(self._shares + rng.random(len(self._shares))).astype(np.intp)
        return rng.permutation(np.repeat(np.arange(len(times), dtype=np.intp), times))

    def _order(self) -> Iterator[int]:
        number = 0
        while True:
            yield from self._pass(number).tolist()
            number += 1

    def __iter__(self) -> Iterator[list[Draw]]:
        order = self._order()
        step = 0
        for stage in self._stages:
            for _ in range(stage.steps):
                batch = [next(order) for _ in range(stage.batch)]
                if step >= self._start:
                    draws = [Draw(i, (self._seed, step, slot), stage.size) for slot, i in enumerate(batch)]
                    part = len(draws) // self._parts
                    for first in range(0, len(draws), part):
                        yield draws[first : first + part][self._rank :: self._world]
                step += 1


class Samples(Dataset[dict[str, NDArray[np.generic]]]):
    """Augmented crops: ``image`` [3, S, S] uint8 RGB, ``joints`` [K, 2] input pixels, ``labelled`` [K]."""

    def __init__(
        self,
        persons: list[Person],
        caches: list[tuple[int, CropCache]],
        skeleton: Skeleton,
        padding: float,
        augmentation: Augmentation,
    ) -> None:
        """``caches``: (index of the first person in it, cache), in order of that index."""
        self._persons = persons
        self._caches = caches
        self._skeleton = skeleton
        self._padding = padding
        self._augmentation = augmentation

    def __len__(self) -> int:
        return len(self._persons)

    def __getitem__(self, draw: Draw) -> dict[str, NDArray[np.generic]]:
        rng = np.random.default_rng(draw.seed)
        person = self._persons[draw.index]
        size = (draw.size, draw.size)
        box = framing(self._augmentation, rng, person, self._skeleton.lower)
        affine, flipped = draw_affine(self._augmentation, rng, box, size, self._padding)
        first, cache = next((f, c) for f, c in reversed(self._caches) if draw.index >= f)
        crop = colour_noise(self._augmentation, rng, cache.sample(draw.index - first, affine, size))
        crop = degrade(self._augmentation, rng, crop)
        joints, labelled = apply(affine, person.joints), person.labelled
        if person.nobody:
            joints, labelled = np.full_like(joints, NOWHERE), np.ones_like(labelled)
        else:
            crop, beyond = truncate(self._augmentation, rng, crop, joints, labelled)
            joints[beyond & labelled] = NOWHERE
        if flipped:
            joints, labelled = joints[self._skeleton.mirror], labelled[self._skeleton.mirror]
        return {
            "image": np.ascontiguousarray(crop[:, :, ::-1].transpose(2, 0, 1)),
            "joints": joints.astype(np.float32),
            "labelled": labelled.copy(),
        }
