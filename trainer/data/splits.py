"""Splits that never tear a scene apart: persons of one group stand on one side.

A group's side follows from a hash of the set's name and its own, so adding groups moves nobody else. Images of a set
that are near-duplicates of each other (perceptual hash) are joined into one group first, named after its first member:
an image that is added may join groups, or give one another name, and so move those who are in them. Where sides must
stay whatever is added, as between a training and its continuation, the annotations' own groups and distinct pictures
are needed. But all pictures of one fixed camera look alike, whoever stands in them: where more than a third of a set
would join one group nothing is joined, and it is said.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from edgepose import console
from edgepose.errors import unknown
from edgepose.files import cache_dir, kind, write_beside
from trainer.data.persons import PersonSet, read_image
from trainer.progress import progress

Split = Literal["train", "dev", "val", "all"]
SPLITS: tuple[str, ...] = get_args(Split)
# Percent of groups (dev, val): dev is for choices and for fitting score calibration, val is only ever
# reported. LSPET is large, so a smaller share measures it well enough.
_SHARES, _DEFAULT_SHARES = {"lspet": (3, 5)}, (8, 20)
_TWIN_BITS = 4  # dHash distance up to which two images count as the same picture
_MOST, _FEW = 1 / 3, 20  # share of a set's images that near-duplicates may join, of more images than a few


def of_split(text: str) -> tuple[str, str]:
    """DATA and SPLIT of ``DATA@SPLIT``, the latter empty where there is none; an @ within a path is none."""
    data, _, split = text.rpartition("@")
    return (data, split) if data and "/" not in split else (text, "")


def say_without_split(option: str, texts: Iterable[str] | None) -> None:
    """Tell which data of an option that wants persons whom nobody learnt from name no split."""
    for text in texts or ():
        if not of_split(text)[1]:
            console.say(f"note: {option} {text} names no split, so whom the network learnt from counts too; "
                        f"write {text}@dev, or {text}@all where nobody did")  # fmt: skip


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
    return replace(
        persons.subset(lambda p: side(persons.name, p.group) == split),
        bare={image: group for image, group in persons.bare.items() if side(persons.name, group) == split},
    )


def why_empty(split: str) -> str:
    """The rest of the sentence that says that nobody is in ``split``."""
    if split == "all":
        return ""
    return (
        "; groups of images are dealt out by a hash of their names, and a few may leave a split empty: "
        "add images, or name a file of their own with split 'all'"
    )


def dhash(image: NDArray[np.uint8]) -> int:
    """64-bit difference hash: whether each of 8 x 8 grey cells is brighter than its left neighbour."""
    grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), (9, 8), interpolation=cv2.INTER_AREA)
    bits = (grey[:, 1:] > grey[:, :-1]).ravel()
    return int("".join("1" if b else "0" for b in bits), 2)


def join_twins(persons: PersonSet) -> PersonSet:
    """The same persons, with groups merged that share an image, or have near-duplicates of each other's."""
    groups_of = {image: {group} for image, group in persons.bare.items()}
    for person in persons.persons:
        groups_of.setdefault(person.image, set()).add(person.group)
    images = sorted(groups_of)
    names = sorted(set().union(*groups_of.values()))
    number = {name: i for i, name in enumerate(names)}
    merged = np.arange(len(names))  # [G] of each group the number of the first one that it is merged with

    def merge(groups: NDArray[np.intp]) -> None:
        together = np.unique(merged[groups])
        merged[np.isin(merged, together)] = together[0]

    for groups in groups_of.values():
        merge(np.array([number[group] for group in groups]))
    sharing, of_image = merged.copy(), np.array([number[min(groups_of[image])] for image in images], dtype=np.intp)
    for i, near in twins(_hashes(persons.name, images)):
        merge(of_image[[i, *near]])
    first, joined = sharing[of_image], merged[of_image]  # [N] of each image
    for group in np.unique(joined[joined != first]):
        together = first[joined == group]
        if len(together) - np.bincount(together).max() > max(_MOST * len(images), _FEW):  # images that joined others
            _say_alike(persons.name, len(together), len(images))
            merged = sharing
            break
    name_of = {name: names[merged[i]] for i, name in enumerate(names)}
    return replace(
        persons,
        persons=[replace(p, group=name_of[p.group]) for p in persons.persons],
        bare={image: name_of[group] for image, group in persons.bare.items()},
    )


@cache
def _say_alike(set_name: str, most: int, images: int) -> None:
    """Once in a process."""
    console.say(
        f"note: {most} of the {images} images of {set_name} look alike, as those of one fixed camera do: near-"
        "duplicates may stand on both sides of a split; give images of one scene the same 'group' in the annotations"
    )


def _hashes(set_name: str, images: list[Path]) -> list[int]:
    """dHash of every image, kept on disk between runs (keyed by file names, sizes and times)."""
    stamp = hashlib.sha256()
    for path in images:
        if kind(path) == "nothing":
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


def twins(hashes: Iterable[int]) -> Iterator[tuple[int, list[int]]]:
    """Each position whose hash is near those of some before it, and which."""
    codes = np.array(list(hashes), dtype=np.uint64)
    for i in range(1, len(codes)):
        near = np.flatnonzero(np.bitwise_count(codes[:i] ^ codes[i]) <= _TWIN_BITS).tolist()
        if near:
            yield i, near
