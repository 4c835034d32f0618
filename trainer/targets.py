"""Heatmap targets and the loss on them."""

from __future__ import annotations

import torch
from torch import Tensor


def gaussians(joints: Tensor, size: int, stride: int, sigma: float) -> Tensor:
    """Targets [N, K, size, size]: a Gaussian of peak 1 at each joint.

    ``joints`` [N, K, 2] are input pixels; ``sigma`` is in heatmap cells (Newell et al. 2016, sec. 3.4: 1 px
    on 64 x 64). Joints outside the map leave it (nearly) empty. Positions are kept sub-cell: the centre is not
    rounded, which DARK calls unbiased encoding (Zhang et al. 2020, sec. 3.2).
    """
    cells = (joints - (stride - 1) / 2) / stride
    grid = torch.arange(size, dtype=torch.float32, device=joints.device)
    scale = -0.5 / sigma**2
    along_x = torch.exp(scale * (grid - cells[..., 0:1]) ** 2)
    along_y = torch.exp(scale * (grid - cells[..., 1:2]) ** 2)
    return along_y[..., :, None] * along_x[..., None, :]


def heatmap_loss(predicted: Tensor, target: Tensor, labelled: Tensor, foreground: float) -> Tensor:
    """Mean over labelled joints of the squared error, each cell weighted by 1 + ``foreground`` * target.

    Unweighted, the few cells under a Gaussian are lost among the many empty ones and a small network
    sits at the all-zero answer for a long time.
    """
    weight = (1 + foreground * target) * labelled[..., None, None]
    error = (predicted.float() - target) ** 2 * weight
    cells = target.shape[-1] * target.shape[-2]
    return error.sum() / (labelled.sum().clamp(min=1) * cells)
