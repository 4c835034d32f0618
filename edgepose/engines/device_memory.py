"""A GPU's memory and one stream on it, by cuda-python where it is installed, else by PyCUDA.

Everything that a :class:`Memory` hands out is released by its :meth:`Memory.close`. Its other calls are made inside
``with memory.active():``, which makes the device's primary context (the one that TensorRT uses, too) the calling
thread's for the while; so an engine may be loaded in one thread and used in another.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import importlib
import importlib.util
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgepose.errors import EdgeposeError, missing
from edgepose.versions import numbers

_GLANCE = 1e-4  # seconds between looks at an event, where waiting for it would hold up all other threads


@dataclass(frozen=True)
class GPU:
    """What a plan depends on, and whether host and device share their memory."""

    name: str
    compute_capability: tuple[int, int]
    integrated: bool  # as on a Jetson: the GPU reads the host's memory, so nothing need be copied
    cuda: str  # the newest CUDA that the driver takes, e.g. "12.6"


@dataclass(frozen=True)
class Pinned:
    """Page-locked host memory; ``pointer`` is its address on the device, 0 where it was not mapped."""

    array: NDArray[np.float32]
    pointer: int


class Event(Protocol):
    """A mark in the stream."""

    def record(self) -> None:
        """Put the mark behind all that was enqueued."""
        ...

    def wait(self) -> None:
        """Block until the stream has passed the mark; at once where there is none."""
        ...


class Memory(Protocol):
    """Buffers of one device and the stream that they are used on. EdgeposeError: whatever CUDA refuses."""

    library: str
    gpu: GPU
    stream: int  # the handle, as TensorRT takes it

    def active(self) -> AbstractContextManager[None]:
        """Make the device the calling thread's."""
        ...

    def device(self, size: int) -> int:
        """The address of ``size`` new bytes on the device."""
        ...

    def pinned(self, shape: tuple[int, ...], *, mapped: bool = False) -> Pinned:
        """New page-locked host memory, float32."""
        ...

    def upload(self, pointer: int, array: NDArray[np.float32]) -> None:
        """Enqueue the copy of a contiguous array to the device."""
        ...

    def download(self, array: NDArray[np.float32], pointer: int) -> None:
        """Enqueue the copy from the device into a contiguous array."""
        ...

    def event(self) -> Event:
        """A new mark."""
        ...

    def synchronize(self) -> None:
        """Block until the stream is empty."""
        ...

    def graph(self, enqueue: Callable[[], None]) -> Callable[[], None] | None:
        """Record what ``enqueue`` does to the stream, not doing it; what replays it, or None: cannot be recorded."""
        ...

    def close(self) -> None:
        """Release everything. A second call does nothing."""
        ...


def open_memory(index: int = 0) -> Memory:
    """The memory of CUDA device ``index``.

    By cuda-python where it can be used, since PyCUDA has no CUDA graphs.
    EdgeposeError: neither library can be used, or there is no such device.
    """
    reasons: list[str] = []
    refused: list[EdgeposeError] = []
    for package, kind in LIBRARIES.items():
        if importlib.util.find_spec(package) is not None:
            try:
                return kind(index)
            except ImportError as error:  # another library of that name, or one that was built for another numpy
                reasons.append(f"'{package}' cannot be loaded: {error}")
            except EdgeposeError as error:  # no device, or one whose driver is older than the library
                refused.append(error)
    if refused:
        raise refused[0]
    if reasons:
        raise EdgeposeError(f"the GPU cannot be used: {'; '.join(reasons)}; run: {INSTALL}")
    raise missing("cuda-python", "to use the GPU", INSTALL)


def named(name: str, processors: int) -> str:
    """A GPU's name with its number of streaming multiprocessors: all Jetson Orins, small and large, are 'Orin'."""
    return f"{name} ({processors} SM)"


def version(number: int) -> str:
    """CUDA's own way of writing a version: 12060 -> '12.6'."""
    return f"{number // 1000}.{number % 1000 // 10}"


