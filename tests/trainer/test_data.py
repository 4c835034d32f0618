import errno
import json
import os
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from edgepose import EdgeposeError
from edgepose.crops import apply, crop_affine, warp
from edgepose.skeletons import LSP14, MPII16
from trainer.data import cache as cache_module
from trainer.data import load, synth
from trainer.data.cache import open_cache
from trainer.data.check import check, sheet
from trainer.data.module import PoseData, select
from trainer.data.persons import Person, from_behind, make_person, read_image, recognise, to_skeleton
from trainer.data.splits import join_twins, take
from trainer.recipe import DataSet, Recipe


def test_lsp_reads_joints_flags_and_skips_absent_images(lsp):
    folder, array = lsp
    found = load(f"lsp:{folder}")
    assert found.skeleton is LSP14
    assert [p.image.stem for p in found.persons] == ["im00001", "im00002", "im00003", "im00005", "im00006"]
    assert found.absent == 1  # the fourth, and that is told
    assert "; 1 more persons whose image is absent), median height" in check(found).in_words()
    assert np.allclose(found.persons[1].joints, array[:, :2, 1])  # pixels count from 0
    assert not found.persons[0].labelled[4]
    assert found.persons[0].labelled.sum() == 13
    assert (found.persons[0].joints[4] == 0).all()
    assert found.persons[0].box[0] > 0  # the unlabelled -1 does not stretch the box


def test_original_lsp_layout(lsp):
    folder, array = lsp
    savemat(folder / "joints.mat", {"joints": array.transpose(1, 0, 2)})
    assert load(f"lsp:{folder}").persons[1].labelled.all()


def test_coco_reads_groups_and_activity(coco):
    spec, root = coco
    found = load(spec, root)
    assert found.skeleton is MPII16
    assert len(found.persons) == 8
    assert found.persons[3].group == "1"
    assert found.persons[3].activity == "standing"
    assert found.name == "figures"


def test_a_set_has_one_name_however_its_path_is_written(coco, monkeypatch):
    """Splits follow the name: with another one persons change sides."""
    _, root = coco
    monkeypatch.chdir(root / "figures")
    ways = ("coco:annotations.json:images", "coco:../figures/annotations.json:images", ".")
    assert {load(way).name for way in ways} == {"figures"}


def test_coco_keeps_the_boxes_of_people_without_joints(coco):
    spec, root = coco
    path = root / "figures" / "annotations.json"
    data = json.loads(path.read_text())
    crowd, bare, boxed = data["annotations"][:3]
    crowd |= {"iscrowd": 1, "bbox": [1, 2, 30, 40], "keypoints": []}
    bare |= {"keypoints": [0] * 48, "bbox": [5, 6, 7, 8]}
    del boxed["keypoints"]
    boxed["bbox"] = [9, 9, 1, 1]
    path.write_text(json.dumps(data))
    found = load(spec, root)
    assert len(found.persons) == 5
    boxes = {image.name: np.array(boxes).tolist() for image, boxes in found.others.items()}
    assert boxes == {"000.png": [[1, 2, 31, 42]], "001.png": [[5, 6, 12, 14]], "002.png": [[9, 9, 10, 10]]}


@pytest.mark.parametrize("box", [[1, 2, 3], [1, 2, None, 4], "box", [1, 2, 10**400, 4]], ids=lambda box: str(box)[:20])
def test_coco_with_a_box_that_is_none_gets_a_sentence(coco, box):
    spec, root = coco
    path = root / "figures" / "annotations.json"
    data = json.loads(path.read_text())
    data["annotations"][0] |= {"keypoints": [0] * 48, "bbox": box}
    path.write_text(json.dumps(data))
    with pytest.raises(EdgeposeError, match=r"annotation 0 is malformed"):
        load(spec, root)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("x" * 300, "cannot be looked at: File name too long"),
        ("a\0.png", "does not exist"),
        ("a\ud800.png", "does not exist"),
    ],
)
def test_coco_with_an_images_name_that_no_file_can_have_gets_a_sentence(coco, name, sentence):
    spec, root = coco
    path = root / "figures" / "annotations.json"
    data = json.loads(path.read_text())
    data["images"][0]["file_name"] = name
    path.write_text(json.dumps(data))
    persons = load(spec, root)
    with pytest.raises(EdgeposeError, match=sentence):
        read_image(persons.persons[0].image)
    with pytest.raises(EdgeposeError, match=sentence):
        join_twins(persons)


def test_a_category_that_is_a_list_gets_a_sentence(coco):
    spec, root = coco
    path = root / "figures" / "annotations.json"
    data = json.loads(path.read_text())
    data["annotations"][0]["category_id"] = [1]
    path.write_text(json.dumps(data))
    with pytest.raises(EdgeposeError, match=r"annotation .* is malformed"):
        load(spec, root)


