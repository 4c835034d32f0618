"""Everybody followed, in a world whose truth is known: who keeps an id, who gets a new one, and who never gets any."""

import numpy as np
import pytest

from edgepose.crops import box_of_joints
from edgepose.estimator import Poses
from edgepose.people.association import iou
from edgepose.people.seen import CONFIDENT
from edgepose.people.tracker import Following, Tracker
from edgepose.skeletons import LSP14, MPII16
from tests.people.identity import hota, idf1, switches
from tests.people.world import SCENES, WIDTH, Person, World, film, ids_by_person, published_once, regular, stands, walk

SECOND = 10**9
QUIET = {"misses": 0.0, "ghosts": 0.0}


def new(**settings):
    return Tracker("run", MPII16, Following(**settings))


def ids_of(frames, first=0, last=None):
    return {name for frame in frames[first:last] for name in frame.ids}


def test_one_walker_is_published_from_the_third_sight_under_one_id():
    world = World([Person("A", walk(100, 240))], **QUIET)
    frames = film(world, new(), regular(120))
    assert [len(f.ids) for f in frames[:4]] == [0, 0, 1, 1]
    assert ids_of(frames) == {"run-1"}
    assert idf1(frames) > 0.98
    assert hota(frames) > 0.85


@pytest.mark.parametrize("confirm", [1, 5])
def test_confirm_is_the_number_of_sights(confirm):
    frames = film(World([stands(300)], **QUIET), new(confirm=confirm), regular(10))
    assert [len(f.ids) for f in frames].index(1) == confirm - 1


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("speed", [150, 300])
@pytest.mark.parametrize("overlap", [False, True])
def test_two_who_cross_twice_keep_their_ids(seed, speed, overlap):
    """Each is in front once."""
    seconds = (WIDTH - 300) / speed

    def back(t):
        return (150 + speed * t if t < seconds else 150 + speed * (2 * seconds - t)), 600, 300

    def forth(t):
        return WIDTH - back(t)[0], 590, 290

    a = Person("A", back, depth=lambda t: 0.0 if t < seconds else 2.0)
    b = Person("B", forth, depth=1.0, phase=0.3)
    frames = film(World([a, b], seed), new(), regular(round(60 * seconds)), overlap=overlap)
    assert switches(frames) == 0
    assert ids_of(frames) == {"run-1", "run-2"}
    assert idf1(frames) > 0.95
    assert published_once(frames)


def test_who_comes_back_after_the_patience_is_somebody_new():
    away = Person("C", walk(1000, 0), here=lambda t: not 2 <= t < 3.5)
    frames = film(World([stands(200), stands(600), away], **QUIET), new(), regular(150))
    assert len(ids_of(frames, 0, 60)) == 3
    back = ids_of(frames, 110)
    assert len(back & ids_of(frames, 0, 60)) == 2
    assert "run-4" in back
    assert len(ids_of(frames)) == 4


@pytest.mark.parametrize(("outage", "names"), [(0.8, {"run-1"}), (1.5, {"run-1", "run-2"}), (3600, {"run-1", "run-2"})])
def test_who_stands_there_when_a_camera_comes_back_late_is_somebody_new(outage, names):
    before = regular(30)
    frames = film(World([stands(300)], **QUIET), new(), before + [t + round(outage * SECOND) for t in regular(60)[30:]])
    assert ids_of(frames) == names
    assert not ids_of(frames, 0, 30) & ids_of(frames, 30) or outage < 1


@pytest.mark.parametrize("fps", [1, 0.2])
def test_a_slow_camera_is_not_away(fps):
    assert ids_of(film(World([stands(300)], **QUIET), new(), regular(30, fps))) == {"run-1"}


def test_after_one_outage_the_next_one_counts_as_well():
    times = np.cumsum([60.0 if i in (30, 34) else 1 / 30 for i in range(60)])
    frames = film(World([stands(300)], **QUIET), new(), [round(t * SECOND) for t in times])
    assert not ids_of(frames, 0, 30) & ids_of(frames, 30, 34)
    assert not ids_of(frames, 30, 34) & ids_of(frames, 34)


@pytest.mark.parametrize("patience", [0, 0.01, 1.0])
@pytest.mark.parametrize(("seconds", "jitter"), [(1 / 30, 1e-9), (1 / 30, 0.01), (5, 0.8), (10, 1)])
def test_whose_frames_come_unevenly_is_not_away(patience, seconds, jitter):
    rng = np.random.default_rng(4)
    times = np.cumsum(seconds + rng.uniform(-jitter, jitter, 60))
    frames = film(World([stands(300)], **QUIET), new(patience=patience), [round(t * SECOND) for t in times])
    assert len(ids_of(frames)) == 1
    assert all(len(f.ids) == 1 for f in frames[5:])


