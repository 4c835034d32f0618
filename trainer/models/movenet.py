"""The published weights of MoveNet's single-person models (Lightning, Thunder; Apache-2.0), from a .tflite file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgepose.engines.openvino import core
from edgepose.errors import EdgeposeError, missing
from edgepose.files import kind


def read(path: Path, shapes: list[tuple[int, ...]]) -> list[tuple[Tensor, Tensor]]:
    """Weight [O, I, k, k] and bias [O] of the file's first convolutions, which must have ``shapes``, in that order.

    EdgeposeError: the file is not there or is no such model.
    """
    try:
        import openvino
    except ImportError:
        raise missing("openvino", "to read MoveNet's weights", "pip install 'edgepose[openvino]'") from None
    require(path)
    try:
        graph = core().read_model(path)
        found = [op for op in graph.get_ordered_ops() if op.get_type_name() in ("Convolution", "GroupConvolution")]
        sources = [source for op in found[: len(shapes)] for source in (op.input_value(1), _bias(op, path))]
        constants = core().compile_model(openvino.Model(sources, []), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})()
    except RuntimeError as error:
        raise EdgeposeError(
            f"pretrained: {path} is not MoveNet's TFLite file ({str(error).splitlines()[0]})"
        ) from error
    arrays = [np.array(constants[i], np.float32) for i in range(len(sources))]
    weights = [(_square(w), torch.from_numpy(b.reshape(-1))) for w, b in zip(arrays[::2], arrays[1::2], strict=True)]
    theirs = [tuple(w.shape) for w, _ in weights]
    if theirs != shapes:
        place = next((i for i, (a, b) in enumerate(zip(theirs, shapes, strict=False)) if a != b), len(theirs))
        raise EdgeposeError(
            f"pretrained: {path} is not MoveNet, or not of this model.multiplier (Lightning has 1.0, Thunder 1.75): "
            f"convolution {place} differs"
        )
    return weights


def require(path: Path) -> None:
    """EdgeposeError where there is no such file."""
    if kind(path) != "file":
        raise EdgeposeError(f"pretrained: there is no file {path}; download MoveNet's TFLite file, or leave it out")


def _bias(op: Any, path: Path) -> Any:
    """What is added to a convolution's result."""
    add = next(iter(op.output(0).get_target_inputs())).get_node()
    if add.get_type_name() != "Add":
        raise EdgeposeError(f"pretrained: {path} is not MoveNet: a convolution has no bias")
    return add.input_value(1)


def _square(weight: np.ndarray[Any, np.dtype[np.float32]]) -> Tensor:
    """[O, I, k, k], also of a depthwise convolution, which is [O, 1, 1, k, k]."""
    return torch.from_numpy(weight.reshape(weight.shape[0], -1, *weight.shape[-2:]).copy())
