"""Person box <-> network input: one affine map, forward and back.

Pixel convention, kept everywhere in edgepose: coordinates are (x, y); the *centre* of the
top-left pixel is (0, 0), so an image of width W spans -0.5 .. W-0.5 (OpenCV's convention).
Boxes are [x0, y0, x1, y1] in that frame. Affine maps are float64 [2, 3] arrays that take a
column (x, y, 1) from image pixels to network-input pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from edgepose.picture import COLOURLESS, YUV, Picture, as_bgr

Floats = NDArray[np.floating]
BORDER = (114, 114, 114)  # what lies outside the image: mid grey, near the mean of photographs


def box_of_joints(points: Floats, mask: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """Tight box [4] of ``points`` [K, 2], of those in ``mask`` [K] if given; NaN when there is none."""
    chosen = points if mask is None else points[mask]
    if len(chosen) == 0:
        return np.full(4, np.nan)
    return np.concatenate([chosen.min(axis=0), chosen.max(axis=0)]).astype(np.float64)


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
    if isinstance(picture, YUV):
        luma = _resample(picture.luma, affine, input_size, (picture.grey(BORDER[0]),))
        return picture.bgr((luma, *_chroma(picture, affine, input_size)), out)
    if picture.shape[2] != 3:
        return as_bgr(_resample(picture, affine, input_size, BORDER), out)
    return _resample(picture, affine, input_size, BORDER, out)


def _chroma(picture: YUV, affine: Floats, input_size: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """The picture's chroma, resampled to ``input_size``; colourless outside, from where its luma ends."""
    (across, down), (x, y) = picture.steps, picture.origin
    beside = compose(affine, np.array([[across, 0.0, x], [0.0, down, y]]))
    planes = [_resample(plane, beside, input_size, None) for plane in picture.chroma]
    width, height = input_size
    back = invert(affine)
    ends = apply(back, np.array([[0, 0], [width, 0], [0, height], [width, height]]))
    rim = np.abs(back[:, :2]).sum(axis=1)  # a pixel of the crop in the picture: shrinking may leave that out at its end
    if (ends >= rim).all() and (ends <= np.array(picture.luma.shape[::-1]) - 1 - rim).all():
        return planes
    rows, columns = picture.luma.shape
    inside = _resample(_ones(rows, columns), affine, input_size, (0,))
    return [_faded(plane, inside) for plane in planes]


@lru_cache(maxsize=4)
def _ones(rows: int, columns: int) -> NDArray[np.uint8]:
    return np.full((rows, columns), 255, np.uint8)


def _faded(plane: NDArray[np.uint8], inside: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Chroma [h, w] or [h, w, 2], of which each pixel keeps as much as it lies ``inside`` [h, w], 0..255."""
    share = inside.astype(np.float32).reshape(*inside.shape, *[1] * (plane.ndim - 2)) / 255
    return np.asarray(np.rint(COLOURLESS + (plane - np.float32(COLOURLESS)) * share).astype(np.uint8))


def _resample(
    image: NDArray[np.uint8],
    affine: Floats,
    input_size: tuple[int, int],
    border: Sequence[float] | None,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """``image`` [H, W] or [H, W, C] as :func:`warp` does, by channels; outside ``border``, or what is nearest."""
    (a, b, _), (c, d, _) = affine.tolist()
    zoom = math.sqrt(abs(a * d - b * c))
    factor = int(1 / zoom) if zoom > 0 else 1
    if factor >= 2:
        image, affine = _shrink(image, affine, input_size, factor)
    mode, value = (cv2.BORDER_REPLICATE, ()) if border is None else (cv2.BORDER_CONSTANT, border)
    result = cv2.warpAffine(
        image, affine, input_size, dst=out, flags=cv2.INTER_LINEAR, borderMode=mode, borderValue=value
    )
    return np.asarray(result, dtype=np.uint8)


def _shrink(
    image: NDArray[np.uint8], affine: Floats, input_size: tuple[int, int], factor: int
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The part of the image that the crop sees, averaged down by ``factor``, and the map from it."""
    width, height = input_size
    corners = np.array([[-1, -1], [width, -1], [-1, height], [width, height]], dtype=np.float64)
    seen = apply(invert(affine), corners)
    # Whole blocks only, so that every averaged pixel has the same weight and an exact centre.
    low = np.clip(np.floor(seen.min(axis=0)).astype(int) - factor, 0, None)
    high = np.minimum(np.ceil(seen.max(axis=0)).astype(int) + factor, (image.shape[1], image.shape[0]))
    blocks = (high - low) // factor
    if np.any(blocks < 1):
        return image, np.asarray(affine, dtype=np.float64)
    part = image[low[1] : low[1] + blocks[1] * factor, low[0] : low[0] + blocks[0] * factor]
    small = cv2.resize(part, (int(blocks[0]), int(blocks[1])), interpolation=cv2.INTER_AREA)
    # small pixel u has its centre at image pixel low + factor * u + (factor - 1) / 2
    back = np.array([[factor, 0, low[0] + (factor - 1) / 2], [0, factor, low[1] + (factor - 1) / 2]], dtype=np.float64)
    return np.asarray(small, dtype=np.uint8), compose(affine, back)


def to_input(crop: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
    """Write a BGR crop [H, W, 3] into ``out`` [3, H, W]: float32, RGB, 0..255 (the bundle's contract)."""
    for channel in range(3):
        out[channel] = crop[:, :, 2 - channel]
