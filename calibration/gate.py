"""Quantise, judge, repair, and publish only what is as good as the float model; or say that it is not."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from calibration.judge import METRICS, Answers, Judge
from calibration.quantize import Target, int8_manual, quantized_graph
from calibration.sensitivity import (
    Budget,
    Run,
    Sensitivity,
    cheapest,
    groups_that_broke,
    joints_that_broke,
    sensitivities,
)
from calibration.sets import CalibrationSet
from edgepose import engines
from edgepose.bundle import Accuracy, Bundle, save
from edgepose.errors import EdgeposeError
from trainer.data.persons import Person


class BudgetError(EdgeposeError):
    """The INT8 model lost more than the budget allows; nothing was published. Exit code 3."""

    exit_code = 3


@dataclass(frozen=True)
class Outcome:
    """What calibrating gave; ``fault`` says what is over the budget, empty where the bundle was published."""

    bundle: Bundle  # the float one
    chosen: CalibrationSet
    method: str
    judge: Judge
    float_: Answers
    int8: Answers
    keep_float: list[str] = field(default_factory=list)
    ranked: list[Sensitivity] = field(default_factory=list)  # empty where no search was needed
    fault: str = ""
    published: Bundle | None = None

    @property
    def joints(self) -> dict[str, float]:
        """Points of PCKh@0.5 lost by joint, the worst first."""
        return joints_that_broke(self.judge, self.float_, self.int8)

    @property
    def groups(self) -> dict[str, float]:
        """Points of PCKh@0.5 lost by activity, the worst first."""
        return groups_that_broke(self.judge, self.float_, self.int8)

    def sentence(self) -> str:
        """Float and INT8 accuracy in one line."""
        parts = [f"{m} {self.float_.percent(m):.2f} -> {self.int8.percent(m):.2f}" for m in METRICS]
        kept = f", {len(self.keep_float)} layers in float" if self.keep_float else ""
        return f"{self.bundle.manual.name}, {len(self.judge.persons)} persons: {', '.join(parts)}{kept}"


def calibrate(
    bundle: Bundle,
    chosen: CalibrationSet,
    persons: list[Person],
    path: Path,
    *,
    judged_on: str,
    method: str = "max",
    budget: Budget | None = None,
    target: Target = "tensorrt",
    threads: int = 0,
    search: bool = False,
) -> Outcome:
    """Write the INT8 bundle to ``path`` if it keeps within ``budget`` on ``persons``; else nothing is written.

    Where plain INT8 does not, layers go back to float, the most harmful first. ``search`` ranks the layers in any
    case. ``judged_on`` names the persons as DATA@SPLIT. The variant for onnxruntime is judged on onnxruntime, and
    is not repaired: layers are ranked on OpenVINO.
    """
    budget = budget or Budget()
    judge = Judge(persons, bundle.manual)
    float_engine = engines.load(bundle, "openvino", engines.Options(threads=threads))
    float_ = judge.answer(float_engine)
    float_engine.close()
    model = quantized_graph(bundle, chosen, method=method, target=target)
    manual = int8_manual(bundle, chosen)
    run = Run(judge, manual, "onnxruntime" if target == "onnxruntime" else "openvino", threads)
    int8 = run(model)
    fault = budget.broken_by(float_, int8)
    keep: list[str] = []
    ranked: list[Sensitivity] = []
    if target == "tensorrt" and (fault or search):
        ranked = sensitivities(model, float_, judge, run)
    if fault and ranked:
        mixture = cheapest(model, float_, ranked, budget, run)
        model, keep, int8, fault = mixture.model, mixture.keep_float, mixture.answers, mixture.fault
    outcome = Outcome(bundle, chosen, method, judge, float_, int8, keep, ranked, fault)
    if fault:
        return outcome
    data, _, split = judged_on.partition("@")
    figures = {name: round(int8.percent(name), 2) for name in METRICS}
    rows = [Accuracy(data=data, split=split or "all", persons=len(persons), engine=run.engine, figures=dict(figures))]
    published = save(model, manual.model_copy(update={"accuracy": rows}), path)
    return Outcome(bundle, chosen, method, judge, float_, int8, keep, ranked, "", published)


def refuse(outcome: Outcome) -> BudgetError:
    """The sentence for an outcome that is over the budget: what was lost, where, and what to do."""
    worst = ", ".join(f"{name} ({lost:.1f})" for name, lost in list(outcome.joints.items())[:3] if lost > 0) or "none"
    layers = ", ".join(s.layer for s in outcome.ranked[:3]) or "not searched"
    return BudgetError(
        f"INT8 of {outcome.bundle.manual.name} is over its budget, nothing was written: {outcome.fault}; "
        f"joints that lost most: {worst}; layers that harm most: {layers}; "
        "choose another calibration set or --method, or allow more by --lose-pckh05 and --lose-pckh01"
    )
