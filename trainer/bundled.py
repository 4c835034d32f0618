"""A bundle's weights, put back into the network that it was made from: to learn on without its checkpoint.

Exported batch norms are folded into convolutions. Each is put back so that it changes nothing at first and trains as
any other: see :func:`trainer.models.norms.settle`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgepose import engines
from edgepose.bundle import Bundle
from edgepose.errors import EdgeposeError
from edgepose.validation import validate
from trainer.engine import TorchEngine
from trainer.models.build import build
from trainer.models.norms import settle
from trainer.recipe import Recipe

TOLERANCE = 2e-3  # largest difference of heatmaps between the bundle and the network that was put together


def recipe_of(bundle: Bundle) -> Recipe:
    """The recipe that made ``bundle``; EdgeposeError where its network cannot be put together from it."""
    if bundle.manual.precision != "float32":
        raise EdgeposeError(
            f"start_from: {bundle.path} is {bundle.manual.precision}; begin with the float32 bundle it was made of"
        )
    if not bundle.manual.recipe:
        raise EdgeposeError(
            f"start_from: {bundle.path} does not say by which recipe it was made; begin with its checkpoint"
        )
    recipe = validate(Recipe, bundle.manual.recipe, str(bundle.path))
    if recipe.model.norm in ("lrn", "l2"):
        raise EdgeposeError(
            f"start_from: in {bundle.path} norm {recipe.model.norm} is no node of its own; begin with its checkpoint"
        )
    if recipe.model.block == "reparam":
        raise EdgeposeError(
            f"start_from: in {bundle.path} the branches of block reparam are one convolution; begin with its checkpoint"
        )
    return recipe


@torch.no_grad()
def restore(bundle: Bundle, crops: Tensor) -> nn.Module:
    """The network of ``bundle``, in evaluation mode; batch norms get the statistics of ``crops`` [N, 3, S, S], 0..255.

    EdgeposeError: the graph is not what the recipe makes.
    """
    import onnx

    recipe = recipe_of(bundle)
    model = build(recipe).eval()
    if crops.shape[-1] % (4 * 2**recipe.model.poolings):  # a finder's images may be of a size that this one cannot take
        width, height = bundle.manual.input_size
        crops = nn.functional.interpolate(crops, (height, width), mode="bilinear")
    graph = onnx.load(bundle.path).graph
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    # By name where export left them alone (a recipe's measured preprocessing), else in the order of execution.
    kept = {
        name: torch.from_numpy(held[f"model.{name}"].copy()) for name in model.state_dict() if f"model.{name}" in held
    }
    try:
        model.load_state_dict({**model.state_dict(), **kept})
        measured = {f"model.{name}" for name, _ in model.named_buffers()}  # whitening is a convolution of its own
        _fill(model, _nodes(graph, held, measured), crops)
    except (RuntimeError, KeyError, StopIteration) as error:
        raise EdgeposeError(
            f"start_from: {bundle.path} is not the network of its own recipe; begin with its checkpoint"
        ) from error
    _compare(model, bundle, crops)
    return model


def _nodes(graph: Any, held: dict[str, Any], measured: set[str]) -> Iterator[tuple[str, list[Tensor]]]:
    """Kind and constants of each convolution and each batch norm that was not folded, in order of execution.

    Without the convolution whose weights are among the ``measured`` buffers.
    """
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in held:  # equal constants are kept once
            held[node.output[0]] = held[node.input[0]]
        if node.op_type in ("Conv", "BatchNormalization") and node.input[1] not in measured:
            yield node.op_type, [torch.from_numpy(held[name].copy()) for name in node.input[1:] if name]


def _fill(model: nn.Module, nodes: Iterator[tuple[str, list[Tensor]]], crops: Tensor) -> None:
    """Run ``model`` on ``crops``, giving each convolution its weights just before, each batch norm what it is to be."""
    last: dict[str, Tensor] = {}  # the last convolution's output, and the bias that a batch norm on it is to add

    def take(kind: str) -> list[Tensor]:
        found, constants = next(nodes)
        if found != kind:
            raise KeyError(kind)
        return constants

    def before_convolution(conv: nn.Module, _: Any) -> None:
        weight, *given = take("Conv")
        bias = given[0] if given else torch.zeros(len(weight))
        if "bias" in conv.state_dict():
            conv.load_state_dict({"weight": weight, "bias": bias})
            bias = torch.zeros_like(bias)
        else:
            conv.load_state_dict({"weight": weight})
        last["bias"] = bias

    def after_convolution(conv: nn.Module, _: Any, output: Tensor) -> None:
        last["output"] = output

    def before_norm(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        if inputs[0] is last.get("output"):
            settle(norm, last["bias"], inputs[0])
        else:
            scale, bias, mean, variance = take("BatchNormalization")
            own = norm.state_dict()
            norm.load_state_dict({**own, "weight": scale, "bias": bias, "running_mean": mean, "running_var": variance})

    hooks = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            hooks += [
                module.register_forward_pre_hook(before_convolution),
                module.register_forward_hook(after_convolution),
            ]
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(before_norm))
    try:
        model(crops)
    finally:
        for hook in hooks:
            hook.remove()
    if next(nodes, None) is not None:
        raise KeyError("a convolution is left over")


def _compare(model: nn.Module, bundle: Bundle, crops: Tensor) -> None:
    width, height = bundle.manual.input_size
    some = nn.functional.interpolate(crops[:2], (height, width), mode="bilinear")
    images = np.ascontiguousarray(some.numpy())
    engine = engines.load(bundle, options=engines.Options(precision="float32"))  # no GPU's reduced precision
    try:
        difference = float(np.abs(engine.infer(images) - TorchEngine(model).infer(images)).max())
    finally:
        engine.close()
    if not difference <= TOLERANCE:
        raise EdgeposeError(
            f"start_from: {bundle.path} differs by {difference:.2g} from the network that was put together from it; "
            "begin with its checkpoint"
        )
