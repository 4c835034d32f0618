"""Finding and following, by a network that is exact by construction, and by the shipped one on the shipped clip."""

import numpy as np
import pytest

from edgepose import engines, sources
from edgepose.crops import apply, box_of_joints, crop_affine
from edgepose.engines import Options
from edgepose.estimator import Estimator, Poses
from edgepose.frame import Frame
from edgepose.people.regions import Regions
from edgepose.people.search import Search, windows
from edgepose.people.single import PATIENCE, OneEach, SinglePerson
from edgepose.skeletons import MPII16
from tests.conftest import tiny_manual

JOINTS = np.random.default_rng(0).uniform(0, 1, (16, 2)) * [0.5, 1.0]  # a person one unit high


class Seeing:
    """Stands in for the estimator where the truth is known: sharp when the person is centred and of the right size."""

    skeleton = MPII16

    def __init__(self):
        self.manual = tiny_manual()
        self.person = None  # joints [16, 2] in image pixels, or nobody
        self.crops = 0
        self.expected = None  # where joints should be, as told last
        self.unsure = []  # joints that are hardly seen

    def estimate(self, image, boxes, timer=None, *, expected=None):
        n = len(boxes)
        joints, scores = np.zeros((n, 16, 2)), np.full((n, 16), 0.02)
        self.crops, self.expected = self.crops + n, expected
        for i, box in enumerate(boxes):
            joints[i] = np.mean([box[:2], box[2:]], axis=0)
            if self.person is None:
                continue
            seen = apply(crop_affine(box, (64, 64), self.manual.padding), self.person)
            inside = ((seen > 0) & (seen < 63)).all(axis=1)
            size = np.ptp(seen[:, 1]) / 64
            sharp = np.clip(1.2 - 2 * abs(size - 0.7), 0, 0.95)
            joints[i], scores[i] = self.person, np.where(inside, sharp, 0.02)
            scores[i, self.unsure] = 0.1
        return Poses(joints, scores, np.ones((n, 16, 3)))


IMAGE = np.zeros((480, 640, 3), np.uint8)


def place(x, y, height):
    return JOINTS * height + [x, y]


def frames_until_found(seeing, tracker, limit=30):
    for number in range(1, limit + 1):
        if len(tracker.update(IMAGE)):
            return number
    return None


@pytest.mark.parametrize(("width", "height"), [(640, 480), (1920, 1080), (480, 640), (500, 500), (1280, 200)])
def test_windows_cover_the_frame_at_every_size(width, height):
    boxes = windows(width, height, 1.25)
    sides = np.round((boxes[:, 2] - boxes[:, 0]) * 1.25, 3)
    for side in np.unique(sides):
        level = boxes[sides == side]
        grow = side * (1 - 1 / 1.25) / 2
        covered = np.zeros((height, width), bool)
        for x0, y0, x1, y1 in level:
            covered[max(0, round(y0 - grow + 0.5)) : round(y1 + grow + 0.5),
                    max(0, round(x0 - grow + 0.5)) : round(x1 + grow + 0.5)] = True  # fmt: skip
        assert covered.all()


@pytest.mark.parametrize(("x", "y", "height"), [(300, 60, 350), (20, 100, 300), (450, 30, 220), (250, 300, 160)])
def test_a_person_anywhere_is_found_soon(x, y, height):
    seeing = Seeing()
    seeing.person = place(x, y, height)
    tracker = SinglePerson(seeing, "r")
    assert frames_until_found(seeing, tracker) is not None
    people = tracker.update(IMAGE)
    assert np.allclose(people.boxes[0], box_of_joints(seeing.person), atol=1)


def test_a_walking_person_keeps_its_id_and_costs_one_crop_a_frame():
    seeing = Seeing()
    seeing.person = place(50, 80, 300)
    tracker = SinglePerson(seeing, "run")
    frames_until_found(seeing, tracker)
    seeing.crops = 0
    for step in range(60):
        seeing.person = place(50 + 6 * step, 80, 300)
        assert tracker.update(IMAGE).ids == ["run-1"]
        if step:
            np.testing.assert_allclose(seeing.expected[0], place(50 + 6 * (step - 1), 80, 300))
    assert seeing.crops == 60
    tracker.update(IMAGE, soon=False)
    assert seeing.expected is None
    seeing.person = None
    for unseen in range(2):
        tracker.update(IMAGE)
        assert (seeing.expected is None) == (unseen > 0)


def test_joints_that_are_unsure_for_a_moment_do_not_halve_the_crop():
    """It comes in by a tenth a frame; else the rest would be cut off and never seen again."""
    seeing = Seeing()
    seeing.person = place(300, 60, 350)
    tracker = SinglePerson(seeing, "r")
    frames_until_found(seeing, tracker)
    before = tracker.update(IMAGE).boxes[0]
    upper = JOINTS[:, 1] < 0.65
    seeing.unsure = np.flatnonzero(~upper)
    sure = box_of_joints(seeing.person, upper)
    assert max(sure[2:] - sure[:2]) < 0.7 * max(before[2:] - before[:2]), "else this shows nothing"
    for frame in (1, 2):
        np.testing.assert_allclose(tracker.update(IMAGE).boxes[0], sure + 0.9**frame * (before - sure))
    seeing.unsure = []
    tracker.update(IMAGE)
    np.testing.assert_allclose(tracker.update(IMAGE).boxes[0], box_of_joints(seeing.person))


