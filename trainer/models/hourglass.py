"""Stacked hourglasses (Newell, Yang & Deng 2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.models.blocks import Block, Normalise, Residual, conv_bn, newell_stem

IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class Hourglass(nn.Module):
    """One hourglass: ``depth`` poolings down and as many nearest upsamplings back, a skip branch at each level."""

    def __init__(self, depth: int, width: int, block: Block) -> None:
        super().__init__()
        self.side = block(width, width)
        self.down = nn.Sequential(nn.MaxPool2d(2, 2), block(width, width))
        self.inner = Hourglass(depth - 1, width, block) if depth > 1 else block(width, width)
        self.up = nn.Sequential(block(width, width), nn.Upsample(scale_factor=2, mode="nearest"))

    def forward(self, x: Tensor) -> Tensor:
        low: Tensor = self.up(self.inner(self.down(x)))
        result: Tensor = self.side(x) + low
        return result


class StackedHourglass(nn.Module):
    """Image [N, 3, H, W], RGB 0..255 -> a list of ``stacks`` heatmaps [N, joints, H/4, W/4].

    Every stack is supervised; its features and heatmaps are re-injected into the next (section 3.3).
    """

    stride = 4

    def __init__(
        self, joints: int, *, width: int = 256, depth: int = 4, stacks: int = 8, block: Block = Residual
    ) -> None:
        super().__init__()
        self.joints = joints
        self.normalise = Normalise(IMAGENET_MEAN, IMAGENET_STD)
        self.stem = newell_stem(width, block)
        self.hourglasses = nn.ModuleList(Hourglass(depth, width, block) for _ in range(stacks))
        self.features = nn.ModuleList(
            nn.Sequential(block(width, width), conv_bn(width, width, 1)) for _ in range(stacks)
        )
        self.heads = nn.ModuleList(nn.Conv2d(width, joints, 1) for _ in range(stacks))
        self.feature_injections = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(stacks - 1))
        self.heatmap_injections = nn.ModuleList(nn.Conv2d(joints, width, 1) for _ in range(stacks - 1))
        self.apply(_he)
        for head in self.heads:
            nn.init.normal_(head.weight, std=0.01)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> list[Tensor]:
        x: Tensor = self.stem(self.normalise(image))
        outputs: list[Tensor] = []
        for stack, (hourglass, feature, head) in enumerate(
            zip(self.hourglasses, self.features, self.heads, strict=True)
        ):
            y = feature(hourglass(x))
            heatmaps = head(y)
            outputs.append(heatmaps)
            if stack < len(self.feature_injections):
                x = x + self.feature_injections[stack](y) + self.heatmap_injections[stack](heatmaps)
        return outputs


class Final(nn.Module):
    """The last stack's heatmaps only: what is exported and run."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = self.model(image)[-1]
        return result


def _he(module: nn.Module) -> None:
    """He initialisation with zero biases (He et al. 2015)."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            torch.nn.init.zeros_(module.bias)
