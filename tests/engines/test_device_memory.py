"""The GPU's memory, as far as it goes without one: the real cuda-python takes every call that we make."""

import importlib
import importlib.util
import re
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from edgepose import EdgeposeError, engines
from edgepose.engines import device_memory
from edgepose.engines.device_memory import GPU, CUDAPython, open_memory, version
from tests.engines.host_runtime import HostRuntime


@pytest.fixture
def runtime():
    found = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed; pip install cuda-python")
    if int(found.cudaGetDeviceCount()[0]) == 0:
        pytest.skip("there is a GPU here; tests/gpu uses it")
    return found


@pytest.fixture
def memory(runtime):
    """As the constructor makes it, where a GPU is."""
    made = CUDAPython.__new__(CUDAPython)
    made._runtime, made._index, made._owned = runtime, 0, ExitStack()
    made.gpu, made.stream = GPU("none", (8, 7), False, "12.6"), 0
    return made


def test_every_name_that_we_use_is_there(runtime):
    text = Path(device_memory.__file__).read_text()
    names = set(re.findall(r"\bcuda[A-Z]\w+", text))
    assert len(names) > 20
    kinds = (runtime, runtime.cudaMemcpyKind, runtime.cudaStreamCaptureMode, runtime.cudaError_t)
    assert not [n for n in names if not any(hasattr(kind, n) for kind in kinds)]


def test_calls_have_the_arguments_that_cuda_python_takes(memory):
    """Wrong ones would be a TypeError; right ones without a GPU are refused by CUDA itself, in a sentence."""
    array = np.zeros((2, 3), np.float32)
    for act, name in (
        (lambda: memory.device(64), "cudaMalloc"),
        (lambda: memory.pinned((2, 3)), "cudaHostAlloc"),
        (lambda: memory.pinned((2, 3), mapped=True), "cudaHostAlloc"),
        (lambda: memory.upload(4096, array), "cudaMemcpyAsync"),
        (lambda: memory.download(array, 4096), "cudaMemcpyAsync"),
        (memory.event, "cudaEventCreateWithFlags"),
        (memory.synchronize, "cudaStreamSynchronize"),
        (lambda: memory.active().__enter__(), "cudaSetDevice"),
        (lambda: memory._call("cudaGetDeviceProperties", 0), "cudaGetDeviceProperties"),
        (lambda: memory._call("cudaStreamCreateWithFlags", memory._runtime.cudaStreamNonBlocking),
         "cudaStreamCreateWithFlags"),
        (lambda: memory._call("cudaHostGetDevicePointer", 4096, 0), "cudaHostGetDevicePointer"),
        (lambda: memory._call("cudaEventRecord", 0, memory.stream), "cudaEventRecord"),
        (lambda: memory._call("cudaEventSynchronize", 0), "cudaEventSynchronize"),
        (lambda: memory._call("cudaEventQuery", 0), "cudaEventQuery"),
        (lambda: memory._call("cudaEventDestroy", 0), "cudaEventDestroy"),
        (lambda: memory._call("cudaFree", 4096), "cudaFree"),
        (lambda: memory._call("cudaFreeHost", 4096), "cudaFreeHost"),
        (lambda: memory._call("cudaStreamDestroy", memory.stream), "cudaStreamDestroy"),
        (lambda: memory._call("cudaGraphDestroy", 0), "cudaGraphDestroy"),
        (lambda: memory._call("cudaGraphExecDestroy", 0), "cudaGraphExecDestroy"),
        (lambda: memory._call("cudaGraphLaunch", 0, memory.stream), "cudaGraphLaunch"),
        (lambda: memory._call("cudaGraphInstantiateWithFlags", 0, 0), "cudaGraphInstantiateWithFlags"),
        (lambda: memory._call("cudaStreamEndCapture", memory.stream), "cudaStreamEndCapture"),
    ):  # fmt: skip
        with pytest.raises(EdgeposeError, match=f"the GPU refuses {name}: .+; end what else uses it"):
            act()


def test_a_graph_that_cannot_be_recorded_is_none(memory):
    assert memory.graph(lambda: pytest.fail("nothing is recorded where recording cannot begin")) is None


