"""Training for real, on drawn figures: it learns, it resumes to the same weights, it survives interruption."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from edgepose import EdgeposeError
from edgepose.files import alone
from edgepose.skeletons import MPII16
from tests.trainer.conftest import make_coco
from trainer import checkpoints, learner
from trainer.data.module import select
from trainer.evaluate import figures, open_estimator, predict
from trainer.fit import PoseModule, fit, load_best
from trainer.learner import Bar, precision
from trainer.recipe import DataSet, Recipe, load


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """(spec, root) of eight drawn figures."""
    root = tmp_path_factory.mktemp("drawn")
    return make_coco(root, 8)


def no_crops(count):
    raise AssertionError("a checkpoint needs none")


def recipe(spec, **changes):
    values = {
        "name": "tiny",
        "precision": "float32",
        "data": [{"data": spec, "split": "all"}],
        "validation": [{"data": spec, "split": "all"}],
        "validate_every": 1000,
        "model": {"width": 16, "depth": 2, "stacks": 2, "order": "post"},
        "target": {"sigma": 1.5},
        "stages": [{"images": 32, "size": 32, "batch": 4}, {"images": 32, "size": 64, "batch": 4}],
        "optimiser": {"rate": 3e-3, "warm_up": 4, "ema": 0.9},
        **changes,
    }
    return Recipe.model_validate(values)


def weights(path):
    content = checkpoints.read(path)
    return content["state_dict"]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(
    ("asked", "gpu", "cpu", "taken"),
    [
        ("bfloat16", False, "AVX512", "bf16-mixed"),
        ("float16", False, "AVX512", "bf16-mixed"),
        ("bfloat16", False, "AVX2", "32-true"),
        ("bfloat16", False, "DEFAULT", "32-true"),
        ("bfloat16", False, "SVE256", "bf16-mixed"),
        ("float16", False, "AVX2", "32-true"),
        ("float32", False, "AVX2", "32-true"),
        ("bfloat16", True, "AVX2", "bf16-mixed"),
        ("float16", True, "AVX2", "16-mixed"),
    ],
)
def test_a_cpu_trains_in_what_it_has_instructions_for(asked, gpu, cpu, taken, monkeypatch):
    told = []
    monkeypatch.setattr("trainer.learner.console.say", told.append)
    monkeypatch.setattr("trainer.learner.platform.machine", lambda: "aarch64" if cpu.startswith("SVE") else "x86_64")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: cpu)
    assert precision(recipe("synth:1", precision=asked), on_gpu=gpu) == taken
    assert bool(told) == (taken == "32-true" and asked != "float32")


def test_resuming_gives_the_same_weights(drawn, tmp_path):
    """Stopped in the first stage, in the second, and not at all: bit for bit the same network."""
    spec, root = drawn
    made = recipe(spec)
    whole = fit(made, tmp_path / "whole", root=root, workers=0, threads=1)
    parts = tmp_path / "parts"
    fit(made, parts, root=root, workers=0, threads=1, max_steps=5)
    fit(made, parts, root=root, workers=0, threads=1, resume=True, max_steps=11)
    last = fit(made, parts, root=root, workers=0, threads=1, resume=True)
    assert checkpoints.read(last)["global_step"] == 16
    assert same(weights(whole), weights(last))
    # and it is not that nothing was learnt
    assert not same(weights(parts / checkpoints.PREVIOUS), weights(last))


def test_resuming_from_a_save_in_mid_run_gives_the_same_weights(drawn, tmp_path, monkeypatch):
    """The periodic save happens inside a step's hooks; nothing of that step may be missing from it."""
    spec, root = drawn
    made = recipe(spec, checkpoint_minutes=1e-9)  # after every step
    whole = fit(made, tmp_path / "whole", root=root, workers=0, threads=1)
    with monkeypatch.context() as patch:  # as a kill would end it
        patch.setattr(checkpoints.Checkpoints, "on_train_end", lambda *_: None)
        fit(made, tmp_path / "parts", root=root, workers=0, threads=1, max_steps=7)
    assert checkpoints.read(tmp_path / "parts" / checkpoints.LAST)["global_step"] == 6
    last = fit(made, tmp_path / "parts", root=root, workers=0, threads=1, resume=True)
    assert same(weights(whole), weights(last))


