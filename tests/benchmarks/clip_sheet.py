"""Is the skeleton right to the eye? A film's people, found and followed as in the loop, on a contact sheet.

    python tests/benchmarks/clip_sheet.py sheet.jpg deploy/demo/one_by_one_person.mp4 --model edgepose-s-int8

Of every tenth frame one tile for each person who stands fully in the picture (its box touches no edge), cut out around
the box; above it the frame's number and the id. Joints with a score under --sure are left out, as
``edgepose run --overlay`` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from numpy.typing import NDArray

from edgepose import bundle as bundles
from edgepose import console, engines, sources
from edgepose.crops import apply, crop_affine, warp
from edgepose.draw import draw_pose
from edgepose.engines import Options
from edgepose.estimator import Estimator
from edgepose.frame import Frame
from edgepose.people import People
from edgepose.people.crowd import Everybody
from edgepose.people.finder import Finder
from edgepose.people.regions import Regions
from edgepose.skeletons import Skeleton
from trainer.grid import write_grid

_TILE = (150, 190)  # width and height, pixels
_EDGE = 2.0  # pixels


def tiles_of(
    image: NDArray[np.uint8], people: People, skeleton: Skeleton, title: str, sure: float
) -> list[NDArray[np.uint8]]:
    """A picture of each person who is fully in the image."""
    height, width = image.shape[:2]
    tiles = []
    for name, box, joints, scores in zip(
        people.ids, people.boxes, people.poses.joints, people.poses.scores, strict=True
    ):
        if box[:2].min() < _EDGE or box[2] > width - _EDGE or box[3] > height - _EDGE:
            continue
        affine = crop_affine(box, _TILE, 1.15)
        tile = warp(image, affine, _TILE)
        draw_pose(tile, apply(affine, joints), scores >= sure, skeleton, 1)
        label = f"{title} {name.rpartition('-')[2]}"
        cv2.putText(tile, label, (3, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
        tiles.append(tile)
    return tiles


def followed(
    film: Path, model: str, finder: str, threads: int, *, engine: str = "auto", hold_sides: bool = True
) -> Iterator[tuple[NDArray[np.uint8], People]]:
    """Each frame of ``film`` and its people, found and followed as in the loop."""
    with sources.open_source(str(film)) as source:
        yield from followed_in(source, model, finder, threads, engine=engine, hold_sides=hold_sides)


def followed_in(
    frames: Iterable[Frame], model: str, finder: str, threads: int, *, engine: str = "auto", hold_sides: bool = True
) -> Iterator[tuple[NDArray[np.uint8], People]]:
    """Each of ``frames`` and its people, found and followed as in the loop; ``engine`` is the pose network's."""
    pose, found = bundles.load(model, role="pose"), bundles.load(finder, role="person")
    opened = [
        engines.load(bundle, name, Options(threads=threads, batches=(1,)))
        for bundle, name in ((pose, engine), (found, "auto"))
    ]
    estimator, looking = Estimator(opened[0], pose.manual, second_look=True), Finder(opened[1], found.manual)
    crowd = Everybody(estimator, looking, "run", {"": Regions()}, hold_sides=hold_sides)
    try:
        for number, frame in enumerate(frames):
            (people,) = crowd.update([Frame(frame.image, frame.acquired_ns, number, "")])
            yield frame.image, people
    finally:
        crowd.settle()  # a look of the finder's may still run
        for each in opened:
            each.close()


def main(
    sheet: Annotated[Path, typer.Argument(help="The picture to write; with many tiles SHEET-2, SHEET-3, ... too.")],
    film: Annotated[Path, typer.Argument(help="A video file.")],
    model: Annotated[str, typer.Option(help="The pose model.")] = "edgepose-s-int8",
    finder: Annotated[str, typer.Option(help="The person finder.")] = "edgepose-finder-int8",
    every: Annotated[int, typer.Option(help="Frames from one tile to the next.", min=1)] = 10,
    sure: Annotated[float, typer.Option(help="Joint score from which a joint is drawn.")] = 0.4,
    columns: Annotated[int, typer.Option(help="Tiles in a row.", min=1)] = 8,
    engine: Annotated[str, typer.Option(help="What runs the pose model.")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads.", min=1)] = 2,
) -> None:
    """Write the sheets and say how many people are on them."""
    skeleton = bundles.load(model, role="pose").skeleton
    tiles: list[NDArray[np.uint8]] = []
    ids: set[str] = set()
    for number, (image, people) in enumerate(followed(film, model, finder, threads, engine=engine)):
        ids |= set(people.ids)
        if number % every == 0:
            tiles += tiles_of(image, people, skeleton, str(number), sure)
    page = 5 * columns
    for first in range(0, len(tiles), page):
        path = sheet if first == 0 else sheet.with_stem(f"{sheet.stem}-{first // page + 1}")
        write_grid(tiles[first : first + page], columns, path)
    typer.echo(f"{sheet}: {len(tiles)} people fully in view, every {every} frames of {film.name}; {len(ids)} ids")


if __name__ == "__main__":
    console.run(lambda: typer.run(main))
