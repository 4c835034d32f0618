"""Frames that are begun before the people in the last ones are known: the same people, whatever comes next."""

from dataclasses import replace

import numpy as np
import pytest

from edgepose import bundle as bundles
from edgepose import engines
from edgepose.engines import Options
from edgepose.estimator import Estimator
from edgepose.loop import Loop
from edgepose.people.crowd import CALM_S
from edgepose.people.regions import Regions
from edgepose.people.tracker import Following
from edgepose.sources.base import Base
from edgepose.sources.several import AHEAD, Several
from tests.conftest import tiny_graph, tiny_manual
from tests.people.test_crowd import HEIGHT, STEP, WIDTH, Seeing, everybody, film, frame, ids
from tests.people.test_crowd import stands as stands_in_the_hall
from tests.people.test_track import QUIET, followed, ids_of, new
from tests.people.world import Person, World, regular, stands, walk
from tests.people.world import film as film_of


class Reel(Base):
    """A film of these frames."""

    live, reopens, description, dropped = False, False, "a reel", 0

    def __init__(self, frames, each):
        self.camera, self._frames, self._each = frames[0].camera, list(frames), each

    def read(self, timeout=None):
        if not self._frames:
            return None
        self._each(self._frames[0].seq)
        return self._frames.pop(0)

    def close(self):
        pass


class Screen:
    """Keeps what is published."""

    def __init__(self):
        self.seen = []

    def publish(self, frame, people):
        self.seen.append(people)

    def show(self, frame, people):
        pass

    def snapshot(self):
        return None


def through_the_loop(crowd, frames, each=lambda number: None, *, overlap=True):
    """The people of every frame, and which frames were begun before the last one's people were known."""
    screen, overlapped, begin = Screen(), [], crowd.begin

    def noted(frames, timer):
        if frames[0].seq > len(screen.seen):
            overlapped.append(frames[0].seq)
        return begin(frames, timer)

    crowd.begin = noted
    source = Reel(frames, each)
    Loop(Several({source.camera: source}), crowd, {source.camera: screen}, overlap=overlap).run()
    return screen.seen, overlapped


def test_a_frame_may_be_begun_while_everybody_is_calm():
    seeing = Seeing([stands_in_the_hall(100), stands_in_the_hall(540)])
    crowd = everybody(seeing, {"door": Regions()})

    def leave(number):
        if number == 25:
            seeing.scenes[0] = [stands_in_the_hall(100)]

    seen, overlapped = through_the_loop(crowd, [frame(0, number, "door") for number in range(70)], leave)
    assert [len(people) for people in seen] == [0, 0, *[2] * 23, *[1] * 45]
    assert ids(seen) == {"run-1", "run-2"}
    # Not before both are known, nor while one of them is lost, for a second; again when he is gone. That he is lost in
    # 25 is known when 26 and 27 are begun.
    assert overlapped == [*range(3, 28), *range(52, 70)]
    assert not crowd.calm([])


def found_in(scenes, frames, *, overlap, every=4, step=1):
    """Crops in each frame, and the frames at which the finder looked; ``scenes``: frame -> who is there from it on."""
    seeing, looked = Seeing([]), []
    crowd = everybody(seeing, {"door": Regions()}, following=Following(every=every))

    def enter(number):
        seeing.scenes[0] = scenes.get(number, seeing.scenes[0])
        looked.append(seeing.looks[0])  # before this frame

    shown = [frame(0, step * number, "door") for number in range(frames)]
    through_the_loop(crowd, [replace(f, seq=n) for n, f in enumerate(shown)], enter, overlap=overlap)
    looked.append(seeing.looks[0])
    return [crops for (crops,) in seeing.batches], [n for n in range(frames) if looked[n + 1] > looked[n]]


def test_beside_frames_begun_ahead_a_look_has_the_time_of_two():
    """The next frame waits for nobody: what the finder sees counts for the next but one, and then it rests."""
    somebody_comes = {0: [stands_in_the_hall(150)], 8: [stands_in_the_hall(150), stands_in_the_hall(450)]}
    assert found_in(somebody_comes, 20, overlap=False) == ([1] * 9 + [2] * 11, [0, 4, 8, 12, 16])
    assert found_in(somebody_comes, 20, overlap=True) == ([1] * 10 + [2] * 10, [0, 4, 8, 12, 16])


