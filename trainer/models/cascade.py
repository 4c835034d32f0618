"""Detection, then regression (Bulat & Tzimiropoulos 2016): part heatmaps guide where joints are regressed.

The detection sub-network is the hourglass variant of their Table 4; its sigmoids, put at the image's size, are stacked
with the image for the regression sub-network, an hourglass. Gradients of both losses reach the detection.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.models.blocks import Block, Head, Residual, conv_bn
from trainer.models.hourglass import Parts, StackedHourglass
from trainer.models.initialise import initialise
from trainer.models.network import Network


class Detection(nn.Sequential):
    """Table 4, D1 to D7: normalised image -> logits [N, joints, H/4, W/4]; at ``width`` 256 the published widths."""

    def __init__(self, joints: int, width: int = 256, block: Block = Residual) -> None:
        def three(inputs: int) -> list[nn.Module]:
            return [block(inputs, width), block(width, width), block(width, width)]

        super().__init__(
            OrderedDict(
                D1=nn.Sequential(conv_bn(3, width // 4, 7, stride=2), nn.MaxPool2d(2, 2)),
                D2=nn.Sequential(*three(width // 4)),
                D3=nn.Sequential(nn.MaxPool2d(2, 2), *three(width)),
                D4=nn.Sequential(*three(width)),
                D5=nn.Sequential(
                    nn.ConvTranspose2d(width, width, 2, 2, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
                ),
                D6=conv_bn(width, 2 * width, 1),
                D7=nn.Sequential(Head(2 * width, joints)),
            )
        )


class Cascade(Network):
    """Outputs: disk logits of the detection, then heatmaps of every regression stack."""

    def __init__(
        self, joints: int, *, width: int = 256, depth: int = 4, stacks: int = 1, parts: Parts | None = None
    ) -> None:
        super().__init__()
        parts = parts or Parts()
        self.detection = Detection(joints, width, parts.block)
        self.regression = StackedHourglass(
            joints, width=width, depth=depth, stacks=stacks, parts=parts, inputs=3 + joints
        )
        self.supervision = ("disks", *self.regression.supervision)
        initialise(self, "he")

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.regression.normalise(image)
        logits = self.detection(x)
        seen = functional.interpolate(torch.sigmoid(logits), scale_factor=float(self.stride), mode="nearest")
        return [logits, *self.regression.run(torch.cat([x, seen], dim=1))]
