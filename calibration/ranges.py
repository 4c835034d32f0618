"""Ranges of activations by percentile or least squared error, from ModelOpt's histograms.

ModelOpt's ONNX path offers max and entropy only; its histogram calibrator offers more, and takes any tensors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose.bundle import Bundle
from edgepose.errors import EdgeposeError, missing
from trainer.progress import progress

PERCENTILE = 99.99
_BINS = 2048


def amax(bundle: Bundle, images: NDArray[np.float32], tensors: list[str], method: str) -> dict[str, float]:
    """The largest magnitude to represent of each of ``tensors``, over ``images`` [N, 3, H, W].

    'percentile': below it lie 99.99 % of the magnitudes; 'mse': int8 with that range has the least squared error.
    """
    try:
        import torch
        from modelopt.torch.quantization.calib import HistogramCalibrator
    except ImportError:
        raise missing("modelopt", "to calibrate ranges", "pip install 'edgepose[calibration]'") from None
    session = _session_with(bundle, tensors)
    made = {name: HistogramCalibrator(num_bits=8, axis=None, unsigned=False, num_bins=_BINS) for name in tensors}
    for image in progress(images, len(images), f"{method} ranges"):
        for name, value in zip(tensors, session.run(tensors, {"image": image[None]}), strict=True):
            made[name].collect(torch.from_numpy(value))
    found = {}
    for name, calibrator in made.items():
        settings: dict[str, Any] = {"percentile": PERCENTILE} if method == "percentile" else {}
        value = float(calibrator.compute_amax(method, **settings))
        if not value > 0:
            raise EdgeposeError(f"tensor {name} is zero on the whole calibration set; choose a set with persons in it")
        found[name] = value
    return found


def _session_with(bundle: Bundle, tensors: list[str]) -> Any:
    """The float graph on onnxruntime with ``tensors`` as outputs beside its own."""
    import onnx
    import onnxruntime

    model = onnx.load(bundle.path)
    known = {o.name for o in model.graph.output} | {i.name for i in model.graph.input}
    for name in tensors:
        if name not in known:
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