def test_a_place_that_is_no_number_is_refused(coco):
    spec, root = coco
    path = root / "figures" / "annotations.json"
    data = json.loads(path.read_text())
    data["annotations"][3]["keypoints"][0] = float("nan")
    path.write_text(json.dumps(data))
    with pytest.raises(EdgeposeError, match=r"annotation .* is malformed: a labelled joint's place is no number"):
        load(spec, root)


def test_null_is_no_group_and_no_activity(coco):
    spec, root = coco
    path = root / "figures" / "annotations.json"
    data = json.loads(path.read_text())
    for image in data["images"]:
        image.update(group=None, activity=None)
    path.write_text(json.dumps(data))
    persons = load(spec, root).persons
    assert len({p.group for p in persons}) == 8
    assert {p.activity for p in persons} == {""}


def test_coco_with_a_skeleton_of_its_own(coco):
    spec, root = coco
    path = root / "figures" / "annotations.json"
    data = json.loads(path.read_text())
    data["categories"][0]["keypoints"] = [f"spot{i}" for i in range(16)]
    data["categories"][0]["skeleton"] = [[1, 2], [2, 3]]
    path.write_text(json.dumps(data))
    skeleton = load(spec, root).skeleton
    assert skeleton.joints[0] == "spot0"
    assert skeleton.limbs == (("spot0", "spot1"), ("spot1", "spot2"))


def test_mpii_json(tmp_path):
    joints = (np.arange(32).reshape(16, 2) + 5).tolist()
    rows = [{"image": "a.jpg", "joints": joints, "joints_vis": [1] * 15 + [0]}]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    (person,) = load(f"mpii:train.json:{tmp_path}", tmp_path).persons
    assert person.labelled.sum() == 15
    assert person.joints[2].tolist() == [8, 9]  # from 1-based to 0-based
    assert person.image == tmp_path / "a.jpg"


def test_mpii_release_mat(tmp_path):
    point = [{"x": 11.0 + k, "y": 21.0 + k, "id": k} for k in (0, 9, 10)]
    rect = {"annopoints": {"point": np.array(point, dtype=object)}}
    entry = {"image": {"name": "b.jpg"}, "annorect": rect, "vididx": 7}
    about = {"scale": 0.5, "objpos": {"x": 101.0, "y": 201.0}}
    unlabelled = {"image": {"name": "c.jpg"}, "annorect": np.array([{"scale": 1.0}, about], dtype=object), "vididx": 8}
    test_half = {"image": {"name": "d.jpg"}, "annorect": rect, "vididx": 9}
    release = {
        "annolist": np.array([entry, unlabelled, test_half], dtype=object),
        "img_train": np.array([1, 1, 0]),
        "act": np.array([{"act_name": "golf"}, {"act_name": "x"}, {"act_name": "y"}], dtype=object),
    }
    savemat(tmp_path / "mpii.mat", {"RELEASE": release})
    found = load(f"mpii:mpii.mat:{tmp_path}", tmp_path)
    ((box,),) = found.others.values()
    assert box.tolist() == [50, 150, 150, 250]  # 0.5 x 200 px about (100, 200)
    (person,) = found.persons
    assert person.image.name == "b.jpg"
    assert person.group == "7"
    assert person.activity == "golf"
    assert np.flatnonzero(person.labelled).tolist() == [0, 9, 10]
    assert person.joints[9].tolist() == [19.0, 29.0]  # from 1-based to 0-based


def test_lsp_persons_in_mpii16_lack_what_lsp_lacks(lsp):
    person = load(f"lsp:{lsp[0]}").persons[1]
    converted = to_skeleton(person, LSP14, MPII16)
    assert not converted.labelled[[MPII16.index(j) for j in ("pelvis", "thorax", "upper_neck")]].any()
    assert converted.labelled.sum() == 13


def test_a_missing_image_is_named(coco):
    spec, root = coco
    (root / "figures" / "images" / "002.png").unlink()
    with pytest.raises(EdgeposeError, match=r"002\.png does not exist"):
        open_cache(load(spec, root), 64, 1.25)


def test_a_full_disk_is_told_and_leaves_nothing(coco, monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "cache"))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache_module.os, "posix_fallocate", full)
    with pytest.raises(EdgeposeError, match="No space left on device"):
        open_cache(load(*coco), 64, 1.25)
    assert [p.suffix for p in (tmp_path / "cache").iterdir()] == [".lock"]


