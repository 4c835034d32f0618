"""A stem that has seen people before: MobileNetV2 with a feature pyramid (Sandler et al. 2018; Lin et al. 2017).

Its shape is MoveNet's, whose published weights it can begin with: see :mod:`trainer.models.movenet`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.models import movenet
from trainer.models.norms import settle

# Expansion, channels, blocks and stride of each stage (Sandler et al. 2018, table 2).
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
_SKIPS = (1, 2, 3)  # stages whose outputs, at strides 4, 8 and 16, go to the pyramid
_SHALLOW = 5  # so many stages reach stride 16
_TOP = 1280
_PYRAMID = (64, 32, 24)  # channels at strides 16, 8 and 4
_HEAD = 96  # channels that MoveNet's heatmaps of joints are made of


def channels(count: int, multiplier: float) -> int:
    """``count`` times the width multiplier, as the nearest multiple of 8 (never more than a tenth below)."""
    exact = count * multiplier
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * exact else rounded + 8


class _Exported(torch.autograd.Function):
    """What a HalvingConv is in an exported graph: one node, where padding would be half a dozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, groups: int) -> Tensor:
        return functional.conv2d(functional.pad(x, (0, 1, 0, 1)), weight, stride=2, groups=groups)

    @staticmethod
    def symbolic(g: Any, x: Any, weight: Any, groups: int) -> Any:
        return g.op("Conv", x, weight, kernel_shape_i=[3, 3], strides_i=[2, 2], pads_i=[0, 0, 1, 1], group_i=groups)


class HalvingConv(nn.Conv2d):
    """3x3 of stride 2 that pads below and on the right alone, as TensorFlow does at even sizes."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__(inputs, outputs, 3, 2, groups=groups, bias=False)

    # Not forward: ModelOpt puts its quantisers before and after this (trainer.qat).
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if torch.onnx.is_in_onnx_export():
            exported: Tensor = _Exported.apply(x, weight, self.groups)  # type: ignore[no-untyped-call]
            return exported
        if self.training and self.groups > 1 and x.device.type == "cpu":
            # The same numbers: oneDNN's gradient of a depthwise convolution of stride 2 is many times slower than this.
            return functional.conv2d(x, weight, bias, padding=1, groups=self.groups)[:, :, 1::2, 1::2]
        return functional.conv2d(functional.pad(x, (0, 1, 0, 1)), weight, bias, stride=2, groups=self.groups)


class Conv(nn.Sequential):
    """Convolution, batch norm and an activation."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, *, stride: int = 1, groups: int = 1, act: nn.Module | None
    ) -> None:
        conv = (
            HalvingConv(inputs, outputs, groups)
            if stride == 2
            else nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
        )
        super().__init__(conv, nn.BatchNorm2d(outputs), *([act] if act is not None else []))

    @property
    def convolution(self) -> nn.Conv2d:
        return cast(nn.Conv2d, self[0])

    @property
    def norm(self) -> nn.BatchNorm2d:
        return cast(nn.BatchNorm2d, self[1])


def _relu6() -> nn.Module:
    return nn.ReLU6(inplace=True)


