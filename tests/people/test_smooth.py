"""Smoothing against hand calculation, a scalar reference, and truth that is known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepose.errors import EdgeposeError
from edgepose.estimator import Poses
from edgepose.people import smooth
from edgepose.people.smooth import FORGET, GATE, KINDS, MOST_AHEAD, MOST_OUTLIERS, Kalman, OneEuro, predict, smoother

SECOND = 10**9
START = 1_700_000_000 * SECOND  # a real time stamp: seconds since 1970, where float64 would lose nanoseconds
FRAME = SECOND // 30
CORNERS = np.array([[0.0, 0.0], [60.0, 80.0]])  # two joints 100 px apart: a person of that size
NOBODY = Poses(np.zeros((0, 2, 2)), np.zeros((0, 2)), np.zeros((0, 2, 3)))


def poses(*persons, covariance=(4.0, 0.0, 4.0)):
    n = len(persons)
    return Poses(np.array(persons, float), np.full((n, 2), 0.9), np.tile(np.array(covariance, float), (n, 2, 1)))


def person(x, y=0.0):
    """The two corners, moved."""
    return CORNERS + np.array([x, y])


def follow(kind, xs, times, covariance=(4.0, 0.0, 4.0)):
    """Each frame's result for one person moved to ``xs`` at ``times`` in ns."""
    return [kind.smooth(["a"], poses(person(x), covariance=covariance), t) for x, t in zip(xs, times, strict=True)]


def every(n, interval=FRAME):
    return [START + i * interval for i in range(n)]


def first_x(results):
    return np.array([r.joints[0, 0, 0] for r in results])


def finite(result):
    return all(np.isfinite(a).all() for a in (result.joints, result.velocity, result.covariance))


@pytest.mark.parametrize("kind", KINDS)
def test_first_sight_is_the_measurement_at_rest(kind):
    got = smoother(kind).smooth(["a", "b"], poses(person(5), person(7), covariance=(4.0, 1.0, 3.0)), START)
    assert np.allclose(got.joints, [person(5), person(7)])
    assert np.array_equal(got.velocity, np.zeros((2, 2, 2)))
    assert np.allclose(got.covariance, [4, 1, 3], atol=smooth.FLOOR)
    assert predict(smoother(kind).smooth([], NOBODY, START), 0.1).covariance.shape == (0, 2, 3)


def test_wrong_use_is_refused():
    with pytest.raises(EdgeposeError, match="did you mean 'kalman'"):
        smoother("kallman")
    with pytest.raises(ValueError, match="2 ids do not fit 1 poses"):
        smoother("off").smooth(["a", "b"], poses(person(0)), START)


def test_size_is_the_diagonal_of_the_sure_joints():
    joints = np.array([[[0, 0], [30, 40], [1000, 0]], [[0, 0], [6, 8], [3, 4]], [[5, 5], [5, 5], [5, 5]]], float)
    scores = np.array([[0.9, 0.9, 0.1], [0.9, 0.1, 0.1], [0.9, 0.9, 0.9]])
    assert np.allclose(smooth.sizes(Poses(joints, scores, np.zeros((3, 3, 3)))), [50, 10, smooth.SMALLEST])


