"""Preprocessing: each by its formula; measured before the first step; the same joints from checkpoint and bundle."""

import numpy as np
import pytest
import torch

from edgepose import engines
from edgepose.estimator import Estimator
from tests.trainer.conftest import make_coco
from trainer.data.module import PoseData, select
from trainer.evaluate import open_estimator
from trainer.export import export
from trainer.fit import fit, load_best
from trainer.models.preprocess import MeanImage, Normalise, Whiten, ZScore, preprocessing
from trainer.recipe import DataSet, Recipe

KINDS = ["imagenet", "z-score", "mean-image", "pca-whitening"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn")
    return make_coco(root, 8)


def crops():
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(20, 3, 8, 8, generator=generator) * torch.tensor([40.0, 20.0, 10.0]).view(1, 3, 1, 1)
    mixed[:, 1] += 0.8 * mixed[:, 0]  # colours hang together
    return mixed + torch.tensor([120.0, 90.0, 60.0]).view(1, 3, 1, 1)


def test_z_score_gives_zero_mean_and_unit_deviation_per_channel():
    module = ZScore()
    module.measure(crops())
    found = module(crops())
    assert torch.allclose(found.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(found.std(dim=(0, 2, 3)), torch.ones(3), atol=1e-5)


def test_the_mean_image_is_taken_off_pixel_by_pixel():
    module = MeanImage(8)
    module.measure(crops())
    found = module(crops())
    assert torch.allclose(found.mean(dim=0), torch.zeros(3, 8, 8), atol=1e-5)
    assert float(found.std()) == pytest.approx(1, abs=1e-4)
    small = module(torch.nn.functional.interpolate(crops(), (4, 4), mode="bilinear", antialias=True))
    assert torch.allclose(small.mean(dim=0), torch.zeros(3, 4, 4), atol=1e-5)  # at a smaller size too


def test_whitened_colours_are_uncorrelated_with_unit_variance():
    module = Whiten()
    module.measure(crops())
    found = module(crops()).transpose(0, 1).reshape(3, -1)
    assert torch.allclose(torch.cov(found), torch.eye(3), atol=1e-4)
    assert torch.allclose(found.mean(dim=1), torch.zeros(3), atol=1e-4)


def test_imagenet_statistics():
    module = preprocessing("imagenet", 64)
    assert isinstance(module, Normalise)
    grey = torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1)
    assert module(grey).abs().max() < 1e-6
    assert torch.allclose(module(grey + 57.12)[0, 1], torch.tensor(1.0))


def test_a_set_without_contrast_is_not_divided_by_nought():
    for kind in KINDS[1:]:
        module = preprocessing(kind, 8)
        module.measure(torch.full((4, 3, 8, 8), 77.0))
        assert module(torch.full((1, 3, 8, 8), 77.0)).isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_bundle_finds_the_checkpoints_joints(drawn, tmp_path, kind):
    spec, root = drawn
    made = Recipe.model_validate(
        {
            "name": "tiny",
            "precision": "float32",
            "data": [{"data": spec, "split": "all"}],
            "model": {"width": 16, "depth": 2, "stacks": 1, "order": "post", "preprocessing": kind},
            "stages": [{"images": 32, "size": 32, "batch": 8}, {"images": 64, "size": 64, "batch": 8}],
            "optimiser": {"rate": 3e-3, "warm_up": 4, "ema": 0.9},
        }
    )
    last = fit(made, tmp_path / "run", root=root, workers=0, threads=1)
    data = PoseData(made, root, workers=0)
    data.setup("fit")
    _, network = load_best(last)
    if kind != "imagenet":
        found = network.normalise(data.view(256))
        assert float(found.mean()) == pytest.approx(0, abs=1e-2)
        assert float(found.std()) == pytest.approx(1, abs=0.05)
    bundle = export(last, tmp_path / "tiny.onnx", root=root)
    person = select(DataSet(data=spec, split="all"), Estimator(engines.load(bundle), bundle.manual).skeleton, root)
    boxes = np.stack([p.box for p in person.persons])
    from trainer.data.persons import read_image

    image = read_image(person.persons[0].image)
    expected = open_estimator(str(last)).estimate(image, boxes)
    for runtime in ("openvino", "onnxruntime"):
        engine = engines.load(bundle, runtime)
        joints = Estimator(engine, bundle.manual).estimate(image, boxes).joints
        engine.close()
        assert np.abs(joints - expected.joints).max() < 0.01, runtime
