"""Person box <-> network input: one affine map, forward and back.

Pixel convention, kept everywhere in edgepose: coordinates are (x, y); the *centre* of the
top-left pixel is (0, 0), so an image of width W spans -0.5 .. W-0.5 (OpenCV's convention).
Boxes are [x0, y0, x1, y1] in that frame. Affine maps are float64 [2, 3] arrays that take a
column (x, y, 1) from image pixels to network-input pixels.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from edgepose.picture import YUV, Bytes, Picture, part_in_bgr

Floats = NDArray[np.floating]
BORDER = (114, 114, 114)  # what lies outside the image: mid grey, near the mean of photographs


def box_of_joints(points: Floats, mask: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """Tight box [4] of ``points`` [K, 2], of those in ``mask`` [K] if given; NaN when there is none."""
    chosen = points if mask is None else points[mask]
    if len(chosen) == 0:
        return np.full(4, np.nan)
    return np.concatenate([chosen.min(axis=0), chosen.max(axis=0)]).astype(np.float64)


def whole_image(width: int, height: int) -> NDArray[np.float64]:
    """The box [4] of all of an image, whose first pixel's centre is (0, 0)."""
    return np.array([-0.5, -0.5, width - 0.5, height - 0.5])


def crop_affine(
    box: Floats,
    input_size: tuple[int, int],
    padding: float,
    *,
    scale: float = 1.0,
    rotation: float = 0.0,
    shift: tuple[float, float] = (0.0, 0.0),
    flip: bool = False,
) -> NDArray[np.float64]:
    """Affine map [2, 3] from image pixels to an input of ``input_size`` (width, height) pixels.

    The box is grown by the factor ``padding`` to the input's aspect ratio and centred. For
    augmentation: ``scale`` > 1 makes the person larger, ``rotation`` turns it by degrees
    (clockwise as seen), ``shift`` moves it by fractions of the input, ``flip`` mirrors it.
    """
    width, height = input_size
    x0, y0, x1, y1 = (float(v) for v in box)
    aspect = width / height
    span = padding * max(x1 - x0, (y1 - y0) * aspect, 1.0)
    zoom = scale * width / span
    angle = math.radians(rotation)
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    linear = np.array([[cos, -sin], [sin, cos]])
    if flip:
        linear[0] *= -1.0
    middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    target = np.array([(width - 1) / 2 + shift[0] * width, (height - 1) / 2 + shift[1] * height])
    return np.column_stack([linear, target - linear @ middle])


def invert(affine: Floats) -> NDArray[np.float64]:
    """The inverse map [2, 3]; zeros where there is none (a crop without extent)."""
    return np.asarray(cv2.invertAffineTransform(np.asarray(affine, np.float64)), np.float64)


def compose(outer: Floats, inner: Floats) -> NDArray[np.float64]:
    """The map [2, 3] that applies ``inner`` first and ``outer`` to its result."""
    return np.column_stack([outer[:, :2] @ inner[:, :2], outer[:, :2] @ inner[:, 2] + outer[:, 2]])


def apply(affine: Floats, points: Floats) -> NDArray[np.float64]:
    """``points`` [..., 2] through ``affine``."""
    return np.asarray(points @ affine[:, :2].T + affine[:, 2], dtype=np.float64)


def apply_covariance(affine: Floats, covariance: Floats) -> NDArray[np.float64]:
    """``covariance`` [..., 3] as (var_x, cov_xy, var_y) through the linear part: A S A^T."""
    a, b, c, d = (float(v) for v in affine[:, :2].ravel())
    xx, xy, yy = covariance[..., 0], covariance[..., 1], covariance[..., 2]
    return np.stack(
        [
            a * a * xx + 2 * a * b * xy + b * b * yy,
            a * c * xx + (a * d + b * c) * xy + b * d * yy,
            c * c * xx + 2 * c * d * xy + d * d * yy,
        ],
        axis=-1,
    )


def warp(
    picture: Picture,
    affine: Floats,
    input_size: tuple[int, int],
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Resample ``picture`` to BGR [h, w, 3] of ``input_size`` (width, height) by ``affine``; grey outside.

    Shrinking by more than two would alias under bilinear sampling, so the region is first
    averaged down by a whole factor.
    """
    (a, b, _), (c, d, _) = affine.tolist()
    zoom = math.sqrt(abs(a * d - b * c))
    factor = int(1 / zoom) if zoom > 0 else 1
    if factor >= 2 or isinstance(picture, YUV) or picture.shape[2] != 3:
        picture, affine = _seen(picture, affine, input_size, max(factor, 1))
    result = cv2.warpAffine(
        picture, affine, input_size, dst=out, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=BORDER
    )
    return np.asarray(result, dtype=np.uint8)


def _seen(
    picture: Picture, affine: Floats, input_size: tuple[int, int], factor: int
) -> tuple[Bytes, NDArray[np.float64]]:
    """BGR of the part of ``picture`` that the crop sees, averaged down by ``factor`` or a little less; the map from it.

    Where it sees nothing that part is a pixel that lies beside the crop.
    """
    steps = picture.steps if isinstance(picture, YUV) else (1, 1)
    factor = max(factor // max(steps) * max(steps), 1)
    (width, height), starts, lengths = input_size, [], []
    sides = zip(invert(affine).tolist(), picture.shape[1::-1], steps, strict=True)
    for (across, down, start), side, step in sides:  # x of the picture, then y
        low = math.floor(start + min(-across, across * width) + min(-down, down * height)) - factor
        high = math.ceil(start + max(-across, across * width) + max(-down, down * height)) + factor
        low = min(max(low, 0), side - 1) // step * step
        starts.append(low)
        lengths.append(max(min(high, side) - low, 1))
    if min(lengths) < factor:
        factor = 1
    # Whole blocks only, so that every averaged pixel has the same weight and an exact centre.
    (x, y), (columns, rows) = starts, (length // factor for length in lengths)
    # Pixel u of the part has its centre at pixel x + factor * u + (factor - 1) / 2 of the picture.
    back = np.array([[factor, 0, x + (factor - 1) / 2], [0, factor, y + (factor - 1) / 2]], dtype=np.float64)
    return part_in_bgr(picture, (x, y), (columns, rows), factor), compose(affine, back)


def to_input(crop: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
    """Write a BGR crop [H, W, 3] into ``out`` [3, H, W]: float32, RGB, 0..255 (the bundle's contract)."""
    for channel in range(3):
        out[channel] = crop[:, :, 2 - channel]
