import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from typer.testing import CliRunner

from edgepose import bundle as bundles
from edgepose import engines
from edgepose.bundle import GAUSSIAN_RADII
from edgepose.errors import EdgeposeError
from edgepose.estimator import Estimator
from edgepose.skeletons import MPII16
from trainer import uncertainty
from trainer.cli import app
from trainer.data.persons import make_person
from trainer.engine import TorchEngine, manual_of
from trainer.evaluate import Predictions
from trainer.export import _fit_uncertainty, to_onnx
from trainer.grid import require_picture, write_picture
from trainer.models.build import build
from trainer.recipe import DataSet, Recipe
from trainer.uncertainty import calibration, ellipses, mahalanobis, reliability, score_map

RECIPE = {
    "name": "small",
    "data": [{"data": "lsp:x"}],
    "model": {"width": 16, "depth": 2, "stacks": 2, "order": "post"},
    "stages": [{"images": 100, "size": 64}],
}


@pytest.mark.parametrize(
    ("block", "order"),
    [("residual", "pre"), ("residual", "post"), ("narrow", "post"), ("depthwise", "post"), ("reparam", "post")],
)
def test_the_exported_graph_is_the_network(tmp_path, block, order):
    recipe = Recipe.model_validate({**RECIPE, "model": {**RECIPE["model"], "block": block, "order": order}})
    torch.manual_seed(0)
    model = build(recipe).eval()
    bundle = bundles.save(to_onnx(model, manual_of(recipe)), manual_of(recipe), tmp_path / "small.onnx")
    images = np.random.default_rng(0).uniform(0, 255, (3, 3, 64, 64)).astype(np.float32)
    expected = TorchEngine(model).infer(images)
    for name in ("openvino", "onnxruntime"):
        assert np.abs(engines.load(bundle, name).infer(images) - expected).max() < 1e-4 * np.abs(expected).max()
    graph = onnx.load(str(bundle.path))
    assert graph.opset_import[0].version == 17
    operators = [n.op_type for n in graph.graph.node]
    if order == "post":
        assert "BatchNormalization" not in operators  # all folded
    json.dumps(bundle.manual.recipe)


def test_a_bundles_scores_are_fitted_anew_to_ones_own_persons(tmp_path):
    """Of drawn people edgepose-s is less sure than it says."""
    out = tmp_path / "mine.onnx"
    options = ["--fit-on", "synth:80:1", "--measure-on", "synth:20:2", "--mirror-ratio", "0.7"]
    result = CliRunner().invoke(app, ["refit", "edgepose-s", str(out), *options])
    assert result.exit_code == 0, result.output
    assert "(all, 20 persons)" in result.output
    before, after = bundles.load("edgepose-s"), bundles.load(out)
    assert after.manual.made_from == {**before.manual.made_from, "refitted": before.sha256}
    assert after.manual.decode == before.manual.decode.model_copy(update={"mirror_ratio": 0.7})
    assert (before.manual.name, after.manual.name) == ("edgepose-s", "mine")
    assert after.manual.score.fitted_on == "80 persons: synth:80:1 (all)"
    assert [(row.data, row.persons) for row in after.manual.accuracy] == [("synth:20:2", 20)]
    weights = [[i.raw_data for i in onnx.load(bundle.path).graph.initializer] for bundle in (before, after)]
    assert weights[0] == weights[1]
    again = tmp_path / "again.onnx"  # from what was fitted, which nothing of is left
    result = CliRunner().invoke(app, ["refit", str(out), str(again), "--fit-on", "synth:80:1"])
    assert result.exit_code == 0, result.output
    twice = bundles.load(again).manual
    assert twice.covariance_scale == after.manual.covariance_scale != before.manual.covariance_scale
    assert twice.ellipses == after.manual.ellipses
    errors = []
    for model in ("edgepose-s", str(out)):
        found = CliRunner().invoke(app, ["evaluate", model, "--data", "synth:80:3", "--json"])
        errors.append(json.loads(found.stdout)["reliability"]["ece"])
    assert errors[1] < 0.6 * errors[0]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["edgepose-s", "out.txt", "--fit-on", "synth:2:1"], "ends in .onnx"),
        (["edgepose-finder", "out.onnx", "--fit-on", "synth:2:1"], "person finder"),
        (["nothing", "out.onnx", "--fit-on", "synth:2:1"], "nothing"),
        (["last.ckpt", "out.onnx", "--fit-on", "synth:2:1"], "is a checkpoint"),
        (["edgepose-s", "no/out.onnx", "--fit-on", "synth:2:1"], "folder no for out.onnx does not exist"),
        (["edgepose-s", "out.onnx", "--fit-on", "synth:1:1"], "choose more persons"),
    ],
)
def test_what_cannot_be_fitted_anew_is_refused(tmp_path, monkeypatch, arguments, why):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EdgeposeError, match=why):
        CliRunner().invoke(app, ["refit", *arguments], catch_exceptions=False)
    assert not list(tmp_path.iterdir())


