"""The builder's choices on every recorded version of TensorRT's Python API: a check of names and flags (surface.py).

What TensorRT makes of them is checked for real by test_trt_rtx.py, and on a GPU by tests/gpu.
"""

import json
import os
import re
import signal
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepose import EdgeposeError, plans
from edgepose import bundle as bundles
from edgepose.engines import trt_build
from edgepose.engines.trt_precision import halved, trtexec_line, typed_as
from edgepose.plans import Wanted, load
from tests.conftest import tiny_graph, tiny_manual
from tests.engines import surface

VERSIONS = ["tensorrt-8.5.3", "tensorrt-8.6.1", "tensorrt-10.3.0", "tensorrt-10.13.3", "tensorrt-11.4.0"]
FLAGGED = ["tensorrt-8.5.3", "tensorrt-8.6.1"]  # no strong typing yet
TYPED = ["tensorrt-11.4.0"]


def quantised_graph():
    """The tiny graph with Q/DQ nodes around its convolution."""
    model = tiny_graph()
    conv = model.graph.node.pop()
    scales = [numpy_helper.from_array(np.float32(s), n) for s, n in ((2.0, "scale"), (1e-4, "weight_scale"))]
    model.graph.initializer.extend([*scales, numpy_helper.from_array(np.int8(0), "zero")])
    for tensor, scale in (("pooled", "scale"), ("weight", "weight_scale")):
        model.graph.node.append(helper.make_node("QuantizeLinear", [tensor, scale, "zero"], [f"{tensor}_q"]))
        model.graph.node.append(helper.make_node("DequantizeLinear", [f"{tensor}_q", scale, "zero"], [f"{tensor}_dq"]))
    model.graph.node.append(helper.make_node("Conv", ["pooled_dq", "weight_dq"], conv.output))
    return model


@pytest.fixture(params=["float32", "float16", "int8"])
def each(request, tmp_path):
    """A bundle of each kind of file."""
    return make(request.param, tmp_path)


def make(precision, folder):
    graphs = {"float32": tiny_graph, "float16": lambda: halved(tiny_graph()), "int8": quantised_graph}
    return bundles.save(graphs[precision](), tiny_manual(precision=precision), folder / f"{precision}.onnx")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "cache"))


class Done:
    """One build and what it did to the module."""

    def __init__(self, name, bundle, wanted, **more):
        self.trt = surface.module(name)
        self.memory = surface.LazyMemory()
        self.path = bundle.path.with_name("built.plan")
        self.manifest = trt_build.build(bundle, self.path, wanted, trt=self.trt, memory=self.memory, **more)

    def all(self, name):
        return [arguments for title, arguments in self.trt.calls if title == name]

    @property
    def flags(self):
        return {flag.name for (flag,) in self.all("IBuilderConfig.set_flag")}

    @property
    def network_flags(self):
        known = self.trt.NetworkDefinitionCreationFlag
        ((bits,),) = self.all("Builder.create_network")
        return {flag.name for flag in known if bits >> flag & 1}


@pytest.mark.parametrize("name", VERSIONS)
def test_every_file_builds_in_its_own_precision(name, each):
    done = Done(name, each, Wanted(max_batch=4, workspace_mb=256))
    flags = {"float32": set(), "float16": {"FP16"}, "int8": {"INT8", "FP16"}}[each.manual.precision]
    assert done.flags == (flags if name in FLAGGED else set())
    assert done.network_flags == ({"EXPLICIT_BATCH"} if name in FLAGGED else {"STRONGLY_TYPED"})
    assert done.manifest.precision == each.manual.precision
    assert done.manifest.strongly_typed == (name not in FLAGGED)
    assert done.all("IBuilderConfig.set_memory_pool_limit") == [(done.trt.MemoryPoolType.WORKSPACE, 256 << 20)]
    assert done.all("IOptimizationProfile.set_shape") == [("image", (1, 3, 64, 64), (1, 3, 64, 64), (4, 3, 64, 64))]
    shown = done.all("IBuilderConfig.progress_monitor=")
    assert len(shown) == (0 if name in FLAGGED else 1)
    shared = [(done.trt.PreviewFeature.PROFILE_SHARING_0806, True)] if name == "tensorrt-8.6.1" else []
    assert done.all("IBuilderConfig.set_preview_feature") == shared


