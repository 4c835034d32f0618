"""Joints smoothed over time, by the frames' real times; one smoother per camera, for all its people.

Three kinds: ``off`` (joints as they are), ``one-euro`` (Casiez, Roussel & Vogel: 1 Euro Filter, CHI 2012, whose
equations are cited by number) and ``kalman`` (constant velocity, the heatmaps' covariance as the noise of measurement).
Speeds and accelerations are measured in sizes of the person, so that one set of parameters holds at any resolution and
distance.

Time comes in with the frame, in nanoseconds. Frames may be missing and intervals may differ. A time that repeats or
runs backwards counts as no time passed; the frame's time is kept nevertheless, so that a clock set back costs one
frame. A person not seen for ``FORGET`` seconds, and for longer than the camera takes from frame to frame (or whose
last sight lies that far in the future), begins anew.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edgepose.errors import unknown
from edgepose.estimator import Poses

Floats = NDArray[np.float64]

FORGET = 1.0  # s; as long as a tracker keeps an unseen person by default; an older motion means nothing
SHORTEST = 0.003  # s; pictures that a network brings in one burst lie closer, and the joints' noise is no speed
MOST_AHEAD = 0.2  # s; limbs turn round within that time, so that a straight line no longer helps
SURE = 0.4  # joint score from which a joint counts for the person's size, as for its box
SMALLEST = 1.0  # px; keeps a person whose joints lie on one point from having no size
FLOOR = 0.01  # px^2; no joint is measured better than to a tenth of a pixel, and S stays invertible
GATE = -2 * math.log(1e-4)  # 18.42: the 0.9999 quantile of chi-squared with 2 degrees of freedom
MOST_OUTLIERS = 3  # frames in a row beyond the gate from which they are the truth: 0.1 s at 30 fps
_RECENT = 5  # intervals between frames, of which the longest tells how slow the camera may be
START_SPEED = 1.0  # sizes per second; deviation of the speed at first sight: a limb in ordinary motion


@dataclass(frozen=True)
class Smoothed:
    """Joints of N persons with K joints each at one time, in image pixels; the arrays are the caller's own."""

    joints: Floats  # [N, K, 2]
    velocity: Floats  # [N, K, 2] px/s
    covariance: Floats  # [N, K, 3] var_x, cov_xy, var_y in px^2
    growth: Floats  # [N, K, 3, 3] what t, t^2 and t^3 add to the covariance t seconds later; see predict

    def of(self, persons: NDArray[np.bool_]) -> Smoothed:
        """Those of a mask [N]."""
        return Smoothed(self.joints[persons], self.velocity[persons], self.covariance[persons], self.growth[persons])


def predict(smoothed: Smoothed, seconds: float) -> Smoothed:
    """The joints ``seconds`` later at constant velocity: x + v t; t is limited to 0 .. ``MOST_AHEAD``.

    The covariance grows by g1 t + g2 t^2 + g3 t^3. For kalman that is its own prediction, F P F^T + Q. The others do
    not know how good their velocity is: the shift may be wrong by its own length, along itself (g2 = v v^T).
    """
    t = min(max(seconds, 0.0), MOST_AHEAD)
    g1, g2, g3 = np.moveaxis(smoothed.growth, -2, 0)
    return Smoothed(
        smoothed.joints + smoothed.velocity * t,
        smoothed.velocity.copy(),
        smoothed.covariance + g1 * t + g2 * t**2 + g3 * t**3,
        np.stack([g1 + 2 * g2 * t + 3 * g3 * t**2, g2 + 3 * g3 * t, g3], axis=-2),  # the polynomial, from t on
    )


def sizes(poses: Poses) -> Floats:
    """Persons' sizes [N] in pixels: the diagonal of the box of the sure joints, of all where fewer than two are."""
    sure = poses.scores >= SURE
    sure |= sure.sum(axis=1, keepdims=True) < 2
    low = np.where(sure[..., None], poses.joints, np.inf).min(axis=1)
    high = np.where(sure[..., None], poses.joints, -np.inf).max(axis=1)
    size: Floats = np.maximum(np.hypot(*(high - low).T), SMALLEST)
    return size


