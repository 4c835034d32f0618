"""Which layers bear INT8, and the cheapest mixture that keeps within the accuracy budget.

Each layer is quantised alone, all others in float, and judged by the finest metric and by how far the joints move. From
all layers in INT8, the most harmful ones go back to float one after the other until the budget is met.
"""

from __future__ import annotations

import math
import tempfile
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from calibration.graph import in_float, layers
from calibration.judge import ROUNDING, Answers, Judge, Masks, judging
from edgepose import engines
from edgepose.bundle import Manual, save
from edgepose.errors import EdgeposeError
from trainer.progress import progress


@dataclass(frozen=True)
class Budget:
    """Largest loss against float, in points of percent."""

    pckh05: float = 0.5
    pckh01: float = 1.0
    pck02_torso: float = 0.5

    def broken_by(self, float_: Answers, int8: Answers, sets: Masks) -> str:
        """What is over the budget in one of the ``sets`` of persons, in words; empty where all is within.

        A metric that none of a set's persons can be judged by is not asked of it.
        """
        faults = []
        for name, persons in sets.items():
            of_set = f" on {name}" if len(sets) > 1 else ""
            for metric, limit in asdict(self).items():
                before, after = (answers.percent(metric, persons) for answers in (float_, int8))
                if math.isfinite(before) and not before - after <= limit + ROUNDING:
                    faults.append(
                        f"{metric} lost {before - after:.2f} points of {before:.2f}{of_set}, allowed are {limit:g}"
                    )
        return "; ".join(faults)


@dataclass(frozen=True)
class Sensitivity:
    """What quantising one layer alone does."""

    layer: str
    lost: float  # points of ``metric``
    shift: float  # mean over joints, head lengths
    metric: str = "pckh01"


@dataclass(frozen=True)
class Mixture:
    """The search's result: ``keep_float`` layers, whether the budget is met, and what is over it."""

    model: Any  # onnx.ModelProto
    keep_float: list[str]
    answers: Answers
    fault: str


@dataclass(frozen=True)
class Run:
    """Answers of any graph of the model that ``manual`` describes; ``run(model)`` of an onnx.ModelProto."""

    judge: Judge
    manual: Manual
    engine: str = field(default_factory=judging)
    threads: int = 0

    def __call__(self, model: Any) -> Answers:
        with tempfile.TemporaryDirectory() as folder:
            bundle = save(model, self.manual, Path(folder) / "tried.onnx")
            with closing(engines.load(bundle, self.engine, engines.Options(threads=self.threads))) as engine:
                return self.judge.answer(engine)


def sensitivities(model: Any, float_: Answers, judge: Judge, run: Run) -> list[Sensitivity]:
    """One entry per layer of the Q/DQ graph ``model``, the most harmful first."""
    names = layers(model)
    if not names:
        raise EdgeposeError("the graph has no quantised layer; quantize it first")
    found = []
    for name in progress(names, len(names), "layer by layer"):
        answers = run(in_float(model, [other for other in names if other != name]))
        lost = float_.percent(judge.finest) - answers.percent(judge.finest)
        found.append(Sensitivity(name, lost, float(np.nanmean(judge.shift(float_, answers))), judge.finest))
    # The shift decides between layers that cost the same few joints: it is finer than a count of hits.
    return sorted(found, key=lambda s: (-s.shift, -s.lost))


def cheapest(
    model: Any, float_: Answers, ranked: list[Sensitivity], budget: Budget, run: Run, *, most: float = 0.5
) -> Mixture:
    """The fewest layers in float, of ``ranked`` the worst first, with which the budget is met.

    The number is halved towards, not counted up to: each try is a run over all persons. At most the share ``most`` of
    the layers goes back, none of very few; beyond it the result would no longer be an INT8 model.
    """
    answers = run(model)
    sets = run.judge.sets
    fault = budget.broken_by(float_, answers, sets)
    if not fault:
        return Mixture(model, [], answers, "")
    limit = int(most * len(ranked))
    if limit < 1:
        return Mixture(model, [], answers, fault)
    tried: dict[int, Mixture] = {}

    def at(count: int) -> Mixture:
        if count not in tried:
            keep = [s.layer for s in ranked[:count]]
            mixed = in_float(model, keep)
            found = run(mixed)
            tried[count] = Mixture(mixed, keep, found, budget.broken_by(float_, found, sets))
        return tried[count]

    low, count = 0, 1
    while count < limit and at(count).fault:
        low, count = count, min(2 * count, limit)
    if at(count).fault:
        return at(count)
    high = count
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if at(middle).fault else (low, middle)
    return at(high)


def show(ranked: list[Sensitivity]) -> None:
    """Print as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="each layer quantised alone, the most harmful first", title_justify="left")
    for heading in ("layer", "joints moved, heads", f"{ranked[0].metric} lost"):
        table.add_column(heading, justify="left" if heading == "layer" else "right")
    for s in ranked:
        table.add_row(s.layer, f"{s.shift:.4f}", f"{s.lost:+.2f}")
    Console().print(table)
