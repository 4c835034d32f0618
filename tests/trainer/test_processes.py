"""One step's batch on one process, in parts, and on two processes: same samples, same losses, same weights."""

import csv
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from edgepose import EdgeposeError
from tests.trainer.conftest import make_coco
from trainer import checkpoints
from trainer.data.samples import Plan, Stage
from trainer.finder import fit as finders
from trainer.finder.recipe import FinderRecipe
from trainer.fit import fit
from trainer.recipe import Recipe

TEXT = """
name = "divided"
precision = "float32"
validate_every = 1000
[[data]]
data = "{spec}"
split = "all"
[model]
width = 16
depth = 2
stacks = 1
norm = "l2"
[[stages]]
images = 56
size = 64
batch = 8
[optimiser]
kind = "momentum"
rate = 0.02
warm_up = 2
ema = 0.9
accumulate = {accumulate}
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn")
    return make_coco(root, 8)


def written(folder, spec, accumulate=1):
    path = folder / f"divided-{accumulate}.toml"
    path.write_text(TEXT.format(spec=spec, accumulate=accumulate))
    return path


def run(command, path, out, root, *options):
    words = [*command, "fit", str(path), "--out", str(out), "--data-root", str(root), "--workers", "0",
             "--threads", "1", *options]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def losses(out):
    rows = []
    for path in sorted(out.glob("log/*/metrics.csv")):
        with path.open(newline="") as file:
            rows += [float(r["loss"]) for r in csv.DictReader(file) if r.get("loss")]
    return rows


def weights(out):
    return checkpoints.read(out / checkpoints.LAST)["state_dict"]


def same(a, b):
    """Equal but for the order in which floats were added, which a run blow up a little."""
    return a.keys() == b.keys() and all(torch.allclose(a[k], b[k], atol=1e-4) for k in a)


@pytest.mark.parametrize(("parts", "world"), [(1, 2), (2, 1), (2, 2), (4, 1)])
def test_a_divided_plan_has_the_samples_of_the_whole(parts, world):
    shares, stages = np.ones(10), [Stage(3, 8, 32), Stage(2, 8, 64)]
    whole = list(Plan(shares, stages, 7))
    divided = [list(Plan(shares, stages, 7, parts=parts, rank=r, world=world)) for r in range(world)]
    assert all(len(d) == len(whole) * parts for d in divided)
    for step, batch in enumerate(whole):
        drawn = [d for one in divided for part in one[step * parts : (step + 1) * parts] for d in part]
        assert sorted(drawn, key=lambda d: d.seed) == sorted(batch, key=lambda d: d.seed)
    resumed = list(Plan(shares, stages, 7, start=2, parts=parts, world=world))
    assert resumed == divided[0][2 * parts :]


def test_more_devices_than_there_are_or_than_torchrun_started_are_refused(tmp_path, monkeypatch):
    made = Recipe.model_validate({"name": "few", "data": [{"data": "synth:8"}], "stages": [{"images": 16, "size": 64}]})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(EdgeposeError, match="2 processes need as many GPUs, and this machine has 1"):
        fit(made, tmp_path / "run", devices=2)
    for key, value in (("TORCHELASTIC_RUN_ID", "x"), ("LOCAL_WORLD_SIZE", "1"), ("WORLD_SIZE", "1")):
        monkeypatch.setenv(key, value)
    with pytest.raises(EdgeposeError, match="torchrun started 1 processes on this machine, not 4"):
        fit(made, tmp_path / "run", devices=4)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("local", ["1", "2"])
def test_a_finder_under_torchrun_is_refused(tmp_path, monkeypatch, local):
    """Each process would train the whole of it, all into one folder."""
    for key, value in (("TORCHELASTIC_RUN_ID", "x"), ("LOCAL_WORLD_SIZE", local), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(key, value)
    made = FinderRecipe.model_validate({
        "role": "person",
        "name": "alone",
        "input_size": [64, 64],
        "data": [{"data": "synth:2", "split": "all"}],
        "model": {"depth": 2, "stacks": 1},
        "stages": [{"images": 8, "size": 64, "batch": 4}],
    })  # fmt: skip
    with pytest.raises(EdgeposeError, match="on one device by one process; leave out --devices and torchrun"):
        finders.fit(made, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_value_for_a_batch_norm_of_each_process_is_refused(tmp_path):
    stage = {"images": 16, "size": 64, "batch": 2}
    values = {"name": "few", "data": [{"data": "synth:8"}], "model": {"depth": 4}, "stages": [stage]}
    with pytest.raises(EdgeposeError, match=r"stages\.0: the smallest map of 64 pixels is one cell"):
        fit(Recipe.model_validate(values), tmp_path / "run", devices=2)
    assert not (tmp_path / "run").exists()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["devices", "torchrun"])
def test_two_processes_learn_as_one_with_their_batches_together(drawn, tmp_path, how):
    """Gloo on CPU; layers without batch statistics, which each process would have for itself."""
    spec, root = drawn
    path = written(tmp_path, spec)
    one, two = tmp_path / "one", tmp_path / "two"
    alone = [sys.executable, "-m", "trainer.cli"]
    run(alone, path, one, root)
    if how == "devices":
        run(alone, path, two, root, "--devices", "2")
    else:
        run(
            [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "trainer.cli"],
            path,
            two,
            root,
        )
    assert len(losses(one)) == 7  # every step
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    assert losses(one)[-1] < 0.9 * losses(one)[0]
    assert same(weights(one), weights(two))


def test_a_batch_worked_off_in_parts_teaches_the_same(drawn, tmp_path):
    spec, root = drawn
    from trainer.recipe import load

    for accumulate in (1, 4):
        fit(load(written(tmp_path, spec, accumulate)), tmp_path / str(accumulate), root=root, workers=0, threads=1)
    assert same(weights(tmp_path / "1"), weights(tmp_path / "4"))
    assert checkpoints.read(tmp_path / "4" / checkpoints.LAST)["global_step"] == 7


def test_a_run_in_parts_resumes_between_steps(drawn, tmp_path, monkeypatch):
    """Saved as often as can be, and killed without a last save: never saved between the parts of a step."""
    from trainer.recipe import load

    spec, root = drawn
    made = load(written(tmp_path, spec, 4)).model_copy(update={"checkpoint_minutes": 1e-9})
    fit(made, tmp_path / "whole", root=root, workers=0, threads=1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Checkpoints, "on_train_end", lambda *_: None)
        fit(made, tmp_path / "parts", root=root, workers=0, threads=1, max_steps=5)
    assert checkpoints.read(tmp_path / "parts" / checkpoints.LAST)["global_step"] == 4
    fit(made, tmp_path / "parts", root=root, workers=0, threads=1, resume=True)
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_batches_that_cannot_be_divided_are_refused(drawn, tmp_path):
    spec, root = drawn
    from trainer.recipe import load

    made = load(written(tmp_path, spec))
    with pytest.raises(EdgeposeError, match=r"stages.0.batch 8 cannot be divided among 3 processes"):
        fit(made, tmp_path / "run", root=root, devices=3)
    assert not (tmp_path / "run").exists()
    values = made.model_dump(mode="json")
    values["optimiser"]["accumulate"] = 3
    with pytest.raises(ValueError, match=r"must be a multiple of optimiser.accumulate, 3"):
        Recipe.model_validate(values)
