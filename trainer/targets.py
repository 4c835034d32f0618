"""What an output of a network is trained towards, and the loss on it.

An output is one of these kinds; a network lists them in ``supervision``:

- ``joints``: Gaussians at the joints, weighted squared error. The last output of every pose network is of this kind.
- ``disks``: disks around the joints, per-pixel sigmoid cross-entropy (Bulat & Tzimiropoulos 2016, section 3).
- ``bones``, ``limbs``: Gaussians along the bones of each part (Tang, Yu & Wu 2018), weighted squared error.
- ``people``: a finder's maps, which :mod:`trainer.finder.targets` trains.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from trainer.parts import Composition

Kind = Literal["joints", "disks", "bones", "limbs", "people"]
DISK_RADIUS = 2.0  # in sigmas: Bulat's disks have radius 10 px where the Gaussians have a deviation of 5 px


def output_loss(
    kind: Kind,
    predicted: Tensor,
    joints: Tensor,
    labelled: Tensor,
    *,
    sigma: float,
    foreground: float,
    false_peaks: bool = False,
    composition: Composition,
) -> Tensor:
    """Loss of one output ``predicted`` [N, M, s, s] of the given kind; ``joints`` [N, K, 2] are in heatmap cells."""
    size = predicted.shape[-1]
    if kind == "disks":
        return disk_loss(predicted, disks(joints, size, DISK_RADIUS * sigma), labelled)
    if kind == "joints":
        target, known = gaussians(joints, size, sigma), labelled
    else:
        paths = {"bones": composition.bones, "limbs": composition.limbs}[kind]
        target, known = path_maps(joints, size, sigma, paths), known_paths(labelled, paths)
    return heatmap_loss(predicted, target, known, foreground, false_peaks=false_peaks)


def to_cells(joints: Tensor, stride: int) -> Tensor:
    """Input pixels -> heatmap cells; cell 0 is centred on pixel (stride - 1) / 2."""
    return (joints - (stride - 1) / 2) / stride


def gaussians(joints: Tensor, size: int, sigma: float) -> Tensor:
    """Targets [N, K, size, size]: a Gaussian of peak 1 at each joint.

    ``joints`` [N, K, 2] and ``sigma`` are in heatmap cells (Newell et al. 2016, sec. 3.4: 1 px on 64 x 64).
    Joints outside the map leave it (nearly) empty. Positions are kept sub-cell: the centre is not
    rounded, which DARK calls unbiased encoding (Zhang et al. 2020, sec. 3.2).
    """
    grid = torch.arange(size, dtype=torch.float32, device=joints.device)
    scale = -0.5 / sigma**2
    along_x = torch.exp(scale * (grid - joints[..., 0:1]) ** 2)
    along_y = torch.exp(scale * (grid - joints[..., 1:2]) ** 2)
    return along_y[..., :, None] * along_x[..., None, :]


def disks(joints: Tensor, size: int, radius: float) -> Tensor:
    """Targets [N, K, size, size]: 1 within ``radius`` cells of the joint, 0 elsewhere."""
    grid = torch.arange(size, dtype=torch.float32, device=joints.device)
    across = (grid - joints[..., 0:1]) ** 2
    down = (grid - joints[..., 1:2]) ** 2
    return (down[..., :, None] + across[..., None, :] <= radius**2).float()


def path_maps(joints: Tensor, size: int, sigma: float, paths: tuple[tuple[int, ...], ...]) -> Tensor:
    """Targets [N, len(paths), size, size]: a Gaussian of the distance to the part's bones, 1 on them.

    Each path is a chain of joints; its bones join neighbours (Tang et al. 2018, bone-based part representation).
    """
    maps = [
        torch.stack([_segment(joints[:, a], joints[:, b], size, sigma) for a, b in pairwise(path)]).max(dim=0).values
        for path in paths
    ]
    return torch.stack(maps, dim=1)


def _segment(a: Tensor, b: Tensor, size: int, sigma: float) -> Tensor:
    """[N, size, size]: exp(-d^2 / 2 sigma^2) of the distance d to the segment from ``a`` to ``b`` [N, 2]."""
    grid = torch.arange(size, dtype=torch.float32, device=a.device)
    point = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), dim=-1)  # [size, size, 2] of (x, y)
    a, b = a[:, None, None, :], b[:, None, None, :]
    along = ((point - a) * (b - a)).sum(-1) / ((b - a) ** 2).sum(-1).clamp(min=1e-6)
    nearest = a + along.clamp(0, 1)[..., None] * (b - a)
    return torch.exp(-((point - nearest) ** 2).sum(-1) / (2 * sigma**2))


def known_paths(labelled: Tensor, paths: tuple[tuple[int, ...], ...]) -> Tensor:
    """[N, len(paths)]: 1 where every joint of the path is labelled."""
    return torch.stack([labelled[:, list(path)].amin(dim=1) for path in paths], dim=1)


def heatmap_loss(
    predicted: Tensor, target: Tensor, known: Tensor, foreground: float, *, false_peaks: bool = False
) -> Tensor:
    """Mean over maps and cells of the squared error, each cell weighted by 1 + ``foreground`` * target.

    So a peak that is missed costs 1 + foreground times what one costs that should not be, and a network that is unsure
    whether a joint can be seen promises it. With ``false_peaks`` the larger of target and prediction takes the target's
    place in the weight, and both cost the same.
    ``predicted`` and ``target`` are [N, M, s, s].
    Unweighted, the few cells under a Gaussian are lost among the many empty ones and a small network
    sits at the all-zero answer for a long time. Maps that are not ``known`` [N, M] count as zero error, so that
    the loss of a batch is the mean of its parts' losses, however it is divided among processes.
    """
    peak = torch.maximum(target, predicted.detach().float()).clamp(max=1) if false_peaks else target
    weight = (1 + foreground * peak.clamp(min=0)) * known[..., None, None]
    return ((predicted.float() - target) ** 2 * weight).mean()


def disk_loss(logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Mean sigmoid cross-entropy over maps and cells (Bulat & Tzimiropoulos 2016, eq. 1)."""
    weight = known[..., None, None].expand_as(target)
    return functional.binary_cross_entropy_with_logits(logits.float(), target, weight)