class Smoother(ABC):
    """What all kinds share: the memory of who was where. ``_memory`` holds one record per joint, ids apart."""

    _record: DTypeLike

    def __init__(self) -> None:
        self._memory: dict[str, tuple[int, NDArray[np.void]]] = {}  # id -> time of last sight in ns, records [K]
        self._last_ns: int | None = None  # of the frame before
        self._intervals = deque[int]([0], maxlen=_RECENT)  # between the last frames, in ns

    def smooth(self, ids: list[str], poses: Poses, taken_ns: int) -> Smoothed:
        """The joints of persons ``ids`` [N] in a frame taken at ``taken_ns``, smoothed."""
        n, k = poses.scores.shape
        if n != len(ids):
            raise ValueError(f"{len(ids)} ids do not fit {n} poses")
        # A camera with seconds between its frames is not away.
        longest = max(FORGET * 1e9, 1.5 * max(self._intervals))
        if self._last_ns is not None:
            self._intervals.append(max(taken_ns - self._last_ns, 0))
        self._last_ns = taken_ns
        self._memory = {i: m for i, m in self._memory.items() if abs(taken_ns - m[0]) <= longest}
        records = np.zeros((n, k), dtype=self._record)
        dt, new = np.zeros(n), np.ones(n, dtype=np.bool_)
        for row, name in enumerate(ids):
            if name in self._memory:
                last, records[row] = self._memory[name]
                dt[row], new[row] = max(taken_ns - last, 0) * 1e-9, False
        smoothed = self._step(records, dt[:, None], new[:, None], poses) if n else _nobody(k)
        self._memory.update({name: (taken_ns, records[row]) for row, name in enumerate(ids)})
        return smoothed

    @abstractmethod
    def _step(self, records: NDArray[np.void], dt: Floats, new: NDArray[np.bool_], poses: Poses) -> Smoothed:
        """Bring ``records`` [N, K] up to date in place, ``dt`` [N, 1] s after the last sight, or ``new`` [N, 1]."""


class Off(Smoother):
    """Joints as they are; velocity by the difference from the last sight, kept where that is less than SHORTEST ago.

    So above 333 frames a second there is none.
    """

    _record = np.dtype([("joint", float, 2), ("velocity", float, 2)])

    def _step(self, records: NDArray[np.void], dt: Floats, new: NDArray[np.bool_], poses: Poses) -> Smoothed:
        long = np.where(dt >= SHORTEST, dt, 0.0)
        moved = _ratio(poses.joints - records["joint"], long[..., None], records["velocity"])
        records["velocity"] = np.where(new[..., None], 0.0, moved)
        records["joint"] = poses.joints
        velocity = records["velocity"].copy()
        return Smoothed(poses.joints.copy(), velocity, poses.covariance.copy(), _own_length(velocity))


class OneEuro(Smoother):
    """The 1 Euro filter: a low-pass whose cutoff rises with speed. x and y of a joint share one cutoff.

    ``min_cutoff`` (Hz) is the cutoff at rest, ``d_cutoff`` (Hz) that of the speed, ``beta`` the rise of the cutoff in
    Hz per (size per second), where the paper's is per unit of the signal.

    Covariances are blended with the weights of the joints. That bounds the covariance of the blend whatever the
    correlation of errors from frame to frame; it does not know of the lag.
    """

    _record = np.dtype([("joint", float, 2), ("slope", float, 2), ("velocity", float, 2), ("covariance", float, 3)])

    def __init__(self, min_cutoff: float = 0.7, beta: float = 12.0, d_cutoff: float = 1.0) -> None:
        super().__init__()
        self.min_cutoff, self.beta, self.d_cutoff = min_cutoff, beta, d_cutoff

    def _step(self, records: NDArray[np.void], dt: Floats, new: NDArray[np.bool_], poses: Poses) -> Smoothed:
        last = records["joint"].copy()
        # As in the paper's Algorithm 1 the slope is against the last estimate, which overstates a steady speed;
        # it sets the cutoff and is not what is published.
        slope = _ratio(poses.joints - last, dt[..., None], records["slope"])
        slope = _blend(alpha(self.d_cutoff, dt)[..., None], slope, records["slope"])
        speed = np.hypot(slope[..., 0], slope[..., 1]) / sizes(poses)[:, None]
        cutoff = self.min_cutoff + self.beta * speed  # fc = fcmin + beta |dX^| (eq. 7)
        weight = np.where(new, 1.0, alpha(cutoff, dt))[..., None]
        joints = _blend(weight, poses.joints, last)
        velocity = _blend(weight, _ratio(joints - last, dt[..., None], records["velocity"]), records["velocity"])
        records["slope"] = np.where(new[..., None], 0.0, slope)
        records["velocity"] = np.where(new[..., None], 0.0, velocity)
        records["joint"] = joints
        records["covariance"] = _blend(weight, poses.covariance, records["covariance"])
        velocity = records["velocity"].copy()
        return Smoothed(joints, velocity, records["covariance"].copy(), _own_length(velocity))


