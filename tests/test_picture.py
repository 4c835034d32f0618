"""Pictures in a decoder's layout: the same colours, the same crops as from BGR."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgepose.crops import BORDER, crop_affine, warp
from edgepose.frame import Frame
from edgepose.picture import YUV, Picture, colours, to_bgr, yuv_to_bgr

BT601, BT709 = (0.299, 0.114), (0.2126, 0.0722)
LAYOUTS = ("4:2:0", "4:2:0 in pairs", "4:2:2", "4:4:4", "BGRx", "BGR")


def scene(width: int, height: int) -> NDArray[np.uint8]:
    """A smooth BGR image [H, W, 3] with every channel at work."""
    y, x = np.mgrid[:height, :width]
    waves = [128 + 90 * np.sin(x / 17 + y / 31 + phase) * np.cos(y / 23 - phase) for phase in (0.0, 2.0, 4.0)]
    return np.stack(waves, axis=2).round().astype(np.uint8)


def as_layout(image: NDArray[np.uint8], layout: str, *, full_range: bool = False) -> Picture:
    """``image`` [H, W, 3] by BT.709, chroma averaged: its samples lie in the middle of their pixels."""
    if layout == "BGR":
        return image
    if layout == "BGRx":
        return np.dstack([image, np.full(image.shape[:2], 77, np.uint8)])
    matrix = yuv_to_bgr(*BT709, full_range=full_range)
    planes = (image - matrix[:, 3]) @ np.linalg.inv(matrix[:, :3]).T
    across, down = {"4:2:2": (2, 1), "4:4:4": (1, 1)}.get(layout, (2, 2))
    height, width = image.shape[:2]
    padded = np.pad(planes[..., 1:], ((0, -height % down), (0, -width % across), (0, 0)), mode="edge")
    rows, columns = padded.shape[0] // down, padded.shape[1] // across
    chroma = padded.reshape(rows, down, columns, across, 2).mean(axis=(1, 3)).round().astype(np.uint8)
    apart = (chroma,) if "pairs" in layout else (chroma[..., 0].copy(), chroma[..., 1].copy())
    return YUV(planes[..., 0].round().astype(np.uint8), apart, matrix, (across, down))


def test_the_map_is_that_of_the_standards() -> None:
    narrow, full = yuv_to_bgr(*BT601, full_range=False), yuv_to_bgr(*BT601, full_range=True)
    # ITU-T T.871 (JFIF), section 7, and ITU-R BT.601 for 16..235.
    np.testing.assert_allclose(full[:, :3], [[1, 1.772, 0], [1, -0.344136, -0.714136], [1, 0, 1.402]], atol=1e-6)
    np.testing.assert_allclose(narrow[:, 0], 255 / 219)
    np.testing.assert_allclose(yuv_to_bgr(*BT709, full_range=True)[[0, 2], [1, 2]], [1.8556, 1.5748])
    for matrix, black, white in ((narrow, 16, 235), (full, 0, 255)):
        np.testing.assert_allclose(matrix @ [black, 128, 128, 1], 0, atol=1e-9)
        np.testing.assert_allclose(matrix @ [white, 128, 128, 1], 255)


@pytest.mark.parametrize("size", [(64, 48), (61, 47), (3, 5), (2, 1)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_whole_picture_in_bgr(layout: str, size: tuple[int, int]) -> None:
    image = scene(*size)
    picture = as_layout(image, layout)
    assert picture.shape[:2] == image.shape[:2]
    bgr = to_bgr(picture)
    assert bgr.flags.owndata
    assert bgr.flags.writeable
    limit = {"BGR": 0, "BGRx": 0, "4:4:4": 2}.get(layout, 14)
    assert np.abs(bgr.astype(int) - image).max() <= limit
    frame = Frame(picture, 1, 0, "cam")
    assert frame.size == size
    np.testing.assert_array_equal(frame.image, bgr)
    assert frame.image is frame.image  # converted once


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("box", "rotation"), [((60, 40, 200, 190), 0), ((-40, -30, 90, 130), 30), ((0, 0, 319, 239), 0)]
)
def test_crops_are_those_of_the_bgr_image(
    layout: str, box: tuple[int, ...], rotation: float, *, full_range: bool
) -> None:
    image = scene(321, 241)
    picture = as_layout(image, layout, full_range=full_range)
    affine = crop_affine(np.array(box), (96, 64), 1.25, rotation=rotation)
    out = np.zeros((64, 96, 3), np.uint8)
    crop = warp(picture, affine, (96, 64), out=out)
    assert crop is out or np.shares_memory(crop, out)
    apart = out.astype(int) - warp(image, affine, (96, 64))
    assert np.abs(apart).mean() < 1
    assert np.percentile(np.abs(apart), 99) <= 5
    # Where the picture ends inside the crop BGR is averaged down by 3 and 4:2:0 by 2: their last pixels differ.
    whole = isinstance(picture, YUV) and picture.steps == (1, 1)
    assert np.abs(apart).max() <= (3 if whole or not isinstance(picture, YUV) else 17 if box[0] < 0 else 16)


@pytest.mark.parametrize("layout", ["4:2:0", "4:2:0 in pairs", "4:2:2", "4:4:4"])
@pytest.mark.parametrize("rotation", [0, 25])
@pytest.mark.parametrize("margin", [60, 0, -10])
def test_no_seam_where_the_picture_ends(layout: str, rotation: float, margin: float) -> None:
    """A saturated picture in a crop that it does not fill."""
    image = np.full((101, 99, 3), (20, 30, 230), np.uint8)
    affine = crop_affine(np.array([-margin, -margin, 98 + margin, 100 + margin]), (128, 128), 1.0, rotation=rotation)
    crop = warp(as_layout(image, layout), affine, (128, 128))
    assert np.abs(crop.astype(int) - warp(image, affine, (128, 128))).max() <= 6


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_beside_the_picture_is_grey(layout: str, *, full_range: bool) -> None:
    affine = crop_affine(np.array([900, 900, 1000, 1000]), (32, 32), 1.25)
    beside = warp(as_layout(scene(64, 48), layout, full_range=full_range), affine, (32, 32))
    assert np.abs(beside.astype(int) - BORDER).max() <= 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_colours_of_some_pixels(layout: str) -> None:
    picture = as_layout(scene(61, 47), layout)
    y, x = np.mgrid[0:47:5, 0:61:6]
    found = colours(picture, x, y)
    assert found.shape == (*x.shape, 3)
    whole = to_bgr(picture)
    if isinstance(picture, YUV):  # each sample of chroma stands for its pixels here, and is not spread between them
        across, down = picture.steps
        planes = [np.repeat(np.repeat(plane, down, 0), across, 1)[:47, :61] for plane in picture.chroma]
        whole = picture.bgr((picture.luma, *planes))
    np.testing.assert_array_equal(found, whole[y, x])


def test_grey_pictures() -> None:
    grey = cv2.cvtColor(scene(64, 48), cv2.COLOR_BGR2GRAY)
    bgr = np.dstack([grey] * 3)
    picture = grey[..., None]
    np.testing.assert_array_equal(to_bgr(picture), bgr)
    affine = crop_affine(np.array([10, 5, 90, 40]), (32, 32), 1.25)
    np.testing.assert_array_equal(warp(picture, affine, (32, 32)), warp(bgr, affine, (32, 32)))
    x, y = np.array([3, 60]), np.array([4, 47])
    np.testing.assert_array_equal(colours(picture, x, y), bgr[y, x])
