"""Who leans far is looked at again, turned upright: how far people lean, what it costs, and what it gives."""

from dataclasses import replace
from itertools import islice

import cv2
import numpy as np
import pytest

from edgepose import bundle as bundles
from edgepose import engines, sources
from edgepose.crops import apply, box_of_joints, crop_affine
from edgepose.engines import Options
from edgepose.estimator import Estimator
from edgepose.frame import Frame
from edgepose.people.crowd import Everybody
from edgepose.people.finder import Finder
from edgepose.people.regions import Regions
from edgepose.people.seen import joints_box
from edgepose.skeletons import SKELETONS
from edgepose.upright import apart, box_upright, lean
from tests.conftest import tiny_manual

SHOTS = (100, 330, 600, 800)  # images of the clip in which one person is fully seen
# Quarter turns clockwise -> (x, y) of an image of (width, height) as they are in the turned one.
TURNS = {
    1: (cv2.ROTATE_90_CLOCKWISE, lambda w, h: np.array([[0, -1, h - 1], [1, 0, 0]], float)),
    2: (cv2.ROTATE_180, lambda w, h: np.array([[-1, 0, w - 1], [0, -1, h - 1]], float)),
    3: (cv2.ROTATE_90_COUNTERCLOCKWISE, lambda w, h: np.array([[0, 1, 0], [-1, 0, w - 1]], float)),
}


@pytest.mark.parametrize("name", SKELETONS)
@pytest.mark.parametrize(
    ("shoulders", "degrees"), [((5, 0), 0), ((9, 5), 90), ((1, 5), -90), ((5, 9), 180), ((8, 2), 45)]
)
def test_people_lean_by_their_torso(name, shoulders, degrees):
    skeleton = SKELETONS[name]
    joints = np.full((1, len(skeleton), 2), np.nan)  # nothing but the torso is asked
    for side, across in (("left", 1.0), ("right", -1.0)):
        along = np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))]) * across
        joints[0, skeleton.index(f"{side}_hip")] = np.array([5, 5]) + along
        joints[0, skeleton.index(f"{side}_shoulder")] = np.array(shoulders) + along
    assert abs(lean(joints, skeleton)[0]) == pytest.approx(abs(degrees))
    if abs(degrees) < 180:
        assert np.sign(lean(joints, skeleton)[0]) == np.sign(degrees)


def test_directions_are_compared_round_the_circle():
    a, b = np.array([0.0, 170, -170, 90]), np.array([10.0, -170, 170, -90])
    assert apart(a, b).tolist() == [10, 20, 20, 180]


class Counting:
    """A real engine that notes the size of every batch."""

    def __init__(self, engine):
        self._engine = engine
        self.name, self.precision = engine.name, engine.precision
        self.batches = []

    def infer(self, images):
        self.batches.append(len(images))
        return self._engine.infer(images)


@pytest.fixture(
    scope="module", params=[("edgepose-s", "auto"), ("edgepose-s-int8", "reference")], ids=["float", "INT8"]
)
def running(request):
    """The default network, and its INT8 file by its eight bits, counted; its manual, and the shipped finder."""
    name, engine = request.param
    pose, finder = bundles.load(name, role="pose"), bundles.load("edgepose-finder-int8", role="person")
    opened = [engines.load(pose, engine, Options(threads=2)), engines.load(finder, "auto", Options(threads=2))]
    yield Counting(opened[0]), pose.manual, Finder(opened[1], finder.manual)
    for engine in opened:
        engine.close()


@pytest.fixture(scope="module")
def shots(running, clip):
    """Pictures with the box of the one person in each, from joints in a crop of the finder's, as the loop has it."""
    with sources.open_source(str(clip)) as source:
        images = [f.image for n, f in enumerate(islice(source, max(SHOTS) + 1)) if n in SHOTS]
    found = [running[2].find(image) for image in images]
    assert [len(f) for f in found] == [1] * len(SHOTS)
    estimator = Estimator(running[0], running[1])
    poses = [estimator.estimate(image, f.boxes) for image, f in zip(images, found, strict=True)]
    boxes = [joints_box(own, 0) for own in poses]
    assert all(box is not None for box in boxes)
    return list(zip(images, boxes, strict=True))


def turned(image, box, quarters):
    """The picture, the box and the map of coordinates after so many quarter turns."""
    code, of = TURNS[quarters]
    there = of(image.shape[1], image.shape[0])
    corners = apply(there, box.reshape(2, 2))
    return cv2.rotate(image, code), np.concatenate([corners.min(axis=0), corners.max(axis=0)]), there


