"""The engine's data flow on every recorded version that it runs on: buffers, slices, lanes, graphs, closing.

A check against names (surface.py) on a stream that does nothing before somebody waits; on a GPU: tests/gpu.
"""

import gc
import threading
import weakref

import numpy as np
import pytest

from edgepose import EdgeposeError, engines
from edgepose import bundle as bundles
from edgepose.engines import Options, tensorrt
from edgepose.engines.pipelined import Begun, pipelined
from edgepose.engines.tensorrt import opened
from tests.engines import surface

VERSIONS = ["tensorrt-8.6.1", "tensorrt-10.3.0", "tensorrt-10.13.3", "tensorrt-11.4.0", "tensorrt-rtx-1.7.1"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=VERSIONS)
def trt(request):
    return surface.module(request.param)


@pytest.fixture(params=["copies", "integrated", "no graphs"])
def memory(request):
    return surface.LazyMemory(integrated=request.param == "integrated", graphs=request.param != "no graphs")


@pytest.fixture
def expected(tiny):
    """What onnxruntime says of images."""
    session = engines.load(tiny, "onnxruntime")
    yield session.infer
    session.close()


def images(*counts, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.uniform(0, 255, (n, 3, 64, 64)).astype(np.float32) for n in counts]


def test_same_heatmaps_for_any_number_of_images(trt, memory, tiny, expected):
    engine = opened(tiny, Options(), trt, memory)
    assert (engine.name, engine.precision, engine.max_batch) == ("tensorrt", "float32", 4)
    for batch in images(1, 1, 1, 3, 1, 4, 9, 3, 3, 3, 2, 12):
        assert np.array_equal(engine.infer(batch), expected(batch))
    assert (memory.replays > 0) == memory.graphs
    engine.close()


def test_what_runs_on_a_dla_is_in_no_graph(tiny):
    memory = surface.LazyMemory()
    engine = opened(tiny, Options(device="DLA:0", precision="float16"), surface.module("tensorrt-10.3.0"), memory)
    for batch in images(1, 1, 1, 1, 1, 1):
        assert engine.infer(batch).shape == (1, 16, 16, 16)
    assert memory.replays == 0
    engine.close()


def test_the_finder_runs_too(trt, memory):
    finder = bundles.load("edgepose-finder", role="person")
    width, height = finder.manual.input_size
    batch = np.random.default_rng(0).uniform(0, 255, (1, 3, height, width)).astype(np.float32)
    engine = opened(finder, Options(), trt, memory)
    session = engines.load(finder, "onnxruntime")
    for _ in range(3):
        assert np.array_equal(engine.infer(batch), session.infer(batch))
    session.close()
    engine.close()


def test_a_lane_records_a_batch_size_once(tiny):
    trt, memory = surface.module("tensorrt-10.3.0"), surface.LazyMemory()
    engine = opened(tiny, Options(), trt, memory)
    for batch in images(*[1] * 10):
        engine.infer(batch)
    # Each of two lanes: once plainly, once while recording; what is recorded runs when it is replayed.
    assert sum(title == "IExecutionContext.execute_async_v3" for title, _ in trt.calls) == 4
    assert memory.replays == 8


def test_the_next_images_may_be_prepared_while_some_run(trt, memory, tiny, expected):
    engine = opened(tiny, Options(), trt, memory)
    batches = images(*[1, 2, 1, 3, 1, 1, 4, 1] * 3)
    buffer = np.empty((4, 3, 64, 64), np.float32)

    def prepared():
        for batch in batches:
            buffer[: len(batch)] = batch
            yield buffer[: len(batch)]
            buffer[:] = np.nan  # as the caller's next crop would

    for batch, found in zip(batches, pipelined(engine, prepared()), strict=True):
        assert np.array_equal(found, expected(batch))


def test_what_was_begun_stays_until_it_is_taken(trt, memory, tiny, expected):
    """Also where a batch is run in slices, or others are run before it is taken."""
    engine = opened(tiny, Options(), trt, memory)
    begun, batches = Begun(engine), images(1, 2, engine.max_batch + 1, 1, 3)
    answers = []
    for batch in batches:
        answers.append(begun.begin(batch))
        assert np.array_equal(begun.infer(batches[0]), expected(batches[0]))
    for batch, answer in zip(batches, answers, strict=True):
        assert np.array_equal(answer(), expected(batch))


def test_no_more_than_two_batches_are_under_way(tiny):
    memory = surface.LazyMemory(integrated=True)
    engine = opened(tiny, Options(), surface.module("tensorrt-10.3.0"), memory)
    collect = [engine.start(batch) for batch in images(*[1] * 6)]
    assert len(memory.queue) == 4  # of each: the run, and the mark behind it
    collect[-1]()
    assert not memory.queue


