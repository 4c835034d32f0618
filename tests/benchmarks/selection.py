"""Does it matter which crops calibrate? INT8 by chosen sets, by random draws of the same size, and by the whole pool.

    python tests/benchmarks/selection.py edgepose-first --pool DATA@train --judge DATA@dev --data-root ../shared/data

Ranges are maxima. Each crop of the pool goes through the float graph once; a set's range is then the largest of its
crops' maxima, which is what ModelOpt gives for that set (checked here for the first draw). Everything else in the Q/DQ
graph does not depend on the set.
"""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from calibration import features as feature_kinds
from calibration import sets
from calibration.cli import persons_of
from calibration.graph import activations, ranges, set_ranges
from calibration.judge import Answers, Judge
from calibration.quantize import int8_manual, quantized_graph
from calibration.ranges import maxima
from calibration.select import choose, radius
from calibration.sensitivity import Run
from edgepose import bundle as bundles
from edgepose import console, engines
from trainer.progress import progress


@dataclass(frozen=True)
class Row:
    """INT8 by one set of crops, against float."""

    method: str
    seed: int
    crops: int
    radius: float  # of coverage in the space of the bottleneck; see calibration.select
    pckh05: float
    pckh01: float
    shift: float  # mean distance from the float model's joints, head lengths


def main(
    model: Annotated[str, typer.Argument(help="The float bundle.")],
    pool: Annotated[str, typer.Option(help="DATA@SPLIT to choose from.")],
    judge: Annotated[str, typer.Option(help="DATA@SPLIT to judge on.")],
    data_root: Annotated[Path | None, typer.Option(envvar="EDGEPOSE_DATA")] = None,
    count: Annotated[int, typer.Option(help="Crops in a set.")] = 128,
    draws: Annotated[int, typer.Option(help="Random sets.")] = 20,
    seeds: Annotated[int, typer.Option(help="Sets of each method that has a seed.")] = 3,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    out: Annotated[Path | None, typer.Option(help="Also write the rows to this JSON file.")] = None,
) -> None:
    """Print a table of every method: mean and spread over its sets."""
    bundle = bundles.load(model)
    crops = sets.cut(persons_of([pool], bundle.manual.skeleton, data_root), bundle.manual)
    judging = Judge(persons_of([judge], bundle.manual.skeleton, data_root), bundle.manual)
    engine = engines.load(bundle, "openvino", engines.Options(threads=threads))
    float_ = judging.answer(engine)
    engine.close()
    features = feature_kinds.extract("bottleneck", bundle, crops)

    plan = [("random", seed) for seed in range(draws)] + [("farthest", 0)]
    plan += [(method, seed) for method in ("kmeans", "dec", "fcae") for seed in range(seeds)]
    chosen = {key: choose(features, crops, count, method=key[0], seed=key[1]).indices for key in plan}
    chosen["all", 0] = np.arange(len(crops))

    first = _set_of(bundle, crops[chosen["random", 0]], pool)
    graph = quantized_graph(bundle, first, method="max")
    tensors = list(activations(graph))
    tops = maxima(bundle, crops, tensors)
    by_us, by_modelopt = tops[chosen["random", 0]].max(axis=0), np.array([ranges(graph)[t] for t in tensors])
    apart = float(np.abs(by_us / by_modelopt - 1).max())
    run = Run(judging, int8_manual(bundle, first, "max"), threads=threads)

    rows = []
    for (method, seed), indices in progress(chosen.items(), len(chosen), "judging"):
        made = copy.deepcopy(graph)
        set_ranges(made, dict(zip(tensors, tops[indices].max(axis=0).tolist(), strict=True)))
        answers = run(made)
        rows.append(Row(method, seed, len(indices), radius(features, indices), answers.percent("pckh05"),
                        answers.percent("pckh01"), _shift(judging, float_, answers)))  # fmt: skip
    typer.echo(f"{model}, {len(crops)} crops of {pool}; judged on {len(judging.persons)} persons of {judge}; float "
               f"PCKh@0.5 {float_.percent('pckh05'):.2f}, PCKh@0.1 {float_.percent('pckh01'):.2f}; "
               f"ranges of the first draw by ModelOpt and by us differ by {100 * apart:.3f} % at most")  # fmt: skip
    _show(rows, float_)
    if out is not None:
        out.write_text(json.dumps([asdict(r) for r in rows], indent=1))


def _set_of(bundle: bundles.Bundle, crops: NDArray[np.uint8], data: str) -> sets.CalibrationSet:
    about = sets.About(model=bundle.manual.name, data=[data], method="random", seed=0, pool=len(crops),
                       persons=[str(i) for i in range(len(crops))])  # fmt: skip
    return sets.CalibrationSet(crops, about)


def _shift(judge: Judge, a: Answers, b: Answers) -> float:
    return float(np.nanmean(judge.shift(a, b)))


def _show(rows: list[Row], float_: Answers) -> None:
    typer.echo("| set | crops | sets | PCKh@0.5 lost | PCKh@0.1 lost | joints moved, heads | radius |")
    typer.echo("|---|---|---|---|---|---|---|")
    for method in dict.fromkeys(r.method for r in rows):
        mine = [r for r in rows if r.method == method]
        cells: list[Any] = [method, mine[0].crops, len(mine)]
        cells += [_spread([float_.percent(m) - getattr(r, m) for r in mine], ".2f") for m in ("pckh05", "pckh01")]
        cells += [_spread([r.shift for r in mine], ".4f"), _spread([r.radius for r in mine], ".1f")]
        typer.echo("| " + " | ".join(str(c) for c in cells) + " |")


def _spread(values: list[float], form: str) -> str:
    """The mean; of several, their standard deviation and extremes too."""
    mean = format(np.mean(values), form)
    if len(values) == 1:
        return mean
    return f"{mean} ± {np.std(values, ddof=1):{form}} ({min(values):{form}} .. {max(values):{form}})"


if __name__ == "__main__":
    console.run(lambda: typer.run(main))
