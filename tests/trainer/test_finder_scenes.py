"""Scenes for a finder: labels, other models' guesses, and what is refused."""

import json
import math

import numpy as np
import pytest

from edgepose import EdgeposeError
from tests.trainer.conftest import make_coco
from tests.trainer.test_finder_fit import recipe
from trainer.finder.commands import scene_sets
from trainer.finder.fit import SceneData
from trainer.finder.recipe import SceneSet
from trainer.finder.scenes import read

NOBODY = np.zeros((0, 4))


@pytest.fixture
def drawn_scenes(tmp_path, monkeypatch):
    """(spec, root) of three drawn figures, each an image."""
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "cache"))
    return make_coco(tmp_path, 3)


def body(box, score):
    """What the detector says where the joints' box is ``box``: it is larger by a share of itself, see scenes."""
    x0, y0, x1, y1 = box
    dx, dy = (0.04 / 0.92 * side for side in (x1 - x0, y1 - y0))
    return [x0 - dx, y0 - dy, x1 + dx, y1 + dy, score]


def posed(box, score):
    return {"box": [*box, score], "joints": [[0, 0, 0.5]]}


def guessed(drawn, detector=(), multipose=(), image="000.png"):
    """The scene of the first figure with these guesses about its image."""
    spec, root = drawn
    (root / "guesses.json").write_text(json.dumps({image: {"detector": [*detector], "multipose": [*multipose]}}))
    return read(SceneSet(data=spec, guesses="guesses.json", split="all"), root)[0]


BESIDE, CORNER = [5.0, 100.0, 35.0, 155.0], [120.0, 5.0, 155.0, 60.0]


def test_without_guesses_the_labels_are_the_people(drawn_scenes):
    spec, root = drawn_scenes
    scenes = read(SceneSet(data=spec, split="all"), root)
    assert [s.image.name for s in scenes] == ["000.png", "001.png", "002.png"]
    keypoints = json.loads((root / "figures" / "annotations.json").read_text())["annotations"][0]["keypoints"]
    joints = np.array(keypoints).reshape(-1, 3)[:, :2]
    assert np.allclose(scenes[0].people, [[*joints.min(axis=0), *joints.max(axis=0)]])
    assert scenes[0].labelled.tolist() == [True]
    assert scenes[0].unsure.shape == (0, 4)


def test_two_models_that_agree_make_a_person(drawn_scenes):
    seen = guessed(drawn_scenes, [body(BESIDE, 0.7)], [posed(np.add(BESIDE, 2).tolist(), 0.4)])
    assert np.allclose(seen.people[1:], [BESIDE])
    assert seen.labelled.tolist() == [True, False]
    assert len(seen.unsure) == 0


@pytest.mark.parametrize(
    ("detector", "multipose", "places"),
    [
        ([body(BESIDE, 0.95)], [], [BESIDE]),
        ([], [posed(BESIDE, 0.95)], [BESIDE]),
        ([body(BESIDE, 0.95)], [posed(CORNER, 0.95)], [BESIDE, CORNER]),
        ([body(BESIDE, 0.5)], [posed(BESIDE, 0.9)], [BESIDE, BESIDE]),  # the detector is not sure
        ([body(BESIDE, 0.9)], [posed(BESIDE, 0.2)], [BESIDE, BESIDE]),  # the pose model is not
    ],
)
def test_what_one_model_alone_is_sure_of_is_unsure(drawn_scenes, detector, multipose, places):
    seen = guessed(drawn_scenes, detector, multipose)
    assert seen.labelled.tolist() == [True]
    assert np.allclose(seen.unsure, places)


def test_guesses_about_labelled_people_are_dropped(drawn_scenes):
    labelled = guessed(drawn_scenes).people[0]
    seen = guessed(drawn_scenes, [body(labelled, 0.99)], [posed(labelled + 3, 0.99)])
    assert np.allclose(seen.people, [labelled])
    assert len(seen.unsure) == 0


def hide_joints(root, keep):
    """Take all labels but the first ``keep`` from the first figure."""
    path = root / "figures" / "annotations.json"
    content = json.loads(path.read_text())
    keypoints = content["annotations"][0]["keypoints"]
    keypoints[3 * keep + 2 :: 3] = [0] * len(keypoints[3 * keep + 2 :: 3])
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(("joints", "people"), [(9, 0), (10, 1)])
def test_people_with_few_labelled_joints_are_unsure(drawn_scenes, joints, people):
    hide_joints(drawn_scenes[1], joints)
    for detector in ([], [body(BESIDE, 0.9)]):
        seen = guessed(drawn_scenes, detector)
        assert len(seen.people) == seen.labelled.sum() == people
        assert len(seen.unsure) == 1 - people + len(detector)


def test_people_without_joints_are_unsure_where_the_file_has_their_box(drawn_scenes):
    spec, root = drawn_scenes
    path = root / "figures" / "annotations.json"
    content = json.loads(path.read_text())
    bare = {"id": 9, "image_id": 0, "category_id": 1, "keypoints": [0] * 48, "bbox": [5, 100, 30, 55]}
    content["annotations"].append(bare)
    path.write_text(json.dumps(content))
    seen = read(SceneSet(data=spec, split="all"), root)[0]
    assert len(seen.people) == 1
    assert seen.unsure.tolist() == [BESIDE]