def test_a_lost_person_is_searched_again_and_ids_never_come_back():
    seeing = Seeing()
    seeing.person = place(300, 60, 350)
    tracker = SinglePerson(seeing, "run")
    frames_until_found(seeing, tracker)
    before, seeing.person = seeing.person, None
    for _ in range(PATIENCE + 3):
        assert len(tracker.update(IMAGE)) == 0
    seeing.person = place(80, 100, 300)
    assert frames_until_found(seeing, tracker) is not None
    assert tracker.update(IMAGE).ids == ["run-2"]
    assert not np.allclose(before, seeing.person)


def test_a_short_miss_keeps_the_id():
    seeing = Seeing()
    seeing.person = person = place(300, 60, 350)
    tracker = SinglePerson(seeing, "run")
    frames_until_found(seeing, tracker)
    seeing.person = None
    for _ in range(PATIENCE - 1):
        assert len(tracker.update(IMAGE)) == 0
    seeing.person = person
    assert tracker.update(IMAGE).ids == ["run-1"]


def test_only_who_counts_is_followed():
    """Somebody in a region that is left out does not hide whoever comes into the other one."""
    seeing = Seeing()
    seeing.person = place(300, 60, 350)
    tracker = SinglePerson(seeing, "run")

    def left(box):
        return box[2] < 320

    assert not any(len(tracker.update(IMAGE, counts=left)) for _ in range(30))
    seeing.person = place(50, 60, 350)
    assert any(len(tracker.update(IMAGE, counts=left)) for _ in range(30))
    seeing.person = place(300, 60, 350)  # walks over
    assert len(tracker.update(IMAGE, counts=left)) == 0
    for _ in range(PATIENCE):
        tracker.update(IMAGE, counts=left)
    seeing.person = place(50, 60, 350)
    assert [ids for _ in range(30) if (ids := tracker.update(IMAGE, counts=left).ids)][-1] == ["run-2"]


def test_after_hours_away_somebody_in_the_same_place_is_somebody_else():
    seeing = Seeing()
    seeing.person = place(300, 60, 350)
    crowd, ids = OneEach(seeing, "run", {"cam": Regions()}), []
    for now in [*range(0, 3_000_000_000, 100_000_000), *range(8 * 3600 * 10**9, 8 * 3600 * 10**9 + 3 * 10**9, 10**8)]:
        (people,) = crowd.update([Frame(IMAGE, now, 0, "cam")])
        ids += people.ids
    assert set(ids) == {"run-1", "run-2"}
    assert ids == sorted(ids)


def test_nobody_is_nobody():
    seeing = Seeing()
    tracker = SinglePerson(seeing, "run")
    assert frames_until_found(seeing, tracker) is None
    search = Search(seeing, per_frame=4)
    seeing.crops = 0
    assert search.look(IMAGE) is None
    assert seeing.crops == 4  # a few windows per frame, so that a live loop keeps its rate


@pytest.mark.timeout(600)
def test_the_shipped_model_holds_the_person_through_the_shipped_clip(shipped, clip):
    """One person at a time walks through; where it is fully in view it is held, and its joints lie within the frame."""
    estimator = Estimator(engines.load(shipped, "auto", Options(threads=2)), shipped.manual)
    tracker = SinglePerson(estimator, "run")
    seen, ids = [], []
    with sources.open_source(str(clip)) as source:
        for frame in source:
            people = tracker.update(frame.image)
            seen.append(len(people))
            ids += people.ids
    estimator.engine.close()
    assert len(seen) == FRAMES
    assert len(set(ids)) == len(FULLY_IN_VIEW)  # six people, one after another, each under one id
    for first, last in FULLY_IN_VIEW:
        held = np.mean(seen[first:last])
        assert held > 0.95, (first, last, held)
    assert np.mean([n for first, last in EMPTY for n in seen[first:last]]) < 0.05


FRAMES = 1394
# Frames in which a person is fully seen, and in which there is nobody; read off the clip by eye.
FULLY_IN_VIEW = [(92, 185), (255, 435), (532, 680), (775, 850), (947, 1180), (1267, 1345)]
EMPTY = [(5, 50), (460, 505), (710, 745), (880, 925), (1210, 1225), (1370, 1390)]


def test_frames_without_anybody_count_in_a_row():
    seeing = Seeing()
    seeing.person = there = place(300, 60, 350)
    tracker = SinglePerson(seeing, "run")
    frames_until_found(seeing, tracker)
    for _ in range(4):
        seeing.person = None
        assert [len(tracker.update(IMAGE)) for _ in range(PATIENCE - 3)] == [0] * (PATIENCE - 3)
        seeing.person = there
        assert tracker.update(IMAGE).ids == ["run-1"]


def test_without_a_finder_joints_are_expected_where_they_were_surely_and_a_moment_ago():
    seeing = Seeing()
    seeing.person = place(300, 60, 350)
    crowd, step = OneEach(seeing, "run", {"cam": Regions()}), 40_000_000

    def update(now):
        crowd.update([Frame(IMAGE, now, 0, "cam")])

    for number in range(40):
        update(number * step)
    seeing.unsure = [0]
    update(40 * step)
    update(41 * step)
    assert np.isnan(seeing.expected[0, 0]).all()
    assert np.isfinite(seeing.expected[0, 1:]).all()
    update(41 * step + 900_000_000)
    assert seeing.expected is None


@pytest.mark.parametrize("size", [(640, 480), (1920, 1080), (1280, 200)])
def test_windows_of_a_size_overlap_by_half(size):
    boxes = windows(*size, 1.25)
    sides = np.round((boxes[:, 2] - boxes[:, 0]) * 1.25, 3)
    for side in np.unique(sides):
        for axis in (0, 1):
            steps = np.diff(np.unique(boxes[sides == side][:, axis].round(3)))
            assert (steps <= side / 2 + 0.01).all()
