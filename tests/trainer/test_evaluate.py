"""Figures of predictions, in all and by activity."""

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from edgepose import EdgeposeError
from edgepose.skeletons import MPII16
from tests.trainer.test_export import _predictions
from trainer.cli import app
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


def test_data_may_name_their_own_splits():
    command = ["evaluate", "edgepose-s", "--limit", "2", "--json", "--data", "synth:3@all", "--data", "synth:3:1"]
    found = CliRunner().invoke(app, command)
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    assert (told["data"], told["split"], told["persons"]) == (["synth:3", "synth:3:1"], "all", 2)
    for more in (["--split", "vla"], ["--data", "synth:3@vla"]):
        with pytest.raises(EdgeposeError, match="unknown split 'vla'; did you mean 'val'"):
            CliRunner().invoke(app, [*command, *more], catch_exceptions=False)