def test_a_run_leaves_logs_and_pictures(drawn, tmp_path):
    spec, root = drawn
    fit(recipe(spec, validate_every=8), tmp_path, root=root, workers=1, threads=1)
    for name in (
        "last.ckpt",
        "curve.png",
        "sheet.png",
        "validation.csv",
        "validation.json",
        "recipe.json",
        "log/from-0000000/metrics.csv",
    ):
        assert (tmp_path / name).stat().st_size > 0, name
    assert list((tmp_path / "tensorboard").glob("events*"))
    with (tmp_path / "validation.csv").open() as file:
        assert [r["step"] for r in csv.DictReader(file)] == ["8", "16"]


def test_eight_images_are_learnt_to_pckh_100(drawn, tmp_path):
    spec, root = drawn
    still = {"scale": [1, 1], "rotation": 0, "shift": 0, "flip": 0, "colour": 0, "blur": 0}
    made = recipe(
        spec,
        model={"width": 32, "depth": 2, "stacks": 1, "order": "post"},
        stages=[{"images": 1600, "size": 64, "batch": 8}],
        optimiser={"rate": 5e-3, "warm_up": 10, "ema": 0.9},
        augmentation=still,
    )
    estimator = open_estimator(str(fit(made, tmp_path, root=root, workers=0, threads=1)))
    persons = select(DataSet(data=spec, split="all"), estimator.skeleton, root).persons
    assert figures(predict(estimator, persons), estimator.skeleton)["pckh05"] == 100.0


def test_a_run_can_begin_with_anothers_weights(drawn, tmp_path):
    spec, root = drawn
    first = fit(recipe(spec), tmp_path / "first", root=root, workers=0, threads=1)
    stages = [{"images": 4, "size": 64, "batch": 4}]
    still = {"kind": "adamw", "rate": 1e-9, "weight_decay": 0, "warm_up": 1}
    second = fit(recipe(spec, start_from=str(first), stages=stages, optimiser=still), tmp_path / "second", root=root,
                 workers=0, threads=1)  # fmt: skip
    before, after = load_best(first)[1].state_dict(), load_best(second)[1].state_dict()
    assert all(torch.allclose(before[k], after[k], atol=1e-6) for k in before if "running" not in k and "num" not in k)
    wider = {"width": 32, "depth": 2, "stacks": 2, "order": "post"}
    with pytest.raises(EdgeposeError, match=r"start_from: model.width is 16 in .* and 32 in the recipe"):
        fit(recipe(spec, start_from=str(first), model=wider), tmp_path / "third", root=root, workers=0, threads=1)


def test_stacks_can_be_added_to_a_trained_network(drawn, tmp_path):
    """At first the deeper network gives what the one that it began with gives, from its last stack and the new ones."""
    spec, root = drawn
    model = {"width": 16, "depth": 2, "stacks": 2, "order": "post"}
    first = fit(recipe(spec, model=model), tmp_path / "first", root=root, workers=0, threads=1)
    made = PoseModule(recipe(spec, start_from=str(first), model={**model, "stacks": 4}))
    made.begin_with(first, no_crops)
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 255
    with torch.no_grad():
        before, after = load_best(first)[1].eval()(image), made.model.eval()(image)
    assert len(after) == 4
    for ours, theirs in zip(after, [*before, before[-1], before[-1]], strict=True):
        assert torch.equal(ours, theirs)
    # And they are not bound to stay alike: what one hands on is learnt like the rest.
    made.model.train()(image)[-1].square().sum().backward()
    assert all(float(p.grad.abs().max()) > 0 for p in made.model.heatmap_injections[2].parameters())
    with pytest.raises(EdgeposeError, match=r"start_from: model.stacks is 2 in .* and 1 in the recipe"):
        PoseModule(recipe(spec, start_from=str(first), model={**model, "stacks": 1})).begin_with(first, no_crops)
    attentive = {**model, "stacks": 4, "attention": {}}
    with pytest.raises(EdgeposeError, match=r"start_from: model.attention is None in .* in the recipe"):
        PoseModule(recipe(spec, start_from=str(first), model=attentive)).begin_with(first, no_crops)


def test_joints_that_nobody_labels_are_refused(drawn, tmp_path):
    spec, root = drawn
    with pytest.raises(EdgeposeError, match="skeleton: no person in data labels nose, left_eye, right_eye"):
        fit(recipe(spec, skeleton="coco17", validation=[]), tmp_path / "run", root=root, workers=0, threads=1)


