"""Multi-context attention (Chu et al. 2017, section 5).

An attention map says how much each position counts; it sums to 1. It multiplies the features, scaled by the
number of positions, so that a map without preference changes nothing.

Deviation from the paper's code, which multiplies by the sigmoids themselves: here the mean field's result is
divided by its sum, so that maps of both normalisers mean the same and can be compared.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.models.blocks import Head
from trainer.recipe import Attention as Spec

_EPSILON = 1e-6  # a mean field that believes in nothing gives the map without preference


class Attention(nn.Module):
    """Features at several resolutions -> maps [N, maps, h, w] at the finest, each summing to 1."""

    is_attention = True

    def __init__(self, width: int, maps: int, spec: Spec, resolutions: int = 1) -> None:
        super().__init__()
        self.spec = spec
        self.scores = nn.ModuleList(Head(width, maps, 3) for _ in range(resolutions))
        # Correlation between neighbours: the pairwise term of the conditional random field, the same in each iteration.
        self.pairwise = nn.ModuleList(
            Head(maps, maps, spec.kernel, groups=maps) for _ in range(resolutions if spec.normaliser == "crf" else 0)
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        """``features``: [N, width, h', w'], coarsest first; their number is ``resolutions``."""
        height, width = features[-1].shape[-2:]
        total: Tensor | None = None
        for index, x in enumerate(features):
            one = self._normalised(self.scores[index](x), index)
            factor = height // x.shape[-2]
            if factor > 1:
                one = functional.interpolate(one, (height, width), mode="nearest") / factor**2
            total = one if total is None else total + one
        assert total is not None
        return total / len(features)

    def _normalised(self, score: Tensor, index: int) -> Tensor:
        if self.spec.normaliser == "softmax":  # section 5.1
            return functional.softmax(score.float().flatten(2), dim=-1).view_as(score)
        belief = score
        for _ in range(self.spec.iterations):  # mean field, section 5.1
            belief = torch.sigmoid(score + self.pairwise[index](belief))
        belief = belief.float() + _EPSILON
        return belief / belief.sum(dim=(2, 3), keepdim=True)


def attend(features: Tensor, attention: Tensor) -> Tensor:
    """Features [N, C, h, w] weighted by a map [N, 1 or C, h, w] that sums to 1; the mean weight is 1."""
    return features * attention * (features.shape[-1] * features.shape[-2])


class Holistic(nn.Module):
    """Attention on the whole body: one map for all channels, from every resolution of the hourglass or the finest."""

    def __init__(self, width: int, spec: Spec, resolutions: int) -> None:
        super().__init__()
        self.attention = Attention(width, 1, spec, resolutions if spec.multi_resolution else 1)

    def forward(self, features: Tensor, coarser: list[Tensor]) -> Tensor:
        """``coarser``: the hourglass's outputs at lower resolutions, coarsest first."""
        seen = [*coarser, features] if len(self.attention.scores) > 1 else [features]
        return attend(features, self.attention(seen))


class PartHead(nn.Module):
    """A head that looks at each joint through a map of its own (section 5.2, refined attention for parts).

    The map of joint p multiplies all channels alike, so that it can be applied after the joint's 1x1 convolution:
    w . (f * A) = (w . f) * A.
    """

    def __init__(self, width: int, joints: int, spec: Spec) -> None:
        super().__init__()
        self.attention = Attention(width, joints, spec)
        self.linear = Head(width, joints, bias=False)
        self.bias = nn.Parameter(torch.zeros(joints))

    def forward(self, features: Tensor) -> Tensor:
        return attend(self.linear(features), self.attention([features])) + self.bias[:, None, None]
