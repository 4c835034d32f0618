"""A module with the names of a recorded TensorRT version, and no others, to drive the builder and the engine with.

This checks names, order and data flow, nothing else: that no attribute is touched which the version lacks, and that
what is set and passed is right. It stands in for no part that runs here; TensorRT itself needs a GPU (tests/gpu).
A "plan" is the ONNX file that was parsed, and a context runs it by onnxruntime on the addresses that it was given.
"""

import ctypes
import enum
import json
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np

from edgepose.engines.device_memory import GPU, Pinned
from edgepose.errors import EdgeposeError

FOLDER = Path(__file__).parent / "surfaces"


def names():
    """The recorded versions, e.g. 'tensorrt-10.3.0'."""
    return sorted(p.stem for p in FOLDER.glob("*.json"))


class Member:
    """A method or property of a recorded class: recorded when it is called or set."""

    def __init__(self, owner, name):
        self.owner, self.name = owner, name

    def __get__(self, instance, kind):
        if instance is None:
            return self
        if self.name in instance.__dict__["_values"]:
            return instance.__dict__["_values"][self.name]
        act = BEHAVIOUR.get((self.owner, self.name))
        if isinstance(act, property):
            return act.fget(instance)

        def call(*arguments):
            instance._calls.append((f"{self.owner}.{self.name}", arguments))
            return act(instance, *arguments) if act else None

        return call

    def __set__(self, instance, value):
        instance._calls.append((f"{self.owner}.{self.name}=", (value,)))
        instance.__dict__["_values"][self.name] = value


class Recorded:
    """Base of the recorded classes; like the real ones it takes no attribute that it does not have."""

    def __new__(cls, *arguments):
        made = super().__new__(cls)
        made.__dict__.update(_values={}, _arguments=arguments)
        return made

    def __init__(self, *arguments):
        pass

    def __setattr__(self, name, value):
        if type(self) in self._surface and not isinstance(getattr(type(self), name, None), Member):
            raise AttributeError(f"{type(self).__name__} has no attribute {name}")
        super().__setattr__(name, value)

    def made(self, name, **values):
        """Another object of this version."""
        other = getattr(self._module, name)()
        other.__dict__.update(values)
        return other


def module(name):
    """The fake module of the recorded version; ``.calls`` is what was done to it, in order."""
    text = json.loads((FOLDER / f"{name}.json").read_text())
    calls, kinds = [], []
    fake = SimpleNamespace(
        __name__="tensorrt_rtx" if "rtx" in name else "tensorrt", __version__=text["version"], calls=calls
    )
    for title, members in text["enums"].items():
        setattr(fake, title, enum.IntEnum(title, members))
    for title, members in text["classes"].items():
        body = {m: Member(title, m) for m in members}
        kind = type(title, (Recorded,), {**body, "_surface": kinds, "_calls": calls, "_module": fake})
        kinds.append(kind)
        setattr(fake, title, kind)
    fake.ILogger.Severity = fake.Severity
    return fake


def _build(builder, network, config):
    """What TensorRT does to those who listen: reports progress, asks the calibrator; then the "plan"."""
    values = config.__dict__["_values"]
    monitor, calibrator = values.get("progress_monitor"), values.get("int8_calibrator")
    if monitor is not None:
        monitor.phase_start("Building", None, 2)
        for step in range(2):
            if not monitor.step_complete("Building", step):
                return None
        monitor.phase_finish("Building")
    if calibrator is not None and calibrator.read_calibration_cache() is None:
        builder._calls.append(("batch size", (calibrator.get_batch_size(),)))
        while _called(calibrator.get_batch, ["image"]) is not None:
            builder._calls.append(("calibration batch", ()))
        _called(calibrator.write_calibration_cache, b"ranges")
    return network.__dict__["content"]


def _called(callback, *arguments):
    """As NVIDIA's bindings call Python: what it raises is printed, and counts as None."""
    try:
        return callback(*arguments)
    except Exception as swallowed:  # noqa: BLE001 - as they do
        print(f"[ERROR] Exception caught in {callback.__name__}(): {swallowed}")
        return None


def _parse(parser, content):
    network, log = parser._arguments
    network.__dict__["content"] = content
    if content == b"broken":
        log.log(parser._module.ILogger.Severity.ERROR, "no such operator")
    return content != b"broken"


def _deserialise(runtime, content):
    import onnxruntime

    if not content.startswith(b"\x08"):  # an ONNX file's first field
        runtime._arguments[0].log(runtime._module.ILogger.Severity.ERROR, "magic tag does not match")
        return None
    return runtime.made("ICudaEngine", session=onnxruntime.InferenceSession(content))


def _profile_shape(engine, name, index):
    assert (name, index) == ("image", 0)
    image = engine.__dict__["session"].get_inputs()[0].shape[1:]
    return [(n, *image) for n in engine._module.__dict__.get("batches", (1, 1, 4))]


def _context(engine, *strategy):
    if strategy:
        assert strategy == (engine._module.ExecutionContextAllocationStrategy.USER_MANAGED,)
    return engine.made("IExecutionContext", session=engine.__dict__["session"], addresses={}, recorded=False)


def _set_shape(context, name, shape):
    assert name == "image"
    assert not context.__dict__["recorded"], "a recorded context must stay as it is"
    least, _, most = (n for n, *_ in _profile_shape(context, name, 0))
    context.__dict__["shape"] = shape
    # TensorRT 8.6 gives a profile by itself to the first context alone.
    return context.__dict__.get("profile") == 0 and least <= shape[0] <= most


def _shape(context, name):
    assert name == "heatmaps"
    return [context.__dict__["shape"][0], *context.__dict__["session"].get_outputs()[0].shape[1:]]


