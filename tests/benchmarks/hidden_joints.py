"""Do scores fall where a joint cannot be seen, and do they still say how often it is right?

    python tests/benchmarks/hidden_joints.py edgepose-s --data DATA@dev --data-root ../shared/data

Twice: every joint in turn covered by a grey square of one head length around its label; and, of each person, the joint
that reaches farthest to each side of the picture, with the picture cut off half a head before it. The box stays.

Which joints those are nobody knows who has the scores alone: so, last, all joints of the pictures that were cut off,
and what is right of those with the same score.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from calibration.cli import persons_of
from edgepose import bundle as bundles
from edgepose import console, engines
from edgepose.crops import BORDER
from edgepose.errors import EdgeposeError
from edgepose.estimator import Estimator
from edgepose.metrics import segment_length
from trainer.data.persons import Person, read_image
from trainer.progress import progress
from trainer.uncertainty import calibration

Image = NDArray[np.uint8]


def cover(image: Image, joint: NDArray[np.float64], side: float) -> Image:
    """A grey square of ``side`` pixels over ``joint`` [2]."""
    picture: Image = image.copy()
    low = np.maximum(np.round(joint - side / 2).astype(int), 0)
    high = np.maximum(np.round(joint + side / 2).astype(int), 0)
    picture[low[1] : high[1], low[0] : high[0]] = BORDER
    return picture


def cuts(image: Image, person: Person, head: float) -> list[tuple[int, Image]]:
    """Joints that reach farthest to one side, each with the picture that ends half a head before it.

    What lies beyond the picture's edge is BORDER in a crop, so here it is painted so.
    """
    made = []
    labelled = np.flatnonzero(person.labelled)
    for axis in (0, 1):
        places = person.joints[labelled, axis]
        for farthest, sign in ((places.argmax(), 1), (places.argmin(), -1)):
            edge = max(round(float(places[farthest] - sign * head / 2)), 0)
            beyond = slice(edge, None) if sign > 0 else slice(0, edge)
            picture = image.copy()
            picture[(slice(None), beyond) if axis == 0 else beyond] = BORDER
            made.append((int(labelled[farthest]), picture))
    return made


def main(
    model: Annotated[str, typer.Argument(help="The pose model.")],
    data: Annotated[str, typer.Option(help="DATA@SPLIT of labelled persons.")],
    data_root: Annotated[Path | None, typer.Option(envvar="EDGEPOSE_DATA")] = None,
    heads: Annotated[float, typer.Option(help="Side of the patch in head lengths.")] = 1.0,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
) -> None:
    """Print scores and how often they are right, within half a head, of joints seen, covered and cut off."""
    bundle = bundles.load(model, role="pose")
    estimator = Estimator(engines.load(bundle, "auto", engines.Options(threads=threads)), bundle.manual)
    skeleton = bundle.skeleton
    if skeleton.head is None:
        raise EdgeposeError(f"{model} has no head, by which the patch is measured; name another model")
    ends = skeleton.index(skeleton.head[0]), skeleton.index(skeleton.head[1])
    persons = persons_of([data], skeleton.name, data_root)
    seen, covered, cut = [], [], []  # rows (joint, score, right)
    counted = 0
    rest: list[tuple[int, float, bool]] = []  # of the pictures that were cut off every joint
    for person in progress(persons, len(persons), "hiding joints"):
        head = float(segment_length(person.joints[None], person.labelled[None], ends)[0])
        if not np.isfinite(head):
            continue
        counted += 1
        image = read_image(person.image)
        joints = [int(k) for k in np.flatnonzero(person.labelled)]
        cut_off = cuts(image, person, head)
        pictures = [image, *(cover(image, person.joints[k], heads * head) for k in joints), *(p for _, p in cut_off)]
        poses = estimator.estimate_all(pictures, [person.box[None]] * len(pictures))
        off = [np.linalg.norm(p.joints[0] - person.joints, axis=1) for p in poses]
        rows = [
            list(zip(range(len(skeleton)), p.scores[0], o <= head / 2, strict=True))
            for p, o in zip(poses, off, strict=True)
        ]
        seen += [rows[0][k] for k in joints]
        covered += [row[k] for k, row in zip(joints, rows[1:], strict=False)]
        cut += [row[k] for (k, _), row in zip(cut_off, rows[1 + len(joints) :], strict=True)]
        rest += [row[k] for row in rows[1 + len(joints) :] for k in joints]
    if not counted:
        raise EdgeposeError(f"nobody in {data} has head top and neck labelled, by which the patch is measured; choose "
                            "other data")  # fmt: skip
    typer.echo(f"{model}, {counted} persons of {data}, patch of {heads:g} heads")
    typer.echo("| joint | seen: score | right | covered: score | right | beyond the edge: score | right | cut |")
    typer.echo("|---|---|---|---|---|---|---|---|")
    tables = [np.array(rows, dtype=float) for rows in (seen, covered, cut)]
    for number, name in [*enumerate(skeleton.joints), (-1, "all")]:
        mine = [t if number < 0 else t[t[:, 0] == number] for t in tables]
        cells = [f"{t[:, 1].mean():.2f} | {t[:, 2].mean():.2f}" if len(t) else "- | -" for t in mine]
        typer.echo(f"| {name} | {' | '.join(cells)} | {len(mine[2])} |")
    _, scores, right = np.array(rest, dtype=float).T
    table, error = calibration(scores, right)
    typer.echo(
        f"all {len(scores)} joints of the pictures cut off: calibration error {error:.3f}; score: right (joints)"
    )
    typer.echo(", ".join(f"{b['score']:.2f}: {b['within']:.2f} ({b['joints']})" for b in table))


if __name__ == "__main__":
    console.run(lambda: typer.run(main))
