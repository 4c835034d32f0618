"""OpenVINO: the default engine on x86 and ARM CPUs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose.bundle import Bundle
from edgepose.engines import Options, cpu
from edgepose.engines.narrow import narrow
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
    lanes = 3  # batches that may be begun before the first one's answer is read

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
        self._models: dict[int, Any] = {}  # compiled, by batch size; 0: any
        try:
            for count in options.batches or (0,):
                graph = runtime.read_model(bundle.path)
                if bundle.manual.precision == "int8" and device.split(".")[0] == "CPU" and not cpu.sums_exactly():
                    narrow(graph)
                if count:
                    graph.reshape([count, *graph.input().partial_shape[1:]])
                self._models[count] = runtime.compile_model(graph, device, settings)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise EdgeposeError(f"openvino cannot load {bundle.path}: {reason}") from error
        self.precision = bundle.manual.precision
        if self.precision == "float32":  # what the device took of the hint
            hint = self._models[count].get_property("INFERENCE_PRECISION_HINT").get_type_name()
            self.precision = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}.get(hint, hint)
        self._waited: dict[int, Any] = {}  # the request, by batch size, for what is waited for at once
        # In turns: the answer of one is read while others run.
        self._lanes = [_Lane(self._models) for _ in range(self.lanes)]

    def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """See :class:`edgepose.engines.Engine`; what was begun is not disturbed."""
        parts = _parts(self._models, images)
        if len(parts) == 1:
            return self._wait_for(*parts[0])
        return np.concatenate([self._wait_for(*part).copy() for part in parts])

    def start(self, images: NDArray[np.float32]) -> Callable[[], NDArray[np.float32]]:
        """Begin to run ``images`` [N, 3, H, W], which are copied at once, on the engine's own threads.

        Returns what waits for their heatmaps [N, K, h, w]; these are valid until the next ``start`` but two.
        """
        self._lanes.append(self._lanes.pop(0))
        return self._lanes[-1].begin(images)

    def close(self) -> None:
        """Drop the requests, when what was begun has ended, and the compiled models; may come twice."""
        for lane in self._lanes:
            lane.wait()
        self._lanes, self._waited, self._models = [], {}, {}

    def _wait_for(self, size: int, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run ``images`` in the caller's thread; the heatmaps are the request's own."""
        if size not in self._waited:
            self._waited[size] = self._models[size].create_infer_request()
        # Shared, here and below: OpenVINO copies what is not shared into the array that was shared before.
        result: NDArray[np.float32] = self._waited[size].infer([images], share_inputs=True, share_outputs=True)[0]
        return result


def _parts(models: dict[int, Any], images: NDArray[np.float32]) -> list[tuple[int, NDArray[np.float32]]]:
    """``images`` in as few parts as the sizes of ``models`` allow, the largest first; each with its model's size."""
    parts = []
    while len(images):
        size = max(size for size in models if size <= len(images))
        parts.append((size, images[: size or len(images)]))
        images = images[len(parts[-1][1]) :]
    return parts


class _Lane:
    """What runs one batch at a time beside others: an array for its images, and a request for each of its parts."""

    def __init__(self, models: dict[int, Any]) -> None:
        import openvino

        self._tensor = openvino.Tensor
        self._models = models
        self._images = np.zeros(0, np.float32)
        self._idle: dict[int, list[Any]] = {size: [] for size in models}  # requests, by batch size
        self._running: list[tuple[int, Any, NDArray[np.float32]]] = []  # size, request, images that it reads

    def begin(self, images: NDArray[np.float32]) -> Callable[[], NDArray[np.float32]]:
        """Begin to run a copy of ``images`` [N, 3, H, W]; what is returned waits for the heatmaps."""
        self.wait()  # for an answer that nobody took
        for size, request, _ in self._running:
            self._idle[size].append(request)
        if images.size > self._images.size:
            self._images = np.empty(images.size, np.float32)
        own = self._images[: images.size].reshape(images.shape)
        own[:] = images
        self._running = []
        for size, part in _parts(self._models, own):
            request = self._idle[size].pop() if self._idle[size] else self._models[size].create_infer_request()
            # As start_async([part], share_inputs=True) does, in a third of its time.
            request.set_input_tensor(self._tensor(part, shared_memory=True))
            request.start_async()
            self._running.append((size, request, part))
        return self._heatmaps

    def wait(self) -> None:
        """Until nothing runs."""
        for _, request, _ in self._running:
            request.wait()

    def _heatmaps(self) -> NDArray[np.float32]:
        self.wait()
        found = [request.get_output_tensor(0).data for _, request, _ in self._running]
        return found[0] if len(found) == 1 else np.concatenate(found)


def load(bundle: Bundle, options: Options) -> OpenVINOEngine:
    """Compile ``bundle``; EdgeposeError where the device or the graph is refused."""
    return OpenVINOEngine(bundle, options)
