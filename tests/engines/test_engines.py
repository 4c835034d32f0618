import os
import subprocess
import sys

import numpy as np
import pytest

from edgepose import EdgeposeError, engines, sources
from edgepose import bundle as bundles
from edgepose.crops import crop_affine
from edgepose.engines import Options, cpu
from edgepose.engines.openvino import core
from edgepose.engines.pipelined import Begun, pipelined
from edgepose.estimator import Estimator
from edgepose.sources.several import AHEAD
from trainer.data import load
from trainer.data.persons import read_image

NAMES = ["openvino", "onnxruntime"]


@pytest.fixture(params=NAMES)
def engine(request, tiny):
    loaded = engines.load(tiny, request.param)
    yield loaded
    loaded.close()


def test_contract(engine, tiny):
    assert engine.name in NAMES
    assert engine.precision == "float32"
    rng = np.random.default_rng(0)
    for n in (1, 3, 2):
        images = rng.uniform(0, 255, (n, 3, 64, 64)).astype(np.float32)
        heatmaps = engine.infer(images).copy()
        assert heatmaps.shape == (n, 16, 16, 16)
        assert heatmaps.dtype == np.float32
        one = engine.infer(images[-1:])
        assert np.allclose(one[0], heatmaps[-1], atol=1e-4)


def largest_difference(shipped, crops):
    """Between the engines' joints, in input pixels, over (image, box) pairs."""
    joints = {}
    for name in NAMES:
        estimator = Estimator(engines.load(shipped, name, Options(threads=2)), shipped.manual)
        joints[name] = [estimator.estimate(image, box[None]).joints for image, box in crops]
    distances = []
    for (_, box), a, b in zip(crops, *joints.values(), strict=True):
        zoom = crop_affine(box, shipped.manual.input_size, shipped.manual.padding)[0, 0]
        distances.append(np.linalg.norm(a - b, axis=-1) * zoom)
    return np.max(distances)


def test_engines_agree_on_the_shipped_clip(shipped, clip):
    """The same joints from both within 0.5 input pixel."""
    boxes = {120: [350, 20, 400, 360], 350: [350, 20, 420, 400], 600: [330, 20, 440, 400], 1100: [350, 20, 440, 400]}
    with sources.open_source(str(clip)) as source:
        crops = [(f.image.copy(), np.array(boxes[f.seq], float)) for f in source if f.seq in boxes]
    assert len(crops) == 4
    assert largest_difference(shipped, crops) < 0.5


def test_engines_agree_on_real_persons(shipped, data_root):
    """The same joints from both within 0.5 input pixel."""
    persons = load("coco:mpii_sports/annotations.json:mpii_sports/images", data_root).persons[::60]
    assert largest_difference(shipped, [(read_image(p.image), p.box) for p in persons]) < 0.5


