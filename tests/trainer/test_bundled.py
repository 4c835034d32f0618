"""Learning on from a bundle: the network that made it is put together again and gives the same."""

import itertools

import numpy as np
import onnx
import pytest
import torch

from edgepose import bundle as bundles
from edgepose import sources
from edgepose.bundle import save
from edgepose.errors import EdgeposeError
from tests.trainer.conftest import make_coco
from trainer import bundled
from trainer.cli import RECIPES
from trainer.engine import manual_of
from trainer.evaluate import open_estimator
from trainer.export import export, to_onnx
from trainer.fit import PoseModule, fit, load_best
from trainer.models.build import build
from trainer.recipe import Recipe, load

NETWORKS = {
    "post": {"width": 16, "depth": 2, "stacks": 2, "order": "post"},
    "pre, whose batch norms do not fold": {"width": 16, "depth": 2, "stacks": 2, "order": "pre"},
    "mobile": {"stem": "mobile", "multiplier": 0.25, "width": 16, "depth": 2, "stacks": 2, "order": "post",
               "early": True, "preprocessing": "symmetric"},
    "z-score": {"width": 16, "depth": 2, "stacks": 1, "order": "post", "preprocessing": "z-score"},
    "whitening": {"width": 16, "depth": 2, "stacks": 1, "order": "post", "preprocessing": "pca-whitening"},
    "no norm": {"width": 16, "depth": 2, "stacks": 1, "order": "post", "norm": "none"},
}  # fmt: skip


def recipe(**changes):
    return Recipe.model_validate(
        {
            "name": "tried",
            "precision": "float32",
            "data": [{"data": "coco:figures/annotations.json:figures/images", "split": "all"}],
            "stages": [{"images": 32, "size": 64, "batch": 8}],
            **changes,
        }
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    make_coco(folder, 8)
    return folder


@pytest.fixture(scope="module")
def crops():
    return torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(2)) * 255


def trained(made, root, folder):
    """A bundle of a network whose batch norms have seen images."""
    return export(fit(made, folder, root=root, workers=0, threads=1), folder / "made.onnx", root=root)


@pytest.mark.parametrize("model", NETWORKS.values(), ids=NETWORKS)
def test_a_network_comes_back_from_its_bundle(model, root, crops, tmp_path):
    bundle = trained(recipe(model=model), root, tmp_path)
    restored = bundled.restore(bundle, crops)
    original = load_best(tmp_path / "last.ckpt")[1]
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3)) * 255
    with torch.no_grad():
        for ours, theirs in zip(restored(image), original(image), strict=True):
            torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-3)


def test_its_batch_norms_have_the_statistics_of_what_is_trained_on(root, crops, tmp_path):
    """With statistics that do not fit, the first steps would tear down what the network knows."""
    bundle = trained(recipe(model=NETWORKS["mobile"]), root, tmp_path)
    restored = bundled.restore(bundle, crops)
    with torch.no_grad():
        still, learning = restored.eval()(crops)[-1], restored.train()(crops)[-1]
        fresh = build(recipe(model=NETWORKS["mobile"]))
        fresh.load_state_dict({k: v for k, v in restored.state_dict().items() if "running" not in k}, strict=False)
        apart = fresh.train()(crops)[-1] - fresh.eval()(crops)[-1]
    assert float((learning - still).norm()) < 0.05 * float(still.norm()) < float(apart.norm())


@pytest.mark.parametrize("stacks", [2, 3])
def test_a_run_begins_with_a_bundle(stacks, root, tmp_path):
    model = NETWORKS["post"]
    bundle = trained(recipe(model=model), root, tmp_path / "first")
    still = {"kind": "adamw", "rate": 1e-9, "weight_decay": 0, "warm_up": 1, "ema": 0}
    made = recipe(start_from=str(bundle.path), model={**model, "stacks": stacks}, optimiser=still,
                  stages=[{"images": 8, "size": 64, "batch": 8}])  # fmt: skip
    made = made.model_copy(update={"seed": 2})  # fresh weights would be others
    fit(made, tmp_path / "second", root=root, workers=0, threads=1)
    before, after = (load_best(tmp_path / run / "last.ckpt")[1] for run in ("first", "second"))
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3)) * 255
    with torch.no_grad():
        ours, theirs = after(image), before(image)
    assert len(ours) == stacks
    # One step of batch statistics is what may differ.
    assert float((ours[-1] - theirs[-1]).abs().max()) < 0.2 * float(theirs[-1].abs().max())


def test_a_shipped_model_comes_back(crops):
    """What a user fine-tunes."""
    for name in ("edgepose-first", "edgepose-s", "edgepose-m", "edgepose-l"):
        bundle = bundles.load(name)
        size = bundle.manual.input_size[0]
        view = torch.nn.functional.interpolate(crops[:2], (size, size))
        restored = bundled.restore(bundle, view)  # which compares the two
        assert sum(p.numel() for p in restored.parameters()) > 500_000


