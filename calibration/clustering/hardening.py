"""Cluster hardening: soft assignments are drawn towards their own sharpened version.

Xie, Girshick & Farhadi 2016, Unsupervised Deep Embedding for Clustering Analysis; equation numbers are theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.progress import progress


@dataclass(frozen=True)
class Schedule:
    """How the clusters are refined; the paper's figures where it states them."""

    interval: int = 30  # steps between updates of the target distribution: T; 0: a pass over all samples
    tol: float = 0.001  # rest: fewer than this share of labels changed between two updates
    most: int = 100  # updates, where labels do not come to rest
    batch: int = 256
    rate: float = 0.01
    momentum: float = 0.9


def soft_assignment(embedding: Tensor, centres: Tensor) -> Tensor:
    """q [N, K]: Student's t of one degree of freedom between ``embedding`` [N, D] and ``centres`` [K, D]; eq. 1."""
    nearness = 1 / (1 + (embedding[:, None] - centres[None]).square().sum(dim=2))
    return nearness / nearness.sum(dim=1, keepdim=True)


def target_distribution(q: Tensor) -> Tensor:
    """p [N, K]: q squared over the clusters' soft sizes f_j = sum_i q_ij, normalised per sample; eq. 3."""
    weight = q.square() / q.sum(dim=0)
    return weight / weight.sum(dim=1, keepdim=True)


def hardening_loss(p: Tensor, q: Tensor) -> Tensor:
    """KL(P || Q) of eq. 2, over the number of samples, so that a step does not depend on the batch's size."""
    return functional.kl_div(q.log(), p, reduction="batchmean")


def refine(
    encoder: nn.Module,
    inputs: Tensor,
    centres: Tensor,
    *,
    trained: list[nn.Parameter],
    loss: Callable[[Tensor, Tensor, Tensor], Tensor],
    schedule: Schedule,
    seed: int,
) -> tuple[Tensor, Tensor, int]:
    """Move ``trained`` and the centres until labels rest; returns labels [N], centres [K, D] and target updates.

    ``loss(batch, embedding, hardening)`` is what is minimised. The caller puts the encoder into evaluation mode: with
    a batch's own statistics in batch norms, p (of all samples) and q (of a batch) would be of different functions.
    """
    centre = nn.Parameter(centres.clone())
    optimiser = torch.optim.SGD([*trained, centre], lr=schedule.rate, momentum=schedule.momentum)
    drawn = torch.Generator().manual_seed(seed)
    before: Tensor | None = None
    updates = 0
    for _ in progress(range(schedule.most), schedule.most, "refining clusters"):
        q = _assign(encoder, inputs, centre)
        labels, p = q.argmax(dim=1), target_distribution(q)
        if before is not None and float((labels != before).float().mean()) < schedule.tol:
            break
        before, updates = labels, updates + 1
        for chosen in _batches(len(inputs), schedule, drawn):
            embedding = encoder(inputs[chosen])
            value = loss(inputs[chosen], embedding, hardening_loss(p[chosen], soft_assignment(embedding, centre)))
            optimiser.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return _assign(encoder, inputs, centre).argmax(dim=1), centre.detach(), updates


@torch.no_grad()
def _assign(encoder: nn.Module, inputs: Tensor, centres: Tensor) -> Tensor:
    """q [N, K] of all ``inputs``."""
    return torch.cat([soft_assignment(encoder(part), centres) for part in torch.split(inputs, 1024)])


def _batches(count: int, schedule: Schedule, drawn: torch.Generator) -> list[Tensor]:
    """Batches between two updates: passes over all samples in random order, the last cut off after ``interval``."""
    batches: list[Tensor] = []
    while not batches or len(batches) < schedule.interval:
        batches += torch.split(torch.randperm(count, generator=drawn), schedule.batch)
    return batches[: schedule.interval or None]
