"""Real people, cut out of a shipped clip or in clips side by side, found and followed by the shipped networks."""

import numpy as np
import pytest

from edgepose import bundle as bundles
from edgepose import engines
from edgepose.config import Settings
from edgepose.estimator import Estimator
from edgepose.frame import Frame
from edgepose.people.association import iou
from edgepose.people.crowd import Everybody
from edgepose.people.finder import Finder
from edgepose.people.regions import Regions
from tests.people.films import clips_beside, crossing, side_by_side
from tests.people.identity import Sight, switches

SETTLED = 10  # images after which everybody has been seen often enough
FPS = 25


@pytest.fixture(scope="module", params=["edgepose-finder", "edgepose-finder-int8"])
def networks(request):
    pose, finder = bundles.load(Settings().model, role="pose"), bundles.load(request.param, role="person")
    running = [engines.load(pose), engines.load(finder)]
    yield Estimator(running[0], pose.manual), Finder(running[1], finder.manual)
    for engine in running:
        engine.close()


@pytest.fixture
def follow(networks):
    """Images -> the people in each."""

    def run(images, fps=FPS):
        crowd = Everybody(*networks, "run", {"film": Regions()})
        frames = (Frame(image, number * 10**9 // fps, number, "film") for number, image in enumerate(images))
        return [crowd.update([frame])[0] for frame in frames]

    return run


@pytest.fixture
def seen(follow):
    """Two people who stand side by side: every image's people, and the truth."""
    film = side_by_side(2, 40)
    return list(zip(film, follow(shot.image for shot in film), strict=True))[SETTLED:]


def test_both_are_there_in_every_image_under_one_id_each(seen):
    assert {frozenset(people.ids) for _, people in seen} == {frozenset({"run-1", "run-2"})}


def test_each_is_where_one_of_them_stands(seen):
    for shot, people in seen:
        alike = iou(people.boxes, np.array(list(shot.people.values())))
        assert sorted(alike.argmax(axis=1)) == [0, 1]
        assert alike.max(axis=1).min() > 0.4


def test_people_in_clips_side_by_side_keep_one_id_each(follow):
    """Two cameras' pictures as one: a person at a table, and one who signs, seen from the hips up."""
    images, columns = clips_beside()
    people = follow(images, fps=10)[2 * SETTLED :]
    middles = [[float(box[::2].mean()) for box in shot.boxes] for shot in people]
    assert len({name for shot in people for name in shot.ids}) == len(columns)
    for first, last in columns:
        assert np.mean([sum(first <= x < last for x in shot) == 1 for shot in middles]) > 0.9


def test_people_who_pass_each_other_mostly_keep_their_ids(follow):
    """They hide each other for up to a second. Not every such film holds; docs/people.md says how many."""
    films = [
        *(crossing(80, who) for who in ((0, 3), (1, 4), (0, 1))),
        *(crossing(120, who) for who in ((2, 4), (0, 3))),
        crossing(60, (1, 2)),
    ]
    held = []
    for film in films:
        sights = [
            Sight(list(shot.people), np.array(list(shot.people.values())), people.ids, people.boxes)
            for shot, people in zip(film, follow(shot.image for shot in film), strict=True)
        ]
        held.append(switches(sights, least=0.3) == 0 and len({name for sight in sights for name in sight.ids}) == 2)
    assert sum(held) >= 5