def _predictions(n, seed=0):
    """Persons whose joints err by a Gaussian that the covariance understates fourfold, with honest raw peaks."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(50, 200, (n, 16, 2))
    truth[:, MPII16.index("upper_neck")] = [100, 100]
    truth[:, MPII16.index("head_top")] = [100, 60]  # half a head: 20 px
    peak = rng.uniform(0.05, 0.95, (n, 16))
    hit = rng.random((n, 16)) < peak**2  # the peak overstates: the truth is its square
    spread = np.where(hit, 3.0, 60.0)
    joints = truth + np.where(hit[..., None], rng.normal(0, 3, (n, 16, 2)), np.array([60.0, 0]))
    persons = [make_person(None, t, np.ones(16, bool), str(i)) for i, t in enumerate(truth)]
    covariance = np.stack([spread**2 / 4, np.zeros_like(spread), spread**2 / 4], -1)
    return Predictions(persons, joints, peak, covariance)


def test_fitted_scores_are_probabilities():
    fitted = score_map(_predictions(800), MPII16, "here")
    assert fitted.fitted_on == "here"
    raw = np.array([0.2, 0.5, 0.8])
    assert np.allclose(np.interp(raw, fitted.raw, fitted.probability), raw**2, atol=0.05)
    assert (np.diff(fitted.probability) >= 0).all()


def test_scores_are_fitted_by_the_torso_where_nobodys_head_is_labelled():
    """As in COCO's and LSP's labels: a head is 0.54 of the torso."""
    seen = _predictions(800)
    shoulder, hip = MPII16.index("left_shoulder"), MPII16.index("right_hip")
    for row, person in enumerate(seen.persons):
        off = seen.joints[row] - person.joints
        person.joints[shoulder], person.joints[hip] = [100, 100], [100, 100 + 40 / 0.54]
        seen.joints[row] = person.joints + off
        person.labelled[[MPII16.index("upper_neck"), MPII16.index("head_top")]] = False
    fitted = score_map(seen, MPII16, "here")
    raw = np.array([0.2, 0.5, 0.8])
    assert np.allclose(np.interp(raw, fitted.raw, fitted.probability), raw**2, atol=0.08)


def test_it_is_said_how_many_persons_scores_were_fitted_on():
    seen = _predictions(40)
    for person in seen.persons[:25]:
        person.labelled[MPII16.index("head_top")] = False
    assert score_map(seen, MPII16, "40 persons: x (dev)").fitted_on == "15 of 40 persons: x (dev)"


def test_ninety_percent_ellipses_hold_ninety_percent():
    rng = np.random.default_rng(0)
    truth = rng.uniform(50, 200, (3000, 16, 2))
    a = np.array([[3.0, 0], [1.5, 2]])
    joints = truth + rng.normal(0, 1, (3000, 16, 2)) @ a.T
    cov = a @ a.T / 2.5
    covariance = np.broadcast_to([cov[0, 0], cov[0, 1], cov[1, 1]], (3000, 16, 3))
    persons = [make_person(None, t, np.ones(16, bool), "0") for t in truth]
    scales, fitted = ellipses(Predictions(persons, joints, np.ones((3000, 16)), covariance), MPII16, "here")
    assert len(scales) == 16
    assert np.allclose(np.array(scales) * fitted.factor[0], 2.5, rtol=0.08)
    assert np.allclose(fitted.radii, GAUSSIAN_RADII, rtol=0.05)
    assert fitted.fitted_on == "here"


def _heavy(n: int, seed: int) -> Predictions:
    """Errors with long tails whose size falls with the peak; one joint is three times as far off as the others."""
    rng = np.random.default_rng(seed)
    truth, peaks = rng.uniform(50, 200, (n, 16, 2)), rng.uniform(0.1, 0.9, (n, 16))
    deviation = 10 * (1 - peaks)
    deviation[:, 0] *= 3
    error = rng.standard_t(2, (n, 16, 2)) * deviation[..., None]
    persons = [make_person(None, t, np.ones(16, bool), str(i)) for i, t in enumerate(truth)]
    return Predictions(persons, truth + error, peaks, np.broadcast_to([4.0, 0.0, 4.0], (n, 16, 3)))


def test_ellipses_hold_what_they_say_of_others_with_long_tails():
    scales, fitted = ellipses(_heavy(500, 1), MPII16, "here")
    others = _heavy(2000, 2)
    factor = np.interp(others.scores, fitted.raw, fitted.factor) * np.array(scales)
    others = dataclasses.replace(others, covariance=others.covariance * factor[..., None])
    found = reliability(others, MPII16, fitted.radii)
    for level in (50, 90, 95):
        assert abs(found[f"ellipse_{level}"] - level / 100) < 0.02
    # Nobody is favoured: neither the far joint nor weak or strong peaks.
    assert abs(found["ellipses_by_joint"][MPII16.joints[0]]["ellipse_90"] - 0.9) < 0.03
    for low, high in ((0.1, 0.3), (0.7, 0.9)):
        mine = (others.scores >= low) & (others.scores < high)
        inside = mahalanobis(others) <= np.square(fitted.radii)[:, 1]
        assert abs(inside[mine].mean() - 0.9) < 0.04
    assert scales[0] / np.median(scales) == pytest.approx(9, rel=0.3)
    # A Gaussian's radii would not do: too much lies in the middle.
    assert reliability(others, MPII16)["ellipse_50"] > 0.55


@pytest.mark.parametrize("labels", [1, 9])
def test_a_joint_that_hardly_anybody_labels_has_a_gaussians_ellipses(labels):
    many = _heavy(60, 1)
    for number, person in enumerate(many.persons):
        person.labelled[3] = number < labels
    scales, fitted = ellipses(many, MPII16, "here")
    assert scales[3] == 1
    assert tuple(fitted.radii[3]) == pytest.approx(GAUSSIAN_RADII)
    assert scales[4] != 1


def test_too_few_joints_give_no_ellipses():
    with pytest.raises(EdgeposeError, match="covariances cannot be fitted on here: 16 labelled joints are too few"):
        ellipses(_heavy(1, 1), MPII16, "here")


def test_reliability_by_hand():
    truth = np.zeros((4, 16, 2))
    truth[:, MPII16.index("head_top")] = [0, 20]  # half a head: 10 px
    joints = truth.copy()
    joints[0, :, 0] += 11  # one person in four is missed
    persons = [make_person(None, t + 100, np.ones(16, bool), "0") for t in truth]
    covariance = np.broadcast_to([1.0, 0.0, 1.0], (4, 16, 3))
    found = reliability(Predictions(persons, joints + 100, np.full((4, 16), 0.85), covariance), MPII16)
    assert found["table"] == [{"joints": 64, "score": 0.85, "within": 0.75}]
    assert found["ece"] == 0.1
    assert found["ellipse_50"] == found["ellipse_90"] == 0.75


def test_raw_peaks_outside_0_to_1_are_counted_too():
    """Of a network whose scores were not fitted."""
    table, ece = calibration(np.array([-0.2, -0.04, 0.5, 1.3]), np.array([0.0, 0.0, 1.0, 1.0]))
    assert [row["joints"] for row in table] == [2, 1, 1]
    assert ece == pytest.approx((2 * 0.12 + 0.5 + 0.3) / 4)


@pytest.mark.timeout(600)
def test_without_labelled_heads_scores_are_not_judged(tmp_path, monkeypatch):
    """LSPET labels a neck that is none of mpii16's, so there is no head to measure by."""
    from typer.testing import CliRunner

    from trainer import evaluate
    from trainer.cli import app

    predict = evaluate.predict

    def headless(estimator, persons, *rest, **named):
        head = [estimator.skeleton.index(joint) for joint in ("upper_neck", "head_top")]
        for person in persons:
            person.labelled[head] = False
        return predict(estimator, persons, *rest, **named)

    monkeypatch.setattr(evaluate, "predict", headless)
    plot = tmp_path / "plot.png"
    command = ["evaluate", "edgepose-first", "--data", "synth:4", "--split", "all", "--plot", str(plot)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "no labelled head to judge by; 90 % ellipses hold" in done.output
    assert plot.stat().st_size > 1000


def test_evaluate_prints_one_json_object(shipped, data_root):
    """The shipped file, on persons that it never saw: good enough to be worth watching."""
    command = [sys.executable, "-m", "trainer.cli", "evaluate", str(shipped.path), "--json", "--data-root",
               str(data_root), "--split", "val", "--data",
               "coco:mpii_sports/annotations.json:mpii_sports/images"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["persons"] > 150
    assert set(found["per_joint"]) == set(MPII16.joints)
    assert found["pckh05"] >= 75
    assert 0 < found["pckh01"] < found["pckh05"]
    assert found["pck02_torso"] > 60


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["edgepose-first", "--data", "synth:4", "--plot", "x.abc"],
            "x.abc: a picture's file name ends in .png, .jpg, .jpeg, .pdf or .svg",
        ),
        (
            ["edgepose-first", "--data", "synth:4", "--sheet", "x"],
            "x: a picture's file name ends in .png, .jpg or .jpeg",
        ),
        (["edgepose-finder", "--data", "synth:4", "--plot", "x.png"], "is a person finder; --limit, --plot and"),
        (["edgepose-first", "--data", "synth:4", "--guesses", "x.json"], "is a pose model; leave out --guesses"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_work(arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EdgeposeError, match=says):
        CliRunner().invoke(app, ["evaluate", *arguments], catch_exceptions=False)
    assert not list(tmp_path.iterdir())


def test_plots_may_be_drawings():
    require_picture(None, Path("x.pdf"), Path("x.SVG"), drawn=True)
    with pytest.raises(EdgeposeError, match=r"x\.pdf: a picture's file name"):
        require_picture(Path("x.pdf"))


@pytest.mark.parametrize("name", ["p.png", "p.jpg"])
def test_a_picture_is_of_the_kind_that_its_name_says(name, tmp_path):
    write_picture(np.full((20, 30, 3), 90, np.uint8), tmp_path / name)
    assert cv2.imread(str(tmp_path / name)).shape == (20, 30, 3)
    assert (tmp_path / name).read_bytes()[:2] == (b"\x89P" if name.endswith("png") else b"\xff\xd8")


def test_how_a_recipe_crops_and_decodes_is_in_the_manual():
    changes = {"padding": 1.5, "decode": "quarter", "mirror_ratio": 0.6, "target": {"sigma": 3.0}}
    manual = manual_of(Recipe.model_validate(RECIPE | changes))
    assert (manual.padding, manual.decode.method, manual.decode.mirror_ratio) == (1.5, "quarter", 0.6)
    assert manual.decode.blur_sigma == 1.5


def test_scores_are_on_the_cautious_side(monkeypatch):
    cautious = score_map(_predictions(100), MPII16, "x")
    monkeypatch.setattr(uncertainty, "CAUTION", 0.5)
    plain = score_map(_predictions(100), MPII16, "x")
    apart = np.array(plain.probability) - np.array(cautious.probability)
    assert (apart >= 0).all()
    assert apart.mean() > 0.005
    assert (cautious.raw[0], cautious.probability[0]) == (0, 0)


def test_no_score_promises_that_a_joint_is_never_wrong():
    """Of a few hundred joints that were all right, the next may not be."""
    seen = _predictions(200)
    right = dataclasses.replace(seen, joints=seen.truth + 1.0)
    fitted = score_map(right, MPII16, "x")
    each = seen.scores.size / uncertainty.KNOTS  # joints of a knot
    assert np.allclose(fitted.probability[1:], (each + 0.5) / (each + 1), atol=1e-4)
    assert max(fitted.probability) < 1


def test_where_all_peaks_are_alike_no_scores_are_fitted(tmp_path):
    """A network that says the same of everybody: without a word it would be published with uncalibrated scores."""
    torch.manual_seed(0)
    model = build(Recipe.model_validate(RECIPE)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    manual = manual_of(Recipe.model_validate(RECIPE))
    spec = [DataSet.model_validate({"data": "synth:30", "split": "all"})]
    with pytest.raises(EdgeposeError, match="small answers alike for all persons to fit it on; choose other data"):
        _fit_uncertainty(Estimator(TorchEngine(model), manual), spec, None)
