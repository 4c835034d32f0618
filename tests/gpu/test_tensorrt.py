import gc
import time

import numpy as np
import onnx
import pytest

from edgepose import EdgeposeError, engines, plans
from edgepose import bundle as bundles
from edgepose.engines import Options, trt_build
from edgepose.engines.device_memory import CUDAPython, open_memory
from edgepose.engines.pipelined import pipelined
from edgepose.engines.tensorrt import TensorRTEngine, opened
from edgepose.engines.trt_precision import halved
from edgepose.files import cache_dir
from tests.conftest import tiny_manual
from tests.engines.test_trt_build import quantised_graph


@pytest.fixture
def images(shipped):
    width, height = shipped.manual.input_size
    return np.random.default_rng(0).uniform(0, 255, (11, 3, height, width)).astype(np.float32)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 2e-3), ("float16", 2e-2)])
def test_the_shipped_model_gives_the_same_heatmaps(trt, shipped, images, precision, tolerance):
    expected = engines.load(shipped, "onnxruntime").infer(images)
    engine = opened(shipped, Options(precision=precision), trt)
    for _ in range(3):  # plainly, recorded, replayed
        assert np.abs(engine.infer(images) - expected).max() < tolerance
    found = [h.copy() for h in pipelined(engine, (images[i : i + 1] for i in range(11)))]
    assert np.abs(np.concatenate(found) - expected).max() < tolerance
    engine.close()


@pytest.mark.timeout(600)
def test_the_finder_gives_the_same_maps(trt):
    finder = bundles.load("edgepose-finder", role="person")
    width, height = finder.manual.input_size
    batch = np.random.default_rng(0).uniform(0, 255, (1, 3, height, width)).astype(np.float32)
    expected = engines.load(finder, "onnxruntime").infer(batch)
    engine = opened(finder, Options(precision="float32"), trt)
    assert np.abs(engine.infer(batch) - expected).max() < 1e-2 * np.abs(expected).max()
    engine.close()


def test_quantised_and_half_files_run(trt, tiny, tmp_path):
    pytest.importorskip("onnxconverter_common", reason="makes the half file: pip install onnxconverter-common")
    half = bundles.save(halved(onnx.load(tiny.path)), tiny_manual(precision="float16"), tmp_path / "half.onnx")
    int8 = bundles.save(quantised_graph(), tiny_manual(precision="int8"), tmp_path / "int8.onnx")
    batch = np.random.default_rng(0).uniform(0, 255, (3, 3, 64, 64)).astype(np.float32)
    for bundle in (half, int8):
        wanted = engines.load(bundle, "onnxruntime").infer(batch)
        engine = opened(bundle, Options(), trt)
        assert engine.precision == bundle.manual.precision
        assert np.abs(engine.infer(batch) - wanted).max() < 0.05 * np.abs(wanted).max()
        engine.close()


def test_graphs_and_mapped_memory_give_the_same(trt, tiny, monkeypatch):
    """The Jetson's path, mapped memory, works on any GPU; slowly where memory is not shared."""
    batch = np.random.default_rng(0).uniform(0, 255, (2, 3, 64, 64)).astype(np.float32)
    found = []
    for integrated in (False, True):
        memory = open_memory()
        memory.gpu = plans.GPU(memory.gpu.name, memory.gpu.compute_capability, integrated, memory.gpu.cuda)
        engine = opened(tiny, Options(), trt, memory)
        found += [engine.infer(batch).copy() for _ in range(6)]
        replays = [run._replay for lane in engine._lanes for run in lane.runs.values()]
        if isinstance(memory, CUDAPython):
            assert all(replays), "the runs were not recorded into graphs"
        engine.close()
    assert all(np.array_equal(f, found[0]) for f in found)


def test_a_plan_is_built_once_and_a_foreign_one_never_run(trt, tiny, capsys):
    for _ in range(2):
        opened(tiny, Options(), trt).close()
    assert capsys.readouterr().err.count("building one") == 1
    (plan,) = (cache_dir() / "plans").glob("tiny-*.plan")
    manifest = plans.load(plan)
    there = manifest.machine.model_copy(update={"tensorrt": "7.0.0"})
    plans.save(manifest.model_copy(update={"machine": there}), plan)
    with pytest.raises(EdgeposeError, match="it was built by TensorRT 7.0.0"):
        opened(tiny, Options(build=False), trt)


def test_what_is_no_plan_is_refused_with_tensorrts_words(trt, tiny, tmp_path):
    manifest = trt_build.build(tiny, tmp_path / "tiny.plan", trt=trt)
    with pytest.raises(EdgeposeError, match=r"cannot load the plan of .*tiny.onnx: (?!it gave no reason)"):
        TensorRTEngine(trt, tiny, b"x" * 1000, manifest, open_memory())


def resident():
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * 4096 / 2**20


@pytest.mark.timeout(600)
def test_nothing_grows_over_ten_thousand_inferences_and_a_hundred_loads(trt, tiny):
    image = np.zeros((1, 3, 64, 64), np.float32)
    engine = opened(tiny, Options(), trt)
    watch = open_memory()

    def free():
        with watch.active():
            if isinstance(watch, CUDAPython):
                return watch._runtime.cudaMemGetInfo()[1] / 2**20
            return watch._driver.mem_get_info()[0] / 2**20

    for _ in range(500):
        engine.infer(image)
    host, device = resident(), free()
    for _ in range(10_000):
        engine.infer(image)
    assert resident() - host < 4
    assert device - free() < 4
    engine.close()
    for _ in range(10):
        opened(tiny, Options(), trt).close()
    host, device = resident(), free()
    for _ in range(100):
        other = opened(tiny, Options(), trt)
        other.infer(image)
        other.close()
    assert resident() - host < 32
    assert device - free() < 32
    watch.close()


@pytest.mark.timeout(600)
def test_preparing_the_next_while_one_runs_is_not_slower(trt, shipped, images, capsys):
    engine = opened(shipped, Options(precision="float16"), trt)

    def prepared():
        for _ in range(100):
            yield np.ascontiguousarray(images[:1] * 0.5)

    def seconds(run):
        start = time.perf_counter()
        for _ in run():
            pass
        return time.perf_counter() - start

    ways = {"one by one": lambda: map(engine.infer, prepared()), "pipelined": lambda: pipelined(engine, prepared())}
    for run in ways.values():
        seconds(run)
    best = {name: min(seconds(run) for _ in range(5)) * 10 for name, run in ways.items()}
    with capsys.disabled():
        print(f"\n{trt.__name__}: ms per image with preparation: {best}")
    assert best["pipelined"] < 1.05 * best["one by one"]
    engine.close()
