"""Other normalisations than batch norm (Ponti et al. 2017): local response, channel-wise L2, none.

Neither needs a batch, so both do the same in training and in running, and on one process and on many.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class LocalResponse(nn.Module):
    """x / (k + a sum x^2)^b over ``size`` neighbouring channels (Krizhevsky et al. 2012, section 3.3), plus a bias."""

    def __init__(self, channels: int, size: int = 5, k: float = 2.0, a: float = 1e-4, b: float = 0.75) -> None:
        super().__init__()
        self.channels, self.size, self.k, self.a, self.b = channels, size, k, a, b
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()  # squares leave half precision's range
        reach = self.size // 2
        squares = x * x
        nought = squares[:, :reach] * 0  # and not a Pad, whose exported size runtimes cannot tell
        squares = torch.cat([nought, squares, nought], dim=1)
        energy = torch.stack([squares[:, i : i + self.channels] for i in range(self.size)]).sum(dim=0)
        return x / (self.k + self.a * energy) ** self.b + self.bias[:, None, None]


class ChannelL2(nn.Module):
    """g x / |x| over the channels of each position (Liu et al. 2016, ParseNet, eq. 1-2), plus a bias.

    The gain g begins at sqrt(channels), where the values have unit mean square.
    """

    def __init__(self, channels: int, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.gain = nn.Parameter(torch.full((channels,), float(channels) ** 0.5))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()  # squares leave half precision's range
        length = (x * x).sum(dim=1, keepdim=True).add(self.epsilon).sqrt()
        return x / length * self.gain[:, None, None] + self.bias[:, None, None]


class Bias(nn.Module):
    """What is left of batch norm where there is no norm: a bias per channel, nought at first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias[:, None, None]


def with_norm(model: nn.Module, kind: str) -> nn.Module:
    """``model`` with every batch norm replaced by the norm that the recipe names."""
    made: dict[str, Callable[[int], nn.Module]] = {"lrn": LocalResponse, "l2": ChannelL2, "none": Bias}
    if kind == "batch":
        return model
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, made[kind](child.num_features).requires_grad_(child.weight.requires_grad))
    return model


SETTLED_ON = 48  # images from which batch norms that had been folded take their statistics


def settle(norm: nn.BatchNorm2d, bias: Tensor, x: Tensor) -> None:
    """Put back a batch norm that was folded into the convolution that gives ``x`` [N, C, H, W]; ``bias`` [C] is left.

    Its statistics become those of ``x``, so that in evaluation it adds the bias and does nothing else, and in training
    begins with statistics that fit.
    """
    variance, mean = torch.var_mean(x.float(), dim=(0, 2, 3))
    norm.load_state_dict(
        {
            **norm.state_dict(),
            "running_mean": mean,
            "running_var": variance,
            "weight": (variance + norm.eps).sqrt(),
            "bias": mean + bias.to(mean),
        }
    )