def test_of_several_who_want_a_cache_one_cuts_it(coco, monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "cache"))
    spec, root = coco
    persons, cuts, cut = load(spec, root), [], cache_module._cut

    def slowly(*arguments):
        cuts.append(1)
        time.sleep(0.3)
        cut(*arguments)

    monkeypatch.setattr(cache_module, "_cut", slowly)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: open_cache(persons, 64, 1.25), range(4)))
    assert len(cuts) == 1
    assert all(np.array_equal(each.crops, found[0].crops) for each in found)


def test_crops_of_a_picture_that_was_changed_are_cut_anew(coco, monkeypatch, tmp_path):
    """Of the same size in bytes, as every BMP of one size is."""
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "cache"))
    persons = load(*coco)
    before, image = open_cache(persons, 64, 1.25).crops.copy(), persons.persons[0].image
    old = image.stat()
    flat = cv2.imencode(".png", np.zeros_like(read_image(image)))[1].tobytes()
    image.write_bytes(flat.ljust(old.st_size, b"\0"))
    os.utime(image, ns=(old.st_atime_ns, old.st_mtime_ns + 10**9))
    assert image.stat().st_size == old.st_size
    assert not np.array_equal(open_cache(persons, 64, 1.25).crops, before)


def test_a_cache_that_cannot_be_written_is_a_sentence(coco, monkeypatch, tmp_path):
    spec, root = coco
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(EdgeposeError, match=r"cannot make folder .*cache: Not a directory; set EDGEPOSE_CACHE"):
        open_cache(load(spec, root), 64, 1.25)


def test_a_cache_goes_to_another_process_as_its_path(coco, monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "cache"))
    cache = open_cache(load(*coco), 64, 1.25)
    assert cache.crops.nbytes > 200_000
    sent = pickle.dumps(cache)
    assert len(sent) < 10_000
    assert np.array_equal(pickle.loads(sent).crops, cache.crops)


def test_the_cache_shows_what_the_image_shows(coco, monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "cache"))
    spec, root = coco
    persons = load(spec, root)
    cache = open_cache(persons, 96, 1.25)
    for index in (0, 5):
        person = persons.persons[index]
        affine = crop_affine(person.box, (96, 96), 1.25, rotation=20, scale=1.1)
        direct = warp(read_image(person.image), affine, (96, 96))
        cached = cache.sample(index, affine, (96, 96))
        # resampled twice, so a little softer; a shift of one pixel would give a difference above 12
        assert np.abs(direct.astype(int) - cached).mean() < 6
    assert open_cache(persons, 96, 1.25).path == cache.path


def test_crops_that_nobody_opened_for_a_month_are_removed(coco, monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "cache"))
    persons = load(*coco)
    kept, old = open_cache(persons, 32, 1.25).path, open_cache(persons, 40, 1.25).path
    half, running = (kept.with_name(f".crops-{name}.npy") for name in ("half", "running"))  # as a killed run leaves
    for path in (half, running):
        path.write_bytes(b"")
    for path, days in ((kept, 29), (old, 31), (half, 2), (running, 0)):
        os.utime(path, (time.time() - days * 86_400,) * 2)
    open_cache(persons, 48, 1.25)
    assert kept.exists()
    assert not old.exists()
    assert not old.with_suffix(".lock").exists()
    assert not half.exists()
    assert running.exists()
    open_cache(persons, 32, 1.25)  # opened: it is new again
    assert time.time() - kept.stat().st_mtime < 3600


def test_real_sets_load_and_split_by_group(data_root):
    sports = load("coco:mpii_sports/annotations.json:mpii_sports/images", data_root)
    assert len(sports.persons) == 1518
    held_out, learnt = (take(join_twins(sports), split) for split in ("val", "train"))
    assert len(held_out.persons) > 150
    assert not {p.group for p in held_out.persons} & {p.group for p in learnt.persons}
    lspet = load("lsp:lspet", data_root)
    assert len(lspet.persons) == 9500
    # Left and right are the person's own: most people face the camera, and their right is on the image's left.
    for persons in (sports, lspet):
        names = ("left_shoulder", "right_shoulder", "left_hip", "right_hip")
        four = [persons.skeleton.index(name) for name in names]
        known = [p for p in persons.persons if p.labelled[four].all()]
        behind = sum(from_behind(p, persons.skeleton) for p in known)
        mirrored = [replace(p, joints=p.joints * (-1, 1)) for p in known]
        assert behind < len(known) / 3 < len(known) / 2 < sum(from_behind(p, persons.skeleton) for p in mirrored)
    drawn = apply(crop_affine(known[0].box, (64, 64), 1.25), known[0].joints[known[0].labelled])
    assert (drawn > 0).all()
    assert (drawn < 64).all()


