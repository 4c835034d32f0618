"""When a message passes: rates over jittered time stamps, movement, coming and going."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepose import EdgeposeError
from edgepose.estimator import Poses
from edgepose.gates import ABSENT, Gate, Gatekeeper
from edgepose.people import People
from edgepose.validation import validate

START = 1_700_000_000_000_000_000  # UTC, ns
FPS = 30
SIDE = 100.0  # a person's longer side, in pixels


def people(*ids, at=0.0, scores=0.9, joints=None):
    """Persons 40 x 100 pixels large, all their 16 joints at ``at`` pixels."""
    n = len(ids)
    boxes = np.tile([0.0, 0.0, 40.0, SIDE], (n, 1))
    joints = np.full((n, 16, 2), float(at)) if joints is None else joints
    return People(list(ids), boxes, Poses(joints, np.full((n, 16), float(scores)), np.ones((n, 16, 3))))


ONE = people("a")
NOBODY = people()


def ns(seconds):
    return START + round(seconds * 1e9)


def passed(gate, seconds, who=ONE):
    """Numbers of the frames at ``seconds`` that pass."""
    keeper = Gatekeeper(gate)
    return [i for i, second in enumerate(seconds) if keeper.passes(who, ns(second))]


def steady(seconds, fps=FPS, jitter=0.0, seed=0):
    """Times of frames at ``fps``, moved by up to ``jitter`` of a frame, in order."""
    numbers = np.arange(round(seconds * fps))
    moved = numbers + np.random.default_rng(seed).uniform(-jitter, jitter, len(numbers))
    return np.sort(moved / fps).tolist()


def most_in_a_second(times):
    times = np.array(times)
    return max(int(((times >= first) & (times < first + 1)).sum()) for first in times)


def test_without_settings_every_frame_passes():
    assert len(passed(Gate(), [0, 0, 0.01, 5, 5.00001, 3, 3.1])) == 7
    assert len(passed(Gate(), steady(2), NOBODY)) == 60


@pytest.mark.parametrize("jitter", [0.0, 1e-6, 0.05, 0.15])
@pytest.mark.parametrize(("rate", "every"), [(10, 3), (15, 2), (30, 1), (5, 6), (1, 30), (2.5, 12)])
def test_one_of_every_few_passes_evenly_despite_jitter(rate, every, jitter):
    found = passed(Gate(rate=rate), steady(20, jitter=jitter, seed=1))
    assert found == list(range(0, 20 * FPS, every))


@pytest.mark.parametrize("jitter", [0.3, 0.45])
@pytest.mark.parametrize(("rate", "seed"), [(10, 1), (10, 2), (7, 3), (15, 4), (1, 5)])
def test_the_average_is_met_with_heavy_jitter(rate, seed, jitter):
    times = steady(60, jitter=jitter, seed=seed)
    found = passed(Gate(rate=rate), times)
    assert abs(len(found) - 60 * rate) <= 1
    assert most_in_a_second([times[i] for i in found]) <= rate + 1


@pytest.mark.parametrize(("fps", "rate"), [(30, 7), (30, 25), (12, 10), (15, 10), (29.97, 10), (60, 24), (30, 0.3)])
def test_rates_that_do_not_divide_the_cameras_are_met_without_drift(fps, rate):
    seconds = 600
    assert abs(len(passed(Gate(rate=rate), steady(seconds, fps))) - seconds * rate) <= 1.5


def test_a_camera_slower_than_the_rate_is_let_through():
    assert len(passed(Gate(rate=30), steady(20, fps=12, jitter=0.2))) == 240


@given(st.lists(st.floats(0, 0.7), max_size=120), st.floats(0.2, 40))
def test_no_second_has_many_more_than_the_rate(gaps, rate):
    times = np.cumsum([0.0, *gaps]).tolist()
    found = [times[i] for i in passed(Gate(rate=rate), times)]
    assert most_in_a_second(found) <= np.ceil(rate) + 1


@given(st.lists(st.floats(0.001, 3), max_size=60), st.floats(0.2, 40))
def test_no_frame_waits_longer_than_one_and_a_half_periods(gaps, rate):
    times = np.cumsum([0.0, *gaps])
    found = set(passed(Gate(rate=rate), times.tolist()))
    last = 0.0
    for i, time in enumerate(times):
        if i in found:
            last = time
        else:
            assert time - last < 1.5 / rate + 1e-6


def test_after_a_rest_there_is_no_burst():
    times = [*steady(1), *(10 + t for t in steady(1))]
    found = passed(Gate(rate=10), times)
    assert len([i for i in found if i >= 30]) <= 11
    assert most_in_a_second([times[i] for i in found]) <= 11


def test_a_very_low_rate_is_a_rate():
    assert passed(Gate(rate=1e-320), [0, 1, 1e6]) == [0]


@pytest.mark.parametrize("back", [0.001, 0.5, 3600.0, 1.6e9])
@pytest.mark.parametrize("gate", [Gate(rate=10), Gate(on_change=0.1, heartbeat=0.5), Gate(rate=10, on_change=0.1)])
def test_a_restarted_camera_is_not_silenced(gate, back):
    before = steady(2)
    after = [before[-1] - back + t for t in steady(2)]
    found = [i for i in passed(gate, before + after) if i >= 60]
    pause = 1 / gate.rate if not gate.on_change else gate.heartbeat
    assert found
    assert found[0] - 60 <= 1.1 * pause * FPS
    assert abs(len(found) - len(passed(gate, before))) <= 1


STRICT = [Gate(rate=0.1), Gate(on_change=9, heartbeat=1000), Gate(rate=0.1, on_change=9, heartbeat=1000)]


@pytest.mark.parametrize("gate", STRICT)
def test_coming_and_going_passes_at_once(gate):
    story = [NOBODY, NOBODY, ONE, ONE, people("a", "b"), people("a", "b"), people("b"), NOBODY, NOBODY, people("c")]
    keeper = Gatekeeper(gate)
    found = [keeper.passes(who, ns(i * 1.01 * ABSENT)) for i, who in enumerate(story)]
    assert found == [True, False, True, False, True, False, True, True, False, True]


@pytest.mark.parametrize("gate", STRICT)
def test_one_who_flickers_sends_no_message_at_every_flip(gate):
    keeper = Gatekeeper(gate)
    frames = [people("a", "b") if i // 3 % 2 else people("b") for i in range(300)]
    assert sum(keeper.passes(who, ns(i / FPS)) for i, who in enumerate(frames)) <= 2 + 10 * gate.rate


def test_who_went_is_told_as_soon_as_it_is_certain():
    keeper = Gatekeeper(Gate(rate=0.01))
    frames = [ONE] * 10 + [NOBODY] * 60
    found = [i for i, who in enumerate(frames) if keeper.passes(who, ns(i / FPS))]
    assert found == [0, 9 + round(ABSENT * FPS)]


def test_one_whom_a_message_left_out_is_news_when_it_is_back():
    """Hidden just when a message was due: the next one that is due has it again, whether it moves or not."""
    keeper = Gatekeeper(Gate(rate=5, on_change=0.5, heartbeat=0.2))
    frames = [people("a", "b")] * 6 + [people("b")] * 2 + [people("a", "b")] * 12
    told = [tuple(who.ids) for i, who in enumerate(frames) if keeper.passes(who, ns(i / FPS))]
    assert told == [("a", "b"), ("b",), ("a", "b"), ("a", "b")]


def test_one_whom_anothers_coming_left_out_does_not_wait_for_a_low_rate():
    keeper = Gatekeeper(Gate(rate=0.1))
    frames = [people("a")] * 30 + [people("b")] + [people("a", "b")] * 60
    told = [(i, tuple(who.ids)) for i, who in enumerate(frames) if keeper.passes(who, ns(i / FPS))]
    assert told == [(0, ("a",)), (30, ("b",)), (31, ("a", "b"))]


def test_two_who_flicker_in_turns_do_not_break_a_low_rate():
    keeper = Gatekeeper(Gate(rate=0.1))
    frames = [people("a", "b")] * 3 + [people("c"), *([people("a", "c"), people("b", "c")] * 50)]
    assert sum(keeper.passes(who, ns(i / FPS)) for i, who in enumerate(frames)) <= 3


@pytest.mark.parametrize("away", [1, 5, 60])
def test_a_message_that_is_due_waits_for_one_who_is_hidden(away):
    """Else listeners would believe in an empty room for the whole period."""
    keeper = Gatekeeper(Gate(rate=0.5))
    frames = [ONE] * 60 + [NOBODY] * away + [ONE] * 90
    told = [(i, who.ids) for i, who in enumerate(frames) if keeper.passes(who, ns(i / FPS))]
    assert told[0] == (0, ["a"])
    if away == 60:
        assert told[1][1] == [], "who does not come back has gone"
        assert told[1][0] == 59 + round(ABSENT * FPS)
    else:
        assert told[1] == (60 + away, ["a"])
        assert all(ids for _, ids in told)


def test_people_who_blink_in_turns_do_not_starve_the_rate():
    keeper, random = Gatekeeper(Gate(rate=2)), np.random.default_rng(0)
    names, hidden = [f"p{i}" for i in range(16)], dict.fromkeys(range(16), 0)
    times = []
    for i in range(30 * FPS):
        for k in hidden:  # each is unseen for one to three frames now and then
            hidden[k] = hidden[k] - 1 if hidden[k] else int(random.integers(1, 4)) * int(random.random() < 0.1)
        who = people(*(name for k, name in enumerate(names) if not hidden[k]))
        times += [i / FPS] if keeper.passes(who, ns(i / FPS)) else []
    assert np.diff(times).max() < 0.5 + ABSENT + 0.3
    assert len(times) / 30 > 1.3


@pytest.mark.parametrize("gate", STRICT)
def test_one_who_takes_anothers_place_is_news(gate):
    keeper = Gatekeeper(gate)
    assert keeper.passes(people("a", "b"), ns(0))
    assert not keeper.passes(people("b", "a"), ns(0.03))
    assert keeper.passes(people("a", "c"), ns(0.06))


def test_after_coming_the_rate_goes_on():
    keeper = Gatekeeper(Gate(rate=2))
    frames = [NOBODY] * 10 + [ONE] * 80
    found = [i for i, who in enumerate(frames) if keeper.passes(who, ns(i / FPS))]
    assert found[:2] == [0, 10]
    assert found[2] - 10 <= 1.5 * FPS / 2
    assert set(np.diff(found[2:])) == {15}


@given(st.lists(st.tuples(st.sampled_from(["", "a", "b", "ab", "ba"]), st.floats(-0.5, 0.5)), min_size=1, max_size=40),
       st.sampled_from(STRICT))  # fmt: skip
def test_what_was_published_last_always_names_the_people_of_now(story, gate):
    """But for those who are out of sight for so short a time that they may be back, and whoever was, while they are."""
    keeper, told, left_out, time, steady, seen = Gatekeeper(gate), None, set(), 0.0, 0.0, {}
    for names, step in story:
        time += step
        steady += max(step, 0)
        seen |= dict.fromkeys(names, steady)
        hidden = {name for name, last in seen.items() if steady - last < ABSENT + 1e-6} - set(names)
        if keeper.passes(people(*names), ns(time)):
            told, left_out = set(names), hidden
        assert set(names) <= told | (left_out if hidden else set())
        assert told <= set(names) | hidden


def moved(joint, by, scores=0.9, who=("a",), person=0):
    joints = np.zeros((len(who), 16, 2))
    joints[person, joint] = by
    return people(*who, joints=joints, scores=scores)


STILL = Gate(on_change=0.1, heartbeat=1000)  # of 100 pixels: 10


@pytest.mark.parametrize(
    ("by", "scores", "expected"),
    [((9.9, 0), 0.9, False), ((10, 0), 0.9, False), ((10.1, 0), 0.9, True), ((0, -10.1), 0.9, True),
     ((8, 8), 0.9, True), ((50, 0), 0.5, True), ((50, 0), 0.49, False)],
)  # fmt: skip
def test_one_sure_joint_that_moved_far_enough_passes(by, scores, expected):
    keeper = Gatekeeper(STILL)
    assert keeper.passes(ONE, ns(0))
    assert keeper.passes(moved(7, by, scores), ns(0.03)) is expected


def test_any_person_will_do_whatever_the_order():
    keeper = Gatekeeper(STILL)
    apart = np.zeros((2, 16, 2))
    apart[1] = 300
    assert keeper.passes(people("a", "b", joints=apart), ns(0))
    assert not keeper.passes(people("b", "a", joints=apart[::-1]), ns(0.03))
    apart[1, 4] += 15  # in place, as a tracker may: what was published is remembered as it was
    assert keeper.passes(people("b", "a", joints=apart[::-1]), ns(0.06))


def test_the_share_is_of_each_persons_own_longer_side():
    start = people("near", "far")
    start.boxes[0] = [0, 0, 400, 100]
    keeper = Gatekeeper(STILL)
    assert keeper.passes(start, ns(0))
    assert not keeper.passes(moved(0, (30, 0), who=("near", "far"), person=0), ns(0.03))
    assert keeper.passes(moved(0, (30, 0), who=("near", "far"), person=1), ns(0.06))


def test_slow_movement_adds_up_since_the_last_message():
    keeper = Gatekeeper(STILL)
    found = [i for i in range(23) if keeper.passes(people("a", at=i), ns(i / FPS))]
    assert found == [0, 8, 16]  # each time 8 pixels in x and in y: 11.3


def test_what_rests_is_repeated_by_the_heartbeat():
    found = passed(Gate(on_change=0.1, heartbeat=0.5), steady(3))
    assert set(np.diff(found)) <= {15, 16}
    assert len(passed(Gate(on_change=0.1), steady(5.1), NOBODY)) == 6  # also an empty room, each second


def test_movement_starts_the_heartbeat_anew():
    keeper = Gatekeeper(Gate(on_change=0.1))
    assert keeper.passes(ONE, ns(0))
    assert keeper.passes(people("a", at=50), ns(0.6))
    assert not keeper.passes(people("a", at=50), ns(1.2))
    assert keeper.passes(people("a", at=50), ns(1.6))


def test_the_rate_is_a_ceiling_for_movement_and_heartbeat():
    gate = Gate(rate=5, on_change=0.1)
    keeper = Gatekeeper(gate)
    found = [i for i in range(300) if keeper.passes(people("a", at=20 * i), ns(i / FPS))]
    assert found == list(range(0, 300, 6))
    assert len(passed(Gate(rate=0.5, on_change=0.1, heartbeat=0.1), steady(20))) == 10


def test_movement_after_a_rest_passes_at_once():
    keeper = Gatekeeper(Gate(rate=2, on_change=0.1, heartbeat=1000))
    found = [i for i in range(100) if keeper.passes(people("a", at=0 if i < 50 else 90), ns(i / FPS))]
    assert found == [0, 50]


def test_nobody_moves_in_an_empty_room():
    assert passed(STILL, steady(3), NOBODY) == [0]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"rate": -1}, r"cam: key 'rate' \(it is -1\): .*greater than or equal to 0"),
        ({"rate": float("inf")}, "key 'rate' .*finite"),
        ({"on_change": -0.1}, "key 'on_change'"),
        ({"heartbeat": 0}, r"key 'heartbeat' \(it is 0\): .*greater than 0"),
        ({"heartbeat": float("nan")}, "key 'heartbeat'"),
        ({"hartbeat": 1}, "unknown key 'hartbeat'; did you mean 'heartbeat'"),
    ],
)
def test_wrong_settings_are_refused_with_their_fault(fields, sentence):
    with pytest.raises(EdgeposeError, match=sentence) as caught:
        validate(Gate, fields, "cam")
    assert "\n" not in str(caught.value)


def test_settings_do_not_change():
    with pytest.raises(ValueError, match="frozen"):
        Gate().rate = 3
