"""What a unit saw: its activation projected back to the pixels.

A deconvnet (Zeiler & Fergus 2014, sec. 2.1) runs a network backwards: unpooling puts the signal where the maximum
was (the switches), rectification keeps its positive part, filtering applies the transposed filters. This is the
gradient of the activation with one change (Simonyan et al. 2014, sec. 4): a ReLU passes the positive part of the
signal from above, R = max(0, R_above), instead of masking it by the sign of its own input. So autograd does
it all; only the ReLUs are exchanged while the network runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from edgepose.errors import EdgeposeError
from trainer.explain.layers import OUTPUT, run

_RELUS = {torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, functional.relu, functional.relu_}


class _Rectified(torch.autograd.Function):
    """max(0, x) forward, max(0, R) backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> Tensor:
        return above.clamp(min=0)


class _Rectified6(_Rectified):
    """min(max(0, x), 6) forward, max(0, R) backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clamp(0, 6)


class DeconvnetRule(TorchFunctionMode):
    """While active, every ReLU propagates by the deconvnet's rule; in-place ones give their result in a new tensor."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _RELUS:
            return _Rectified.apply(args[0] if args else kwargs["input"])  # type: ignore[no-untyped-call]
        if func is functional.hardtanh:  # what ReLU6 is made of; no network here has another one
            return _Rectified6.apply(args[0] if args else kwargs["input"])  # type: ignore[no-untyped-call]
        return func(*args, **kwargs)


@dataclass(frozen=True)
class Projection:
    """One unit of a layer, for each of N images, in the pixels that drive it."""

    pixels: NDArray[np.float32]  # [N, 3, H, W] RGB; change of the signal per grey level
    at: NDArray[np.intp]  # [N, 2] row and column of the unit in the layer's map
    activation: NDArray[np.float32]  # [N]


def project(
    network: nn.Module,
    images: Tensor,
    layer: str,
    channel: int,
    *,
    at: NDArray[np.intp] | None = None,
    rule: Literal["deconvnet", "gradient"] = "deconvnet",
) -> Projection:
    """Project ``channel`` of ``layer`` (a module path; OUTPUT: a joint's last heatmap) back to ``images``.

    ``images`` [N, 3, H, W] RGB 0..255; ``at`` [N, 2] row and column, by default where the channel is strongest.
    The signal starts as 1: the deconvnet is proportional to it, so units can be compared. Rule 'gradient' is the
    plain gradient. The network is used in evaluation mode and left as it was.
    EdgeposeError: no such layer, channel or position.
    """
    pixels = images.detach().float().clone().requires_grad_()
    with torch.enable_grad(), DeconvnetRule() if rule == "deconvnet" else contextlib.nullcontext():
        maps = run(network, pixels, [layer])[layer]
    count, channels, height, width = maps.shape
    what = f"layer '{layer}'" if layer != OUTPUT else "the network's output"
    if not 0 <= channel < channels:
        raise EdgeposeError(f"{what} has no channel {channel}; choose one of 0 to {channels - 1}")
    values = maps[:, channel].flatten(1)
    if at is None:
        at = np.stack(np.divmod(values.argmax(1).cpu().numpy(), width), axis=1)
    if (at < 0).any() or (at >= (height, width)).any():
        raise EdgeposeError(f"{what} has {height} rows and {width} columns; choose a position within")
    index = torch.as_tensor(at[:, 0] * width + at[:, 1], device=values.device).view(count, 1)
    units = values.gather(1, index)
    (signal,) = torch.autograd.grad(units.sum(), pixels)
    return Projection(signal.cpu().numpy(), at, units.detach().view(count).cpu().numpy())
