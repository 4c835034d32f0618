"""Everybody of several cameras: in a world whose truth is known, and with real bundles whose maps are exact."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from edgepose import bundle as bundles
from edgepose import engines
from edgepose.bundle import Bundle, Decode, Manual
from edgepose.crops import box_of_joints
from edgepose.engines import Options
from edgepose.estimator import Estimator, Poses
from edgepose.frame import Frame
from edgepose.people.association import iou
from edgepose.people.crowd import Everybody
from edgepose.people.finder import Finder, Found
from edgepose.people.regions import Regions
from edgepose.people.single import OneEach
from edgepose.people.smooth import KINDS
from edgepose.people.tracker import Following
from edgepose.skeletons import MPII16
from tests.conftest import tiny_graph, tiny_manual
from tests.people.world import STANDING

WIDTH, HEIGHT = 640, 480
STEP = 40_000_000  # ns between frames
LEFT = [(0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)]


def stands(x, y=400, height=300):
    """Joints [16, 2] of a person of ``height`` whose feet are at (x, y), pixels."""
    return np.array([x, y]) + height * STANDING


class Seeing:
    """Stands in for estimator and finder: an image's first pixel is the number of its scene, a list of people."""

    skeleton = MPII16

    def __init__(self, *scenes):
        self.manual = tiny_manual()
        self.scenes = [list(people) for people in scenes]
        self.coats = []  # what only the finder takes for people
        self.batches = []  # crops per image of each batch
        self.looks = Counter()
        self.turned = []  # (scene, whether that look was turned)
        self.expected = []  # where joints should be, of each batch

    def of(self, image):
        return self.scenes[int(image[0, 0, 0])]

    def estimate(self, image, boxes, timer=None, *, expected=None):
        return self.estimate_all([image], [boxes])[0]

    def estimate_all(self, images, boxes, timer=None, *, expected=None):
        return self.begin_all(images, boxes, expected=expected)()

    def begin_all(self, images, boxes, timer=None, *, expected=None):
        self.expected.append(expected)
        self.batches.append([len(b) for b in boxes])
        found = [self._answers(self.of(image), own) for image, own in zip(images, boxes, strict=True)]
        return lambda: found

    def find(self, image, timer=None, *, turned=False):
        return self.begin(image, timer, turned=turned)()

    def begin(self, image, timer=None, *, turned=False):
        self.looks[int(image[0, 0, 0])] += 1
        self.turned.append((int(image[0, 0, 0]), turned))
        people = self.of(image) + self.coats
        return lambda: Found(np.array([box_of_joints(p) for p in people]).reshape(-1, 4), np.full(len(people), 0.9))

    def _answers(self, people, boxes):
        n = len(boxes)
        joints, scores = np.zeros((n, 16, 2)), np.full((n, 16), 0.02)
        for i, box in enumerate(boxes):
            joints[i] = (box[:2] + box[2:]) / 2
            if people:
                fits = iou(box[None], np.array([box_of_joints(p) for p in people]))[0]
                if fits.max() > 0.2:
                    joints[i], scores[i] = people[int(fits.argmax())], 0.9
        return Poses(joints, scores, np.ones((n, 16, 3)) * [1, 0, 1])


def frame(scene, number, camera):
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[0, 0, 0] = scene
    return Frame(image, 10**15 + number * STEP, number, camera)


def everybody(seeing, regions, **rest):
    return Everybody(seeing, seeing, "run", regions, **rest)


def film(crowd, cameras, frames=10, start=0, each=lambda number: None):
    """The people of every frame: a list per camera."""
    seen = {name: [] for name in cameras}
    for number in range(start, start + frames):
        each(number)
        shown = [frame(scene, number, name) for scene, name in enumerate(cameras)]
        for name, people in zip(cameras, crowd.update(shown), strict=True):
            seen[name].append(people)
    return seen


def ids(people):
    return {name for each in people for name in each.ids}


