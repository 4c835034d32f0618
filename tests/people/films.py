"""Real people with known truth: cut out of the shipped clip, whose camera stands still, and set into its empty room.

Every film is a list of BGR images with, for each person, the box that its pixels cover. Who comes later in a scene
stands in front.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgepose import sources

CLIPS = Path(__file__).parents[2] / "deploy" / "demo"
CLIP = CLIPS / "one_by_one_person.mp4"
SIGNER = CLIPS / "signer_eat.mkv"  # one person, from the hips up
EMPTY = 20  # a frame without anybody
_DIFFERS = 30  # grey levels from the empty room, from which a pixel is the person's
STANDING = (120, 250, 600, 830, 1010, 1300)  # frames in which one person stands in full view


@dataclass(frozen=True)
class CutOut:
    """A person's pixels: ``image`` [h, w, 3] and ``mask`` [h, w], 0..1."""

    image: NDArray[np.uint8]
    mask: NDArray[np.float32]


@dataclass(frozen=True)
class Shot:
    """One image of a film, and who is in it: id -> box [4]."""

    image: NDArray[np.uint8]
    people: dict[str, NDArray[np.float64]]


@cache
def frames(numbers: tuple[int, ...]) -> dict[int, NDArray[np.uint8]]:
    """Frames of the clip by their numbers."""
    found = {}
    with sources.open_source(str(CLIP)) as source:
        for frame in source:
            if frame.seq in numbers:
                found[frame.seq] = frame.image.copy()
            if frame.seq >= max(numbers):
                break
    return found


@cache
def cut_outs() -> list[CutOut]:
    """The people of the clip, each once."""
    pictures = frames((EMPTY, *STANDING))
    return [_cut(pictures[number], pictures[EMPTY]) for number in STANDING]


def _cut(image: NDArray[np.uint8], empty: NDArray[np.uint8]) -> CutOut:
    differs = (cv2.absdiff(image, empty).max(axis=2) > _DIFFERS).astype(np.uint8)
    differs = cv2.morphologyEx(differs, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    differs = cv2.morphologyEx(differs, cv2.MORPH_CLOSE, np.ones((15, 15), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(differs)
    assert count > 1, "nobody in this frame"
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    x, y, w, h = (int(v) for v in stats[largest, :4])
    mask = cv2.GaussianBlur((labels == largest).astype(np.float32), (5, 5), 0)
    return CutOut(image[y : y + h, x : x + w].copy(), mask[y : y + h, x : x + w])


def place(picture: NDArray[np.uint8], person: CutOut, x: float, feet: float, scale: float) -> NDArray[np.float64]:
    """Set ``person`` into ``picture``, centred on column ``x``, standing on row ``feet``; returns its box."""
    image = cv2.resize(person.image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    mask = cv2.resize(person.mask, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_AREA)[..., None]
    height, width = image.shape[:2]
    left, top = round(x - width / 2), round(feet - height)
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + width, picture.shape[1]), min(top + height, picture.shape[0])
    if x1 > x0 and y1 > y0:
        seen = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
        under = picture[y0:y1, x0:x1]
        picture[y0:y1, x0:x1] = (mask[seen] * image[seen] + (1 - mask[seen]) * under).astype(np.uint8)
    return np.array([x0 - 0.5, y0 - 0.5, x1 - 0.5, y1 - 0.5])


def crossing(count: int = 120, who: tuple[int, int] = (0, 3)) -> list[Shot]:
    """Two people walk through the room in opposite directions and pass each other; ``count`` images."""
    pictures = frames((EMPTY, *STANDING))
    first, second = (cut_outs()[i] for i in who)
    shots = []
    for number in range(count):
        share = number / (count - 1)
        picture = pictures[EMPTY].copy()
        boxes = {
            "left": place(picture, first, 120 + 520 * share, 405, 0.92),
            "right": place(picture, second, 640 - 520 * share, 425, 1.0),
        }
        shots.append(Shot(picture, boxes))
    return shots


@cache
def clip(path: Path, first: int, count: int) -> list[NDArray[np.uint8]]:
    """Frames ``first`` to ``first + count`` of a clip, or as many as it has."""
    with sources.open_source(str(path)) as source:
        return [f.image.copy() for f in itertools.takewhile(lambda f: f.seq < first + count, source) if f.seq >= first]


def clips_beside(count: int = 60, first: int = 240) -> tuple[list[NDArray[np.uint8]], list[tuple[int, int]]]:
    """The two shipped clips side by side, ``count`` images at 10 fps, and each clip's columns.

    In each one person is there all the time: from frame ``first`` on in the room, signing in the other, which runs
    to and fro as it is shorter.
    """
    room, signing = clip(CLIP, first, count), clip(SIGNER, 0, 1000)[::3]  # of 30 fps
    there_and_back = signing + signing[-2:0:-1]
    images = []
    for number, left in enumerate(room):
        right = there_and_back[number % len(there_and_back)]
        padded = cv2.copyMakeBorder(left, 0, right.shape[0] - left.shape[0], 0, 0, cv2.BORDER_CONSTANT)
        images.append(np.concatenate([padded, right], axis=1).astype(np.uint8))
    middle, end = room[0].shape[1], images[0].shape[1]
    return images, [(0, middle), (middle, end)]


def side_by_side(people: int, count: int = 100) -> list[Shot]:
    """``people`` persons stand next to each other in one wide room and sway a little; ``count`` images."""
    empty = frames((EMPTY, *STANDING))[EMPTY]
    wide = np.concatenate([empty, empty[:, ::-1]] * ((people + 3) // 4), axis=1)
    step = wide.shape[1] / people
    shots = []
    for number in range(count):
        picture, boxes = wide.copy(), {}
        for i in range(people):
            sway = 12 * np.sin(2 * np.pi * (number / 40 + i / people))
            person = cut_outs()[i % len(STANDING)]
            boxes[str(i)] = place(picture, person, step * (i + 0.5) + sway, 415, 0.9)
        shots.append(Shot(picture, boxes))
    return shots