def test_who_is_away_for_less_than_the_patience_keeps_the_id():
    away = Person("C", walk(300, 120), here=lambda t: not 2 <= t < 2.8)
    frames = film(World([stands(200), away], **QUIET), new(), regular(150))
    assert ids_of(frames) == {"run-1", "run-2"}
    assert ids_by_person(frames)["C"] & ids_of(frames, 0, 60)
    assert len(ids_by_person(frames)["C"]) == 1


@pytest.mark.parametrize("seed", range(4))
def test_a_walker_behind_a_standing_person_keeps_the_id(seed):
    walker = Person("B", walk(200, 220), depth=1.0)
    frames = film(World([stands(640), walker], seed), new(), regular(120))
    assert switches(frames) == 0
    assert ids_of(frames) == {"run-1", "run-2"}


def test_a_finder_that_misses_half_is_enough():
    world = World([stands(200), stands(600), stands(1000)], misses=0.5, ghosts=0.0)
    frames = film(world, new(), regular(200))
    assert ids_of(frames) == {"run-1", "run-2", "run-3"}
    assert switches(frames) == 0
    assert all(len(f.ids) == 3 for f in frames[60:])


def test_false_boxes_never_become_people():
    frames = film(World([], ghosts=3.0), new(), regular(200))
    assert ids_of(frames) == set()
    frames = film(World([stands(500)], ghosts=3.0), new(every=1), regular(200))
    assert ids_of(frames) == {"run-1"}


def test_time_stamps_may_be_irregular():
    """Even the same twice."""
    rng = np.random.default_rng(0)
    times = (10**15 + np.cumsum(rng.choice([0, 10, 30, 60, 150], 180)) * 10**6).tolist()
    seconds = (times[-1] - times[0]) / 1e9
    people = [Person("A", walk(100, 1000 / seconds)), Person("B", walk(1100, -1000 / seconds), depth=1.0, phase=0.4)]
    frames = film(World(people), new(), times)
    assert switches(frames) == 0
    assert ids_of(frames) == {"run-1", "run-2"}


def test_people_who_enter_at_different_times_are_numbered_as_they_come():
    people = [stands(x, here=lambda t, s=s: t >= s) for x, s in ((200, 0.0), (600, 1.0), (1000, 2.5))]
    frames = film(World(people, **QUIET), new(), regular(150))
    named = ids_by_person(frames)
    assert [named[p.name] for p in people] == [{"run-1"}, {"run-2"}, {"run-3"}]
    first = [next(n for n, f in enumerate(frames) if f"run-{i}" in f.ids) for i in (1, 2, 3)]
    assert all(late - start <= 8 for late, start in zip(first, (0, 30, 75), strict=True))  # a look, and three sights


def test_no_more_than_most_are_followed():
    world = World([stands(100 + 180 * i) for i in range(6)], **QUIET)
    tracker = new(most=4)
    for now in regular(40):
        view = world.view(0)
        tracker.found(*world.find(view))
        crops = tracker.boxes(now)
        assert len(crops) <= 4
        people = tracker.update(world.estimate(view, crops), now)
    assert len(people) == 4


def test_the_largest_found_boxes_come_first():
    tracker = new(most=1)
    tracker.found(np.array([[0.0, 0, 50, 100], [200, 0, 250, 120]]), np.array([0.9, 0.3]))
    assert np.array_equal(tracker.boxes(0), [[200, 0, 250, 120]])


@pytest.mark.parametrize("back", [0.5, 5, 200, 3600], ids=str)
def test_a_clock_that_is_set_back_costs_nobody_their_id(back):
    """No time passes where it runs backwards: nobody jumps, is lost, or stays for ever."""
    world = World([Person("A", walk(500, 20), here=lambda t: t < 4)], **QUIET)
    times = regular(180)
    frames = film(world, new(), times, clock=lambda now: now - int(back * 1e9) * (now > times[60]))
    assert ids_of(frames) == {"run-1"}
    assert all(f.ids for f in frames[10:110])
    assert not any(f.ids for f in frames[160:])


def test_ids_never_come_back():
    """Someone shows up ten times, each after longer than the patience."""
    world = World([Person("A", walk(500, 0), here=lambda t: t % 2 < 0.5)], **QUIET)
    frames = film(world, new(), regular(600))
    seen = [f.ids[0] for f in frames if f.ids]
    order = list(dict.fromkeys(seen))
    assert order == [f"run-{n}" for n in range(1, 11)]
    assert seen == sorted(seen, key=lambda name: int(name.removeprefix("run-")))


