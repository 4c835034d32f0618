"""What it costs to have all of a picture in BGR, against taking crops from the decoder's layout.

    python tests/benchmarks/pictures.py FILM            # the median of --repeats passes, the two kinds in turns

The film is read through GStreamer at several sizes, once with BGR asked of the pipeline and once as it comes, and two
crops of a person and a fifth of the finder's look are cut from every picture: CPU time of the whole process per
picture, in milliseconds, and the ratio. Decoding and scaling are in both.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from edgepose import console
from edgepose.crops import crop_affine, warp, whole_image
from edgepose.sources import gstreamer, open_source, pipelines

SIZES = ((704, 480), (1280, 720), (1920, 1080))


def cost(film: Path, size: tuple[int, int], *, bgr: bool) -> float:
    """CPU milliseconds per picture of ``film`` at ``size`` (width, height)."""
    width, height = size
    people = [np.array([x * width, 0.1 * height, (x + 0.2) * width, 0.9 * height]) for x in (0.2, 0.6)]
    affines = [crop_affine(box, (192, 192), 1.25) for box in people]
    everything = crop_affine(whole_image(width, height), (256, 256), 1.0)
    layouts = pipelines.LAYOUTS
    pipelines.LAYOUTS = "video/x-raw,format=BGR" if bgr else layouts
    try:
        source = open_source(f"{film.absolute().as_uri()}?width={width}&height={height}", backend="gstreamer")
    finally:
        pipelines.LAYOUTS = layouts
    with source:
        assert isinstance(source, gstreamer.GStreamerSource)
        source.read()
        count, start = 0, time.process_time()
        for frame in source:
            for affine in affines:
                warp(frame.picture, affine, (192, 192))
            if count % 5 == 0:
                warp(frame.picture, everything, (256, 256))
            count += 1
        return (time.process_time() - start) / count * 1e3


def main(
    film: Annotated[Path, typer.Argument(help="A film.", exists=True, dir_okay=False)],
    repeats: Annotated[int, typer.Option(help="Passes of each kind.", min=1)] = 5,
) -> None:
    """Print a table."""
    print("| picture | in BGR, ms | as it comes, ms | ratio |\n|---|---|---|---|")
    for size in SIZES:
        passes = [[cost(film, size, bgr=bgr) for bgr in (True, False)] for _ in range(repeats)]
        bgr, plain = np.median(passes, axis=0)
        print(f"| {size[0]} x {size[1]} | {bgr:.2f} | {plain:.2f} | {plain / bgr:.2f} |", flush=True)


if __name__ == "__main__":
    console.run(lambda: typer.run(main))
