"""Heatmaps -> joints: position, score, covariance.

Convention: heatmap cell (u, v) is centred on input pixel ``stride * (u, v) + (stride - 1) / 2``,
so that cell and pixel areas line up. Positions are (x, y) in heatmap cells with the centre of the
top-left cell at (0, 0); :func:`cells_to_input` takes them to input pixels.

Decode methods:

- ``argmax``: the largest cell.
- ``quarter``: moved a quarter cell towards the higher neighbour along each axis (Newell et al. 2016, section 3.4,
  as their code does it; Zhang et al. 2020, eq. 1, moves along the line to the second maximum instead).
- ``dark``: the heatmap is smoothed with a Gaussian (Zhang et al. 2020, eq. 10), its logarithm expanded to second
  order about the largest cell (eq. 6-7), and the maximum of the expansion taken: mu = m - D''(m)^-1 D'(m) (eq. 9).
  As in the authors' code, eq. 11 is applied without its subtraction of the minimum, which leaves a factor that
  the logarithm makes a constant; it is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgepose.errors import unknown

Floats = NDArray[np.floating]
Method = Literal["argmax", "quarter", "dark"]
METHODS: tuple[str, ...] = get_args(Method)

_SMOOTHED = 2  # cells either side of the peak whose smoothed value the expansion needs
_SAME = 1  # cells between the peaks of a left-right pair up to which they count as one place
_APART = 4  # cells around a peak in which no second peak is looked for
_CLOSE = 2  # as _SAME, of a pair whose joints are expected further from each other than _APART
_NEAR = 3  # cells around where a joint is expected in which its peak is looked for
_NEARLY = 0.5  # share of the largest peak's height that is enough where the joint is expected
_EPSILON = 1e-10  # keeps the logarithm finite, as in the paper's code


@dataclass
class Joints:
    """Decoded joints of N crops with K joints each, in heatmap cells.

    The arrays belong to the decoder and are overwritten by its next call; copy what must last.
    """

    xy: NDArray[np.float64]  # [N, K, 2]
    peak: NDArray[np.float64]  # [N, K] the heatmap's value at the peak that was taken: the raw score
    covariance: NDArray[np.float64]  # [N, K, 3] var_x, cov_xy, var_y in cells squared


def cells_to_input(xy: Floats, stride: int) -> NDArray[np.float64]:
    """Heatmap cells -> input pixels, in the pixel-centre convention above."""
    return np.asarray(xy * stride + (stride - 1) / 2, dtype=np.float64)


def input_to_cells(xy: Floats, stride: int) -> NDArray[np.float64]:
    """Input pixels -> heatmap cells; the inverse of :func:`cells_to_input`."""
    return np.asarray((xy - (stride - 1) / 2) / stride, dtype=np.float64)


class Decoder:
    """Decodes [N, K, h, w] heatmaps for one map size; all buffers are made once, for up to ``batch`` crops.

    ``blur_sigma`` (cells) is the width of DARK's smoothing kernel; ``moment_radius`` (cells) is the
    half-width of the window whose moments give the covariance. ``mirror`` [K] (see Skeleton) and ``mirror_ratio``
    keep left and right apart where the second peak is at least that share of the first; 0: off.
    """

    def __init__(
        self,
        joints: int,
        size: tuple[int, int],
        *,
        method: str = "dark",
        blur_sigma: float = 1.0,
        moment_radius: int = 5,
        mirror: NDArray[np.intp] | None = None,
        mirror_ratio: float = 0.0,
        batch: int = 1,
    ) -> None:
        if method not in METHODS:
            raise unknown("decode method", method, METHODS)
        self.method = method
        self.joints = joints
        self.width, self.height = size
        pairs = [(k, int(j)) for k, j in enumerate(mirror) if k < j] if mirror is not None and mirror_ratio else []
        self._pairs = np.array(pairs, dtype=np.intp).reshape(-1, 2)
        self._mirror_ratio = mirror_ratio
        self._radius = moment_radius
        kernel_radius = max(moment_radius - _SMOOTHED, 1)
        taps = np.exp(-0.5 * (np.arange(-kernel_radius, kernel_radius + 1) / max(blur_sigma, 1e-6)) ** 2)
        taps /= taps.sum()
        # blur[i, j]: weight of window cell j in smoothed cell i; rows are the 5 cells around the peak.
        self._blur = np.zeros((2 * _SMOOTHED + 1, 2 * moment_radius + 1))
        first = moment_radius - _SMOOTHED - kernel_radius
        for row in range(2 * _SMOOTHED + 1):
            self._blur[row, first + row : first + row + len(taps)] = taps
        self._offsets = np.arange(-moment_radius, moment_radius + 1)
        powers = self._offsets.astype(np.float64)
        self._moments = np.stack([np.ones_like(powers), powers, powers**2], axis=1)  # [window, 3]
        self._allocate(batch)

    def _allocate(self, batch: int) -> None:
        m, window, core = batch * self.joints, 2 * self._radius + 1, 2 * _SMOOTHED + 1
        self._batch = batch
        self._best = np.zeros(m, dtype=np.intp)
        self._x, self._y = np.zeros(m, dtype=np.intp), np.zeros(m, dtype=np.intp)
        self._cols, self._rows = np.zeros((m, window), dtype=np.intp), np.zeros((m, window), dtype=np.intp)
        self._base = np.arange(m, dtype=np.intp) * (self.width * self.height)
        self._scratch = np.zeros((self.height, self.width), dtype=np.float32)
        self._index = np.zeros((m, window, window), dtype=np.intp)
        self._starts = np.zeros((m, window, window), dtype=np.intp)
        self._patch32 = np.zeros((m, window, window), dtype=np.float32)
        self._patch = np.zeros((m, window, window))
        self._half = np.zeros((m, core, window))
        self._core = np.zeros((m, core, core))
        self._projected = np.zeros((m, 3, window))
        self._moment = np.zeros((m, 3, 3))
        self._tmp, self._dx, self._dy, self._xx, self._yy, self._xy, self._det = (np.zeros(m) for _ in range(7))
        self._result = Joints(
            np.zeros((batch, self.joints, 2)), np.zeros((batch, self.joints)), np.zeros((batch, self.joints, 3))
        )

    def __call__(self, heatmaps: NDArray[np.float32], expected: Floats | None = None) -> Joints:
        """Decode ``heatmaps`` [N, K, h, w]; the result is valid until the next call.

        ``expected`` [N, K, 2]: where each joint should be, in cells, as far as that is known: NaN elsewhere. It tells
        left and right apart, too, where ``mirror_ratio`` does.
        """
        n = heatmaps.shape[0]
        if heatmaps.shape[1:] != (self.joints, self.height, self.width):
            raise ValueError(f"heatmaps {heatmaps.shape} do not fit a decoder for "
                             f"[N, {self.joints}, {self.height}, {self.width}]")  # fmt: skip
        if n > self._batch:
            self._allocate(n)
        m = n * self.joints
        flat = np.ascontiguousarray(heatmaps, dtype=np.float32).reshape(m, -1)
        result = Joints(self._result.xy[:n], self._result.peak[:n], self._result.covariance[:n])
        xy = result.xy.reshape(m, 2)

        np.argmax(flat, axis=1, out=self._best[:m])
        np.floor_divide(self._best[:m], self.width, out=self._y[:m])
        np.remainder(self._best[:m], self.width, out=self._x[:m])
        if expected is not None:
            self._part(flat, n, expected.reshape(m, 2))
        for a, b in self._together(n, _SAME):
            self._separate(flat, a, b)
        xy[:, 0], xy[:, 1] = self._x[:m], self._y[:m]
        patch = self._gather(flat, m)
        centre = self._radius
        result.peak.reshape(m)[:] = patch[:, centre, centre]
        if self.method == "quarter":
            self._quarter(patch, xy)
        elif self.method == "dark":
            self._dark(patch, xy, m)
        self._spread(patch, xy, result.covariance.reshape(m, 3), m)
        return result

    def _part(self, flat: NDArray[np.float32], n: int, expected: Floats) -> None:
        """Where a left-right pair peaks at one place and is ``expected`` [M, 2] at two, let one take a peak at its own.

        Of two that can it is the one that gives up less.
        """
        for pair in self._together(n, _CLOSE):
            if not np.abs(expected[pair[0]] - expected[pair[1]]).max() > _APART:  # nor where it is not known: NaN
                continue
            found = [peak for row in pair if (peak := self._peak_near(flat, row, expected[row])) is not None]
            share, row, x, y = max(found, default=(0.0, 0, 0, 0))
            if share >= _NEARLY:
                self._best[row], self._x[row], self._y[row] = y * self.width + x, x, y

    def _peak_near(self, flat: NDArray[np.float32], row: int, place: Floats) -> tuple[float, int, int, int] | None:
        """A peak near ``place`` [2] but the largest: its share of that one's height, the row, and its x and y."""
        largest = float(flat[row, self._best[row]])
        x, y = (int(v) for v in np.rint(place))
        if not largest > 0 or max(abs(x - int(self._x[row])), abs(y - int(self._y[row]))) <= _NEAR:
            return None
        heatmap = flat[row].reshape(self.height, self.width)
        left, top = max(x - _NEAR, 0), max(y - _NEAR, 0)
        window = heatmap[top : max(y + _NEAR + 1, 0), left : max(x + _NEAR + 1, 0)]
        if not window.size:
            return None
        down, across = divmod(int(window.argmax()), window.shape[1])
        x, y = left + across, top + down
        if heatmap[y, x] < heatmap[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].max():  # the flank of another
            return None
        return float(heatmap[y, x]) / largest, row, x, y

    def _together(self, n: int, most: int) -> Iterator[tuple[int, int]]:
        """The left-right pairs of the first ``n`` crops whose maps peak ``most`` cells apart at most, as rows."""
        if len(self._pairs):
            a, b = np.moveaxis(self._pairs + np.arange(n)[:, None, None] * self.joints, -1, 0)
            x, y = self._x, self._y
            same = (np.abs(x[a] - x[b]) <= most) & (np.abs(y[a] - y[b]) <= most)
            yield from zip(a[same].tolist(), b[same].tolist(), strict=True)

    def _separate(self, flat: NDArray[np.float32], a: int, b: int) -> None:
        """Let one of the maps ``a`` and ``b`` of a left-right pair that peak at one place take its second peak.

        In views from behind each map often peaks at both joints and both pick the same one. The pair with the
        larger sum of peaks wins, provided that the second peak is nearly as high as the first; joints that
        really lie on each other have no such second peak and stay.
        """
        x, y = self._x, self._y
        peak_a, peak_b = flat[a, self._best[a]], flat[b, self._best[b]]
        at_a, second_a = self._second(flat, a)
        at_b, second_b = self._second(flat, b)
        mover, at, second, peak = (b, at_b, second_b, peak_b) if peak_a + second_b >= peak_b + second_a else (
            a, at_a, second_a, peak_a)  # fmt: skip
        if second >= self._mirror_ratio * peak:
            self._best[mover], y[mover], x[mover] = at, at // self.width, at % self.width

    def _second(self, flat: NDArray[np.float32], row: int) -> tuple[int, np.float32]:
        """The largest cell away from the peak: where, and how high."""
        scratch, x, y = self._scratch, int(self._x[row]), int(self._y[row])
        scratch.reshape(-1)[:] = flat[row]
        scratch[max(y - _APART, 0) : y + _APART + 1, max(x - _APART, 0) : x + _APART + 1] = -np.inf
        at = int(np.argmax(scratch))
        return at, flat[row, at]

    def _gather(self, flat: NDArray[np.float32], m: int) -> NDArray[np.float64]:
        """The window around each peak [M, window, window]; cells beyond the border repeat the edge."""
        cols, rows, index = self._cols[:m], self._rows[:m], self._index[:m]
        np.add(self._x[:m, None], self._offsets, out=cols)
        np.clip(cols, 0, self.width - 1, out=cols)
        np.add(self._y[:m, None], self._offsets, out=rows)
        np.clip(rows, 0, self.height - 1, out=rows)
        np.multiply(rows, self.width, out=rows)
        np.add(rows, self._base[:m, None], out=rows)
        # Written out before they are added: a sum of broadcast arrays would be buffered by numpy.
        np.copyto(index, cols[:, None, :])
        np.copyto(self._starts[:m], rows[:, :, None])
        np.add(index, self._starts[:m], out=index)
        np.take(flat.reshape(-1), index, out=self._patch32[:m], mode="clip")
        patch = self._patch[:m]
        patch[:] = self._patch32[:m]
        return patch

    def _quarter(self, patch: NDArray[np.float64], xy: NDArray[np.float64]) -> None:
        """A quarter cell towards the higher neighbour; border cells repeat, so they tie and stay."""
        c = self._radius
        m = len(patch)
        for axis, ahead, behind in ((0, patch[:, c, c + 1], patch[:, c, c - 1]),
                                    (1, patch[:, c + 1, c], patch[:, c - 1, c])):  # fmt: skip
            step = self._tmp[:m]
            np.subtract(ahead, behind, out=step)
            np.sign(step, out=step)
            np.multiply(step, 0.25, out=step)
            # At the border the repeated edge equals the peak; there is no neighbour to move towards.
            cell, last = (self._x[:m], self.width - 1) if axis == 0 else (self._y[:m], self.height - 1)
            np.multiply(step, cell > 0, out=step)
            np.multiply(step, cell < last, out=step)
            xy[:, axis] += step

    def _dark(self, patch: NDArray[np.float64], xy: NDArray[np.float64], m: int) -> None:
        half, core = self._half[:m], self._core[:m]
        np.matmul(self._blur, patch, out=half)  # eq. 10, rows
        np.matmul(half, self._blur.T, out=core)  # eq. 10, columns
        np.maximum(core, _EPSILON, out=core)
        np.log(core, out=core)
        c = _SMOOTHED
        dx, dy, xx, yy, mixed = self._dx[:m], self._dy[:m], self._xx[:m], self._yy[:m], self._xy[:m]
        det, tmp = self._det[:m], self._tmp[:m]
        np.subtract(core[:, c, c + 1], core[:, c, c - 1], out=dx)
        dx *= 0.5
        np.subtract(core[:, c + 1, c], core[:, c - 1, c], out=dy)
        dy *= 0.5
        for second, a, b in ((xx, core[:, c, c + 2], core[:, c, c - 2]), (yy, core[:, c + 2, c], core[:, c - 2, c])):
            np.add(a, b, out=second)
            np.subtract(second, core[:, c, c], out=second)
            np.subtract(second, core[:, c, c], out=second)
            second *= 0.25
        np.subtract(core[:, c + 1, c + 1], core[:, c - 1, c + 1], out=mixed)
        mixed -= core[:, c + 1, c - 1]
        mixed += core[:, c - 1, c - 1]
        mixed *= 0.25
        np.multiply(xx, yy, out=det)
        np.multiply(mixed, mixed, out=tmp)
        det -= tmp
        # Only a true maximum (negative definite Hessian) is moved, and by one cell at most.
        usable = (det > _EPSILON) & (xx < 0)
        usable &= (self._x[:m] > 0) & (self._x[:m] < self.width - 1)
        usable &= (self._y[:m] > 0) & (self._y[:m] < self.height - 1)
        np.copyto(det, 1.0, where=~usable)
        for axis, own, other, other_second in ((0, dx, dy, yy), (1, dy, dx, xx)):  # eq. 9
            np.multiply(mixed, other, out=tmp)
            move = self._half[:m, 0, axis]
            np.multiply(other_second, own, out=move)
            np.subtract(tmp, move, out=move)
            np.divide(move, det, out=move)
            np.clip(move, -1.0, 1.0, out=move)
            np.multiply(move, usable, out=move)
            xy[:, axis] += move

    def _spread(
        self, patch: NDArray[np.float64], xy: NDArray[np.float64], covariance: NDArray[np.float64], m: int
    ) -> None:
        """Second moments of the positive part of the window, about the decoded position (cells squared)."""
        # The floor makes a map without any peak say "anywhere in the window" instead of "exactly here".
        np.maximum(patch, 1e-6, out=patch)
        projected, moment = self._projected[:m], self._moment[:m]
        np.matmul(self._moments.T, patch, out=projected)  # [M, power of y, window]
        np.matmul(projected, self._moments, out=moment)  # [M, power of y, power of x]
        total, tmp = self._det[:m], self._tmp[:m]
        np.maximum(moment[:, 0, 0], _EPSILON, out=total)
        np.divide(moment, total[:, None, None], out=moment)
        ex, ey = self._dx[:m], self._dy[:m]
        np.subtract(xy[:, 0], self._x[:m], out=ex)
        np.subtract(xy[:, 1], self._y[:m], out=ey)
        # E[(x-a)(y-b)] = E[xy] - a E[y] - b E[x] + a b, with a, b the decoded position in the window
        terms = ((0, ex, ex, moment[:, 0, 2], moment[:, 0, 1], moment[:, 0, 1]),
                 (1, ex, ey, moment[:, 1, 1], moment[:, 1, 0], moment[:, 0, 1]),
                 (2, ey, ey, moment[:, 2, 0], moment[:, 1, 0], moment[:, 1, 0]))  # fmt: skip
        for column, a, b, second, mean_of_b, mean_of_a in terms:
            target = covariance[:, column]
            np.multiply(a, b, out=target)
            target += second
            np.multiply(a, mean_of_b, out=tmp)
            target -= tmp
            np.multiply(b, mean_of_a, out=tmp)
            target -= tmp
