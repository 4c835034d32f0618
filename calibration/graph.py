"""Q/DQ graphs: which layers compute in INT8, and the same graph with some of them back in float.

A layer is a node that is fed through QuantizeLinear -> DequantizeLinear pairs. To put it back in float is to
feed it from before the pair; the pair goes when nobody else uses it.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from edgepose.errors import missing

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


def layers(model: Any) -> list[str]:
    """Names of the nodes of an onnx.ModelProto that are fed through Q/DQ pairs, in order of execution."""
    fed = {node.output[0] for node in model.graph.node if node.op_type == DEQUANTIZE}
    return [
        node.name
        for node in model.graph.node
        if node.op_type not in (QUANTIZE, DEQUANTIZE) and any(i in fed for i in node.input)
    ]


def in_float(model: Any, names: Collection[str]) -> Any:
    """A copy of ``model`` whose layers ``names`` compute in float; the others as they were."""
    made = copy.deepcopy(model)
    makers = {output: node for node in made.graph.node for output in node.output}
    for node in made.graph.node:
        if node.name in names:
            for place, value in enumerate(node.input):
                node.input[place] = before_pair(value, makers)
    _drop_unused(made)
    return made


def before_pair(value: str, makers: dict[str, Any]) -> str:
    """The tensor that a Q/DQ pair ending in ``value`` begins with; ``value`` itself where it ends none."""
    dequantize = makers.get(value)
    if dequantize is None or dequantize.op_type != DEQUANTIZE:
        return value
    quantize = makers.get(dequantize.input[0])
    return str(quantize.input[0]) if quantize is not None and quantize.op_type == QUANTIZE else value


def activations(model: Any) -> dict[str, str]:
    """Tensors that are quantised while running -> the initialiser that holds their scale."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return {
        node.input[0]: node.input[1]
        for node in model.graph.node
        if node.op_type == QUANTIZE and node.input[0] not in constants
    }


def ranges(model: Any) -> dict[str, float]:
    """Largest magnitude of each quantised activation, in graph order: so many steps of its scale as lie on one side.

    127 for int8; for uint8 those above its zero point or those below it, whichever are more.
    """
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type == QUANTIZE and node.input[0] not in tensors:
            zero = numpy_helper.to_array(tensors[node.input[2]])
            steps = max(int(zero.max()), 255 - int(zero.min())) if zero.dtype == "uint8" else 127
            found[node.input[0]] = float(numpy_helper.to_array(tensors[node.input[1]]).max()) * steps
    return found


def unsigned(model: Any) -> bool:
    """Whether activations are uint8, as in files for CPUs; TensorRT wants int8."""
    from onnx import TensorProto

    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    return any(n.op_type == QUANTIZE and types.get(n.input[2]) == TensorProto.UINT8 for n in model.graph.node)


def set_ranges(model: Any, magnitudes: Mapping[str, float]) -> None:
    """Give quantised int8 activations new ranges, in place: the scale becomes |largest value| / 127."""
    from onnx import numpy_helper

    scales = {tensor.name: tensor for tensor in model.graph.initializer}
    for value, name in activations(model).items():
        scale = numpy_helper.to_array(scales[name])
        scales[name].CopyFrom(numpy_helper.from_array(np.full_like(scale, magnitudes[value] / 127), name))


def _drop_unused(model: Any) -> None:
    """Remove nodes and initialisers that nothing reads, until none is left."""
    graph = model.graph
    while True:
        read = {i for node in graph.node for i in node.input} | {o.name for o in graph.output}
        idle = [node for node in graph.node if not any(o in read for o in node.output)]
        if not idle:
            break
        for node in idle:
            graph.node.remove(node)
    for tensor in [t for t in graph.initializer if t.name not in read]:
        graph.initializer.remove(tensor)


def session(model: Any, why: str) -> Any:
    """An onnx.ModelProto on onnxruntime's CPU; EdgeposeError where that is not installed, which is needed ``why``."""
    try:
        import onnxruntime
    except ImportError:
        raise missing("onnxruntime", why, "pip install 'edgepose[onnxruntime]'") from None
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
