"""Labels that cannot be read, or not be meant: a sentence each."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from edgepose import EdgeposeError
from trainer.data import load


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("loco:x", "unknown data format 'loco' in 'loco:x'; did you mean 'coco'"),
        ("coco:only.json", "is incomplete; write coco:ANNOTATIONS.json:IMAGES_DIR"),
        ("lsp:nowhere", "nowhere does not exist; check the path or set --data-root"),
        ("coco:bad.json:.", "cannot be read as JSON"),
        ("coco:list.json:.", "is not COCO keypoint JSON"),
        ("coco:boxes.json:.", "one category with keypoints, it has 0"),
        ("coco:null.json:.", "is not COCO keypoint JSON"),
        ("coco:named.json:.", "is not COCO keypoint JSON"),
        ("coco:endless.json:.", "is not COCO keypoint JSON"),
        ("lsp:.", "is not an LSP joints.mat"),
        ("lsp:damaged", "is not an LSP joints.mat"),
        ("lsp:damaged/images", "joints.mat does not exist; lsp:DIR is a folder with LSP's joints.mat and images/"),
        ("coco:short.json:.", "annotation 5 is malformed: keypoints has 5 numbers, not 3 for each of 2 joints"),
        ("coco:foreign.json:.", r"1 annotations have keypoints, but not the category_id of the category .* \(1\)"),
        ("synth:²", "is not a number of persons"),
        ("synth:0", "is not a number of persons"),
        ("synth:" + "9" * 5000, "is not a number of persons"),
        ("lsp:" + "x" * 300, "cannot be looked at: File name too long"),
        ("coco:long.json:.", "cannot be read as JSON"),
        ("coco:deep.json:.", "cannot be read as JSON"),
        ("coco:nameless.json:.", "is not COCO keypoint JSON: 'file_name' is missing or malformed"),
        ("mpii:list.json:.", "person 0 is malformed"),
    ],
)
def test_bad_data_gets_a_sentence(tmp_path, spec, sentence):
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "list.json").write_text("[1]")
    boxes = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    persons = {"id": 1, "name": "person", "keypoints": ["a", "b"], "skeleton": None}
    nothing = {"images": [], "annotations": None, "categories": [persons]}
    (tmp_path / "null.json").write_text(json.dumps(nothing))
    named = {"images": [], "annotations": [], "categories": [{**persons, "skeleton": [["a", "b"]]}]}
    (tmp_path / "named.json").write_text(json.dumps(named))
    endless = {"images": [], "annotations": [], "categories": [{**persons, "skeleton": [[1, float("inf")]]}]}
    (tmp_path / "endless.json").write_text(json.dumps(endless))
    photograph = {"images": [{"id": 3, "file_name": "a.jpg"}], "categories": [persons]}
    for name, values, category in (("short", [1] * 5, 1), ("foreign", [1] * 6, 99)):
        labels = {"id": 5, "image_id": 3, "category_id": category, "keypoints": values}
        (tmp_path / f"{name}.json").write_text(json.dumps(photograph | {"annotations": [labels]}))
    (tmp_path / "long.json").write_text(f'{{"images": {"9" * 5000}}}')
    (tmp_path / "deep.json").write_text("[" * 100_000)
    nameless = {"images": [{"id": 3}], "annotations": [], "categories": [persons | {"skeleton": None}]}
    (tmp_path / "nameless.json").write_text(json.dumps(nameless))
    (tmp_path / "joints.mat").write_text("no")
    (tmp_path / "damaged" / "images").mkdir(parents=True)
    whole = io.BytesIO()
    savemat(whole, {"joints": np.arange(14 * 3 * 50.0).reshape(14, 3, 50)}, do_compression=True)
    broken = bytearray(whole.getvalue())
    broken[len(broken) // 2 :] = bytes(len(broken) - len(broken) // 2)
    (tmp_path / "damaged" / "joints.mat").write_bytes(broken)
    with pytest.raises(EdgeposeError, match=sentence):
        load(spec, tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"annorect": {"annopoints": {"point": {"x": 1.0, "y": 2.0, "id": 16}}}},
            "image 0 is malformed: a joint's id is",
        ),
        (
            {"annorect": {"annopoints": {"point": {"x": 1.0, "y": 2.0, "id": -1}}}},
            "image 0 is malformed: a joint's id is",
        ),
        ({"annorect": {"annopoints": {"point": {"x": 1.0, "id": 1}}}}, "image 0 is malformed"),
        ({"image": {}}, "image 0 is malformed"),
        ({"annorect": None}, "image 0 is malformed"),
    ],
)
def test_a_malformed_mpii_release_gets_a_sentence(tmp_path, change, sentence):
    entry = {"image": {"name": "b.jpg"}, "annorect": {"scale": 1.0}, "vididx": 7} | change
    entry = {key: value for key, value in entry.items() if value is not None}
    release = {"annolist": np.array([entry, entry], dtype=object), "img_train": np.array([1, 0])}
    savemat(tmp_path / "mpii.mat", {"RELEASE": release})
    with pytest.raises(EdgeposeError, match=sentence):
        load(f"mpii:mpii.mat:{tmp_path}", tmp_path)
    savemat(tmp_path / "mpii.mat", {"RELEASE": release | {"img_train": np.array([1, 0, 0])}})
    with pytest.raises(EdgeposeError, match="annolist has 2 images and img_train 3"):
        load(f"mpii:mpii.mat:{tmp_path}", tmp_path)


def test_a_joint_at_no_finite_place_is_told(tmp_path, lsp):
    """It would make the loss, and then every weight, a NaN."""
    row = {"image": "a.jpg", "joints": [[10.0, 10.0]] * 15 + [[float("inf"), 3.0]], "joints_vis": [1] * 16}
    (tmp_path / "train.json").write_text(json.dumps([row]))
    with pytest.raises(EdgeposeError, match=r"image .*a\.jpg is at no finite place; correct its label"):
        load(f"mpii:train.json:{tmp_path}", tmp_path)
    folder = Path(lsp[0])
    table = loadmat(folder / "joints.mat")["joints"].astype(float)
    table[0, 0, :] = np.inf
    savemat(folder / "joints.mat", {"joints": table})
    with pytest.raises(EdgeposeError, match="is at no finite place; correct its label"):
        load(f"lsp:{folder}")


def test_a_joint_of_mpii_beyond_the_picture_is_not_labelled(tmp_path):
    joints = (np.arange(32).reshape(16, 2) + 5).tolist()
    joints[3] = [-1, -1]
    (tmp_path / "t.json").write_text(json.dumps([{"image": "a.jpg", "joints": joints, "joints_vis": [1] * 16}]))
    (person,) = load(f"mpii:t.json:{tmp_path}", tmp_path).persons
    assert not person.labelled[3]
    assert person.labelled.sum() == 15
