"""OpenVINO: the default engine on x86 and ARM CPUs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose.bundle import Bundle
from edgepose.engines import Options
from edgepose.errors import EdgeposeError

# OpenVINO's own default on a CPU with bf16 instructions is bf16; "auto" here means the bundle's precision.
_HINTS = {"auto": "f32", "float32": "f32", "float16": "f16", "bfloat16": "bf16"}


_making = threading.Lock()


def core() -> Any:
    """The process's one ``openvino.Core``, for everybody.

    A Core gives the thread that first uses it a larger stack for signals (for AMX), and frees that when it goes. Of two
    Cores the one that was made first may not go first: it would leave the thread on a stack that is no more, and the
    next signal would end the process without a word (class SigAltStackSetup of OpenVINO's CPU plugin).
    """
    with _making:
        return _core()


@cache
def _core() -> Any:
    import openvino

    return openvino.Core()


class OpenVINOEngine:
    """The model compiled for any batch, or for a few sizes of which others are made up.

    Known sizes save OpenVINO a tenth of the time, and twice that where the number of people changes: a graph for any
    size is prepared anew for each. Every size is a compilation, a second where the model is INT8, and a copy of the
    weights.
    """

    name = "openvino"

    def __init__(self, bundle: Bundle, options: Options) -> None:
        runtime = core()
        device = "CPU" if options.device == "auto" else options.device.upper()
        if device.split(".")[0] not in {d.split(".")[0] for d in runtime.available_devices}:
            raise EdgeposeError(
                f"openvino has no device '{options.device}'; it sees {', '.join(runtime.available_devices)}"
            )
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": _HINTS[options.precision],
        }
        if device == "CPU":
            # Else the threads of every network keep to the same first cores, those of the finder and of the pose
            # network among them, which run beside each other.
            settings["ENABLE_CPU_PINNING"] = False
        if options.threads:
            settings["INFERENCE_NUM_THREADS"] = options.threads
        if options.batches and 1 not in options.batches:
            raise ValueError(f"batches {options.batches} make up no batch of 1")
        self._lanes: dict[int, _Lanes] = {}  # by batch size; 0: any
        try:
            for count in options.batches or (0,):
                graph = runtime.read_model(bundle.path)
                if count:
                    graph.reshape([count, *graph.input().partial_shape[1:]])
                model = runtime.compile_model(graph, device, settings)
                self._lanes[count] = _Lanes(model)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise EdgeposeError(f"openvino cannot load {bundle.path}: {reason}") from error
        self.precision = bundle.manual.precision
        if self.precision == "float32":  # what the device took of the hint
            hint = model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
            self.precision = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}.get(hint, hint)

    def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """See :class:`edgepose.engines.Engine`."""
        count, lanes = self._first(images)
        result: NDArray[np.float32] = lanes.waited.infer([images[:count]], share_inputs=True, share_outputs=True)[0]
        return self._with_rest(result, images[count:])

    def start(self, images: NDArray[np.float32]) -> Callable[[], NDArray[np.float32]]:
        """Begin to run ``images`` [N, 3, H, W], which are copied at once, on the engine's own threads.

        Returns what waits for their heatmaps [N, K, h, w]; these are valid until the next ``start`` but one. Of a batch
        that is made up of several the first part runs meanwhile.
        """
        count, lanes = self._first(images)
        own = images.copy()
        # Shared, as everywhere: OpenVINO copies what is not shared into the array that another request shared before.
        request = lanes.begin(own[:count])

        def heatmaps() -> NDArray[np.float32]:
            request.wait()
            return self._with_rest(request.get_output_tensor(0).data, own[count:])

        return heatmaps

    def close(self) -> None:
        """Drop the requests, when what was begun has ended, and the compiled models; may come twice."""
        for lanes in self._lanes.values():
            lanes.wait()
        self._lanes = {}

    def _first(self, images: NDArray[np.float32]) -> tuple[int, _Lanes]:
        """How many of ``images`` are run first, and by which graph."""
        count = max(size for size in self._lanes if size <= len(images))
        return count or len(images), self._lanes[count]

    def _with_rest(self, heatmaps: NDArray[np.float32], rest: NDArray[np.float32]) -> NDArray[np.float32]:
        """``heatmaps`` of the first images, and of the ``rest`` that is still to be run."""
        return np.concatenate([heatmaps.copy(), self.infer(rest)]) if len(rest) else heatmaps


class _Lanes:
    """Requests of a compiled model: two in turns, of which one's result is read while the other runs.

    ``waited`` is a third one, for what is waited for at once: it shares the caller's array and disturbs no other.
    """

    def __init__(self, model: Any) -> None:
        self.waited, *self._requests = (model.create_infer_request() for _ in range(3))
        self._images: list[Any] = [None, None]  # what each request reads: kept, also where nobody takes the answer

    def begin(self, images: NDArray[np.float32]) -> Any:
        """The request, of the two, that was used longer ago, begun on ``images``, which it shares."""
        self._requests.reverse()
        self._images.reverse()
        request = self._requests[0]
        request.wait()  # for an answer that nobody took
        self._images[0] = images
        request.start_async([images], share_inputs=True)
        return request

    def wait(self) -> None:
        """Until nothing runs."""
        for request in self._requests:
            request.wait()


def load(bundle: Bundle, options: Options) -> OpenVINOEngine:
    """Compile ``bundle``; EdgeposeError where the device or the graph is refused."""
    return OpenVINOEngine(bundle, options)
