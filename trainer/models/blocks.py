"""Building blocks of hourglasses: residual bottlenecks, the stem, input normalisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

Order = Literal["pre", "post"]
Block = Callable[[int, int], nn.Module]


class Normalise(nn.Module):
    """RGB 0..255 -> zero mean, unit variance per channel; part of the exported graph."""

    def __init__(self, mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("scale", 1.0 / torch.tensor(std).view(1, 3, 1, 1))
        self.mean: Tensor
        self.scale: Tensor

    def forward(self, image: Tensor) -> Tensor:
        return (image - self.mean) * self.scale


def conv_bn(inputs: int, outputs: int, kernel: int, *, stride: int = 1, relu: bool = True) -> nn.Sequential:
    """Convolution, batch norm and, unless told otherwise, ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    if relu:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def bn_conv(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """Batch norm, ReLU, convolution: pre-activation (He et al. 2016, Identity mappings)."""
    return nn.Sequential(
        nn.BatchNorm2d(inputs), nn.ReLU(inplace=False), nn.Conv2d(inputs, outputs, kernel, 1, kernel // 2)
    )


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


def newell_stem(width: int, block: Block) -> nn.Sequential:
    """Image -> features at stride 4: 7x7 stride 2, residual, max pool, two residuals (Newell et al. 2016, sec. 3.2)."""
    return nn.Sequential(
        conv_bn(3, width // 4, 7, stride=2),
        block(width // 4, width // 2),
        nn.MaxPool2d(2, 2),
        block(width // 2, width // 2),
        block(width // 2, width),
    )
