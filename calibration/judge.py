"""Accuracy of many variants of one model on the same persons, their crops cut once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from calibration.quantize import Target
from calibration.sets import cut
from edgepose import skeletons
from edgepose.bundle import Manual
from edgepose.crops import apply, crop_affine, invert
from edgepose.engines import Engine
from edgepose.engines.cpu import sums_exactly
from edgepose.engines.pipelined import pipelined
from edgepose.errors import EdgeposeError
from edgepose.estimator import decoder_of
from edgepose.heatmaps import cells_to_input
from edgepose.metrics import HEAD, correct, segment_length
from trainer.data.persons import Person

Masks = Mapping[str, NDArray[np.bool_]]  # group -> which of N persons are in it
# By what a joint is measured, and how near in such lengths it must be; see edgepose.metrics.
METRICS: dict[str, tuple[Literal["head", "torso"], float]] = {
    "pckh05": ("head", 0.5),
    "pckh01": ("head", 0.1),
    "pck02_torso": ("torso", 0.2),
}
# What two models must share to be judged on the same crops, and decoded by the same decoder.
COMPARABLE = ("input_size", "padding", "skeleton", "stride", "decode")
ROUNDING = 1e-9  # points; a loss of exactly what may be lost is within the budget
_BATCH = 8


def judging(target: Target = "tensorrt") -> str:
    """The engine that INT8 files made for ``target`` are judged on, by which they compute as they will there.

    OpenVINO computes as TensorRT does, but not on a CPU where it is given weights in seven bits.
    """
    if target == "cpu":
        return "onnxruntime"
    return "openvino" if sums_exactly() else "reference"


@dataclass(frozen=True)
class Answers:
    """One engine's joints [N, K, 2] in image pixels, and by metric whether each is right [N, K] (NaN: not judged)."""

    joints: NDArray[np.float64]
    hits: dict[str, NDArray[np.float64]]

    def percent(self, metric: str, persons: NDArray[np.bool_] | None = None) -> float:
        """Share of right joints, of all persons or of those in a mask [N]; NaN when none is judged."""
        hits = self.hits[metric] if persons is None else self.hits[metric][persons]
        return float(100 * np.nanmean(hits)) if np.isfinite(hits).any() else float("nan")


class Judge:
    """Labelled persons ready to be answered by any engine of models with the same crop and skeleton."""

    def __init__(self, persons: list[Person], manual: Manual, sets: Masks | None = None) -> None:
        """``sets``: which of the ``persons`` are of which data, where they are of several.

        EdgeposeError: nobody to judge on, or nobody whose head or torso is labelled, by which joints are measured.
        """
        self.manual, self.persons = manual, persons
        self.sets = sets or {"": np.ones(len(persons), dtype=np.bool_)}
        self.skeleton = skeletons.get(manual.skeleton)
        if not persons:
            raise EdgeposeError("there is no labelled person to judge on; choose other data")
        self._back = [invert(crop_affine(p.box, manual.input_size, manual.padding)) for p in persons]
        sides = np.array(manual.input_size, np.float64)
        self._diagonals = np.array([np.linalg.norm(back[:, :2] @ sides) for back in self._back])  # image pixels
        truth = np.stack([p.joints for p in persons])
        self._labelled = np.stack([p.labelled for p in persons])
        self._truth = truth
        self._lengths = {"head": self._length(self.skeleton.head), "torso": self._length(self.skeleton.torso)}
        known = np.isfinite(self._lengths["head"]) | np.isfinite(self._lengths["torso"])
        for name in (name for name, mask in self.sets.items() if not known[mask].any()):
            ends = " or ".join(f"{a} and {b}" for a, b in filter(None, (self.skeleton.head, self.skeleton.torso)))
            raise EdgeposeError(f"joints are measured by what lies between {ends}, and no person in "
                                f"{name or 'the data'} has both labelled; judge on other data")  # fmt: skip
        self.crops = cut(persons, manual, "cutting crops to judge on")  # [N, 3, H, W] uint8 RGB

    def _length(self, ends: tuple[str, str] | None) -> NDArray[np.float64]:
        """Of each person's segment between two joints [N]; NaN where one is not labelled, or the skeleton has none."""
        if ends is None:
            return np.full(len(self.persons), np.nan)
        a, b = (self.skeleton.index(end) for end in ends)
        return segment_length(self._truth, self._labelled, (a, b))

    @property
    def metrics(self) -> list[str]:
        """Those of METRICS that some of the persons can be judged by."""
        return [name for name, (by, _) in METRICS.items() if np.isfinite(self._lengths[by]).any()]

    @property
    def finest(self) -> str:
        """The metric that small movements of joints show in first."""
        return "pckh01" if "pckh01" in self.metrics else self.metrics[0]

    @property
    def leading(self) -> str:
        """The metric that groups are compared by: the first, or of several sets the last, which they have in common."""
        return self.metrics[0 if len(self.sets) == 1 else -1]

    def images(self, count: int) -> NDArray[np.float32]:
        """The first ``count`` crops as the network takes them."""
        return self.crops[:count].astype(np.float32)

    def answer(self, engine: Engine) -> Answers:
        """Run ``engine`` over all crops and decode as the device does."""
        decoder = decoder_of(self.manual)
        joints = np.empty((len(self.persons), len(self.skeleton), 2))
        starts = range(0, len(joints), _BATCH)
        batches = (self.crops[start : start + _BATCH].astype(np.float32) for start in starts)
        for start, heatmaps in zip(starts, pipelined(engine, batches), strict=True):
            for i, cells in enumerate(decoder(heatmaps).xy, start):
                joints[i] = apply(self._back[i], cells_to_input(cells, self.manual.stride))
        hits = {
            name: correct(joints, self._truth, self._labelled, self._lengths[by], threshold)
            for name, (by, threshold) in METRICS.items()
        }
        return Answers(joints, hits)

    def shift(self, a: Answers, b: Answers) -> NDArray[np.float64]:
        """How far apart two engines put each joint [N, K], in head lengths.

        A joint that only one of them gives counts as the crop's diagonal apart. Where the head is not labelled HEAD of
        the torso is taken for it; NaN where that is not labelled either, or neither engine gives the joint.
        """
        head = np.where(np.isfinite(self._lengths["head"]), self._lengths["head"], HEAD * self._lengths["torso"])
        known = [np.isfinite(answers.joints).all(axis=-1) for answers in (a, b)]
        apart = np.linalg.norm(a.joints - b.joints, axis=-1)
        return np.asarray(np.where(known[0] != known[1], self._diagonals[:, None], apart) / head[:, None])
