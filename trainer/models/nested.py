"""Hourglass residual units: a small hourglass inside a residual (Chu et al. 2017, section 4.1)."""

from __future__ import annotations

from torch import Tensor, nn

from trainer.models.blocks import Order, Residual, bn_conv, conv_bn


class HourglassResidual(Residual):
    """Identity + bottleneck + (2x2 max pool, two 3x3, upsampling): a wider view at little depth.

    Put on an hourglass's side branches it makes the nested hourglass. Input sides must be even.
    """

    def __init__(self, inputs: int, outputs: int, order: Order = "pre") -> None:
        super().__init__(inputs, outputs, order)
        pool = nn.MaxPool2d(2, 2)
        if order == "pre":
            self.nested = nn.Sequential(
                nn.BatchNorm2d(inputs),
                nn.ReLU(inplace=True),
                pool,
                nn.Conv2d(inputs, outputs, 3, 1, 1),
                bn_conv(outputs, outputs, 3),
            )
        else:
            self.nested = nn.Sequential(pool, conv_bn(inputs, outputs, 3), conv_bn(outputs, outputs, 3, relu=False))
        self.up = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.skip(x) + self.branch(x) + self.up(self.nested(x))
        return y.relu_() if self.order == "post" else y
