"""What do more people cost? The whole loop's work on films with one person or several, against the pose network alone.

    python tests/benchmarks/people.py --threads 2

The films are real people from the shipped clip, set side by side; see tests/people/films.py. Everything is timed in
turns in one run: finding, estimating and following on an image, the network alone with one crop (whose rate divided by
the people is "engine only"), and with a crop for each person as one batch. Last, the two shipped clips side by side go,
as a video file, through the whole loop, from decoding to messages, as in ``edgepose bench``.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer

sys.path.insert(0, str(Path(__file__).parents[2]))  # the tests are no installed package

from edgepose import bundle as bundles
from edgepose import config, console, engines
from edgepose.bench import bench
from edgepose.estimator import Estimator
from edgepose.frame import Frame
from edgepose.people.crowd import Everybody
from edgepose.people.finder import Finder
from edgepose.people.regions import Regions
from tests.people.films import clips_beside, crossing, side_by_side

_RATE = 25  # images per second of a film
_WARM_UP = 10
_ROUNDS = 4  # to and fro of the clips side by side: one lasts less than a second, too short for a figure
_ALONE = 1000  # times that the network runs with one crop and nothing beside it
_CROSSING = 80  # images: they hide each other for less than a second


def through_the_loop(model: str, finder: str, threads: int, images: int) -> tuple[float, float, float, float]:
    """Images per second on the clips side by side: the whole loop; one after the other; networks alone; one crop alone.

    The third is what the second would be if nothing but the two networks took time; the fourth the pose network after
    the run, with nothing else in the caches.
    """
    film, _ = clips_beside(images)
    height, width = film[0].shape[:2]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "beside.mp4"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (width, height))
        for image in (film + film[-2:0:-1]) * _ROUNDS:
            writer.write(image)
        writer.release()
        flags = {"source.uri": str(path), "model": model, "people.finder": finder, "engine.threads": threads}
        found = bench(config.load(flags, environ={}).settings)
    bundle = bundles.load(model, role="pose")
    engine = engines.load(bundle, "auto", engines.Options(threads=threads, batches=(1,)))
    crop = np.zeros((1, 3, *bundle.manual.input_size[::-1]), np.float32)
    times = []
    for _ in range(_ALONE):
        start = time.perf_counter()
        engine.infer(crop)
        times.append(time.perf_counter() - start)
    engine.close()
    return found["fps"], found["fps_in_turn"], found["engine_only_fps"], float(1 / np.mean(times[_WARM_UP:]))


def main(
    model: Annotated[str, typer.Option(help="The pose model.")] = "edgepose-s",
    finder: Annotated[str, typer.Option(help="The person finder.")] = "edgepose-finder-int8",
    threads: Annotated[int, typer.Option(help="CPU threads of both.")] = 2,
    images: Annotated[int, typer.Option(help="Length of each film.")] = 100,
) -> None:
    """Print a row for each number of people, then the ids of two people who cross."""
    options = engines.Options(threads=threads, batches=(1, 2))
    bundle, finding = bundles.load(model, role="pose"), bundles.load(finder, role="person")
    engine = engines.load(bundle, "auto", options)
    estimator = Estimator(engine, bundle.manual)
    beside = engines.Options(threads=max(threads // 2, 1), batches=(1,))  # as the loop has it
    looking = Finder(engines.load(finding, "auto", beside), finding.manual)
    typer.echo("| people | found, mean | finding to following, fps | engine only, fps / people | share of it | "
               "the batch alone, fps | share of it | ids |")  # fmt: skip
    typer.echo("|---|---|---|---|---|---|---|---|")
    for count in (1, 2, 4):
        film = side_by_side(count, images)
        crowd = Everybody(estimator, looking, "run", {"film": Regions()})
        ids, found = Counter[str](), []
        whole, alone, one = [], [], []
        crops = np.zeros((count, 3, *bundle.manual.input_size[::-1]), np.float32)
        for number, shot in enumerate(film):
            frame = Frame(shot.image, number * 10**9 // _RATE, number, "film")
            start = time.perf_counter()
            (people,) = crowd.update([frame])
            crowd.settle()  # a look that still runs belongs to this frame, and would disturb what is timed next
            middle = time.perf_counter()
            engine.infer(crops)  # the caches are its own again
            begin_batch = time.perf_counter()
            engine.infer(crops)
            end = time.perf_counter()
            engine.infer(crops[:1])
            begin_one = time.perf_counter()
            engine.infer(crops[:1])
            last = time.perf_counter()
            ids.update(people.ids)
            if number >= _WARM_UP:
                whole.append(middle - start)
                alone.append(end - begin_batch)
                one.append(last - begin_one)
                found.append(len(people))
        fps, batch, single = (1 / np.mean(t) for t in (whole, alone, one))
        typer.echo(
            f"| {count} | {np.mean(found):.2f} | {fps:.1f} | {single / count:.1f} | {fps / (single / count):.2f} | "
            f"{batch:.1f} | {fps / batch:.2f} | {len(ids)} |"
        )
    crowd = Everybody(estimator, looking, "run", {"film": Regions()})
    for number, shot in enumerate(crossing(_CROSSING)):
        (people,) = crowd.update([Frame(shot.image, number * 10**9 // _RATE, number, "film")])
        if number % 15 == 0:
            middles = {name: round(float(box[::2].mean())) for name, box in zip(people.ids, people.boxes, strict=True)}
            typer.echo(f"crossing, image {number}: {middles}; truth "
                       f"{ {n: round(float(b[::2].mean())) for n, b in shot.people.items()} }")  # fmt: skip
    fps, in_turn, networks, single = through_the_loop(model, finder, threads, images)
    typer.echo(f"the clips side by side, decoding and messages included: {fps:.1f} fps; "
               f"one after the other {in_turn:.1f}, networks alone {networks:.1f}; "
               f"engine only, hot, fps / people {single / 2:.1f}, "
               f"share {fps / (single / 2):.2f} (one after the other {in_turn / (single / 2):.2f})")  # fmt: skip


if __name__ == "__main__":
    console.run(lambda: typer.run(main))
