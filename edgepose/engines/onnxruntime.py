"""ONNX Runtime: the fallback where OpenVINO is absent."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from edgepose.bundle import Bundle
from edgepose.engines import Options
from edgepose.errors import EdgeposeError

_PROVIDERS = {"auto": "CPUExecutionProvider", "CPU": "CPUExecutionProvider", "CUDA": "CUDAExecutionProvider"}


class ONNXRuntimeEngine:
    """One inference session."""

    name = "onnxruntime"
    optimised = True  # whether operators may be fused, and pairs of Q/DQ taken into them
    lanes = 3  # as OpenVINO's; every answer is in memory of its own

    def __init__(self, bundle: Bundle, options: Options) -> None:
        import onnxruntime

        if options.precision not in ("auto", "float32"):
            raise EdgeposeError(f"onnxruntime runs a bundle in its own precision, not in {options.precision}; "
                                "use --engine openvino or leave --precision at auto")  # fmt: skip
        device = options.device if options.device == "auto" else options.device.upper()
        provider = _PROVIDERS.get(device)
        if provider not in onnxruntime.get_available_providers():
            raise EdgeposeError(f"onnxruntime here has no device '{options.device}'; use --engine-device CPU")
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.log_severity_level = 3
        if not self.optimised:
            settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session = onnxruntime.InferenceSession(str(bundle.path), settings, providers=[provider])
        except Exception as error:  # its exception classes are private, and all mean: this file will not load
            reason = str(error).strip().splitlines()[-1]
            raise EdgeposeError(f"onnxruntime cannot load {bundle.path}: {reason}") from error
        if provider not in self._session.get_providers():  # it was built for that device, and falls back in silence
            raise EdgeposeError(f"onnxruntime cannot use device '{options.device}' here: its driver or libraries do "
                                "not load; put them right or use --engine-device CPU")  # fmt: skip
        self._session.disable_fallback()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="onnxruntime")
        self.precision = bundle.manual.precision

    def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """See :class:`edgepose.engines.Engine`."""
        result: NDArray[np.float32] = self._session.run(["heatmaps"], {"image": images})[0]
        return result

    def start(self, images: NDArray[np.float32]) -> Callable[[], NDArray[np.float32]]:
        """Begin to run ``images`` [N, 3, H, W], which are copied at once; returns what waits for their heatmaps."""
        return self._thread.submit(self.infer, images.copy()).result

    def close(self) -> None:
        """Drop the session, when what was begun has ended; may come twice."""
        self._thread.shutdown()
        self.__dict__.pop("_session", None)


def load(bundle: Bundle, options: Options) -> ONNXRuntimeEngine:
    """Open ``bundle``; EdgeposeError where the device or the graph is refused."""
    return ONNXRuntimeEngine(bundle, options)
