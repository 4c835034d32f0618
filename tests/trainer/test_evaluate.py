"""Figures of predictions, in all and by activity."""

from dataclasses import replace

import numpy as np

from edgepose.skeletons import MPII16
from tests.trainer.test_export import _predictions
from trainer.evaluate import Predictions, figures


def test_figures_by_activity_are_of_its_own_persons():
    seen = _predictions(6)
    right = np.arange(6) < 2  # two who play golf are seen exactly, the others nowhere near
    joints = np.where(right[:, None, None], seen.truth, seen.truth + 1000)
    persons = [replace(p, activity="golf" if r else "ski") for p, r in zip(seen.persons, right, strict=True)]
    found = figures(Predictions(persons, joints, seen.scores, seen.covariance), MPII16)
    assert {name: (row["persons"], row["pckh05"]) for name, row in found["by_activity"].items()} == {
        "golf": (2, 100.0), "ski": (4, 0.0),
    }  # fmt: skip
    assert found["pckh05"] == 33.33
    assert "by_activity" not in figures(seen, MPII16)
