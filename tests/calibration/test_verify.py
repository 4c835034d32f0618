"""Two runners of one model: the same joints, differences with an interval, sentences for what cannot be compared."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from calibration import verify
from calibration.cli import people_of, persons_of
from calibration.judge import METRICS, Answers, Judge
from calibration.quantize import quantize
from calibration.sensitivity import Budget
from calibration.verify import (
    Comparison,
    Difference,
    compare,
    difference,
    drawn_again,
    open_runner,
    plot,
    scenes_of,
)
from edgepose import EdgeposeError, skeletons
from edgepose.engines import cpu
from edgepose.engines.cpu import sums_exactly
from edgepose.estimator import Estimator
from tests.calibration.command import run
from tests.trainer.conftest import make_coco
from trainer.data.persons import make_person
from trainer.evaluate import figures, open_estimator, predict
from trainer.fit import fit, load_best


@pytest.fixture(scope="module")
def judge(learnt):
    return Judge(learnt.persons, learnt.bundle.manual)


def test_every_runner_of_one_model_gives_its_joints(learnt, judge):
    first = open_runner(str(learnt.bundle.path))
    for text in (
        str(learnt.checkpoint),
        f"{learnt.bundle.path}@onnxruntime",
        f"{learnt.bundle.path}@openvino/bfloat16",
    ):
        found = compare(first, open_runner(text), judge, repeats=3)
        assert found.shift["p99"] < (0.2 if "bfloat16" in text else 0.01), text
        assert found.persons == 8
        assert found.joints == 8 * 16
        assert found.a_ms > 0
        assert found.ratio > 0


def test_the_judge_agrees_with_the_evaluation(learnt, judge):
    runner = open_runner(str(learnt.bundle.path))
    answers = judge.answer(runner.engine)
    evaluated = figures(predict(Estimator(runner.engine, runner.manual), learnt.persons), judge.skeleton)
    for metric in METRICS:
        assert answers.percent(metric) == pytest.approx(evaluated[metric], abs=0.01)


class TwoSided:
    """An engine that takes every joint for its twin of the other side as well, a little less surely."""

    name, precision = "two-sided", "float32"

    def __init__(self, engine, mirror):
        self._engine, self._mirror = engine, mirror

    def infer(self, images):
        maps = self._engine.infer(images)
        return maps + np.float32(0.9) * maps[:, self._mirror]


def test_the_judge_parts_twins_as_the_device_does(learnt, judge):
    """With ``mirror_ratio`` the weaker of two peaks on one place is looked for elsewhere; see edgepose.heatmaps."""
    runner = open_runner(str(learnt.bundle.path))
    engine = TwoSided(runner.engine, judge.skeleton.mirror)
    joints = {}
    for ratio in (0.0, 0.5):
        decode = runner.manual.decode.model_copy(update={"mirror_ratio": ratio})
        manual = runner.manual.model_copy(update={"decode": decode})
        joints[ratio] = Judge(learnt.persons, manual).answer(engine).joints
        device = predict(Estimator(engine, manual), learnt.persons).joints
        np.testing.assert_allclose(joints[ratio], device, atol=1e-3)
    assert not np.allclose(joints[0.0], joints[0.5], atol=1)


def hits(array):
    return Answers(np.zeros((*array.shape, 2)), {"pckh05": array.astype(float), "pckh01": array.astype(float)})


def test_the_interval_is_of_paired_persons():
    """Two runners that differ on the same tenth of persons: a narrow interval around their difference."""
    rng = np.random.default_rng(0)
    a = (rng.random((400, 10)) < 0.7).astype(float)
    b = a.copy()
    b[:40] = 0  # lost on a tenth of the persons
    each = np.arange(400)  # every person in a scene of its own
    found = difference("pckh05", hits(a), hits(b), each)
    assert found.gain == pytest.approx(100 * (b.mean() - a.mean()))
    assert found.low < found.gain < found.high < 0
    assert found.high - found.low < 5
    assert difference("pckh05", hits(a), hits(a), each).low == 0
    unpaired = difference("pckh05", hits(a), hits(b[rng.permutation(400)]), each)
    assert unpaired.high - unpaired.low > 1.2 * (found.high - found.low)
    a[0, 0] = np.nan  # not judged in either
    assert np.isfinite(difference("pckh05", hits(a), hits(np.where(np.isnan(a), np.nan, b)), each).gain)


def test_the_interval_is_of_scenes():
    """Ten persons of each scene who fare alike tell no more than one of them would."""
    rng = np.random.default_rng(0)
    scenes = np.repeat(np.arange(40), 10)
    a = np.ones((400, 10))
    b = a * (rng.random(40) < 0.8)[scenes][:, None]
    found, apart = (difference("pckh05", hits(a), hits(b), of) for of in (scenes, np.arange(400)))
    assert found.gain == apart.gain == pytest.approx(100 * (b.mean() - 1))
    assert found.high - found.low == pytest.approx(np.sqrt(10) * (apart.high - apart.low), rel=0.15)
    persons = [make_person(Path("x.png"), np.ones((16, 2)), np.ones(16, bool), group) for group in "baab"]
    assert scenes_of(persons).tolist() == [1, 0, 0, 1]
    assert set(drawn_again(np.array([[1.0, 10, 10, 1]]), scenes_of(persons))[0]) == {4.0, 22.0, 40.0}


def test_scenes_of_several_sets_are_their_own_and_near_duplicates_are_one(tmp_path):
    """The sets have the same names of groups; their splits keep near-duplicates together, and so must all of them."""
    texts = []
    for folder in ("first", "second"):
        spec, root = make_coco(tmp_path / folder, 6)  # two images a group
        images = root / "figures" / "images"
        (images / "005.png").write_bytes((images / "000.png").read_bytes())  # of the third group and the first
        texts.append(spec.replace("figures", f"{folder}/figures") + "@all")
    apart = people_of(texts, "mpii16", tmp_path)
    assert [len(persons) for persons in apart.values()] == [6, 6]
    for persons in apart.values():
        assert scenes_of(persons).tolist() == [0, 0, 1, 1, 0, 0]
    assert scenes_of(persons_of(texts, "mpii16", tmp_path)).max() + 1 == 4


def test_what_b_may_lose(learnt, judge, tmp_path):
    first = open_runner(str(learnt.bundle.path))
    found = compare(first, open_runner(str(learnt.checkpoint)), judge, repeats=2)
    assert found.fault({"pckh05": 0.5, "pckh01": 1.0}) == ""
    assert "pckh05: " in found.fault({"pckh05": -0.1})
    assert "allowed are -0.1" in found.fault({"pckh05": -0.1})
    plot(first, first, judge, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


class Without:
    """The judge's answers with some joints that are no numbers."""

    def __init__(self, judge, answers, lost):
        self._judge, self.metrics, self.persons = judge, judge.metrics, judge.persons
        spoilt = replace(answers, joints=answers.joints.copy())
        spoilt.joints[:, lost] = np.nan
        self._answers = [answers, spoilt]

    def answer(self, _engine):
        self._answers.reverse()
        return self._answers[0]

    def __getattr__(self, name):
        return getattr(self._judge, name)


