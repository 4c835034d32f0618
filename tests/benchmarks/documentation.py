"""The pictures of README.md and docs/people.md, drawn anew by the networks that are shipped.

    python tests/benchmarks/documentation.py docs

``demo.png``: three frames of the shipped clip. ``people.jpg``: four people cut out of it and set into its room.
``upright.jpg``: frames of it that are turned, with one look and with a second one.
"""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[2]))  # the tests are no installed package

from edgepose import bundle as bundles
from edgepose import console, engines
from edgepose.draw import draw_pose
from edgepose.engines import Options
from edgepose.errors import EdgeposeError
from edgepose.estimator import Estimator
from edgepose.frame import Frame
from edgepose.sinks.overlay import VISIBLE, annotate
from tests.benchmarks.clip_sheet import followed, followed_in
from tests.people.films import CLIP, side_by_side
from tests.test_upright import TURNS, turned

STANDING = (110, 280, 660)  # frames of the clip in which one person stands in full view
LYING = (330, 600, 800)
SETTLED = 40  # images after which everybody has been seen often enough
_MARGIN = 16  # pixels about a turned person's box

Image = NDArray[np.uint8]


def demo(model: str, finder: str) -> Image:
    """Three people of the clip, one beside the other: a square as high as the picture about each."""
    skeleton, tiles = bundles.load(model, role="pose").skeleton, []
    film = islice(followed(CLIP, model, finder, 2), max(STANDING) + 1)
    for number, (image, people) in enumerate(film):
        if number in STANDING:
            drawn = annotate(Frame(image, 0, 0, ""), people, skeleton)
            height, width = drawn.shape[:2]
            left = int(np.clip(people.boxes[0, [0, 2]].mean() - height / 2, 0, width - height))
            tiles.append(drawn[:, left : left + height])
    return np.concatenate(tiles, axis=1)


def four(model: str, finder: str) -> Image:
    """Four people in one picture, each under an id."""
    shots = side_by_side(4, SETTLED)
    frames = [Frame(shot.image, number * 10**9 // 25, number, "") for number, shot in enumerate(shots)]
    *_, (image, people) = followed_in(frames, model, finder, 2)
    return annotate(Frame(image, 0, 0, ""), people, bundles.load(model, role="pose").skeleton)


def upright(model: str, finder: str) -> Image:
    """Above by one look, below with a second one; each frame turned otherwise."""
    bundle = bundles.load(model, role="pose")
    engine = engines.load(bundle, "auto", Options(threads=2))
    looks = [Estimator(engine, bundle.manual, second_look=second) for second in (False, True)]
    rows: list[list[Image]] = [[], []]
    film = {number: pair for number, pair in enumerate(islice(followed(CLIP, model, finder, 2), max(LYING) + 1))
            if number in LYING}  # fmt: skip
    for (image, people), quarters in zip(film.values(), TURNS, strict=True):
        rolled, box, _ = turned(image, people.boxes[0], quarters)
        for row, look in zip(rows, looks, strict=True):
            drawn, poses = rolled.copy(), look.estimate(rolled, box[None])
            draw_pose(drawn, poses.joints[0], poses.scores[0] >= VISIBLE, bundle.skeleton, 2)
            row.append(_square(drawn, box))
    engine.close()
    pictures = [np.concatenate(row, axis=1) for row in rows]
    for picture, words in zip(pictures, ("one look", "with a second look"), strict=True):
        (width, _), _ = cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, 0.6, 1)
        cv2.rectangle(picture, (0, 0), (width + 16, 30), (255, 255, 255), -1)
        cv2.putText(picture, words, (8, 21), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate(pictures)


def _square(image: Image, box: NDArray[np.float64], side: int = 300) -> Image:
    """What is about ``box``, ``side`` pixels wide and high, the rest grey."""
    half = (box[2:] - box[:2]).max() / 2 + _MARGIN
    x, y = (box[:2] + box[2:]) / 2 - half
    scale = side / (2 * half)
    affine = np.array([[scale, 0, -x * scale], [0, scale, -y * scale]])
    return np.asarray(cv2.warpAffine(image, affine, (side, side), flags=cv2.INTER_AREA, borderValue=(110,) * 3))


def main(
    folder: Annotated[Path, typer.Argument(help="The folder to write them into.")],
    model: Annotated[str, typer.Option(help="The pose model.")] = "edgepose-s",
    finder: Annotated[str, typer.Option(help="The person finder.")] = "edgepose-finder",
) -> None:
    """Write the three pictures."""
    pictures = {
        "demo.png": demo(model, finder),
        "people.jpg": four(model, finder),
        "upright.jpg": upright(model, finder),
    }
    for name, picture in pictures.items():
        if not cv2.imwrite(str(folder / name), picture):
            raise EdgeposeError(f"cannot write {folder / name}; check the folder")


if __name__ == "__main__":
    console.run(lambda: typer.run(main))
