"""What do more people cost? The whole loop's work on films with one person or several, against the pose network alone.

    python tests/benchmarks/people.py --finder edgepose-finder --threads 2

The films are real people from the shipped clip, set side by side; see tests/people/films.py. Everything is timed in
turns in one run: the loop's work on an image, the network alone with one crop (whose rate divided by the people is
"engine only"), and with a crop for each person as one batch.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

sys.path.insert(0, str(Path(__file__).parents[2]))  # the tests are no installed package

from edgepose import bundle as bundles
from edgepose import engines
from edgepose.estimator import Estimator
from edgepose.frame import Frame
from edgepose.people.crowd import Everybody
from edgepose.people.finder import Finder
from edgepose.people.regions import Regions
from edgepose.timing import Timings
from tests.people.films import crossing, side_by_side

_RATE = 25  # images per second of a film
_WARM_UP = 10
_CROSSING = 80  # images: they hide each other for less than a second


def main(
    model: Annotated[str, typer.Option(help="The pose model.")] = "edgepose-s",
    finder: Annotated[str, typer.Option(help="The person finder.")] = "edgepose-finder",
    threads: Annotated[int, typer.Option(help="CPU threads of both.")] = 2,
    images: Annotated[int, typer.Option(help="Length of each film.")] = 100,
) -> None:
    """Print a row for each number of people, then the ids of two people who cross."""
    options = engines.Options(threads=threads)
    bundle, finding = bundles.load(model, role="pose"), bundles.load(finder, role="person")
    engine = engines.load(bundle, "auto", options)
    estimator = Estimator(engine, bundle.manual)
    looking = Finder(engines.load(finding, "auto", options), finding.manual)
    typer.echo("| people | found, mean | loop, fps | engine only, fps / people | share of it | the batch alone, fps | "
               "share of it | finder's share of time | ids |")  # fmt: skip
    typer.echo("|---|---|---|---|---|---|---|---|---|")
    for count in (1, 2, 4):
        film = side_by_side(count, images)
        crowd = Everybody(estimator, looking, "run", {"film": Regions()})
        timings, ids, found = Timings(), Counter[str](), []
        whole, alone, one = [], [], []
        crops = np.zeros((count, 3, *bundle.manual.input_size[::-1]), np.float32)
        for number, shot in enumerate(film):
            frame = Frame(shot.image, number * 10**9 // _RATE, number, "film")
            start = time.perf_counter()
            (people,) = crowd.update([frame], timings)
            middle = time.perf_counter()
            engine.infer(crops)
            end = time.perf_counter()
            engine.infer(crops[:1])
            last = time.perf_counter()
            timings.end_frame()
            ids.update(people.ids)
            if number >= _WARM_UP:
                whole.append(middle - start)
                alone.append(end - middle)
                one.append(last - end)
                found.append(len(people))
        look = timings.table(_WARM_UP).get("look for people", {"mean": 0.0})["mean"] / 1e3
        fps, batch, single = (1 / np.mean(t) for t in (whole, alone, one))
        typer.echo(
            f"| {count} | {np.mean(found):.2f} | {fps:.1f} | {single / count:.1f} | {fps / (single / count):.2f} | "
            f"{batch:.1f} | {fps / batch:.2f} | {look / np.mean(whole):.2f} | {len(ids)} |"
        )
    crowd = Everybody(estimator, looking, "run", {"film": Regions()})
    for number, shot in enumerate(crossing(_CROSSING)):
        (people,) = crowd.update([Frame(shot.image, number * 10**9 // _RATE, number, "film")])
        if number % 15 == 0:
            middles = {name: round(float(box[::2].mean())) for name, box in zip(people.ids, people.boxes, strict=True)}
            typer.echo(f"crossing, image {number}: {middles}; truth "
                       f"{ {n: round(float(b[::2].mean())) for n, b in shot.people.items()} }")  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
