import dataclasses
import json
import math
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from edgepose import bundle as bundles
from edgepose import engines
from edgepose.errors import EdgeposeError
from trainer.cli import app
from trainer.engine import manual_of
from trainer.export import to_onnx
from trainer.models.build import build
from trainer.models.compact import fold
from trainer.models.hourglass import Final
from trainer.profile import latency
from trainer.profile.graph import Layer, analyse
from trainer.profile.report import by_operator, profile, show
from trainer.profile.roofline import DEVICES, PRECISIONS, Device, bytes_moved, estimate
from trainer.recipe import Recipe

DEVICE = Device("by hand", int8=8e12, bandwidth=1e9, source="")  # 4e12 in FP16


def recipe(**model):
    return Recipe.model_validate(
        {
            "name": "tiny",
            "data": [{"data": "lsp:x"}],
            "model": {"width": 16, "depth": 2, "stacks": 1, "order": "post", **model},
            "stages": [{"images": 100, "size": 64}],
        }
    )


def made(chosen):
    """The network, evaluating, and its exported graph."""
    torch.manual_seed(0)
    model = build(chosen).eval()
    return model, to_onnx(model, manual_of(chosen))


def graph_of(nodes, image, output, **weights):
    """An onnx.ModelProto; ``image`` and ``output`` are shapes, the weights' shapes or arrays come by name."""
    arrays = {k: v if isinstance(v, np.ndarray) else np.ones(v, np.float32) for k, v in weights.items()}
    return helper.make_model(
        helper.make_graph(
            nodes,
            "by-hand",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, image)],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, output)],
            [numpy_helper.from_array(v, k) for k, v in arrays.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
    )


