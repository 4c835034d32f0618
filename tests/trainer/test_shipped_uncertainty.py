"""What the shipped model promises, on persons on which nothing was fitted: scores are probabilities, ellipses hold."""

import numpy as np
import pytest

from edgepose import engines
from edgepose.bundle import Bundle
from edgepose.estimator import Estimator
from trainer.data.module import select
from trainer.evaluate import predict
from trainer.recipe import DataSet
from trainer.uncertainty import reliability

SPORTS = "coco:mpii_sports/annotations.json:mpii_sports/images"


@pytest.fixture(scope="module")
def promises(shipped: Bundle, data_root):
    """Data sets -> how far their val persons bear the shipped model out."""
    engine = engines.load(shipped)
    estimator = Estimator(engine, shipped.manual)

    def kept(*sets):
        persons = [
            p for data in sets for p in select(DataSet(data=data, split="val"), shipped.skeleton, data_root).persons
        ]
        return reliability(predict(estimator, persons), shipped.skeleton, shipped.manual.ellipses.radii)

    yield kept
    engine.close()


def test_scores_are_probabilities(promises):
    """Expected calibration error, where there are heads to measure by."""
    assert promises(SPORTS)["ece"] <= 0.03


def test_ellipses_hold_what_they_say(promises):
    found = promises(SPORTS, "lsp:lspet")
    held = [found[f"ellipse_{level}"] for level in (50, 90, 95)]
    assert np.allclose(held, [0.50, 0.90, 0.95], atol=0.03)
