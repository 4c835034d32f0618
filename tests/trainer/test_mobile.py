"""The stem that begins with MoveNet's weights: its shape, what it takes over, what it keeps."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from edgepose.engines.openvino import core
from edgepose.errors import EdgeposeError
from tests.trainer.conftest import make_coco
from trainer.engine import manual_of
from trainer.export import to_onnx
from trainer.fit import PoseModule, fit, load_best
from trainer.learner import Learner
from trainer.models import movenet
from trainer.models.build import build
from trainer.models.mobile import HalvingConv, Mobile, begin, channels, take_over
from trainer.recipe import Recipe

PEERS = Path(__file__).parents[3] / "shared" / "peers"
FILES = {"lightning": (1.0, 192), "thunder": (1.75, 256)}
needs_peers = pytest.mark.skipif(not PEERS.is_dir(), reason="MoveNet's files are not on this machine")


def no_crops(count):
    raise AssertionError("a checkpoint needs none")


def recipe(root="", **changes):
    model = {"stem": "mobile", "multiplier": 0.25, "width": 16, "depth": 2, "stacks": 1, "preprocessing": "symmetric"}
    spec = {
        "name": "tried",
        "data": [{"data": "coco:figures/annotations.json:figures/images"}],
        "stages": [{"images": 12, "size": 64, "batch": 4}],
        "model": {**model, **changes.pop("model", {})},
    }
    return Recipe.model_validate({**spec, **changes})


def shapes(stem):
    return [tuple(conv.convolution.weight.shape) for conv in stem.published()]


def weights_for(stem):
    """Weights and biases of the right shapes, of a size that keeps values alive."""
    generator = torch.Generator().manual_seed(3)

    def draw(shape):
        fan_in = int(np.prod(shape[1:]))
        kernel = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
        return kernel, 0.3 * torch.randn(shape[0], generator=generator)

    return [draw(shape) for shape in shapes(stem)]


def images(count=4, size=64):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize(("count", "multiplier", "made"), [(32, 1.75, 56), (16, 1.75, 32), (24, 1.75, 40),
                                                           (32, 1.0, 32), (16, 0.25, 8), (24, 0.25, 8)])  # fmt: skip
def test_channels_are_multiples_of_eight(count, multiplier, made):
    # 28 and 42 are as near to 24 and 40 as to 32 and 48: published networks have 32 and 40.
    assert channels(count, multiplier) == made


def test_what_is_taken_over_computes_the_same_as_convolutions_with_biases():
    torch.manual_seed(0)
    stem = Mobile(16, 0.25)
    given = weights_for(stem)
    take_over(stem, given, images())
    plain = Mobile(16, 0.25)
    plain.load_state_dict(stem.state_dict())
    for conv, (weight, bias) in zip(plain.published(), given, strict=True):
        conv.convolution.weight.data, conv.convolution.bias = weight.clone(), nn.Parameter(bias.clone())
        conv[1] = nn.Identity()
    stem, plain, unseen = stem.double(), plain.double(), images(8).flip(0).double()  # no processor's own rounding
    assert torch.allclose(stem.eval()(unseen), plain.eval()(unseen), atol=1e-4)
    assert float(stem(unseen).detach().std()) > 1e-3  # something arrives


def test_a_shallow_stem_takes_over_all_but_its_top(monkeypatch):
    torch.manual_seed(0)
    given = weights_for(Mobile(16, 0.25))
    monkeypatch.setattr(movenet, "read", lambda path, shapes: given)
    stem, whole = Mobile(16, 0.25, shallow=True), Mobile(16, 0.25)
    fresh = {k: v.clone() for k, v in stem.state_dict().items()}
    take_over(whole, given, images())
    begin(stem, Path("somewhere.tflite"), images())
    for key, value in stem.state_dict().items():
        expected = fresh if key.startswith(("top.", "out.")) else whole.state_dict()
        assert torch.equal(value, expected[key]), key
    assert stem(images()).shape == whole(images()).shape
    assert sum(p.numel() for p in stem.parameters()) < 0.5 * sum(p.numel() for p in whole.parameters())


def test_in_training_it_begins_with_statistics_that_fit():
    torch.manual_seed(0)
    stem = Mobile(16, 0.25)
    take_over(stem, weights_for(stem), images())
    stem.out = nn.Identity()  # the one that is not published
    trained = stem.train()(images())
    assert torch.allclose(trained, stem.eval()(images()), atol=0.05 * float(trained.detach().abs().max()))


@pytest.mark.parametrize("groups", [1, 8])
def test_halving_is_the_same_in_training_and_in_running(groups):
    """Gradients too: in training a depthwise one is written as one of stride 1."""
    torch.manual_seed(0)
    conv, x = HalvingConv(8, 8, groups), torch.randn(2, 8, 12, 16, requires_grad=True)
    found = []
    for training in (True, False):
        y = conv.train(training)(x)
        found.append((y, *torch.autograd.grad(y.square().sum(), (x, conv.weight))))
    assert found[0][0].shape == (2, 8, 6, 8)
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_frozen_part_is_frozen_from_the_start():
    """Also where a run begins with a checkpoint, or goes on with one."""
    stem = Mobile(16, 0.25, frozen=2)
    kept = [stem.first, *stem.stages[:2]]
    assert not any(m.training for part in kept for m in part.modules())
    assert not any(p.requires_grad for part in kept for p in part.parameters())
    assert stem.stages[2].training
    assert not any(m.training for part in copy.deepcopy(stem).train().frozen for m in part.modules())


@pytest.mark.parametrize("norm", ["batch", "lrn", "l2", "none"])
def test_a_frozen_part_is_frozen_whatever_its_norm(norm):
    model = build(recipe(start_from="a.ckpt", model={"frozen": 2, "norm": norm}))
    stem = next(m for m in model.modules() if isinstance(m, Mobile))
    assert not any(p.requires_grad for part in (stem.first, *stem.stages[:2]) for p in part.parameters())
    assert all(p.requires_grad for part in stem.stages[2:] for p in part.parameters())


def test_frozen_stages_stay_as_they_begin_and_the_others_learn(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "cache"))
    make_coco(tmp_path, 4)
    begun = {}
    monkeypatch.setattr(movenet, "read", lambda path, shapes: weights_for(Mobile(16, 0.25)))
    monkeypatch.setattr(movenet, "require", lambda path: None)
    started = Learner.on_train_start

    def remember(module):
        begun.update({k: v.clone() for k, v in module.model.state_dict().items()})
        started(module)

    monkeypatch.setattr(PoseModule, "on_train_start", remember, raising=False)
    made = recipe(pretrained="somewhere.tflite", model={"frozen": 2})
    fit(made, tmp_path / "run", root=tmp_path, workers=0)
    ended = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["state_dict"]
    same = {k for k, v in begun.items() if k.startswith("stem.") and torch.equal(v, ended[f"model.{k}"])}
    kept = {k for k in begun if k.startswith(("stem.first.", "stem.stages.0.", "stem.stages.1."))}
    assert kept
    assert same == kept
    fit(made, tmp_path / "halves", root=tmp_path, workers=0, max_steps=1)
    fit(made, tmp_path / "halves", root=tmp_path, workers=0, resume=True)
    resumed = torch.load(tmp_path / "halves" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, resumed[name]) for name, value in ended.items())


@needs_peers
@pytest.mark.parametrize("name", FILES)
def test_the_published_features_come_out_of_our_stem(name):
    """Every layer up to those that the joints' heatmaps are made of, against the file run by OpenVINO."""
    openvino = pytest.importorskip("openvino")
    multiplier, size = FILES[name]
    file = PEERS / f"movenet_{name}_fp16.tflite"
    stem = Mobile(96, multiplier)
    rng = np.random.default_rng(4)
    coarse = rng.integers(0, 256, (1, size // 16, size // 16, 3)).astype(np.float32)
    image = np.kron(coarse, np.ones((1, 16, 16, 1), np.float32))
    ours = torch.from_numpy(image).permute(0, 3, 1, 2) / 127.5 - 1
    take_over(stem, movenet.read(file, shapes(stem)), ours)
    graph = core().read_model(file)
    features = [op for op in graph.get_ordered_ops() if op.get_type_name() == "Relu"][3]
    part = core().compile_model(
        openvino.Model([features.output(0)], graph.get_parameters()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    theirs = part(image.astype(part.input(0).element_type.to_dtype()))[0]
    assert theirs.std() > 0.05
    assert np.allclose(stem.eval()(ours).detach().numpy(), theirs, atol=1e-3)


@needs_peers
def test_a_file_of_another_width_is_refused():
    with pytest.raises(EdgeposeError, match=r"model\.multiplier.*Thunder 1\.75.*convolution 0 differs"):
        movenet.read(PEERS / "movenet_lightning_fp16.tflite", shapes(Mobile(16, 1.75)))


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(EdgeposeError, match="there is no file .*absent.tflite"):
        movenet.read(tmp_path / "absent.tflite", [])
    (tmp_path / "text.tflite").write_text("not a model")
    with pytest.raises(EdgeposeError, match="is not MoveNet's TFLite file"):
        movenet.read(tmp_path / "text.tflite", [])


def test_early_maps_are_supervised_and_the_last_ones_exported(tmp_path):
    made = recipe(model={"early": True})
    network = build(made).eval()
    assert network.supervision == ("joints", "joints")
    first, last = network(127.5 * (images() + 1))
    assert first.shape == last.shape == (4, 16, 16, 16)
    assert not torch.equal(first, last)
    graph = to_onnx(network, manual_of(made)).graph
    assert [o.name for o in graph.output] == ["heatmaps"]


def test_the_stem_has_a_rate_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "cache"))
    make_coco(tmp_path, 4)
    course = {"kind": "sgd", "rate": 1e-3, "stem_rate": 0.1, "warm_up": 0, "course": "constant", "weight_decay": 0}
    moved = {}
    for share in (1.0, 0.1):
        made = recipe(optimiser={**course, "stem_rate": share}, stages=[{"images": 4, "size": 64, "batch": 4}])
        begun = {}
        with monkeypatch.context() as patched:
            start = Learner.on_train_start

            def remember(module, begun=begun, start=start):
                begun.update({k: v.clone() for k, v in module.model.named_parameters()})
                start(module)

            patched.setattr(PoseModule, "on_train_start", remember, raising=False)
            fit(made, tmp_path / str(share), root=tmp_path, workers=0)
        ended = torch.load(tmp_path / str(share) / "last.ckpt", weights_only=True)["state_dict"]
        moved[share] = {k: float((ended[f"model.{k}"] - v.detach()).norm()) for k, v in begun.items()}
    for name, whole in moved[1.0].items():
        expected = whole * (0.1 if name.startswith("stem.") else 1.0)
        assert moved[0.1][name] == pytest.approx(expected, rel=0.02, abs=1e-6), name


def test_a_network_can_begin_with_anothers_stem_alone(tmp_path):
    make_coco(tmp_path, 4)
    first = fit(recipe(), tmp_path / "first", root=tmp_path, workers=0, threads=1)
    made = recipe(start_from=str(first), start_with="stem", model={"width": 32, "stacks": 2, "frozen": 1})
    ours = PoseModule(made)
    fresh = copy.deepcopy(ours.model)
    ours.begin_with(first, no_crops)
    theirs = load_best(first)[1]
    for name, value in ours.model.state_dict().items():
        taken = name.startswith("stem.") and not name.startswith("stem.out.")
        assert torch.equal(value, (theirs if taken else fresh).state_dict()[name]), name
    with pytest.raises(EdgeposeError, match=r"start_from: model.multiplier is 0.25 in .* and 0.5 in the recipe"):
        PoseModule(recipe(start_from=str(first), start_with="stem", model={"multiplier": 0.5})).begin_with(
            first, no_crops
        )
    with pytest.raises(EdgeposeError, match=r"start_from: model.width is 16 in .* and 32 in the recipe"):
        PoseModule(recipe(start_from=str(first), model={"width": 32})).begin_with(first, no_crops)


def test_a_stem_alone_brings_no_preprocessing_so_it_is_measured(tmp_path):
    make_coco(tmp_path, 4)
    model = {"preprocessing": "z-score"}
    first = fit(recipe(model=dict(model)), tmp_path / "first", root=tmp_path, workers=0, threads=1)
    made = recipe(start_from=str(first), start_with="stem", model=dict(model))
    second = fit(made, tmp_path / "second", root=tmp_path, workers=0, threads=1)
    ours, theirs = (load_best(path)[1].normalise.state_dict() for path in (second, first))
    unmeasured = build(made).normalise.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[k], theirs[k], rtol=1e-3) for k in ours)
    assert any(not torch.allclose(ours[k], unmeasured[k], rtol=1e-2) for k in ours)