def test_the_finder_is_wanted_when_it_is_time():
    world, tracker, wanted = World([stands(500)], **QUIET), new(every=5), []
    for n, now in enumerate(regular(24)):
        view = world.view(0) if n < 20 else World([]).view(0)
        if tracker.wants_finder():
            wanted.append(n)
            tracker.found(*world.find(view))
        tracker.update(world.estimate(view, tracker.boxes(now)), now)
    assert wanted == [0, 5, 10, 15, 20, 21, 22, 23]  # from 21 on the person is lost


def test_a_full_house_wants_no_finder():
    world, tracker = World([stands(500)], **QUIET), new(every=1, most=1)
    for now in regular(5):
        if tracker.empty:
            assert tracker.wants_finder()
            tracker.found(*world.find(world.view(0)))
        tracker.update(world.estimate(world.view(0), tracker.boxes(now)), now)
    assert not tracker.wants_finder()


def followed(world, view, times, **settings):
    """A tracker that has confirmed everybody in ``view``, and the order in which it asks for them."""
    tracker = new(**settings)
    tracker.found(view.boxes, np.ones(len(view.boxes)))
    for now in times:
        people = tracker.update(world.estimate(view, tracker.boxes(now)), now)
    assert len(people) == len(view.boxes)
    return tracker, people


