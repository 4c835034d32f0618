"""Do people keep their ids? IDF1, HOTA and id switches of the tracker in a simulated view, over seeds.

    python tests/benchmarks/following.py --frames 300 --seeds 20

People, network and finder are those of tests/people/world.py, so this judges the tracker alone. Only people of whom
most joints can be seen are judged; a row is the mean over seeds, and the worst of them. Who is hidden for longer than
the tracker's patience gets a new id by design: the last columns leave such switches out.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

sys.path.insert(0, str(Path(__file__).parents[2]))  # the tests are no installed package

from edgepose import console
from edgepose.people.tracker import Following, Tracker
from edgepose.skeletons import MPII16
from tests.people.identity import hota, idf1, switches
from tests.people.world import FPS, SCENES, film, regular


def main(
    frames: Annotated[int, typer.Option(help="Frames per film.")] = 300,
    seeds: Annotated[int, typer.Option(help="Films per scene.")] = 20,
    fps: Annotated[float, typer.Option(help="Frames per second.")] = FPS,
    every: Annotated[list[int] | None, typer.Option(help="Frames between looks of the finder; repeatable.")] = None,
    overlap: Annotated[bool, typer.Option(help="Ask for boxes before the last poses are there.")] = False,
) -> None:
    """Print a row per scene and finder interval."""
    typer.echo(f"{seeds} films of {frames} frames at {fps:g} per second{', overlapped' if overlap else ''}")
    typer.echo(
        f"{'scene':22}{'every':>6}{'IDF1':>8}{'worst':>8}{'HOTA':>8}{'worst':>8}{'switches':>10}{'worst':>7}"
        f"{'in time':>10}{'worst':>7}"
    )
    for scene, make in SCENES.items():
        for interval in every or [1, 5, 15]:
            rows = []
            for seed in range(seeds):
                following = Following(every=interval)
                tracker = Tracker("r", MPII16, following)
                record = film(make(seed), tracker, regular(frames, fps), overlap=overlap)
                soon = switches(record, within=int(following.patience * fps))
                rows.append((idf1(record), hota(record), switches(record), soon))
            identity, higher, switched, soon = np.array(rows).T
            typer.echo(
                f"{scene:22}{interval:6d}{identity.mean():8.3f}{identity.min():8.3f}{higher.mean():8.3f}"
                f"{higher.min():8.3f}{switched.mean():10.2f}{switched.max():7.0f}{soon.mean():10.2f}{soon.max():7.0f}"
            )


if __name__ == "__main__":
    console.run(lambda: typer.run(main))