def test_it_is_exported_as_plain_convolutions():
    made = recipe(model={"order": "post"})
    graph = to_onnx(build(made).eval(), manual_of(made)).graph
    kinds = {node.op_type for node in graph.node} - {"Constant", "Identity"}
    assert kinds == {"Sub", "Mul", "Conv", "Clip", "Relu", "Add", "Resize", "MaxPool"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"pretrained": "a.tflite", "model": {"stem": "newell", "multiplier": 1}},
            "pretrained weights are for a fresh network",
        ),
        ({"pretrained": "a.tflite", "start_from": "b.ckpt"}, "pretrained weights are for a fresh network"),
        ({"pretrained": "a.tflite", "model": {"kind": "cascade", "stacks": 2}}, "pretrained weights are for a fresh"),
        ({"pretrained": "a.tflite", "model": {"preprocessing": "imagenet"}}, "learnt with model.preprocessing"),
        ({"pretrained": "a.tflite", "model": {"norm": "lrn"}}, "learnt with model.preprocessing"),
        ({"model": {"stem": "compact", "multiplier": 1.0, "shallow": True}}, "belong to stem mobile, not to compact"),
        ({"model": {"shallow": True, "frozen": 6}, "pretrained": "a.tflite"}, "a shallow stem has 5 stages"),
        (
            {"model": {"kind": "compositional", "width": 32}, "augmentation": {"truncated": 0.1}},
            "joints without a place",
        ),
        ({"model": {"frozen": 1}}, "model.frozen keeps what a stem begins with"),
        ({"start_with": "stem"}, "set start_from and model.stem"),
        ({"start_with": "stem", "start_from": "b.ckpt", "quantisation": {}}, "not its stem alone"),
        (
            {"start_with": "stem", "start_from": "b.ckpt", "model": {"stem": "compact", "multiplier": 1}},
            "set start_from and model.stem",
        ),
        ({"model": {"stem": "compact", "multiplier": 0.5}}, "belong to stem mobile, not to compact"),
        ({"model": {"early": True, "kind": "compositional"}}, "early belongs to kind stacked-hourglass"),
        ({"stages": [{"images": 8, "size": 48, "batch": 4}]}, "must be a multiple of 32"),
    ],
)
def test_recipes_that_cannot_be_are_refused(changes, says):
    with pytest.raises(ValidationError, match=says):
        recipe(**changes)
