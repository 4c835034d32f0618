"""A finder's recipes, and runs that learn, resume and are told apart from a pose network's."""

import csv
import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from typer.testing import CliRunner

from edgepose import EdgeposeError
from edgepose import bundle as bundles
from edgepose.validation import validate
from tests.trainer.conftest import make_coco
from tests.trainer.test_mobile import weights_for
from trainer import checkpoints
from trainer import fit as poses
from trainer.cli import RECIPES, app
from trainer.finder import fit as finders
from trainer.finder.evaluate import look, of_network, quality
from trainer.finder.fit import fit, load_best
from trainer.finder.recipe import FinderRecipe, load
from trainer.finder.scenes import read
from trainer.models import movenet
from trainer.models.mobile import Mobile
from trainer.recipe import Recipe

NOBODY = np.zeros((0, 4))
MOBILE = {"stem": "mobile", "multiplier": 0.25, "preprocessing": "symmetric", "width": 16, "depth": 2, "stacks": 1}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """(spec, root) of eight drawn figures."""
    root = tmp_path_factory.mktemp("drawn")
    return make_coco(root, 8)


def values(spec="synth:2", **changes):
    return {
        "role": "person",
        "name": "tiny",
        "precision": "float32",
        "input_size": [64, 64],
        "validate_every": 1000,
        "data": [{"data": spec, "split": "all"}],
        "model": {"width": 16, "depth": 2, "stacks": 1, "stem": "compact", "block": "narrow"},
        "stages": [{"images": 24, "size": 32, "batch": 4}, {"images": 24, "size": 64, "batch": 4}],
        "optimiser": {"rate": 1e-2, "warm_up": 4, "ema": 0.9},
        **changes,
    }


def recipe(spec="synth:2", **changes):
    return FinderRecipe.model_validate(values(spec, **changes))


def toml(spec):
    """The recipe of a run of four steps."""
    return f"""role = "person"
name = "tiny"
precision = "float32"
input_size = [64, 32]
[[data]]
data = "{spec}"
split = "all"
[[validation]]
data = "{spec}"
split = "all"
[model]
width = 16
depth = 1
stacks = 1
stem = "compact"
block = "narrow"
[[stages]]
images = 16
size = 32
batch = 4
"""


def weights(path):
    return checkpoints.read(path)["state_dict"]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


TINY = {"width": 16, "depth": 2, "stacks": 1}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": {"width": 16, "depth": 2, "stacks": 2}}, r"one plain hourglass: kind stacked-hourglass, stacks 1"),
        ({"model": {**TINY, "kind": "cascade"}}, r"one plain hourglass"),
        ({"model": {**TINY, "attention": {}}}, r"one plain hourglass"),
        ({"model": {**TINY, "preprocessing": "z-score"}}, r"model.preprocessing of a finder must be imagenet"),
        ({"input_size": [72, 64]}, r"size 72 must be a multiple of 16 \(stride 4, 2 poolings\)"),
        ({"input_size": [64, 40]}, r"size 40 must be a multiple of 16"),
        ({"stages": [{"images": 8, "size": 72, "batch": 4}]}, r"size 72 must be a multiple of 16"),
        ({"model": {**TINY, "block": "hru"}, "stages": [{"images": 8, "size": 48, "batch": 4}]},
         r"size 48 must be a multiple of 32 \(stride 4, 3 poolings\)"),
        ({"stages": [{"images": 3, "size": 64, "batch": 4}]}, r"stages.0.images 3 is less than one batch of 4"),
        ({"stages": [{"images": 8, "size": 64, "batch": 4, "sigma": 9}]}, r"stages.0.sigma is of joints' targets"),
        ({"optimiser": {"accumulate": 2}}, "optimiser.accumulate must be 1 for a finder"),
        ({"padding": 1.2}, r"unknown key 'padding'"),
        ({"augmentation": {"mosiac": 0.5}}, r"unknown key 'augmentation.mosiac'; did you mean 'mosaic'\?"),
        ({"augmentation": {"scale": [0, 1]}}, r"augmentation.scale.*two factors above nought, the smaller first"),
        ({"augmentation": {"scale": [1.5, 0.5]}}, r"augmentation.scale.*the smaller first"),
        ({"augmentation": {"mosaic": 1.5}}, r"augmentation.mosaic"),
        ({"data": []}, r"key 'data'"),
        ({"data": [{"data": "synth:2", "split": "test"}]}, r"data.0.split"),
        ({"role": "pose"}, r"key 'role'"),
    ],
)  # fmt: skip
def test_wrong_recipes_are_refused_with_a_sentence(changes, sentence):
    with pytest.raises(EdgeposeError, match=sentence) as caught:
        validate(FinderRecipe, values(**changes), "tiny.toml")
    assert str(caught.value).startswith("tiny.toml: ")
    assert "\n" not in str(caught.value)


