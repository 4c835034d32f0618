"""Do scores fall where a joint cannot be seen? Every joint in turn is covered by a grey patch, and its score looked at.

    python tests/benchmarks/hidden_joints.py edgepose-s --data DATA@dev --data-root ../shared/data

The patch is a square of one head length around the label; the person's box stays.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from calibration.cli import persons_of
from edgepose import bundle as bundles
from edgepose import engines
from edgepose.crops import BORDER
from edgepose.estimator import Estimator
from edgepose.metrics import segment_length
from trainer.data.persons import read_image
from trainer.progress import progress


def main(
    model: Annotated[str, typer.Argument(help="The pose model.")],
    data: Annotated[str, typer.Option(help="DATA@SPLIT of labelled persons.")],
    data_root: Annotated[Path | None, typer.Option(envvar="EDGEPOSE_DATA")] = None,
    heads: Annotated[float, typer.Option(help="Side of the patch in head lengths.")] = 1.0,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
) -> None:
    """Print the mean score of each joint when seen and when covered, and how often it falls."""
    bundle = bundles.load(model, role="pose")
    estimator = Estimator(engines.load(bundle, "auto", engines.Options(threads=threads)), bundle.manual)
    skeleton = bundle.skeleton
    assert skeleton.head is not None, "the patch is measured in heads"
    ends = skeleton.index(skeleton.head[0]), skeleton.index(skeleton.head[1])
    persons = persons_of([data], skeleton.name, data_root)
    seen, covered = (np.full((len(persons), len(skeleton)), np.nan) for _ in range(2))
    for i, person in enumerate(progress(persons, len(persons), "covering joints")):
        head = segment_length(person.joints[None], person.labelled[None], ends)[0]
        if not np.isfinite(head):
            continue
        image = read_image(person.image)
        pictures = [image]
        labelled = np.flatnonzero(person.labelled)
        for k in labelled:
            picture = image.copy()
            low = np.maximum(np.round(person.joints[k] - heads * head / 2).astype(int), 0)
            high = np.maximum(np.round(person.joints[k] + heads * head / 2).astype(int), 0)
            picture[low[1] : high[1], low[0] : high[0]] = BORDER
            pictures.append(picture)
        scores = [p.scores[0] for p in estimator.estimate_all(pictures, [person.box[None]] * len(pictures))]
        for k, hidden in zip(labelled, scores[1:], strict=True):
            seen[i, k], covered[i, k] = scores[0][k], hidden[k]
    typer.echo(f"{model}, {len(persons)} persons of {data}, patch of {heads:g} heads")
    typer.echo("| joint | score seen | score covered | falls in |")
    typer.echo("|---|---|---|---|")
    rows = [(joint, seen[:, k], covered[:, k]) for k, joint in enumerate(skeleton.joints)]
    for joint, a, b in [*rows, ("all", seen, covered)]:
        fell = 100 * np.mean((b < a)[np.isfinite(a)])
        typer.echo(f"| {joint} | {np.nanmean(a):.2f} | {np.nanmean(b):.2f} | {fell:.0f} % |")


if __name__ == "__main__":
    typer.run(main)