class PyCUDA:
    """By PyCUDA, which has no CUDA graphs."""

    library = "pycuda"

    def __init__(self, index: int = 0) -> None:
        self._driver = driver = importlib.import_module("pycuda.driver")
        self._owned = ExitStack()
        self._events: list[Any] = []
        try:
            device, self._context = _primary_context(index)
        except driver.Error as error:
            raise _no_device(index, str(error)) from error
        self.gpu = GPU(
            named(device.name(), device.get_attribute(driver.device_attribute.MULTIPROCESSOR_COUNT)),
            tuple(device.compute_capability()),
            bool(device.get_attribute(driver.device_attribute.INTEGRATED)),
            version(driver.get_driver_version()),
        )
        with self.active():
            self._stream: Any = driver.Stream()
        self.stream = int(self._stream.handle)

    @contextmanager
    def active(self) -> Iterator[None]:
        """See :class:`Memory`."""
        try:
            self._context.push()
            try:
                yield
            finally:
                self._context.pop()
        except self._driver.Error as error:
            raise EdgeposeError(f"the GPU {self.gpu.name} refuses: {error}; end what else uses it, or run again "
                                "with another --engine") from error  # fmt: skip

    def device(self, size: int) -> int:
        """See :class:`Memory`."""
        allocation = self._driver.mem_alloc(size)
        self._owned.callback(allocation.free)
        return int(allocation)

    def pinned(self, shape: tuple[int, ...], *, mapped: bool = False) -> Pinned:
        """See :class:`Memory`."""
        flags = self._driver.host_alloc_flags.DEVICEMAP if mapped else 0
        array = self._driver.pagelocked_empty(shape, np.float32, mem_flags=flags)
        self._owned.callback(array.base.free)
        return Pinned(array, int(array.base.get_device_pointer()) if mapped else 0)

    def upload(self, pointer: int, array: NDArray[np.float32]) -> None:
        """See :class:`Memory`."""
        self._driver.memcpy_htod_async(pointer, array, self._stream)

    def download(self, array: NDArray[np.float32], pointer: int) -> None:
        """See :class:`Memory`."""
        self._driver.memcpy_dtoh_async(array, pointer, self._stream)

    def event(self) -> Event:
        """See :class:`Memory`."""
        events, index = self._events, len(self._events)
        events.append(self._driver.Event(self._driver.event_flags.DISABLE_TIMING))

        def on_event(method: str, *arguments: Any) -> None:  # by number: close() must hold the last reference
            getattr(events[index], method)(*arguments)

        return _Mark(lambda: on_event("record", self._stream), functools.partial(on_event, "synchronize"))

    def synchronize(self) -> None:
        """See :class:`Memory`."""
        self._stream.synchronize()

    def graph(self, enqueue: Callable[[], None]) -> Callable[[], None] | None:
        """See :class:`Memory`."""
        return None

    def close(self) -> None:
        """See :class:`Memory`."""
        if self._stream is None:
            return
        with self.active():  # PyCUDA destroys nothing of a context that is not the calling thread's
            try:
                self._stream.synchronize()
            finally:
                self._owned.close()
                self._events.clear()
                self._stream = None


@functools.cache
def _primary_context(index: int) -> tuple[Any, Any]:
    """PyCUDA's device and its primary context, retained once for the life of the process."""
    driver = importlib.import_module("pycuda.driver")
    driver.init()
    device = driver.Device(index)
    context = device.retain_primary_context()
    atexit.register(context.detach)  # its destructor would take it for a context of its own
    return device, context


def _lets_others_run() -> bool:
    """Whether cuda-python gives the interpreter's lock away while CUDA waits, as it does since 12.9.1."""
    try:
        bindings = importlib.import_module("cuda.bindings")
    except ImportError:  # before 12.6 it had another name
        return False
    # Of what is loaded: pip may think of two wheels that hold the same files as installed, one over the other.
    return numbers(getattr(bindings, "__version__", "")) >= (12, 9, 1)


def _address(held: Any) -> int:
    """Where a CUDA object of cuda-python's lies; ``int()`` of one is to go."""
    try:
        utils = importlib.import_module("cuda.bindings.utils")
    except ImportError:  # before 12.9.1
        return int(held)
    return int(utils.get_cuda_native_handle(held))