def test_a_look_that_had_the_time_of_two_frames_counts_also_at_ten_frames_a_second():
    somebody_comes = {0: [stands_in_the_hall(150)], 8: [stands_in_the_hall(150), stands_in_the_hall(450)]}
    assert found_in(somebody_comes, 20, overlap=True, step=2.5) == ([1] * 10 + [2] * 10, [0, 4, 8, 12, 16])


def test_joints_are_expected_in_every_frame_that_is_begun():
    """Also of films as slow as may overlap, where the last that is known is of three frames before."""
    seeing = Seeing([stands_in_the_hall(150)])
    crowd = everybody(seeing, {"door": Regions()})
    shown = [replace(frame(0, 0, "door"), seq=n, acquired_ns=round(n * CALM_S * 1e9)) for n in range(20)]
    _, overlapped = through_the_loop(crowd, shown)
    assert overlapped == list(range(3, 20))
    for number in overlapped:
        assert np.isfinite(seeing.expected[number][0]).all()


def test_who_is_lost_beside_a_look_that_runs_is_looked_for_in_the_frame_itself():
    """Begun at frame 8, the look tells 10 of somebody who is gone since 9; that is known before 12 is begun."""
    one_jumps = {0: [stands_in_the_hall(150)], 9: [], 11: [stands_in_the_hall(430)]}
    crops, looked = found_in(one_jumps, 15, overlap=True)
    assert looked == [0, 4, 8, 12, 13, 14]
    assert crops == [1] * 12 + [2] * 3


