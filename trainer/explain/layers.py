"""A network's layers by the path of their module, and what they give while it runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from edgepose.errors import EdgeposeError, nearest, unknown

OUTPUT = ""  # the network itself: its last stack's heatmaps


def names(network: nn.Module) -> list[str]:
    """Paths of all modules, in the order in which they were made; the network itself is left out."""
    return [name for name, _ in network.named_modules() if name]


def check(network: nn.Module, layer: str) -> None:
    """EdgeposeError for a path that the network does not have; it names the nearest, or the upper levels."""
    known = names(network)
    if layer not in known:
        raise unknown("layer", layer, known if nearest(layer, known) else [n for n in known if n.count(".") <= 1])


def default_layers(network: nn.Module) -> list[str]:
    """First filters, end of the stem, bottleneck of the last hourglass, last features: those that are there."""
    known = names(network)

    def called(pattern: str) -> list[str]:
        return [n for n in known if re.search(rf"(^|\.){pattern}$", n)]

    bottlenecks = sorted(called("inner"), key=lambda n: n.count("."))  # the deepest last; of equals, the later one
    ends = [called(r"detection\.D4"), called(r"stem\.(0|first)"), called("stem"), bottlenecks, called(r"features\.\d+")]
    return [found[-1] for found in ends if found]


def features(output: Any) -> Any:
    """The feature maps in a module's output: the last of a list of stacks, the first of a tuple of parts."""
    return output[-1] if isinstance(output, list) else output[0] if isinstance(output, tuple) else output


def run(
    network: nn.Module, images: Tensor, layers: Iterable[str], pick: Callable[[Any], Any] = features
) -> dict[str, Tensor]:
    """One pass in evaluation mode over ``images`` [N, 3, H, W], 0..255 -> {layer: [N, C, h, w]}.

    Gradients flow where they are switched on. The network's modes are afterwards as they were.
    EdgeposeError: a layer that does not exist or that gives no feature maps.
    """
    layers = list(layers)
    for layer in layers:
        if layer != OUTPUT:
            check(network, layer)
    found: dict[str, Tensor] = {}

    def keeper(layer: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(_: nn.Module, __: Any, output: Any) -> None:
            maps = pick(output)
            if isinstance(maps, Tensor) and maps.ndim == 4:
                found[layer] = maps.clone()  # the next layer may write its result over it

        return keep

    training = [m for m in network.modules() if m.training]
    handles = [network.get_submodule(layer).register_forward_hook(keeper(layer)) for layer in layers]
    try:
        network.eval()(images)
    finally:
        for handle in handles:
            handle.remove()
        for module in training:
            module.training = True
    for layer in layers:
        if layer not in found:
            leaves = (n for n, m in network.named_modules() if n.startswith(f"{layer}.") and not list(m.children()))
            inside = next(leaves, "")
            hint = f"name one inside it, such as '{inside}'" if inside else "name another one"
            raise EdgeposeError(f"layer '{layer}' gives no feature maps; {hint}")
    return found
