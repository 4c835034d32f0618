import cv2
import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from edgepose.crops import (
    apply,
    apply_covariance,
    box_of_joints,
    compose,
    crop_affine,
    invert,
    to_input,
    warp,
)

numbers = st.floats(-500, 500)
sizes = st.integers(8, 400)
boxes = st.tuples(numbers, numbers, st.floats(1, 900), st.floats(1, 900)).map(
    lambda b: np.array([b[0], b[1], b[0] + b[2], b[1] + b[3]])
)
maps = st.builds(
    crop_affine,
    boxes,
    st.tuples(sizes, sizes),
    st.floats(1, 2),
    scale=st.floats(0.5, 2),
    rotation=st.floats(-180, 180),
    shift=st.tuples(st.floats(-0.2, 0.2), st.floats(-0.2, 0.2)),
    flip=st.booleans(),
)


@given(maps, st.lists(st.tuples(numbers, numbers), min_size=1, max_size=20))
def test_there_and_back_is_exact(affine, points):
    points = np.array(points)
    back = apply(invert(affine), apply(affine, points))
    assert np.abs(back - points).max() < 1e-6


@given(maps, maps, st.tuples(numbers, numbers))
def test_composition_is_one_map_after_the_other(outer, inner, point):
    point = np.array(point)
    one, two = apply(compose(outer, inner), point), apply(outer, apply(inner, point))
    assert np.allclose(one, two, rtol=1e-9, atol=1e-6 * (1 + np.abs(two).max()))


@given(boxes, st.tuples(sizes, sizes), st.floats(1, 2), st.floats(-180, 180), st.booleans())
def test_the_box_is_centred_and_fits(box, size, padding, rotation, flip):
    affine = crop_affine(box, size, padding, rotation=rotation, flip=flip)
    middle = apply(affine, (box[:2] + box[2:]) / 2)
    assert np.allclose(middle, (np.array(size) - 1) / 2, atol=1e-6)
    if rotation == 0:
        corners = apply(affine, np.array([box[:2], box[2:]]))
        assert (corners >= -0.5 - 1e-6).all()
        assert (corners <= np.array(size) - 0.5 + 1e-6).all()


@given(maps, st.floats(0.1, 50), st.floats(0.1, 50), st.floats(-0.9, 0.9))
# Two terms of five million that cancel: what is left is rounding.
@example(crop_affine(np.array([0.0, 0.0, 1.0, 1.0]), (181, 181), 1.0, scale=1.5, rotation=21.375), 17.0, 17.0, 0.0)
def test_covariance_follows_the_map(affine, sx, sy, correlation):
    cov = np.array([[sx * sx, correlation * sx * sy], [correlation * sx * sy, sy * sy]])
    a = affine[:, :2]
    expected = a @ cov @ a.T
    got = apply_covariance(affine, np.array([cov[0, 0], cov[0, 1], cov[1, 1]]))
    terms = np.abs(a) @ np.abs(cov) @ np.abs(a).T  # how large what is added up is, and so its rounding
    assert (np.abs(got - expected[[0, 0, 1], [0, 1, 1]]) <= 1e-9 + 1e-14 * terms[[0, 0, 1], [0, 1, 1]]).all()


def _dot(width, height, x, y, sigma):
    u, v = np.meshgrid(np.arange(width), np.arange(height))
    spot = 255 * np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * sigma**2))
    return np.repeat(spot.astype(np.uint8)[:, :, None], 3, axis=2)


def _centroid(image):
    weight = image[:, :, 0].astype(float)
    weight[weight < 20] = 0
    v, u = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.array([(weight * u).sum(), (weight * v).sum()]) / weight.sum()


def test_pixels_go_where_the_map_says():
    """The pixel-centre convention holds through warping, also where a large region is averaged down first."""
    for side in (60, 160, 420, 560):
        image = _dot(900, 700, 412.3, 305.8, side / 24)
        box = np.array([412 - side / 2, 300 - side / 2, 412 + side / 2, 300 + side / 2])
        affine = crop_affine(box, (128, 128), 1.0)
        seen = _centroid(warp(image, affine, (128, 128)))
        assert np.abs(seen - apply(affine, np.array([412.3, 305.8]))).max() < 0.15, side


def test_shrinking_averages_instead_of_aliasing():
    checker = ((np.indices((800, 800)).sum(axis=0) % 2) * 255).astype(np.uint8)
    image = np.repeat(checker[:, :, None], 3, axis=2)
    crop = warp(image, crop_affine(np.array([40, 40, 760, 760]), (96, 96), 1.0), (96, 96))
    assert crop.std() < 12
    assert abs(crop.mean() - 127.5) < 3


def test_outside_is_grey_and_out_is_used():
    image = np.full((20, 20, 3), 255, np.uint8)
    out = np.empty((64, 64, 3), np.uint8)
    crop = warp(image, crop_affine(np.array([0.0, 0, 19, 19]), (64, 64), 2.0), (64, 64), out=out)
    assert np.shares_memory(crop, out)
    assert (crop[0, 0] == 114).all()
    assert (crop[32, 32] == 255).all()


def test_input_is_rgb_planes():
    crop = np.zeros((2, 2, 3), np.uint8)
    crop[..., 0], crop[..., 2] = 10, 30  # blue, red
    out = np.empty((3, 2, 2), np.float32)
    to_input(crop, out)
    assert (out[0] == 30).all()
    assert (out[2] == 10).all()


def test_box_of_joints_with_and_without_mask():
    points = np.array([[1.0, 5], [4, 2], [9, 9]])
    assert box_of_joints(points).tolist() == [1, 2, 9, 9]
    assert box_of_joints(points, np.array([True, True, False])).tolist() == [1, 2, 4, 5]
    assert np.isnan(box_of_joints(points, np.zeros(3, bool))).all()


def test_a_crop_is_turned_with_the_clock():
    """Up in the image is to the right in the crop."""
    matrix = crop_affine(np.array([0.0, 0, 100, 100]), (64, 64), 1.0, rotation=90)
    middle, above = apply(matrix, np.array([[50.0, 50], [50, 40]]))
    assert np.allclose(above - middle, [6.4, 0], atol=1e-6)


def test_same_convention_as_opencv():
    affine = crop_affine(np.array([3.0, 5, 13, 11]), (20, 20), 1.0, rotation=30)
    ours = apply(affine, np.array([[7.0, 8.0]]))
    theirs = cv2.transform(np.array([[[7.0, 8.0]]]), affine)[0]
    assert np.allclose(ours, theirs)