class Kalman(Smoother):
    """A constant-velocity Kalman filter per joint, of (x, y, vx, vy); its noise of measurement is the covariance given.

    Process noise is white acceleration of spectral density ``still`` size^2 + ``moving`` |v|^2 in px^2/s^3, v being
    the estimate: who moves also speeds up and turns. ``still`` is in 1/s^3, ``moving`` in 1/s. With one density for
    both, a joint that rests is hardly smoothed or one that moves comes late.

    A measurement beyond the gate is ignored; the ``MOST_OUTLIERS``-th in a row is where the joint begins anew.

    ``fresh`` is the share of the given covariance that is new in each frame. The rest stays from frame to frame,
    cannot be averaged away, and is added back to what is published. The filter's own noises are all scaled by it:
    it changes the published covariance, not the joints. On the shipped clip 2 to 16 % was new, by joint.
    """

    _record = np.dtype([("mean", float, 4), ("covariance", float, (4, 4)), ("outliers", int)])

    def __init__(self, still: float = 0.3, moving: float = 30.0, fresh: float = 0.2) -> None:
        super().__init__()
        self.still, self.moving, self.fresh = still, moving, fresh

    def _step(self, records: NDArray[np.void], dt: Floats, new: NDArray[np.bool_], poses: Poses) -> Smoothed:
        size = sizes(poses)[:, None]
        noise = self.fresh * _matrices(poses.covariance) + FLOOR * np.eye(2)
        mean, covariance = self._predicted(records, dt, size)
        off = (poses.joints - mean[..., :2])[..., None]
        inverse = np.linalg.inv(covariance[..., :2, :2] + noise)
        squared = self.fresh * (off.swapaxes(-1, -2) @ inverse @ off)[..., 0, 0]  # the gate is of the whole noise
        outliers = np.where(squared > GATE, records["outliers"] + 1, 0)
        anew = new | (outliers >= MOST_OUTLIERS)
        gain = np.where((squared > GATE)[..., None, None], 0.0, covariance[..., :2] @ inverse)
        keep = np.eye(4) - np.concatenate([gain, np.zeros_like(gain)], axis=-1)  # I - K H
        mean = mean + (gain @ off)[..., 0]
        # Joseph's form: a sum of two squares, so that rounding cannot make it indefinite.
        covariance = keep @ covariance @ keep.swapaxes(-1, -2) + gain @ noise @ gain.swapaxes(-1, -2)

        first_mean, first_covariance = self._first(poses, noise, size)
        records["mean"] = mean = np.where(anew[..., None], first_mean, mean)
        covariance = np.where(anew[..., None, None], first_covariance, covariance)
        records["covariance"] = covariance = (covariance + covariance.swapaxes(-1, -2)) / 2
        records["outliers"] = np.where(anew, 0, outliers)
        cross = covariance[..., :2, 2:] + covariance[..., 2:, :2]
        spread = (self._density(mean, size) / 3)[..., None, None] * np.eye(2)
        return Smoothed(
            mean[..., :2].copy(),
            mean[..., 2:].copy(),
            _triples(covariance[..., :2, :2]) + (1 - self.fresh) * poses.covariance,
            np.stack([_triples(cross), _triples(covariance[..., 2:, 2:]), _triples(spread)], axis=-2),
        )

    def _predicted(self, records: NDArray[np.void], dt: Floats, size: Floats) -> tuple[Floats, Floats]:
        """Mean [N, K, 4] and covariance [N, K, 4, 4] ``dt`` later: F x and F P F^T + Q."""
        n, k = records.shape
        step = np.broadcast_to(np.eye(4), (n, 1, 4, 4)).copy()
        step[..., 0, 2] = step[..., 1, 3] = dt
        mean = (step @ records["mean"][..., None])[..., 0]
        q = self._density(mean, size)  # the velocity is the same before and after the step
        process = np.zeros((n, k, 4, 4))
        for a, b, share in ((0, 0, dt**3 / 3), (0, 2, dt**2 / 2), (2, 0, dt**2 / 2), (2, 2, dt)):
            process[..., a, b] = process[..., a + 1, b + 1] = q * share
        return mean, step @ records["covariance"] @ step.swapaxes(-1, -2) + process

    def _density(self, mean: Floats, size: Floats) -> Floats:
        """The spectral density of acceleration [N, K] in px^2/s^3."""
        q: Floats = self.fresh * (self.still * size**2 + self.moving * (mean[..., 2:] ** 2).sum(axis=-1))
        return q

    def _first(self, poses: Poses, noise: Floats, size: Floats) -> tuple[Floats, Floats]:
        """Mean [N, K, 4] and covariance [N, K, 4, 4] at first sight: here, and at rest as far as is known."""
        mean = np.concatenate([poses.joints, np.zeros_like(poses.joints)], axis=-1)
        covariance = np.zeros((*mean.shape, 4))
        covariance[..., :2, :2] = noise
        covariance[..., 2, 2] = covariance[..., 3, 3] = self.fresh * (START_SPEED * size) ** 2
        return mean, covariance


