"""Recipes at one budget: widths found, rows made by real runs, a table and a plot, and going on after a stop."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgepose import EdgeposeError
from edgepose.validation import validate
from tests.trainer.conftest import make_coco
from trainer.cli import RECIPES, app
from trainer.compare import at_budget, compare, fewer_stacks, macs
from trainer.recipe import DataSet, Recipe, load


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn")
    return make_coco(root, 8)


def common(spec="synth:8"):
    return Recipe.model_validate(
        {
            "name": "common",
            "precision": "float32",
            "data": [{"data": spec, "split": "all"}],
            "model": {"width": 16, "depth": 2},
            "stages": [{"images": 16, "size": 64, "batch": 8}],
            "optimiser": {"warm_up": 1},
        }
    )


@pytest.mark.parametrize("name", ["newell", "bulat", "chu", "yang", "tang", "edge-depthwise"])
def test_every_recipe_is_brought_to_about_the_budget(name):
    made = at_budget(fewer_stacks(load(RECIPES / f"{name}.toml")), common(), 20_000_000)
    assert macs(made) == pytest.approx(20e6, rel=0.25)
    assert made.model.stacks == {"bulat": 1, "edge-depthwise": 1, "tang": 5}.get(name, 2)
    assert made.stages == common().stages  # all but the network is common


def test_a_width_for_the_joints_of_any_skeleton():
    other = validate(Recipe, common().model_dump(mode="json") | {"skeleton": "lsp14"}, "lsp14")
    made = at_budget(fewer_stacks(load(RECIPES / "tang.toml")), other, 20_000_000)
    assert macs(made) == pytest.approx(20e6, rel=0.25)


def test_a_budget_that_cannot_be_met_gets_a_sentence():
    with pytest.raises(EdgeposeError, match="recipe tang cannot cost about 1 M MACs at 64 px: at width 20"):
        at_budget(load(RECIPES / "tang.toml"), common(), 1_000_000)
    with pytest.raises(EdgeposeError, match="must be 1, 3 or 5"):
        fewer_stacks(load(RECIPES / "tang.toml"), 2)


def test_a_table_of_real_runs(drawn, tmp_path, monkeypatch):
    spec, root = drawn
    recipes = [fewer_stacks(load(RECIPES / f"{name}.toml"), 1) for name in ("newell", "first")]
    where = {"budget": 10_000_000, "measure_on": DataSet(data=spec, split="all"), "root": root}
    found = compare(recipes, common(spec), tmp_path, **where, workers=0, threads=1)
    assert {row.name for row, _ in found} == {"newell-1", "edgepose-first-1"}
    table = (tmp_path / "table.md").read_text()
    assert "| newell-1 | 1 x " in table
    assert (tmp_path / "pareto.png").stat().st_size > 1000
    # a finished row is not trained again: what its file says is what the table says
    row = json.loads((tmp_path / "newell-1" / "row.json").read_text())
    (tmp_path / "newell-1" / "row.json").write_text(json.dumps({**row, "pckh05": 12.34}))
    compare(recipes, common(spec), tmp_path, **where, workers=0, threads=1)
    assert "| 12.3 |" in (tmp_path / "table.md").read_text()
    with pytest.raises(EdgeposeError, match="row.json was made with another budget"):
        compare(recipes, common(spec), tmp_path, **{**where, "budget": 12_000_000}, workers=0, threads=1)
    taught = recipes[0].model_copy(update={"distillation": load(RECIPES / "student.toml").distillation})
    with pytest.raises(EdgeposeError, match="learns from a teacher"):
        compare([taught], common(spec), tmp_path, **where)
    with pytest.raises(EdgeposeError, match="share a name"):
        compare([recipes[0], recipes[0]], common(spec), tmp_path, **where)


def test_persons_without_a_head_are_refused_before_anything_is_learnt(drawn, tmp_path):
    _, root = drawn
    content = json.loads((root / "figures" / "annotations.json").read_text())
    for annotation in content["annotations"]:
        annotation["keypoints"][3 * 9 + 2] = 0  # head top
    (root / "figures" / "headless.json").write_text(json.dumps(content))
    headless = DataSet(data="coco:figures/headless.json:figures/images", split="all")
    with pytest.raises(EdgeposeError, match="compared by PCKh, and nobody in 'coco:.*' has a labelled head"):
        compare(
            [load(RECIPES / "newell.toml")], common(), tmp_path / "x", budget=10_000_000, measure_on=headless, root=root
        )
    assert not (tmp_path / "x").exists()


def test_the_command_says_what_it_does_not_understand(tmp_path: Path):
    result = CliRunner().invoke(app, ["compare", "newell@two", "--out", str(tmp_path), "--measure-on", "synth:2"])
    assert isinstance(result.exception, EdgeposeError)
    assert "a number of stacks" in str(result.exception)
