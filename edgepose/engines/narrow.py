"""INT8 weights in seven bits, for CPUs that add products of bytes in sixteen.

An x86 CPU without VNNI and AMX multiplies by ``vpmaddubsw``, which adds two products of an unsigned byte and a signed
one: 255 * 127 twice does not fit and is cut off, 255 * 64 twice does. A depthwise convolution has nothing to add up and
keeps its eight bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def narrow(graph: Any) -> int:
    """Round the weights of the INT8 convolutions in ``graph``, an ``openvino.Model``, to steps of twice the size.

    Weights are symmetric, as ``edgepose-calibrate quantize`` makes them. Returns how many were rounded.
    """
    from openvino import Type

    rounded = set()
    for node in graph.get_ordered_ops():
        if node.get_type_name() != "Convolution":
            continue
        scaled = weights = node.input_value(1).get_node()
        if scaled.get_friendly_name() in rounded:  # two convolutions with the same weights
            continue
        while weights.get_type_name() in ("Multiply", "Subtract", "Convert"):  # DequantizeLinear, from below
            weights = weights.input_value(0).get_node()
        if weights.get_type_name() == "FakeQuantize":  # QuantizeLinear of weights that are kept in float
            _times(weights, 1, 2.0)  # what becomes -128
            _times(weights, 2, 2.0)  # and 127
        elif weights.get_type_name() == "Constant" and weights.get_output_element_type(0) == Type.i8:
            _halve(weights)
        else:
            continue  # in float
        _times(scaled, 1, 2.0)
        rounded.add(scaled.get_friendly_name())
    return len(rounded)


def _times(node: Any, index: int, factor: float) -> None:
    """Multiply what ``node`` takes as its input ``index``."""
    from openvino import opset13

    taken = node.input(index)
    taken.replace_source_output(opset13.multiply(taken.get_source_output(), np.float32(factor)).output(0))


def _halve(weights: Any) -> None:
    from openvino import opset13

    half = np.rint(weights.get_data() / 2).astype(np.int8)
    for taker in weights.output(0).get_target_inputs():
        taker.replace_source_output(opset13.constant(half).output(0))
