"""Which people count: by where they stand, how large they are, and how many.

Corners are in shares of the image's width and height, not in pixels: a zone drawn once stays in its place
when the camera is set to another resolution. (0, 0) is the image's top-left corner and (1, 1) its bottom-right
one, so pixel x (``crops.py``: centres are whole numbers) is at share (x + 0.5) / width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, Field

from edgepose.estimator import Poses
from edgepose.people import People
from edgepose.validation import STRICT

Floats = NDArray[np.floating]
Mask = NDArray[np.bool_]
JUST_INSIDE = np.nextafter(1.0, 0.0)  # the largest share that lies within a polygon whose edge is at 1
FLAT = 1e-9  # square shares; corners on one line give this or less once rounded


def _in_image(corner: tuple[float, float]) -> tuple[float, float]:
    if not all(0 <= share <= 1 for share in corner):
        raise ValueError(
            f"the corner ({corner[0]:g}, {corner[1]:g}) is outside the image; give x and y as shares 0..1 of the "
            "image's width and height (pixels divided by the image's size)"
        )
    return corner


def _has_area(polygon: list[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(polygon) < 3:
        raise ValueError(f"a polygon needs at least three corners and this one has {len(polygon)}; add corners")
    arms = np.array(polygon) - polygon[0]
    longest = arms[np.argmax((arms**2).sum(axis=1))]
    if np.all(abs(arms[:, 0] * longest[1] - arms[:, 1] * longest[0]) <= FLAT):
        raise ValueError(
            "the corners of this polygon lie on one line, so nobody can stand in it; move one of them "
            "(edges may cross: what counts as inside is then decided by the even-odd rule)"
        )
    return polygon


Corner: TypeAlias = Annotated[tuple[float, float], AfterValidator(_in_image)]
Polygon: TypeAlias = Annotated[list[Corner], AfterValidator(_has_area)]


class Regions(BaseModel):
    """Which people of one camera count; without settings, all who are followed.

    ``only`` and ``ignore`` are polygons of three or more corners (x, y) in shares of the image's width and height.
    Edges may cross; the even-odd rule then says what is inside: what an odd number of edges separates from outside.
    """

    model_config = STRICT

    only: list[Polygon] = []  # who stands in none of these does not count; empty: everywhere counts
    ignore: list[Polygon] = []  # who stands in one of these does not count, also within ``only``
    min_size: Annotated[float, Field(ge=0, le=1)] = 0  # a box's longer side, in shares of the image's height
    most: Annotated[int, Field(ge=1)] | None = None  # people at once; the largest win; none: as many as are followed


def inside(polygon: Floats, points: Floats) -> Mask:
    """Which of ``points`` [N, 2] lie in ``polygon`` [M, 2], by the even-odd rule; mask [N].

    A ray to the right is followed from each point: inside is where it crosses an odd number of edges. A point on
    the border belongs to the polygon on its right (of a level edge: below it), so a rectangle holds its left and
    top edge only, and of two zones that share an edge exactly one has each point of it. NaN is nowhere.
    """
    start, end = np.asarray(polygon, dtype=np.float64), np.roll(polygon, -1, axis=0).astype(np.float64)
    downwards = (start[:, 1] <= end[:, 1])[:, None]
    # Each edge from its upper end, so that neighbours with the same edge round alike.
    upper, lower = np.where(downwards, start, end), np.where(downwards, end, start)
    run, rise = (lower - upper).T
    x, y = points[:, 0, None], points[:, 1, None]
    beside = (upper[:, 1] <= y) & (y < lower[:, 1])
    left = (x - upper[:, 0]) * rise < (y - upper[:, 1]) * run
    return np.asarray((beside & left).sum(axis=1) % 2 == 1, dtype=np.bool_)


def keep(regions: Regions, boxes: Floats, size: tuple[int, int], *, all_of_them: bool = False) -> Mask:
    """Which of N people count: mask [N], for ``boxes`` [N, 4] in pixels of an image of ``size`` (width, height).

    A person stands in the middle of the lower edge of its box, because zones are drawn on the floor and that is
    where the box meets it. Boxes are enough, so that a finder's can be sorted out before the pose network pays for
    them.
    Zones come first, then ``min_size``, then ``most``; of equally large people the earlier ones win. With
    ``all_of_them`` there may be more than ``most``.
    """
    feet = np.column_stack([(boxes[:, 0] + boxes[:, 2]) / 2, boxes[:, 3]])
    # Who is cut off by the image's edge stands at that edge: no zone can be drawn beyond it.
    standing = np.clip((feet + 0.5) / np.array(size, dtype=np.float64), 0.0, JUST_INSIDE)
    sizes = np.asarray((boxes[:, 2:] - boxes[:, :2]).max(axis=1), dtype=np.float64)
    kept = sizes >= regions.min_size * size[1]
    if regions.only:
        kept &= _inside_any(regions.only, standing)
    kept &= ~_inside_any(regions.ignore, standing)
    if regions.most is not None and not all_of_them:
        largest_first = np.argsort(np.where(kept, -sizes, np.inf), kind="stable")
        kept[largest_first[regions.most :]] = False
    return kept


def select(people: People, mask: Mask) -> People:
    """The people of ``mask`` [N], in the same order."""
    poses = people.poses
    return replace(
        people,
        ids=[name for name, kept in zip(people.ids, mask, strict=True) if kept],
        boxes=people.boxes[mask],
        poses=Poses(poses.joints[mask], poses.scores[mask], poses.covariance[mask]),
        motion=None if people.motion is None else people.motion.of(mask),
    )


def _inside_any(polygons: list[Polygon], points: Floats) -> Mask:
    found = np.zeros(len(points), dtype=np.bool_)
    for polygon in polygons:
        found |= inside(np.array(polygon), points)
    return found