def test_off_gives_the_finite_difference_and_doubts_a_shift_by_its_length():
    got = follow(smoother("off"), [0, 6], [START, START + SECOND // 5])[-1]
    assert np.allclose(got.joints[0], person(6))
    assert np.allclose(got.velocity[0], [[30, 0], [30, 0]])
    assert np.allclose(predict(got, 0.1).covariance, [4 + 3**2, 0, 4])


def test_one_euro_by_hand():
    """Second frame: 10 px in 0.1 s by a person of 100 px, all cutoffs 1 Hz, beta 2."""
    # fc = 1 Hz: tau = 0.159155 s; Te = 0.1 s: alpha = 1 / (1 + 1.59155)
    assert smooth.alpha(1.0, np.array(0.1)) == pytest.approx(0.385869, abs=1e-6)
    kind = OneEuro(min_cutoff=1.0, beta=2.0, d_cutoff=1.0)
    kind.smooth(["a"], poses(person(0), covariance=(4.0, 1.0, 4.0)), START)
    got = kind.smooth(["a"], poses(person(10), covariance=(9.0, 0.0, 16.0)), START + SECOND // 10)
    slope = 0.385869 * 100 / 100  # low-passed, in sizes per second
    a = 1 / (1 + 1 / (2 * math.pi * (1 + 2 * slope) * 0.1))
    assert got.joints[0, 0] == pytest.approx([a * 10, 0], abs=1e-4)
    assert got.velocity[0, 0] == pytest.approx([a * a * 10 / 0.1, 0], abs=1e-3)
    assert got.covariance[0, 0] == pytest.approx([9 * a + 4 * (1 - a), 1 - a, 16 * a + 4 * (1 - a)], abs=1e-4)


def reference_one_euro(xs, rate, size, *, min_cutoff, beta, d_cutoff):
    """The paper's Algorithm 1 in scalars, the speed in sizes."""

    def alpha(cutoff):
        return 1 / (1 + rate / (2 * math.pi * cutoff))

    out, slope = [xs[0]], 0.0
    for x in xs[1:]:
        slope = alpha(d_cutoff) * (x - out[-1]) * rate + (1 - alpha(d_cutoff)) * slope
        weight = alpha(min_cutoff + beta * abs(slope) / size)
        out.append(weight * x + (1 - weight) * out[-1])
    return np.array(out)


def test_one_euro_is_the_reference_at_a_constant_rate():
    xs = np.cumsum(np.random.default_rng(1).normal(0, 4, 60))
    got = first_x(follow(OneEuro(1.2, 5.0, 0.8), xs, every(60, SECOND // 25)))
    assert np.allclose(got, reference_one_euro(xs, 25, 100, min_cutoff=1.2, beta=5.0, d_cutoff=0.8))


def test_kalman_by_hand():
    """One axis, R = 4 (the floor aside), first speed 0 +- 100 px/s, 0.1 s later seen at 6 px."""
    kind = Kalman(still=0.0, moving=0.0, fresh=1)
    got = follow(kind, [0, 6], [START, START + SECOND // 10])[-1]
    r = 4 + smooth.FLOOR
    p = r + 0.01 * 100**2  # P + t^2 V
    assert got.joints[0, 0] == pytest.approx([6 * p / (p + r), 0])
    assert got.velocity[0, 0] == pytest.approx([6 * 0.1 * 100**2 / (p + r), 0])
    assert got.covariance[0, 0] == pytest.approx([p * r / (p + r), 0, p * r / (p + r)])


def test_process_noise_by_hand():
    """still = 0.5 / s^3 of a person of 100 px: q = 5000; at speed 20 and moving = 3: 1200 more."""
    kind = Kalman(still=0.5, moving=3.0, fresh=1)
    records = np.zeros((1, 1), dtype=kind._record)
    records["mean"][0, 0] = [0, 0, 12, 16]
    mean, covariance = kind._predicted(records, np.array([[0.2]]), np.array([[100.0]]))
    assert np.allclose(mean, [2.4, 3.2, 12, 16])
    block = 6200 * np.array([[0.2**3 / 3, 0.2**2 / 2], [0.2**2 / 2, 0.2]])
    assert np.allclose(covariance[0, 0], np.kron(block, np.eye(2)))


def test_kalman_over_a_missed_frame_is_two_predictions_and_an_update():
    kind, diagonal = Kalman(fresh=1), (4.0, 3.0, 5.0)
    last = follow(kind, [0, 3, 6, 9, 13], every(5), diagonal)[-1]
    records, half = kind._memory["a"][1][None].copy(), kind._memory["a"][1][None].copy()
    size, once = np.array([[100.0]]), np.array([[FRAME * 1e-9]])
    half["mean"], half["covariance"] = kind._predicted(records, once, size)
    twice, over = kind._predicted(half, once, size), kind._predicted(records, 2 * once, size)
    assert np.allclose(twice[0], over[0])
    assert np.allclose(twice[1], over[1])
    assert np.allclose(predict(last, FRAME * 1e-9).covariance, smooth._triples(half["covariance"][..., :2, :2]))
    # and the update from there is the textbook's
    got = kind.smooth(["a"], poses(person(20), covariance=diagonal), START + 6 * FRAME)
    p, r = twice[1][0, 0], np.array([[4, 3], [3, 5]]) + smooth.FLOOR * np.eye(2)
    gain = p[:, :2] @ np.linalg.inv(p[:2, :2] + r)
    mean = twice[0][0, 0] + gain @ (np.array([20, 0]) - twice[0][0, 0, :2])
    assert np.allclose([*got.joints[0, 0], *got.velocity[0, 0]], mean)
    assert np.allclose(got.covariance[0, 0], smooth._triples(p[:2, :2] - gain[:2] @ p[:2, :2]))


@pytest.mark.parametrize("kind", KINDS)
def test_steady_motion_has_its_speed_at_uneven_intervals_with_missed_frames(kind):
    rng = np.random.default_rng(2)
    times = np.sort(np.array(every(150)) + rng.integers(-FRAME // 4, FRAME // 4, 150))[rng.random(150) > 0.2]
    got = follow(smoother(kind), (times - START) * 60e-9, times.tolist())[-1]
    assert got.velocity[0] == pytest.approx(np.array([[60, 0], [60, 0]]), abs=3)


@pytest.mark.parametrize("kind", ["one-euro", "kalman"])
def test_jitter_at_rest_is_halved(kind):
    """1 px from frame to frame, published as 5 px: most of a network's error stays from frame to frame."""
    noise = np.random.default_rng(3).normal(0, 1, 400)
    got = first_x(follow(smoother(kind), noise, every(400), covariance=(25.0, 0.0, 25.0)))
    assert got[30:].std() < 0.5 * noise[30:].std()


def test_jitter_and_lag_do_not_depend_on_resolution():
    xs = np.cumsum(np.random.default_rng(4).normal(0, 3, 50))
    for kind in ("one-euro", "kalman"):
        small, large = smoother(kind), smoother(kind)
        for x, t in zip(xs, every(50), strict=True):
            a = small.smooth(["a"], poses(person(x), covariance=(400.0, 0.0, 400.0)), t)
            b = large.smooth(["a"], poses(10 * person(x), covariance=(40000.0, 0.0, 40000.0)), t)
            assert np.allclose(10 * a.joints, b.joints, atol=0.05)


def test_lag_is_small_and_for_one_euro_smaller_than_a_low_pass_of_equal_jitter():
    noise, wide = np.random.default_rng(5).normal(0, 1, 300), (1.0, 0.0, 1.0)

    def jitter(kind):
        return first_x(follow(kind, noise, every(300), wide))[30:].std()

    def lag(kind):
        """How many seconds behind a walk of 100 px/s the joints are in the end."""
        xs = np.arange(90) * FRAME * 1e-7
        return (xs[-1] - first_x(follow(kind, xs, every(90), wide))[-1]) / 100

    low, high, target = 0.1, 20.0, jitter(OneEuro())
    for _ in range(12):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if jitter(OneEuro(min_cutoff=middle, beta=0.0)) < target else (low, middle)
    assert lag(OneEuro()) < min(0.03, lag(OneEuro(min_cutoff=low, beta=0.0)) / 3)
    assert abs(lag(Kalman())) < 0.005


def test_one_wrong_frame_is_ignored_by_kalman():
    assert 1 - math.exp(-GATE / 2) == pytest.approx(0.9999)  # chi-squared, 2 degrees of freedom
    kind = Kalman()
    follow(kind, [0] * 20, every(20))
    wrong = kind.smooth(["a"], poses(person(0) + np.array([[80, 0], [1, 0]])), START + 20 * FRAME)
    after = kind.smooth(["a"], poses(person(0)), START + 21 * FRAME)
    assert wrong.joints[0, 0] == pytest.approx(CORNERS[0], abs=1e-6)
    assert wrong.joints[0, 1, 0] > CORNERS[1, 0] + 0.1  # the other joint is within the gate
    assert after.joints[0, 0] == pytest.approx(CORNERS[0], abs=1e-6)
    assert wrong.covariance[0, 0, 0] > after.covariance[0, 0, 0]  # unseen, hence less sure


def test_what_stays_beyond_the_gate_is_the_truth():
    kind = Kalman()
    follow(kind, [0] * 20, every(20))
    got = follow(kind, [80] * (MOST_OUTLIERS + 1), [START + (20 + i) * FRAME for i in range(MOST_OUTLIERS + 1)])
    assert np.allclose(first_x(got), [0] * (MOST_OUTLIERS - 1) + [80, 80], atol=1e-6)


def test_fresh_changes_what_is_published_and_not_the_joints():
    xs = np.cumsum(np.random.default_rng(6).normal(0, 1, 40))
    whole = follow(Kalman(fresh=1), xs, every(40), (100.0, 20.0, 90.0))
    part = follow(Kalman(fresh=0.25), xs, every(40), (100.0, 20.0, 90.0))
    assert np.allclose(first_x(whole), first_x(part), atol=0.02)  # the floor is not scaled
    expected = 0.25 * whole[-1].covariance + 0.75 * np.array([100.0, 20.0, 90.0])
    assert np.allclose(part[-1].covariance, expected, atol=0.05)


def test_what_is_published_covers_an_error_that_stays():
    """Nine tenths of the variance stay from frame to frame: averaging must not make the filter sure of them."""
    rng = np.random.default_rng(8)
    held, frames = 0, 200
    for _ in range(frames):
        stays, noise = rng.normal(0, np.sqrt(0.9) * 10), rng.normal(0, np.sqrt(0.1) * 10, 30)
        got = follow(Kalman(), stays + noise, every(30), (100.0, 0.0, 100.0))[-1]
        held += abs(got.joints[0, 0, 0] - person(0)[0, 0]) < 1.645 * np.sqrt(got.covariance[0, 0, 0])  # 90 %
    assert held / frames > 0.85
    assert follow(Kalman(fresh=1), [0] * 30, every(30), (100.0, 0.0, 100.0))[-1].covariance[0, 0, 0] < 40  # is too sure


@pytest.mark.parametrize("away", [FORGET + 0.1, -10])  # unseen for long, or the clock was set back
@pytest.mark.parametrize("kind", KINDS)
def test_whoever_is_long_unseen_begins_anew(kind, away):
    made = smoother(kind)
    follow(made, [0, 3, 6], every(3))
    got = made.smooth(["a"], poses(person(9)), START + 2 * FRAME + int(away * SECOND))
    assert np.allclose(got.joints[0], person(9))
    assert np.array_equal(got.velocity, np.zeros((1, 2, 2)))


@pytest.mark.parametrize("pauses", [(1.5, 1.5), (0.7, 1.2), (1.0, 1.0, 1.0, 2.0)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_camera_with_seconds_between_its_frames_has_velocities(kind, pauses):
    """Also where they come unevenly."""
    made, now, got = smoother(kind), 0.0, []
    for number in range(20):
        got.append(made.smooth(["a"], poses(person(20 * now)), START + int(now * SECOND)).velocity[0, 0, 0])
        now += pauses[number % len(pauses)]
    assert 10 < min(got[8:]) <= max(got[8:]) < 21


def test_two_pictures_of_one_burst_are_no_speed():
    """At rest, with two pixels of noise; the last picture comes 0.3 ms after the one before."""
    times = [*every(10), START + 10 * FRAME, START + 10 * FRAME + 300_000, START + 11 * FRAME]
    got = [r.velocity[0, 0, 0] for r in follow(smoother("off"), [0] * 10 + [2, 0, 2], times)]
    assert got[-2] == got[-3] == pytest.approx(60, rel=0.01)
    assert abs(got[-1]) < 61


def test_memory_ends_for_those_who_left_and_stays_through_a_short_miss():
    made = smoother("kalman")
    made.smooth(["a", "b"], poses(person(0), person(9)), START)
    made.smooth(["b"], poses(person(9)), START + SECOND // 2)
    assert list(made._memory) == ["a", "b"]
    made.smooth([], NOBODY, START + int(1.2 * SECOND))
    assert list(made._memory) == ["b"]


@pytest.mark.parametrize("kind", KINDS)
def test_persons_do_not_mix_and_their_order_may_change(kind):
    rng = np.random.default_rng(7)
    both, alone = smoother(kind), smoother(kind)
    for i, t in enumerate(every(20)):
        a, b = person(*rng.normal(0, 3, 2)), person(200 + i, 5)
        order = ["a", "b"] if i % 2 else ["b", "a"]
        got = both.smooth(order, poses(*([a, b] if i % 2 else [b, a])), t)
        assert np.allclose(got.joints[order.index("a")], alone.smooth(["a"], poses(a), t).joints[0])


@pytest.mark.parametrize("step", [0, -FRAME])
@pytest.mark.parametrize("kind", KINDS)
def test_time_that_does_not_pass(kind, step):
    made = smoother(kind)
    before = follow(made, range(0, 40, 2), every(20))[-1]
    with np.errstate(all="raise"):
        same = made.smooth(["a"], poses(person(38.5)), START + 19 * FRAME + step)
        after = made.smooth(["a"], poses(person(40)), START + 20 * FRAME + step)
    assert all(map(finite, (same, after)))
    x_before, x_same, x_after = first_x([before, same, after])
    assert x_same == 38.5 if kind == "off" else x_before - 1e-9 <= x_same <= 38.5
    assert np.allclose(same.velocity, before.velocity, rtol=0.2)
    assert x_after > x_before


@pytest.mark.parametrize("kind", KINDS)
def test_extrapolation_follows_the_line_and_stops(kind):
    made = smoother(kind)
    now = follow(made, range(0, 40, 2), every(20))[-1]
    steps, whole = predict(predict(now, 0.05), 0.05), predict(now, 0.1)
    assert np.allclose(whole.joints, now.joints + 0.1 * now.velocity)
    assert np.array_equal(whole.velocity, now.velocity)
    assert (whole.covariance[..., 0] > now.covariance[..., 0]).all()
    assert np.allclose(predict(now, 5).joints, predict(now, MOST_AHEAD).joints)
    assert np.allclose(predict(now, -1).covariance, now.covariance)
    assert np.allclose(steps.covariance, whole.covariance)
    assert np.allclose(steps.joints, whole.joints)


sides = st.tuples(st.floats(0, 200), st.floats(0, 200), st.floats(-1, 1))
spread = sides.map(lambda v: (v[0] ** 2, v[2] * v[0] * v[1], v[1] ** 2))
frame = st.tuples(st.floats(-2000, 2000), st.floats(-2000, 2000), spread, st.integers(-SECOND, 2 * SECOND))


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(sorted(KINDS)), frames=st.lists(frame, min_size=1, max_size=12), ahead=st.floats(0, 1))
def test_covariances_stay_covariances(kind, frames, ahead):
    made, now = smoother(kind), START
    for x, y, covariance, interval in frames:
        got = made.smooth(["a"], poses(person(x, y), covariance=covariance), now)
        for result in (got, predict(got, ahead)):
            assert finite(result)
            values = np.linalg.eigvalsh(smooth._matrices(result.covariance))
            assert (values >= -1e-9 * np.maximum(values.max(), 1)).all()
        now += interval


def test_the_gate_is_of_the_whole_noise_not_of_its_new_part():
    """Ten pixels' noise, of which a fifth is new in each frame: thirty pixels off is no outlier."""
    kind = Kalman()
    follow(kind, [0] * 20, every(20), (100.0, 0.0, 100.0))
    got = kind.smooth(["a"], poses(person(30), covariance=(100.0, 0.0, 100.0)), START + 20 * FRAME)
    assert got.joints[0, 0, 0] > 1


def test_outliers_count_in_a_row():
    x = [0] * 20 + [80, 80, 0, 80]
    assert first_x(follow(Kalman(), x, every(24)))[-1] == pytest.approx(0, abs=1e-6)