@pytest.mark.parametrize("name", VERSIONS)
def test_half_precision_of_a_float_file_by_flag_else_by_conversion(name, tmp_path):
    done = Done(name, make("float32", tmp_path), Wanted(precision="float16"))
    assert done.flags == (set() if name in TYPED else {"FP16"})
    assert typed_as(onnx.load_from_string(done.path.read_bytes())) == ("float16" if name in TYPED else "float32")
    assert done.manifest.precision == "float16"


@pytest.mark.parametrize("name", VERSIONS)
def test_weak_typing_where_there_is_any(name, tmp_path):
    bundle, wanted = make("int8", tmp_path), Wanted(strongly_typed=False)
    if name in TYPED:
        with pytest.raises(EdgeposeError, match="strongly typed networks only"):
            Done(name, bundle, wanted)
    else:
        assert Done(name, bundle, wanted).flags == {"INT8", "FP16"}


@pytest.mark.parametrize("name", VERSIONS)
def test_the_old_calibrator_with_its_cache_where_there_is_one(name, tmp_path):
    crops = np.random.default_rng(0).integers(0, 255, (20, 3, 64, 64), dtype=np.uint8)
    bundle, cache = make("float32", tmp_path), tmp_path / "ranges.cache"
    if name in TYPED:
        with pytest.raises(EdgeposeError, match="no calibrator of its own; make an INT8 model first"):
            Done(name, bundle, Wanted(), calibration=crops)
        return
    first = Done(name, bundle, Wanted(), calibration=crops, calibration_cache=cache, calibration_sha256="abc")
    assert first.flags == {"INT8", "FP16"}
    assert first.all("batch size") == [(8,)]
    assert len(first.all("calibration batch")) == 2  # whole batches of the 20 crops
    assert cache.read_bytes() == b"ranges"
    assert first.manifest.calibration_sha256 == "abc"
    assert first.manifest.precision == "int8"
    for again in ({"calibration": crops}, {}):
        second = Done(name, bundle, Wanted(), calibration_cache=cache, **again)
        assert second.manifest.precision == "int8"
        assert second.manifest.calibration_sha256 == "abc"
        assert not second.all("batch size")


@pytest.mark.parametrize("name", [name for name in VERSIONS if name not in TYPED])
def test_a_calibration_cache_of_another_set_or_model_is_refused(name, tmp_path):
    """TensorRT would take it in silence, and the manifest would name what it was not made with."""
    crops = np.random.default_rng(0).integers(0, 255, (20, 3, 64, 64), dtype=np.uint8)
    bundle, cache = make("float32", tmp_path), tmp_path / "ranges.cache"
    Done(name, bundle, Wanted(), calibration=crops, calibration_cache=cache, calibration_sha256="abc")
    with pytest.raises(EdgeposeError, match="ranges.cache, which are not of this set.*leave out --set"):
        Done(name, bundle, Wanted(), calibration=crops[::-1], calibration_cache=cache)
    other = bundles.save(tiny_graph(), tiny_manual(name="other"), tmp_path / "other.onnx")
    for calibration in (crops, None):
        with pytest.raises(EdgeposeError, match="ranges.cache was made with another model"):
            Done(name, other, Wanted(), calibration=calibration, calibration_cache=cache)
    cache.write_bytes(b"other ranges")  # by somebody else, under the same name
    with pytest.raises(EdgeposeError, match="not of this set"):
        Done(name, bundle, Wanted(), calibration=crops, calibration_cache=cache)
    assert Done(name, bundle, Wanted(), calibration_cache=cache).manifest.calibration_sha256 == ""
    foreign = tmp_path / "foreign.cache"
    foreign.write_bytes(b"ranges")
    with pytest.raises(EdgeposeError, match="not of this set"):
        Done(name, bundle, Wanted(), calibration=crops, calibration_cache=foreign)
    assert Done(name, bundle, Wanted(), calibration_cache=foreign).manifest.calibration_sha256 == ""