def test_counts_by_hand():
    node = helper.make_node
    model = graph_of(
        [
            node("Identity", ["b1"], ["b1-again"]),  # as the exporter leaves equal weights
            node("Conv", ["image", "w1", "b1"], ["a"], "full", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
            node("Relu", ["a"], ["b"]),
            node("Conv", ["b", "w2", "b1-again"], ["c"], "depthwise", group=4, pads=[1] * 4),
            node("ConvTranspose", ["c", "w3"], ["d"], "up", strides=[2, 2]),
            node("Flatten", ["d"], ["e"]),
            node("Gemm", ["e", "w4", "b4"], ["f"], "gemm"),
            node("MatMul", ["f", "w5"], ["g"], "matmul"),
            node("Shape", ["g"], ["size"]),
            node("Reshape", ["g", "size"], ["h"]),
            node("Mul", ["h", "half"], ["out"]),
        ],
        ["N", 3, 8, 8], ["N", 3],
        w1=(4, 3, 3, 3), b1=(4,), w2=(4, 1, 3, 3), w3=(4, 2, 2, 2), w4=(128, 5), b4=(5,), w5=(5, 3), half=(1,),
    )  # fmt: skip
    found = analyse(model)
    assert {x.name: x.macs for x in found.layers if x.name} == {
        "full": 4 * 4 * 4 * 27,
        "depthwise": 4 * 4 * 4 * 9,
        "up": 4 * 4 * 4 * 8,
        "gemm": 128 * 5,
        "matmul": 15,
    }
    assert found.macs == 1728 + 576 + 512 + 640 + 15
    assert found.parameters == (108 + 4) + (36 + 4) + 32 + (640 + 5) + 15
    full = next(x for x in found.layers if x.name == "full")
    assert (full.op, full.weights, full.inputs, full.output) == ("Conv", 112, (192,), 64)
    assert [x.op for x in found.layers] == [
        "Conv", "Relu", "Conv", "ConvTranspose", "Flatten", "Gemm", "MatMul", "Reshape", "Mul",
    ]  # fmt: skip
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"  # what was given stays as it was
    rows = by_operator(found.layers)
    assert (rows[0].op, rows[0].layers, rows[0].macs) == ("Conv", 2, 1728 + 576)
    assert sum(r.macs for r in rows) == found.macs


@pytest.mark.parametrize(("skip", "peak"), [("a", 64 * 3), ("d", 64 * 2)])
def test_a_skip_keeps_its_tensor_alive(skip, peak):
    """Sizes: image 16, a 64, c 16, d 64, e 64, out 16; with the skip, a, d and e live together at the Add."""
    node = helper.make_node
    model = graph_of(
        [
            node("Conv", ["image", "w1"], ["a"]),
            node("MaxPool", ["a"], ["c"], kernel_shape=[2, 2], strides=[2, 2]),
            node("Resize", ["c", "", "scales"], ["d"]),
            node("Add", [skip, "d"], ["e"]),
            node("Conv", ["e", "w2"], ["out"]),
        ],
        ["N", 1, 4, 4], ["N", 1, 4, 4],
        w1=(4, 1, 1, 1), w2=(1, 4, 1, 1), scales=np.array([1, 1, 2, 2], np.float32),
    )  # fmt: skip
    found = analyse(model)
    assert found.parameters == 8  # the scales are none
    assert found.peak_activations == peak


def test_a_size_that_the_image_does_not_fix_is_named():
    nodes = [helper.make_node("NonZero", ["image"], ["where"]), helper.make_node("Cast", ["where"], ["out"], to=1)]
    with pytest.raises(EdgeposeError, match="the size of 'where' at NonZero"):
        analyse(graph_of(nodes, ["N", 3], ["K", "M"]))


@pytest.mark.parametrize(
    "model",
    [
        {"stacks": 2},
        {"order": "pre"},
        {"block": "depthwise", "depth": 1},
        {"block": "reparam"},
    ],
)
def test_macs_are_half_of_torchs_flops(model):
    network, proto = made(recipe(**model))
    counter = FlopCounterMode(display=False)
    folded = Final(fold(network)).eval()
    with torch.no_grad(), counter:
        folded(torch.zeros(1, 3, 64, 64))
    found = analyse(proto)
    assert 2 * found.macs == counter.get_total_flops() > 0
    if model.get("order") != "pre":  # every convolution then has one bias per channel: its own or its batch norm's
        convolutions = [m for m in folded.modules() if isinstance(m, torch.nn.Conv2d)]
        assert found.parameters == sum(m.weight.numel() + m.out_channels for m in convolutions) + 6


def test_a_roofline_by_hand():
    # FP16: 2 * 4e9 MACs / 4e12 per s = 2 ms; (1e5 + 2e5 + 1e5) * 2 bytes / 1e9 per s = 0.8 ms
    arithmetic = Layer("Conv", "", macs=4_000_000_000, weights=200_000, inputs=(100_000,), output=100_000)
    # FP16: 0.002 ms; (1e6 + 1e6) * 2 / 1e9 = 4 ms
    memory = Layer("Conv", "", macs=4_000_000, weights=0, inputs=(1_000_000,), output=1_000_000)
    found = estimate([arithmetic], DEVICE, "float16")
    assert (found.milliseconds, found.compute_bound) == (pytest.approx(2), 1)
    found = estimate([memory], DEVICE, "float16")
    assert (found.milliseconds, found.compute_bound) == (pytest.approx(4), 0)
    found = estimate([arithmetic, memory], DEVICE, "int8")
    assert (found.milliseconds, found.compute_bound) == (pytest.approx(1 + 2), pytest.approx(1 / 3))


def test_what_moves_bytes():
    def moved(op, *inputs):
        return bytes_moved(Layer(op, "", 0, 10, inputs, 100), "float16")

    assert moved("MaxPool", 400) == 2 * (400 + 10 + 100)
    assert moved("Relu", 100) == 0  # fused
    assert moved("Add", 100, 100) == 2 * 100  # the skip is read
    assert moved("Mul", 100, 4) == 2 * 4
    assert moved("Concat", 50, 50) == 0


def left_in_float(bundle):
    """Its convolutions whose input or weights are not rounded to eight bits."""
    graph = onnx.load(str(bundle.path)).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    assert "QuantizeLinear" in makers.values()
    convolutions = [n for n in graph.node if n.op_type == "Conv"]
    assert convolutions
    return [n.name for n in convolutions if any(makers.get(name) != "DequantizeLinear" for name in n.input[:2])]


def test_int8_is_quantised_and_near(tmp_path):
    chosen = recipe()
    manual = manual_of(chosen)
    plain = bundles.save(made(chosen)[1], manual, tmp_path / "plain.onnx")
    int8 = latency.quantise(plain, tmp_path / "int8.onnx")
    assert int8.manual.precision == "int8"
    assert not left_in_float(int8)
    images = latency.random_images(manual, 2)
    expected, found = (engines.load(b, "openvino").infer(images).copy() for b in (plain, int8))
    difference = np.abs(found - expected)
    assert 0 < difference.max() < 0.1 * np.ptp(expected)
    assert difference.mean() < 0.02 * np.ptp(expected)


def test_a_profile_from_end_to_end(capsys):
    state = torch.random.get_rng_state()
    found = profile(recipe(), threads=1, repeats=3)
    assert torch.equal(state, torch.random.get_rng_state())
    graph = analyse(made(recipe())[1])
    assert (found.macs, found.parameters) == (graph.macs, graph.parameters)
    assert found.activation_bytes == {n: k * graph.peak_activations for n, k in
                                      {"float32": 4, "float16": 2, "int8": 1}.items()}  # fmt: skip
    times = found.latency
    assert (times.threads, times.repeats) == (1, 3)
    for timing in (times.float32, times.int8):
        assert 0 < timing.low <= timing.median <= timing.high < math.inf
    assert 0 < times.int8_over_float32 < math.inf
    assert [(e.device, e.precision) for e in found.estimates] == [(d.name, p) for d in DEVICES for p in PRECISIONS]
    assert all(0 < e.milliseconds < math.inf for e in found.estimates)
    read = json.loads(json.dumps(dataclasses.asdict(found)))
    assert read["latency"]["int8"]["median"] == times.int8.median

    show(found)
    printed = capsys.readouterr().out
    for device in DEVICES:
        row = next(line for line in printed.splitlines() if device.name in line and "ms" in line)
        assert row.count("(estimate)") == 2
    assert "lower bound" in printed
    assert all(row.op in printed for row in found.operators)


@pytest.mark.parametrize("library", ["openvino", "onnxruntime"])
def test_an_absent_library_is_named_with_its_extra(library, monkeypatch):
    for name in [library, *(m for m in sys.modules if m.startswith(f"{library}."))]:
        monkeypatch.setitem(sys.modules, name, None)  # Python's own way to say: not to be had
    chosen = recipe(depth=1)
    with pytest.raises(EdgeposeError, match=rf"pip install 'edgepose\[{library}\]'"):
        latency.measure(made(chosen)[1], manual_of(chosen), threads=1, repeats=1)


def test_a_finders_recipe_is_refused_in_a_sentence():
    with pytest.raises(
        EdgeposeError, match=r"finder\.toml is the recipe of a person finder; this is for pose networks"
    ):
        CliRunner().invoke(app, ["profile", "finder"], catch_exceptions=False)


@pytest.mark.parametrize("options", [{"threads": 0}, {"repeats": 0}])
def test_nothing_to_measure_is_refused(options):
    with pytest.raises(EdgeposeError, match="at least one"):
        latency.measure(None, manual_of(recipe()), **options)


@pytest.mark.parametrize(
    "model",
    [
        {"norm": "lrn"},
        {"norm": "l2", "preprocessing": "mean-image"},
        {"kind": "cascade", "stacks": 1},
        {"kind": "compositional", "stacks": 3, "width": 32, "preprocessing": "pca-whitening"},
        {"attention": {}, "side": "hru"},
        {"block": "prm-c"},
    ],
)
def test_every_kind_of_part_is_quantised_and_runs(model, tmp_path):
    values = {"width": 16, "depth": 2, "stacks": 2, **model}
    chosen = Recipe.model_validate(
        {"name": "part", "data": [{"data": "synth:1"}], "model": values, "stages": [{"images": 16, "size": 64}]}
    )
    plain = bundles.save(made(chosen)[1], manual_of(chosen), tmp_path / "plain.onnx")
    assert not left_in_float(latency.quantise(plain, tmp_path / "int8.onnx"))
    found = profile(chosen, threads=1, repeats=1)
    assert found.latency.int8.median > 0
    assert found.macs > 1e6