def test_the_rate_follows_the_batch_of_each_stage(drawn):
    """Linear scaling: four times the batch, four times the rate."""
    spec, _ = drawn
    stages = [{"images": 160, "size": 32, "batch": 16}, {"images": 640, "size": 64, "batch": 64}]
    made = recipe(
        spec, stages=stages, optimiser={"rate": 0.1, "reference_batch": 16, "warm_up": 0, "course": "constant"}
    )
    configured = PoseModule(made).configure_optimizers()
    optimiser, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(20):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    assert rates == pytest.approx([0.1] * 10 + [0.4] * 10)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_bar_of_a_resumed_run_is_that_of_the_whole(drawn, tmp_path, monkeypatch, recwarn, accumulate):
    """And nobody is warned of what is so on purpose."""
    spec, root = drawn
    made = recipe(spec, optimiser={"warm_up": 1, "ema": 0.5, "accumulate": accumulate})
    shown = []

    def end(bar, *_):
        (task,) = [t for t in bar.progress.tasks if t.id == bar.train_progress_bar_id]
        shown.append((task.completed, task.total))

    monkeypatch.setattr(Bar, "on_train_epoch_end", end)
    for steps, resume in ((2, False), (5, True)):
        fit(made, tmp_path, root=root, workers=0, threads=1, max_steps=steps, resume=resume)
    assert shown == [(2 * accumulate, 2 * accumulate), (5 * accumulate, 5 * accumulate)]
    assert not [str(told.message) for told in recwarn if "lightning" in told.filename]


def test_the_best_weights_are_the_moving_average(drawn):
    """By w' <- 0.9 w' + 0.1 w after each step."""
    module = PoseModule(recipe(drawn[0], optimiser={"ema": 0.9}))
    module.average.update_parameters(module.model)  # the first is a copy
    before = next(iter(module.best.parameters())).clone()
    with torch.no_grad():
        next(iter(module.model.parameters())).add_(1.0)
    module.average.update_parameters(module.model)
    assert torch.allclose(next(iter(module.best.parameters())), before + 0.1)
    plain = PoseModule(recipe(drawn[0], optimiser={"ema": 0}))
    assert plain.best is plain.model


@pytest.mark.parametrize("stem_rate", [1.0, 0.1])
def test_weights_decay_and_norms_and_biases_do_not(drawn, stem_rate):
    module = PoseModule(recipe(drawn[0], optimiser={"weight_decay": 0.3, "stem_rate": stem_rate, "ema": 0}))
    groups = module._groups()
    assert sum(len(g["params"]) for g in groups) == len(list(module.model.parameters()))
    assert {g["share"] for g in groups} == {1.0, stem_rate}
    stem = {id(p) for name, p in module.model.named_parameters() if "stem" in name.split(".")}
    for group in groups:
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] == 0.3}
        if stem_rate < 1:
            assert {id(p) in stem for p in group["params"]} == {group["share"] == stem_rate}


def test_a_run_is_not_overwritten_nor_mixed(drawn, tmp_path):
    spec, root = drawn
    fit(recipe(spec), tmp_path, root=root, workers=0, threads=1, max_steps=2)
    with pytest.raises(EdgeposeError, match="already holds a run; add --resume"):
        fit(recipe(spec), tmp_path, root=root, workers=0, threads=1)
    with pytest.raises(EdgeposeError, match="made by another recipe"):
        fit(recipe(spec, seed=2), tmp_path, root=root, workers=0, threads=1, resume=True)


def test_a_run_does_not_go_on_with_other_labels(tmp_path, monkeypatch):
    """The recipe names the same file, whose figures have moved a little since; put back, the run goes on."""
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "cache"))
    spec, root = make_coco(tmp_path, 4)
    made, run = recipe(spec), {"root": root, "workers": 0, "threads": 1}
    before = fit(made, tmp_path / "run", **run, max_steps=2).read_bytes()
    labels = root / "figures" / "annotations.json"
    good = labels.read_text()
    changed = json.loads(good)
    changed["annotations"][1]["keypoints"][0] += 0.5
    labels.write_text(json.dumps(changed))
    with pytest.raises(EdgeposeError, match="^data: the labels .* are not those that the run began with; put them"):
        fit(made, tmp_path / "run", **run, resume=True)
    assert (tmp_path / "run" / checkpoints.LAST).read_bytes() == before
    labels.write_text(good)
    assert checkpoints.read(fit(made, tmp_path / "run", **run, resume=True, max_steps=4))["global_step"] == 4


