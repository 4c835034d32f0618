"""Pictures of a run: loss and accuracy curves, and a sheet of predictions beside labels."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgepose.crops import apply, crop_affine, warp
from edgepose.draw import draw_pose
from edgepose.files import write_beside
from edgepose.skeletons import Skeleton
from trainer.data.persons import read_image
from trainer.evaluate import Predictions
from trainer.grid import evenly, write_grid

_TILE = 192


def _column(paths: list[Path], y: str) -> tuple[list[float], list[float]]:
    """Steps and values of column ``y``; where two files name a step, the later file holds."""
    rows: dict[float, float] = {}
    for path in paths:
        with path.open(newline="") as file:
            part = {float(r["step"]): float(r[y]) for r in csv.DictReader(file) if r.get("step") and r.get(y)}
        first = min(part, default=float("inf"))
        rows = {step: value for step, value in rows.items() if step < first} | part
    return list(rows), list(rows.values())


POSE_FIGURES = {"pckh05": "PCKh@0.5", "pckh01": "PCKh@0.1", "pck02_torso": "PCK@0.2 torso"}


def curves(folder: Path, figures: Mapping[str, str] = POSE_FIGURES) -> None:
    """Draw ``curve.png`` from the run's log: training loss, and ``figures`` (column -> label) on validation."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    steps, losses = _column(sorted(folder.glob("log/*/metrics.csv")), "loss")
    left.plot(steps, losses, color="#bbb", linewidth=0.7, label="batch")
    if len(losses) > 20:
        window = max(len(losses) // 50, 5)
        smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
        left.plot(steps[window - 1 :], smooth, color="#c33", label=f"mean of {window}")
    left.set(xlabel="step", ylabel="loss", yscale="log", title="training")
    left.legend()
    for key, label in figures.items():
        right.plot(*_column(list(folder.glob("validation.csv")), key), marker="o", markersize=3, label=label)
    right.set(xlabel="step", ylabel="%", ylim=(0, 100), title="validation")
    right.grid(alpha=0.3)
    right.legend()
    with write_beside(folder / "curve.png") as beside:
        figure.savefig(beside, dpi=110)
    pyplot.close(figure)


def reliability_plot(kept: Mapping[str, Any], path: Path) -> None:
    """What :func:`trainer.uncertainty.reliability` found: scores against what they promise, and ellipses by joint."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.5), constrained_layout=True)
    rows = kept["table"]
    left.plot([0, 1], [0, 1], color="#bbb", linewidth=0.8)
    most = max((row["joints"] for row in rows), default=1)
    sizes = [20 + 180 * row["joints"] / most for row in rows]
    left.scatter([row["score"] for row in rows], [row["within"] for row in rows], s=sizes, color="#258")
    left.set(xlabel="score", ylabel="share of joints within half a head", xlim=(0, 1), ylim=(0, 1),
             title=f"scores: expected calibration error {kept['ece']:.3f}" if rows
             else "scores: no head is labelled, so nothing tells how good they are")  # fmt: skip
    joints = list(kept["ellipses_by_joint"])
    for key, colour in (("ellipse_50", "#7ac"), ("ellipse_90", "#258"), ("ellipse_95", "#013")):
        promised = float(key.rpartition("_")[2])
        right.axvline(promised, color=colour, linewidth=0.8)
        shares = [100 * kept["ellipses_by_joint"][joint][key] for joint in joints]
        right.scatter(shares, joints, color=colour, s=18, label=f"{promised:.0f} % ellipse: {100 * kept[key]:.1f}")
    right.set(xlabel="joints inside, %", xlim=(0, 101), title="ellipses")
    right.legend(loc="lower left")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    with write_beside(path) as beside:
        figure.savefig(beside, dpi=110, format=path.suffix[1:].lower())
    pyplot.close(figure)


def contact_sheet(predictions: Predictions, skeleton: Skeleton, path: Path, rows: int = 4, columns: int = 8) -> None:
    """A grid of persons, evenly drawn from the set: the prediction in colour, the labels as white crosses."""
    chosen = evenly(len(predictions.persons), rows * columns)
    write_grid([_tile(predictions, i, skeleton) for i in chosen], columns, path)


def _tile(predictions: Predictions, index: int, skeleton: Skeleton) -> NDArray[np.uint8]:
    person = predictions.persons[index]
    affine = crop_affine(person.box, (_TILE, _TILE), 1.4)
    tile = warp(read_image(person.image), affine, (_TILE, _TILE))
    joints = apply(affine, predictions.joints[index])
    draw_pose(tile, joints, np.ones(len(skeleton), dtype=bool), skeleton, 1)
    for x, y in apply(affine, person.joints)[person.labelled]:
        cv2.drawMarker(tile, (round(x), round(y)), (255, 255, 255), cv2.MARKER_TILTED_CROSS, 5, 1)
    return tile