KINDS: dict[str, type[Smoother]] = {"off": Off, "one-euro": OneEuro, "kalman": Kalman}


def smoother(kind: str, **parameters: float) -> Smoother:
    """A new smoother of that ``kind``, for one camera; ``parameters`` are those of its class."""
    if kind not in KINDS:
        raise unknown("kind of smoothing", kind, KINDS)
    return KINDS[kind](**parameters)


def alpha(cutoff: Floats | float, dt: Floats) -> Floats:
    """Weight of the new value in a low-pass; 0 where no time passed (Casiez et al. 2012, eq. 4 and 5).

    alpha = 1 / (1 + tau / Te) with tau = 1 / (2 pi fc).
    Written as Te / (Te + tau), which holds for Te = 0; ``cutoff`` fc in Hz, ``dt`` Te in seconds.
    """
    tau = 1 / (2 * np.pi * np.asarray(cutoff))
    return np.asarray(dt / (dt + tau), dtype=np.float64)


def _blend(weight: Floats, value: Floats, last: Floats) -> Floats:
    """The low-pass's step: alpha X_i + (1 - alpha) X^_(i-1) (Casiez et al. 2012, eq. 1)."""
    return weight * value + (1 - weight) * last


def _ratio(difference: Floats, dt: Floats, otherwise: Floats) -> Floats:
    """``difference`` / ``dt``, and ``otherwise`` where no time has passed."""
    out: Floats = np.where(dt > 0, difference / np.where(dt > 0, dt, 1.0), otherwise)
    return out


def _own_length(velocity: Floats) -> Floats:
    """Growth [N, K, 3, 3] of a covariance by v v^T t^2."""
    growth = np.zeros((*velocity.shape[:2], 3, 3))
    growth[..., 1, :] = _triples(velocity[..., :, None] * velocity[..., None, :])
    return growth


def _matrices(triples: Floats) -> Floats:
    """[..., 3] as (var_x, cov_xy, var_y) -> symmetric matrices [..., 2, 2]."""
    return triples[..., [0, 1, 1, 2]].reshape(*triples.shape[:-1], 2, 2)


def _triples(matrices: Floats) -> Floats:
    """Symmetric matrices [..., 2, 2] -> [..., 3] as (var_x, cov_xy, var_y)."""
    return np.stack([matrices[..., 0, 0], matrices[..., 0, 1], matrices[..., 1, 1]], axis=-1)


def _nobody(k: int) -> Smoothed:
    return Smoothed(np.zeros((0, k, 2)), np.zeros((0, k, 2)), np.zeros((0, k, 3)), np.zeros((0, k, 3, 3)))