def test_a_damaged_checkpoint_is_refused_and_the_one_before_used(drawn, tmp_path):
    spec, root = drawn
    fit(recipe(spec), tmp_path, root=root, workers=0, threads=1, max_steps=2)
    last = fit(recipe(spec), tmp_path, root=root, workers=0, threads=1, resume=True, max_steps=4)
    last.write_bytes(last.read_bytes()[:5000])
    with pytest.raises(EdgeposeError, match="is not a whole checkpoint"):
        load_best(last)
    assert checkpoints.newest(tmp_path) == tmp_path / checkpoints.PREVIOUS
    last = fit(recipe(spec), tmp_path, root=root, workers=0, threads=1, resume=True, max_steps=6)
    before = tmp_path / checkpoints.PREVIOUS  # not the damaged one
    assert [checkpoints.read(path)["global_step"] for path in (last, before)] == [6, 2]
    last.replace(tmp_path / "next.ckpt")  # killed between two renamings, with nothing good before it
    before.write_bytes(b"")
    assert checkpoints.newest(tmp_path) == tmp_path / "next.ckpt"
    done = fit(recipe(spec), tmp_path, root=root, workers=0, threads=1, resume=True)
    assert checkpoints.read(done)["global_step"] == 16
    done.replace(tmp_path / "next.ckpt")  # killed so when it had learnt all: nothing is left to do but to name it
    before.unlink()
    assert fit(recipe(spec), tmp_path, root=root, workers=0, threads=1, resume=True) == done
    assert checkpoints.read(done)["global_step"] == 16
    assert not (tmp_path / "next.ckpt").exists()


@pytest.mark.parametrize("content", [{"recipe": "s", "state_dict": {}}, {"recipe": {}, "state_dict": []}, [1]])
def test_a_foreign_checkpoint_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(EdgeposeError, match="is not an edgepose-train checkpoint"):
        checkpoints.read(tmp_path / "x.ckpt")


@pytest.mark.parametrize("text", ["test", "head", "a checkpoint", "h\x80", "}", ""])
def test_files_of_any_kind_are_refused_in_a_sentence(tmp_path, text):
    (tmp_path / "x.ckpt").write_text(text)
    with pytest.raises(EdgeposeError, match="x.ckpt is not a whole checkpoint"):
        checkpoints.read(tmp_path / "x.ckpt")


def test_a_bundle_is_told_from_a_checkpoint(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"x")
    with pytest.raises(EdgeposeError, match=r"x\.onnx is a bundle, no checkpoint; give the last.ckpt of a run"):
        checkpoints.read(tmp_path / "x.onnx")


def test_pickles_are_not_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path}/pwned",))

    torch.save({"recipe": Evil(), "state_dict": {}}, tmp_path / "evil.ckpt")
    with pytest.raises(EdgeposeError, match="is not a whole checkpoint"):
        checkpoints.read(tmp_path / "evil.ckpt")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_interrupted_run_keeps_its_checkpoint(drawn, tmp_path, workers):
    """Ctrl-C in mid-run, which a terminal sends to all of its processes: one sentence, and a whole checkpoint."""
    spec, root = drawn
    text = f"""
name = "long"
precision = "float32"
[[data]]
data = "{spec}"
split = "all"
[model]
width = 16
depth = 1
stacks = 1
[[stages]]
images = 400000
size = 32
batch = 4
"""
    path = tmp_path / "long.toml"
    path.write_text(text)
    out = tmp_path / "run"
    program = (
        "import signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's & has it ignored
        "from trainer.cli import main\n"
        "main()"
    )
    command = [sys.executable, "-c", program, "fit", str(path), "--out", str(out), "--data-root", str(root),
               "--workers", str(workers), "--threads", "1"]  # fmt: skip
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    log = out / "log" / "from-0000000" / "metrics.csv"
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and not (log.exists() and log.read_text().count("\n") > 2):
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2, errors
    assert "training was interrupted; go on with --resume" in errors
    assert "Traceback" not in errors
    assert "persistent_workers" not in errors
    kept = checkpoints.read(out / checkpoints.LAST)
    assert kept["global_step"] > 0
    # What was saved is that step's state and no other's, batch norms' statistics included.
    again = checkpoints.read(
        fit(load(path), tmp_path / "again", root=root, workers=0, threads=1, max_steps=kept["global_step"])
    )
    assert all(torch.equal(value, again["state_dict"][name]) for name, value in kept["state_dict"].items())


