"""Which people count: hand-made zones, and the even-odd rule against OpenCV's."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepose import EdgeposeError
from edgepose.estimator import Poses
from edgepose.people import People
from edgepose.people.regions import Regions, inside, keep, select
from edgepose.people.smooth import smoother
from edgepose.validation import validate

SIZE = (200, 100)  # width, height
LEFT = [(0, 0), (0.5, 0), (0.5, 1), (0, 1)]
RIGHT = [(0.5, 0), (1, 0), (1, 1), (0.5, 1)]
LOWER = [(0, 0.5), (1, 0.5), (1, 1), (0, 1)]
WHOLE = [(0, 0), (1, 0), (1, 1), (0, 1)]
SQUARE = np.array(WHOLE, float)
BOW_TIE = np.array([(0, 0), (1, 1), (1, 0), (0, 1)], float)  # its edges cross in the middle

shares = st.floats(0, 1, allow_subnormal=False)
corners = st.tuples(shares, shares)
polygons = st.lists(corners, min_size=3, max_size=9).map(lambda rows: np.array(rows, float))
clouds = st.lists(corners, min_size=1, max_size=12).map(lambda rows: np.array(rows, float))


def box(x, feet, height=20, width=8):
    """A person whose lower middle is at pixel (x, feet)."""
    return [x - width / 2, feet - height, x + width / 2, feet]


def kept(boxes, size=SIZE, **fields):
    found = keep(Regions.model_validate(fields), np.array(boxes, float).reshape(-1, 4), size)
    assert found.dtype == bool
    return found.tolist()


def test_inside_and_outside_a_square():
    points = np.array([(0.5, 0.5), (-0.1, 0.5), (1.1, 0.5), (0.5, -0.1), (0.5, 1.1)])
    assert inside(SQUARE, points).tolist() == [True, False, False, False, False]


def test_a_rectangle_holds_its_left_and_top_edge_only():
    left, top, right, bottom = (0, 0.5), (0.5, 0), (1, 0.5), (0.5, 1)
    assert inside(SQUARE, np.array([left, top, right, bottom])).tolist() == [True, True, False, False]
    assert inside(SQUARE, SQUARE).tolist() == [True, False, False, False]


def test_a_notch_is_outside():
    polygon = np.array([(0, 0), (1, 0), (1, 1), (0.5, 0.2), (0, 1)])
    points = np.array([(0.5, 0.1), (0.5, 0.5), (0.1, 0.5), (0.9, 0.5)])
    assert inside(polygon, points).tolist() == [True, False, True, True]


def test_a_ray_through_a_corner_counts_it_once():
    diamond = np.array([(0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5)])
    points = np.array([(0.5, 0.5), (-0.5, 0.5), (0.1, 0), (0.1, 1)])
    assert inside(diamond, points).tolist() == [True, False, False, False]


def test_crossing_edges_follow_the_even_odd_rule():
    points = np.array([(0.5, 0.2), (0.5, 0.8), (0.1, 0.5), (0.9, 0.5)])
    assert inside(BOW_TIE, points).tolist() == [False, False, True, True]
    twice_round = np.concatenate([SQUARE, 0.25 + SQUARE / 2])  # the middle is surrounded twice: not inside
    assert inside(twice_round, np.array([(0.5, 0.5), (0.9, 0.6)])).tolist() == [False, True]


def test_a_first_corner_repeated_at_the_end_changes_nothing():
    points = np.random.default_rng(0).uniform(-0.2, 1.2, (200, 2))
    assert (inside(np.vstack([BOW_TIE, BOW_TIE[:1]]), points) == inside(BOW_TIE, points)).all()


def test_nowhere_and_nobody():
    assert inside(SQUARE, np.array([(np.nan, 0.5), (0.5, np.nan), (1e9, 0.5), (0.5, -1e9)])).tolist() == [False] * 4
    assert inside(SQUARE, np.zeros((0, 2))).shape == (0,)


@given(polygons, clouds)
def test_inside_agrees_with_opencv_away_from_borders(polygon, points):
    contour = (polygon * 64).astype(np.float32)  # edges may cross: OpenCV's rule is even-odd too
    for point, found in zip(points * 64, inside(polygon, points), strict=True):
        signed = cv2.pointPolygonTest(contour, point.tolist(), True)
        assert abs(signed) < 1e-3 or found == (signed > 0)


@given(polygons, clouds, st.integers(0, 8))
def test_neither_the_first_corner_nor_the_direction_matters(polygon, points, shift):
    found = inside(polygon, points)
    assert (inside(np.roll(polygon, shift, axis=0), points) == found).all()
    assert (inside(polygon[::-1], points) == found).all()


@given(corners, corners, st.lists(st.floats(0, 1), max_size=8), clouds)
def test_of_two_zones_with_a_common_edge_exactly_one_has_each_point(one, other, along, points):
    """The whole is cut by a line from top to bottom; points on the cut are asked about too."""
    top, bottom = (one[0], 0.0), (other[0], 1.0)
    left, right = np.array([(0, 0), top, bottom, (0, 1)]), np.array([top, (1, 0), (1, 1), bottom])
    cut = np.array([np.add(top, t * np.subtract(bottom, top)) for t in along]).reshape(-1, 2)
    asked = np.concatenate([points, cut])
    asked = asked[(asked < 1).all(axis=1)]  # the whole does not hold its right and lower edge
    assert (inside(left, asked) ^ inside(right, asked)).all()


def test_without_settings_everybody_counts():
    assert kept([box(20, 40), box(150, 90)]) == [True, True]
    assert kept([]) == []


def test_a_person_stands_in_the_middle_of_the_lower_edge():
    head_in_zone = box(100, 45, height=40)
    feet_in_zone = box(100, 60, height=55)
    assert kept([head_in_zone, feet_in_zone], only=[LOWER]) == [False, True]
    more_than_half_left = [20, 10, 178, 40]  # the middle is at 99
    assert kept([more_than_half_left], only=[LEFT]) == [True]


def test_any_zone_will_do_and_ignored_ones_win():
    boxes = [box(20, 90), box(150, 90), box(20, 30), box(150, 30)]
    assert kept(boxes, only=[LEFT, RIGHT]) == [True] * 4
    assert kept(boxes, only=[LEFT]) == [True, False, True, False]
    assert kept(boxes, ignore=[LEFT]) == [False, True, False, True]
    assert kept(boxes, only=[LEFT], ignore=[LOWER]) == [False, False, True, False]
    assert kept(boxes, ignore=[LEFT, RIGHT]) == [False] * 4


def test_pixels_become_shares_by_their_centres():
    """Of 200 pixels the 100 left ones are the left half: the centre of the last is pixel 99, share 0.4975."""
    assert kept([box(99, 50), box(99.4, 50), box(99.5, 50), box(100, 50)], only=[LEFT]) == [True, True, False, False]


def test_who_is_cut_off_by_the_images_edge_stands_at_it():
    cut_off = [box(100, 99.5), box(100, 140), box(-3, 50), box(230, 50), box(230, 140), box(-3, -20)]
    assert kept(cut_off, only=[WHOLE]) == [True] * 6
    assert kept(cut_off, ignore=[WHOLE]) == [False] * 6


def test_a_zone_survives_a_change_of_resolution():
    boxes = np.array([box(30, 60), box(120, 90), box(160, 40)])
    zone = [(0.1, 0.3), (0.7, 0.5), (0.9, 1), (0.2, 0.9)]
    small = kept(boxes, only=[zone], min_size=0.1)
    assert small == [True, True, False]
    assert kept((boxes + 0.5) * 10 - 0.5, size=(2000, 1000), only=[zone], min_size=0.1) == small


def test_small_people_do_not_count():
    boxes = [box(50, 50, height=24.9), box(50, 50, height=25), box(50, 50, height=10, width=40)]
    assert kept(boxes, min_size=0.25) == [False, True, True]  # who lies is as large as who stands


def test_the_largest_win_and_of_equals_the_earlier():
    boxes = [box(50, 80, height=h) for h in (30, 50, 40, 50, 10)]
    assert kept(boxes, most=1) == [False, True, False, False, False]
    assert kept(boxes, most=2) == [False, True, False, True, False]
    assert kept(boxes, most=3) == [False, True, True, True, False]
    assert kept(boxes, most=9) == [True] * 5
    assert kept([box(20, 80)] * 12) == [True] * 12


def test_who_is_left_out_takes_nobodys_place():
    boxes = [box(150, 80, height=70), box(20, 80, height=30), box(20, 80, height=40), box(20, 80, height=20)]
    assert kept(boxes, only=[LEFT], most=2) == [False, True, True, False]
    assert kept(boxes, ignore=[RIGHT], most=2, min_size=0.35) == [False, False, True, False]


def test_a_box_without_a_place_does_not_count():
    nowhere = [np.nan] * 4
    assert kept([nowhere, box(20, 80)], most=1) == [False, True]
    assert kept([nowhere], ignore=[LEFT]) == [False]


zones = st.lists(st.sampled_from([LEFT, RIGHT, LOWER, BOW_TIE.tolist()]), max_size=2)
people_boxes = st.lists(st.tuples(st.floats(-20, 220), st.floats(-20, 120), st.floats(1, 90)), max_size=10)


@given(people_boxes, zones, zones, st.floats(0, 1), st.integers(1, 5))
def test_each_rule_holds_whatever_the_others_say(rows, only, ignore, min_size, most):
    boxes = np.array([box(x, y, height=h) for x, y, h in rows]).reshape(-1, 4)
    found = np.array(kept(boxes, only=only, ignore=ignore, min_size=min_size, most=most), bool)
    alone = ({"only": only}, {"ignore": ignore}, {"min_size": min_size})
    allowed = np.all([np.array(kept(boxes, most=99, **rule), bool) for rule in alone], axis=0)
    sizes = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    assert not (found & ~allowed).any()
    assert found.sum() == min(most, allowed.sum())
    if found.any() and (allowed & ~found).any():
        assert sizes[found].min() >= sizes[allowed & ~found].max()


def crowd(n, moving):
    rng = np.random.default_rng(n)
    poses = Poses(rng.uniform(0, 99, (n, 16, 2)), rng.uniform(0, 1, (n, 16)), rng.uniform(0, 1, (n, 16, 3)))
    ids = [f"p{i}" for i in range(n)]
    motion = smoother("off").smooth(ids, poses, 0) if moving else None
    return People(ids, rng.uniform(0, 99, (n, 4)), poses, motion)


@pytest.mark.parametrize("mask", [[True, False, True, False], [False] * 4, [True] * 4])
def test_select_takes_everything_of_each_person(mask):
    people = crowd(4, moving=True)
    mask, rows = np.array(mask), np.flatnonzero(mask)
    chosen = select(people, mask)
    assert chosen.ids == [people.ids[i] for i in rows]
    assert np.array_equal(chosen.boxes, people.boxes[rows])
    for name in ("joints", "scores", "covariance"):
        assert np.array_equal(getattr(chosen.poses, name), getattr(people.poses, name)[rows])
    assert np.array_equal(chosen.motion.joints, people.motion.joints[rows])
    assert np.array_equal(chosen.motion.covariance, people.motion.covariance[rows])
    assert len(chosen) == len(chosen.poses) == len(rows)
    assert len(people) == 4


def test_select_without_motion_and_of_nobody():
    assert select(crowd(2, moving=False), np.array([False, True])).motion is None
    assert select(crowd(0, moving=False), np.zeros(0, bool)).boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"only": [LEFT, [(0, 0), (1, 1)]]}, "cam: key 'only.1'.*at least three corners and this one has 2"),
        ({"ignore": [[]]}, "key 'ignore.0': .*at least three corners and this one has 0"),
        ({"ignore": [[[0, 0], [640, 0], [1, 1]]]}, r"key 'ignore.0.1': the corner \(640, 0\) .*shares 0\.\.1"),
        ({"only": [LEFT, [[0, 0], [1, 0], [1, -0.01]]]}, r"key 'only.1.2': the corner \(1, -0.01\) is outside"),
        ({"only": [[(0.1, 0.1), (0.2, 0.2), (0.7, 0.7), (0.3, 0.3)]]}, "key 'only.0'.* on one line.*even-odd rule"),
        ({"only": [[(0.5, 0.5)] * 3]}, "key 'only.0'.* lie on one line"),
        ({"only": [[(0, 0), (1, 1), (0, 0)]]}, "key 'only.0'.* lie on one line"),
        ({"only": [[(0, 0), (1, float("nan")), (0, 1)]]}, "key 'only.0.1.1' .*finite number"),
        ({"only": [[(0, 0), (1, 0, 0), (0, 1)]]}, "key 'only.0.1'.* at most 2 items"),
        ({"only": LEFT}, "key 'only.0.0' .*it must be a list"),
        ({"min_size": 1.5}, r"key 'min_size' \(it is 1.5\)"),
        ({"min_size": -0.1}, "key 'min_size'"),
        ({"most": 0}, r"key 'most' \(it is 0\): .*greater than or equal to 1"),
        ({"ingore": [LEFT]}, "unknown key 'ingore'; did you mean 'ignore'"),
    ],
)
def test_wrong_settings_are_refused_with_their_fault(fields, sentence):
    with pytest.raises(EdgeposeError, match=sentence) as caught:
        validate(Regions, fields, "cam")
    assert "\n" not in str(caught.value)


def test_crossing_edges_and_a_repeated_corner_are_allowed():
    regions = validate(Regions, {"only": [BOW_TIE.tolist(), [*LEFT, LEFT[0]]]}, "cam")
    assert regions.only[1][-1] == (0, 0)


def test_settings_do_not_change():
    with pytest.raises(ValueError, match="frozen"):
        Regions().most = 3
