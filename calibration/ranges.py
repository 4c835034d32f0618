"""Ranges of activations by percentile or least squared error, from histograms of magnitudes.

ModelOpt's ONNX path offers max and entropy only. (Its torch calibrators have both methods, but the one by squared error
gave ranges that destroyed the joints, on a CPU, in version 0.47.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.graph import session
from edgepose.bundle import Bundle
from edgepose.errors import EdgeposeError
from trainer.progress import progress

PERCENTILE = 99.99
_BINS = 2048
_LEVELS = 127  # of int8, on each side of nought


def amax(bundle: Bundle, images: NDArray[np.float32], tensors: list[str], method: str) -> dict[str, float]:
    """The largest magnitude to represent of each of ``tensors``, over ``images`` [N, 3, H, W].

    'percentile': below it lie 99.99 % of the magnitudes; 'mse': int8 with that range has the least squared error.
    EdgeposeError: a tensor that is zero throughout.
    """
    network = _session_with(bundle, tensors)
    top = dict(zip(tensors, _maxima(network, images, tensors).max(axis=0).tolist(), strict=True))
    for name, value in top.items():
        if not value > 0:
            raise EdgeposeError(f"tensor {name} is zero on the whole calibration set; choose a set with persons in it")
    counts = {name: np.zeros(_BINS) for name in tensors}
    for values in _run(network, tensors, images, f"{method} ranges"):
        for name, value in values.items():
            counts[name] += np.histogram(np.abs(value), _BINS, (0.0, top[name]))[0]
    choose = by_percentile if method == "percentile" else by_squared_error
    return {name: choose(counts[name], top[name]) for name in tensors}


def maxima(bundle: Bundle, images: NDArray[np.generic], tensors: list[str]) -> NDArray[np.float64]:
    """The largest magnitude [N, T] of each of T ``tensors`` on each of ``images`` [N, 3, H, W]."""
    return _maxima(_session_with(bundle, tensors), images, tensors)


def _maxima(network: Any, images: NDArray[np.generic], tensors: list[str]) -> NDArray[np.float64]:
    runs = _run(network, tensors, images, "finding maxima")
    return np.array([[float(np.abs(values[name]).max()) for name in tensors] for values in runs])


def by_percentile(counts: NDArray[np.float64], top: float, percentile: float = PERCENTILE) -> float:
    """Upper edge of the bin below which ``percentile`` of the magnitudes lie; ``counts`` [bins] span 0..``top``."""
    share = np.cumsum(counts) / counts.sum()
    return float((np.searchsorted(share, percentile / 100) + 1) * top / len(counts))


def by_squared_error(counts: NDArray[np.float64], top: float) -> float:
    """The bin edge that, as the range of symmetric int8, gives the least sum of squared errors."""
    width = top / len(counts)
    centres = (np.arange(len(counts)) + 0.5) * width
    edges = np.arange(len(counts) // 16, len(counts) + 1) * width
    steps = edges[:, None] / _LEVELS
    represented = np.clip(np.round(centres / steps), 0, _LEVELS) * steps
    errors = ((represented - centres) ** 2) @ counts
    return float(edges[int(errors.argmin())])


def _run(network: Any, tensors: list[str], images: NDArray[np.generic], what: str) -> Any:
    for image in progress(images, len(images), what):
        yield dict(zip(tensors, network.run(tensors, {"image": image[None].astype(np.float32)}), strict=True))


def _session_with(bundle: Bundle, tensors: list[str]) -> Any:
    """The float graph on onnxruntime with ``tensors`` as outputs beside its own."""
    import onnx

    model = onnx.load(bundle.path)
    known = {o.name for o in model.graph.output} | {i.name for i in model.graph.input}
    for name in tensors:
        if name not in known:
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    return session(model, "to calibrate ranges")