@pytest.mark.parametrize("name", VERSIONS)
def test_compatibility_options_where_there_are_any(name, tmp_path):
    bundle = make("float32", tmp_path)
    if name == "tensorrt-8.5.3":
        for wish in (Wanted(version_compatible=True), Wanted(hardware="ampere+")):
            with pytest.raises(EdgeposeError, match="tensorrt 8.5.3.1 cannot build for"):
                Done(name, bundle, wish)
        return
    done = Done(name, bundle, Wanted(version_compatible=True, hardware="ampere+", effort=4))
    assert "VERSION_COMPATIBLE" in done.flags
    assert done.all("IBuilderConfig.hardware_compatibility_level=") == [
        (done.trt.HardwareCompatibilityLevel.AMPERE_PLUS,)
    ]
    assert done.all("IBuilderConfig.builder_optimization_level=") == [(4,)]
    same = Wanted(hardware="same-capability")
    if name in ("tensorrt-8.6.1", "tensorrt-10.3.0"):
        with pytest.raises(EdgeposeError, match="same-capability"):
            Done(name, bundle, same)
    else:
        done = Done(name, bundle, same)
        assert done.manifest.wanted.hardware == "same-capability"
        assert done.all("IBuilderConfig.hardware_compatibility_level=") == [
            (done.trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY,)
        ]


@pytest.mark.parametrize("name", VERSIONS)
def test_dla_falls_back_to_the_gpu_and_takes_one_batch_size(name, tmp_path):
    done = Done(name, make("float32", tmp_path), Wanted(precision="float16", dla_core=1, max_batch=2))
    assert "GPU_FALLBACK" in done.flags
    assert done.all("IBuilderConfig.DLA_core=") == [(1,)]
    assert done.all("IBuilderConfig.default_device_type=") == [(done.trt.DeviceType.DLA,)]
    assert done.manifest.batches == (2, 2, 2)
    assert len(done.all("OnnxParser.set_flag")) == (1 if name in TYPED else 0)
    typed = Done(name, make("float16", tmp_path), Wanted(dla_core=0, max_batch=1))
    assert typed.manifest.strongly_typed == (name in TYPED)
    quantised = make("int8", tmp_path)  # TensorRT would run all of it on the GPU, and say nothing
    if name in TYPED:
        assert Done(name, quantised, Wanted(dla_core=0)).manifest.precision == "int8"
    else:
        with pytest.raises(EdgeposeError, match=r"a DLA takes no Q/DQ model by tensorrt \d"):
            Done(name, quantised, Wanted(dla_core=0))


def test_dla_is_refused_where_there_is_none_and_in_float32(tmp_path):
    bundle = make("float32", tmp_path)
    with pytest.raises(EdgeposeError, match="sees 2 DLA cores here and no core 2"):
        Done("tensorrt-10.3.0", bundle, Wanted(precision="float16", dla_core=2))
    with pytest.raises(EdgeposeError, match="not in float32"):
        Done("tensorrt-10.3.0", bundle, Wanted(dla_core=0))


@pytest.mark.parametrize("name", VERSIONS)
def test_float32_by_name_has_all_its_bits(name, tmp_path):
    bundle = make("float32", tmp_path)
    cleared = Done(name, bundle, Wanted(precision="float32")).all("IBuilderConfig.clear_flag")
    assert [flag.name for (flag,) in cleared] == ["TF32"]
    assert not Done(name, bundle, Wanted()).all("IBuilderConfig.clear_flag")


def test_timing_cache_is_read_and_written(tmp_path):
    bundle, cache = make("float32", tmp_path), tmp_path / "t.cache"
    first = Done("tensorrt-10.3.0", bundle, Wanted(), timing_cache=cache)
    assert first.all("IBuilderConfig.create_timing_cache") == [(b"",)]
    assert cache.read_bytes() == b"timing"
    assert Done("tensorrt-10.3.0", bundle, Wanted(), timing_cache=cache).all("IBuilderConfig.create_timing_cache") == [
        (b"timing",)
    ]


def test_a_timing_cache_that_cannot_be_kept_costs_no_plan(tmp_path):
    (tmp_path / "file").write_text("no folder")
    done = Done("tensorrt-10.3.0", make("float32", tmp_path), Wanted(), timing_cache=tmp_path / "file" / "t.cache")
    assert load(done.path) == done.manifest