@pytest.mark.parametrize("quarters", TURNS)
def test_a_rolled_camera_sees_people_nearly_as_an_upright_one_does(running, shots, quarters):
    engine, manual, _ = running
    once, twice = Estimator(engine, manual), Estimator(engine, manual, second_look=True)
    apart = {once: [], twice: []}
    for image, box in shots:
        truth = once.estimate(image, box[None]).joints[0]
        rolled, around, there = turned(image, box, quarters)
        for estimator, errors in apart.items():
            found = estimator.estimate(rolled, around[None]).joints[0]
            errors.append(np.linalg.norm(found - apply(there, truth), axis=1) / max(box[2:] - box[:2]))
    far = {estimator: np.mean(np.array(errors) > 0.05) for estimator, errors in apart.items()}
    assert far[once] > 0.4  # or the second look would not be needed
    assert far[twice] < far[once] / 2


def test_a_second_look_costs_a_crop_of_who_leans_alone(running, shots):
    engine, manual, _ = running
    once, twice = Estimator(engine, manual), Estimator(engine, manual, second_look=True)
    (image, box), (other, around, _) = shots[0], turned(*shots[1], 2)
    engine.batches.clear()
    both = twice.estimate_all([image, other], [box[None], around[None]])
    assert engine.batches == [2, 1]
    alone = once.estimate(image, box[None])
    for field in ("joints", "scores", "covariance"):
        np.testing.assert_allclose(getattr(both[0], field), getattr(alone, field), atol=0.05)
    engine.batches.clear()
    assert len(twice.estimate(image, np.zeros((0, 4)))) == 0
    assert engine.batches == []


class Scripted:
    """An engine that gives one batch of heatmaps after the other, whatever it sees."""

    name, precision = "scripted", "float32"

    def __init__(self, *batches):
        self._batches = list(batches)

    def infer(self, images):
        return self._batches.pop(0)


def drawn(places, peak):
    """Heatmaps [1, 16, 16, 16]: a peak at each joint's (x, y), twice as broad downwards as across."""
    y, x = np.mgrid[:16, :16]
    maps = [np.exp(-((x - px) ** 2) / 2 - (y - py) ** 2 / 8) for px, py in places]
    return np.float32(peak * np.array(maps))[None]


def test_where_joints_should_be_is_told_in_pixels_of_the_picture():
    """Both knees' maps peak at the left one; where they were a moment ago tells that the right one stands elsewhere."""
    skeleton = SKELETONS["mpii16"]
    left, right = skeleton.index("left_knee"), skeleton.index("right_knee")
    maps = drawn(np.tile([3.0, 8], (16, 1)), 0.9)
    maps[0, right] += drawn(np.tile([12.0, 8], (16, 1)), 0.6)[0, right]
    manual = tiny_manual()
    manual = manual.model_copy(update={"decode": manual.decode.model_copy(update={"mirror_ratio": 0.7})})
    image, box = np.zeros((100, 100, 3), np.uint8), np.array([[10.0, 20, 60, 90]])
    alone = Estimator(Scripted(maps), manual).estimate(image, box)
    assert np.allclose(alone.joints[0, left], alone.joints[0, right])
    expected = np.full((1, 16, 2), np.nan)
    expected[0, left] = alone.joints[0, left] + [2, 0]
    expected[0, right] = alone.joints[0, left] + [45, -3]  # 9 cells to the right, of 5.5 pixels each
    (found,) = Estimator(Scripted(maps), manual).estimate_all([image], [box], expected=[expected])
    assert np.allclose(found.joints[0, left], alone.joints[0, left])
    assert 40 < found.joints[0, right, 0] - found.joints[0, left, 0] < 60
    assert found.scores[0, right] < found.scores[0, left]


