"""A person finder in INT8: which images give its ranges, and when it is written."""

from dataclasses import replace

import numpy as np
import pytest

from calibration import finders
from calibration.gate import BudgetError
from calibration.judge import judging
from calibration.sets import CalibrationSet
from edgepose import bundle as bundles
from edgepose import engines
from edgepose.errors import EdgeposeError
from edgepose.people.finder import Finder
from tests.calibration.command import run
from tests.trainer.conftest import make_coco
from trainer.data.persons import read_image
from trainer.finder.evaluate import Quality
from trainer.finder.export import export
from trainer.finder.fit import fit
from trainer.finder.recipe import FinderRecipe, SceneSet
from trainer.finder.scenes import read

TINY = {"width": 16, "depth": 2, "stacks": 1, "stem": "compact", "block": "narrow"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """DATA, its root, and a float finder that learnt for a moment."""
    root = tmp_path_factory.mktemp("finder")
    spec, _ = make_coco(root, 8)
    values = {
        "role": "person", "name": "tiny", "precision": "float32", "input_size": [96, 64], "model": TINY,
        "data": [{"data": spec, "split": "all"}], "stages": [{"images": 64, "size": 64, "batch": 8}],
        "optimiser": {"rate": 1e-2, "warm_up": 2, "ema": 0},
    }  # fmt: skip
    checkpoint = fit(FinderRecipe.model_validate(values), root / "run", root=root, workers=0, threads=1)
    return spec, root, export(checkpoint, root / "tiny.onnx")


@pytest.fixture(scope="module")
def scenes(made):
    spec, root, _ = made
    return {f"{spec}@all": read(SceneSet(data=spec, split="all"), root)}


class Watching:
    """An engine that keeps what it was shown."""

    name, precision = "watching", "float32"

    def infer(self, images):
        self.seen = images.copy()
        return np.zeros((1, 5, 16, 24), np.float32)


def test_ranges_are_of_images_as_the_finder_sees_them(made, scenes):
    bundle = made[2]
    chosen = finders.drawn(scenes, bundle.manual, 5, seed=3)
    assert chosen.crops.shape == (5, 3, 64, 96)
    by_name = {scene.image.name: scene.image for own in scenes.values() for scene in own}
    assert len(set(chosen.about.persons)) == 5
    for crop, name in zip(chosen.images(), chosen.about.persons, strict=True):
        engine = Watching()
        Finder(engine, bundle.manual).find(read_image(by_name[name]))
        assert np.array_equal(engine.seen[0], crop)


def test_the_same_seed_draws_the_same_images_and_of_every_set_as_many(made, scenes):
    manual, (own,) = made[2].manual, scenes.values()
    sets = {"a@all": own[:5], "b@all": own[5:]}
    first, again, other = (finders.drawn(sets, manual, 5, seed=seed) for seed in (1, 1, 2))
    assert first.sha256 == again.sha256 != other.sha256
    assert np.array_equal(first.crops, again.crops)
    names = {name: {scene.image.name for scene in own} for name, own in sets.items()}
    assert [sum(n in names[s] for n in first.about.persons) for s in sets] == [3, 2]
    with pytest.raises(EdgeposeError, match="b@all has 3 images, and 4 of it are to be drawn; lower --count"):
        finders.drawn(sets, manual, 8)


def test_it_is_the_finder_in_int8_and_its_maps_are_near_the_float_ones(made, tmp_path):
    spec, root, bundle = made
    out = tmp_path / "int8.onnx"
    words = ["--data", f"{spec}@all", "--count", "8", "--judge-on", f"{spec}@all", "--data-root", root]
    done = run("quantize-finder", bundle.path, out, *words, "--lose-ap", "100")
    assert done.returncode == 0, done.stderr
    assert "wrote" in done.stdout
    assert "people: AP" in done.stdout
    twin = bundles.load(str(out), role="person")
    assert (twin.manual.name, twin.manual.precision) == ("tiny-int8", "int8")
    assert twin.manual.made_from["bundle"] == bundle.sha256
    (row,) = twin.manual.accuracy
    assert (row.data, row.split, row.persons, row.engine) == (spec, "all", 8, judging())
    assert set(row.figures) == set(row.lost) == {"average_precision", "recall", "precision", "labelled_recall"}
    images = np.random.default_rng(0).uniform(0, 255, (2, 3, 64, 96)).astype(np.float32)
    maps = [engines.load(b, "openvino").infer(images).copy() for b in (bundle, twin)]
    assert 0 < np.abs(maps[0] - maps[1]).mean() < 0.1 * np.abs(maps[0]).mean()


def of(precision):
    """What is found at that average precision."""
    return Quality(8, 8, precision, 90.0, 90.0, 90.0, 0.2)


@pytest.mark.parametrize("after", [(94.4, 96.0), (96.0, 94.4), (94.6, 94.6)])
def test_what_finds_too_few_on_one_set_is_not_written(made, scenes, tmp_path, monkeypatch, after):
    """Half a point may be lost on each."""
    bundle, out = made[2], tmp_path / "int8.onnx"
    chosen, (own,) = finders.drawn(scenes, bundle.manual, 4), scenes.values()
    found = iter([{"a@all": of(95.0), "b@all": of(95.0)}, {"a@all": of(after[0]), "b@all": of(after[1])}])
    monkeypatch.setattr(finders, "_found", lambda *_: next(found))
    sets = {"a@all": own, "b@all": own}
    if min(after) < 94.5:
        fault = ("a@all", "b@all")[after.index(94.4)]
        with pytest.raises(BudgetError, match=f"INT8 of tiny is over its budget, nothing was written: on {fault} it"):
            finders.calibrate(bundle, chosen, sets, out)
        assert not list(tmp_path.iterdir())
    else:
        made = finders.calibrate(bundle, chosen, sets, out).bundle
        assert made.path.exists()
        told = [row.figures["average_precision"] for row in bundles.load(str(out), role="person").manual.accuracy]
        assert told == list(after), "what INT8 finds, not what the float one does"


def test_a_set_without_a_whole_person_judges_nothing(made, scenes, tmp_path):
    bundle, (own,) = made[2], scenes.values()
    nobody = [replace(scene, people=np.zeros((0, 4)), labelled=np.zeros(0, bool)) for scene in own]
    with pytest.raises(EdgeposeError, match="b@all has nobody to judge on"):
        finders.calibrate(bundle, finders.drawn(scenes, bundle.manual, 4), {"a@all": own, "b@all": nobody},
                          tmp_path / "x.onnx")  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_is_refused(made, tmp_path):
    spec, root, bundle = made
    words = ["--data", f"{spec}@all", "--judge-on", f"{spec}@all", "--count", "4", "--data-root", root]
    for model, out, more, says in (
        ("edgepose-first", tmp_path / "x.onnx", (), "a person finder"),
        (bundle.path, bundle.path, (), "is the float bundle itself"),
        (bundle.path, tmp_path / "x.npz", (), "the file name of a bundle ends in .onnx"),
        (bundle.path, tmp_path / "x.onnx", ("--count", "400"), "lower --count"),
        (bundle.path, tmp_path / "x.onnx", ("--guesses", "a", "--guesses", "b"), "more --guesses than data"),
        (bundle.path, tmp_path / "x.onnx", ("--method", "best"), "unknown calibration method 'best'"),
        (bundle.path, tmp_path / "x.onnx", ("--judge-on", f"{spec}@all"), "--judge-on names a set twice"),
        ("edgepose-finder-int8", tmp_path / "x.onnx", (), "is int8 already; quantize its float32 bundle"),
    ):
        done = run("quantize-finder", model, out, *words, *more)
        assert done.returncode == 2, done.stderr
        assert says in done.stderr.replace("\n", " ")
        assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_set_of_another_size_is_refused(made, scenes, tmp_path):
    bundle = made[2]
    chosen = finders.drawn(scenes, bundle.manual, 2)
    other = CalibrationSet(chosen.crops[:, :, :32], chosen.about)
    with pytest.raises(EdgeposeError, match=r"the input of .* is 96 x 64; make a set with this model"):
        finders.calibrate(bundle, other, scenes, tmp_path / "x.onnx")
