"""Pyramid residual modules PRM-A to PRM-D (Yang et al. 2017, sections 3.2 and 3.3, fig. 3).

Beside the 3x3 of a bottleneck (f_0), C levels see the features sub-sampled by 2^(-M c / C), c = 1..C (eq. 3), each
with a 3x3 of its own, and are brought back to full size and joined (eq. 2; g is ``leave``, and as in the authors' code
one more 1x1, ``join``, follows on its sum with f_0):

- A: every level has input features of its own; sub-sampling by fractional max pooling; levels are added.
- B: levels share their input features; added. The paper's choice.
- C: as B, but concatenated.
- D: as B, with dilated convolutions, of rates 2..C + 1, instead of sub-sampling.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.models.blocks import bn_conv
from trainer.recipe import Pyramid

PyramidKind = Literal["prm-a", "prm-b", "prm-c", "prm-d"]
_SMALLEST = 4  # cells; below it levels would be nearly all alike and are not sub-sampled


class FractionalMaxPool(nn.Module):
    """2x2 overlapping fractional max pooling to floor(ratio * side) (Graham 2014, pseudo-random sequence).

    Row i begins at floor((i + u) a) - floor(u a), a = (side - 2) / (out - 1), and the last one at side - 2. In training
    u is drawn anew for every call and axis; otherwise it is 1/2, so that a network runs the same way every time.
    Rows and columns are gathered by index, which exports.
    """

    def __init__(self, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio

    def forward(self, x: Tensor) -> Tensor:
        u = torch.rand(2).tolist() if self.training else (0.5, 0.5)
        for axis, sample in zip((2, 3), u, strict=True):
            starts = self.starts(int(x.shape[axis]), sample).to(x.device)
            x = torch.maximum(x.index_select(axis, starts), x.index_select(axis, starts + 1))
        return x

    def starts(self, side: int, u: float) -> Tensor:
        """First index of each pooled pair along an axis of ``side`` cells."""
        out = max(int(side * self.ratio), 1)
        if out == 1:
            return torch.tensor([side - 2])
        step = (side - 2) / (out - 1)
        i = torch.arange(out, dtype=torch.float64)
        starts = ((i + u) * step).floor().long() - int(u * step)
        starts[-1] = side - 2
        return starts


class Level(nn.Module):
    """One level of a pyramid: sub-sample, 3x3, back to full size."""

    def __init__(self, channels: int, ratio: float, dilation: int) -> None:
        super().__init__()
        self.pool = FractionalMaxPool(ratio) if dilation == 1 else nn.Identity()
        self.conv = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        small = self.pool(x) if min(x.shape[-2:]) >= _SMALLEST else x
        y: Tensor = self.conv(small)
        if y.shape[-2:] != x.shape[-2:]:
            y = functional.interpolate(y, x.shape[-2:], mode="bilinear")
        return y


class PyramidResidual(nn.Module):
    """skip(x) + join(f_0(x) + g(pyramid(x))), every convolution preceded by batch norm and ReLU (eq. 1 and 2)."""

    def __init__(
        self, inputs: int, outputs: int, kind: PyramidKind, pyramid: Pyramid, *, conv_skip: bool = False
    ) -> None:
        """``conv_skip``: a 1x1 on the skip, which keeps variance from adding up where two sums meet (section 4.2)."""
        super().__init__()
        half, count = outputs // 2, pyramid.levels
        channels = max(outputs // pyramid.reduction, 4)
        self.kind = kind
        # What comes in is the sum of two branches: of a skip and a join, or of an hourglass's side and depth.
        shared, added = kind != "prm-a", kind != "prm-c"
        self.full = nn.Sequential(bn_conv(inputs, half, 1, branches_in=2), bn_conv(half, half, 3))
        self.enter = nn.ModuleList(
            bn_conv(inputs, channels, 1, branches_in=2, branches_out=count if shared else 1)
            for _ in range(1 if shared else count)
        )
        self.ready = nn.ModuleList(_bn_relu(channels) for _ in self.enter)
        self.levels = nn.ModuleList(
            Level(channels, 2 ** (-pyramid.ratio * c / count), c + 1 if kind == "prm-d" else 1)
            for c in range(1, count + 1)
        )
        if added:
            self.leave = bn_conv(channels, half, 1, branches_in=count)
        else:
            self.leave = bn_conv(channels * count, half, 1)
        self.join = bn_conv(half, outputs, 1, branches_in=2)  # of full and pyramid
        self.skip = nn.Identity() if inputs == outputs and not conv_skip else bn_conv(inputs, outputs, 1, branches_in=2)

    def forward(self, x: Tensor) -> Tensor:
        inputs = [ready(enter(x)) for enter, ready in zip(self.enter, self.ready, strict=True)]
        inputs = inputs * (len(self.levels) // len(inputs))
        levels = [level(i) for level, i in zip(self.levels, inputs, strict=True)]
        joined = torch.cat(levels, dim=1) if self.kind == "prm-c" else torch.stack(levels).sum(dim=0)
        result: Tensor = self.skip(x) + self.join(self.full(x) + self.leave(joined))
        return result


def _bn_relu(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
