"""INT8 weights in seven bits, for CPUs that add products of bytes in sixteen.

An x86 CPU without VNNI and AMX multiplies by ``vpmaddubsw``, which adds the products of two channels: two of 255 and
127 make 64,770, more than the 32,767 that fit; two of 255 and 64 make 32,640. What does not fit is cut off. A depthwise
convolution has no second channel, and keeps its eight bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def narrow(graph: Any) -> int:
    """Round the weights of the INT8 convolutions in ``graph``, an ``openvino.Model``, to steps of twice the size.

    Weights are symmetric and belong to convolutions alone, as ``edgepose-calibrate quantize`` makes them. Returns how
    many tensors of weights that were.
    """
    from openvino import Type

    done, count = set(), 0  # names of nodes: of weights in seven bits, and of what scales them
    for node in graph.get_ordered_ops():
        if node.get_type_name() not in ("Convolution", "GroupConvolution"):
            continue
        weights, scale = node.input_value(1).get_node(), None
        while weights.get_type_name() in ("Reshape", "Multiply", "Subtract", "Convert"):  # DequantizeLinear, from below
            scale = weights if weights.get_type_name() == "Multiply" else scale
            weights = weights.input_value(0).get_node()
        kind, name = weights.get_type_name(), weights.get_name()
        in_bytes = kind == "Constant" and weights.get_output_element_type(0) == Type.i8
        if scale is None or not (in_bytes or kind == "FakeQuantize"):
            continue  # in float
        if weights.get_output_partial_shape(0)[1] == 1:
            continue  # depthwise
        if name not in done:
            if in_bytes:
                name = _halve(weights).get_name()
            else:  # QuantizeLinear of weights that are kept in float
                _double(weights, 1)  # what becomes -128
                _double(weights, 2)  # and 127
            count += 1
        if scale.get_name() not in done:
            _double(scale, 1)
        done |= {name, scale.get_name()}
    return count


def _double(node: Any, index: int) -> None:
    """Give ``node`` twice what it takes as its input ``index``."""
    from openvino import opset13

    taken = node.input(index)
    taken.replace_source_output(opset13.multiply(taken.get_source_output(), np.float32(2)).output(0))


def _halve(weights: Any) -> Any:
    """Put half of a Constant of bytes in its place; returns that."""
    from openvino import opset13

    half = opset13.constant(np.rint(weights.get_data() / 2).astype(np.int8))
    for taker in weights.output(0).get_target_inputs():
        taker.replace_source_output(half.output(0))
    return half
