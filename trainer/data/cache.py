"""Person crops, cut once at 1.5 times the network's view and kept in a memory-mapped file.

Training then costs one small affine warp per sample instead of decoding a whole photograph. The map
streams from disk, so a set may be larger than memory. What no run has opened for a month is removed.
"""

from __future__ import annotations

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepose.crops import compose, crop_affine, invert, warp
from edgepose.files import alone, cache_dir, kind, write_beside
from trainer.data.persons import Person, PersonSet, read_image
from trainer.progress import progress

_KEPT, _ABANDONED = 30 * 86_400.0, 86_400.0  # s
MARGIN = 1.5  # cached view / network view, so that scale, rotation and shift rarely meet the edge


@dataclass(frozen=True)
class CropCache:
    """The file of crops, and ``affines`` [N, 2, 3] from image to cached pixels."""

    path: Path
    affines: NDArray[np.float64]

    @cached_property
    def crops(self) -> NDArray[np.uint8]:
        """[N, S, S, 3] uint8 BGR; mapped when first used, so that each loader process maps it for itself."""
        mapped: NDArray[np.uint8] = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return mapped

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "affines": self.affines}  # a map that was pickled would be a copy of the whole file

    def sample(self, index: int, affine: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.uint8]:
        """What ``warp(image, affine, size)`` shows, from the cached crop; ``affine`` maps image pixels."""
        return warp(self.crops[index], compose(affine, invert(self.affines[index])), size)


def _key(persons: PersonSet, size: int, padding: float) -> str:
    digest = hashlib.sha256(f"{persons.name} {size} {padding} {MARGIN}".encode())
    for person in persons.persons:
        stat = person.image.stat() if kind(person.image) != "nothing" else None
        digest.update(f"{person.image.name} {(stat.st_size, stat.st_mtime_ns) if stat else 0}".encode())
        digest.update(person.box.tobytes())
    return digest.hexdigest()[:16]


def open_cache(persons: PersonSet, size: int, padding: float) -> CropCache:
    """The cache for a square network input of ``size`` pixels, cut now if it is not on disk yet.

    Of several processes that want it at once, one cuts it and the others wait.
    """
    side = round(size * MARGIN)
    affines = np.stack([crop_affine(p.box, (side, side), padding * MARGIN) for p in persons.persons])
    path = cache_dir() / f"crops-{persons.name}-{size}-{_key(persons, size, padding)}.npy"
    if not path.exists():
        with alone(path.with_suffix(".lock"), advice="set EDGEPOSE_CACHE to a folder you may write to"):
            if not path.exists():
                _forget(path.parent)
                _cut(persons, affines, side, path)
    with suppress(OSError):
        os.utime(path)
    return CropCache(path, affines)


def _forget(folder: Path) -> None:
    """Remove crops that no run has opened for a month: every change of labels or size leaves some gigabytes behind.

    And those that a run was killed over, a day ago or more.
    """
    for pattern, age in (("crops-*.npy", _KEPT), (".crops-*.npy", _ABANDONED)):
        for path in folder.glob(pattern):
            with suppress(OSError):  # another process was quicker, or they are somebody else's
                if time.time() - path.stat().st_mtime > age:
                    path.unlink()
                    path.with_suffix(".lock").unlink()


def _cut(persons: PersonSet, affines: NDArray[np.float64], side: int, path: Path) -> None:
    def one(job: tuple[Person, NDArray[np.float64]]) -> NDArray[np.uint8]:
        person, affine = job
        return warp(read_image(person.image), affine, (side, side))

    jobs = list(zip(persons.persons, affines, strict=True))
    with write_beside(path) as beside:
        crops = np.lib.format.open_memmap(beside, mode="w+", dtype=np.uint8, shape=(len(jobs), side, side, 3))
        with beside.open("r+b") as file:  # a full disk is a fault here, and the end of the process later
            os.posix_fallocate(file.fileno(), 0, beside.stat().st_size)
        with ThreadPoolExecutor() as pool:
            for index, crop in enumerate(progress(pool.map(one, jobs), len(jobs), f"cutting {persons.name}")):
                crops[index] = crop
        crops.flush()
