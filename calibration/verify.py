"""Two runners of one model on the same crops: do they give the same joints, and what does each cost?

A runner is a model on an engine in a precision: a bundle on openvino, onnxruntime, tensorrt or reference, or a
checkpoint on torch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from calibration.gate import Outcome
from calibration.judge import COMPARABLE, METRICS, ROUNDING, Answers, Judge
from edgepose import bundle as bundles
from edgepose import engines
from edgepose.bundle import Manual, save
from edgepose.engines import Engine, Precision
from edgepose.errors import EdgeposeError
from edgepose.files import write_beside
from trainer.data.persons import Person
from trainer.profile.latency import take_turns

PRECISIONS: dict[str, Precision] = {p: p for p in get_args(Precision)}
RESAMPLES = 2000


@dataclass(frozen=True)
class Runner:
    """An opened model and how it was asked for."""

    text: str
    engine: Engine
    manual: Manual


def open_runner(text: str, threads: int = 0) -> Runner:
    """From ``MODEL[@ENGINE[/PRECISION]]``: a bundle's name or file, or a checkpoint (on torch).

    EdgeposeError: no such model or engine (see :mod:`edgepose.engines`), or an engine for a checkpoint.
    """
    model, _, how = text.rpartition("@")
    if not model or how.endswith((".onnx", ".ckpt")):  # no @, or one within a path
        model, how = text, ""
    name, _, precision = how.partition("/")
    if model.endswith(".ckpt"):
        from trainer.engine import TorchEngine, manual_of, refuse_engine
        from trainer.fit import load_best

        refuse_engine(f"'{text}'", name)
        if precision not in ("", "auto", "float32"):
            raise EdgeposeError(f"'{text}': a checkpoint runs in float32; export it, and name the bundle's precision")
        recipe, network = load_best(Path(model))
        return Runner(text, TorchEngine(network, threads), manual_of(recipe))
    bundle = bundles.load(model, role="pose")
    if precision and precision not in PRECISIONS:
        raise EdgeposeError(f"'{text}': unknown precision '{precision}'; known: {', '.join(PRECISIONS)}")
    options = engines.Options(threads=threads, precision=PRECISIONS[precision or "auto"])
    return Runner(text, engines.load(bundle, name or "auto", options), bundle.manual)


@dataclass(frozen=True)
class Difference:
    """PCK of both runners in percent, and what b gains over a in points with its 95 % interval."""

    metric: str
    a: float
    b: float
    gain: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found; :func:`dataclasses.asdict` makes it JSON."""

    a: str
    b: str
    persons: int
    scenes: int  # that these are of
    joints: int  # compared: all of persons whose head or torso is labelled that one of the two gives, or both
    shift: dict[str, float]  # distance between the joints of a and b in head lengths: median, p90, p99, max, mean
    differences: list[Difference]
    a_ms: float  # median time of one crop
    b_ms: float
    ratio: float  # median over pairs of time a / time b: above 1, b is faster
    threads: int

    def fault(self, most_lost: dict[str, float]) -> str:
        """What b lost beyond the points that ``most_lost`` allows by metric, in words; empty where nothing."""
        return "; ".join(
            f"{d.metric}: {self.b} is {-d.gain:.2f} points below {self.a}, allowed are {most_lost[d.metric]:g}"
            for d in self.differences
            if d.metric in most_lost and not -d.gain <= most_lost[d.metric] + ROUNDING
        )


def compare_outcome(outcome: Outcome, *, repeats: int = 50, threads: int = 0) -> Comparison:
    """Float and INT8 of a calibration as they were judged; timed on the engine that they run on here."""
    options = engines.Options(threads=threads)
    manual = outcome.bundle.manual.model_copy(update={"precision": "int8", "accuracy": []})
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        int8 = save(outcome.graph, manual, Path(folder) / "int8.onnx")
        pair = [
            Runner(name, stack.enter_context(closing(engines.load(bundle, outcome.runs_on, options))), bundle.manual)
            for name, bundle in (("float", outcome.reference), ("INT8", int8))
        ]
        answers = outcome.float_, outcome.int8
        return _compared(pair, outcome.judge, answers, repeats=repeats, threads=threads)


def compare(a: Runner, b: Runner, judge: Judge, *, repeats: int = 50, threads: int = 0) -> Comparison:
    """Both runners on the persons of ``judge``; latency at batch 1 in turns.

    EdgeposeError: the two do not take the same crops, do not know the same joints or are decoded in different ways.
    """
    for key in COMPARABLE:
        if getattr(a.manual, key) != getattr(b.manual, key):
            raise EdgeposeError(
                f"{a.text} and {b.text} differ in {key} ({getattr(a.manual, key)} and {getattr(b.manual, key)}); "
                "compare runners of one model"
            )
    answers = judge.answer(a.engine), judge.answer(b.engine)
    return _compared([a, b], judge, answers, repeats=repeats, threads=threads)