def test_pipelining_draws_one_ahead_and_runs_on_any_engine(tiny, expected):
    batches = images(1, 2, 1)
    drawn = []

    def prepared():
        for index, batch in enumerate(batches):
            drawn.append(index)
            yield batch

    engine = opened(tiny, Options(), surface.module("tensorrt-10.3.0"), surface.LazyMemory())
    found = pipelined(engine, prepared())
    next(found)
    assert drawn == [0, 1]
    plain = engines.load(tiny, "onnxruntime")
    for batch, heatmaps in zip(batches, pipelined(plain, prepared()), strict=True):
        assert np.array_equal(heatmaps, expected(batch))


def test_loaded_in_one_thread_and_used_in_another(trt, tiny, expected):
    engine = opened(tiny, Options(), trt, surface.LazyMemory())
    (batch,) = images(2)
    found = []
    thread = threading.Thread(target=lambda: found.append(engine.infer(batch)))
    thread.start()
    thread.join()
    assert np.array_equal(found[0], expected(batch))


def test_a_plan_of_one_batch_size_is_filled_up(tiny, expected):
    trt = surface.module("tensorrt-10.3.0")
    trt.batches = (3, 3, 3)
    engine = opened(tiny, Options(), trt, surface.LazyMemory())
    for batch in images(1, 3, 5):
        assert np.array_equal(engine.infer(batch), expected(batch))


def test_close_gives_everything_back_and_may_come_twice(trt, tiny):
    memory = surface.LazyMemory()
    engine = opened(tiny, Options(), trt, memory)
    collect = engine.start(images(1)[0])
    engine.close()
    engine.close()
    assert memory.closed
    assert not memory.buffers
    assert not memory.queue
    for late in (lambda: engine.infer(images(1)[0]), collect):
        with pytest.raises(EdgeposeError, match="is closed"):
            late()


def test_wrong_images_and_what_tensorrt_refuses(tiny):
    memory = surface.LazyMemory()
    trt = surface.module("tensorrt-10.3.0")
    engine = opened(tiny, Options(), trt, memory)
    for shape in ((1, 3, 32, 32), (0, 3, 64, 64)):
        with pytest.raises(EdgeposeError, match="takes 1 to 4 images of"):
            engine.infer(np.zeros(shape, np.float32))
    memory.refuse = True
    with pytest.raises(EdgeposeError, match=r"cannot run .*tiny.onnx: it gave no reason"):
        engine.infer(images(1)[0])
    broken = tiny.path.with_name("broken.plan")
    broken.write_bytes(b"not a plan")
    fresh = surface.LazyMemory()
    manifest = tensorrt.plans.load(next((tiny.path.parent / "cache" / "plans").glob("*.plan")))
    with pytest.raises(EdgeposeError, match="cannot load the plan of .*magic tag does not match.*; delete the plan"):
        tensorrt.TensorRTEngine(trt, tiny, broken.read_bytes(), manifest, fresh)
    assert fresh.closed


def test_a_plan_is_built_once_into_the_cache_and_said_so(tiny, capsys):
    trt = surface.module("tensorrt-10.3.0")
    for _ in range(2):
        opened(tiny, Options(), trt, surface.LazyMemory()).close()
    said = capsys.readouterr().err
    assert said.count("there is no plan of tiny for this machine; building one for Test GPU with TensorRT 10.3.0") == 1
    newer = surface.module("tensorrt-11.4.0")
    opened(tiny, Options(), newer, surface.LazyMemory()).close()
    assert "it was built by TensorRT 10.3.0, and here is 11.4.0" in capsys.readouterr().err


def test_no_build_refuses_and_says_why(tiny):
    memory = surface.LazyMemory()
    with pytest.raises(EdgeposeError, match="there is no plan of tiny for this machine; leave out --no-build"):
        opened(tiny, Options(build=False), surface.module("tensorrt-10.3.0"), memory)
    assert memory.closed
    opened(tiny, Options(), surface.module("tensorrt-8.6.1"), surface.LazyMemory()).close()
    with pytest.raises(EdgeposeError, match=r"does not fit: it was built by TensorRT 8.6.1, and here is 10.3.0"):
        opened(tiny, Options(build=False), surface.module("tensorrt-10.3.0"), surface.LazyMemory())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (Options(device="TPU"), "tensorrt has no device 'TPU'; use GPU, GPU:1 or DLA:0"),
        (Options(device="DLA:5"), "no core 5"),
        (Options(device="DLA:0"), "not in float32; use --precision float16"),
    ],
)
def test_options_that_cannot_be_followed(tiny, options, sentence):
    with pytest.raises(EdgeposeError, match=sentence):
        opened(tiny, options, surface.module("tensorrt-10.3.0"), surface.LazyMemory())