def _set_profile(context, index, stream):
    context.__dict__["profile"] = index
    return index == 0


def _set_address(context, name, address):
    assert not context.__dict__["recorded"], "a recorded context must stay as it is"
    context.__dict__["addresses"][name] = address
    return True


def _execute(context, stream):
    memory = LazyMemory.by_handle[stream]
    state = context.__dict__
    if memory.refuse:
        return False
    if memory.recording is not None:
        state["recorded"] = True
    assert "IExecutionContext.set_device_memory" in dict(context._calls) or "device_memory" in state["_values"]

    def run():
        images = at(state["addresses"]["image"], state["shape"])
        found = state["session"].run(["heatmaps"], {"image": images.copy()})[0]
        at(state["addresses"]["heatmaps"], found.shape)[:] = found

    memory.enqueue(run)
    return True


def at(address, shape):
    """The float32 array at an address."""
    count = int(np.prod(shape))
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address)).reshape(shape)


BEHAVIOUR = {
    ("Builder", "create_network"): lambda b, flags: b.made("INetworkDefinition"),
    ("Builder", "create_builder_config"): lambda b: b.made("IBuilderConfig"),
    ("Builder", "create_optimization_profile"): lambda b: b.made("IOptimizationProfile"),
    ("Builder", "build_serialized_network"): _build,
    ("Builder", "num_DLA_cores"): property(lambda b: 2),
    ("OnnxParser", "parse"): _parse,
    ("OnnxParser", "num_errors"): property(lambda p: 1),
    ("OnnxParser", "get_error"): lambda p, i: p.made("ParserError"),
    ("ParserError", "desc"): lambda e: "In node 3: no such\noperator",
    ("IBuilderConfig", "create_timing_cache"): lambda c, content: c.made("ITimingCache"),
    ("IBuilderConfig", "set_timing_cache"): lambda c, cache, ignore: True,
    ("IBuilderConfig", "get_timing_cache"): lambda c: c.made("ITimingCache"),
    ("ITimingCache", "serialize"): lambda c: b"timing",
    ("Runtime", "deserialize_cuda_engine"): _deserialise,
    ("ICudaEngine", "num_io_tensors"): property(lambda e: 2),
    ("ICudaEngine", "get_tensor_name"): lambda e, i: ("image", "heatmaps")[i],
    ("ICudaEngine", "get_tensor_profile_shape"): _profile_shape,
    ("ICudaEngine", "device_memory_size"): property(lambda e: 4096),
    ("ICudaEngine", "device_memory_size_v2"): property(lambda e: 4096),
    ("ICudaEngine", "create_execution_context"): _context,
    ("ICudaEngine", "create_execution_context_without_device_memory"): _context,
    ("IExecutionContext", "set_input_shape"): _set_shape,
    ("IExecutionContext", "set_optimization_profile_async"): _set_profile,
    ("IExecutionContext", "set_tensor_address"): _set_address,
    ("IExecutionContext", "get_tensor_shape"): _shape,
    ("IExecutionContext", "execute_async_v3"): _execute,
}


class LazyMemory:
    """Host memory behind the interface of a GPU's, with a stream that does nothing before somebody waits.

    So a result that is read without waiting, or an input that is overwritten too early, comes out wrong.
    """

    library = "host"
    by_handle: ClassVar[dict] = {}

    def __init__(self, *, integrated=False, graphs=True):
        self.gpu = GPU("Test GPU", (8, 7), integrated, "12.6")
        self.graphs, self.refuse, self.closed = graphs, False, False
        self.queue, self.recording, self.replays = [], None, 0
        self._owned = ExitStack()
        self.buffers = {}
        self.stream = len(self.by_handle) + 1
        self.by_handle[self.stream] = self
        self.depth = 0

    @contextmanager
    def active(self):
        self.depth += 1
        yield
        self.depth -= 1

    def _kept(self, array):
        assert self.depth, "outside active()"
        self.buffers[array.ctypes.data] = array
        return array

    def device(self, size):
        return self._kept(np.full(size, 0xFF, np.uint8)).ctypes.data  # 0xFFFFFFFF is no number

    def pinned(self, shape, *, mapped=False):
        array = self._kept(np.full(shape, np.nan, np.float32))
        return Pinned(array, array.ctypes.data if mapped else 0)

    def enqueue(self, act):
        assert self.depth, "outside active()"
        (self.queue if self.recording is None else self.recording).append(act)

    def upload(self, pointer, array):
        self.enqueue(lambda: at(pointer, array.shape).__setitem__(slice(None), array))

    def download(self, array, pointer):
        self.enqueue(lambda: array.__setitem__(slice(None), at(pointer, array.shape)))

    def event(self):
        return Mark(self)

    def synchronize(self):
        self.run(len(self.queue))

    def run(self, count):
        """Do the first ``count`` things in the queue."""
        acts, self.queue = self.queue[:count], self.queue[count:]
        for act in acts:
            act()

    def graph(self, enqueue):
        if not self.graphs:
            return None
        self.recording = acts = []
        try:
            enqueue()
        except EdgeposeError:
            return None
        finally:
            self.recording = None

        def replay():
            self.replays += 1
            self.queue.extend(acts)

        return replay

    def close(self):
        self.closed = True
        self.buffers.clear()


class Mark:
    """An event of the lazy stream."""

    def __init__(self, memory):
        self.memory, self.token = memory, None

    def record(self):
        self.token = lambda: None
        self.memory.queue.append(self.token)

    def wait(self):
        assert self.memory.depth, "outside active()"
        if self.token in self.memory.queue:
            self.memory.run(self.memory.queue.index(self.token) + 1)
