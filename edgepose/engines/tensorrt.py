"""TensorRT: runs plans on NVIDIA GPUs, on a Jetson without copying.

Images go through two lanes, each with its own pinned buffers, on one stream: while one lane's batch runs, the next
one's images are prepared (:meth:`TensorRTEngine.start`). A batch size that comes again on a lane is replayed as a
CUDA graph.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose import plans
from edgepose.bundle import Bundle
from edgepose.engines import Options
from edgepose.engines.device_memory import Memory, open_memory
from edgepose.engines.pipelined import pipelined
from edgepose.engines.trt_library import Heard, described, has, library
from edgepose.errors import EdgeposeError
from edgepose.plans import Manifest, Wanted

Heatmaps = NDArray[np.float32]


class TensorRTEngine:
    """A plan, deserialised. Not for use by two threads at once; the thread may change between calls."""

    name = "tensorrt"
    lanes = 2  # batches that may be begun before the first one's answer is read

    def __init__(self, trt: Any, bundle: Bundle, plan: bytes, manifest: Manifest, memory: Memory) -> None:
        """``memory`` is the engine's from here on; it closes it. EdgeposeError: TensorRT refuses the plan."""
        self.precision = manifest.precision
        self._trt, self._bundle, self._memory = trt, bundle, memory
        self._heard = Heard(trt)
        self._lanes: list[_Lane] = []
        self._next = 0
        self._closed = False
        try:
            with memory.active():
                self._open(plan, manifest)
        except BaseException:
            with suppress(EdgeposeError):  # the first fault is the one to tell
                self.close()
            raise

    def _open(self, plan: bytes, manifest: Manifest) -> None:
        trt, memory = self._trt, self._memory
        try:
            self._runtime = trt.Runtime(self._heard.logger)
        except (TypeError, RuntimeError):  # what its constructor raises without a usable GPU
            raise self._refused("make a runtime for") from None
        if manifest.wanted.version_compatible:
            self._runtime.engine_host_code_allowed = True  # such a plan carries its own runtime
        self._on_dla = manifest.wanted.dla_core is not None
        if manifest.wanted.dla_core is not None:
            self._runtime.DLA_core = manifest.wanted.dla_core
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            kept = plans.cached(self._bundle, manifest.wanted, manifest.machine)
            raise EdgeposeError(f"{self._refused('load the plan of')}; delete the plan ({kept.name} in {kept.parent}, "
                                "or the one beside the bundle) to have it built again")  # fmt: skip
        names = {self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)}
        if names != {"image", "heatmaps"}:
            raise EdgeposeError(f"the plan of {self._bundle.path} has tensors {sorted(names)}, not image and heatmaps; "
                                "build it again")  # fmt: skip
        least, _, most = (next(iter(shape)) for shape in self._engine.get_tensor_profile_shape("image", 0))
        self.max_batch = int(most)
        self._least = int(least)
        newer = hasattr(self._engine, "device_memory_size_v2")
        size = self._engine.device_memory_size_v2 if newer else self._engine.device_memory_size
        # One scratch memory serves every context: on one stream they run one after another.
        self._scratch = (memory.device(max(int(size), 256)), int(size))
        self._lanes = [_Lane(memory, self._bundle, self.max_batch) for _ in range(self.lanes)]

    def infer(self, images: NDArray[np.float32]) -> Heatmaps:
        """See :class:`edgepose.engines.Engine`; more images than ``max_batch`` are run in slices."""
        if len(images) <= self.max_batch:
            return self.start(images)()
        slices = (images[i : i + self.max_batch] for i in range(0, len(images), self.max_batch))
        return np.concatenate([found.copy() for found in pipelined(self, slices)])

    def start(self, images: NDArray[np.float32]) -> Callable[[], Heatmaps]:
        """Begin to run ``images`` [N, 3, H, W], N up to ``max_batch``, which are copied at once.

        Returns what waits for their heatmaps [N, K, h, w]; these are valid until the next ``start`` but one.
        """
        self._require_open()
        lane = self._lanes[self._next]
        shape = lane.images.array.shape
        if images.shape[1:] != shape[1:] or not 1 <= len(images) <= self.max_batch:
            raise EdgeposeError(f"model {self._bundle.manual.name} takes 1 to {self.max_batch} images of "
                                f"{list(shape[1:])}, not {list(images.shape)}")  # fmt: skip
        count = len(images)
        rows = max(count, self._least)  # a DLA's plan has one batch size; what is over is not looked at
        with self._memory.active():
            lane.done.wait()
            lane.images.array[:count] = images
            if rows not in lane.runs:
                lane.runs[rows] = _Run(self._memory, lane, self._context(lane, rows), rows, recorded=not self._on_dla)
            if not lane.runs[rows]():
                raise self._refused("run")
            lane.done.record()
        self._next = (self._next + 1) % self.lanes

        def heatmaps() -> Heatmaps:
            self._require_open()
            with self._memory.active():
                lane.done.wait()
            return lane.heatmaps.array[:count]

        return heatmaps

    def _context(self, lane: _Lane, rows: int) -> Any:
        """A context whose shape and addresses stay as they are, which a captured graph relies on."""
        strategies = getattr(self._trt, "ExecutionContextAllocationStrategy", None)
        if strategies is not None:
            context = self._engine.create_execution_context(strategies.USER_MANAGED)
        else:
            context = self._engine.create_execution_context_without_device_memory()
        if context is None:
            raise self._refused("make a context for")
        if hasattr(context, "set_device_memory"):
            context.set_device_memory(*self._scratch)
        else:
            context.device_memory = self._scratch[0]
        accepted: tuple[Any, ...] = (False,)
        with suppress(RuntimeError):  # how its bindings say that the profile was refused
            accepted = (
                # TensorRT 8.6 gives profile 0 by itself to the first context alone.
                context.set_optimization_profile_async(0, self._memory.stream),
                context.set_input_shape("image", (rows, *lane.images.array.shape[1:])),
                context.set_tensor_address("image", lane.image_pointer),
                context.set_tensor_address("heatmaps", lane.heatmap_pointer),
            )
        if not all(accepted):
            raise self._refused(f"take {rows} images for")
        given, expected = tuple(context.get_tensor_shape("heatmaps")), (rows, *lane.heatmaps.array.shape[1:])
        if given != expected:  # it would write elsewhere
            raise EdgeposeError(f"{self._bundle.path}: {rows} images give heatmaps {list(given)}, and the manual says "
                                f"{list(expected)}; export it again")  # fmt: skip
        return context

    def _require_open(self) -> None:
        if self._closed:
            raise EdgeposeError("the TensorRT engine is closed; load the model again")

    def _refused(self, what: str) -> EdgeposeError:
        return EdgeposeError(f"{described(self._trt)} cannot {what} {self._bundle.path}: {self._heard.last()}")

    def close(self) -> None:
        """Wait for what runs, and release contexts, engine, buffers and stream; heatmaps not copied are gone.

        A second call does nothing.
        """
        if self._closed:
            return
        self._closed = True
        try:
            with self._memory.active():
                try:
                    self._memory.synchronize()
                finally:  # also of a GPU that failed
                    for lane in self._lanes:
                        lane.runs.clear()  # they refer to each other: contexts would wait for the garbage collector
                    self._lanes.clear()
                    self._engine = self._runtime = None
        finally:
            self._memory.close()


