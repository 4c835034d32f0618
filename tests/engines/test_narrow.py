"""INT8 graphs on CPUs that add products of bytes in sixteen bits."""

import numpy as np
import onnx
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepose import bundle as bundles
from edgepose import engines
from edgepose.engines import cpu
from edgepose.engines.narrow import narrow
from edgepose.engines.openvino import core


def dequantised(node):
    """The DequantizeLinear that gives a convolution its weights; None where these are in float."""
    weights = node.input_value(1).get_node()
    while weights.get_type_name() == "Reshape":
        weights = weights.input_value(0).get_node()
    return weights if weights.get_type_name() == "Multiply" else None


def integers(graph, kinds=("Convolution",)):
    """The weights of every INT8 convolution, as the kernels get them, and what they stand for."""
    found = []
    for node in graph.get_ordered_ops():
        if node.get_type_name() in kinds and (scaled := dequantised(node)) is not None:
            values = openvino.Model([scaled.input_value(0), scaled.output(0)], [])
            found.append(list(core().compile_model(values, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})({}).values()))
    return found


@pytest.mark.parametrize(("name", "steps"), [("edgepose-first-int8", 1.5), ("edgepose-first-int8-cpu", 1)])
def test_weights_are_rounded_to_seven_bits_and_mean_the_same(name, steps):
    """From the float weights where the file has them, so that they may be a step and a half of eight bits apart."""
    graph = core().read_model(bundles.load(name).path)
    before = integers(graph)
    count = len(before)
    assert narrow(graph) == count == 56
    for (eight, meant), (seven, mean) in zip(before, integers(graph), strict=True):
        assert np.abs(eight).max() > 120
        assert np.abs(seven).max() <= 64
        assert np.array_equal(seven, np.rint(seven))
        step = np.abs(meant).max(axis=(1, 2, 3), keepdims=True) / 127
        assert (np.abs(mean - meant) <= steps * step * 1.001).all()


def test_what_is_in_float_or_by_depth_stays():
    assert narrow(core().read_model(bundles.load("edgepose-first").path)) == 0
    graph = core().read_model(bundles.load("edgepose-s-int8").path)
    by_depth = integers(graph, ("GroupConvolution",))
    assert narrow(graph) == len(integers(graph)) == 80
    assert len(by_depth) == 19  # of 20; one is among the three layers in float
    for (eight, _), (still, _) in zip(by_depth, integers(graph, ("GroupConvolution",)), strict=True):
        assert np.array_equal(eight, still)


@pytest.mark.parametrize("name", ["edgepose-s-int8", "edgepose-first-int8-cpu"])
def test_convolutions_still_run_in_int8(name):
    def in_bytes(graph):
        ran = core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).get_runtime_model()
        info = [node.get_rt_info() for node in ran.get_ordered_ops()]
        kinds = [(str(i["layerType"].astype(str)), str(i["runtimePrecision"].astype(str))) for i in info]
        return sum(kind in ("Convolution", "GroupConvolution") and what in ("i8", "u8") for kind, what in kinds)

    graph = core().read_model(bundles.load(name).path)
    before = in_bytes(graph)
    narrow(graph)
    assert in_bytes(graph) == before > 50


def two_convolutions(path, groups, in_float, one_node):
    """One after the other with the same weights of 50.0, in bytes or to be rounded, by one DequantizeLinear or two."""
    weights = np.full((4, 4 // groups, 1, 1), 100, np.int8)
    held = {
        "float" if in_float else "bytes": weights * np.float32(0.5) if in_float else weights,
        "scale": np.full(4, 0.5, np.float32),
        "zero": np.zeros(4, np.int8),
    }
    first, second = ("a", "a") if one_node else ("a", "b")
    nodes = [helper.make_node("QuantizeLinear", ["float", "scale", "zero"], ["bytes"], axis=0)] if in_float else []
    nodes += [
        helper.make_node("DequantizeLinear", ["bytes", "scale", "zero"], [name], "of one name", axis=0)
        for name in sorted({first, second})
    ]
    nodes += [helper.make_node("Conv", ["x", first], ["y"], group=groups)]
    nodes += [helper.make_node("Conv", ["y", second], ["z"], group=groups)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 2, 2]) for name in "xz"]
    constants = [numpy_helper.from_array(array, name) for name, array in held.items()]
    graph = helper.make_graph(nodes, "two", ends[:1], ends[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return core().read_model(path)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("in_float", [False, True])
@pytest.mark.parametrize("one_node", [False, True])
def test_weights_of_two_convolutions_are_rounded_once(groups, in_float, one_node, tmp_path):
    """As optimisers leave them where they are equal. Channels of a group are added up, too."""
    graph = two_convolutions(tmp_path / "two.onnx", groups, in_float, one_node)
    assert narrow(graph) == 1
    found = integers(graph, ("Convolution", "GroupConvolution"))
    assert [(set(seven.ravel()), set(mean.ravel())) for seven, mean in found] == [({50.0}, {50.0})] * 2


@pytest.mark.parametrize(("flags", "narrowed"), [("fpu avx2", 1), ("fpu avx2 avx_vnni", 0)])
def test_the_engine_narrows_where_sums_are_cut_off(flags, narrowed, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(f"flags\t\t: {flags}\n")
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(cpu.platform, "machine", lambda: "x86_64")
    asked = []
    monkeypatch.setattr("edgepose.engines.openvino.narrow", asked.append)
    for name in ("edgepose-first-int8", "edgepose-first"):
        engines.load(bundles.load(name), "openvino", engines.Options(threads=1)).close()
    assert len(asked) == narrowed