def test_the_crops_of_all_cameras_are_one_batch():
    seeing = Seeing([stands(150), stands(450)], [stands(300)], [])
    cameras = ["door", "hall", "empty"]
    seen = film(everybody(seeing, {c: Regions() for c in cameras}), cameras)
    assert seeing.batches == [[2, 1, 0]] * 10
    assert [len(seen[c][-1]) for c in cameras] == [2, 1, 0]
    for name, there in zip(cameras, seeing.expected[-1], strict=True):  # where joints should be, who stands
        np.testing.assert_allclose(there, seen[name][-1].poses.joints, atol=1e-6)
    for name, people in zip(cameras, seeing.scenes, strict=True):
        joints = seen[name][-1].poses.joints
        assert sorted(map(tuple, joints.mean(axis=1).round(6))) == sorted(
            tuple(np.mean(p, axis=0).round(6)) for p in people
        )


def test_ids_of_different_cameras_differ():
    seeing = Seeing([stands(150), stands(450)], [stands(300)])
    seen = film(everybody(seeing, {"door": Regions(), "hall": Regions()}), ["door", "hall"])
    assert ids(seen["door"]) == {"run-door-1", "run-door-2"}
    assert ids(seen["hall"]) == {"run-hall-1"}


def test_the_ids_of_one_camera_do_not_name_it():
    seen = film(everybody(Seeing([stands(150)]), {"door": Regions()}), ["door"])
    assert ids(seen["door"]) == {"run-1"}


def test_a_camera_without_a_frame_is_left_alone():
    seeing = Seeing([stands(150)], [stands(450)])
    crowd = everybody(seeing, {"door": Regions(), "hall": Regions()})
    film(crowd, ["door", "hall"], 5)
    for number in range(5, 9):
        (people,) = crowd.update([frame(1, number, "hall")])
        assert people.ids == ["run-hall-1"]
    both = crowd.update([frame(1, 9, "hall"), frame(0, 9, "door")])  # in any order
    assert [p.ids for p in both] == [["run-hall-1"], ["run-door-1"]]
    assert crowd.update([]) == []


def test_the_finder_looks_now_and_then():
    """Where everybody is seen and where nobody is; each camera for itself."""
    seeing = Seeing([stands(150)], [])
    film(
        everybody(seeing, {"door": Regions(), "empty": Regions()}, following=Following(every=4)), ["door", "empty"], 12
    )
    assert seeing.looks == {0: 3, 1: 4}


@pytest.mark.parametrize(
    ("every", "step", "looks"),
    [(5, 1, 4), (1, 1, 12), (5, 2, 6), (5, 3, 12), (5, 0, 12), (5, 1e-3, 2)],
    ids=["25 a second", "at every frame", "12 a second", "8 a second", "a clock that stands", "one that nearly does"],
)
def test_an_empty_room_is_looked_at_some_ten_times_a_second(every, step, looks):
    assert watched({0: []}, 12, every=every, at=lambda number: step * number) == ([0] * 12, looks)


def test_who_comes_is_seen_also_where_the_clock_stands():
    assert watched({0: [], 5: [stands(150)]}, 9, every=5, at=lambda _: 0)[0] == [0] * 5 + [1] * 4


def test_an_empty_room_is_looked_at_where_the_clock_is_set_back():
    assert watched({0: []}, 3, every=5, at=lambda number: -number) == ([0] * 3, 3)


def test_who_comes_into_an_empty_room_is_seen_at_the_next_look_and_from_then_on():
    assert watched({0: [], 4: [stands(150)]}, 9, every=100) == ([0] * 6 + [1] * 3, 3)