def test_a_plan_that_cannot_be_kept_is_not_built(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    trt = surface.module("tensorrt-10.3.0")
    with pytest.raises(EdgeposeError, match="cannot make folder .*file: .*; choose a folder you may write to"):
        trt_build.build(make("float32", tmp_path), tmp_path / "file" / "x.plan", trt=trt, memory=surface.LazyMemory())
    assert "Builder.build_serialized_network" not in dict(trt.calls)
    monkeypatch.setattr(trt_build.os, "access", lambda folder, mode: False)
    with pytest.raises(EdgeposeError, match="x.plan: its folder may not be written to; choose"):
        trt_build.build(make("float32", tmp_path), tmp_path / "x.plan", trt=trt, memory=surface.LazyMemory())


def test_a_timing_cache_that_cannot_be_read_is_an_empty_one(tmp_path):
    (tmp_path / "t.cache").mkdir()
    done = Done("tensorrt-10.3.0", make("float32", tmp_path), Wanted(), timing_cache=tmp_path / "t.cache")
    assert done.all("IBuilderConfig.create_timing_cache") == [(b"",)]


def test_a_timing_cache_of_another_machine_is_left_aside(tmp_path, monkeypatch):
    cache = tmp_path / "t.cache"
    cache.write_bytes(b"foreign")
    monkeypatch.setitem(surface.BEHAVIOUR, ("IBuilderConfig", "create_timing_cache"), lambda c, content: content)
    monkeypatch.setitem(surface.BEHAVIOUR, ("IBuilderConfig", "set_timing_cache"), lambda c, made, ignore: made == b"")
    done = Done("tensorrt-10.3.0", make("float32", tmp_path), Wanted(), timing_cache=cache)
    assert [made for made, _ in done.all("IBuilderConfig.set_timing_cache")] == [b"foreign", b""]


def test_a_jetsons_power_modes_have_timing_caches_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "cache"))
    for mode in ("MAXN", "15W"):
        monkeypatch.setattr(plans, "_said", lambda *command, mode=mode: f"NV Power Mode: {mode}\n2" * ("-q" in command))
        Done("tensorrt-10.3.0", make("float32", tmp_path), Wanted())
    kept = sorted(path.name for path in (tmp_path / "cache" / "timing").iterdir())
    assert kept == ["tensorrt-10.3.0-Test-GPU-15W.cache", "tensorrt-10.3.0-Test-GPU-MAXN.cache"]


def test_a_jetson_has_no_plans_for_several_gpus(tmp_path, monkeypatch):
    release = "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic"
    monkeypatch.setattr(plans, "_text", lambda path: release if path.name == "nv_tegra_release" else "")
    with pytest.raises(
        EdgeposeError, match="no plans for several GPUs .same-capability. on a Jetson; leave out --hardware"
    ):
        Done("tensorrt-10.13.3", make("float32", tmp_path), Wanted(hardware="same-capability"))


