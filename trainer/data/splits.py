"""Splits that never tear a scene apart: persons of one group stand on one side.

A group's side follows from a hash of the set's name and its own, so adding groups moves nobody. Images of a set that
are near-duplicates of each other (perceptual hash) are joined into one group first, named after its first member.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from edgepose.errors import unknown
from edgepose.files import cache_dir, write_beside
from trainer.data.persons import PersonSet, read_image
from trainer.progress import progress

Split = Literal["train", "dev", "val", "all"]
SPLITS: tuple[str, ...] = get_args(Split)
# Percent of groups (dev, val): dev is for choices and for fitting score calibration, val is only ever
# reported. LSPET is large, so a smaller share measures it well enough.
_SHARES, _DEFAULT_SHARES = {"lspet": (3, 5)}, (8, 20)
_TWIN_BITS = 4  # dHash distance up to which two images count as the same picture


def of_split(text: str) -> tuple[str, str]:
    """DATA and SPLIT of ``DATA@SPLIT``, the latter empty where there is none; an @ within a path is none."""
    data, _, split = text.rpartition("@")
    return (data, split) if data and "/" not in split else (text, "")


def side(set_name: str, group: str) -> str:
    """'train', 'dev' or 'val' for a group, by a stable hash."""
    bucket = int(hashlib.sha256(f"{set_name}/{group}".encode()).hexdigest()[:8], 16) % 100
    dev, val = _SHARES.get(set_name, _DEFAULT_SHARES)
    return "val" if bucket < val else "dev" if bucket < val + dev else "train"


def take(persons: PersonSet, split: str) -> PersonSet:
    """The persons of ``split``; 'all' keeps everybody."""
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if split == "all":
        return persons
    return persons.subset(lambda p: side(persons.name, p.group) == split)


def dhash(image: NDArray[np.uint8]) -> int:
    """64-bit difference hash: whether each of 8 x 8 grey cells is brighter than its left neighbour."""
    grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), (9, 8), interpolation=cv2.INTER_AREA)
    bits = (grey[:, 1:] > grey[:, :-1]).ravel()
    return int("".join("1" if b else "0" for b in bits), 2)


def join_twins(persons: PersonSet) -> PersonSet:
    """The same persons, with groups merged where images are near-duplicates of each other."""
    images = sorted({p.image for p in persons.persons})
    pairs = near_pairs(_hashes(persons.name, images))
    root: dict[str, str] = {}

    def find(group: str) -> str:
        while root.get(group, group) != group:
            group = root[group]
        return group

    group_of = {p.image: p.group for p in persons.persons}
    for i, j in pairs:
        a, b = find(group_of[images[i]]), find(group_of[images[j]])
        if a != b:
            root[max(a, b)] = min(a, b)
    return PersonSet(persons.name, persons.skeleton, [replace(p, group=find(p.group)) for p in persons.persons])


def _hashes(set_name: str, images: list[Path]) -> list[int]:
    """dHash of every image, kept on disk between runs (keyed by file names, sizes and times)."""
    stamp = hashlib.sha256()
    for path in images:
        if not path.exists():
            read_image(path)  # raises the sentence for a missing image
        stat = path.stat()
        stamp.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    kept = cache_dir() / f"dhash-{set_name}-{stamp.hexdigest()[:16]}.npy"
    if kept.exists():
        return [int(code) for code in np.load(kept, allow_pickle=False)]
    with ThreadPoolExecutor() as pool:
        codes = list(progress(pool.map(lambda p: dhash(read_image(p)), images), len(images), f"hashing {set_name}"))
    with write_beside(kept) as beside:
        np.save(beside, np.array(codes, dtype=np.uint64), allow_pickle=False)
    return codes


def near_pairs(hashes: Iterable[int]) -> list[tuple[int, int]]:
    """All pairs of positions whose hashes are near each other."""
    codes = np.array(list(hashes), dtype=np.uint64)
    return [
        (i, int(j))
        for i in range(1, len(codes))
        for j in np.flatnonzero(np.bitwise_count(codes[:i] ^ codes[i]) <= _TWIN_BITS)
    ]
