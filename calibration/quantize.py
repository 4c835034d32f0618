"""A float bundle -> an INT8 bundle with explicit quantisation (Q/DQ), its ranges taken from a calibration set.

For TensorRT: ModelOpt places symmetric int8 Q/DQ pairs before convolutions and on one input of skip additions (the
other comes from a convolution that they are fused with); weights are quantised per channel. One such file serves
TensorRT 8.6 to 11, and OpenVINO. For CPUs: onnxruntime's own static quantisation, with uint8 activations, since its
kernels are fast with those only and OpenVINO is somewhat faster.
"""

from __future__ import annotations

import importlib.util
import logging
import tempfile
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from calibration.graph import activations, set_ranges
from calibration.ranges import PERCENTILE, amax
from calibration.sets import CalibrationSet, refuse_other
from edgepose.bundle import Bundle, Manual, save
from edgepose.errors import EdgeposeError, missing, unknown
from trainer.profile.latency import quiet, static_int8

Target = Literal["tensorrt", "cpu"]
TARGETS: dict[str, Target] = {t: t for t in get_args(Target)}
# Of a tensor's range: ModelOpt has max and entropy for ONNX; for percentile and mse see ranges.
METHODS = ("entropy", "max", "percentile", "mse")
CPU_METHODS = {"max": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}  # as onnxruntime calls them
AT_ONCE = 16  # images whose activations onnxruntime keeps for its histograms: some 190 MB each of edgepose-l
OPSET = 17  # the newest that TensorRT 8.6 states to know; Q/DQ per channel is in it since 13


def quantize(
    bundle: Bundle,
    chosen: CalibrationSet,
    path: Path,
    *,
    method: str = "max",
    target: Target = "tensorrt",
) -> Bundle:
    """Write the INT8 bundle of ``bundle`` to ``path``.

    EdgeposeError: unknown method, a bundle that is quantised already, crops of another size than the model's input,
    or a library that is not installed.
    """
    model = quantized_graph(bundle, chosen, method=method, target=target)
    return save(model, int8_manual(bundle, chosen, method, target), path)


def int8_manual(bundle: Bundle, chosen: CalibrationSet, method: str, target: Target = "tensorrt") -> Manual:
    """The float bundle's manual for its INT8 twin, ranges by ``method``; accuracy is to be measured anew."""
    ours = {"bundle": bundle.sha256, "calibration_set": chosen.sha256, "ranges": method}
    made_from = {**bundle.manual.made_from, **ours}
    name = f"{bundle.manual.name}-int8{'-cpu' if target == 'cpu' else ''}"
    return bundle.manual.model_copy(update={"name": name, "precision": "int8", "made_from": made_from, "accuracy": []})


def check(bundle: Bundle, method: str, target: Target = "tensorrt") -> None:
    """EdgeposeError: unknown method, one that is not for the target, or a bundle that is quantised already."""
    if method not in METHODS:
        raise unknown("calibration method", method, METHODS)
    if target == "cpu" and method not in CPU_METHODS:
        raise EdgeposeError(f"onnxruntime has no calibration method '{method}'; it has {', '.join(CPU_METHODS)}")
    if bundle.manual.precision != "float32":
        raise EdgeposeError(f"{bundle.path} is {bundle.manual.precision} already; quantize its float32 bundle")


def quantized_graph(bundle: Bundle, chosen: CalibrationSet, *, method: str = "max", target: Target = "tensorrt") -> Any:
    """The Q/DQ graph, an onnx.ModelProto; see :func:`quantize`."""
    check(bundle, method, target)
    refuse_other(chosen, bundle)
    if target == "cpu":
        return _for_cpu(bundle, chosen.images(), method)
    return _for_tensorrt(bundle, chosen.images(), method)


def _for_tensorrt(bundle: Bundle, images: NDArray[np.float32], method: str) -> Any:
    import onnx

    if importlib.util.find_spec("modelopt") is None:
        raise missing("modelopt", "to quantize", "pip install 'edgepose[calibration]'")
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(bundle.path.read_bytes())
        # A process of its own, because ModelOpt patches onnxruntime's quantiser for everybody in its process.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            quantized = pool.submit(_modelopt, source, result, images, method if method == "entropy" else "max")
            try:
                quantized.result()
            except BrokenProcessPool as error:
                raise EdgeposeError("ModelOpt's process was ended, as the system does where memory is short; free some "
                                    "or calibrate with fewer crops") from error  # fmt: skip
        model = onnx.load(result)
    if method in ("percentile", "mse"):
        set_ranges(model, amax(bundle, images, list(activations(model)), method))
    _as_opset(model, OPSET)
    return model


def _modelopt(source: Path, result: Path, images: NDArray[np.float32], method: str) -> None:
    """Quantise ``source`` into ``result``; ModelOpt changes the source too."""
    import modelopt.onnx.quantization as modelopt

    with quiet(logging.ERROR):
        modelopt.quantize(
            str(source),
            quantize_mode="int8",
            calibration_data={"image": images},
            calibration_method=method,
            calibration_eps=["cpu"],
            high_precision_dtype="fp32",
            output_path=str(result),
            log_level="CRITICAL",
        )


def _as_opset(model: Any, opset: int) -> None:
    """State an older operator set; the checker refuses what that set does not have."""
    import onnx

    for entry in model.opset_import:
        if entry.domain == "":
            entry.version = opset
    model.ir_version = 8  # of the same time
    onnx.checker.check_model(model, full_check=True)


def _for_cpu(bundle: Bundle, images: NDArray[np.float32], method: str) -> Any:
    try:
        from onnxruntime.quantization import CalibrationMethod
    except ImportError:
        raise missing("onnxruntime", "to quantize for CPUs", "pip install 'edgepose[onnxruntime]'") from None
    options: dict[str, float] = {"CalibPercentile": PERCENTILE} if method == "percentile" else {}  # its own is 99.999
    if method != "max":
        # Else the activations of all images are in memory at once. The option counts for histograms, too, whatever its
        # name says, and must divide the number of images.
        options["CalibStridedMinMax"] = max(n for n in range(1, AT_ONCE + 1) if len(images) % n == 0)
    return static_int8(bundle, images, calibrate_method=CalibrationMethod[CPU_METHODS[method]], extra_options=options)
