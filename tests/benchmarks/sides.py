"""How often do left and right change places from one frame to the next? Shoulders and hips of a film's people.

    python tests/benchmarks/sides.py deploy/demo/one_by_one_person.mp4 --models edgepose-s-int8

Counted are the frames in which somebody's line from the right shoulder (hip) to the left one points the other way than
in the frame before, both times longer than --least of the box's height: nobody turns that fast, so the network took
left for right, or had done so until then. Once as they are decoded, once with ``people.hold_sides`` as in the loop.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

sys.path.insert(0, str(Path(__file__).parents[2]))  # the tests are no installed package

from edgepose import bundle as bundles
from edgepose import console
from edgepose.people import People
from edgepose.skeletons import Skeleton
from tests.benchmarks.clip_sheet import followed

LEADERS = ("shoulder", "hip")


def exchanges(film: Iterable[People], skeleton: Skeleton, least: float) -> int:
    """In how many frames of ``film`` a leader's line has turned about since the frame before."""
    left, right = ([skeleton.index(f"{side}_{name}") for name in LEADERS] for side in ("left", "right"))
    before: dict[str, np.ndarray] = {}
    count = 0
    for people in film:
        heights = people.boxes[:, 3] - people.boxes[:, 1]
        lines = (people.poses.joints[:, left] - people.poses.joints[:, right]) / heights[:, None, None]  # [N, 2, 2]
        now = dict(zip(people.ids, lines, strict=True))
        count += any(
            float(a @ b) < 0 and min(np.hypot(*a), np.hypot(*b)) > least
            for name in now.keys() & before.keys()
            for a, b in zip(before[name], now[name], strict=True)
        )
        before = now
    return count


def main(
    film: Annotated[Path, typer.Argument(help="A video file.")],
    models: Annotated[list[str], typer.Option(help="Pose models.")],
    finder: Annotated[str, typer.Option(help="The person finder.")] = "edgepose-finder-int8",
    least: Annotated[float, typer.Option(help="Length from which a line tells a side, of the box's height.")] = 0.08,
    threads: Annotated[int, typer.Option(help="CPU threads.", min=1)] = 2,
    engine: Annotated[str, typer.Option(help="What runs the pose models.")] = "auto",
) -> None:
    """Print a row for each model."""
    typer.echo("| model | frames with an exchange | with hold_sides |")
    typer.echo("|---|---|---|")
    for model in models:
        skeleton = bundles.load(model, role="pose").skeleton
        counts = [
            exchanges(
                (people for _, people in followed(film, model, finder, threads, engine=engine, hold_sides=held)),
                skeleton,
                least,
            )
            for held in (False, True)
        ]
        typer.echo(f"| {model} | {counts[0]} | {counts[1]} |")


if __name__ == "__main__":
    console.run(lambda: typer.run(main))
