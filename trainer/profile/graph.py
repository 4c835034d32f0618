"""An exported graph, counted at batch 1: multiply-accumulates, weights, and the activations that are alive at once.

Only what depends on the image is counted as a layer: what the exporter left of constants and shape arithmetic folds
away in every runtime.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from edgepose.errors import EdgeposeError

BYTES = {"float32": 4, "float16": 2, "int8": 1}  # of one element
_FLOATS = frozenset({1, 10, 11, 16})  # onnx.TensorProto: FLOAT, FLOAT16, DOUBLE, BFLOAT16
_NO_WEIGHTS = frozenset({"Resize", "Upsample", "Pad", "Clip"})  # their constants are settings
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """One node at batch 1; ``inputs``, ``output`` and ``weights`` are numbers of elements."""

    op: str
    name: str
    macs: int
    weights: int
    inputs: tuple[int, ...]  # activations only, one entry each
    output: int


@dataclass(frozen=True)
class Graph:
    """The layers in the order in which the file has them, and the totals."""

    layers: tuple[Layer, ...]
    parameters: int  # numbers stored as weights, each once, batch norms folded as exported
    peak_activations: int  # elements alive at once, an upper bound: nothing runs in place, nothing is fused

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image; 1 MAC = 2 operations."""
        return sum(layer.macs for layer in self.layers)


def analyse(model: Any) -> Graph:
    """Count ``model`` (an onnx.ModelProto whose inputs have one free dimension at most, the batch).

    Parameters are the floating-point constants that layers use, single numbers and settings left out; statistics
    of batch norms that do not fold, and the input's normalisation, are among them. EdgeposeError: a tensor's size
    is not fixed by the image's.
    """
    graph = _at_batch_one(model).graph
    tensors = _tensors(graph)
    constants = {t.name for t in graph.initializer}
    layers, nodes, used = [], [], set()
    for node in graph.node:
        inputs = [name for name in node.input if name]
        if node.op_type == "Shape" or all(name in constants for name in inputs):
            constants.update(node.output)
            continue
        weights = {
            name
            for name in inputs
            if name in constants and node.op_type not in _NO_WEIGHTS and _is_weight(_get(tensors, name, node))
        }
        used |= weights
        nodes.append(node)
        layers.append(
            Layer(
                op=node.op_type,
                name=node.name,
                macs=_macs(node, tensors),
                weights=sum(math.prod(tensors[name][0]) for name in weights),
                inputs=tuple(_size(tensors, name, node) for name in inputs if name not in constants),
                output=sum(_size(tensors, name, node) for name in node.output if name),
            )
        )
    return Graph(
        layers=tuple(layers),
        parameters=sum(math.prod(tensors[name][0]) for name in used),
        peak_activations=_peak(graph, nodes, tensors, constants),
    )


def _at_batch_one(model: Any) -> Any:
    """A copy with the batch fixed and every shape inferred."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]  # the tracer's own names for sizes would win over what follows from the input
    for value in (*copy.graph.input, *copy.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    return onnx.shape_inference.infer_shapes(copy, data_prop=True)


def _tensors(graph: Any) -> dict[str, tuple[Shape, int]]:
    """Name -> (shape, element type) of every tensor whose size is known."""
    found: dict[str, tuple[Shape, int]] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            found[value.name] = tuple(d.dim_value for d in dims), value.type.tensor_type.elem_type
    found.update({t.name: (tuple(t.dims), t.data_type) for t in graph.initializer})
    return found


def _get(tensors: dict[str, tuple[Shape, int]], name: str, node: Any) -> tuple[Shape, int]:
    if name not in tensors:
        raise EdgeposeError(
            f"the size of '{name}' at {node.op_type} '{node.name}' does not follow from the image's size; "
            "give that layer a fixed size in the model"
        )
    return tensors[name]


def _size(tensors: dict[str, tuple[Shape, int]], name: str, node: Any) -> int:
    return math.prod(_get(tensors, name, node)[0])


def _is_weight(tensor: tuple[Shape, int]) -> bool:
    shape, kind = tensor
    return kind in _FLOATS and math.prod(shape) > 1


def _macs(node: Any, tensors: dict[str, tuple[Shape, int]]) -> int:
    """Multiply-accumulates by definition: one for each weight that meets each position, padding included."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    first = _get(tensors, node.input[0], node)[0]
    second = _get(tensors, node.input[1], node)[0]
    output = _size(tensors, node.output[0], node)
    if node.op_type == "Conv":  # weight [C out, C in / groups, kernel ...]
        return output * math.prod(second[1:])
    if node.op_type == "ConvTranspose":  # weight [C in, C out / groups, kernel ...]
        return math.prod(first) * math.prod(second[1:])
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return output * first[-2 if transposed else -1]


def _peak(graph: Any, nodes: list[Any], tensors: dict[str, tuple[Shape, int]], constants: set[str]) -> int:
    """Most elements alive at any node: a tensor lives from the node that makes it to the last that reads it."""
    last: dict[str, int] = {}
    for step, node in enumerate(nodes):
        last.update({name: step for name in (*node.output, *node.input) if name and name not in constants})
    last.update({value.name: len(nodes) for value in graph.output})
    alive = {v.name: math.prod(tensors[v.name][0]) for v in graph.input if v.name in last}
    peak = sum(alive.values())
    for step, node in enumerate(nodes):
        alive.update({name: _size(tensors, name, node) for name in node.output if name})
        peak = max(peak, sum(alive.values()))
        alive = {name: size for name, size in alive.items() if last[name] > step}
    return peak