def test_data_check_finds_what_is_wrong(coco):
    spec, root = coco
    folder = root / "figures"
    (folder / "images" / "002.png").unlink()
    (folder / "images" / "003.png").write_bytes(b"no picture")
    (folder / "images" / "007.png").write_bytes((folder / "images" / "000.png").read_bytes())
    data = json.loads((folder / "annotations.json").read_text())
    data["annotations"][4]["keypoints"][3:6] = [900.0, 20.0, 2]
    data["images"].append({"id": 99, "file_name": "room.png"})
    cv2.imwrite(str(folder / "images" / "room.png"), np.random.default_rng(1).integers(0, 255, (96, 96, 3), np.uint8))
    (folder / "annotations.json").write_text(json.dumps(data))
    found = check(load(spec, root))
    assert (found.persons, found.images, found.bare) == (8, 8, 1)
    assert [text.split(" ")[1].rsplit("/")[-1] for text in found.unreadable] == ["002.png", "003.png"]
    assert found.outside == ["004.png: right_knee at 900,20 of 160x160"]
    assert found.duplicates == ["007.png = 000.png"]
    assert found.joints["left_wrist"] == 8
    assert sum(found.splits.values()) == 8
    assert not found.clean
    words = found.in_words()
    (names,) = (line for line in words.splitlines() if line.startswith("joints that a skeleton has by these names: "))
    assert "mpii16 16 of 16" in names
    assert "coco17 12 of 17" in names
    assert "labelled joints outside their image: 1\n  004.png: right_knee at 900,20 of 160x160\n" in words
    sheet(load(spec, root), root / "sheet.png", rows=2, columns=4)  # the unreadable ones are left out
    for path in (folder / "images").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(EdgeposeError, match="none of the images of figures can be read"):
        sheet(load(spec, root), root / "sheet.png")
    data["annotations"] = []
    (folder / "annotations.json").write_text(json.dumps(data))
    found = check(load(spec, root))  # of photographs alone, none of which can be read
    assert (found.persons, found.images, found.bare, len(found.unreadable)) == (0, 0, 9, 9)
    data["images"] = []
    (folder / "annotations.json").write_text(json.dumps(data))
    with pytest.raises(EdgeposeError, match="holds no person"):
        check(load(spec, root))


def test_data_check_of_a_sound_set_and_its_sheet(coco, tmp_path):
    import cv2

    spec, root = coco
    persons = load(spec, root)
    assert check(persons).clean
    sheet(persons, tmp_path / "sheet.png", rows=2, columns=4)
    assert cv2.imread(str(tmp_path / "sheet.png")).shape == (320, 640, 3)


def test_synthetic_persons_are_drawn_once_and_for_ever(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path))
    one = load("synth:6:3")
    files = {p.image: p.image.stat().st_mtime_ns for p in one.persons}
    two = load("synth:6:3")
    assert {p.image: p.image.stat().st_mtime_ns for p in two.persons} == files
    assert np.array_equal(one.persons[4].joints, two.persons[4].joints)
    assert len(one.persons) == 6
    assert one.skeleton is MPII16
    image, joints = synth.draw(np.random.default_rng((synth.VERSION, 3, 4)))
    assert np.allclose(joints, one.persons[4].joints, atol=0.01)
    assert image.shape == (256, 256, 3)


def test_synthetic_persons_vary_and_lie_in_the_picture():
    drawn = [synth.draw(np.random.default_rng(i)) for i in range(40)]
    joints = np.stack([j for _, j in drawn])
    assert np.mean((joints > 0) & (joints < 256)) > 0.97
    heights = np.ptp(joints[..., 1], axis=1)
    assert heights.std() > 10
    # seen from the front and from behind: the left shoulder is on either side
    left = joints[:, MPII16.index("left_shoulder"), 0] > joints[:, MPII16.index("right_shoulder"), 0]
    assert 0.2 < left.mean() < 0.8
    assert np.mean([image.std() for image, _ in drawn]) > 25  # not a stick figure on black


@pytest.mark.parametrize("text", ["synth:", "synth:many", "synth:0", "synth:5:x"])
def test_bad_synth_specs_get_a_sentence(text):
    with pytest.raises(EdgeposeError, match="write synth:COUNT"):
        load(text)


def test_synthetic_persons_may_be_asked_for_as_a_url(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path))
    assert [p.image for p in load("synth://3:1").persons] == [p.image for p in load("synth:3:1").persons]