class _Lane:
    """Pinned buffers for one batch, the device's view of them, and how each batch size is run."""

    def __init__(self, memory: Memory, bundle: Bundle, most: int) -> None:
        width, height = bundle.manual.input_size
        across, down = bundle.heatmap_size
        shared = memory.gpu.integrated  # then the device reads and writes the pinned memory itself
        self.images = memory.pinned((most, 3, height, width), mapped=shared)
        self.heatmaps = memory.pinned((most, bundle.manual.maps, down, across), mapped=shared)
        self.shared = shared
        self.image_pointer = self.images.pointer if shared else memory.device(self.images.array.nbytes)
        self.heatmap_pointer = self.heatmaps.pointer if shared else memory.device(self.heatmaps.array.nbytes)
        self.done = memory.event()
        self.runs: dict[int, _Run] = {}


class _Run:
    """One batch size on one lane: the first call enqueues, the second records a graph, and the others replay it.

    What a DLA is given is no part of a CUDA graph, so that a plan with layers on one is enqueued every time.
    """

    def __init__(self, memory: Memory, lane: _Lane, context: Any, rows: int, *, recorded: bool) -> None:
        self._memory, self._lane, self._context, self._rows, self._recorded = memory, lane, context, rows, recorded
        self._calls = 0
        self._replay: Callable[[], None] | None = None

    def __call__(self) -> bool:
        """Enqueue; False where TensorRT refuses."""
        self._calls += 1
        if self._calls == 2 and self._recorded:  # TensorRT must have run a shape once before it can be recorded
            self._replay = self._memory.graph(self._enqueue_or_raise)
        if self._replay is None:
            return self._enqueue()
        self._replay()
        return True

    def _enqueue(self) -> bool:
        lane, rows = self._lane, self._rows
        if not lane.shared:
            self._memory.upload(lane.image_pointer, lane.images.array[:rows])
        if not self._context.execute_async_v3(self._memory.stream):
            return False
        if not lane.shared:
            self._memory.download(lane.heatmaps.array[:rows], lane.heatmap_pointer)
        return True

    def _enqueue_or_raise(self) -> None:
        if not self._enqueue():
            raise EdgeposeError("TensorRT cannot be recorded into a CUDA graph")