def watched(scenes, frames, *, every, at=lambda number: number):
    """Crops of each frame, and looks of the finder; ``scenes``: frame -> who is there from it on; ``at``: its time."""
    seeing = Seeing([])
    crowd = everybody(seeing, {"door": Regions()}, following=Following(every=every))
    for number in range(frames):
        seeing.scenes[0] = scenes.get(number, seeing.scenes[0])
        crowd.update([frame(0, at(number), "door")])
    return [crops for (crops,) in seeing.batches], seeing.looks[0]


SOMEBODY_COMES = {0: [stands(150)], 4: [stands(150), stands(450)]}


def test_while_everybody_is_seen_the_finder_looks_beside_and_the_next_frame_knows():
    assert watched(SOMEBODY_COMES, 8, every=4) == ([1, 1, 1, 1, 1, 2, 2, 2], 2)


def test_who_looks_at_every_frame_knows_at_once():
    assert watched(SOMEBODY_COMES, 8, every=1) == ([1, 1, 1, 1, 2, 2, 2, 2], 8)


def test_what_was_seen_too_long_ago_does_not_count():
    """At 5 frames a second somebody who walks is elsewhere by then: the look is at the frame itself."""
    found = watched(SOMEBODY_COMES, 8, every=4, at=lambda number: 5 * number)
    assert found == ([1, 1, 1, 1, 2, 2, 2, 2], 2)


@pytest.mark.parametrize("jump", [-50, 5], ids=["the clock is set back", "the camera was away"])
def test_what_was_seen_before_a_jump_in_time_does_not_count(jump):
    """The look of frame 4 sees two people; in frame 5 one of them is no longer there."""
    scenes = SOMEBODY_COMES | {5: [stands(150)]}
    found = watched(scenes, 6, every=4, at=lambda number: number + (jump if number == 5 else 0))
    assert found == ([1] * 6, 3)


def test_while_somebody_is_lost_the_finder_sees_the_frame_itself():
    assert watched({0: [stands(150)], 5: [], 7: [stands(450)]}, 8, every=100) == ([1] * 7 + [2], 3)


def test_who_is_lost_beside_a_look_is_looked_for_again():
    """In frame 4 somebody is lost while a look is on its way; that of frame 5 counts alone."""
    scenes = {0: [stands(150)], 4: [stands(600)], 5: [stands(450)]}
    assert watched(scenes, 6, every=4) == ([1] * 5 + [2], 3)


def test_of_several_cameras_one_is_looked_at_beside_and_each_has_its_turn():
    seeing = Seeing(*[[stands(150)] for _ in range(3)])
    cameras = ["door", "hall", "yard"]
    crowd = everybody(seeing, {c: Regions() for c in cameras}, following=Following(every=2))
    film(crowd, cameras, 1)
    assert seeing.looks == {0: 1, 1: 1, 2: 1}  # nobody was followed yet: all at once
    film(crowd, cameras, 31, start=1)
    assert seeing.looks == {0: 11, 1: 11, 2: 11}


def test_whom_the_finder_sees_in_the_wrong_place_costs_no_crop():
    seeing = Seeing([stands(150), stands(450)], [stands(150), stands(450)])
    regions = {"left": Regions(only=[LEFT]), "right": Regions(ignore=[LEFT])}
    seen = film(everybody(seeing, regions), ["left", "right"])
    assert seeing.batches == [[1, 1]] * 10
    assert np.allclose(seen["left"][-1].poses.joints[0], stands(150))
    assert np.allclose(seen["right"][-1].poses.joints[0], stands(450))


def test_the_small_cost_no_crop():
    seeing = Seeing([stands(150, height=100), stands(450)])
    film(everybody(seeing, {"door": Regions(min_size=0.5)}), ["door"])
    assert seeing.batches == [[1]] * 10


def test_who_walks_out_of_the_region_is_not_published_and_comes_back_with_the_same_id():
    seeing = Seeing([stands(150)])

    def walk(number):
        seeing.scenes[0] = [stands(150 + 15 * min(number, 40 - number))]

    seen = film(everybody(seeing, {"door": Regions(only=[LEFT])}), ["door"], 41, each=walk)["door"]
    there = [bool(people) for people in map(len, seen)]
    assert there == [n >= 2 and 150 + 15 * min(n, 40 - n) < WIDTH / 2 for n in range(41)]
    assert ids(seen) == {"run-1"}


