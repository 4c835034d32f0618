from pathlib import Path

import pytest

import trainer
from edgepose import EdgeposeError
from edgepose.validation import validate
from trainer.finder.recipe import load as load_finder
from trainer.fit import PoseModule
from trainer.recipe import Recipe, load

GOOD = """
name = "good"
[[data]]
data = "lsp:lspet"
[model]
depth = 4
[[stages]]
size = 128
images = 1000
[[stages]]
size = 192
images = 1000
"""


def test_shipped_recipes_are_valid():
    found = list((Path(trainer.__file__).parent / "recipes").glob("*.toml"))
    assert found
    for path in found:
        load_finder(path) if path.stem.startswith("finder") else load(path)


def test_validation_is_on_dev_where_no_split_is_said(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text(GOOD + '[[validation]]\ndata = "synth:9"\n[[validation]]\ndata = "synth:9"\nsplit = "all"\n')
    made = load(path)
    assert [v.split for v in made.validation] == ["dev", "all"]
    assert [d.split for d in made.data] == ["train"]
    again = validate(Recipe, made.model_dump(mode="json"), "as a checkpoint keeps it")
    assert again == made


@pytest.mark.parametrize("key", ["share", "behind"])
def test_how_often_somebody_is_drawn_means_nothing_in_validation(tmp_path, key):
    path = tmp_path / "r.toml"
    path.write_text(GOOD + f'[[validation]]\ndata = "synth:9"\n{key} = 3\n')
    with pytest.raises(EdgeposeError, match=rf"validation.0.{key} is of who is drawn to learn from; leave it out"):
        load(path)


def test_the_paper_is_the_default(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text(GOOD)
    recipe = load(path)
    assert (recipe.model.stacks, recipe.model.width, recipe.model.order) == (8, 256, "pre")
    assert recipe.input_size == 192
    assert recipe.augmentation.scale == (0.7, 1.3)
    assert recipe.augmentation.rotation == 40
    assert recipe.at(1).input_size == 128
    assert recipe.at(1).stages[-1].sigma == pytest.approx(recipe.target.sigma * 128 / 192)  # as it is trained there
    assert recipe.at(63).input_size == 192


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("depth = 4", "dept = 4", r"r\.toml: unknown key 'model.dept'; did you mean 'depth'"),
        ("[model]", "[modle]", "unknown key 'modle'; did you mean 'model'"),
        ("size = 192", "size = 200", "stages.1.size 200 must be a multiple of 64"),
        ("size = 192", "size = 64", "the last stage must have the largest size"),
        ("images = 1000", "images = 3", "is less than one batch"),
        ("size = 128", "size = 64\nbatch = 1", "the smallest map of 64 pixels is one cell, and batch norm needs"),
        ('name = "good"', 'name = "good"\nskeleton = "mpii61"', "key 'skeleton'.*unknown skeleton"),
        ('name = "good"', 'name = "good"\ndecode = "drak"', "key 'decode'.*unknown decode method"),
        ('name = "good"', "", "key 'name' is missing"),
        ("[[data]]\ndata", "[[data]]\ndatta", r"unknown key 'data.0.datta'; did you mean 'data'"),
        ('name = "good"', 'name = "good"\nseed = -1', r"key 'seed' \(it is -1\)"),
        ("[model]", "[optimiser]\nrate = inf\n[model]", "key 'optimiser.rate'"),
        ("[model]", "[augmentation]\nscale = [1.3, 0.7]\n[model]", "key 'augmentation.scale'.*the smaller first"),
        ("[model]", "[augmentation]\nscale = [0.0, 1.0]\n[model]", "key 'augmentation.scale'.*above nought"),
        ("[model]", "[optimiser]\ndrops = []\n[model]", "key 'optimiser.drops'"),
        ("size = 128", "size = 192\nsigma = 3.0", "stages of one size must have one sigma"),
        ("depth = 4", "depth = 9", r"key 'model.depth' \(it is 9\)"),
    ],
)
def test_bad_recipes_name_the_key(tmp_path, old, new, sentence):
    path = tmp_path / "r.toml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(EdgeposeError, match=sentence) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_the_targets_of_a_smaller_stage_are_smaller():
    sizes = [{"images": 16, "size": 32}, {"images": 16, "size": 48, "sigma": 0.5}, {"images": 16, "size": 64}]
    recipe = Recipe.model_validate(
        {
            "name": "x",
            "data": [{"data": "synth:2"}],
            "model": {"width": 16, "depth": 2, "stacks": 1, "order": "post"},
            "target": {"sigma": 2.0},
            "stages": sizes,
        }
    )
    assert PoseModule(recipe)._sigmas == {32: 1.0, 48: 0.5, 64: 2.0}