def test_joints_that_were_sure_a_moment_ago_are_expected_where_the_body_goes():
    world = World([Person("A", walk(300, 240))], **QUIET)
    tracker = new()
    tracker.found(world.view(0).boxes, np.ones(1))
    sure, apart = np.zeros(16, bool), []
    for now in range(0, 2 * SECOND, SECOND // 30):
        answers = world.estimate(world.view(now / SECOND), tracker.boxes(now))
        expected = tracker.expected()[0]
        assert np.isfinite(expected).all(axis=1).tolist() == sure.tolist()
        apart += (expected - answers.joints[0])[sure, 0].tolist()
        sure = answers.scores[0] >= CONFIDENT
        tracker.update(answers, now)
    assert sure.sum() > 8
    assert abs(np.median(apart[len(apart) // 2 :])) < 1.5  # it walks 8 pixels a frame
    for later, known in ((SECOND // 5, sure), (SECOND // 2, np.zeros(16, bool))):
        tracker.boxes(now + later)
        assert np.isfinite(tracker.expected()[0]).all(axis=1).tolist() == known.tolist()


def test_answers_that_changed_places_are_changed_back():
    world = World([stands(400), stands(520)], **QUIET)
    view = world.view(0)
    tracker, before = followed(world, view, [0, 1, 2])
    answers = world.estimate(view, tracker.boxes(3))
    swapped = Poses(answers.joints[::-1], answers.scores[::-1], answers.covariance[::-1])
    after = tracker.update(swapped, 3)
    where = dict(zip(before.ids, before.boxes, strict=True))
    assert set(after.ids) == set(where)
    for name, box in zip(after.ids, after.boxes, strict=True):
        assert iou(where[name][None], box[None]) > 0.8


def test_answers_that_take_left_for_right_are_of_one_person():
    """As happens from behind; of two such answers the one that fits its track better is kept."""
    world = World([stands(400), stands(520)], **QUIET)
    tracker, _ = followed(world, world.view(0), [0, 1, 2])
    answers = world.estimate(world.view(0), tracker.boxes(3))
    twice = Poses(answers.joints[[0, 0]], answers.scores[[0, 0]], answers.covariance[[0, 0]])
    twice.joints[1] = twice.joints[1, MPII16.mirror]
    boxes = np.array([box_of_joints(joints) for joints in twice.joints])
    assert tracker._one_each(twice, boxes, np.diag([0.9, 0.8])).tolist() == [True, False]


def test_two_crops_on_one_person_publish_it_once():
    world = World([stands(400), stands(520)], **QUIET)
    view = world.view(0)
    tracker, before = followed(world, view, [0, 1, 2])
    answers = world.estimate(view, tracker.boxes(3))
    twice = Poses(answers.joints[[0, 0]], answers.scores[[0, 0]], answers.covariance[[0, 0]])
    after = tracker.update(twice, 3)
    assert after.ids == [before.ids[0]]
    assert tracker.wants_finder()  # the other one is lost
    assert len(tracker.boxes(4)) == 2


def test_a_found_box_on_a_person_who_is_seen_starts_nobody():
    world = World([stands(400)], **QUIET)
    view = world.view(0)
    tracker, _ = followed(world, view, [0, 1, 2])
    x0, y0, x1, y1 = view.boxes[0]
    tracker.found(np.array([[x0, y0, x1, y0 + 0.4 * (y1 - y0)], view.boxes[0] + 5]), np.ones(2))
    assert len(tracker.boxes(3)) == 1


def test_a_lost_person_moves_on_slower_and_slower_and_is_then_gone():
    world = World([Person("A", walk(100, 300))], **QUIET)
    tracker = new()
    times = regular(30)
    film(world, tracker, times)
    at = []
    for step in range(1, 11):
        now = times[-1] + step * SECOND // 10
        crops = tracker.boxes(now)
        at.append((crops[0, 0] + crops[0, 2]) / 2)
        dark = Poses(np.zeros((1, 16, 2)), np.zeros((1, 16)), np.zeros((1, 16, 3)))
        assert len(tracker.update(dark, now)) == 0
    steps = np.diff(at)
    assert 20 < steps[0] < 35
    assert (np.diff(steps) < 0).all()
    assert len(tracker.boxes(now + SECOND // 10)) == 0


def ahead(*shifts, settled=20):
    """How far ahead, px, the next crop of who is 300 px tall is: ``settled`` frames at rest, answers ``shifts`` off."""
    world, frame = World([stands(400)], **QUIET), SECOND // 30
    tracker, _ = followed(world, world.view(0), [number * frame for number in range(settled)])
    for number, shift in enumerate(shifts, settled):
        answers = world.estimate(world.view(0), tracker.boxes(number * frame))
        answers.joints[0, :, 0] += shift
        assert len(tracker.update(answers, number * frame)) == 1
    crop = tracker.boxes((settled + len(shifts)) * frame)
    return (crop - tracker._tracks[0].box)[0, 0]


def test_no_speed_is_beyond_the_fastest():
    """An answer that leaps must not throw the next crop out of the frame."""
    leap = ahead(40, settled=3)
    assert 5 < leap < 3.1 * 300 / 30
    assert leap < ahead(40, 80, settled=3) < 3.1 * 300 / 30


@pytest.mark.parametrize("leap", [35, 40])
def test_who_is_seen_wrongly_for_a_frame_has_not_moved(leap):
    assert abs(ahead(leap)) < 0.5
    assert abs(ahead(leap, 0)) < 0.5
    assert abs(ahead(leap, 0, -leap, 0)) < 0.5


def test_two_leaps_the_same_way_are_a_motion():
    assert ahead(35, 70) > 3


def test_who_sets_off_is_followed_at_once():
    """By one and a half of the height a second."""
    assert ahead(15) > 2
    assert ahead(-15) < -2


@pytest.mark.parametrize("speed", [600, 900])
def test_who_runs_into_the_view_is_held(speed):
    frames = film(World([Person("A", walk(200, speed))], **QUIET), new(), regular(27_000 // speed))
    assert all(f.ids == ["run-1"] for f in frames[2:-1])


def test_one_unsure_leg_neither_shrinks_nor_moves_the_crop():
    world = World([stands(400)], **QUIET)
    view = world.view(0)
    tracker, _ = followed(world, view, [0, SECOND // 30, SECOND // 15])
    answers = world.estimate(view, tracker.boxes(SECOND // 10))
    answers.scores[0, [0, 1, 4, 5]] = 0.1
    answers.joints[0, [0, 1, 4, 5]] = 0
    people = tracker.update(answers, SECOND // 10)
    crop = tracker.boxes(SECOND // 10 + 1)
    assert iou(crop, view.boxes) > 0.85
    assert people.boxes[0, 3] < view.boxes[0, 3] - 60  # what is published is the box of the sure joints


@pytest.mark.parametrize(("beside", "beyond"), [(None, True), (460, False), (600, True)])
def test_the_finder_tells_of_feet_that_the_crop_cut_off(beside, beyond):
    """Unless somebody else is near: its box may then be of both."""
    world = World([stands(400), *([] if beside is None else [stands(beside)])], **QUIET)
    view = world.view(0)
    tracker, _ = followed(world, view, [0, 1, 2])
    crops = tracker.boxes(3)
    larger = view.boxes + np.array([0, 0, 0, 60])
    tracker.found(larger, np.ones(len(larger)))
    reach = tracker.boxes(4)[:, 3] - crops[:, 3]
    assert (reach > 50).tolist() == [beyond] * len(crops)
    assert (reach > -1e-6).all()


def test_poses_come_with_their_covariance_and_any_skeleton():
    tracker = Tracker("x", LSP14, Following(confirm=1))
    joints = np.random.default_rng(0).uniform(100, 300, (1, 14, 2))
    tracker.found(np.array([[100.0, 100, 300, 300]]), np.ones(1))
    assert len(tracker.boxes(0)) == 1
    people = tracker.update(Poses(joints, np.full((1, 14), 0.9), np.full((1, 14, 3), 7.0)), 0)
    assert people.ids == ["x-1"]
    assert (people.poses.covariance == 7).all()
    assert np.array_equal(people.poses.joints, joints)


def test_furniture_is_nobody_where_one_sight_is_enough():
    """A coat scores 0.55: enough for a first sight, whose crop may fit badly, and for nothing else."""
    tracker, coat, asked = new(confirm=1), np.array([[100.0, 100, 180, 300]]), 0
    joints = np.random.default_rng(0).uniform([100, 100], [180, 300], (1, 16, 2))
    for number in range(60):
        if tracker.wants_finder():
            tracker.found(coat, np.ones(1))
        n = len(tracker.boxes(number * SECOND // 30))
        asked += n
        answers = Poses(np.tile(joints, (n, 1, 1)), np.full((n, 16), 0.55), np.ones((n, 16, 3)))
        assert tracker.update(answers, number * SECOND // 30).ids == []
    assert 2 <= asked <= 8


def test_poses_must_be_those_of_the_boxes():
    tracker = new()
    tracker.boxes(0)
    with pytest.raises(ValueError, match="1 poses for 0 boxes"):
        tracker.update(Poses(np.zeros((1, 16, 2)), np.zeros((1, 16)), np.zeros((1, 16, 3))), 0)


def test_nobody_is_nobody():
    tracker = new()
    assert tracker.wants_finder()
    tracker.found(np.zeros((0, 4)), np.zeros(0))
    assert tracker.boxes(0).shape == (0, 4)
    people = tracker.update(Poses(np.zeros((0, 16, 2)), np.zeros((0, 16)), np.zeros((0, 16, 3))), 0)
    assert (people.ids, people.boxes.shape, people.poses.joints.shape) == ([], (0, 4), (0, 16, 2))


@pytest.mark.parametrize(("scene", "identity", "soon"), [("crossing", 0.9, 1.0), ("entering and leaving", 0.85, 0.5)])
def test_ids_hold_in_busy_scenes(scene, identity, soon):
    """300 frames and several seeds; the table of all scenes is tests/benchmarks/following.py."""
    rows = []
    for seed in range(6):
        frames = film(SCENES[scene](seed), new(), regular(300))
        assert published_once(frames)
        rows.append((idf1(frames), hota(frames), switches(frames), switches(frames, within=30)))
    mean = np.mean(rows, axis=0)
    assert mean[0] > identity
    assert mean[1] > 0.8
    assert mean[3] <= soon


def _coat(frames, moves=0.0, score=lambda number: 0.25):
    """Crops spent, frame by frame, on a coat that the finder takes for a person at every look, at 30 fps."""
    tracker, spent = new(), []
    for number, time in enumerate(regular(frames)):
        if tracker.wants_finder():
            x = 100 + moves * number
            tracker.found(np.array([[x, 100.0, x + 100, 400]]), np.array([score(number)]))
        crops = tracker.boxes(time)
        spent.append(len(crops))
        joints = crops[:, None, :2] + np.zeros((len(crops), 16, 2))
        tracker.update(Poses(joints, np.full((len(crops), 16), 0.2), np.ones((len(crops), 16, 3))), time)
    return np.array(spent)


def test_a_place_where_nobody_was_is_looked_at_less_and_less():
    spent = _coat(900)
    looks = np.flatnonzero(spent)
    assert spent.max() == 1
    assert len(looks) <= 30
    waits = np.diff(looks) / 30
    assert waits[0] < 0.5
    assert waits[-1] > 1
    assert waits[-1] < 1.5  # never left alone for good: somebody may come and stand there


def test_someone_who_steps_in_front_of_it_is_looked_at_at_once():
    """The finder is surer of a person than of a coat."""
    last = int(np.flatnonzero(_coat(300))[-1])  # and then it is left alone for a second
    spent = _coat(400, score=lambda number: 0.45 if number >= last + 12 else 0.25)
    assert not spent[last + 1 : last + 10].any()
    assert spent[last + 12 : last + 18].any()
    assert spent[last + 12 :].sum() < 5  # and if that is a coat too, it is left alone like the first


def test_what_moves_is_not_the_same_place():
    assert (_coat(60, moves=60.0) > 0).mean() > 0.9
