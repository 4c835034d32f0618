"""Blocks for small devices; all end in ReLU, which INT8 represents with an unsigned range and no loss of sign.

- ``narrow``: the bottleneck at a quarter of the width instead of a half.
- ``depthwise``: two depthwise-separable 3x3 convolutions (Howard et al. 2017) around a skip.
- ``reparam``: a bottleneck whose 3x3 is trained as 3x3 + 1x1 + identity and folds into one 3x3 (Ding et al. 2021).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

from trainer.models.blocks import conv_bn


def _skip(inputs: int, outputs: int) -> nn.Module:
    return nn.Identity() if inputs == outputs else conv_bn(inputs, outputs, 1, relu=False)


class Compact(nn.Module):
    """relu(skip(x) + branch(x))."""

    def __init__(self, inputs: int, outputs: int, branch: nn.Module) -> None:
        super().__init__()
        self.skip = _skip(inputs, outputs)
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.skip(x) + self.branch(x)
        return torch.relu_(y)


def narrow(inputs: int, outputs: int) -> Compact:
    """1x1 to a quarter - 3x3 - 1x1."""
    quarter = max(outputs // 4, 4)
    branch = nn.Sequential(
        conv_bn(inputs, quarter, 1), conv_bn(quarter, quarter, 3), conv_bn(quarter, outputs, 1, relu=False)
    )
    return Compact(inputs, outputs, branch)


def depthwise(inputs: int, outputs: int) -> Compact:
    """3x3 depthwise - 1x1 - 3x3 depthwise - 1x1."""

    def spatial(channels: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1, groups=channels, bias=False), nn.BatchNorm2d(channels)
        )

    branch = nn.Sequential(
        spatial(inputs), conv_bn(inputs, outputs, 1), spatial(outputs), conv_bn(outputs, outputs, 1, relu=False)
    )
    return Compact(inputs, outputs, branch)


def reparam(inputs: int, outputs: int) -> Compact:
    """1x1 to a half - folding 3x3 - 1x1."""
    half = outputs // 2
    branch = nn.Sequential(conv_bn(inputs, half, 1), FoldingConv(half), conv_bn(half, outputs, 1, relu=False))
    return Compact(inputs, outputs, branch)


class FoldingConv(nn.Module):
    """relu(BN(3x3) + BN(1x1) + BN(identity)); once trained, equal to one 3x3 convolution (Ding et al. 2021)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.wide = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.wide_norm = nn.BatchNorm2d(channels)
        self.point = nn.Conv2d(channels, channels, 1, bias=False)
        self.point_norm = nn.BatchNorm2d(channels)
        self.identity_norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.wide_norm(self.wide(x)) + self.point_norm(self.point(x)) + self.identity_norm(x)
        return torch.relu_(y)

    def folded(self) -> nn.Sequential:
        """The one convolution that does the same in evaluation mode."""
        identity = nn.init.dirac_(torch.zeros(self.channels, self.channels, 1, 1))
        conv = nn.Conv2d(self.channels, self.channels, 3, 1, 1)
        parts = [
            _fused(self.wide.weight, self.wide_norm),
            _fused(self.point.weight, self.point_norm),
            _fused(identity, self.identity_norm),
        ]
        conv.weight = nn.Parameter(torch.stack([w for w, _ in parts]).sum(0))
        conv.bias = nn.Parameter(torch.stack([b for _, b in parts]).sum(0))
        return nn.Sequential(conv, nn.ReLU(inplace=True))


def _fused(kernel: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight [C, C, 3, 3] and bias [C] of a convolution and its batch norm in one."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a batch norm without running statistics cannot be folded")
    padded = functional.pad(kernel, [(3 - kernel.shape[-1]) // 2] * 4)
    weight, bias = fuse_conv_bn_weights(
        padded, None, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    return weight.detach(), bias.detach()


def fold(model: nn.Module) -> nn.Module:
    """A copy of ``model``, in evaluation mode, with every FoldingConv as one convolution; for export."""
    made = copy.deepcopy(model).eval()
    for module in list(made.modules()):
        for name, child in module.named_children():
            if isinstance(child, FoldingConv):
                setattr(module, name, child.folded())
    return made
