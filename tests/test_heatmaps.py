import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepose import EdgeposeError
from edgepose.heatmaps import Decoder, cells_to_input, input_to_cells

SIZE = 48


def gaussians(centres, sigma, size=SIZE, cov=None):
    """Heatmaps [N, K, size, size] of Gaussians with peak 1 at ``centres`` [N, K, 2] cells."""
    v, u = np.mgrid[:size, :size]
    dx, dy = u - centres[..., 0, None, None], v - centres[..., 1, None, None]
    inverse = np.linalg.inv(cov) if cov is not None else np.eye(2) / sigma**2
    form = inverse[0, 0] * dx**2 + 2 * inverse[0, 1] * dx * dy + inverse[1, 1] * dy**2
    return np.exp(-form / 2).astype(np.float32)


@pytest.fixture
def centres():
    return np.random.default_rng(3).uniform(8, SIZE - 9, (20, 16, 2))


def error(method, heatmaps, centres):
    return np.linalg.norm(Decoder(16, (SIZE, SIZE), method=method)(heatmaps).xy - centres, axis=-1)


@pytest.mark.parametrize("sigma", [1.0, 1.5, 2.0, 3.0])
def test_dark_is_sub_pixel_exact_on_gaussians(sigma, centres):
    maps = gaussians(centres, sigma)
    dark, quarter, argmax = (error(m, maps, centres).mean() for m in ("dark", "quarter", "argmax"))
    assert dark < 0.05
    assert dark < quarter < argmax
    assert 0.35 < argmax < 0.42  # the mean distance to the centre of a unit square is 0.383


def test_dark_holds_under_noise(centres):
    maps = gaussians(centres, 2.0) + np.random.default_rng(0).normal(0, 0.01, (20, 16, SIZE, SIZE)).astype(np.float32)
    assert error("dark", maps, centres).mean() < 0.15


def test_quarter_offset_by_hand():
    heatmap = np.zeros((1, 1, 8, 8), np.float32)
    heatmap[0, 0, 3, 4] = 1.0
    heatmap[0, 0, 3, 5] = 0.6  # right is higher than left: a quarter to the right
    heatmap[0, 0, 2, 4] = 0.5  # above is higher than below: a quarter up
    xy = Decoder(1, (8, 8), method="quarter")(heatmap).xy
    assert xy[0, 0].tolist() == [4.25, 2.75]


@pytest.mark.parametrize("method", ["argmax", "quarter", "dark"])
@pytest.mark.parametrize("cell", [(0, 0), (7, 0), (0, 7), (7, 7), (0, 3), (7, 3), (3, 0), (3, 7)])
def test_peaks_on_the_border_stay_there(method, cell):
    heatmap = np.full((1, 1, 8, 8), 1e-3, np.float32)
    heatmap[0, 0, cell[1], cell[0]] = 1.0
    joints = Decoder(1, (8, 8), method=method)(heatmap)
    assert np.allclose(joints.xy[0, 0], cell)
    assert joints.peak[0, 0] == 1.0