def test_guesses_by_names_that_two_folders_share_are_refused(drawn_scenes):
    root = drawn_scenes[1]
    path = root / "figures" / "annotations.json"
    content = json.loads(path.read_text())
    for image, folder in zip(content["images"], ("a", "b", "c"), strict=True):
        image["file_name"] = f"{folder}/000.png"
        (root / "figures" / "images" / folder).mkdir()
        (root / "figures" / "images" / folder / "000.png").write_bytes((root / "figures/images/000.png").read_bytes())
    path.write_text(json.dumps(content))
    with pytest.raises(EdgeposeError, match=r"one name in several folders; rename the images"):
        guessed(drawn_scenes)


@pytest.mark.parametrize(("split", "wanted"), [("", ["all", "val"]), ("dev", ["dev", "val"])])
def test_data_that_name_their_split_keep_it(split, wanted):
    assert [s.split for s in scene_sets(["lsp:a", "lsp:b@val"], None, split)] == wanted


def test_a_guess_may_be_a_person_beside_one_with_few_joints(drawn_scenes):
    hide_joints(drawn_scenes[1], 4)
    seen = guessed(drawn_scenes, [body(BESIDE, 0.9)], [posed(BESIDE, 0.9)])
    assert np.allclose(seen.people, [BESIDE])
    assert seen.labelled.tolist() == [False]
    assert len(seen.unsure) == 1


def test_an_absent_file_of_guesses_is_refused(drawn_scenes):
    spec, root = drawn_scenes
    with pytest.raises(EdgeposeError, match=r"guesses .*none\.json cannot be read .*; check the path or set --data-"):
        read(SceneSet(data=spec, guesses="none.json", split="all"), root)


@pytest.mark.parametrize("text", [b"no json", b"", b"\xff\xfe{}", b'{"000.png": '])
def test_what_is_not_json_is_refused(drawn_scenes, text):
    spec, root = drawn_scenes
    (root / "g.json").write_bytes(text)
    with pytest.raises(EdgeposeError, match=r"guesses .*g\.json cannot be read"):
        read(SceneSet(data=spec, guesses="g.json", split="all"), root)


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ([], ""),
        (None, ""),
        ({"000.png": []}, "000.png"),
        ({"000.png": {"detector": []}}, "000.png.multipose"),
        ({"000.png": {"multipose": []}}, "000.png.detector"),
        ({"000.png": {"detector": [[1, 2, 3, 4]], "multipose": []}}, "000.png.detector.0"),
        ({"000.png": {"detector": [[1, 2, 3, 4, "much"]], "multipose": []}}, "000.png.detector.0.4"),
        ({"000.png": {"detector": [[1, 2, 3, None, 0.5]], "multipose": []}}, "000.png.detector.0.3"),
        ({"000.png": {"detector": [[1, 2, 3, math.nan, 0.5]], "multipose": []}}, "000.png.detector.0.3"),
        ({"000.png": {"detector": 5, "multipose": []}}, "000.png.detector"),
        ({"000.png": {"detector": [], "multipose": [[1, 2, 3, 4, 0.5]]}}, "000.png.multipose.0"),
        ({"000.png": {"detector": [], "multipose": [{"joints": []}]}}, "000.png.multipose.0.box"),
    ],
)
def test_guesses_of_another_form_are_refused_with_their_place(drawn_scenes, content, where):
    spec, root = drawn_scenes
    (root / "g.json").write_text(json.dumps(content))
    with pytest.raises(EdgeposeError, match=r"guesses .*g\.json: ") as caught:
        read(SceneSet(data=spec, guesses="g.json", split="all"), root)
    assert where in str(caught.value)
    assert "\n" not in str(caught.value)


def test_guesses_of_another_set_are_refused(drawn_scenes):
    with pytest.raises(EdgeposeError, match=r"guesses guesses.json name no image of data 'coco:.*'; give the"):
        guessed(drawn_scenes, [body(BESIDE, 0.7)], image="nobody.png")
    seen = guessed(drawn_scenes, [body(BESIDE, 0.9)], [posed(BESIDE, 0.9)], image="002.png")  # but not of this image
    assert len(seen.people) == 1
    assert len(seen.unsure) == 0


def test_of_a_small_skeleton_fewer_joints_are_a_whole_person(drawn_scenes):
    """Eight joints of the upper body: with six of them it is one, with five it is left out of the loss."""
    spec, root = drawn_scenes
    path = root / "figures" / "annotations.json"
    content = json.loads(path.read_text())
    content["categories"][0]["keypoints"] = [f"j{k}" for k in range(8)]
    for annotation, seen in zip(content["annotations"], (8, 6, 5), strict=True):
        annotation["keypoints"] = [v for k in range(8) for v in (10.0 + 9 * k, 20.0 + 11 * k, 2 if k < seen else 0)]
    path.write_text(json.dumps(content))
    scenes = read(SceneSet(data=spec, split="all"), root)
    assert [(len(s.people), len(s.unsure)) for s in scenes] == [(1, 0), (1, 0), (0, 1)]


def test_a_split_without_anybody_is_refused(drawn_scenes):
    spec, root = drawn_scenes
    hide_joints(root, 0)
    path = root / "figures" / "annotations.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "annotations": content["annotations"][:1]}))
    with pytest.raises(EdgeposeError, match="has no labelled person in split 'all'"):
        read(SceneSet(data=spec, split="all"), root)


def test_a_sets_scenes_are_drawn_so_often_a_pass(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "cache"))
    spec, root = make_coco(tmp_path, 4)
    made = recipe(data=[{"data": spec, "split": "all", "share": 3}])
    assert SceneData(made, root, workers=0)._shares.tolist() == [3] * 4