def test_a_streams_address_is_asked_for_as_this_cuda_python_wants_it(runtime, monkeypatch):
    stream = runtime.cudaStream_t(4096)
    assert device_memory._address(stream) == 4096

    def older(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", older)
    assert device_memory._address(stream) == 4096


def test_without_a_gpu_it_is_said(runtime):
    with pytest.raises(EdgeposeError, match=r"there is no CUDA device 0 here \(.+\); check the driver"):
        open_memory()


@pytest.fixture
def host(monkeypatch):
    made = HostRuntime()
    monkeypatch.setattr(importlib, "import_module", lambda name: made)
    return made


def test_everything_taken_is_given_back_on_close(host):
    memory = CUDAPython()
    assert memory.gpu == GPU("Orin (16 SM)", (8, 7), True, "12.6")
    with memory.active():
        pointer, near, far = memory.device(24), memory.pinned((2, 3)), memory.pinned((2, 3), mapped=True)
        mark = memory.event()
        near.array[:] = [[1, 2, 3], [4, 5, 6]]

        def there_and_back():
            memory.upload(pointer, near.array)
            memory.download(far.array[:1], pointer)

        replay = memory.graph(there_and_back)
        assert not far.array.any()  # recorded, not done
        replay()
        mark.record()
        mark.wait()
    assert far.array.tolist() == [[1, 2, 3], [0, 0, 0]]
    assert (near.pointer, far.pointer) == (0, far.array.ctypes.data)
    assert len(host.live) == 6  # one of each, another pinned; the graph itself is gone once it is instantiated
    memory.close()
    memory.close()
    assert not host.live


def test_of_a_gpu_that_failed_everything_is_given_back_too(host):
    memory = CUDAPython()
    with memory.active():
        memory.device(24), memory.pinned((2, 3)), memory.event()
    host.refused.add("StreamSynchronize")
    with pytest.raises(EdgeposeError, match="the GPU refuses cudaStreamSynchronize"):
        memory.close()
    assert not host.live


@pytest.mark.parametrize(
    ("installed", "glances"),
    [("12.2.1", True), ("12.6.2.post1", True), ("12.9.0", True), ("12.9.1", False), ("13.0.3", False)],
)
def test_no_wait_holds_up_other_threads(host, monkeypatch, installed, glances):
    """Before 12.9.1 cuda-python kept the interpreter's lock while CUDA waited; then an event is looked at instead."""
    monkeypatch.setattr(host, "__version__", installed)
    memory = CUDAPython()
    host.not_ready = 3
    with memory.active():
        mark = memory.event()
        mark.record()
        mark.wait()
        assert host.not_ready == (-2 if glances else 3), "three times not ready, once ready, once for its errors"
        host.refused = {"EventQuery" if glances else "EventSynchronize"}
        with pytest.raises(EdgeposeError, match="the GPU refuses cudaEvent"):
            mark.wait()


@pytest.mark.parametrize("call", ["StreamBeginCapture", "StreamEndCapture", "GraphInstantiateWithFlags", "MemcpyAsync"])
def test_a_refused_recording_is_none_and_leaves_nothing(host, call):
    memory = CUDAPython()
    with memory.active():
        pointer, near = memory.device(24), memory.pinned((2, 3))
        host.refused.add(call)
        assert memory.graph(lambda: memory.upload(pointer, near.array)) is None
    memory.close()
    assert not host.live


def test_a_recording_that_is_interrupted_is_ended(host):
    """The stream could not even be waited for on the way out."""
    memory = CUDAPython()

    def interrupt():
        raise KeyboardInterrupt

    with memory.active(), pytest.raises(KeyboardInterrupt):
        memory.graph(interrupt)
    assert host.recording is None
    memory.close()
    assert not host.live


def test_bindings_without_a_version_are_old_ones(host):
    assert not CUDAPython()._lets_others_run


def test_why_there_is_no_device_is_said(host):
    def no_libcuda():
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    for answer, says in (
        (no_libcuda, r"no CUDA device 0 here \(Failed to dlopen libcuda.so.1\); check the driver"),  # before 12.9
        (lambda: (35, 0), r"no CUDA device 0 here \(.*; where there is a driver, run: .*'cuda-python==12.6"),
        (lambda: (0, 0), r"no CUDA device 0 here \(it sees 0\)"),
    ):
        host.cudaGetDeviceCount = answer
        with pytest.raises(EdgeposeError, match=says):
            CUDAPython()


def test_cuda_refusals_are_sentences(host):
    host.refused.add("Malloc")
    memory = CUDAPython()
    with pytest.raises(EdgeposeError, match="the GPU refuses cudaMalloc: out of memory; end what else uses it"):
        memory.device(1 << 40)
    memory.close()


def test_without_a_library_it_is_said(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EdgeposeError, match="cuda-python is needed to use the GPU but is not installed"):
        open_memory()


def test_a_library_that_does_not_load_is_left_for_the_other_or_named(host, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert open_memory().library == "cuda-python"

    def broken(name):
        raise ImportError("numpy.core.multiarray failed to import")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(EdgeposeError, match=r"'cuda' cannot be loaded: numpy.*'pycuda' cannot be loaded: .*; run:"):
        open_memory()


def test_a_library_that_is_newer_than_the_driver_is_left_for_the_other(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)

    def refused(index):
        raise EdgeposeError("CUDA driver version is insufficient for CUDA runtime version")

    monkeypatch.setattr(device_memory, "LIBRARIES", {"cuda": refused, "pycuda": lambda index: ("pycuda", index)})
    assert open_memory(1) == ("pycuda", 1)
    monkeypatch.setattr(device_memory, "LIBRARIES", {"cuda": refused})
    with pytest.raises(EdgeposeError, match="driver version is insufficient"):
        open_memory()


@pytest.mark.parametrize(("there", "first"), [({"tensorrt"}, "openvino"), ({"tensorrt", "cuda"}, "tensorrt")])
def test_auto_takes_tensorrt_where_it_can_have_the_gpus_memory(there, first, monkeypatch):
    real = importlib.util.find_spec
    absent = {"tensorrt", "cuda", "pycuda"} - there
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n in absent else n in there or real(n))
    assert engines.available()[0] == first


def test_versions_are_read_as_cuda_writes_them():
    assert [version(n) for n in (12060, 13040, 11080)] == ["12.6", "13.4", "11.8"]
