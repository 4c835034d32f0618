"""Weights between two runs: the ends are the runs themselves, what lies between is a checkpoint like any other."""

import pytest
import torch
from typer.testing import CliRunner

from edgepose.errors import EdgeposeError
from tests.trainer.conftest import make_coco
from trainer import checkpoints
from trainer.blend import blend
from trainer.cli import app
from trainer.export import export
from trainer.fit import fit, load_best
from trainer.recipe import Recipe


def recipe(**changes):
    return Recipe.model_validate(
        {
            "name": "tried",
            "precision": "float32",
            "data": [{"data": "coco:figures/annotations.json:figures/images", "split": "all"}],
            "model": {"width": 16, "depth": 2, "stacks": 1, "order": "post"},
            "stages": [{"images": 16, "size": 64, "batch": 8}],
            **changes,
        }
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The root of the data, and the checkpoints of a run and of one that went on from it."""
    root = tmp_path_factory.mktemp("blend")
    make_coco(root, 8)
    first = fit(recipe(), root / "first", root=root, workers=0, threads=1)
    second = fit(recipe(name="on", start_from=str(first), seed=2), root / "on", root=root, workers=0, threads=1)
    return root, first, second


def test_the_ends_are_the_two_runs_and_the_middle_lies_between(runs, tmp_path):
    _, first, second = runs
    ends = [load_best(path)[1].state_dict() for path in (first, second)]
    for share in (0.0, 0.25, 1.0):
        blend(first, second, share, tmp_path / "b.ckpt")
        made, network = load_best(tmp_path / "b.ckpt")
        assert made.name == "on"
        for key, value in network.state_dict().items():
            if value.is_floating_point():
                torch.testing.assert_close(value, ends[0][key] * (1 - share) + ends[1][key] * share)
    assert any(not torch.equal(a, b) for a, b in zip(*(end.values() for end in ends), strict=True))


def test_what_was_written_becomes_a_bundle(runs, tmp_path):
    root, first, second = runs
    out = tmp_path / "b.ckpt"
    done = CliRunner().invoke(app, ["blend", str(first), str(second), str(out), "--share", "0.3"])
    assert done.exit_code == 0, done.output
    assert "0.7 of" in done.output
    assert export(out, tmp_path / "b.onnx", root=root).manual.name == "on"


def test_what_was_written_is_begun_with_and_not_resumed(runs, tmp_path):
    root, first, second = runs
    (tmp_path / "run").mkdir()
    blend(first, second, 0.5, tmp_path / "run" / "last.ckpt")
    made = recipe(name="on", start_from=str(first), seed=2)
    with pytest.raises(EdgeposeError, match=r"last\.ckpt holds weights alone, as of 'blend', and cannot be resumed"):
        fit(made, tmp_path / "run", root=root, resume=True, workers=0)
    begun = recipe(start_from=str(tmp_path / "run" / "last.ckpt"), seed=3)
    assert fit(begun, tmp_path / "next", root=root, workers=0, threads=1).exists()


def test_different_networks_and_names_are_refused(runs, tmp_path):
    root, first, _ = runs
    wider = recipe(model={"width": 20, "depth": 2, "stacks": 1, "order": "post"})
    other = fit(wider, tmp_path / "wider", root=root, workers=0, threads=1)
    with pytest.raises(EdgeposeError, match="different networks .width.; blend two of which one began"):
        blend(first, other, 0.5, tmp_path / "b.ckpt")
    held = checkpoints.read(first)  # the same shapes, and another network
    held["recipe"]["model"]["preprocessing"] = "symmetric"
    torch.save(held, other.parent / "bright.ckpt")
    with pytest.raises(EdgeposeError, match=r"are of different networks \(preprocessing\)"):
        blend(first, other.parent / "bright.ckpt", 0.5, tmp_path / "b.ckpt")
    with pytest.raises(EdgeposeError, match=r"a checkpoint's file name ends in \.ckpt"):
        CliRunner().invoke(app, ["blend", str(first), str(other), str(tmp_path / "b.pt")], catch_exceptions=False)
    assert [p.name for p in tmp_path.iterdir()] == ["wider"]


def test_a_run_is_not_written_over(runs, tmp_path):
    _, first, second = runs
    before = second.read_bytes()
    (tmp_path / "link.ckpt").symlink_to(second)
    for out in (second, tmp_path / "link.ckpt"):
        with pytest.raises(EdgeposeError, match="would be written over"):
            blend(first, second, 0.5, out)
    with pytest.raises(EdgeposeError, match="share nan is no number"):
        blend(first, second, float("nan"), tmp_path / "b.ckpt")
    assert second.read_bytes() == before