def test_a_joint_that_one_runner_does_not_give_is_far_away(learnt, judge):
    """As far as the crop is long; not left out, as if it agreed."""
    runner = open_runner(str(learnt.bundle.path))
    answers = judge.answer(runner.engine)
    found = compare(runner, runner, Without(judge, answers, [3]), repeats=1)
    assert found.joints == 8 * 16
    assert found.shift["median"] == 0
    assert 2 < found.shift["max"] < 30
    apart = judge.shift(answers, Without(judge, answers, [3]).answer(None))
    heads = judge._lengths["head"]
    sides = np.array([p.box[2:] - p.box[:2] for p in judge.persons]).max(axis=1) * judge.manual.padding
    assert np.allclose(apart[:, 3] * heads, sides * np.sqrt(2), atol=1e-6)
    assert compare(runner, runner, Without(judge, answers, list(range(16))), repeats=1).shift["median"] > 2
    nothing = replace(answers, joints=np.full_like(answers.joints, np.nan))
    with pytest.raises(EdgeposeError, match="neither .* gives any joint a number"):
        compare(runner, runner, Without(judge, nothing, [0]), repeats=1)


def test_a_loss_of_what_may_be_lost_is_within_it():
    a, b = np.zeros((1, 200)), np.zeros((1, 200))
    a[:, :198], b[:, :197] = 1, 1  # 99.0 and 98.5
    everybody = {"": np.ones(1, dtype=bool)}
    float_, int8 = (Answers(np.zeros((1, 200, 2)), dict.fromkeys(METRICS, hit)) for hit in (a, b))
    assert Budget(0.5, 0.5, 0.5).broken_by(float_, int8, everybody) == ""
    assert Budget(0.49, 0.5, 0.5).broken_by(float_, int8, everybody)
    for count in range(200, 2001, 200):  # joints, of which half a point is a whole number
        for right in range(count // 2, count):
            before, after = 100 * right / count, 100 * (right - count // 200) / count
            lost = Difference("pckh05", before, after, after - before, 0, 0)
            found = Comparison("a", "b", 1, 1, count, {}, [lost], 1, 1, 1, 1)
            assert found.fault({"pckh05": 0.5}) == ""


def test_only_runners_of_one_model_are_compared(learnt, judge, shipped):
    with pytest.raises(EdgeposeError, match="differ in input_size"):
        compare(open_runner(str(learnt.bundle.path)), open_runner(str(shipped.path)), judge)
    for text, sentence in (
        (f"{learnt.checkpoint}@openvino", "a checkpoint runs on torch"),
        (f"{learnt.checkpoint}@torch/float16", "a checkpoint runs in float32"),
        (f"{learnt.bundle.path}@openvino/float8", "unknown precision 'float8'"),
        (f"{learnt.bundle.path}@opnvino", "did you mean 'openvino'"),
    ):
        with pytest.raises(EdgeposeError, match=sentence):
            open_runner(text)


def test_a_path_may_have_an_at(learnt, tmp_path):
    folder = tmp_path / "me@corp"
    folder.mkdir()
    path = folder / "m.onnx"
    path.write_bytes(learnt.bundle.path.read_bytes())
    assert open_runner(str(path)).engine.name == "openvino"
    assert open_runner(f"{path}@onnxruntime").engine.name == "onnxruntime"


def test_the_commands_end_as_they_say(learnt, tmp_path):
    data = ["--data-root", str(learnt.root)]
    out = tmp_path / "int8.onnx"
    done = run("quantize", learnt.bundle.path, out, "--set", learnt.set_path, "--judge-on", f"{learnt.spec}@all",
               "--lose-pckh05", "5", "--lose-pckh01", "20", "--report", tmp_path / "page.html", *data)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "pckh05" in done.stdout
    assert f"note: ranges are from {learnt.spec}@all, and INT8 is judged on it too" in done.stderr
    done = run("quantize", learnt.bundle.path, tmp_path / "of-a-part.onnx", "--set", learnt.set_path, "--judge-on",
               f"{learnt.spec}@train", "--lose-pckh05", "5", "--lose-pckh01", "20", *data)  # fmt: skip
    assert f"note: ranges are from {learnt.spec}@all, and INT8 is judged on {learnt.spec}@train too" in done.stderr
    assert (tmp_path / "page.html").exists()
    page, judged = tmp_path / "again.html", ["--set", learnt.set_path, "--judge-on", f"{learnt.spec}@all", *data]
    done = run("report", learnt.bundle.path, out, page, *judged)
    assert done.returncode == 0, done.stderr
    assert "Worst crops" in page.read_text()
    done = run("report", out, out, page, *judged)
    assert done.returncode == 2
    assert "was not made with this bundle" in done.stderr
    done = run("sensitivity", learnt.bundle.path, "--json", *judged)
    assert done.returncode == 0, done.stderr
    ranked = json.loads(done.stdout)
    assert len(ranked) > 10
    assert ranked[0]["shift"] >= ranked[-1]["shift"] > 0
    done = run("verify", learnt.bundle.path, out, "--data", f"{learnt.spec}@all", "--json", "--repeats", "2",
               "--lose-pckh05", "5", "--lose-pckh01", "20", *data)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["persons"] == 8
    recipe, _ = load_best(learnt.checkpoint)
    green = fit(recipe, tmp_path / "green", root=learnt.root, workers=0, threads=1, max_steps=1)
    done = run("verify", learnt.bundle.path, green, "--data", f"{learnt.spec}@all", "--repeats", "2", *data)
    assert done.returncode == 3
    assert "points below" in done.stderr
    assert "Traceback" not in done.stderr
    with pytest.raises(
        EdgeposeError, match=r"green/last.ckpt@openvino': a checkpoint runs on torch; export it to run it on open"
    ):
        open_runner(f"{green}@openvino")
    with pytest.raises(
        EdgeposeError, match=r"green/last.ckpt: a checkpoint runs on torch; export it to run it on open"
    ):
        open_estimator(str(green), "openvino")
    threads = torch.get_num_threads()
    try:
        for opened in (lambda n: open_runner(str(green), n), lambda n: open_estimator(str(green), threads=n)):
            for count in (2, 1):
                opened(count)
                assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    done = run("quantize", learnt.bundle.path, tmp_path / "cpu.onnx", "--set", learnt.set_path, "--target", "cpu",
               "--search", "--judge-on", f"{learnt.spec}@all", *data)  # fmt: skip
    assert done.returncode == 2
    assert "error: --search ranks the layers that could go back to float, and with --target cpu" in done.stderr
    done = run("quantize", "nobody", out, "--set", learnt.set_path, "--judge-on", learnt.spec, *data)
    assert done.returncode == 2
    assert "unknown model 'nobody'" in done.stderr


@pytest.mark.skipif(not sums_exactly(), reason="OpenVINO has seven bits of weights here; see the next")
def test_ort_and_openvino_agree_on_their_own_int8(learnt, judge, tmp_path):
    made = quantize(learnt.bundle, learnt.chosen, tmp_path / "int8.onnx")
    found = compare(open_runner(f"{made.path}@openvino"), open_runner(f"{made.path}@onnxruntime"), judge, repeats=2)
    assert found.shift["median"] < 0.02


def test_seven_bits_put_joints_where_eight_do(learnt, judge, tmp_path, monkeypatch):
    """OpenVINO as where it is given weights in seven bits, beside onnxruntime with eight."""
    says = tmp_path / "cpuinfo"
    says.write_text("flags\t\t: fpu avx avx2\n")
    monkeypatch.setattr(cpu, "CPUINFO", says)
    made = quantize(learnt.bundle, learnt.chosen, tmp_path / "int8.onnx")
    found = compare(open_runner(f"{made.path}@openvino"), open_runner(f"{made.path}@onnxruntime"), judge, repeats=2)
    assert 0 < found.shift["median"] < 0.03


def test_a_ratio_above_1_says_that_the_second_is_faster(learnt, judge, monkeypatch):
    monkeypatch.setattr(verify, "take_turns", lambda *_: np.array([[2.0, 1.0]] * 3))
    found = compare(*(open_runner(str(learnt.bundle.path)) for _ in "ab"), judge)
    assert (found.a_ms, found.b_ms, found.ratio) == (2000, 1000, 2)


def test_who_cannot_be_judged_on_is_said(learnt):
    """LSPET in the MPII skeleton has no upper neck, so it is judged by the torso; without that by nothing."""
    skeleton, labelled = skeletons.get("mpii16"), learnt.persons[0].labelled.copy()
    labelled[skeleton.index("upper_neck")] = False
    headless = Judge([replace(p, labelled=labelled) for p in learnt.persons], learnt.bundle.manual)
    assert headless.metrics == ["pck02_torso"]
    assert headless.finest == headless.leading == "pck02_torso"
    labelled[skeleton.index("left_shoulder")] = False
    with pytest.raises(EdgeposeError, match="between upper_neck and head_top or left_shoulder and right_hip, and no "
                                            "person in the data has both labelled"):  # fmt: skip
        Judge([replace(p, labelled=labelled) for p in learnt.persons], learnt.bundle.manual)
    some = [*learnt.persons[:4], *(replace(p, labelled=labelled) for p in learnt.persons[4:])]
    sets = {"good": np.arange(8) < 4, "bad@dev": np.arange(8) >= 4}
    with pytest.raises(EdgeposeError, match="no person in bad@dev has both labelled"):
        Judge(some, learnt.bundle.manual, sets)
    with pytest.raises(EdgeposeError, match="there is no labelled person to judge on"):
        Judge([], learnt.bundle.manual)