def test_reduced_precision_is_an_option_and_stays_close(shipped):
    images = np.random.default_rng(0).uniform(0, 255, (1, 3, *shipped.manual.input_size)).astype(np.float32)
    full = engines.load(shipped, "openvino").infer(images).copy()
    half = engines.load(shipped, "openvino", Options(precision="bfloat16"))
    taken = core().compile_model(shipped.path, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    name = taken.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    assert half.precision == {"bf16": "bfloat16", "f32": "float32"}[name]  # it says what it computes in
    if "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        assert half.precision == "bfloat16"
    difference = np.abs(half.infer(images) - full).max()
    assert difference < 0.1


def test_threads_are_an_option(tiny):
    for threads in range(1, 1 + min(2, len(os.sched_getaffinity(0)))):
        for_openvino = engines.load(tiny, "openvino", Options(threads=threads))
        assert [m.get_property("INFERENCE_NUM_THREADS") for m in for_openvino._models.values()] == [threads]
        other = engines.load(tiny, "onnxruntime", Options(threads=threads))
        assert other._session.get_session_options().intra_op_num_threads == threads


@pytest.mark.skipif(len(os.sched_getaffinity(0)) == 1, reason="one CPU, to which everything is tied")
def test_threads_of_openvino_may_run_on_any_core(tiny):
    """Two networks run beside each other: tied to cores, both would be tied to the first ones."""
    script = """
import os, sys
import numpy as np
from edgepose import bundle, engines
running = [engines.load(bundle.load(sys.argv[1]), "openvino", engines.Options(threads=1)) for _ in range(2)]
answers = [engine.start(np.zeros((1, 3, 64, 64), np.float32)) for engine in running]
print(min(len(os.sched_getaffinity(int(task))) for task in os.listdir("/proc/self/task")))
[answer() for answer in answers]
"""
    done = subprocess.run([sys.executable, "-c", script, str(tiny.path)], check=False, capture_output=True, text=True)
    assert done.stdout == f"{len(os.sched_getaffinity(0))}\n", done.stderr


def test_batches_made_up_of_a_few_sizes_give_the_same(shipped):
    images = np.random.default_rng(0).uniform(0, 255, (5, 3, *shipped.manual.input_size)).astype(np.float32)
    plain, apart = (engines.load(shipped, "openvino", Options(threads=1, batches=sizes)) for sizes in ((), (1, 2)))
    for count, model in apart._models.items():
        assert list(model.input().shape) == [count, 3, *shipped.manual.input_size]
    assert set(apart._models) == {1, 2}
    for count in (1, 2, 3, 5, 1):
        expected = plain.infer(images[:count]).copy()
        np.testing.assert_allclose(apart.infer(images[:count]), expected, atol=1e-4)
        running = apart.start(images[:count])
        np.testing.assert_allclose(running(), expected, atol=1e-4)
    sizes = (2, 5, 1, 5, 3, 2)
    expected = [plain.infer(images[5 - count :]).copy() for count in sizes]
    batches = (images[5 - count :] for count in sizes)
    for heatmaps, wanted in zip(pipelined(apart, batches), expected, strict=True):  # two in flight, of mixed sizes
        np.testing.assert_allclose(heatmaps, wanted, atol=1e-4)
    with pytest.raises(ValueError, match="make up no batch of 1"):
        engines.load(shipped, "openvino", Options(batches=(2,)))
    plain.close()
    apart.close()


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_what_was_begun_is_of_the_images_as_they_were(tiny, name):
    engine = engines.load(tiny, name, Options(threads=1))
    images = np.random.default_rng(0).uniform(0, 255, (2, 3, *tiny.manual.input_size)).astype(np.float32)
    kept, expected = images.copy(), engine.infer(images).copy()
    for _ in range(5):
        engine.start(images + 1)  # whose answer nobody takes
    running = engine.start(images)
    other = engine.start(255 - images)
    assert np.array_equal(images, kept)
    images[:] = 0
    np.testing.assert_allclose(running(), expected, atol=1e-4)
    assert not np.allclose(other(), expected, atol=1e-3)
    engine.close()


@pytest.mark.parametrize("name", NAMES)
def test_what_was_begun_stays_until_it_is_taken(tiny, name):
    """Whatever is run meanwhile, more often than the engine has places for answers."""
    engine = engines.load(tiny, name, Options(threads=1))
    rng = np.random.default_rng(0)
    batches = [rng.uniform(0, 255, (n, 3, *tiny.manual.input_size)).astype(np.float32) for n in (2, 1, 3, 2, 1)]
    expected = [engine.infer(images).copy() for images in batches]
    begun = Begun(engine)
    answers = []
    for images in batches:
        answers.append(begun.begin(images))
        np.testing.assert_allclose(begun.infer(batches[1]), expected[1], atol=1e-4)
    for answer, wanted in zip(answers, expected, strict=True):
        np.testing.assert_allclose(answer(), wanted, atol=1e-4)
    engine.close()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_waits_before_every_lane_of_the_engine_is_taken(tiny, name, monkeypatch):
    engine = engines.load(tiny, name, Options(threads=1))
    start, read = engine.start, []

    def noted(images):
        answer, number = start(images), len(answers)
        return lambda: (read.append(number), answer())[1]

    monkeypatch.setattr(engine, "start", noted)
    begun, answers = Begun(engine), []
    images = np.zeros((1, 3, *tiny.manual.input_size), np.float32)
    for _ in range(engine.lanes):
        answers.append(begun.begin(images))
    assert engine.lanes > AHEAD  # so that a film's frames do not wait
    assert read == []
    answers.append(begun.begin(images))
    assert read == [0]  # kept, for the engine has no place for it
    for answer in answers:
        answer()
    assert read == list(range(engine.lanes + 1))
    engine.close()


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("openvno", Options(), "unknown engine 'openvno'; did you mean 'openvino'"),
        ("openvino", Options(device="TPU"), "openvino has no device 'TPU'"),
        ("onnxruntime", Options(device="CUDA"), "onnxruntime here has no device 'CUDA'"),
        ("onnxruntime", Options(precision="bfloat16"), "not in bfloat16"),
    ],
)
def test_what_cannot_be_is_refused(tiny, name, options, sentence):
    with pytest.raises(EdgeposeError, match=sentence):
        engines.load(tiny, name, options)


