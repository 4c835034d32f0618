"""A person finder in INT8: ranges from whole images, judged by whom it finds; or nothing.

No layer goes back to float: where INT8 as it is finds too few people, nothing is written.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calibration.gate import BudgetError
from calibration.judge import ROUNDING, judging
from calibration.quantize import quantize
from calibration.sets import About, CalibrationSet, crop
from edgepose import engines
from edgepose.bundle import Accuracy, Bundle, Manual, save
from edgepose.crops import whole_image
from edgepose.errors import EdgeposeError
from edgepose.people.finder import Finder
from trainer.data.persons import read_image
from trainer.data.splits import of_split
from trainer.finder.evaluate import LEAST, LOWEST, Quality, look, quality
from trainer.finder.scenes import Scene
from trainer.progress import progress

Scenes = Mapping[str, list[Scene]]  # DATA@SPLIT -> its scenes


@dataclass(frozen=True)
class Outcome:
    """An INT8 finder that was written, and how well it and the float one find people, by DATA@SPLIT."""

    bundle: Bundle
    float_: dict[str, Quality]
    int8: dict[str, Quality]

    def sentence(self) -> str:
        """Average precision and recall of both on each set, in one line."""
        parts = []
        for name, before in self.float_.items():
            after = self.int8[name]
            parts.append(
                f"{name}, {before.people} people: AP {before.average_precision:.2f} -> {after.average_precision:.2f}, "
                f"recall {before.recall:.2f} -> {after.recall:.2f}"
            )
        return f"{self.bundle.manual.name}, {'; '.join(parts)}"


def drawn(sets: Scenes, manual: Manual, count: int, seed: int = 0) -> CalibrationSet:
    """``count`` images drawn at random from ``sets``, as many from each, as the finder of ``manual`` sees them.

    EdgeposeError: a set has too few images, or one cannot be read.
    """
    width, height = manual.input_size
    rng = np.random.default_rng(seed)
    shares = [len(part) for part in np.array_split(np.arange(count), len(sets))]
    chosen: list[Path] = []
    for (name, scenes), share in zip(sets.items(), shares, strict=True):
        if share > len(scenes):
            raise EdgeposeError(f"{name} has {len(scenes)} images, and {share} of it are to be drawn; lower --count")
        chosen += [scenes[i].image for i in np.sort(rng.choice(len(scenes), share, replace=False))]
    crops = np.empty((count, 3, height, width), dtype=np.uint8)
    for index, path in enumerate(progress(chosen, count, "reading images")):
        image = read_image(path)
        crops[index] = crop(image, whole_image(image.shape[1], image.shape[0]), manual)
    about = About(
        model=manual.name,
        data=list(sets),
        method="random",
        seed=seed,
        pool=sum(map(len, sets.values())),
        padding=manual.padding,
        persons=[path.name for path in chosen],
    )
    return CalibrationSet(crops, about, hashlib.sha256(crops.tobytes()).hexdigest())


def calibrate(
    bundle: Bundle,
    chosen: CalibrationSet,
    judge_on: Scenes,
    path: Path,
    *,
    method: str = "max",
    lose_ap: float = 0.5,
    threads: int = 0,
) -> Outcome:
    """Write the INT8 bundle of the finder ``bundle`` to ``path``, its ranges from the images ``chosen``.

    BudgetError: on one of the sets ``judge_on`` it loses more than ``lose_ap`` points of average precision.
    EdgeposeError: nobody to judge on.
    """
    import onnx

    for name, scenes in judge_on.items():
        if not any(len(scene.people) for scene in scenes):
            raise EdgeposeError(f"{name} has nobody to judge on: no person has enough labelled joints for a box of the "
                                "whole; choose other data")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        twin = quantize(bundle, chosen, Path(folder) / "int8.onnx", method=method)
        float_, int8 = (_found(each, judge_on, threads) for each in (bundle, twin))
        lost = {name: float_[name].average_precision - int8[name].average_precision for name in judge_on}
        worst = max(lost, key=lambda name: lost[name])
        if lost[worst] > lose_ap + ROUNDING:
            raise BudgetError(
                f"INT8 of {bundle.manual.name} is over its budget, nothing was written: on {worst} it loses "
                f"{lost[worst]:.2f} points of average precision, {lose_ap:g} may be lost; choose another --method, "
                "--seed or --count, or allow more by --lose-ap"
            )
        rows = [_measured(name, float_[name], result) for name, result in int8.items()]
        proto, manual = onnx.load(twin.path), twin.manual.model_copy(update={"accuracy": rows})
    return Outcome(save(proto, manual, path), float_, int8)


def _found(bundle: Bundle, sets: Scenes, threads: int) -> dict[str, Quality]:
    with closing(engines.load(bundle, judging(), engines.Options(threads=threads))) as engine:
        finder = Finder(engine, bundle.manual, least=LOWEST)
        return {
            name: quality(scenes, look(finder, scenes, f"looking at {name}"), LEAST) for name, scenes in sets.items()
        }


def _measured(name: str, before: Quality, result: Quality) -> Accuracy:
    data, split = of_split(name)
    keys = ("average_precision", "recall", "precision", "labelled_recall")
    figures = {key: getattr(result, key) for key in keys}
    lost = {key: round(getattr(before, key) - value, 2) for key, value in figures.items() if value is not None}
    return Accuracy(
        data=data, split=split or "all", persons=result.people, engine=judging(), figures=figures, lost=lost
    )
