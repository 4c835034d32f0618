"""Labels that are wrong are found by a network that knows better, put right or hidden; right ones stay."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from edgepose.errors import EdgeposeError
from edgepose.skeletons import LSP14, MPII16
from tests.people.world import STANDING
from trainer.cli import app
from trainer.data.cleaning import Correction, correct, exchanged, judge, numbered, read, write
from trainer.data.module import everybody, select
from trainer.data.persons import PersonSet, make_person
from trainer.recipe import DataSet

TRUTH = np.array([200.0, 400.0]) + 300 * STANDING
NAME = ("im1.png", 0)
ARMS = [k for k in range(16) if MPII16.joints[k].split("_")[-1] in ("wrist", "elbow", "shoulder")]


def person(joints=TRUTH, labelled=None, image="im1.png"):
    return make_person(Path(image), joints, np.ones(16, bool) if labelled is None else labelled, group=image)


def judged(labels, *, looks=(TRUTH, TRUTH), score=0.9):
    scores = np.broadcast_to(score, (2, 16))
    return judge(labels, NAME, np.stack(looks), scores, MPII16)


def moved(names, by):
    joints = TRUTH.copy()
    joints[[MPII16.index(name) for name in names]] += by
    return person(joints)


def test_right_labels_stay():
    rng = np.random.default_rng(0)
    torso = np.linalg.norm(TRUTH[MPII16.index("left_shoulder")] - TRUTH[MPII16.index("right_hip")])
    assert judged(person()) is None
    assert judged(person(TRUTH + rng.uniform(-0.1, 0.1, (16, 2)) * torso)) is None


@pytest.mark.parametrize("sides", ["all", "arms", "legs"])
def test_exchanged_sides_are_put_right(sides):
    order = exchanged(MPII16, sides)
    assert np.array_equal(order[order], np.arange(16))
    wrong = person(TRUTH[order])
    found = judged(wrong)
    assert found == Correction("im1.png", 0, sides)
    assert np.allclose(found.apply(wrong, MPII16).joints, TRUTH)


def test_what_is_unlabelled_moves_with_its_side():
    labelled = np.ones(16, bool)
    labelled[MPII16.index("left_wrist")] = False
    after = Correction("im1.png", 0, "all").apply(person(labelled=labelled), MPII16)
    assert [MPII16.joints[k] for k in np.flatnonzero(~after.labelled)] == ["right_wrist"]


def test_joints_far_off_are_hidden_and_near_ones_not():
    assert judged(moved(["left_wrist"], (0, -90))) == Correction("im1.png", 0, "", ("left_wrist",))
    assert judged(moved(["left_wrist"], (0, -30))) is None
    after = Correction("im1.png", 0, "", ("left_wrist",)).apply(person(), MPII16)
    assert [MPII16.joints[k] for k in np.flatnonzero(~after.labelled)] == ["left_wrist"]
    assert np.array_equal(after.box, person().box)


def test_labels_of_somebody_else_teach_nothing():
    found = judged(person(TRUTH + 300))
    assert set(found.hide) == set(MPII16.joints)
    assert not found.apply(person(TRUTH + 300), MPII16).labelled.any()


def test_a_network_that_is_unsure_or_of_two_minds_contradicts_nobody():
    wrong = person(TRUTH[exchanged(MPII16, "all")])
    assert judged(wrong, score=0.5) is None
    assert judged(wrong, looks=(TRUTH, TRUTH[MPII16.mirror])) is None  # its sides hang on which way the picture is


@pytest.mark.parametrize(
    "legs", [["right_knee", "left_knee"], ["right_hip", "left_hip"], ["right_ankle", "right_knee"]]
)
def test_exchanged_arms_say_nothing_against_legs_that_are_known(legs):
    scores = np.full((2, 16), 0.1)
    scores[:, ARMS + [MPII16.index(name) for name in legs]] = 0.9
    wrong = person(TRUTH[exchanged(MPII16, "arms")])
    assert judge(wrong, NAME, np.stack([TRUTH, TRUTH]), scores, MPII16) == Correction("im1.png", 0, "arms")


def test_exchanged_arms_speak_for_legs_that_nobody_sees():
    scores = np.full((2, 16), 0.1)
    scores[:, ARMS] = 0.9
    wrong = person(TRUTH[exchanged(MPII16, "all")])
    assert judge(wrong, NAME, np.stack([TRUTH, TRUTH]), scores, MPII16) == Correction("im1.png", 0, "all")


def test_few_known_joints_decide_no_sides():
    scores = np.full((2, 16), 0.1)
    scores[:, ARMS[:2]] = 0.9
    wrong = person(TRUTH[exchanged(MPII16, "all")])
    found = judge(wrong, NAME, np.stack([TRUTH, TRUTH]), scores, MPII16)
    assert found is None or not found.exchange


def test_the_file_comes_back_and_belongs_to_its_persons(tmp_path):
    persons = PersonSet("three", MPII16, [person(), person(), person(image="im2.png")])
    assert list(numbered(persons.persons)) == [("im1.png", 0), ("im1.png", 1), ("im2.png", 0)]
    wanted = [Correction("im1.png", 1, "legs", ("head_top", "left_wrist")), Correction("im2.png", 0, "", ("pelvis",))]
    write(wanted, tmp_path / "c.csv")
    assert read(tmp_path / "c.csv") == wanted
    after = correct(persons, tmp_path / "c.csv")
    assert after.persons[0] is persons.persons[0]
    assert np.allclose(after.persons[1].joints[0], TRUTH[5])
    assert [p.labelled.sum() for p in after.persons] == [16, 14, 15]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "first line must be image,person,exchange,hide"),
        ("name,x\n", "first line must be image,person,exchange,hide"),
        ("image,person,exchange,hide\nim1.png,0,both,\n", "line 2: expected an image's name"),
        ("image,person,exchange,hide\nim1.png,first,all,\n", "line 2: expected an image's name"),
        (f"image,person,exchange,hide\nim1.png,{'9' * 5000},all,\n", "line 2: expected an image's name"),
        ("image,person,exchange,hide\nim1.png,0,all\n", "line 2: expected an image's name"),
        (
            "image,person,exchange,hide\nim1.png,0,,left_wirst\n",
            "c.csv: im1.png, person 0: skeleton mpii16 has no joint 'left_wirst'",
        ),
        ("image,person,exchange,hide\nim9.png,0,all,\n", "name nobody of data set one"),
        (None, "cannot be read.*edgepose-train data clean"),
    ],
)
def test_other_files_are_refused(tmp_path, text, sentence):
    path = tmp_path / "c.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(EdgeposeError, match=sentence):
        correct(PersonSet("one", MPII16, [person()]), path)


def test_images_of_one_name_are_refused():
    twice = [person(image="a/im1.png"), person(image="b/im1.png")]
    with pytest.raises(EdgeposeError, match=r"b/im1\.png has the name of a/im1\.png; rename the images"):
        list(numbered(twice))


def test_persons_are_counted_as_the_file_has_them(tmp_path):
    """Of three in one image the first has no joint of the skeleton; the second is corrected, the third hidden."""
    keypoints = [np.zeros((2, 3)), np.array([[5, 5, 2], [9, 9, 2]]), np.array([[20, 20, 2], [30, 9, 2]])]
    annotations = [
        {"id": n, "image_id": 1, "category_id": 1, "keypoints": k.ravel().tolist(), "bbox": [1, 1, 30, 30]}
        for n, k in enumerate(keypoints)
    ]
    annotations[0]["keypoints"] += [3, 3, 2, 6, 6, 2]
    for each in annotations[1:]:
        each["keypoints"] += [0] * 6
    joints = ["left_wrist", "right_wrist", "nose", "left_ear"]
    (tmp_path / "a.json").write_text(json.dumps({
        "images": [{"id": 1, "file_name": "im1.png", "width": 40, "height": 40}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person", "keypoints": joints, "skeleton": []}],
    }))  # fmt: skip
    cv2.imwrite(str(tmp_path / "im1.png"), np.zeros((40, 40, 3), np.uint8))
    spec = DataSet(data="coco:a.json:.", split="all")
    whole = everybody(spec, MPII16, tmp_path)
    assert [p.labelled.any() for p in whole.persons] == [False, True, True]
    write(
        [Correction("im1.png", 1, "all"), Correction("im1.png", 2, "", ("left_wrist", "right_wrist"))],
        tmp_path / "c.csv",
    )
    (left,) = select(spec.model_copy(update={"corrections": str(tmp_path / "c.csv")}), MPII16, tmp_path).persons
    assert left.joints[MPII16.index("right_wrist")].tolist() == [5, 5]


def lsp(folder, persons):
    """A little LSPET: images, and labels that may be wrong."""
    from scipy.io import savemat

    (folder / "images").mkdir(parents=True)
    table = np.zeros((14, 3, len(persons)))
    for n, (image, labels) in enumerate(persons):
        cv2.imwrite(str(folder / "images" / f"im{n + 1:05d}.png"), image)
        table[:, :2, n], table[:, 2, n] = labels, 1
    savemat(folder / "joints.mat", {"joints": table})


@pytest.fixture(scope="module")
def wrong(tmp_path_factory):
    """Eight images of the shipped clip, labelled by a shipped network: in every second one sides are exchanged."""
    from tests.people.films import clips_beside
    from trainer.evaluate import open_estimator

    root = tmp_path_factory.mktemp("wrong")
    images, columns = clips_beside(8)
    first, last = columns[0]
    estimator = open_estimator("edgepose-l", threads=1)
    to_lsp = [MPII16.index(j) if j in MPII16.joints else MPII16.index("upper_neck") for j in LSP14.joints]
    persons = []
    for n, image in enumerate(images):
        scene = np.ascontiguousarray(image[:, first:last])
        joints = estimator.estimate(scene, np.array([[0.0, 0.0, scene.shape[1] - 1, scene.shape[0] - 1]])).joints[0]
        joints = np.clip(joints, 1, np.array(scene.shape[1::-1]) - 2)
        labels = joints[to_lsp]
        persons.append((scene, labels[LSP14.mirror] if n % 2 else labels))
    lsp(root / "lspet", persons)
    return root


def test_the_command_finds_them_and_a_recipe_uses_what_it_wrote(wrong):
    out, sheet = wrong / "c.csv", wrong / "sheet.png"
    done = CliRunner().invoke(
        app,
        ["data", "clean", "lsp:lspet", "--split", "all", "--model", "edgepose-s", "--threads", "1",
         "--data-root", str(wrong), "--out", str(out), "--sheet", str(sheet)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    with out.open(newline="") as file:
        rows = {row["image"]: row["exchange"] for row in csv.DictReader(file)}
    turned = [f"im{n + 1:05d}.png" for n in range(8) if n % 2]
    assert sum(rows.get(name) in ("all", "arms") for name in turned) >= 3
    assert not any(rows.get(f"im{n + 1:05d}.png") for n in range(0, 8, 2))
    assert f"{len(rows)} of 8 persons" in done.output
    assert cv2.imread(str(sheet)) is not None
    spec = DataSet(data="lsp:lspet", split="all")
    plain, corrected = (
        select(each, MPII16, wrong) for each in (spec, spec.model_copy(update={"corrections": str(out)}))
    )
    changed = [
        p.image.name
        for p, q in zip(plain.persons, corrected.persons, strict=True)
        if not np.array_equal(p.joints, q.joints)
    ]
    assert set(changed) == set(rows)


def test_nothing_to_show_is_no_fault(tmp_path):
    out, sheet = tmp_path / "c.csv", tmp_path / "sheet.png"
    done = CliRunner().invoke(
        app,
        ["data", "clean", "synth:2:7", "--split", "all", "--model", "edgepose-first",
         "--out", str(out), "--sheet", str(sheet)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "0 of 2 persons" in done.output
    assert "no sheet" in done.output
    assert not sheet.exists()
    assert read(out) == []