@pytest.mark.filterwarnings("ignore")
def test_a_device_that_only_the_library_knows_is_refused(tiny, monkeypatch):
    """As onnxruntime's build for CUDA, on a machine without: it would run on the CPU and say nothing."""
    import onnxruntime

    here = onnxruntime.get_available_providers()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*here, "CUDAExecutionProvider"])
    with pytest.raises(EdgeposeError, match="onnxruntime cannot"):
        engines.load(tiny, "onnxruntime", Options(device="CUDA"))


def test_tensorrt_for_rtx_is_tensorrt(tiny, monkeypatch):
    has = engines._has
    monkeypatch.setattr(engines, "_has", lambda name: name != "tensorrt" and (name == "tensorrt_rtx" or has(name)))
    assert engines.available()[0] == "openvino"
    pytest.importorskip("tensorrt_rtx")
    with pytest.raises(EdgeposeError, match="^(?!.*not installed)"):  # no GPU, or no such plan
        engines.load(tiny, "tensorrt", Options(build=False))


def test_tensorrt_that_is_absent_is_refused(tiny, monkeypatch):
    has = engines._has
    monkeypatch.setattr(engines, "_has", lambda name: not name.startswith("tensorrt") and has(name))
    with pytest.raises(EdgeposeError, match="engine 'tensorrt' needs tensorrt, which is not installed"):
        engines.load(tiny, "tensorrt")


@pytest.mark.parametrize(
    "fault", ["raise ModuleNotFoundError('no tensorrt.tensorrt')", "raise OSError('libnvinfer.so')"]
)
def test_tensorrt_that_cannot_be_loaded_is_refused(tiny, tmp_path, monkeypatch, fault):
    """Made for another Python than this one, or without its libraries."""
    (tmp_path / "tensorrt.py").write_text(fault)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(EdgeposeError, match="tensorrt is installed and cannot be loaded: .*or choose another --engine"):
        engines.load(tiny, "tensorrt")


@pytest.mark.parametrize("name", NAMES)
def test_closing_twice_is_closing(tiny, name):
    engine = engines.load(tiny, name)
    engine.close()
    engine.close()


def test_auto_takes_the_first_available(tiny):
    assert engines.load(tiny).name == engines.available()[0] == "openvino"


def test_a_signal_is_survived_after_engines_were_closed_in_the_order_of_their_loading(tiny):
    script = """
import faulthandler, os, signal, sys
from edgepose import bundle, engines
faulthandler.enable()  # with a stack of its own for signals, as pytest has it
heard = []
signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
first, second = (engines.load(bundle.load(sys.argv[1]), "openvino") for _ in range(2))
first.close(); del first
second.close(); del second
os.kill(os.getpid(), signal.SIGUSR1)
print(len(heard))
"""
    done = subprocess.run([sys.executable, "-c", script, str(tiny.path)], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


@pytest.mark.parametrize(
    ("processor", "exact"),
    [
        (("x86_64", "fpu avx2 avx512f avx512bw"), False),
        (("x86_64", "fpu avx2 avx_vnni"), True),
        (("AMD64", "fpu avx512f avx512_vnni"), True),
        (("x86_64", "fpu avx2 amx_int8"), True),
        (("x86_64", None), False),  # it does not say
        (("aarch64", None), True),
    ],
)
def test_where_int8_is_less_accurate_it_is_said_once(processor, exact, tmp_path, monkeypatch, capsys):
    machine, flags = processor
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n\nprocessor\t: 1\nflags\t\t: {flags}\n")
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(cpu.platform, "machine", lambda: machine)
    cpu.say_where_sums_are_cut_off.cache_clear()
    assert cpu.sums_exactly() == exact
    for name in ("edgepose-first", "edgepose-first-int8-cpu", "edgepose-first-int8-cpu"):
        engines.load(bundles.load(name), "onnxruntime", engines.Options(threads=1)).close()
    cpu.say_where_sums_are_cut_off.cache_clear()
    told = capsys.readouterr().err.count("edgepose-first-int8-cpu may be less accurate with onnxruntime")
    assert told == (not exact)
