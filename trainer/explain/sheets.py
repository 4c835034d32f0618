"""Sheets: pictures of what goes on in a network, each with words on what to look at."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgepose.crops import BORDER
from edgepose.draw import draw_pose
from edgepose.engines import Engine
from edgepose.heatmaps import cells_to_input
from edgepose.skeletons import Skeleton
from trainer.explain.deconvnet import project
from trainer.explain.layers import OUTPUT, run
from trainer.explain.occlusion import defaults, occlusion
from trainer.explain.patches import KEPT, Strongest, patches
from trainer.explain.tiles import BGR, captioned, fitted, grid, heat, signed
from trainer.explain.views import View
from trainer.progress import progress

_SMALL, _LARGE, _PATCH = 140, 192, 96  # sides of tiles, pixels
_COLUMNS = 9  # of small tiles


@dataclass(frozen=True)
class Sheet:
    """A picture with a title and a paragraph for somebody who sees its like for the first time."""

    title: str
    caption: str
    picture: BGR


def _pose(view: View, skeleton: Skeleton) -> BGR:
    drawn: BGR = view.crop.copy()
    draw_pose(drawn, view.joints, np.ones(len(skeleton), dtype=bool), skeleton, 1)
    return drawn


def _peak(view: View, joint: int) -> NDArray[np.float64]:
    """The largest cell of a joint's heatmap, (x, y) in pixels of the crop."""
    width = view.heatmaps.shape[2]
    row, col = divmod(int(view.heatmaps[joint].argmax()), width)
    return cells_to_input(np.array([col, row], dtype=np.float64), view.crop.shape[1] // width)


def _ring(tile: BGR, at: NDArray[np.floating], size: tuple[int, int]) -> BGR:
    """Mark ``at``, pixels of a crop of ``size``, in a tile made of it."""
    side = tile.shape[0]
    scale = side / max(size)
    offset = [(side - s * scale) / 2 for s in size]
    centre = (round(at[0] * scale + offset[0]), round(at[1] * scale + offset[1]))
    for ink, thickness in ((0, 3), (255, 1)):
        cv2.circle(tile, centre, 8, (ink,) * 3, thickness, cv2.LINE_AA)
    return tile


def heatmap_sheet(views: list[View], skeleton: Skeleton) -> Sheet:
    """Every joint's heatmap over each person's crop, and the pose decoded from them."""
    blocks = []
    for view in views:
        row = [captioned(fitted(view.crop, _SMALL), "crop"), captioned(fitted(_pose(view, skeleton), _SMALL), "pose")]
        for name, values, score in zip(skeleton.joints, view.heatmaps, view.scores, strict=True):
            shown = heat(view.crop, values / max(float(values.max()), 1e-6))
            row.append(captioned(fitted(shown, _SMALL), f"{name} {score:.2f}"))
        blocks.append(grid(row, _COLUMNS))
    caption = (
        "The network answers with one map per joint; the warmer the colour, the more it believes that the joint is "
        "there, relative to that map's own maximum. The number is the score given to the joint. A good map is one "
        "small round spot; two spots show a joint taken for its left or right twin, or for somebody else's; a smear "
        "shows doubt. The pose is what is decoded from the maps (green: the person's left, orange: right)."
    )
    return Sheet("Heatmaps: where each joint is believed to be", caption, grid(blocks, 1, gap=16))


def occlusion_sheet(
    engine: Engine, views: list[View], skeleton: Skeleton, joints: list[str], *, square: int = 0, step: int = 0
) -> Sheet:
    """For some joints, by how much their score falls as a grey square covers each part of the crop."""
    size = (views[0].crop.shape[1], views[0].crop.shape[0])
    square, step = defaults(size, square, step)
    rows = []
    for view in progress(views, len(views), "occlusion"):
        found = occlusion(engine, view.image, square, step)
        shares = found.share()
        pose = _pose(view, skeleton)
        pose[2 : 2 + square, 2 : 2 + square] = BORDER
        cv2.rectangle(pose, (1, 1), (2 + square, 2 + square), (255, 255, 255), 1)
        rows.append(captioned(fitted(pose, _LARGE), "pose, and the square"))
        for name in joints:
            k = skeleton.index(name)
            share = shares[k]
            tile = _ring(fitted(heat(view.crop, share), _LARGE), _peak(view, k), size)
            rows.append(captioned(tile, f"{name} {found.peak[k]:.2f}, at most -{100 * share.max():.0f} %"))
    caption = (
        f"A grey square of {square} pixels (drawn in the corner of the first tile) slides over the crop by {step} "
        "pixels. Red is where covering the picture takes the joint's heatmap away from its peak (ringed; the number "
        "is its height); uncoloured places do not matter. Look whether the colour lies on the joint itself. Colour "
        "elsewhere, on the rest of the limb or on the trunk, is context that the network leans on; colour on the "
        "background is a warning. Where the peak is low the colours mean little."
    )
    return Sheet("Occlusion: what each joint stands on", caption, grid(rows, 1 + len(joints)))


def projection_sheet(network: nn.Module, views: list[View], skeleton: Skeleton, joints: list[str]) -> Sheet:
    """For some joints, the peak of the last heatmap projected back to the pixels."""
    size = (views[0].crop.shape[1], views[0].crop.shape[0])
    images = torch.from_numpy(np.stack([v.image for v in views]))
    signals = [
        project(network, images, OUTPUT, skeleton.index(j)).pixels for j in progress(joints, len(joints), "projections")
    ]
    rows = []
    for n, view in enumerate(views):
        rows.append(captioned(fitted(_pose(view, skeleton), _LARGE), "pose"))
        for name, signal in zip(joints, signals, strict=True):
            tile = fitted(signed(signal[n, ::-1].transpose(1, 2, 0)), _LARGE)
            rows.append(captioned(_ring(tile, _peak(view, skeleton.index(name)), size), name))
    caption = (
        "The network run backwards (a deconvnet, Zeiler & Fergus 2014) from the peak of a joint's heatmap, ringed, to "
        "the pixels that raised it. Plain grey had no part in it; edges and colours stand out where they did. Each "
        "tile has a contrast of its own. Look where the signal is strong: on the limb in question, or on other parts "
        "by which the network finds it. That outlines show at all says little: a picture's edges come through faintly "
        "even where nothing was learnt (Nie et al. 2018)."
    )
    return Sheet("Joints projected back to pixels", caption, grid(rows, 1 + len(joints)))


def patch_sheet(
    network: nn.Module, crops: NDArray[np.uint8], layer: str, found: Strongest, channels: int
) -> Sheet | None:
    """The nine strongest patches of a layer's most active channels beside their projections; None where none fires."""
    blocks = []
    chosen = found.channels(channels)
    made = {c: patches(network, crops, layer, c, found) for c in progress(chosen, len(chosen), f"patches of {layer}")}
    span = max((max(p.image.shape[:2]) for some in made.values() for p in some), default=0)
    empty = np.full((1, 1, 3), BORDER, dtype=np.uint8)
    for channel, some in made.items():
        halves = [[fitted(signed(p.projection), _PATCH, span) for p in some],
                  [fitted(p.image, _PATCH, span) for p in some]]  # fmt: skip
        filled = [grid(half + [fitted(empty, _PATCH, _PATCH)] * (KEPT - len(half)), 3, gap=2) for half in halves]
        words = (f"channel {channel}: projected back", "the nine patches")
        blocks.append(grid([captioned(h, w) for h, w in zip(filled, words, strict=True)], 2, gap=8))
    if not blocks:
        return None
    caption = (
        f"One block per channel of layer {layer}. Right: the nine persons that excite the channel most, cut to the "
        f"{span} x {span} pixels that it can see. Left: the same nine projected back, which leaves only what excited "
        "it. If the nine patches have something in common - an edge, a colour, a head, bare legs - that is what the "
        "channel looks for; the projections show it without the rest. (In the very first layer all nine are the filter "
        "itself.) The further on a layer is, the more of the person it sees."
    )
    return Sheet(f"Layer {layer}: what excites it", caption, grid(blocks, 2, gap=20))


def attention_sheet(network: nn.Module, views: list[View], skeleton: Skeleton) -> Sheet | None:
    """The maps of the network's attention modules over each crop; None for a network without any.

    An attention module has an attribute ``is_attention`` that is true and returns its maps [N, P, h, w], alone or as
    the second of a tuple; each has a sum of 1 over its positions. P > 1: one map per part.
    """
    layers = [n for n, m in network.named_modules() if getattr(m, "is_attention", False) is True]
    if not layers:
        return None
    images = torch.from_numpy(np.stack([v.image for v in views]))
    with torch.no_grad():
        found = run(network, images, layers, pick=lambda output: output[1] if isinstance(output, tuple) else output)
    rows = []
    for n, view in enumerate(views):
        row = [captioned(fitted(view.crop, _SMALL), "crop")]
        for layer in layers:
            maps = found[layer][n].numpy()
            parts = skeleton.joints if len(maps) == len(skeleton) else [str(part) for part in range(len(maps))]
            for part, values in zip(parts, maps, strict=True):
                shown = fitted(heat(view.crop, values / max(float(values.max()), 1e-12)), _SMALL)
                row.append(captioned(shown, f"{layer} {part}" if len(maps) > 1 else layer))
        rows.append(grid(row, _COLUMNS))
    caption = (
        "Attention weighs the places of the picture before the network goes on; each map adds up to one over all "
        "places, and is drawn relative to its maximum: red is attended, uncoloured is ignored. The caption is the "
        "module's path, and the part where each has a map of its own. Maps should leave out "
        "the background and, one per part, lie on different parts of the body; a map of one colour attends to nothing."
    )
    return Sheet("Attention: where the network looks", caption, grid(rows, 1, gap=12))


def outputs_sheet(network: nn.Module, views: list[View]) -> Sheet | None:
    """What a network predicts beside joints (disks, bones, limbs), all maps of an output in one; None where nothing."""
    kinds: tuple[str, ...] = getattr(network, "supervision", ())
    if set(kinds) <= {"joints"}:
        return None
    with torch.no_grad():
        answers = network.eval()(torch.from_numpy(np.stack([v.image for v in views])))
    rows = []
    for n, view in enumerate(views):
        row = [captioned(fitted(view.crop, _SMALL), "crop")]
        for number, (kind, maps) in enumerate(zip(kinds, answers, strict=True), 1):
            strongest = (torch.sigmoid(maps[n]) if kind == "disks" else maps[n]).amax(dim=0).numpy()
            shown = fitted(heat(view.crop, strongest / max(float(strongest.max()), 1e-6)), _SMALL)
            row.append(captioned(shown, f"{number}: {kind}"))
        rows.append(grid(row, _COLUMNS))
    caption = (
        "This network predicts more than its last heatmaps, one output after another, and each helps the next: disks "
        "around the joints, bones between them, limbs made of bones. Each tile shows the strongest map at every place. "
        "Later outputs of a kind should be cleaner than earlier ones."
    )
    return Sheet("Outputs on the way: parts before joints", caption, grid(rows, 1, gap=12))