@pytest.mark.parametrize(
    ("of_camera", "of_all", "expected"), [(2, 8, 2), (None, 3, 3), (1, 1, 1), (None, 8, 4)], ids=str
)
def test_no_more_than_most_are_followed(of_camera, of_all, expected):
    seeing = Seeing([stands(80 + 160 * n, height=200 + 30 * n) for n in range(4)])
    crowd = everybody(seeing, {"door": Regions(most=of_camera)}, following=Following(most=of_all))
    seen = film(crowd, ["door"])["door"]
    assert seeing.batches == [[expected]] * 10
    assert len(seen[-1]) == expected


@pytest.mark.parametrize("missed", [1000, 12], ids=["always seen", "now and then unseen"])
def test_who_stays_outside_leaves_the_place_to_others(missed):
    """One place, and the first person walks out of the zone but stays in view: whoever then stands in it is found."""
    seeing = Seeing([stands(150)])

    def walk(number):
        first = [] if number > 20 and number % missed == 0 else [stands(min(150 + 15 * number, 560))]
        seeing.scenes[0] = first + ([stands(150)] if number > 40 else [])

    seen = film(everybody(seeing, {"door": Regions(only=[LEFT], most=1)}), ["door"], 90, each=walk)["door"]
    assert seen[5].ids == ["run-1"]
    assert not seen[35].ids
    assert seen[-1].ids == ["run-2"]
    assert seeing.batches[-1] == [1]


def test_a_large_coat_does_not_keep_the_only_place_from_a_person():
    """The finder takes it for somebody, the pose network does not."""
    seeing = Seeing([stands(500, height=200)])
    seeing.coats = [stands(150, height=350)]
    seen = film(everybody(seeing, {"door": Regions(most=1)}), ["door"], 60)["door"]
    assert seen[-1].ids == ["run-1"]
    assert seen[-1].boxes[0, 0] > 400


@pytest.mark.parametrize("lying", [True, False])
def test_every_third_look_at_each_camera_is_for_people_who_lie(lying):
    seeing = Seeing([], [stands(300)])
    film(everybody(seeing, {"empty": Regions(), "hall": Regions()}, lying=lying), ["empty", "hall"], 30)
    for scene in (0, 1):
        turned = [was for which, was in seeing.turned if which == scene]
        assert turned == [lying and (n + 1) % 3 == 0 for n in range(len(turned))]
        assert len(turned) >= 6


def test_the_largest_are_the_most():
    seeing = Seeing([stands(80 + 160 * n, height=200 + 30 * n) for n in range(4)])
    people = film(everybody(seeing, {"door": Regions(most=2)}), ["door"])["door"][-1]
    assert sorted(people.poses.joints[:, 6, 0].round()) == [400, 560]


@pytest.mark.parametrize("kind", KINDS)
def test_smoothing_gives_motion(kind):
    """Who walks at 150 pixels per second is seen to; who stands, to stand. The joints are the motion's."""
    seeing = Seeing([stands(100)], [stands(300)])

    def walk(number):
        seeing.scenes[0] = [stands(100 + 6 * number)]

    crowd = everybody(seeing, {"walks": Regions(), "stands": Regions()}, smoothing=kind)
    seen = film(crowd, ["walks", "stands"], 60, each=walk)
    for name, speed in (("walks", 150), ("stands", 0)):
        people = seen[name][-1]
        assert people.motion is not None
        assert people.motion.velocity.shape == (1, 16, 2)
        assert np.array_equal(people.poses.joints, people.motion.joints)
        assert np.array_equal(people.poses.covariance, people.motion.covariance)
        assert np.allclose(people.motion.velocity, [speed, 0], atol=8)
        assert all(p.motion is not None for p in seen[name])  # also of nobody
    if kind == "off":
        assert np.array_equal(seen["walks"][-1].poses.joints[0], seeing.scenes[0][0])


