"""Accuracy of many variants of one model on the same persons, their crops cut once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.sets import cut
from edgepose import skeletons
from edgepose.bundle import Manual
from edgepose.crops import apply, crop_affine, invert
from edgepose.engines import Engine
from edgepose.engines.pipelined import pipelined
from edgepose.errors import EdgeposeError
from edgepose.heatmaps import Decoder, cells_to_input
from edgepose.metrics import correct, segment_length
from trainer.data.persons import Person

METRICS = {"pckh05": 0.5, "pckh01": 0.1}  # thresholds in head lengths
_BATCH = 8


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

    def __init__(self, persons: list[Person], manual: Manual) -> None:
        """EdgeposeError: nobody to judge on, or no head segment to measure by, in the skeleton or in the labels."""
        self.manual, self.persons = manual, persons
        self.skeleton = skeletons.get(manual.skeleton)
        if not persons:
            raise EdgeposeError("there is no labelled person to judge on; choose other data")
        if self.skeleton.head is None:
            raise EdgeposeError(f"skeleton {self.skeleton.name} has no head segment, so PCKh cannot be measured")
        self._back = [invert(crop_affine(p.box, manual.input_size, manual.padding)) for p in persons]
        truth = np.stack([p.joints for p in persons])
        self._labelled = np.stack([p.labelled for p in persons])
        self._truth = truth
        a, b = self.skeleton.head
        self.head = segment_length(truth, self._labelled, (self.skeleton.index(a), self.skeleton.index(b)))
        if not np.isfinite(self.head).any():
            raise EdgeposeError(f"no person in the data has both {a} and {b} labelled, by which PCKh is measured; "
                                "judge on other data")  # fmt: skip
        self.crops = cut(persons, manual, "cutting crops to judge on")  # [N, 3, H, W] uint8 RGB

    def images(self, count: int) -> NDArray[np.float32]:
        """The first ``count`` crops as the network takes them."""
        return self.crops[:count].astype(np.float32)

    def answer(self, engine: Engine) -> Answers:
        """Run ``engine`` over all crops and decode as the device does."""
        width, height = self.manual.input_size
        decode = self.manual.decode
        decoder = Decoder(
            len(self.skeleton),
            (width // self.manual.stride, height // self.manual.stride),
            method=decode.method,
            blur_sigma=decode.blur_sigma,
            moment_radius=decode.moment_radius,
            mirror=self.skeleton.mirror,
            mirror_ratio=decode.mirror_ratio,
        )
        joints = np.empty((len(self.persons), len(self.skeleton), 2))
        starts = range(0, len(joints), _BATCH)
        batches = (self.crops[start : start + _BATCH].astype(np.float32) for start in starts)
        for start, heatmaps in zip(starts, pipelined(engine, batches), strict=True):
            for i, cells in enumerate(decoder(heatmaps).xy, start):
                joints[i] = apply(self._back[i], cells_to_input(cells, self.manual.stride))
        hits = {
            name: correct(joints, self._truth, self._labelled, self.head, threshold)
            for name, threshold in METRICS.items()
        }
        return Answers(joints, hits)

    def shift(self, a: Answers, b: Answers) -> NDArray[np.float64]:
        """How far apart two engines put each joint [N, K], in head lengths; NaN where the head is not labelled."""
        return np.asarray(np.linalg.norm(a.joints - b.joints, axis=-1) / self.head[:, None])
