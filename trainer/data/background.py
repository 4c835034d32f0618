"""Windows of photographs in which nobody is, so that a pose network learns to see nobody there.

A network that only ever saw people finds one in every chair, with scores like those of people seen from behind.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepose.errors import EdgeposeError
from edgepose.people.association import inside
from edgepose.skeletons import Skeleton
from trainer.data.cache import MARGIN
from trainer.data.persons import Person, PersonSet, load, read_image
from trainer.finder.recipe import SceneSet
from trainer.finder.scenes import Scene, read
from trainer.progress import progress
from trainer.recipe import Background

SMALLEST = 48  # pixels: a window's side; smaller ones are blown up to blurs
AROUND = MARGIN  # the part that must be empty / window: all that augmentation, which zooms out and turns, may show
TOUCHES = 0.02  # share of a window up to which a box may reach into it
SHOWS = 0.1  # share of a box up to which it may lie in a window
PLAIN = 15.0  # grey levels: standard deviation below which a window is sky or wall and teaches little
TRIES = 30


def windows(background: Background, skeleton: Skeleton, padding: float, root: Path | None) -> PersonSet:
    """Nobodies, whose crops with ``padding`` show the windows; EdgeposeError when no photograph has room for one."""
    spec = SceneSet(data=background.data, guesses=background.guesses, split=background.split, empty=background.empty)
    scenes = read(spec, root)
    name = f"{load(background.data, root).name}-background"
    nobodies: list[Person] = []
    unknown = np.zeros((len(skeleton), 2)), np.zeros(len(skeleton), dtype=bool)
    for scene in progress(scenes, len(scenes), "looking for empty places"):
        for window in empty_windows(scene, read_image(scene.image), background.windows):
            middle, half = (window[:2] + window[2:]) / 2, (window[2:] - window[:2]) / 2 / padding
            box = np.concatenate([middle - half, middle + half])
            nobodies.append(Person(scene.image, *unknown, box, scene.image.name, nobody=True))
    if not nobodies:
        raise EdgeposeError(f"background '{background.data}': no photograph has room for a window without anybody; "
                            "leave it out")  # fmt: skip
    return PersonSet(name, skeleton, nobodies)


def empty_windows(scene: Scene, image: NDArray[np.uint8], most: int) -> NDArray[np.float64]:
    """At most ``most`` square windows [N, 4] of ``image`` [H, W, 3] away from all people in it, with something to see.

    The same ones each time: the draws follow from the file's name.
    """
    rng = np.random.default_rng(zlib.crc32(scene.image.name.encode()))
    people = np.concatenate([scene.people, scene.unsure])
    height, width = image.shape[:2]
    largest = min(height, width) / AROUND
    found: list[NDArray[np.float64]] = []
    for _ in range(TRIES):
        if len(found) == most or largest < SMALLEST:
            break
        side = float(np.exp(rng.uniform(np.log(SMALLEST), np.log(largest))))
        reach = side * AROUND / 2
        middle = np.array([rng.uniform(reach, width - reach), rng.uniform(reach, height - reach)])
        around = np.concatenate([middle - reach, middle + reach])
        x0, y0, x1, y1 = around.astype(int)
        # Neither much of the window in somebody's box nor much of somebody small in the window.
        free = (inside(around[None], people) <= TOUCHES).all() and (inside(people, around[None]) <= SHOWS).all()
        if free and image[y0:y1, x0:x1].std() >= PLAIN:
            found.append(np.concatenate([middle - side / 2, middle + side / 2]))
    return np.array(found).reshape(-1, 4)
