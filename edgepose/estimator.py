"""Person boxes in an image -> joints in image pixels: crop, engine, decode, and back.

The loop and ``edgepose-train evaluate`` both go through here, so that a figure is of what runs. Evaluation looks once
unless it is told to look twice, as the loop does at who leans.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from edgepose import skeletons
from edgepose.bundle import Manual
from edgepose.crops import apply, apply_covariance, crop_affine, invert, to_input, warp
from edgepose.engines import Engine
from edgepose.engines.pipelined import Begun
from edgepose.errors import EdgeposeError
from edgepose.heatmaps import Decoder, cells_to_input, input_to_cells
from edgepose.picture import Picture
from edgepose.timing import StageTimer, untimed
from edgepose.upright import LEAN, SOMEBODY, box_upright, lean, second_counts

Crop = tuple[Picture, NDArray[np.floating]]  # a picture [H, W, 3] and a person's box [4] in it


@dataclass(frozen=True)
class Poses:
    """Joints of N persons with K joints each, in image pixels; the arrays are the caller's own."""

    joints: NDArray[np.float64]  # [N, K, 2]
    scores: NDArray[np.float64]  # [N, K] through the manual's score map, 0..1
    covariance: NDArray[np.float64]  # [N, K, 3] var_x, cov_xy, var_y in pixels squared

    def __len__(self) -> int:
        return len(self.joints)

    @cached_property
    def person_scores(self) -> NDArray[np.float64]:
        """How surely each is a person [N], 0..1: the mean of the surer half of its joints' scores.

        Who is seen from the hips up, or stands behind a table, has the other half out of sight.
        """
        half = (self.scores.shape[1] + 1) // 2
        return np.asarray(np.sort(self.scores, axis=1)[:, -half:].mean(axis=1) if len(self) else np.zeros(0))


@dataclass(frozen=True)
class _Batch:
    """Crops that are run, or will be."""

    crops: Sequence[Crop]
    affines: list[NDArray[np.float64]]  # each [2, 3], from image to input pixels
    heatmaps: Callable[[], NDArray[np.float32]]  # waits for them
    expected: NDArray[np.float64] | None = None  # [N, K, 2] where joints should be, in cells


