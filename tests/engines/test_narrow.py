"""INT8 graphs on CPUs that add products of bytes in sixteen bits."""

import numpy as np
import openvino
import pytest

from edgepose import bundle as bundles
from edgepose import engines
from edgepose.engines import cpu
from edgepose.engines.narrow import narrow
from edgepose.engines.openvino import core


def integers(graph):
    """The weights of every INT8 convolution, as the kernels get them, and their scales' product with them."""
    found = []
    for node in graph.get_ordered_ops():
        if node.get_type_name() == "Convolution" and node.input_value(1).get_node().get_type_name() == "Multiply":
            scaled = node.input_value(1).get_node()
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
    convolutions = [n for n in graph.get_ordered_ops() if n.get_type_name() == "Convolution"]
    by_depth = [n for n in graph.get_ordered_ops() if n.get_type_name() == "GroupConvolution"]
    assert narrow(graph) == len([n for n in convolutions if n.input_value(1).get_node().get_type_name() == "Multiply"])
    assert len(by_depth) > 10


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