def test_recipes_are_read_from_their_file(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(toml("synth:2"))
    assert load(path).input_size == (64, 32)
    path.write_text(toml("synth:2").replace("stacks = 1", "stacks = 2"))
    with pytest.raises(EdgeposeError, match=r"tiny\.toml: .*stacks 1"):
        load(path)


def test_the_shipped_recipe_makes_a_network():
    shipped = load(RECIPES / "finder.toml")
    model = finders.network(shipped).eval()
    width, height = shipped.input_size
    with torch.inference_mode():
        (out,) = model(torch.zeros(1, 3, height, width))
    assert out.shape == (1, 5, height // 4, width // 4)


@pytest.mark.parametrize("block", ["residual", "hru", "prm-b", "narrow", "depthwise", "reparam"])
def test_every_block_makes_a_finder(block):
    model = finders.network(recipe(model={**TINY, "block": block}, stages=[{"images": 4, "size": 64, "batch": 4}]))
    out = model.train()(torch.zeros(2, 3, 64, 96))[-1]
    assert out.shape == (2, 5, 16, 24)


def test_the_recipes_norm_and_initialisation_are_obeyed():
    kinds = {type(m).__name__ for m in finders.network(recipe(model={**TINY, "norm": "l2"})).modules()}
    assert "ChannelL2" in kinds
    assert "BatchNorm2d" not in kinds
    drawn = []
    for kind in ("he", "xavier"):
        torch.manual_seed(0)
        drawn.append(finders.network(recipe(model={**TINY, "initialisation": kind})))
    assert not same(drawn[0].stem.state_dict(), drawn[1].stem.state_dict())
    bias = [m.bias for m in drawn[1].heads[0].modules() if isinstance(m, torch.nn.Conv2d)][-1]
    assert bias.detach().tolist() == pytest.approx([-2.19, 2.0, 2.5, 0.0, 0.0])


def test_figures_are_learnt_and_found(drawn, tmp_path):
    spec, root = drawn
    made = recipe(
        spec,
        validation=[{"data": spec, "split": "all"}],
        validate_every=40,
        stages=[{"images": 640, "size": 64, "batch": 8}],
        optimiser={"rate": 1e-2, "warm_up": 10, "ema": 0.9},
        augmentation={"scale": [0.8, 1.2], "mosaic": 0.3, "colour": 0.1, "blur": 0.0},
    )
    last = fit(made, tmp_path, root=root, workers=0, threads=1)
    for name in ("curve.png", "sheet.png", "recipe.json", "log/from-0000000/metrics.csv"):
        assert (tmp_path / name).stat().st_size > 0, name
    with (tmp_path / "validation.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [r["step"] for r in table] == ["40", "80"]
    assert json.loads((tmp_path / "validation.json").read_text())["step"] == 80
    kept, model = load_best(last)
    assert kept == made
    scenes = read(made.data[0], root)
    found = look(of_network(kept, model), scenes)
    result = quality(scenes, found, 0.3)
    assert result.average_precision > 90
    assert result.average_precision == float(table[-1]["average_precision"])
    assert not model.training
    with (tmp_path / "log" / "from-0000000" / "metrics.csv").open() as file:
        logged = [r for r in csv.DictReader(file) if r.get("loss")]
    for part in ("loss_centre", "loss_size"):
        assert float(logged[-1][part]) < 0.5 * float(logged[0][part]), part


@pytest.mark.parametrize(
    "changes", [{}, {"model": {**TINY, "depth": 1, "dropout": 0.3}}], ids=["plain", "random network"]
)
def test_resuming_gives_the_same_weights(drawn, tmp_path, changes):
    """Stopped in the first stage, in the second, and not at all: bit for bit the same network."""
    spec, root = drawn
    made = recipe(spec, **changes)
    whole = fit(made, tmp_path / "whole", root=root, workers=0, threads=1)
    parts = tmp_path / "parts"
    fit(made, parts, root=root, workers=0, threads=1, max_steps=4)
    fit(made, parts, root=root, workers=0, threads=1, resume=True, max_steps=8)
    last = fit(made, parts, root=root, workers=0, threads=1, resume=True)
    assert checkpoints.read(last)["global_step"] == 12
    assert same(weights(whole), weights(last))
    assert not same(weights(parts / checkpoints.PREVIOUS), weights(last))


def test_a_run_does_not_go_on_with_other_boxes(drawn, tmp_path, monkeypatch):
    spec, root = drawn
    fit(recipe(spec), tmp_path, root=root, workers=0, threads=1, max_steps=2)
    whole = finders.read
    monkeypatch.setattr(finders, "read", lambda *words: [replace(s, unsure=s.people) for s in whole(*words)])
    with pytest.raises(EdgeposeError, match="not those that the run began with"):
        fit(recipe(spec), tmp_path, root=root, workers=0, threads=1, resume=True)


@pytest.fixture(scope="module")
def runs(drawn, tmp_path_factory):
    """Last checkpoints of a finder and of a pose network after one step."""
    spec, root = drawn
    folder = tmp_path_factory.mktemp("runs")
    common = {"data": [{"data": spec, "split": "all"}], "stages": [{"images": 4, "size": 64, "batch": 4}]}
    finder = fit(recipe(**common), folder / "finder", root=root, workers=0, threads=1)
    network = {"width": 16, "depth": 2, "stacks": 1}
    pose = Recipe.model_validate({"name": "pose", "precision": "float32", "model": network, **common})
    return finder, poses.fit(pose, folder / "pose", root=root, workers=0, threads=1)


def test_a_finder_begins_with_published_weights(drawn, tmp_path, monkeypatch):
    """Of MoveNet's file, here with drawn weights: what is frozen stays as it was given, the rest learns."""
    given = weights_for(Mobile(16, 0.25))
    monkeypatch.setattr(movenet, "read", lambda path, shapes: given)
    file = tmp_path / "somewhere.tflite"
    model = {**MOBILE, "shallow": True, "frozen": 2, "block": "narrow"}
    made = recipe(drawn[0], pretrained=str(file), model=model, stages=[{"images": 8, "size": 64, "batch": 4}])
    with pytest.raises(EdgeposeError, match="there is no file .*somewhere.tflite"):
        fit(made, tmp_path / "none", root=drawn[1], workers=0)
    file.touch()
    ended = weights(fit(made, tmp_path / "run", root=drawn[1], workers=0))
    assert torch.equal(ended["model.stem.first.0.weight"], given[0][0])
    later = ended["model.stem.stages.3.0.branch.0.0.weight"]
    assert any(w.shape == later.shape and 0 < float((w - later).norm() / w.norm()) < 0.5 for w, _ in given)


@pytest.fixture(scope="module")
def pose_of_a_mobile_stem(drawn, tmp_path_factory):
    """A pose network's checkpoint, after one step."""
    spec, root = drawn
    model = {**MOBILE, "width": 32}
    made = {"data": [{"data": spec, "split": "all"}], "stages": [{"images": 4, "size": 64, "batch": 4}], "model": model}
    pose = Recipe.model_validate({"name": "pose", "precision": "float32", **made})
    return poses.fit(pose, tmp_path_factory.mktemp("pose"), root=root, workers=0, threads=1)


STILL = {
    "stages": [{"images": 4, "size": 64, "batch": 4}],
    "optimiser": {"kind": "adamw", "rate": 1e-9, "weight_decay": 0, "warm_up": 1},
}


@pytest.mark.parametrize("shallow", [True, False])
def test_a_finder_begins_with_a_pose_networks_stem(drawn, pose_of_a_mobile_stem, tmp_path, shallow):
    """A shallow one with all but the top of a deep one; what is frozen stays as it was given, statistics included."""
    model = {**MOBILE, "width": 16, "shallow": shallow, "frozen": 2, "block": "narrow"}
    made = recipe(drawn[0], start_from=str(pose_of_a_mobile_stem), start_with="stem", model=model, **STILL)
    run = fit(made, tmp_path / "run", root=drawn[1], workers=0, threads=1)
    ended = checkpoints.read(run)["state_dict"]
    ended = {k.removeprefix("model."): v for k, v in ended.items() if k.startswith("model.stem.")}
    begun = poses.load_best(pose_of_a_mobile_stem)[1].state_dict()
    learnt = [k for k, v in ended.items() if v.ndim == 4]
    assert any(k.startswith("stem.stages.4.") for k in learnt)
    for name in learnt:
        same = begun[name].shape == ended[name].shape and torch.allclose(begun[name], ended[name], atol=1e-6)
        own = name.startswith("stem.out.") or (shallow and name.startswith("stem.top."))
        assert same != own, name
    whole = "stem.first.", "stem.stages.0.", "stem.stages.1."
    assert {k for k in ended if k.startswith(whole)} == {k for k in begun if k.startswith(whole)}
    assert all(torch.equal(begun[k], ended[k]) for k in ended if k.startswith(whole))
    means = [k for k in ended if k.startswith("stem.stages.2.") and k.endswith("running_mean")]
    assert means
    assert not any(torch.equal(begun[k], ended[k]) for k in means)


def test_a_finder_begins_with_a_bundles_stem(drawn, tmp_path):
    """Its images may be of a size that the bundle's network itself cannot take."""
    model = {**MOBILE, "multiplier": 1.0, "shallow": True, "frozen": 5, "block": "narrow"}
    made = recipe(drawn[0], start_from="edgepose-s", start_with="stem", model=model,
                  stages=[{"images": 4, "size": 48, "batch": 4}])  # fmt: skip
    ended = load_best(fit(made, tmp_path / "run", root=drawn[1], workers=0, threads=1))[1].state_dict()
    graph = onnx.load(bundles.load("edgepose-s").path).graph
    held = [onnx.numpy_helper.to_array(t) for t in graph.initializer]
    weight = ended["stem.stages.4.2.branch.0.0.weight"].numpy()
    assert any(w.shape == weight.shape and np.array_equal(w, weight) for w in held)


def test_another_stem_is_refused_before_the_images_are_gone_through(
    drawn, pose_of_a_mobile_stem, runs, tmp_path, monkeypatch
):
    spec, root = drawn
    pose = checkpoints.read(pose_of_a_mobile_stem)
    changed = {"shallow": {**MOBILE, "shallow": True}, "cascade": {**MOBILE, "kind": "cascade", "stacks": 2}}
    for name, model in changed.items():
        torch.save({**pose, "recipe": {**pose["recipe"], "model": model}}, tmp_path / f"{name}.ckpt")
    monkeypatch.setattr(finders, "SceneData", None)
    shallow = {**MOBILE, "shallow": True}
    for start_from, model, says in (
        (
            pose_of_a_mobile_stem,
            {**shallow, "multiplier": 0.5},
            r"model.multiplier is 0.25 in .* and 0.5 in the recipe",
        ),
        (tmp_path / "shallow.ckpt", MOBILE, "model.shallow is True in .* and False in the recipe"),
        (tmp_path / "cascade.ckpt", shallow, "is a cascade, whose stem sees more than an image"),
        (runs[1], {**shallow, "multiplier": 1.0}, "start_from: model.preprocessing is imagenet in"),
        (runs[0], shallow, r"is a checkpoint of a person finder, not of a pose network"),
        ("edgepose-finder", shallow, "is a person finder; name a pose model"),
        ("edgepose-s-int8", shallow, "begin with the float32 bundle"),
        ("edgepose-x", shallow, "neither a file nor a shipped model"),
    ):
        made = recipe(spec, start_from=str(start_from), start_with="stem", model=model)
        with pytest.raises(EdgeposeError, match=says):
            fit(made, tmp_path / "none", root=root, workers=0, threads=1)
    for model in ({}, {**MOBILE, "kind": "cascade", "stacks": 2}):
        with pytest.raises(EdgeposeError, match="set start_from and model.stem"):
            validate(Recipe, {"name": "x", "data": [{"data": spec}], "stages": STILL["stages"], "model": model,
                              "start_from": "edgepose-s", "start_with": "stem"}, "x.toml")  # fmt: skip
    with pytest.raises(EdgeposeError, match="set start_from and model.stem"):
        validate(FinderRecipe, values(spec, start_from="edgepose-s", start_with="stem"), "x.toml")
    with pytest.raises(EdgeposeError, match="is a bundle, and a whole finder begins with a checkpoint; add start_with"):
        fit(recipe(spec, start_from="edgepose-s", model=shallow), tmp_path / "none", root=root, workers=0, threads=1)


def test_checkpoints_of_the_other_kind_are_refused(runs):
    finder, pose = runs
    with pytest.raises(EdgeposeError, match=r"is a checkpoint of a pose network, not of a person finder"):
        load_best(pose)
    with pytest.raises(EdgeposeError, match=r"is a checkpoint of a person finder, not of a pose network"):
        poses.load_best(finder)


def test_a_checkpoint_with_other_weights_is_refused(runs, tmp_path):
    content = checkpoints.read(runs[0])
    content["recipe"]["model"]["width"] = 32
    torch.save(content, tmp_path / "odd.ckpt")
    with pytest.raises(EdgeposeError, match=r"odd\.ckpt does not fit its own recipe"):
        load_best(tmp_path / "odd.ckpt")


def test_a_run_is_not_overwritten_nor_mixed(drawn, runs):
    spec, root = drawn
    for path in runs:
        with pytest.raises(EdgeposeError, match="already holds a run; add --resume"):
            fit(recipe(spec), path.parent, root=root, workers=0, threads=1)
        with pytest.raises(EdgeposeError):  # another recipe's, or not a finder's at all
            fit(recipe(spec, seed=2), path.parent, root=root, workers=0, threads=1, resume=True)


def test_a_run_can_begin_with_anothers_weights(drawn, runs, tmp_path):
    spec, root = drawn
    second = fit(recipe(spec, start_from=str(runs[0]), **STILL), tmp_path / "2", root=root, workers=0, threads=1)
    before, after = load_best(runs[0])[1].state_dict(), load_best(second)[1].state_dict()
    assert all(torch.allclose(before[k], after[k], atol=1e-6) for k in before if "running" not in k and "num" not in k)
    wider = {**TINY, "width": 32}
    with pytest.raises(EdgeposeError, match=r"start_from: the network in .* is not the recipe's"):
        fit(recipe(spec, start_from=str(runs[0]), model=wider), tmp_path / "3", root=root, workers=0, threads=1)
    with pytest.raises(EdgeposeError, match=r"is a checkpoint of a pose network"):
        fit(recipe(spec, start_from=str(runs[1])), tmp_path / "4", root=root, workers=0, threads=1)
    bright = {**TINY, "preprocessing": "symmetric"}
    with pytest.raises(EdgeposeError, match=r"model.preprocessing is imagenet in .* and symmetric in the recipe"):
        fit(recipe(spec, start_from=str(runs[0]), model=bright), tmp_path / "5", root=root, workers=0, threads=1)


def test_validation_is_on_dev_where_no_split_is_said():
    assert [v.split for v in recipe(validation=[{"data": "synth:9"}]).validation] == ["dev"]


def test_the_command_trains_a_finder(drawn, tmp_path):
    """In a process of its own, with another that makes the samples."""
    spec, root = drawn
    path, out = tmp_path / "tiny.toml", tmp_path / "run"
    path.write_text(toml(spec))
    command = [sys.executable, "-m", "trainer.cli", "fit", str(path), "--out", str(out), "--data-root", str(root),
               "--workers", "1", "--threads", "1"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert f"trained: {out / 'last.ckpt'}" in done.stdout
    assert load_best(out / "last.ckpt")[0] == load(path)
    assert checkpoints.read(out / "last.ckpt")["global_step"] == 4
    for name in ("curve.png", "sheet.png", "validation.csv"):
        assert (out / name).stat().st_size > 0, name


def test_a_picture_that_a_loader_process_cannot_read_is_one_sentence(tmp_path):
    """All of the data are for training, so that no split looks at the pictures first."""
    spec, root = make_coco(tmp_path, 4)
    broken = root / "figures" / "images" / "001.png"
    broken.write_bytes(broken.read_bytes()[:200])
    path = tmp_path / "tiny.toml"
    path.write_text(toml(spec).partition("[[validation]]")[0] + toml(spec)[toml(spec).index("[model]") :])
    command = [sys.executable, "-m", "trainer.cli", "fit", str(path), "--out", str(tmp_path / "run"),
               "--data-root", str(root), "--workers", "1", "--threads", "1"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert len(said) == 1
    assert "001.png" in said[0]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("wrong", "more", "sentence"),
    [
        (
            "stacks = 1",
            ["--devices", "2"],
            r"a person finder is trained on one device by one process; leave out --devices and torchrun",
        ),
        ("stacks = 2", [], r"tiny\.toml: .*stacks 1"),
        ("stakcs = 1", [], r"tiny\.toml: unknown key 'model\.stakcs'; did you mean 'stacks'\?"),
    ],
)
def test_the_command_refuses_in_one_sentence(drawn, tmp_path, wrong, more, sentence):
    spec, root = drawn
    path, out = tmp_path / "tiny.toml", tmp_path / "run"
    path.write_text(toml(spec).replace("stacks = 1", wrong))
    told = CliRunner().invoke(app, ["fit", str(path), "--out", str(out), "--data-root", str(root), *more])
    assert isinstance(told.exception, EdgeposeError)
    assert re.search(sentence, str(told.exception))
    assert not out.exists()
