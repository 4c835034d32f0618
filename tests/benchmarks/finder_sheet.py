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
from edgepose import engines, sources
from edgepose.people.finder import Finder

_TILE = (240, 135)  # a picture on the sheet, pixels
_GREEN = (80, 220, 80)


def frames_of(film: Path, count: int) -> list[NDArray[np.uint8]]:
    """``count`` frames, evenly spaced over the whole film."""
    with sources.open_source(str(film)) as source:
        total = 0
        while source.read() is not None:
            total += 1
    if not total:
        raise SystemExit(f"error: {film} has no frames")
    wanted, frames = set(np.linspace(0, total - 1, count).round().astype(int).tolist()), []
    with sources.open_source(str(film)) as source:
        while (frame := source.read()) is not None:
            if frame.seq in wanted:
                frames.append(frame.image.copy())
    return frames


def main(
    sheet: Annotated[Path, typer.Argument(help="The picture to write.")],
    films: Annotated[list[Path], typer.Argument(help="Video files, one after the other.")],
    finder: Annotated[str, typer.Option(help="The person finder.")] = "edgepose-finder",
    each: Annotated[int, typer.Option(help="Frames of each film.", min=1)] = 15,
    columns: Annotated[int, typer.Option(help="Pictures in a row.", min=1)] = 5,
) -> None:
    """Write the sheet and say how many boxes there are."""
    bundle = bundles.load(finder, role="person")
    looking = Finder(engines.load(bundle, "auto", engines.Options(threads=2)), bundle.manual)
    tiles, boxes = [], 0
    for film in films:
        for image in frames_of(film, each):
            found = looking.find(image)
            boxes += len(found.boxes)
            scale = min(_TILE[0] / image.shape[1], _TILE[1] / image.shape[0])
            small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            tile = np.zeros((_TILE[1], _TILE[0], 3), np.uint8)
            tile[: small.shape[0], : small.shape[1]] = small
            for box, score in zip(found.boxes, found.scores, strict=True):
                x0, y0, x1, y1 = (int(v) for v in np.round(box * scale))
                cv2.rectangle(tile, (x0, y0), (x1, y1), _GREEN, 2)
                cv2.putText(tile, f"{score:.2f}", (x0 + 3, max(y0, 0) + 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, _GREEN, 1)
            tiles.append(tile)
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    if not cv2.imwrite(str(sheet), np.vstack(rows)):
        raise SystemExit(f"error: {sheet} cannot be written; choose another place")
    typer.echo(f"{sheet}: {boxes} boxes in {each * len(films)} frames")


if __name__ == "__main__":
    typer.run(main)