def load(bundle: Bundle, options: Options) -> TensorRTEngine:
    """Open a plan of ``bundle``: the one beside it, else from the cache, else built now unless ``options`` forbid.

    EdgeposeError: no GPU, no plan that fits and none may be built, or TensorRT refuses it.
    """
    return opened(bundle, options, library())


def opened(bundle: Bundle, options: Options, trt: Any, memory: Memory | None = None) -> TensorRTEngine:
    """As :func:`load`, on the TensorRT module ``trt`` and the GPU ``memory``, which the engine will close.

    ``options.threads`` is of the CPU's engines and has no meaning here.
    """
    shared = hasattr(trt, "ExecutionContextAllocationStrategy") or has(trt, "PreviewFeature", "PROFILE_SHARING_0806")
    if not shared:  # one profile could not serve the contexts of all batch sizes
        raise EdgeposeError(f"{described(trt)} is too old; TensorRT 8.6 (JetPack 6) or later is needed")
    index, wanted = _wanted(options)
    memory = memory or open_memory(index)
    try:
        from edgepose.engines import trt_build

        here = plans.machine_here(trt.__name__, trt.__version__, memory.gpu)
        gpu = memory

        def build(path: Path) -> Manifest:
            with gpu.active():  # else the builder takes the first GPU
                return trt_build.build(bundle, path, wanted, trt=trt, memory=gpu)

        path, manifest = plans.obtain(bundle, wanted, here, build if options.build else None)
        plan = path.read_bytes()
    except BaseException:
        memory.close()
        raise
    return TensorRTEngine(trt, bundle, plan, manifest, memory)


def _wanted(options: Options) -> tuple[int, Wanted]:
    """The CUDA device's index, and what its plan should be."""
    found = re.fullmatch(r"(auto|gpu|cuda|dla)(?::(\d+))?", options.device.lower())
    if found is None:
        raise EdgeposeError(f"tensorrt has no device '{options.device}'; use GPU, GPU:1 or DLA:0")
    number = int(found[2] or 0)
    if found[1] == "dla":
        return 0, Wanted(precision=options.precision, dla_core=number, max_batch=1)
    return number, Wanted(precision=options.precision)
