"""What the finder's five maps are trained towards: centre, width, height, and the way to the centre.

Zhou, Wang & Krähenbühl 2019, Objects as Points; equation numbers are theirs. Ours: the Gaussian follows the box's
shape, and size and offset are learnt in its middle and not at one cell (Liu et al. 2020, TTFNet), where each
cell counts alike, so that large people weigh more than small ones; sizes are logarithms, so that an error is relative
to the person.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

MAPS = 5  # centre (a logit), ln width, ln height, dx, dy; sizes and offsets in cells
SPREAD = 0.09  # deviation of the Gaussian over the box's side: 0.54 / 6 as in TTFNet
_LEAST = 0.7  # cells; of the deviation, so that small people have more than one cell
MIDDLE = 0.6  # of the Gaussian: cells above it learn size and offset
_SIZE, _OFFSET = 0.5, 0.5  # weights in the loss; eq. 4 has 0.1 for sizes in pixels
_ALPHA, _BETA = 2.0, 4.0  # of the focal loss, eq. 1


def maps(people: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Centre map [N, s, s]; regression targets [N, 4, s, s]; where they hold [N, s, s]. ``people`` [N, M, 4] in cells.

    Where two people's middles overlap, a cell belongs to the nearer one by their Gaussians.
    """
    there = people.isfinite().all(dim=2)
    boxes = people.nan_to_num(0.0)
    centre, sides = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]).clamp_min(1e-3)
    axis = torch.arange(size, dtype=boxes.dtype, device=boxes.device)
    deviation = (SPREAD * sides).clamp_min(_LEAST)
    # The peak stands on a cell, so that it is exactly 1 there (eq. 1 treats that cell alone as positive).
    peak = centre.round().clamp(0, size - 1)
    x, y = ((axis - peak[..., i, None]) / deviation[..., i, None] for i in (0, 1))  # [N, M, s]
    gauss = torch.exp(-(x[:, :, None, :] ** 2 + y[..., None] ** 2) / 2) * there[..., None, None]  # [N, M, s, s]
    heat, owner = gauss.max(dim=1)
    n, s = len(people), size
    own = owner.reshape(n, s * s, 1)
    mine_centre = centre.gather(1, own.expand(-1, -1, 2)).reshape(n, s, s, 2)
    mine_sides = sides.gather(1, own.expand(-1, -1, 2)).reshape(n, s, s, 2)
    cells = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)
    regression = torch.cat([mine_sides.log(), mine_centre - cells], dim=-1).permute(0, 3, 1, 2)
    return heat, regression, heat >= MIDDLE


def known(unsure: Tensor, people_heat: Tensor) -> Tensor:
    """[N, s, s]: 0 where ``unsure`` boxes [N, M, 4] (cells) are unless a person is there, else 1."""
    size = people_heat.shape[-1]
    boxes = unsure.nan_to_num(-10.0)
    axis = torch.arange(size, dtype=boxes.dtype, device=boxes.device)
    # Every cell that a box touches: a small person's may lie between the middles of two.
    x = (axis + 0.5 > boxes[..., 0, None]) & (axis - 0.5 < boxes[..., 2, None])
    y = (axis + 0.5 > boxes[..., 1, None]) & (axis - 0.5 < boxes[..., 3, None])
    doubtful = (x[:, :, None, :] & y[..., None]).any(dim=1)
    return (~doubtful | (people_heat >= MIDDLE)).to(people_heat.dtype)


def losses(predicted: Tensor, people: Tensor, unsure: Tensor) -> dict[str, Tensor]:
    """The parts of the loss of ``predicted`` [N, 5, s, s]; their sum is trained (eq. 4). Boxes in cells."""
    predicted = predicted.float()
    heat, regression, middle = maps(people, predicted.shape[-1])
    count = (heat == 1).sum().clamp_min(1)
    weight = middle * heat
    size, offset = (
        (functional.l1_loss(predicted[:, part], regression[:, where], reduction="none").sum(dim=1) * weight).sum()
        / weight.sum().clamp_min(1)
        for part, where in ((slice(1, 3), slice(0, 2)), (slice(3, 5), slice(2, 4)))
    )
    return {
        "centre": (focal(predicted[:, 0], heat) * known(unsure, heat)).sum() / count,
        "size": _SIZE * size,
        "offset": _OFFSET * offset,
    }


def focal(logits: Tensor, heat: Tensor) -> Tensor:
    """Penalty-reduced pixel-wise logistic regression with focal loss [N, s, s], eq. 1, before the sum over N."""
    probability = logits.sigmoid()
    positive = -((1 - probability) ** _ALPHA) * functional.logsigmoid(logits)
    negative = -((1 - heat) ** _BETA) * probability**_ALPHA * functional.logsigmoid(-logits)
    return torch.where(heat == 1, positive, negative)