def decoder_of(manual: Manual) -> Decoder:
    """What reads the heatmaps of the pose model that ``manual`` describes."""
    skeleton, decode, (width, height) = skeletons.get(manual.skeleton), manual.decode, manual.input_size
    return Decoder(
        len(skeleton),
        (width // manual.stride, height // manual.stride),
        method=decode.method,
        blur_sigma=decode.blur_sigma,
        moment_radius=decode.moment_radius,
        mirror=skeleton.mirror,
        mirror_ratio=decode.mirror_ratio,
    )


class Estimator:
    """A pose model ready to run. Not for use by two threads at once."""

    def __init__(self, engine: Engine, manual: Manual, *, second_look: bool = False) -> None:
        """``second_look``: at whoever leans far and may be a person, with the crop turned upright.

        It counts where it is surer than the first and agrees with it how the person leans.
        """
        self.engine = engine
        self._second_look = second_look
        self.manual = manual
        self.skeleton = skeletons.get(manual.skeleton)
        width, height = manual.input_size
        self._decoder = decoder_of(manual)
        self._begun = Begun(engine)
        self._inputs = np.zeros((1, 3, height, width), dtype=np.float32)
        self._crop = np.zeros((height, width, 3), dtype=np.uint8)
        self._spread = np.asarray(manual.covariance_scale, dtype=np.float64)

    def estimate(
        self,
        picture: Picture,
        boxes: NDArray[np.floating],
        timer: StageTimer = untimed,
        *,
        expected: NDArray[np.floating] | None = None,
    ) -> Poses:
        """Joints of the persons in ``boxes`` [N, 4] of a ``picture`` [H, W, 3], such as a BGR array; one batch."""
        return self.estimate_all([picture], [boxes], timer, expected=None if expected is None else [expected])[0]

    def estimate_all(
        self,
        pictures: Sequence[Picture],
        boxes: Sequence[NDArray[np.floating]],
        timer: StageTimer = untimed,
        *,
        expected: Sequence[NDArray[np.floating]] | None = None,
    ) -> list[Poses]:
        """Joints of the persons in the boxes [N_i, 4] of each picture; all of them are one batch.

        ``expected`` [N_i, K, 2]: where each joint should be, in image pixels, NaN where that is not known; see
        :class:`edgepose.heatmaps.Decoder`.
        """
        return self._finish(self._cut(pictures, boxes, timer, expected, ahead=False), boxes, timer)

    def begin_all(
        self,
        pictures: Sequence[Picture],
        boxes: Sequence[NDArray[np.floating]],
        timer: StageTimer = untimed,
        *,
        expected: Sequence[NDArray[np.floating]] | None = None,
    ) -> Callable[[], list[Poses]]:
        """As ``estimate_all``, but what it returns waits for the joints; the engine runs meanwhile, if it can.

        Others may be begun, or estimated, before that.
        """
        return partial(self._finish, self._cut(pictures, boxes, timer, expected, ahead=True), boxes, timer)

    def _cut(
        self,
        pictures: Sequence[Picture],
        boxes: Sequence[NDArray[np.floating]],
        timer: StageTimer,
        expected: Sequence[NDArray[np.floating]] | None,
        *,
        ahead: bool,
    ) -> _Batch | None:
        crops = [(picture, box) for picture, own in zip(pictures, boxes, strict=True) for box in own]
        batch = self._batch(crops, np.zeros(len(crops)), timer, ahead=ahead)
        if batch is None or expected is None:
            return batch
        joints = (person for own in expected for person in own)
        seen = [apply(affine, person) for affine, person in zip(batch.affines, joints, strict=True)]
        return replace(batch, expected=input_to_cells(np.stack(seen), self.manual.stride))

    def _finish(self, batch: _Batch | None, boxes: Sequence[NDArray[np.floating]], timer: StageTimer) -> list[Poses]:
        """The poses in each picture, whose ``boxes`` [N_i, 4] the batch was cut by."""
        found = self._poses(batch, timer)
        if batch is not None and self._second_look:
            self._look_again(batch.crops, found, timer)
        ends: list[int] = np.cumsum([0, *(len(own) for own in boxes)]).tolist()
        return [Poses(found.joints[a:b], found.scores[a:b], found.covariance[a:b]) for a, b in itertools.pairwise(ends)]

    def _look_again(self, crops: Sequence[Crop], poses: Poses, timer: StageTimer) -> None:
        """Look a second time at whoever leans; where that counts ``poses`` are changed."""
        leaning = lean(poses.joints, self.skeleton)
        far = np.abs(leaning) > LEAN
        if not far.any():
            return
        again = np.flatnonzero(far & (poses.person_scores >= SOMEBODY))
        upright = [(crops[i][0], box_upright(poses.joints[i], -leaning[i], crops[i][1])) for i in again.tolist()]
        second = self._poses(self._batch(upright, -leaning[again], timer, ahead=False), timer)
        counts = second_counts(leaning[again], poses.scores[again], second.joints, second.scores, self.skeleton)
        for ours, theirs in zip(
            (poses.joints, poses.scores, poses.covariance),
            (second.joints, second.scores, second.covariance),
            strict=True,
        ):
            ours[again[counts]] = theirs[counts]

    def _batch(
        self, crops: Sequence[Crop], turns: NDArray[np.float64], timer: StageTimer, *, ahead: bool
    ) -> _Batch | None:
        """Cut ``crops``, turned by ``turns`` [N] degrees, clockwise as seen; None where there are none.

        They are begun at once where they are run ``ahead``; else no other may be cut before the heatmaps are asked for.
        """
        n = len(crops)
        if n == 0:
            return None
        with timer("crop"):
            if n > len(self._inputs):
                self._inputs = np.zeros((n, *self._inputs.shape[1:]), dtype=np.float32)
            affines = [
                crop_affine(box, self.manual.input_size, self.manual.padding, rotation=turn)
                for (_, box), turn in zip(crops, turns.tolist(), strict=True)
            ]
            for i, ((picture, _), affine) in enumerate(zip(crops, affines, strict=True)):
                warp(picture, affine, self.manual.input_size, out=self._crop)
                to_input(self._crop, self._inputs[i])
        inputs = self._inputs[:n]
        with timer("infer"):
            return _Batch(crops, affines, self._begun.begin(inputs) if ahead else partial(self._begun.infer, inputs))

    def _poses(self, batch: _Batch | None, timer: StageTimer) -> Poses:
        """Joints of each of a batch's crops, once the engine has seen them."""
        k = len(self.skeleton)
        if batch is None:
            return Poses(np.zeros((0, k, 2)), np.zeros((0, k)), np.zeros((0, k, 3)))
        n = len(batch.crops)
        with timer("infer"):
            heatmaps = batch.heatmaps()
        with timer("decode heatmaps"):
            decoded = self._decoder(heatmaps, batch.expected)
            if not np.isfinite(decoded.peak).all():  # the largest cell of a map with a NaN is that NaN
                raise EdgeposeError(f"engine {self.engine.name} gave no numbers for model {self.manual.name} in "
                                    f"{self.engine.precision}; try another --precision or --engine")  # fmt: skip
            inputs = cells_to_input(decoded.xy, self.manual.stride)
            cells_to_pixels = float(self.manual.stride) ** 2
            joints, covariance = np.empty((n, k, 2)), np.empty((n, k, 3))
            for i, affine in enumerate(batch.affines):
                back = invert(affine)
                joints[i] = apply(back, inputs[i])
                covariance[i] = apply_covariance(back, decoded.covariance[i] * cells_to_pixels)
            covariance *= self._spread[:, None]
            covariance *= np.interp(decoded.peak, self.manual.ellipses.raw, self.manual.ellipses.factor)[..., None]
            scores = np.interp(decoded.peak, self.manual.score.raw, self.manual.score.probability)
        return Poses(joints, scores, covariance)
