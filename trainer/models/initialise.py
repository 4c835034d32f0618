"""First weights of convolutions; biases are zero.

- ``he``: variance 2 / n_o (He et al. 2015, eq. 14: the backward form, which suits ReLU).
- ``xavier``: variance 2 / (n_i + n_o) (Glorot & Bengio 2010, eq. 12).
- ``branches``: for layers whose input is the sum of C_i branches, or whose output goes to C_o branches: variance
  1 / (a^2 (C_i n_i + C_o n_o)), a = 1/2 for ReLU (Yang et al. 2017, section 4.1, eq. 15). A plain layer has
  C_i = C_o = 1; :class:`trainer.models.blocks.Conv` says otherwise.

n_i and n_o are the numbers of weights that meet in an output and that leave an input, at stride 1.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from trainer.models.blocks import Conv, Head

_RELU = 0.5  # share of the second moment that ReLU leaves
HEAD_DEVIATION = 0.01  # heatmaps are nearly empty, so heads begin nearly silent


def variance(conv: nn.Conv2d | nn.ConvTranspose2d, kind: str) -> float:
    """Variance of the first weights of ``conv``."""
    area = math.prod(conv.kernel_size)
    n_i, n_o = area * conv.in_channels / conv.groups, area * conv.out_channels / conv.groups
    if kind == "he":
        return 2 / n_o
    if kind == "xavier":
        return 2 / (n_i + n_o)
    c_i, c_o = (conv.branches_in, conv.branches_out) if isinstance(conv, Conv) else (1, 1)
    return float(1 / (_RELU**2 * (c_i * n_i + c_o * n_o)))


def initialise(model: nn.Module, kind: str) -> None:
    """Draw every convolution's weights anew, normal with zero mean, from torch's global random state."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            deviation = HEAD_DEVIATION if isinstance(module, Head) else math.sqrt(variance(module, kind))
            nn.init.normal_(module.weight, std=deviation)
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