def test_dropout_and_fractional_pooling_resume_to_the_same_weights(drawn, tmp_path):
    """What is random in the network is drawn from the step, not from how the run came there."""
    spec, root = drawn
    made = recipe(spec, model={"width": 16, "depth": 2, "stacks": 1, "block": "prm-b", "dropout": 0.3})
    whole = fit(made, tmp_path / "whole", root=root, workers=0, threads=1)
    fit(made, tmp_path / "parts", root=root, workers=0, threads=1, max_steps=6)
    last = fit(made, tmp_path / "parts", root=root, workers=0, threads=1, resume=True)
    assert same(weights(whole), weights(last))


@pytest.mark.parametrize(
    ("model", "kinds"),
    [
        ({"kind": "cascade", "stacks": 1}, ["1_disks", "2_joints"]),
        (
            {"kind": "compositional", "stacks": 5, "width": 32},
            ["1_joints", "2_bones", "3_limbs", "4_bones", "5_joints"],
        ),
    ],
)
def test_all_losses_of_a_network_with_several_fall(drawn, tmp_path, model, kinds):
    spec, root = drawn
    made = recipe(
        spec,
        model={"width": 16, "depth": 2, "order": "post", **model},
        stages=[{"images": 640, "size": 64, "batch": 8}],
    )
    fit(made, tmp_path, root=root, workers=0, threads=1)
    with (tmp_path / "log" / "from-0000000" / "metrics.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r.get("loss")]
    for kind in kinds:
        assert float(rows[-1][f"loss_{kind}"]) < 0.75 * float(rows[0][f"loss_{kind}"]), kind


def test_gradients_are_clipped_and_added_up_as_the_recipe_says(drawn, tmp_path, monkeypatch):
    spec, root = drawn

    class Asked(Exception):  # noqa: N818 - it ends the test, no fault
        pass

    def trainer(**options):
        raise Asked(options["gradient_clip_val"], options["accumulate_grad_batches"])

    monkeypatch.setattr(learner.lightning, "Trainer", trainer)
    for optimiser, expected in (({"clip": 0.5, "accumulate": 2}, (0.5, 2)), ({"clip": 0}, (None, 1))):
        with pytest.raises(Asked) as asked:
            fit(recipe(spec, optimiser=optimiser), tmp_path / str(expected), root=root, workers=0, threads=1)
        assert asked.value.args == expected


def test_what_is_watched_is_what_the_checkpoint_gives(drawn, tmp_path, capsys):
    """The moving average, where the recipe has one; and it is told, also where there is no terminal for a bar."""
    spec, root = drawn
    fit(recipe(spec, validate_every=16), tmp_path / "run", root=root, workers=0, threads=1)
    figure = r"[\d.]+"
    told = rf"^step 16 of 16: PCKh@0.5 {figure}, PCKh@0.1 {figure}, PCK@0.2 torso {figure}$"
    assert re.search(told, capsys.readouterr().err, re.MULTILINE)
    with (tmp_path / "run" / "validation.csv").open(newline="") as file:
        row = list(csv.DictReader(file))[-1]
    persons = select(DataSet(data=spec, split="all"), MPII16, root).persons
    found = figures(predict(open_estimator(str(tmp_path / "run" / "last.ckpt")), persons, "again"), MPII16)
    assert float(row["pck02_torso"]) == pytest.approx(found["pck02_torso"], abs=0.01)


def test_two_runs_in_one_folder_are_refused(drawn, tmp_path):
    """They would write over each other's checkpoints."""
    spec, root = drawn
    with (
        alone(tmp_path / "run" / ".lock"),
        pytest.raises(
            EdgeposeError, match=r"another process is training in .*run; let it end, or choose another --out"
        ),
    ):
        fit(recipe(spec), tmp_path / "run", root=root, workers=0, threads=1)
    fit(recipe(spec), tmp_path / "run", root=root, workers=0, threads=1, max_steps=1)
