"""Occlusion by hand on the tiny bundle, and on real persons with the shipped model."""

import numpy as np
import pytest

from edgepose import EdgeposeError, engines
from edgepose import bundle as bundles
from edgepose.crops import apply, crop_affine
from edgepose.estimator import Estimator
from trainer.data.persons import load
from trainer.data.splits import side
from trainer.explain.occlusion import defaults, occlusion
from trainer.explain.views import view


def test_only_squares_on_the_peaks_own_cell_make_it_fall(tiny):
    """The tiny network sees 4 x 4 pixels per cell, so what each square does is known exactly."""
    engine = engines.load(tiny)
    image = np.random.default_rng(3).uniform(0, 255, (3, 64, 64)).astype(np.float32)
    heatmaps = engine.infer(image[None])[0].copy()
    grey = engine.infer(np.full((1, 3, 64, 64), 114, np.float32))[0, :, 0, 0].copy()
    found = occlusion(engine, image, square=4, step=4)
    assert found.drop.shape == (16, 16, 16)
    for k in range(16):
        row, col = np.divmod(heatmaps[k].argmax(), 16)
        expected = np.zeros((16, 16))
        expected[row, col] = heatmaps[k].max() - grey[k]
        assert np.allclose(found.drop[k], expected, atol=1e-5)
        if expected[row, col] > 0:
            assert found.strongest()[k].tolist() == [4 * col + 1.5, 4 * row + 1.5]
            top = np.unravel_index(found.share()[k].argmax(), (64, 64))
            assert (top[0] // 4, top[1] // 4) == (row, col)
    # Squares that are larger than the step overlap: three by three of them cover the cell.
    covered = occlusion(engine, image, square=12, step=4).drop != 0
    assert (covered.sum((1, 2)) <= 9).all()
    assert (covered.sum((1, 2)) >= 4).all()


def test_squares_that_do_not_fit_are_refused():
    assert defaults((192, 256)) == (32, 12)
    with pytest.raises(EdgeposeError, match="occlusion square 65 does not fit a crop of 64x64 pixels; choose 1 to 64"):
        defaults((64, 64), 65, 1)
    with pytest.raises(EdgeposeError, match="occlusion step -1 does not fit"):
        defaults((64, 64), 8, -1)


@pytest.mark.parametrize(("name", "least"), [("edgepose-first", 0.95), ("edgepose-s", 0.75)])
def test_found_joints_stand_on_the_picture_around_them(name, least, data_root):
    """Joints that are right and sure fall most where they are covered: within a head length, far above chance.

    Nearly all do with a network that goes by the picture alone; edgepose-s knows more of where a joint must be.
    """
    shipped = bundles.load(name)
    estimator = Estimator(engines.load(shipped, "auto", engines.Options(threads=1)), shipped.manual)
    skeleton = estimator.skeleton
    persons = load("coco:mpii_sports/annotations.json:mpii_sports/images", data_root)
    chosen = [p for p in persons.persons if side(persons.name, p.group) == "dev" and p.labelled.all()][6::48]
    near, shuffled, chance = [], [], []
    for person in chosen:
        seen = view(estimator, person)
        size = shipped.manual.input_size
        truth = apply(crop_affine(person.box, size, shipped.manual.padding), person.joints)
        head = np.linalg.norm(truth[skeleton.index("head_top")] - truth[skeleton.index("upper_neck")])
        sure = (np.linalg.norm(seen.joints - truth, axis=1) < head / 2) & (seen.scores > 0.8)
        found = occlusion(estimator.engine, seen.image, square=32, step=24)
        grid = np.stack(np.meshgrid(*(np.arange(s) for s in size)), axis=-1).reshape(-1, 1, 2)
        at = found.strongest()
        near += (np.linalg.norm(at - truth, axis=1) < head)[sure].tolist()
        shuffled += (np.linalg.norm(np.roll(at, 8, axis=0) - truth, axis=1) < head)[sure].tolist()
        chance += (np.linalg.norm(grid - truth, axis=2) < head).mean(0)[sure].tolist()
    assert len(near) >= 15
    assert np.mean(near) > least
    assert np.mean(shuffled) < 0.4  # the map of another joint
    assert np.mean(chance) < 0.25  # a place drawn blindly