def _compared(
    pair: Sequence[Runner], judge: Judge, answers: tuple[Answers, Answers], *, repeats: int, threads: int
) -> Comparison:
    """What tells the ``answers`` of two models apart, and what each runner takes."""
    (a, b), (one, two) = pair, answers
    apart = judge.shift(one, two)
    apart = apart[np.isfinite(apart)]
    if not apart.size:
        raise EdgeposeError(f"neither {a.text} nor {b.text} gives any joint a number; try another engine or precision")
    image, scenes = judge.images(1), scenes_of(judge.persons)
    seconds = take_turns([partial(runner.engine.infer, image) for runner in pair], repeats)
    return Comparison(
        a=a.text,
        b=b.text,
        persons=len(judge.persons),
        scenes=int(scenes.max()) + 1,
        joints=apart.size,
        shift={
            "median": float(np.median(apart)),
            "p90": float(np.percentile(apart, 90)),
            "p99": float(np.percentile(apart, 99)),
            "max": float(apart.max()),
            "mean": float(apart.mean()),
        },
        differences=[difference(metric, one, two, scenes) for metric in judge.metrics],
        a_ms=float(np.median(seconds[:, 0]) * 1e3),
        b_ms=float(np.median(seconds[:, 1]) * 1e3),
        ratio=float(np.median(seconds[:, 0] / seconds[:, 1])),
        threads=threads,
    )


def scenes_of(persons: Sequence[Person]) -> NDArray[np.intp]:
    """The scene of each person [N], numbered: frames of one film, or near-duplicates, which fare alike."""
    return np.asarray(np.unique([p.group for p in persons], return_inverse=True)[1], np.intp)


def drawn_again(sums: NDArray[np.floating], scenes: NDArray[np.intp]) -> NDArray[np.float64]:
    """Rows of ``sums`` [M, N] of persons, summed over RESAMPLES samples of as many ``scenes`` [N]: [M, RESAMPLES].

    The bootstrap (Efron & Tibshirani 1993, ch. 13); scenes are drawn with replacement, each with all its persons. Of a
    few scenes such samples tell little, and too small an interval.
    """
    count = int(scenes.max()) + 1
    drawn = np.random.default_rng(0).integers(0, count, (RESAMPLES, count))
    return np.stack([np.bincount(scenes, row, count)[drawn].sum(axis=1) for row in sums])


def difference(metric: str, a: Answers, b: Answers, scenes: NDArray[np.intp]) -> Difference:
    """The gain of b over a, its interval by the paired bootstrap over ``scenes`` [N]; see :func:`drawn_again`.

    Each person is drawn with both runners' joints, so that what is hard for both cancels.
    """
    judged = np.isfinite(a.hits[metric])
    right = np.stack([np.where(judged, x.hits[metric], 0).sum(axis=1) for x in (a, b)])  # [2, N]
    count = judged.sum(axis=1)
    totals, before, after = drawn_again(np.stack([count, *right]), scenes)
    gains = 100 * (after - before) / np.maximum(totals, 1)
    low, high = np.percentile(gains, [2.5, 97.5])
    first, second = (100 * right[i].sum() / max(count.sum(), 1) for i in (0, 1))
    return Difference(metric, float(first), float(second), float(second - first), float(low), float(high))


def show(found: Comparison) -> None:
    """Print as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(
        title=f"{found.persons} persons of {found.scenes} scenes, a = {found.a}, b = {found.b}", title_justify="left"
    )
    for heading in ("metric", "a", "b", "b - a", "95 % interval"):
        table.add_column(heading, justify="left" if heading == "metric" else "right")
    for d in found.differences:
        table.add_row(d.metric, f"{d.a:.2f}", f"{d.b:.2f}", f"{d.gain:+.2f}", f"{d.low:+.2f} .. {d.high:+.2f}")
    console.print(table)
    apart = ", ".join(f"{name} {value:.4f}" for name, value in found.shift.items())
    console.print(f"joints apart, head lengths ({found.joints} joints): {apart}", highlight=False)
    console.print(f"one crop: a {found.a_ms:.2f} ms, b {found.b_ms:.2f} ms, a : b = {found.ratio:.2f}", highlight=False)


def plot(a: Runner, b: Runner, judge: Judge, path: Path) -> None:
    """Share of joints that lie within a distance of each other, over the distance in head lengths."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    apart = judge.shift(judge.answer(a.engine), judge.answer(b.engine))
    apart = np.sort(apart[np.isfinite(apart)])
    figure, axes = pyplot.subplots(figsize=(7, 4), constrained_layout=True)
    axes.plot(np.maximum(apart, 1e-5), 100 * np.arange(1, apart.size + 1) / apart.size, color="#258")
    for limit in (limit for by, limit in METRICS.values() if by == "head"):
        axes.axvline(limit, color="#bbb", linewidth=0.8)
    axes.set(xscale="log", xlabel="distance between the two joints, head lengths", ylabel="joints within it, %",
             title=f"{a.text}  |  {b.text}")  # fmt: skip
    axes.grid(alpha=0.3)
    with write_beside(path) as beside:
        figure.savefig(beside, dpi=110, format=path.suffix[1:].lower())
    pyplot.close(figure)