@pytest.mark.parametrize("name", ["tensorrt-8.6.1", "tensorrt-10.3.0"])
def test_ctrl_c_during_a_build_leaves_no_plan(name, tmp_path, monkeypatch):
    """It comes while TensorRT's bindings call Python, which swallow what is raised there; 8.6 cannot be cancelled."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # of a job in the background it is ignored

    def pressed(logger, severity, message):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)  # a handler runs between two instructions
        except KeyboardInterrupt as swallowed:
            print(f"[ERROR] Exception caught in log(): {swallowed!r}")

    def build(builder, network, config):
        pressed(builder, 0, "")
        return surface._build(builder, network, config)

    monkeypatch.setitem(surface.BEHAVIOUR, ("Builder", "build_serialized_network"), build)
    try:
        with pytest.raises(KeyboardInterrupt):
            Done(name, make("float32", tmp_path), Wanted())
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert not (tmp_path / "built.plan").exists()


@pytest.mark.parametrize("name", ["tensorrt-8.6.1", "tensorrt-10.3.0"])
def test_ranges_of_a_part_of_the_set_are_neither_kept_nor_built_with(name, tmp_path, monkeypatch):
    """A fault in a callback is the end of the set to TensorRT, which goes on with what it has."""
    crops = np.random.default_rng(0).integers(0, 255, (20, 3, 64, 64), dtype=np.uint8)
    cache = tmp_path / "ranges.cache"
    uploads = []

    def upload(self, pointer, array):
        uploads.append(pointer)
        if len(uploads) == 2:
            raise EdgeposeError("the GPU fell off the bus")

    monkeypatch.setattr(surface.LazyMemory, "upload", upload)
    with pytest.raises(EdgeposeError, match="fell off the bus"):
        Done(name, make("float32", tmp_path), Wanted(), calibration=crops, calibration_cache=cache)
    assert len(uploads) == 2
    assert not cache.exists()
    assert not (tmp_path / "built.plan").exists()


def test_ranges_that_cannot_be_kept(tmp_path, monkeypatch):
    """In a file that was asked for that is a fault; in the usual place it costs the next build some time."""
    crops = np.random.default_rng(0).integers(0, 255, (8, 3, 64, 64), dtype=np.uint8)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(EdgeposeError, match="file"):
        Done("tensorrt-10.3.0", make("float32", tmp_path), Wanted(), calibration=crops,
             calibration_cache=tmp_path / "file" / "ranges.cache")  # fmt: skip
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "file"))
    done = Done("tensorrt-10.3.0", make("float32", tmp_path), Wanted(), calibration=crops)
    assert done.manifest.precision == "int8"


def test_the_manifest_says_what_was_built(tmp_path):
    bundle = make("int8", tmp_path)
    row = bundles.Accuracy(data="a", split="dev", persons=3, engine="x", figures={"pckh05": 80.0}, lost={"pckh05": 0.2})
    manual = bundle.manual.model_copy(update={"made_from": {"calibration_set": "c0ffee"}, "accuracy": [row]})
    bundle = bundles.save(onnx.load(bundle.path), manual, tmp_path / "named.onnx")
    done = Done("tensorrt-10.3.0", bundle, Wanted())
    assert load(done.path) == done.manifest
    written = json.loads((tmp_path / "built.plan.json").read_text())
    assert written["schema"] == "edgepose.plan/1"
    assert written["bundle_sha256"] == bundle.sha256
    assert written["machine"]["tensorrt"] == "10.3.0"
    assert written["machine"]["gpu"] == "Test GPU"
    assert written["machine"]["compute_capability"] == "8.7"
    assert written["calibration_sha256"] == "c0ffee"
    assert written["accuracy_delta"] == {"a@dev pckh05": -0.2}
    assert Done("tensorrt-10.3.0", make("float32", tmp_path), Wanted()).manifest.accuracy_delta is None
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]+\+00:00", written["built"])


def test_what_cannot_be_is_refused_in_a_sentence(tmp_path):
    float32, int8 = make("float32", tmp_path), make("int8", tmp_path)
    for bundle, wish, more, sentence in (
        (int8, Wanted(precision="float16"), {}, "the model is int8 by its own types"),
        (float32, Wanted(precision="int8"), {}, "only with a calibration set"),
        (float32, Wanted(targets=["SM86"]), {}, "builds for the GPU that it runs on"),
        (float32, Wanted(), {"calibration": np.zeros((3, 3, 64, 64), np.uint8)}, "needs 8 crops or more"),
        (float32, Wanted(), {"calibration": np.zeros((8, 3, 64, 96), np.uint8)}, "are 96 x 64 pixels and .* 64 x 64"),
        (float32, Wanted(), {"calibration_cache": tmp_path / "none"}, "no calibration cache .*none; give a --set too"),
        (float32, Wanted(precision="float16"), {"calibration": np.zeros((8, 3, 64, 64), np.uint8)}, "needs no ranges"),
        (int8, Wanted(), {"calibration": np.zeros((8, 3, 64, 64), np.uint8)}, "needs no ranges; leave out --set"),
    ):
        with pytest.raises(EdgeposeError, match=sentence):
            Done("tensorrt-10.3.0", bundle, wish, **more)
    unlike = bundles.save(halved(tiny_graph()), tiny_manual(), tmp_path / "unlike.onnx")
    with pytest.raises(EdgeposeError, match="says that it is float32 and is float16 by its own types"):
        Done("tensorrt-10.3.0", unlike, Wanted())
    with pytest.raises(EdgeposeError, match="cannot build a float32 model as bfloat16"):
        Done("tensorrt-8.6.1", float32, Wanted(precision="bfloat16"))


def test_what_tensorrt_says_is_passed_on(tmp_path, monkeypatch):
    bundle = make("float32", tmp_path)
    monkeypatch.setitem(surface.BEHAVIOUR, ("OnnxParser", "parse"), lambda p, c: surface._parse(p, b"broken"))
    with pytest.raises(EdgeposeError, match=r"cannot read .*float32.onnx: In node 3: no such operator"):
        Done("tensorrt-10.3.0", bundle, Wanted())
    monkeypatch.undo()

    def fails(builder, network, config):
        log, severity = builder._arguments[0], builder._module.ILogger.Severity
        for level, text in ((severity.INFO, "chatter"), (severity.WARNING, "hm"), (severity.ERROR, "out of\nmemory")):
            log.log(level, text)

    monkeypatch.setitem(surface.BEHAVIOUR, ("Builder", "build_serialized_network"), fails)
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(EdgeposeError, match=r"tensorrt 10.3.0 cannot build .*: out of memory$"):
        Done("tensorrt-10.3.0", bundle, Wanted())
    assert not (tmp_path / "built.plan").exists()


def test_halved_computes_the_same_within_float16(shipped):
    """Run for real, by onnxruntime."""
    import onnxruntime

    half = halved(onnx.load(shipped.path))
    onnx.checker.check_model(half, full_check=True)
    assert typed_as(half) == "float16"
    kinds = [node.op_type for node in half.graph.node]
    assert kinds.count("Resize") > 0
    assert kinds.count("Cast") == 2  # of image and heatmaps: upsampling too is in float16
    width, height = shipped.manual.input_size
    image = np.random.default_rng(0).uniform(0, 255, (1, 3, height, width)).astype(np.float32)
    found = [onnxruntime.InferenceSession(content).run(["heatmaps"], {"image": image})[0]
             for content in (shipped.path.read_bytes(), half.SerializeToString())]  # fmt: skip
    assert found[1].dtype == np.float32
    assert 0 < np.abs(found[0] - found[1]).max() < 0.01


def test_trtexec_lines(tmp_path):
    float32, int8 = make("float32", tmp_path), make("int8", tmp_path)
    line = trtexec_line(float32, Wanted(precision="float16", max_batch=4, dla_core=0, version_compatible=True))
    assert line.startswith(f"trtexec --onnx={float32.path} --saveEngine={tmp_path}/float32.plan ")
    for word in ("--fp16", "--minShapes=image:4x3x64x64", "--maxShapes=image:4x3x64x64", "--useDLACore=0",
                 "--allowGPUFallback", "--versionCompatible", "--memPoolSize=workspace:1024"):  # fmt: skip
        assert word in line.split()
    assert "--stronglyTyped" in trtexec_line(int8, Wanted()).split()
    old = trtexec_line(int8, Wanted(), trt=surface.module("tensorrt-8.6.1")).split()
    assert {"--int8", "--fp16"} < set(old)
    assert "--stronglyTyped" not in old
    assert "--preview=+profileSharing0806" in old, "else one context could use the plan"
    new = trtexec_line(int8, Wanted(), trt=surface.module("tensorrt-11.4.0")).split()
    assert not {"--int8", "--fp16", "--stronglyTyped", "--preview=+profileSharing0806"} & set(new)
    assert "--calib=x.cache" in trtexec_line(float32, Wanted(), calibration_cache="x.cache").split()
    with pytest.raises(EdgeposeError, match="has no --fp16"):
        trtexec_line(float32, Wanted(precision="float16"), trt=surface.module("tensorrt-11.4.0"))
    with pytest.raises(EdgeposeError, match="a DLA computes in float16 or int8, not in float32"):
        trtexec_line(float32, Wanted(dla_core=0))
    with pytest.raises(EdgeposeError, match="needs no ranges"):
        trtexec_line(int8, Wanted(), calibration_cache="x.cache")
    with pytest.raises(EdgeposeError, match="leave out --target"):
        trtexec_line(float32, Wanted(targets=["SM86"]))
    with pytest.raises(EdgeposeError, match="a DLA takes no Q/DQ model by tensorrt 10"):
        trtexec_line(int8, Wanted(dla_core=0))
    with pytest.raises(EdgeposeError, match="10.3.0 cannot build for other GPUs"):
        trtexec_line(float32, Wanted(hardware="same-capability"), trt=surface.module("tensorrt-10.3.0"))


def test_types_are_read_from_the_file():
    cast = tiny_graph()
    cast.graph.node.append(helper.make_node("Cast", ["pooled"], ["half"], to=TensorProto.FLOAT16))
    assert [typed_as(m) for m in (tiny_graph(), cast, quantised_graph())] == ["float32", "float16", "int8"]


def test_surfaces_say_where_they_come_from():
    for name in surface.names():
        recorded = json.loads((surface.FOLDER / f"{name}.json").read_text())
        assert recorded["source"]
        assert name.endswith(".".join(recorded["version"].split(".")[:3]))