def test_the_recipe_for_ones_own_labels_begins_with_what_the_shipped_model_knows(root, clip, tmp_path):
    """Two steps on other data, as a user would begin: on people it still says what edgepose-s says."""
    mine = {"data": "coco:figures/annotations.json:figures/images", "split": "all"}
    made = load(RECIPES / "fine-tune.toml").model_dump(mode="json")
    made |= {"data": [mine], "validation": [mine], "stages": [{"images": 8, "size": 192, "batch": 4}]}
    checkpoint = fit(Recipe.model_validate(made), tmp_path / "mine", root=root, workers=0, threads=1)
    with sources.open_source(str(clip)) as source:
        frame = next(itertools.islice(source, 300, None))
    box = np.array([[388.0, 0.0, 524.0, 337.0]])  # the one person there
    ours, theirs = (open_estimator(str(model)).estimate(frame.image, box) for model in (checkpoint, "edgepose-s"))
    sure = theirs.scores[0] > 0.5
    assert sure.sum() >= 8
    assert np.median(np.linalg.norm(ours.joints - theirs.joints, axis=-1)[0][sure]) < 3  # px; the person is 337 tall


def test_what_cannot_be_put_together_is_refused(root, crops, tmp_path):
    with pytest.raises(EdgeposeError, match="is int8; begin with the float32 bundle"):
        bundled.recipe_of(bundles.load("edgepose-s-int8"))
    made = PoseModule(recipe(model=NETWORKS["post"]))
    with pytest.raises(EdgeposeError, match="start_from: .*finder.onnx is a person finder; name a pose model"):
        made.begin_with(bundles.find("edgepose-finder"), lambda _: crops)
    bundle = trained(recipe(model=NETWORKS["post"]), root, tmp_path)
    proto = onnx.load(bundle.path)
    nobodys = save(proto, bundle.manual.model_copy(update={"recipe": {}}), tmp_path / "nobodys.onnx")
    with pytest.raises(EdgeposeError, match="does not say by which recipe"):
        bundled.recipe_of(nobodys)
    folding = recipe(model={**NETWORKS["post"], "block": "reparam"})
    graph = to_onnx(PoseModule(folding).model, manual_of(folding))
    other = recipe(model={**NETWORKS["post"], "norm": "lrn"})
    with pytest.raises(EdgeposeError, match="norm lrn is no node of its own; begin with its checkpoint"):
        bundled.recipe_of(
            save(to_onnx(PoseModule(other).model, manual_of(other)), manual_of(other), tmp_path / "l.onnx")
        )
    with pytest.raises(EdgeposeError, match="reparam are one convolution"):
        bundled.recipe_of(save(graph, manual_of(folding), tmp_path / "folding.onnx"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"start_from": "edgepose-x"}, "edgepose-x is neither a file nor a shipped model .edgepose-first, edgepose-l,"),
     ({"start_from": "edgepose-s", "skeleton": "coco17"}, "speaks of skeleton mpii16, the recipe of coco17")],
)  # fmt: skip
def test_what_a_run_cannot_begin_with_is_said_before_crops_are_cut(changes, says, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.fit.PoseData", None)
    with pytest.raises(EdgeposeError, match=f"start_from: .*{says}"):
        fit(recipe(**changes), tmp_path / "run", workers=0)


def test_a_network_that_answers_otherwise_is_refused(root, crops, tmp_path, monkeypatch):
    bundle = trained(recipe(model=NETWORKS["post"]), root, tmp_path)
    monkeypatch.setattr(bundled, "settle", lambda norm, bias, x: norm.reset_parameters())
    with pytest.raises(EdgeposeError, match=r"made.onnx differs by .* begin with its checkpoint"):
        bundled.restore(bundle, crops)


def test_a_graph_that_is_not_its_recipes_is_refused(root, crops, tmp_path):
    bundle = trained(recipe(model=NETWORKS["post"]), root, tmp_path)
    proto = onnx.load(bundle.path)
    another = {**bundle.manual.recipe, "model": {**bundle.manual.recipe["model"], "stacks": 3}}
    lies = save(proto, bundle.manual.model_copy(update={"recipe": another}), tmp_path / "lies.onnx")
    with pytest.raises(EdgeposeError, match="not the network of its own recipe; begin with its checkpoint"):
        bundled.restore(lies, crops)
    with pytest.raises(EdgeposeError, match="is 16 in .* and 32 in the recipe"):
        PoseModule(recipe(model={**NETWORKS["post"], "width": 32})).begin_with(bundle.path, lambda _: crops)