@pytest.mark.parametrize("break_", ["an outage", "a pause", "the same time", "back in time", "another size"])
def test_a_break_in_a_film_costs_the_frame_before_it_nobody(break_):
    """It is seen only when the next frame is there."""
    shown = [frame(0, number, "door") for number in range(40)]
    for number in range(20, 40):
        if break_ == "another size":
            image = np.zeros((HEIGHT + 10, WIDTH, 3), np.uint8)
            shown[number] = replace(shown[number], picture=image)
        shift = {"an outage": 3 * 10**9, "a pause": 10**9 // 2, "the same time": -STEP, "back in time": -(10**10)}
        shown[number] = replace(shown[number], acquired_ns=shown[number].acquired_ns + shift.get(break_, 0))
    runs = []
    for overlap in (False, True):
        crowd = everybody(Seeing([stands_in_the_hall(100), stands_in_the_hall(540)]), {"door": Regions()})
        seen, overlapped = through_the_loop(crowd, shown, overlap=overlap)
        runs.append([(people.ids, people.boxes.round(3).tolist()) for people in seen])
        assert (15 in overlapped) == overlap
        assert 20 not in overlapped
    assert runs[0] == runs[1]
    assert len(runs[0][19][0]) == 2


def test_cameras_overlap_each_by_itself():
    """While one of two is restless neither is begun ahead of itself; of the other's frames no matter."""
    seeing = Seeing([stands_in_the_hall(100)], [])
    crowd = everybody(seeing, {"door": Regions(), "hall": Regions()})
    film(crowd, ["door", "hall"], 10)
    door, hall, later = frame(0, 9, "door"), frame(1, 9, "hall"), frame(0, 10, "door")
    assert crowd.calm([door])
    assert not crowd.calm([door, hall])  # nobody is there: whoever comes is to be seen at once
    assert crowd.soon([door], [later, hall])
    assert not crowd.soon([door], [frame(0, 20, "door")])


@pytest.mark.parametrize("overlap", [False, True])
def test_boxes_may_be_asked_for_before_the_last_poses(overlap):
    """Somebody walks by, one stands, one comes later: the same ids, and everybody in every frame."""
    people = [
        Person("A", walk(200, 40)), stands(700), Person("B", walk(1000, -20), here=lambda t: t > 1),
    ]  # fmt: skip
    frames = film_of(World(people, **QUIET), new(), regular(90), overlap=overlap)
    assert len(frames) == 90
    assert ids_of(frames) == {"run-1", "run-2", "run-3"}
    assert all(len(f.ids) == len(f.truth_ids) for f in frames[45:])


def test_who_is_forgotten_between_boxes_and_poses_is_not_in_the_answer():
    world = World([stands(200), stands(600)], **QUIET)
    view = world.view(0)
    tracker, before = followed(world, view, regular(3))
    assert tracker.calm
    now, then = regular(5)[3:]
    asked = tracker.boxes(now)
    later = tracker.boxes(then)
    tracker.forget(before.ids[:1])
    assert tracker.update(world.estimate(view, asked), now).ids == before.ids[1:]
    assert tracker.update(world.estimate(view, later), then).ids == before.ids[1:]
    with pytest.raises(ValueError, match="no boxes were asked for"):
        tracker.update(world.estimate(view, later), then)


def test_a_newcomer_of_the_next_frame_is_not_judged_by_this_one():
    world = World([stands(200), stands(600)], **QUIET)
    alone, both = World([stands(200)], **QUIET).view(0), world.view(0)
    tracker, _ = followed(world, alone, regular(3))
    now, then, after = regular(6)[3:]
    asked = tracker.boxes(now)
    tracker.found(both.boxes, np.ones(2))
    later = tracker.boxes(then)
    assert (len(asked), len(later)) == (1, 2)
    assert len(tracker.update(world.estimate(alone, asked), now)) == 1
    tracker.update(world.estimate(both, later), then)
    assert len(tracker.boxes(after)) == 2  # seen once, and followed on


@pytest.mark.parametrize("overlap", [False, True])
def test_a_joint_that_is_sure_in_every_second_frame_is_carried(overlap):
    """Also where it becomes known between a frame's boxes and its poses."""
    world = World([stands(600)], **QUIET, noise=0.0)
    view, tracker, begun, known = world.view(0), new(), [], []

    def finish(number, now, crops):
        poses = world.estimate(view, crops)
        poses.scores[:] = 0.9
        if number % 2:
            poses.scores[:, [0, 5]] = 0.1  # the ankles
        tracker.update(poses, now)
        known.append([np.isfinite(t.joints[[0, 5], 0]).all() for t in tracker._tracks])

    tracker.found(view.boxes, np.ones(1))
    for number, now in enumerate(regular(20)):
        while begun and not (overlap and tracker.calm):
            finish(*begun.pop(0))
        begun.append((number, now, tracker.boxes(now)))
        while len(begun) > AHEAD:
            finish(*begun.pop(0))
    while begun:
        finish(*begun.pop(0))
    assert known == [[True]] * 20


def test_what_the_finder_adds_to_a_crop_stays_although_poses_came_since():
    world = World([stands(600)], **QUIET)
    view = world.view(0)
    tracker, _ = followed(world, view, regular(6))
    now, then = regular(8)[6:]
    asked = tracker.boxes(now)
    larger = view.boxes + np.array([0, 0, 0, 90])
    tracker.found(larger, np.ones(1))
    later = tracker.boxes(then)
    assert later[0, 3] - asked[0, 3] > 60
    tracker.update(world.estimate(view, asked), now)
    tracker.wants_appearances(then)
    assert np.allclose(tracker._tracks[0].crop, later[0], atol=5)


@pytest.mark.parametrize(
    ("people", "fps", "calm"),
    [
        ([stands(200), stands(600)], 30, True),
        ([stands(200)], 10, True),
        ([stands(400), stands(520)], 30, False),  # one crop may show the other
        ([Person("A", walk(200, 900))], 30, False),
        ([], 30, False),
    ],
    ids=["apart", "ten a second", "close", "runs", "nobody"],
)
def test_calm(people, fps, calm):
    world, tracker = World(people, **QUIET), new()
    film_of(world, tracker, regular(20, fps))
    assert tracker.calm is calm


@pytest.mark.parametrize("second_look", [False, True])
def test_several_batches_may_be_begun(tmp_path, second_look):
    """The same joints as one after the other; the second look at who leans is run between them."""
    bundle = bundles.save(tiny_graph(), tiny_manual(), tmp_path / "tiny.onnx")
    engine = engines.load(bundle, "openvino", Options(threads=1, batches=(1, 2)))
    estimator = Estimator(engine, bundle.manual, second_look=second_look)
    rng = np.random.default_rng(3)
    images = [rng.integers(0, 256, (120, 160, 3), np.uint8) for _ in range(6)]
    boxes = [np.array([0, 0, 30, 60]) + rng.uniform(0, 50, (n, 1)) for n in (3, 0, 1, 2, 1, 3)]
    expected = [estimator.estimate(image, own) for image, own in zip(images, boxes, strict=True)]
    answers = [estimator.begin_all([image], [own]) for image, own in zip(images, boxes, strict=True)]
    for answer, wanted in zip(answers, expected, strict=True):
        (found,) = answer()
        for field in ("joints", "scores", "covariance"):
            np.testing.assert_allclose(getattr(found, field), getattr(wanted, field), atol=1e-3)
    engine.close()