@given(st.integers(0, 2**32 - 1))
def test_any_map_gives_finite_joints_near_the_peak(seed):
    rng = np.random.default_rng(seed)
    maps = rng.normal(0, 1, (2, 3, 12, 9)).astype(np.float32)
    if seed % 3 == 0:
        maps[:] = seed % 2  # flat
    joints = Decoder(3, (9, 12))(maps)
    assert np.isfinite(joints.xy).all()
    assert np.isfinite(joints.covariance).all()
    best = maps.reshape(2, 3, -1).argmax(-1)
    assert (np.abs(joints.xy - np.stack([best % 9, best // 9], -1)) <= 1).all()
    assert np.allclose(joints.peak, maps.reshape(2, 3, -1).max(-1))


def test_covariance_is_the_shape_of_the_peak(centres):
    cov = np.array([[3.0, 0.8], [0.8, 1.5]])
    joints = Decoder(16, (SIZE, SIZE), moment_radius=8)(gaussians(centres, 0, cov=cov))
    assert np.allclose(joints.covariance.mean((0, 1)), [3.0, 0.8, 1.5], atol=0.06)


def test_cells_and_input_pixels():
    # the first cell of stride 4 covers input pixels 0..3, whose middle is 1.5
    assert cells_to_input(np.array([0.0, 1.0]), 4).tolist() == [1.5, 5.5]
    points = np.random.default_rng(0).normal(0, 50, (9, 2))
    assert np.allclose(input_to_cells(cells_to_input(points, 4), 4), points)


@pytest.mark.parametrize("method", ["argmax", "quarter", "dark"])
def test_the_loop_allocates_no_arrays(method, centres):
    maps = gaussians(centres[:4], 2.0)
    decoder = Decoder(16, (SIZE, SIZE), method=method, batch=4, mirror=np.arange(16)[::-1], mirror_ratio=0.85)
    decoder(maps)
    tracemalloc.start()
    for _ in range(5):
        decoder(maps)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    window_bytes = 4 * 16 * 11 * 11 * 8  # what one un-reused buffer of windows would take
    assert peak < window_bytes / 4


def two_peaks(at, second):
    """A left-right pair [1, 2, 24, 24]: peak 1 at ``at``; the map's other peak is ``second`` = (x, y, height)."""
    maps = np.zeros((1, 2, 24, 24), np.float32)
    for k in range(2):
        maps[0, k] = gaussians(np.array([[at]], float), 1.5, 24)[0, 0]
        x, y, height = second[k]
        maps[0, k] += height * gaussians(np.array([[[x, y]]], float), 1.5, 24)[0, 0]
    return maps


MIRROR = np.array([1, 0])


def test_left_and_right_do_not_pick_the_same_joint():
    """Both see both shoulders, a little stronger on the same side: the one with the better second peak moves."""
    maps = two_peaks((6, 8), [(18, 8, 0.97), (18, 8, 0.9)])
    xy = Decoder(2, (24, 24), mirror=MIRROR, mirror_ratio=0.85)(maps).xy[0]
    assert np.allclose(xy, [[18, 8], [6, 8]], atol=0.1)
    together = Decoder(2, (24, 24))(maps).xy[0]
    assert np.allclose(together, [[6, 8], [6, 8]], atol=0.1)


def test_joints_that_lie_on_each_other_stay():
    maps = two_peaks((6, 8), [(18, 8, 0.5), (18, 8, 0.4)])
    xy = Decoder(2, (24, 24), mirror=MIRROR, mirror_ratio=0.85)(maps).xy[0]
    assert np.allclose(xy, [[6, 8], [6, 8]], atol=0.1)


@pytest.mark.parametrize(
    ("second", "expected", "found"),
    [
        (0.6, [[18.4, 8], [6, 7.6]], [[18, 8], [6, 8]]),
        (0.6, [[6, 8], [17, 9]], [[6, 8], [18, 8]]),  # whichever is not where it should be
        (0.4, [[18, 8], [6, 8]], [[6, 8], [6, 8]]),  # too weak, and they may have met
        (0.6, [[9, 8], [6, 8]], [[6, 8], [6, 8]]),  # expected to meet
        (0.6, [[12, 8], [6, 8]], [[6, 8], [6, 8]]),  # there is no peak, only the flanks of two
        (0.6, [[14, 18], [6, 8]], [[6, 8], [6, 8]]),
        (0.6, [[80, -40], [6, 8]], [[6, 8], [6, 8]]),  # beside the map
        (0.6, [[np.nan, np.nan], [6, 8]], [[6, 8], [6, 8]]),
    ],
)
def test_where_joints_were_keeps_left_and_right_apart(second, expected, found):
    """Both maps peak at one ankle, and both ankles were seen a moment ago."""
    maps = two_peaks((6, 8), [(18, 8, second), (18, 8, second)])
    decoder = Decoder(2, (24, 24), mirror=MIRROR, mirror_ratio=0.85)
    decoded = decoder(maps, np.array([expected], float))
    assert np.allclose(decoded.xy[0], found, atol=0.1)
    moved = np.any(np.array(found) != [6, 8], axis=1)
    assert np.allclose(decoded.peak[0], np.where(moved, second, 1.0), atol=1e-3)
    assert np.allclose(decoder(maps).xy[0], [[6, 8], [6, 8]], atol=0.1)


def test_maps_without_a_peak_move_nothing():
    decoder = Decoder(2, (24, 24), mirror=MIRROR, mirror_ratio=0.85)
    for maps in (np.zeros((1, 2, 24, 24), np.float32), two_peaks((6, 8), [(18, 8, 0.6)] * 2) - 2):
        assert np.allclose(decoder(maps, np.array([[[18.0, 8], [6, 8]]])).xy, decoder(maps).xy)


def test_of_a_pair_in_two_wrong_places_the_likelier_moves():
    maps = two_peaks((12, 8), [(20, 8, 0.6), (4, 8, 0.8)])
    decoder = Decoder(2, (24, 24), mirror=MIRROR, mirror_ratio=0.85)
    assert np.allclose(decoder(maps, np.array([[[20.0, 8], [4, 8]]])).xy[0], [[12, 8], [4, 8]], atol=0.1)


def test_batches_grow_and_shrink(centres):
    maps = gaussians(centres, 2.0)
    decoder = Decoder(16, (SIZE, SIZE))
    whole = decoder(maps).xy.copy()
    for n in (1, 7, 20, 3):
        assert np.array_equal(decoder(maps[:n]).xy, whole[:n])


def test_unknown_method_and_wrong_shape():
    with pytest.raises(EdgeposeError, match="unknown decode method 'drak'; did you mean 'dark'"):
        Decoder(1, (8, 8), method="drak")
    with pytest.raises(ValueError, match="do not fit"):
        Decoder(2, (8, 8))(np.zeros((1, 2, 8, 9), np.float32))


def test_of_a_pair_in_one_place_the_one_whose_other_peak_is_higher_moves():
    maps = two_peaks((6, 8), [(18, 8, 0.9), (18, 8, 0.97)])
    xy = Decoder(2, (24, 24), mirror=MIRROR, mirror_ratio=0.85)(maps).xy[0]
    assert np.allclose(xy, [[6, 8], [18, 8]], atol=0.1)


def test_pairs_of_every_crop_are_parted():
    near, far = two_peaks((6, 8), [(18, 8, 0.1), (18, 8, 0.1)]), two_peaks((6, 8), [(18, 8, 0.97), (18, 8, 0.9)])
    xy = Decoder(2, (24, 24), mirror=MIRROR, mirror_ratio=0.85)(np.concatenate([near, far, far])).xy
    assert np.allclose(xy, [[[6, 8], [6, 8]], [[18, 8], [6, 8]], [[18, 8], [6, 8]]], atol=0.1)


def test_a_pair_one_cell_apart_is_in_one_place():
    maps = np.zeros((1, 2, 24, 24), np.float32)
    for k, (x, other) in enumerate(((6, 0.97), (7, 0.9))):
        maps[0, k] = gaussians(np.array([[[x, 8.0]]]), 1.5, 24)[0, 0]
        maps[0, k] += other * gaussians(np.array([[[18.0, 8]]]), 1.5, 24)[0, 0]
    xy = Decoder(2, (24, 24), mirror=MIRROR, mirror_ratio=0.85)(maps).xy[0]
    assert np.allclose(xy, [[18, 8], [7, 8]], atol=0.2)
