"""Real people, cut out of the shipped clip, found and followed by the shipped networks."""

import numpy as np
import pytest

from edgepose import bundle as bundles
from edgepose import engines
from edgepose.estimator import Estimator
from edgepose.frame import Frame
from edgepose.people.association import iou
from edgepose.people.crowd import Everybody
from edgepose.people.finder import Finder
from edgepose.people.regions import Regions
from tests.people.films import side_by_side

SETTLED = 10  # images after which both have been seen often enough


@pytest.fixture(scope="module")
def seen():
    """Two people who stand side by side: every image's people, and the truth."""
    pose, finder = bundles.load("edgepose-first"), bundles.load("edgepose-finder", role="person")
    estimator = Estimator(engines.load(pose), pose.manual)
    crowd = Everybody(estimator, Finder(engines.load(finder), finder.manual), "run", {"film": Regions()})
    film = side_by_side(2, 40)
    frames = [Frame(shot.image, number * 40_000_000, number, "film") for number, shot in enumerate(film)]
    return list(zip(film, (crowd.update([frame])[0] for frame in frames), strict=True))[SETTLED:]


def test_both_are_there_in_every_image_under_one_id_each(seen):
    assert {frozenset(people.ids) for _, people in seen} == {frozenset({"run-1", "run-2"})}


def test_each_is_where_one_of_them_stands(seen):
    for shot, people in seen:
        alike = iou(people.boxes, np.array(list(shot.people.values())))
        assert sorted(alike.argmax(axis=1)) == [0, 1]
        assert alike.max(axis=1).min() > 0.4
