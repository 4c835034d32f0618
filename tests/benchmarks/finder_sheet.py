"""What the finder sees in films: a contact sheet of evenly spaced frames with its boxes and their scores.

python tests/benchmarks/finder_sheet.py docs/finder.jpg deploy/demo/*.m??
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from numpy.typing import NDArray

from edgepose import bundle as bundles
from edgepose import console, engines, sources
from edgepose.crops import apply, crop_affine, warp, whole_image
from edgepose.people.finder import Finder, Found
from trainer.grid import evenly, write_grid

_TILE = (240, 135)  # width and height of a picture on the sheet, pixels
_GREEN = (80, 220, 80)


def frames_of(film: Path, count: int) -> list[NDArray[np.uint8]]:
    """At most ``count`` frames, evenly spread over the film, which is gone through twice."""
    with sources.open_source(str(film)) as source:
        wanted = set(evenly(sum(1 for _ in source), count))
    with sources.open_source(str(film)) as source:
        return [frame.image.copy() for frame in source if frame.seq in wanted]


def tile_of(image: NDArray[np.uint8], found: Found) -> NDArray[np.uint8]:
    """The whole image, letterboxed, with boxes and scores."""
    height, width = image.shape[:2]
    affine = crop_affine(whole_image(width, height), _TILE, 1.0)
    tile = warp(image, affine, _TILE)
    for box, score in zip(found.boxes, found.scores, strict=True):
        (x0, y0), (x1, y1) = np.round(apply(affine, box.reshape(2, 2))).astype(int).tolist()
        cv2.rectangle(tile, (x0, y0), (x1, y1), _GREEN, 2)
        cv2.putText(tile, f"{score:.2f}", (x0 + 3, max(y0, 0) + 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, _GREEN, 1)
    return tile


def main(
    sheet: Annotated[Path, typer.Argument(help="The picture to write.")],
    films: Annotated[list[Path], typer.Argument(help="Video files, one after the other.")],
    finder: Annotated[str, typer.Option(help="The person finder.")] = "edgepose-finder-int8",
    each: Annotated[int, typer.Option(help="Frames of each film.", min=1)] = 15,
    columns: Annotated[int, typer.Option(help="Pictures in a row.", min=1)] = 5,
) -> None:
    """Write the sheet and say how many boxes there are."""
    bundle = bundles.load(finder, role="person")
    looking = Finder(engines.load(bundle, "auto", engines.Options(threads=2)), bundle.manual)
    images = [image for film in films for image in frames_of(film, each)]
    answers = [looking.find(image) for image in images]
    write_grid([tile_of(i, found) for i, found in zip(images, answers, strict=True)], columns, sheet)
    typer.echo(f"{sheet}: {sum(map(len, answers))} boxes in {len(images)} frames")


if __name__ == "__main__":
    console.run(lambda: typer.run(main))