def test_a_batch_that_was_refused_takes_no_answer_away(tiny, expected):
    """Whoever goes on after it has the answers that were begun before."""
    memory = surface.LazyMemory()
    engine = opened(tiny, Options(), surface.module("tensorrt-10.3.0"), memory)
    first, second, third = images(1, 1, 1)
    begun = Begun(engine)
    answer = begun.begin(first)
    memory.refuse = True
    with pytest.raises(EdgeposeError, match="cannot run"):
        begun.begin(second)
    memory.refuse = False
    other = begun.begin(third)
    assert np.array_equal(answer(), expected(first))
    assert np.array_equal(other(), expected(third))


def test_heatmaps_of_another_shape_than_their_memory_are_refused(trt, tiny, monkeypatch):
    engine = opened(tiny, Options(), trt, surface.LazyMemory())
    monkeypatch.setitem(surface.BEHAVIOUR, ("IExecutionContext", "get_tensor_shape"), lambda *_: [2, 16, 32, 32])
    with pytest.raises(
        EdgeposeError, match=r"2 images give heatmaps \[2, 16, 32, 32\], and the manual says \[2, 16, 16, 16"
    ):
        engine.infer(images(2)[0])
    engine.close()


def test_a_runtime_that_cannot_be_made_is_told_in_a_sentence(tiny):
    trt, memory = surface.module("tensorrt-10.3.0"), surface.LazyMemory()
    opened(tiny, Options(), trt, surface.LazyMemory()).close()  # builds the plan

    def nothing(logger):
        raise TypeError("pybind11::init(): factory function returned nullptr")  # as its bindings do

    trt.Runtime = nothing
    with pytest.raises(EdgeposeError, match="tensorrt 10.3.0 cannot make a runtime for "):
        opened(tiny, Options(), trt, memory)
    assert memory.closed


def test_all_of_a_process_tell_one_logger_which_is_never_freed(trt, tiny):
    """TensorRT keeps the first one's address; each engine has what was said in its time."""
    first, second = (opened(tiny, Options(), trt, surface.LazyMemory()) for _ in range(2))
    loggers = {id(engine._runtime._arguments[0]) for engine in (first, second)}
    assert len(loggers) == 1
    logger = weakref.ref(first._runtime._arguments[0])
    logger().log(trt.ILogger.Severity.ERROR, "out of memory")
    third = opened(tiny, Options(), trt, surface.LazyMemory())
    assert [engine._heard.last() for engine in (first, second, third)] == ["out of memory"] * 2 + ["it gave no reason"]
    logger().log(trt.ILogger.Severity.WARNING, "slow")
    assert [engine._heard.last() for engine in (first, third)] == ["out of memory", "slow"]
    for engine in (first, second, third):
        engine.close()
    del first, second, third, engine
    gc.collect()
    assert logger() is not None


def test_devices_and_precisions(tiny):
    trt = surface.module("tensorrt-10.3.0")
    trt.batches = (1, 1, 1)
    engine = opened(tiny, Options(device="DLA:1", precision="float16"), trt, surface.LazyMemory())
    assert engine.precision == "float16"
    assert ("Runtime.DLA_core=", (1,)) in trt.calls


def test_a_profile_that_is_refused_is_told_in_a_sentence(tiny, monkeypatch):
    def refuse(context, index, stream):
        raise RuntimeError("Error in set optimization profile async.")  # as its bindings do

    engine = opened(tiny, Options(), surface.module("tensorrt-8.6.1"), surface.LazyMemory())
    monkeypatch.setitem(surface.BEHAVIOUR, ("IExecutionContext", "set_optimization_profile_async"), refuse)
    with pytest.raises(EdgeposeError, match="tensorrt 8.6.1 cannot take 2 images for "):
        engine.infer(images(2)[0])


def test_a_version_that_is_too_old_is_refused(tiny):
    with pytest.raises(EdgeposeError, match=r"tensorrt 8.5.3.1 is too old; TensorRT 8.6 \(JetPack 6\)"):
        opened(tiny, Options(), surface.module("tensorrt-8.5.3"), surface.LazyMemory())


def test_closing_releases_contexts_and_engine_at_once(tiny):
    """Not when the garbage collector comes, which is after the memory that they use was given back."""
    trt, memory = surface.module("tensorrt-10.3.0"), surface.LazyMemory()
    engine = opened(tiny, Options(), trt, memory)
    engine.infer(images(1)[0])
    engine.infer(images(2)[0])
    alive = [
        weakref.ref(engine._engine),
        *(weakref.ref(run._context) for lane in engine._lanes for run in lane.runs.values()),
    ]
    trt.calls.clear()  # the module's own record of them
    gc.disable()
    try:
        engine.close()
        assert [found() for found in alive] == [None] * 3
    finally:
        gc.enable()
