"""Building blocks of hourglasses: residual bottlenecks, stems, heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

Order = Literal["pre", "post"]
Block = Callable[[int, int], nn.Module]


def conv_bn(inputs: int, outputs: int, kernel: int, *, stride: int = 1, relu: bool = True) -> nn.Sequential:
    """Convolution, batch norm and, unless told otherwise, ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    if relu:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class Conv(nn.Conv2d):
    """Convolution that knows in how many branches it stands, for :mod:`trainer.models.initialise`.

    ``branches_in``: how many branches are summed into its input; ``branches_out``: how many its output goes to.
    """

    def __init__(self, *args: Any, branches_in: int = 1, branches_out: int = 1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.branches_in, self.branches_out = branches_in, branches_out


def bn_conv(inputs: int, outputs: int, kernel: int, *, branches_in: int = 1, branches_out: int = 1) -> nn.Sequential:
    """Batch norm, ReLU, convolution: pre-activation (He et al. 2016, Identity mappings)."""
    conv = Conv(inputs, outputs, kernel, 1, kernel // 2, branches_in=branches_in, branches_out=branches_out)
    return nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(inplace=False), conv)


class Residual(nn.Module):
    """Bottleneck residual 1x1 - 3x3 - 1x1 at half width (Newell et al. 2016, fig. 4 left).

    ``order`` 'pre' is the paper's code (batch norm and ReLU before each convolution); 'post' puts them
    after, so that every batch norm folds into a convolution at export and INT8 sees ReLU outputs.
    """

    def __init__(self, inputs: int, outputs: int, order: Order = "pre") -> None:
        super().__init__()
        half = outputs // 2
        self.order = order
        self.skip: nn.Module = nn.Identity()
        if order == "pre":
            self.branch = nn.Sequential(bn_conv(inputs, half, 1), bn_conv(half, half, 3), bn_conv(half, outputs, 1))
            if inputs != outputs:
                self.skip = nn.Conv2d(inputs, outputs, 1)
        else:
            self.branch = nn.Sequential(
                conv_bn(inputs, half, 1), conv_bn(half, half, 3), conv_bn(half, outputs, 1, relu=False)
            )
            if inputs != outputs:
                self.skip = conv_bn(inputs, outputs, 1, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.skip(x) + self.branch(x)
        return torch.relu_(y) if self.order == "post" else y


class Head(nn.Conv2d):
    """Convolution from features to maps; a class of its own, because it begins near zero."""

    def __init__(self, width: int, maps: int, kernel: int = 1, *, bias: bool = True, groups: int = 1) -> None:
        super().__init__(width, maps, kernel, padding=kernel // 2, bias=bias, groups=groups)


def newell_stem(width: int, block: Block, inputs: int = 3) -> nn.Sequential:
    """Image -> features at stride 4: 7x7 stride 2, residual, max pool, two residuals (Newell et al. 2016, sec. 3.2)."""
    return nn.Sequential(
        conv_bn(inputs, width // 4, 7, stride=2),
        block(width // 4, width // 2),
        nn.MaxPool2d(2, 2),
        block(width // 2, width // 2),
        block(width // 2, width),
    )


def compact_stem(width: int, block: Block, inputs: int = 3) -> nn.Sequential:
    """Image -> features at stride 4 by two 3x3 of stride 2 and one block; suits INT8.

    No 7x7 over three channels, which INT8 matrix units leave mostly idle, and nothing wide at half resolution,
    where activations cost most memory traffic.
    """
    return nn.Sequential(
        conv_bn(inputs, width // 4, 3, stride=2), conv_bn(width // 4, width // 2, 3, stride=2), block(width // 2, width)
    )
