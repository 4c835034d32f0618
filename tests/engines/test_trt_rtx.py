"""Every kind of file parsed and built for real, without a GPU, by TensorRT-RTX; the plans cannot run here."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgepose import EdgeposeError
from edgepose import bundle as bundles
from edgepose.engines import trt_build
from edgepose.engines.trt_precision import halved
from edgepose.plans import Wanted, load
from tests.conftest import tiny_manual
from tests.engines.test_trt_build import quantised_graph

trt = pytest.importorskip(
    "tensorrt_rtx", reason="TensorRT-RTX is not installed; pip install tensorrt-rtx-cu13 (366 MB) builds without a GPU"
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_the_shipped_model_builds_in_every_precision(shipped, tmp_path, precision):
    bundle, plan = shipped, tmp_path / "built.plan"
    if precision == "float16":
        manual = shipped.manual.model_copy(update={"precision": "float16"})
        bundle = bundles.save(halved(onnx.load(shipped.path)), manual, tmp_path / "half.onnx")
    if precision == "int8":
        bundle = bundles.load("edgepose-first-int8")
    manifest = trt_build.build(bundle, plan, Wanted(targets=["SM86"]), trt=trt)
    assert (manifest.precision, manifest.strongly_typed, manifest.flags) == (precision, True, [])
    assert manifest.machine.library == "tensorrt_rtx"
    assert bool(manifest.calibration_sha256) == (precision == "int8")
    assert plan.stat().st_size > 1_000_000
    assert load(plan) == manifest


@pytest.mark.parametrize(
    "name", ["edgepose-s-int8", "edgepose-m-int8", "edgepose-l-int8", "edgepose-finder", "edgepose-finder-int8"]
)
def test_the_other_shipped_models_build(name, tmp_path):
    bundle = bundles.load(name)
    manifest = trt_build.build(bundle, tmp_path / "built.plan", Wanted(targets=["SM86"]), trt=trt)
    assert (manifest.precision, manifest.strongly_typed) == (bundle.manual.precision, True)


def test_the_builder_makes_a_float32_model_half_by_itself(shipped, tmp_path):
    sizes = []
    for precision in ("float32", "float16"):
        wanted = Wanted(precision=precision, targets=["SM86"])
        trt_build.build(shipped, tmp_path / f"{precision}.plan", wanted, trt=trt)
        sizes.append((tmp_path / f"{precision}.plan").stat().st_size)
    assert sizes[1] < 0.75 * sizes[0]


@pytest.mark.parametrize("target", ["SM75", "SM80", "SM86", "SM89", "SM120"])
def test_builds_for_every_generation_of_gpus(tmp_path, target):
    bundle = bundles.save(quantised_graph(), tiny_manual(precision="int8"), tmp_path / "int8.onnx")
    wanted = Wanted(targets=[target], max_batch=3, opt_batch=2, workspace_mb=64, effort=1)
    manifest = trt_build.build(bundle, tmp_path / "built.plan", wanted, trt=trt)
    assert manifest.batches == (1, 2, 3)
    assert manifest.wanted.targets == [target]


def test_what_it_cannot_is_refused_with_its_own_words(tiny, tmp_path):
    model = quantised_graph()
    next(i for i in model.graph.initializer if i.name == "zero").CopyFrom(numpy_helper.from_array(np.uint8(9), "zero"))
    shifted = bundles.save(model, tiny_manual(precision="int8"), tmp_path / "shifted.onnx")
    with pytest.raises(EdgeposeError, match=r"tensorrt_rtx 1\S+ cannot read .*shifted.onnx: .*\w{5}"):
        trt_build.build(shifted, tmp_path / "x.plan", Wanted(targets=["SM86"]), trt=trt)
    with pytest.raises(EdgeposeError, match=r"does not build for 'SM99'; it knows .*SM86"):
        trt_build.build(tiny, tmp_path / "x.plan", Wanted(targets=["SM99"]), trt=trt)
    with pytest.raises(EdgeposeError, match="strongly typed networks only"):
        trt_build.build(tiny, tmp_path / "x.plan", Wanted(targets=["SM86"], strongly_typed=False), trt=trt)
    assert not (tmp_path / "x.plan").exists()


def test_progress_reaches_the_bars(tiny, tmp_path, monkeypatch):
    """TensorRT-RTX reports phases and steps; the bars get them."""
    from rich.progress import Progress

    seen = []
    added, updated = Progress.add_task, Progress.update
    monkeypatch.setattr(Progress, "add_task", lambda self, *a, **k: seen.append(("phase", a)) or added(self, *a, **k))
    monkeypatch.setattr(Progress, "update", lambda self, *a, **k: seen.append(("step", k)) or updated(self, *a, **k))
    trt_build.build(tiny, tmp_path / "x.plan", Wanted(targets=["SM86"]), trt=trt)
    kinds = [kind for kind, _ in seen]
    assert "phase" in kinds
    assert "step" in kinds
