"""What excites a channel: the images that drive it most, and what in them (Zeiler & Fergus 2014, fig. 2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgepose.crops import to_input
from trainer.explain.deconvnet import project
from trainer.explain.layers import run
from trainer.progress import progress

KEPT = 9
_BATCH = 16


@dataclass(frozen=True)
class Strongest:
    """Each of C channels' strongest unit in each of N crops."""

    activation: NDArray[np.float32]  # [N, C]
    at: NDArray[np.intp]  # [N, C, 2] row and column in the layer's map

    def channels(self, count: int) -> list[int]:
        """At most ``count`` channels, the most active first; those that never fire are left out."""
        best = np.sort(self.activation, axis=0)[-KEPT:].mean(axis=0)
        order = np.argsort(-best, kind="stable")[:count]
        return [int(c) for c in order if best[c] > 0]

    def crops(self, channel: int) -> NDArray[np.intp]:
        """The at most KEPT crops that drive ``channel`` most, the strongest first."""
        values = self.activation[:, channel]
        order = np.argsort(-values, kind="stable")[:KEPT]
        return order[values[order] > 0]


@dataclass(frozen=True)
class Patch:
    """The receptive field of one unit, as far as it lies in the crop."""

    image: NDArray[np.uint8]  # [h, w, 3] BGR
    projection: NDArray[np.float32]  # [h, w, 3] BGR


def inputs(crops: NDArray[np.uint8]) -> torch.Tensor:
    """BGR crops [N, H, W, 3] -> network input [N, 3, H, W], RGB 0..255."""
    made = np.empty((len(crops), 3, *crops.shape[1:3]), dtype=np.float32)
    for crop, out in zip(crops, made, strict=True):
        to_input(crop, out)
    return torch.from_numpy(made)


def strongest(network: nn.Module, crops: NDArray[np.uint8], layers: list[str]) -> dict[str, Strongest]:
    """Each channel's strongest unit in each of ``crops`` [N, H, W, 3] (BGR), for several ``layers`` in one pass."""
    values: dict[str, list[NDArray[np.float32]]] = {layer: [] for layer in layers}
    places: dict[str, list[NDArray[np.intp]]] = {layer: [] for layer in layers}
    starts = range(0, len(crops), _BATCH)
    for start in progress(starts, len(starts), "activations"):
        with torch.no_grad():
            found = run(network, inputs(crops[start : start + _BATCH]), layers)
        for layer, maps in found.items():
            value, cell = maps.flatten(2).max(dim=2)
            values[layer].append(value.numpy())
            places[layer].append(np.stack(np.divmod(cell.numpy(), maps.shape[-1]), axis=-1))
    return {layer: Strongest(np.concatenate(values[layer]), np.concatenate(places[layer])) for layer in layers}


def receptive_box(signal: NDArray[np.float32]) -> tuple[slice, slice]:
    """Rows and columns of the tight box around all pixels that a ``signal`` [3, H, W] reaches; the whole if none."""
    seen = np.any(signal != 0, axis=0)
    if not seen.any():
        return slice(0, seen.shape[0]), slice(0, seen.shape[1])
    rows, cols = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(cols[0]), int(cols[-1]) + 1)


def patches(network: nn.Module, crops: NDArray[np.uint8], layer: str, channel: int, found: Strongest) -> list[Patch]:
    """The crops that drive ``channel`` most, cut to the unit's receptive field, each with its projection."""
    chosen = found.crops(channel)
    if not len(chosen):
        return []
    images, at = inputs(crops[chosen]), found.at[chosen, channel]
    projection = project(network, images, layer, channel, at=at).pixels
    # Each rule stops at some ReLUs, the plain gradient at others; the field is what either reaches.
    gradient = project(network, images, layer, channel, at=at, rule="gradient").pixels
    made = []
    for crop, signal, reach in zip(crops[chosen], projection, gradient, strict=True):
        rows, cols = receptive_box(np.abs(signal) + np.abs(reach))
        made.append(Patch(crop[rows, cols], signal[::-1, rows, cols].transpose(1, 2, 0)))
    return made
