"""OpenVINO: the default engine on x86 and ARM CPUs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose.bundle import Bundle
from edgepose.engines import Options
from edgepose.errors import EdgeposeError

# OpenVINO's own default on a CPU with bf16 instructions is bf16; "auto" here means the bundle's precision.
_HINTS = {"auto": "f32", "float32": "f32", "float16": "f16", "bfloat16": "bf16"}


class OpenVINOEngine:
    """The model compiled for any batch, and once more for each size that comes often.

    Known shapes save OpenVINO a tenth of the time. Each costs another compilation, a second where the model is INT8,
    and another copy of the weights.
    """

    name = "openvino"

    def __init__(self, bundle: Bundle, options: Options) -> None:
        import openvino

        core = openvino.Core()
        device = "CPU" if options.device == "auto" else options.device.upper()
        if device.split(".")[0] not in {d.split(".")[0] for d in core.available_devices}:
            raise EdgeposeError(
                f"openvino has no device '{options.device}'; it sees {', '.join(core.available_devices)}"
            )
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": _HINTS[options.precision],
        }
        if options.threads:
            settings["INFERENCE_NUM_THREADS"] = options.threads
        try:
            self._model = core.compile_model(core.read_model(bundle.path), device, settings)
            self._request = self._model.create_infer_request()
            self._often: dict[int, Any] = {}
            for count in options.often:
                graph = core.read_model(bundle.path)
                graph.reshape([count, *graph.input().partial_shape[1:]])
                self._often[count] = core.compile_model(graph, device, settings).create_infer_request()
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise EdgeposeError(f"openvino cannot load {bundle.path}: {reason}") from error
        self.precision = bundle.manual.precision
        if self.precision == "float32":  # what the device took of the hint
            hint = self._model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
            self.precision = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}.get(hint, hint)

    def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """See :class:`edgepose.engines.Engine`."""
        request = self._often.get(len(images), self._request)
        result: NDArray[np.float32] = request.infer([images], share_inputs=True, share_outputs=True)[0]
        return result

    def close(self) -> None:
        """Drop the requests and the compiled models."""
        del self._request, self._often, self._model


def load(bundle: Bundle, options: Options) -> OpenVINOEngine:
    """Compile ``bundle``; EdgeposeError where the device or the graph is refused."""
    return OpenVINOEngine(bundle, options)