def one_each(seeing, regions, **rest):
    return OneEach(seeing, "run", regions, **rest)


@pytest.mark.parametrize("first", range(36, 41))
@pytest.mark.parametrize("kind", [everybody, one_each])
def test_after_images_of_another_size_everybody_is_found_anew(kind, first):
    """At half the size, which is half the place."""
    seeing = Seeing([stands(400)])
    crowd, sizes = kind(seeing, {"door": Regions()}), [(HEIGHT, WIDTH), (HEIGHT // 2, WIDTH // 2)]

    def seen(size, numbers):
        image = np.zeros((*size, 3), np.uint8)
        return ids(crowd.update([Frame(image, 10**15 + number * STEP, number, "door")])[0] for number in numbers)

    assert seen(sizes[0], range(first)) == {"run-1"}
    seeing.scenes[0] = [stands(400) / 2]
    looks = seeing.looks[0]
    assert "run-1" not in seen(sizes[1], [first])
    assert seeing.looks[0] > looks or kind is one_each  # the finder looks at once
    assert seen(sizes[1], range(first + 1, 80)) == {"run-2"}


@pytest.mark.parametrize("kind", [everybody, one_each])
def test_utc_that_is_set_forward_costs_nobody_their_id(kind):
    """As by the first synchronisation on a board without a clock of its own."""
    crowd, shown = kind(Seeing([stands(400)]), {"door": Regions()}, smoothing="kalman"), []
    for number in range(80):
        utc = 10**15 + number * STEP + (number >= 40) * 3_600 * 10**9
        image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        shown += crowd.update([Frame(image, utc, number, "door", monotonic_ns=number * STEP)])
    assert ids(shown) == {"run-1"}
    assert all(len(people) for people in shown[39:])


def test_one_each_is_one_person_per_camera():
    seeing = Seeing([stands(150)], [stands(450)], [])
    cameras = ["door", "hall", "empty"]
    seen = film(one_each(seeing, {c: Regions() for c in cameras}), cameras, 40)
    assert [seen[c][-1].ids for c in cameras] == [["run-door-1"], ["run-hall-1"], []]
    for name, x in (("door", 150), ("hall", 450)):
        assert np.allclose(seen[name][-1].poses.joints[0], stands(x))
        assert seen[name][-1].motion is not None


def test_one_each_keeps_to_the_regions():
    seeing = Seeing([stands(150)], [stands(150)])
    seen = film(one_each(seeing, {"in": Regions(only=[LEFT]), "out": Regions(ignore=[LEFT])}), ["in", "out"], 40)
    assert ids(seen["in"]) == {"run-in-1"}
    assert ids(seen["out"]) == set()


def test_one_camera_alone_has_short_ids():
    assert ids(film(one_each(Seeing([stands(150)]), {"door": Regions()}), ["door"], 40)["door"]) == {"run-1"}


# --- real networks: what they answer is in their maps ------------------------------------------------


def constant(maps, name="constant"):
    """An ONNX graph with the contract's input that answers ``maps`` [C, 16, 16] to every image of 64 x 64."""
    from onnx import TensorProto, helper, numpy_helper

    channels = len(maps)
    weights = {
        "nothing": np.zeros((channels, 3, 1, 1), np.float32),
        "maps": np.asarray(maps, np.float32)[None],
    }
    graph = helper.make_graph(
        [
            helper.make_node("AveragePool", ["image"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]),
            helper.make_node("Conv", ["pooled", "nothing"], ["zero"]),
            helper.make_node("Add", ["zero", "maps"], ["heatmaps"]),
        ],
        name,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 64, 64])],
        [helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, ["N", channels, 16, 16])],
        [numpy_helper.from_array(value, key) for key, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def finder_of_the_middle(path: Path) -> Bundle:
    """A finder that sees one person, in the middle of every image: a square of half the image's longer side."""
    maps = np.zeros((5, 16, 16))
    maps[0, 8, 8] = 0.9
    maps[1:3] = np.log(8)
    maps[3:] = -0.5  # from cell 8 to the middle between cells 7 and 8
    return bundles.save(constant(maps), Manual(name="middle", role="person", input_size=(64, 64)), path)


def person_of_every_crop(path: Path) -> Bundle:
    """A pose network that sees a person fill every crop, joints on a square grid: the box of the joints is its own."""
    places = [(x, y) for y in (1, 5, 10, 14) for x in (1, 5, 10, 14)]
    cells = np.arange(16)
    maps = [0.9 * np.exp(-((cells - x) ** 2 + (cells[:, None] - y) ** 2) / 2) for x, y in places]
    manual = tiny_manual(name="filled", padding=64 / 52, decode=Decode(method="argmax"))
    return bundles.save(constant(maps), manual, path)


class Counting:
    """A real engine that notes the size of every batch."""

    def __init__(self, bundle):
        self._engine = engines.load(bundle, "onnxruntime", Options(threads=1))
        self.name, self.precision = self._engine.name, self._engine.precision
        self.batches = []

    def infer(self, inputs):
        self.batches.append(len(inputs))
        return self._engine.infer(inputs)


def test_all_of_several_images_are_what_each_is_alone(tmp_path):
    bundle = bundles.save(tiny_graph(), tiny_manual(), tmp_path / "tiny.onnx")
    engine = Counting(bundle)
    estimator = Estimator(engine, bundle.manual)
    rng = np.random.default_rng(3)
    images = [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((120, 160), (90, 90), (200, 60), (64, 64))]
    boxes = [np.array([0, 0, 30, 60]) + rng.uniform(0, 50, (n, 1)) for n in (3, 0, 1, 2)]
    together = estimator.estimate_all(images, boxes)
    assert engine.batches == [6]
    for image, own, poses in zip(images, boxes, together, strict=True):
        alone = estimator.estimate(image, own)
        assert len(poses) == len(own)
        for field in ("joints", "scores", "covariance"):
            np.testing.assert_allclose(getattr(poses, field), getattr(alone, field), atol=1e-3)
    assert engine.batches == [6, 3, 1, 2]  # nobody is no batch
    assert [len(p) for p in estimator.estimate_all(images, [np.zeros((0, 4))] * 4)] == [0] * 4
    assert estimator.estimate_all([], []) == []
    assert engine.batches == [6, 3, 1, 2]


def test_finder_and_network_together(tmp_path):
    """The real ones: one person in the middle of each image, whatever its size, in one batch."""
    pose, finder = person_of_every_crop(tmp_path / "pose.onnx"), finder_of_the_middle(tmp_path / "finder.onnx")
    engine = Counting(pose)
    sizes = {"wide": (320, 240), "tall": (120, 200)}
    crowd = Everybody(
        Estimator(engine, pose.manual),
        Finder(Counting(finder), finder.manual),
        "run",
        {name: Regions() for name in sizes},
    )
    for number in range(40):
        shown = [Frame(np.zeros((h, w, 3), np.uint8), number * STEP, number, name) for name, (w, h) in sizes.items()]
        found = crowd.update(shown)
    assert engine.batches == [2] * 40
    for (name, (width, height)), people in zip(sizes.items(), found, strict=True):
        assert people.ids == [f"run-{name}-1"]
        middle, half = np.array([width - 1, height - 1]) / 2, max(width, height) / 4
        assert np.allclose(people.boxes[0], [*(middle - half), *(middle + half)], atol=0.5)
        assert np.allclose(people.poses.person_scores, 0.9, atol=1e-3)
