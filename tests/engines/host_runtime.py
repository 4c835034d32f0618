"""cuda-python's runtime calls on host memory, to check what is done with them; the real ones need a GPU (tests/gpu)."""
# ruff: noqa: N802, N815

import ctypes
from types import SimpleNamespace

import numpy as np


class HostRuntime:
    """The runtime's calls that we make, on host memory: what is taken must be given back, each by its own call."""

    cudaHostAllocDefault, cudaHostAllocMapped, cudaStreamNonBlocking, cudaEventDisableTiming = 0, 2, 1, 2
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaError_t = SimpleNamespace(cudaErrorNotReady=600, cudaErrorInsufficientDriver=35)
    get_cuda_native_handle = staticmethod(int)  # of cuda.bindings.utils; our streams are addresses
    __version__ = ""  # of cuda.bindings: not said before 12.6.1
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self):
        self.live, self.recording, self.refused = {}, None, set()
        self.not_ready = 0  # so many more times an event is not ready

    def __getattribute__(self, name):
        """A call that is to be refused gives an error code in place of what it does."""
        refused = object.__getattribute__(self, "__dict__").get("refused", ())
        if name.removeprefix("cuda") in refused:
            return lambda *arguments: (2, None)
        return object.__getattribute__(self, name)

    def __getattr__(self, name):
        kinds = {"Malloc": "Free", "HostAlloc": "FreeHost", "StreamCreateWithFlags": "StreamDestroy",
                 "EventCreateWithFlags": "EventDestroy", "StreamEndCapture": "GraphDestroy",
                 "GraphInstantiateWithFlags": "GraphExecDestroy"}  # fmt: skip
        short = name.removeprefix("cuda")
        if short in kinds:
            return lambda *arguments: (0, self.take(kinds[short], arguments[0]))
        if short in kinds.values():
            return lambda handle: self.give(short, handle)
        assert name.startswith("cuda"), name
        return lambda *arguments: (0,)

    def take(self, kind, size):
        block = np.zeros(size if kind in ("Free", "FreeHost") else 8, np.uint8)
        self.live[block.ctypes.data] = (kind, block, self.recording)
        if kind == "GraphExecDestroy":
            self.live[block.ctypes.data] = (kind, block, self.live[size][2])
        if kind == "GraphDestroy":
            self.recording = None
        return block.ctypes.data

    def give(self, kind, handle):
        assert self.live.pop(handle)[0] == kind
        return (0,)

    def cudaGetDeviceCount(self):
        return 0, 1

    def cudaGetDeviceProperties(self, index):
        return 0, SimpleNamespace(name=b"Orin\0\0", major=8, minor=7, integrated=1, multiProcessorCount=16)

    def cudaDriverGetVersion(self):
        return 0, 12060

    def cudaHostGetDevicePointer(self, host, flags):
        return 0, host

    def cudaGetErrorString(self, error):
        return 0, b"out of memory"

    def cudaEventQuery(self, event):
        self.not_ready -= 1
        return (600 if self.not_ready >= 0 else 0,)

    def cudaStreamBeginCapture(self, stream, mode):
        self.recording = []
        return (0,)

    def cudaMemcpyAsync(self, to, origin, size, kind, stream):
        def copy():
            ctypes.memmove(to, origin, size)

        (copy() if self.recording is None else self.recording.append(copy))
        return (0,)

    def cudaGraphLaunch(self, graph, stream):
        for copy in self.live[graph][2]:
            copy()
        return (0,)
