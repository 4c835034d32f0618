"""CPU latency by running: FP32 and INT8 on OpenVINO, taking turns so that a disturbance meets both.

The INT8 graph is for timing only. Its ranges come from random images through untrained weights; calibration that
keeps accuracy is the work of the package ``calibration``.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose import engines
from edgepose.bundle import Bundle, Manual, save
from edgepose.engines.openvino import core
from edgepose.errors import EdgeposeError, missing
from trainer.progress import progress

CALIBRATION = 2  # random images; enough to get ranges, which is all that timing needs
WARM_UP = 3  # runs of each: the first ones allocate and choose kernels
SETTLE = 0.05  # s; a thread pool spins for a while after its last job, which the next model must not pay for
BURST = 5  # timed runs in a turn
# Relu, Clip and Add too: left in float they would undo the gain, with a conversion before and after every convolution.
QUANTISED = ("Conv", "ConvTranspose", "Relu", "Clip", "Add", "MaxPool", "Resize", "Concat", "Gemm", "MatMul")


@dataclass(frozen=True)
class Timing:
    """Milliseconds per image: the median, and the quartiles around it."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Latency:
    """Both precisions in one run. Compare by the ratio: the times themselves are this machine's at that moment."""

    processor: str
    threads: int
    repeats: int
    float32: Timing
    int8: Timing
    int8_over_float32: float  # median over the pairs of (INT8 time / FP32 time); below 1: INT8 is faster


def measure(model: Any, manual: Manual, *, threads: int = 2, repeats: int = 50) -> Latency:
    """Time ``model`` (an onnx.ModelProto of a bundle) at batch 1, one request at a time.

    EdgeposeError: openvino or onnxruntime is not installed, or fewer than one repeat or thread is asked for.
    """
    if threads < 1 or repeats < 1:
        raise EdgeposeError(f"latency needs at least one thread and one repeat, not {threads} and {repeats}")
    try:
        processor = str(core().get_property("CPU", "FULL_DEVICE_NAME"))
    except ImportError:
        raise missing("openvino", "to measure CPU latency", "pip install 'edgepose[openvino]'") from None
    with tempfile.TemporaryDirectory() as folder:
        plain = save(model, manual, Path(folder) / "float32.onnx")
        options = engines.Options(threads=threads, precision="float32")  # of what is left unquantised, in the second
        twin, image = quantise(plain, Path(folder) / "int8.onnx"), random_images(manual, 1)
        with ExitStack() as stack:
            pair = [stack.enter_context(closing(engines.load(b, "openvino", options))) for b in (plain, twin)]
            seconds = take_turns([partial(engine.infer, image) for engine in pair], repeats)
    return Latency(
        processor=processor,
        threads=threads,
        repeats=repeats,
        float32=_timing(seconds[:, 0]),
        int8=_timing(seconds[:, 1]),
        int8_over_float32=float(np.median(seconds[:, 1] / seconds[:, 0])),
    )


def random_images(manual: Manual, count: int) -> NDArray[np.float32]:
    """[count, 3, H, W], 0..255, the same at every call."""
    width, height = manual.input_size
    return np.random.default_rng(0).uniform(0, 255, (count, 3, height, width)).astype(np.float32)


def quantise(bundle: Bundle, path: Path) -> Bundle:
    """``bundle`` in INT8 (uint8 activations, int8 weights per channel; explicit Q/DQ), written to ``path``."""
    model = static_int8(bundle, random_images(bundle.manual, CALIBRATION), op_types_to_quantize=list(QUANTISED))
    return save(model, bundle.manual.model_copy(update={"precision": "int8"}), path)


def static_int8(bundle: Bundle, images: NDArray[np.float32], **settings: Any) -> Any:
    """The Q/DQ graph (onnx.ModelProto) that onnxruntime's static quantisation makes.

    Ranges come from ``images`` [N, 3, H, W]; ``settings`` go to onnxruntime. EdgeposeError: it is not installed.
    """
    try:
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError:
        raise missing("onnxruntime", "to quantise a graph", "pip install 'edgepose[onnxruntime]'") from None
    import onnx

    with tempfile.TemporaryDirectory() as folder, quiet(logging.WARNING):
        prepared, quantised = Path(folder) / "prepared.onnx", Path(folder) / "quantised.onnx"
        quant_pre_process(bundle.path, prepared, skip_symbolic_shape=True)  # which refuses a free batch
        quantization.quantize_static(
            prepared,
            quantised,
            _Images(images),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            **settings,
        )
        return onnx.load(quantised)


class _Images:
    """onnxruntime's CalibrationDataReader, which asks for one input after another until there is none.

    Or until the end of a range; these follow each other.
    """

    def __init__(self, images: NDArray[np.float32]) -> None:
        self._left = progress(images, len(images), "calibrating INT8")
        self._given, self._end, self._count = 0, len(images), len(images)

    def __len__(self) -> int:
        return self._count

    def set_range(self, start_index: int, end_index: int) -> None:
        self._end = end_index

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        if self._given == self._end < self._count:
            return None
        image = next(self._left, None)
        self._given += 1
        return None if image is None else {"image": image[None]}


@contextmanager
def quiet(level: int) -> Iterator[None]:
    """Nothing logged up to ``level``: quantisers log at the root what is of no use to our reader."""
    before = logging.root.manager.disable
    logging.disable(level)
    try:
        yield
    finally:
        logging.disable(before)


def take_turns(runs: Sequence[Callable[[], object]], repeats: int) -> NDArray[np.float64]:
    """Seconds [repeats, models] of one of each model's ``runs``; who goes first alternates: a disturbance meets all.

    Between models there is a pause, and each first runs once untimed: caches are its own again. Then the median of
    BURST runs counts, of one where that takes longer than the pause.
    """
    seconds = np.zeros((repeats, len(runs)))
    for turn in progress(range(-WARM_UP, repeats), WARM_UP + repeats, "timing on this CPU"):
        order = range(len(runs)) if turn % 2 else reversed(range(len(runs)))
        for which in order:
            time.sleep(SETTLE)
            burst = 1 if turn < 0 or _seconds(runs[which]) > SETTLE else BURST
            took = float(np.median([_seconds(runs[which]) for _ in range(burst)]))
            if turn >= 0:
                seconds[turn, which] = took
    return seconds


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _timing(seconds: NDArray[np.float64]) -> Timing:
    low, median, high = (float(v) for v in np.percentile(seconds * 1e3, [25, 50, 75]))
    return Timing(median, low, high)