class InvertedResidual(nn.Module):
    """1x1 to ``expansion`` times the channels - 3x3 depthwise - linear 1x1 (Sandler et al. 2018, fig. 4d)."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.skips = stride == 1 and inputs == outputs
        self.branch = nn.Sequential(
            *([Conv(inputs, hidden, act=_relu6())] if expansion > 1 else []),
            Conv(hidden, hidden, 3, stride=stride, groups=hidden, act=_relu6()),
            Conv(hidden, outputs, act=None),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.branch(x)
        return x + y if self.skips else y


class Mobile(nn.Module):
    """Image [N, 3, H, W], values -1..1 -> features [N, width, H/4, W/4].

    H and W are multiples of 32, or of 16 where it is shallow.
    With ``frozen`` > 0 the first convolution and so many of the first stages are not trained, statistics included.
    ``shallow`` goes down to stride 16 alone, with a quarter of the weights: for networks that need not know one body
    from another.
    """

    def __init__(
        self, width: int, multiplier: float = 1.0, frozen: int = 0, inputs: int = 3, *, shallow: bool = False
    ) -> None:
        super().__init__()
        self.width, self.multiplier, self.shallow = width, multiplier, shallow
        now = channels(32, multiplier)
        self.first = Conv(inputs, now, 3, stride=2, act=_relu6())
        self.stages = nn.ModuleList()
        skips = []
        for number, (expansion, count, blocks, stride) in enumerate(_STAGES[: _SHALLOW if shallow else None]):
            made = channels(count, multiplier)
            layers = []
            for block in range(blocks):
                layers.append(InvertedResidual(now, made, expansion, stride if block == 0 else 1))
                now = made
            self.stages.append(nn.Sequential(*layers))
            if number in _SKIPS:
                skips.append(now)
        above = [] if shallow else [Conv(now, _TOP, act=_relu6())]
        self.top = nn.Sequential(*above, Conv(now if shallow else _TOP, _PYRAMID[0], act=None))
        self.sides = nn.ModuleList(Conv(i, o, act=None) for i, o in zip(reversed(skips), _PYRAMID, strict=True))
        self.ups = nn.ModuleList(
            nn.Sequential(Conv(i, i, 3, groups=i, act=None), Conv(i, o, act=nn.ReLU(inplace=True)))
            for i, o in zip(_PYRAMID, (*_PYRAMID[1:], _PYRAMID[-1]), strict=True)
        )
        self.head = nn.Sequential(
            Conv(_PYRAMID[-1], _PYRAMID[-1], 3, groups=_PYRAMID[-1], act=None),
            Conv(_PYRAMID[-1], _HEAD, act=nn.ReLU(inplace=True)),
        )
        self.out = nn.Identity() if width == _HEAD else Conv(_HEAD, width, act=nn.ReLU(inplace=True))
        self.frozen = [self.first, *self.stages[:frozen]] if frozen else []
        for part in self.frozen:
            part.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Mobile:
        super().train(mode)
        for part in self.frozen:  # their batch norms' statistics stay too
            part.eval()
        return self

    def published(self) -> list[Conv]:
        """The convolutions that MoveNet has too, in its graph's order."""
        rises = [m for pair in zip(self.sides, self.ups, strict=True) for m in pair]
        parts = [self.first, self.stages, self.top, *rises, self.head]
        return [m for part in parts for m in part.modules() if isinstance(m, Conv)]

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        skips = []
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number in _SKIPS:
                skips.append(x)
        x = self.top(x)
        for level, (skip, side, up) in enumerate(zip(reversed(skips), self.sides, self.ups, strict=True)):
            if level or not self.shallow:  # a shallow top is at stride 16 already
                x = functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = up(x + side(skip))
        y: Tensor = self.out(self.head(x))
        return y


def begin(stem: Mobile, path: Path, images: Tensor) -> None:
    """Begin ``stem`` with the weights of MoveNet's file at ``path``, as :func:`take_over` does; EdgeposeError.

    A shallow stem's top has no counterpart and begins afresh.
    """
    whole = Mobile(stem.width, stem.multiplier)
    take_over(whole, movenet.read(path, [tuple(c.convolution.weight.shape) for c in whole.published()]), images)
    inherit(stem, whole)


def inherit(stem: Mobile, other: Mobile) -> None:
    """Begin ``stem`` with ``other`` of its multiplier, all but what depends on the width and a shallow one's top."""
    left_out = ("out.", "top.") if stem.shallow and not other.shallow else ("out.",)
    ours = stem.state_dict()
    stem.load_state_dict(
        {**ours, **{k: v for k, v in other.state_dict().items() if k in ours and not k.startswith(left_out)}}
    )


@torch.no_grad()
def take_over(stem: Mobile, weights: list[tuple[Tensor, Tensor]], images: Tensor) -> None:
    """Begin ``stem`` with weights [O, I, k, k] and biases [O] of ``published``, whose batch norms were folded.

    Batch norms are settled on what their convolutions give for ``images`` [N, 3, H, W], -1..1.
    """
    hooks = []
    for conv, (weight, bias) in zip(stem.published(), weights, strict=True):
        conv.convolution.weight.copy_(weight)
        hooks.append(conv.norm.register_forward_pre_hook(lambda norm, inputs, bias=bias: settle(norm, bias, inputs[0])))
    training = stem.training
    try:
        stem.eval()(images)
    finally:
        stem.train(training)
        for hook in hooks:
            hook.remove()