def test_an_ellipse_turns_with_its_crop():
    """Who lies is seen upright in the second look: what is broad downwards there is broad along the body's length."""
    skeleton = SKELETONS["mpii16"]
    upper = np.array(
        ["hip" not in j and "knee" not in j and "ankle" not in j and j != "pelvis" for j in skeleton.joints]
    )
    lying, standing = np.tile([8.0, 8], (16, 1)), np.tile([8.0, 8], (16, 1))
    lying[:, 0], standing[:, 1] = np.where(upper, 11, 5), np.where(upper, 5, 11)
    image, box = np.zeros((100, 100, 3), np.uint8), np.array([[10.0, 10, 90, 90]])
    manual = tiny_manual()
    once = Estimator(Scripted(drawn(lying, 0.7)), manual).estimate(image, box)
    engine = Scripted(drawn(lying, 0.7), drawn(standing, 0.9))
    found = Estimator(engine, manual, second_look=True).estimate(image, box)
    assert found.scores.min() > once.scores.max()
    shoulder, hip = (found.joints[0, skeleton.index(f"left_{j}")] for j in ("shoulder", "hip"))
    assert shoulder[0] - hip[0] > 20  # it still lies, in the image
    assert shoulder[1] == pytest.approx(hip[1], abs=1)
    assert (once.covariance[0, :, 2] > 2 * once.covariance[0, :, 0]).all()
    assert (found.covariance[0, :, 0] > 2 * found.covariance[0, :, 2]).all()
    # The same answers in the other order: the less sure look does not count.
    engine = Scripted(drawn(lying, 0.9), drawn(standing, 0.7))
    kept = Estimator(engine, manual, second_look=True).estimate(image, box)
    assert np.allclose(kept.scores, found.scores)
    assert (kept.covariance[0, :, 2] > 2 * kept.covariance[0, :, 0]).all()
    # Nor does one that says the person lies the other way round.
    engine = Scripted(drawn(lying, 0.7), drawn(standing * [1, -1] + [0, 16], 0.9))
    kept = Estimator(engine, manual, second_look=True).estimate(image, box)
    assert np.allclose(kept.joints, once.joints)


@pytest.mark.parametrize("turn", [0, 30, 90, 135, -60])
def test_the_second_crop_holds_a_body_that_lies_across(turn):
    """A body along the diagonal is longer than its box; turned upright it must not be cut off."""
    body = np.array([[0.0, 0], [10, 0], [20, 0], [30, 0], [100, 0], [50, 8]]) + 200
    leaning = np.radians(-turn - 90)
    along = np.array([[np.cos(leaning), -np.sin(leaning)], [np.sin(leaning), np.cos(leaning)]])
    joints = (body - body.mean(axis=0)) @ along.T + 200
    around = box_of_joints(joints)
    box = box_upright(joints, turn, around)
    assert (box[:2] + box[2:]) / 2 == pytest.approx((around[:2] + around[2:]) / 2)
    seen = apply(crop_affine(box, (128, 128), 1.25, rotation=turn), joints)
    assert seen.min() >= 12  # what the padding leaves
    assert seen.max() <= 115
    assert np.ptp(seen[:, 1]) > 0.8 * 128 / 1.25  # upright, and no smaller than need be
    larger = box_upright(joints, turn, np.array([0.0, 175, 400, 225]))
    assert larger.tolist() == [0, 0, 400, 400]


@pytest.mark.parametrize("quarters", [1, 2])
def test_who_lies_or_hangs_is_found_and_followed(running, clip, quarters):
    """Eighty pictures of the clip, turned: one person, one id, from the finder to the tracker."""
    engine, manual, finder = running
    crowd = Everybody(Estimator(engine, manual, second_look=True), finder, "run", {"film": Regions()})
    with sources.open_source(str(clip)) as source:
        images = [frame.image for frame in islice(source, 300, 380)]
    counts, ids = [], set()
    for number, image in enumerate(images):
        frame = Frame(np.ascontiguousarray(np.rot90(image, -quarters)), number * 40_000_000, number, "film")
        (people,) = crowd.update([frame])
        counts.append(len(people))
        ids |= set(people.ids)
    assert len(ids) == 1
    assert max(counts) == 1
    assert np.mean(counts[20:]) > 0.95


def test_furniture_stays_furniture(clip):
    """The foot of the room's table has four limbs and lies: with too low a bar the larger network follows it."""
    pose, found = bundles.load("edgepose-l-int8", role="pose"), bundles.load("edgepose-finder", role="person")
    opened = [engines.load(b, "auto", Options(threads=2)) for b in (pose, found)]
    estimator, finder = Estimator(opened[0], pose.manual, second_look=True), Finder(opened[1], found.manual)
    crowd = Everybody(estimator, finder, "run", {"film": Regions()})
    with sources.open_source(str(clip)) as source:
        for number, frame in enumerate(islice(source, 62)):
            (people,) = crowd.update([replace(frame, camera="film")])
            assert len(people) == 0, number
    for engine in opened:
        engine.close()
