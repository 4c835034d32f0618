"""Quantise, judge, repair, and publish only what is as good as the float model; or say that it is not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from calibration import groups
from calibration.judge import COMPARABLE, METRICS, Answers, Judge, Masks, judging
from calibration.quantize import Target, check, int8_manual, quantized_graph
from calibration.sensitivity import Budget, Run, Sensitivity, cheapest, sensitivities
from calibration.sets import CalibrationSet, refuse_other
from edgepose import engines
from edgepose.bundle import Accuracy, Bundle, Manual, save
from edgepose.errors import EdgeposeError
from trainer.data.persons import Person
from trainer.data.splits import of_split

People = Mapping[str, list[Person]]  # DATA@SPLIT -> its persons


class BudgetError(EdgeposeError):
    """The INT8 model lost more than the budget allows; nothing was published. Exit code 3."""

    exit_code = 3


@dataclass(frozen=True)
class Outcome:
    """An INT8 model judged beside its float one; ``fault`` says what is over the budget, empty where nothing is."""

    bundle: Bundle  # the float one that INT8 was made from
    reference: Bundle  # the float one that accuracy is compared with; mostly the same
    chosen: CalibrationSet
    method: str  # of the ranges
    engine: str  # that INT8 was judged on
    judge: Judge
    float_: Answers
    int8: Answers
    graph: Any  # the Q/DQ graph that was judged, an onnx.ModelProto
    keep_float: list[str] = field(default_factory=list)
    ranked: list[Sensitivity] = field(default_factory=list)  # empty where no search was needed
    fault: str = ""
    published: Bundle | None = None

    @property
    def runs_on(self) -> str:
        """The engine that it is run on here; the reference only judges."""
        return "openvino" if self.engine == "reference" else self.engine

    @property
    def joints(self) -> dict[str, float]:
        """Points of the leading metric lost by joint, the worst first."""
        return groups.by_joint(self.judge, self.float_, self.int8, self.judge.leading)

    @property
    def activities(self) -> dict[str, float]:
        """Points of the leading metric lost by activity, the worst first; empty where the data know none."""
        return groups.by_group(groups.activities(self.judge), self.float_, self.int8, self.judge.leading)

    @cached_property
    def cluster_masks(self) -> Masks:
        """The judged persons by likeness of pose."""
        return groups.clusters(self.bundle, self.judge)

    @property
    def clusters(self) -> dict[str, float]:
        """Points of the leading metric lost by cluster of poses, the worst first."""
        return groups.by_group(self.cluster_masks, self.float_, self.int8, self.judge.leading)

    def sentence(self) -> str:
        """Float and INT8 accuracy on each set in one line, and the group that lost most."""
        parts = []
        for name, mask in self.judge.sets.items():
            before, after = ({m: a.percent(m, mask) for m in METRICS} for a in (self.float_, self.int8))
            told = ", ".join(f"{m} {before[m]:.2f} -> {after[m]:.2f}" for m in METRICS if math.isfinite(before[m]))
            parts.append(f"{name}, {mask.sum()} persons: {told}".removeprefix(", "))
        kept = f", {len(self.keep_float)} layers in float" if self.keep_float else ""
        worst = next(iter((self.activities or self.clusters).items()), None)
        group = f"; worst group {worst[0]}: {-worst[1]:+.2f} points of {self.judge.leading}" if worst else ""
        return f"{self.bundle.manual.name}, {'; '.join(parts)}{kept}{group}"


def calibrate(
    bundle: Bundle,
    chosen: CalibrationSet,
    people: People,
    path: Path,
    *,
    against: Bundle | None = None,
    method: str = "max",
    budget: Budget | None = None,
    target: Target = "tensorrt",
    threads: int = 0,
    search: bool = False,
) -> Outcome:
    """Write the INT8 bundle to ``path`` if it keeps within ``budget`` on each set of ``people``; else nothing is.

    Where plain INT8 does not, layers go back to float, the most harmful first. ``search`` ranks the layers in any
    case. ``against`` is the float bundle that accuracy is compared
    with, where it is not ``bundle`` itself: for a model that has learnt with INT8's rounding, what it was before.
    The variant for CPUs is not repaired.
    """
    budget = budget or Budget()
    reference = against or bundle
    if reference.manual.precision != "float32":
        raise EdgeposeError(f"{reference.path} is {reference.manual.precision}; accuracy is compared with a float32 "
                            "bundle")  # fmt: skip
    for key in COMPARABLE:
        if getattr(reference.manual, key) != getattr(bundle.manual, key):
            raise EdgeposeError(f"{reference.path} and {bundle.path} differ in {key}; they must be of one model")
    check(bundle, method, target)
    refuse_other(chosen, bundle)
    judge = judge_of(people, bundle.manual)
    float_ = _float_answers(reference, judge, threads)
    model = quantized_graph(bundle, chosen, method=method, target=target)
    manual = int8_manual(bundle, chosen, method, target)
    run = Run(judge, manual, judging(target), threads)
    int8 = run(model)
    fault = budget.broken_by(float_, int8, judge.sets)
    keep: list[str] = []
    ranked: list[Sensitivity] = []
    if target == "tensorrt" and (fault or search):
        own = float_ if against is None else _float_answers(bundle, judge, threads)
        ranked = sensitivities(model, own, judge, run)
    if fault and ranked:
        mixture = cheapest(model, float_, ranked, budget, run)
        model, keep, int8, fault = mixture.model, mixture.keep_float, mixture.answers, mixture.fault
    published = None
    if not fault:
        rows = [_measured(float_, int8, judge, name, run.engine) for name in judge.sets]
        published = save(model, manual.model_copy(update={"accuracy": rows}), path)
    return Outcome(
        bundle, reference, chosen, method, run.engine, judge, float_, int8, model, keep, ranked, fault, published
    )


def rank(
    bundle: Bundle, chosen: CalibrationSet, people: People, *, method: str = "max", threads: int = 0
) -> list[Sensitivity]:
    """What quantising each layer alone does to the joints of ``people``, the most harmful layer first."""
    check(bundle, method)
    refuse_other(chosen, bundle)
    judge = judge_of(people, bundle.manual)
    run = Run(judge, int8_manual(bundle, chosen, method), threads=threads)
    model = quantized_graph(bundle, chosen, method=method)
    return sensitivities(model, _float_answers(bundle, judge, threads), judge, run)


def judged(
    bundle: Bundle,
    int8: Bundle,
    chosen: CalibrationSet,
    people: People,
    *,
    budget: Budget | None = None,
    threads: int = 0,
    search: bool = False,
) -> Outcome:
    """The outcome of an INT8 bundle that exists already, judged anew on ``people``.

    EdgeposeError: the INT8 bundle was not made from ``bundle`` with the set ``chosen``, or ``search`` is of one whose
    layers do not go back to float.
    """
    import onnx

    from calibration.graph import layers, unsigned

    made_from = int8.manual.made_from
    for what, ours in (("bundle", bundle.sha256), ("calibration_set", chosen.sha256)):
        if made_from.get(what) != ours:
            raise EdgeposeError(
                f"{int8.path} was not made with this {what.replace('_', ' ')} (sha256 {ours[:16]}, it states "
                f"{made_from.get(what, 'none')[:16]}); give what it was made with"
            )
    model = onnx.load(int8.path)
    target: Target = "cpu" if unsigned(model) else "tensorrt"
    if search and target == "cpu":
        raise EdgeposeError(f"{int8.path} was made with --target cpu, and no layer of such a file goes back to float: "
                            "there is nothing to rank")  # fmt: skip
    judge = judge_of(people, bundle.manual)
    float_ = _float_answers(bundle, judge, threads)
    method = made_from.get("ranges", "max")
    run = Run(judge, int8.manual, judging(target), threads)
    answers = run(model)
    keep: list[str] = []
    ranked: list[Sensitivity] = []
    if target == "tensorrt":
        whole = quantized_graph(bundle, chosen, method=method)
        keep = [name for name in layers(whole) if name not in layers(model)]
        ranked = sensitivities(whole, float_, judge, run) if search else []
    fault = (budget or Budget()).broken_by(float_, answers, judge.sets)
    published = None if fault else int8
    return Outcome(
        bundle, bundle, chosen, method, run.engine, judge, float_, answers, model, keep, ranked, fault, published
    )


def judge_of(people: People, manual: Manual) -> Judge:
    """A judge of everybody in ``people``, who knows who is of which set."""
    everybody = [person for persons in people.values() for person in persons]
    of_set = np.repeat(np.arange(len(people)), [len(persons) for persons in people.values()])
    return Judge(everybody, manual, {name: of_set == i for i, name in enumerate(people)})


def _measured(float_: Answers, int8: Answers, judge: Judge, name: str, engine: str) -> Accuracy:
    """The figures of INT8 on one set of persons, DATA@SPLIT, and what it lost, as a bundle states them."""
    data, split = of_split(name)
    mask = judge.sets[name]
    before, after = ({metric: a.percent(metric, mask) for metric in METRICS} for a in (float_, int8))
    known = [metric for metric, value in after.items() if math.isfinite(value)]
    return Accuracy(
        data=data,
        split=split or "all",
        persons=int(mask.sum()),
        engine=engine,
        figures={metric: round(after[metric], 2) for metric in known},
        lost={metric: round(before[metric] - after[metric], 2) for metric in known},
    )


def _float_answers(bundle: Bundle, judge: Judge, threads: int) -> Answers:
    with closing(engines.load(bundle, "openvino", engines.Options(threads=threads))) as engine:
        return judge.answer(engine)


def refuse(outcome: Outcome) -> BudgetError:
    """The sentence for an outcome that is over the budget: what was lost, where, and what to do."""
    worst = ", ".join(f"{name} ({lost:.1f})" for name, lost in list(outcome.joints.items())[:3] if lost > 0) or "none"
    layers = ", ".join(s.layer for s in outcome.ranked[:3]) or "not searched"
    return BudgetError(
        f"INT8 of {outcome.bundle.manual.name} is over its budget, nothing was written: {outcome.fault}; "
        f"joints that lost most: {worst}; layers that harm most: {layers}; "
        "choose another calibration set or --method, let the model learn with INT8's rounding "
        "(edgepose-train fit, [quantisation] in the recipe), or allow more by --lose-pckh05, --lose-pckh01 and "
        "--lose-pck02-torso"
    )