class CUDAPython:
    """By cuda-python's runtime API, which makes the primary context current by itself."""

    library = "cuda-python"

    def __init__(self, index: int = 0) -> None:
        try:
            self._runtime = runtime = importlib.import_module("cuda.bindings.runtime")
        except ImportError:
            self._runtime = runtime = importlib.import_module("cuda.cudart")  # before cuda-python 12.6
        self._lets_others_run = _lets_others_run()
        self._index = index
        self._closed = False
        self._owned = ExitStack()
        try:
            error, count = runtime.cudaGetDeviceCount()
        except RuntimeError as reason:  # before 12.9: where there is no libcuda
            raise _no_device(index, str(reason)) from reason
        if int(error) == int(runtime.cudaError_t.cudaErrorInsufficientDriver):  # or there is no driver at all
            raise _no_device(index, f"{self._reason(error)}; where there is a driver, run: {INSTALL}")
        if int(error) or index >= count:
            raise _no_device(index, self._reason(error) if int(error) else f"it sees {count}")
        properties = self._call("cudaGetDeviceProperties", index)
        self.gpu = GPU(
            named(properties.name.decode().rstrip("\0"), int(properties.multiProcessorCount)),
            (int(properties.major), int(properties.minor)),
            bool(properties.integrated),
            version(self._call("cudaDriverGetVersion")),
        )
        with self.active():
            stream = self._call("cudaStreamCreateWithFlags", runtime.cudaStreamNonBlocking)
        self.stream = _address(stream)
        self._owned.callback(self._call, "cudaStreamDestroy", self.stream)

    @contextmanager
    def active(self) -> Iterator[None]:
        """See :class:`Memory`."""
        self._call("cudaSetDevice", self._index)
        yield

    def device(self, size: int) -> int:
        """See :class:`Memory`."""
        pointer = int(self._call("cudaMalloc", size))
        self._owned.callback(self._call, "cudaFree", pointer)
        return pointer

    def pinned(self, shape: tuple[int, ...], *, mapped: bool = False) -> Pinned:
        """See :class:`Memory`."""
        count = int(np.prod(shape))
        flags = self._runtime.cudaHostAllocMapped if mapped else self._runtime.cudaHostAllocDefault
        host = int(self._call("cudaHostAlloc", count * 4, flags))
        self._owned.callback(self._call, "cudaFreeHost", host)
        array = np.ctypeslib.as_array((ctypes.c_float * count).from_address(host)).reshape(shape)
        return Pinned(array, int(self._call("cudaHostGetDevicePointer", host, 0)) if mapped else 0)

    def upload(self, pointer: int, array: NDArray[np.float32]) -> None:
        """See :class:`Memory`."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", pointer, array.ctypes.data, array.nbytes, kind, self.stream)

    def download(self, array: NDArray[np.float32], pointer: int) -> None:
        """See :class:`Memory`."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, pointer, array.nbytes, kind, self.stream)

    def event(self) -> Event:
        """See :class:`Memory`."""
        event = self._call("cudaEventCreateWithFlags", self._runtime.cudaEventDisableTiming)
        self._owned.callback(self._call, "cudaEventDestroy", event)
        record = functools.partial(self._call, "cudaEventRecord", event, self.stream)
        return _Mark(record, functools.partial(self._wait, event))

    def _wait(self, event: Any) -> None:
        if self._lets_others_run:
            self._call("cudaEventSynchronize", event)
            return
        not_ready = int(self._runtime.cudaError_t.cudaErrorNotReady)
        while int(self._runtime.cudaEventQuery(event)[0]) == not_ready:
            time.sleep(_GLANCE)
        self._call("cudaEventQuery", event)

    def synchronize(self) -> None:
        """See :class:`Memory`."""
        self._call("cudaStreamSynchronize", self.stream)

    def graph(self, enqueue: Callable[[], None]) -> Callable[[], None] | None:
        """See :class:`Memory`."""
        runtime = self._runtime
        # Other threads (a camera's decoder) may use the GPU meanwhile: only this thread's calls are watched.
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        if int(runtime.cudaStreamBeginCapture(self.stream, mode)[0]):
            return None
        refused = False
        try:
            enqueue()
        except EdgeposeError:
            refused = True
        except BaseException:  # such as Ctrl-C: a stream that still records cannot even be waited for
            error, recorded = runtime.cudaStreamEndCapture(self.stream)
            if not int(error):
                runtime.cudaGraphDestroy(recorded)
            raise
        error, recorded = runtime.cudaStreamEndCapture(self.stream)
        if int(error):
            runtime.cudaGetLastError()  # a refused capture is no fault of the calls that follow
            return None
        # One signature in all versions; cudaGraphInstantiate changed its own in CUDA 12.
        error, executable = (1, None) if refused else runtime.cudaGraphInstantiateWithFlags(recorded, 0)
        self._call("cudaGraphDestroy", recorded)
        if int(error):
            runtime.cudaGetLastError()
            return None
        self._owned.callback(self._call, "cudaGraphExecDestroy", executable)
        return functools.partial(self._call, "cudaGraphLaunch", executable, self.stream)

    def close(self) -> None:
        """See :class:`Memory`."""
        if self._closed:
            return
        self._closed = True
        with self.active():
            try:
                self.synchronize()
            finally:
                self._owned.close()

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call CUDA's function; its results without the error code. EdgeposeError where that is not success."""
        error, *results = getattr(self._runtime, name)(*arguments)
        if int(error):
            raise EdgeposeError(f"the GPU refuses {name}: {self._reason(error)}; end what else uses it, or run again "
                                "with another --engine")  # fmt: skip
        return results[0] if results else None

    def _reason(self, error: Any) -> str:
        text = self._runtime.cudaGetErrorString(error)[1]
        return text.decode() if isinstance(text, bytes) else str(text)


@dataclass
class _Mark:
    """An event of either library."""

    _record: Callable[[], None]
    _wait: Callable[[], None]

    def record(self) -> None:
        """See :class:`Event`."""
        self._record()

    def wait(self) -> None:
        """See :class:`Event`."""
        self._wait()


def _no_device(index: int, reason: str) -> EdgeposeError:
    return EdgeposeError(f"there is no CUDA device {index} here ({reason.strip()}); check the driver with nvidia-smi; "
                         "without a GPU a model runs with --engine openvino")  # fmt: skip


LIBRARIES: dict[str, Callable[[int], Memory]] = {"cuda": CUDAPython, "pycuda": PyCUDA}  # the better one first
INSTALL = ".venv/bin/pip install 'cuda-python==12.6.*', with the version of this machine's CUDA"