def test_a_folder_is_recognised_by_what_lies_in_it(lsp, coco, tmp_path):
    folder, _ = lsp
    assert len(load(str(folder)).persons) == len(load(f"lsp:{folder}").persons)
    spec, root = coco
    assert len(load("figures", root).persons) == len(load(spec, root).persons) == 8
    release = tmp_path / "mpii"
    release.mkdir()
    (release / "trainval.json").write_text('[{"joints": [], "image": "a.jpg"}]')
    assert recognise("mpii", tmp_path) == "mpii:mpii/trainval.json:mpii/"


def test_a_folder_that_is_not_clear_gets_a_sentence(coco, tmp_path):
    _, root = coco
    with pytest.raises(EdgeposeError, match="is neither a folder nor FORMAT"):
        load("nowhere", root)
    (root / "figures" / "more.json").write_text((root / "figures" / "annotations.json").read_text())
    with pytest.raises(EdgeposeError, match=r"holds several data sets \(coco:.*annotations.json.*more.json.*name one"):
        load("figures", root)
    coco_own = root / "own"
    (coco_own / "annotations").mkdir(parents=True)
    (coco_own / "val2017").mkdir()
    (coco_own / "package.json").write_text("{not json")  # is none of ours
    text = (root / "figures" / "annotations.json").read_text()
    (coco_own / "annotations" / "person_keypoints_val2017.json").write_text(text)
    assert recognise("own", root) == "coco:own/annotations/person_keypoints_val2017.json:own/val2017"
    empty = root / "empty"
    empty.mkdir()
    with pytest.raises(EdgeposeError, match="holds no data set that is recognised"):
        load("empty", root)
    (empty / "annotations.json").write_text(text[: len(text) // 2])
    with pytest.raises(
        EdgeposeError, match=r"is recognised \(.*annotations.json cannot be read as JSON: .*\); write lsp"
    ):
        load("empty", root)


def standing(turned: float = 0.0, **moved: tuple[float, float]) -> Person:
    """Somebody who faces the camera, turned by ``turned`` degrees."""
    joints = {"left_shoulder": (60, 20), "right_shoulder": (30, 20), "left_hip": (55, 80), "right_hip": (35, 80)}
    points, labelled = np.zeros((16, 2)), np.zeros(16, dtype=bool)
    angle = np.deg2rad(turned)
    for name, place in {**joints, **moved}.items():
        points[MPII16.index(name)] = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ place
        labelled[MPII16.index(name)] = True
    return make_person(Path("a.png"), points, labelled, "a")


BEHIND = {"left_shoulder": (30, 20), "right_shoulder": (60, 20), "left_hip": (35, 80), "right_hip": (55, 80)}


@pytest.mark.parametrize("turned", [0, 90, 180, 200])
def test_who_is_seen_from_behind(turned):
    assert from_behind(standing(turned, **BEHIND), MPII16)
    assert not from_behind(standing(turned), MPII16)
    twisted = {name: BEHIND[name] for name in ("left_shoulder", "right_shoulder")}
    assert not from_behind(standing(turned, **twisted), MPII16)
    nearly_from_the_side = {**BEHIND, "left_hip": (44, 80), "right_hip": (46, 80)}
    assert not from_behind(standing(turned, **nearly_from_the_side), MPII16)


def test_a_back_is_not_known_without_its_four_joints():
    whole = standing(**BEHIND)
    labelled = whole.labelled.copy()
    labelled[MPII16.index("left_hip")] = False
    assert not from_behind(replace(whole, labelled=labelled), MPII16)


def test_backs_are_drawn_as_often_as_the_recipe_says(lsp, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path))
    folder, array = lsp  # all of them face us
    array[:, :, 1] = array[LSP14.mirror, :, 1]
    savemat(folder / "joints.mat", {"joints": array})
    recipe = {
        "name": "x",
        "skeleton": "lsp14",
        "data": [{"data": f"lsp:{folder}", "split": "all", "share": 2, "behind": 3}],
        "stages": [{"images": 16, "size": 64}],
    }
    data = PoseData(Recipe.model_validate(recipe), None, workers=0)
    data.setup("fit")
    assert data._shares == [2, 6, 2, 2, 2]


def test_joints_of_other_names_are_told_from_those_of_the_skeleton(coco):
    spec, root = coco
    path = root / "figures" / "annotations.json"
    data = json.loads(path.read_text())
    data["categories"][0]["keypoints"] = [f"my_{name}" for name in MPII16.joints]
    path.write_text(json.dumps(data))
    said = "has no joint of skeleton mpii16: its own are my_right_ankle, .* and that has right_ankle, .* by their names"
    with pytest.raises(EdgeposeError, match=said):
        select(DataSet(data=spec, split="all"), MPII16, root)
