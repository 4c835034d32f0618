"""Who stands on which side of a split: groups that stay whole, pictures that look alike, and what is said of both."""

import json

import cv2
import numpy as np
import pytest

from edgepose import EdgeposeError
from edgepose.skeletons import MPII16
from tests.trainer.conftest import make_coco
from trainer.data import load
from trainer.data.module import select
from trainer.data.persons import read_image
from trainer.data.splits import dhash, join_twins, of_split, say_without_split, side, take
from trainer.recipe import DataSet


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lsp:lspet@dev", ("lsp:lspet", "dev")),
        ("lsp:lspet", ("lsp:lspet", "")),
        ("coco:/home/me@corp/a.json:/home/me@corp/i", ("coco:/home/me@corp/a.json:/home/me@corp/i", "")),
        ("lsp:/home/me@corp/x@val", ("lsp:/home/me@corp/x", "val")),
    ],
)
def test_a_split_stands_after_the_last_at(text, expected):
    assert of_split(text) == expected


def test_splits_hold_groups_together_and_never_move(coco):
    spec, root = coco
    persons = load(spec, root)
    groups = {name: {p.group for p in take(persons, name).persons} for name in ("train", "dev", "val")}
    assert not (groups["train"] & groups["val"]) | (groups["train"] & groups["dev"]) | (groups["dev"] & groups["val"])
    assert sum(len(take(persons, n).persons) for n in groups) == len(persons.persons)
    # pinned: a changed hash would leak validation persons of shipped models into training
    sides = ["train", "val", "val", "train", "train", "train", "train", "train"]
    assert [side("mpii_sports", str(g)) for g in range(8)] == sides
    for name, split, numbers in (
        ("lspet", "dev", [52, 95, 115, 141]),
        ("lspet", "val", [13, 16, 27, 28, 36, 81, 104, 107, 117]),
        ("mpii_sports", "dev", [23, 37]),
        ("mpii_sports", "val", [1, 2, 10, 14, 18, 29, 34]),
    ):
        assert [n for n in range(150 if name == "lspet" else 40) if side(name, str(n)) == split] == numbers
    with pytest.raises(EdgeposeError, match="unknown split 'vla'; did you mean 'val'"):
        take(persons, "vla")


def test_twins_share_a_group(coco):
    spec, root = coco
    images = root / "figures" / "images"
    (images / "007.png").write_bytes((images / "000.png").read_bytes())
    joined = join_twins(load(spec, root))
    by_image = {p.image.name: p.group for p in joined.persons}
    assert by_image["007.png"] == by_image["000.png"]
    assert by_image["002.png"] != by_image["000.png"]


def test_groups_that_share_an_image_are_one(tmp_path, monkeypatch):
    """COCO may list a file several times, and each time in another group: no photograph stands on two sides."""
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "cache"))
    _, content = fixed_camera(tmp_path, 3)
    content["images"][1] |= {"file_name": "00.png", "group": "yard"}
    content["images"][0]["group"] = "room"
    (tmp_path / "camera" / "annotations.json").write_text(json.dumps(content))
    noise = np.random.default_rng(4).integers(0, 255, (8, 9, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "camera" / "images" / "02.png"), cv2.resize(noise, (180, 160)))
    joined = join_twins(load("coco:camera/annotations.json:camera/images", tmp_path))
    assert [p.group for p in joined.persons] == ["room", "room", "02.png"]


def test_a_set_without_anybody_has_no_twins(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "cache"))
    _, content = fixed_camera(tmp_path, 3)
    (tmp_path / "camera" / "annotations.json").write_text(json.dumps(content | {"annotations": [], "images": []}))
    spec = DataSet(data="coco:camera/annotations.json:camera/images", split="val")
    with pytest.raises(EdgeposeError, match="no labelled person"):
        select(spec, MPII16, tmp_path)


def test_groups_that_share_images_stay_one_where_pictures_look_alike(tmp_path, monkeypatch, capsys):
    """That a fixed camera's pictures are not joined is of what looks alike, not of what is the same file."""
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "cache"))
    _, content = fixed_camera(tmp_path, 60)
    twice = [{**image, "id": 100 + image["id"], "group": "yard"} for image in content["images"]]
    again = [{**a, "id": 100 + a["id"], "image_id": 100 + a["image_id"]} for a in content["annotations"]]
    content |= {"images": content["images"] + twice, "annotations": content["annotations"] + again}
    (tmp_path / "camera" / "annotations.json").write_text(json.dumps(content))
    joined = join_twins(load("coco:camera/annotations.json:camera/images", tmp_path))
    assert len(joined.persons) == 120
    assert len({p.group for p in joined.persons}) == 1


def fixed_camera(root, count):
    """A set of ``count`` pictures of one room in which a small figure stands here and there."""
    rng = np.random.default_rng(3)
    room = cv2.resize(rng.integers(0, 255, (8, 9, 3), dtype=np.uint8), (180, 160), interpolation=cv2.INTER_NEAREST)
    folder = root / "camera" / "images"
    folder.mkdir(parents=True)
    images, annotations = [], []
    for i in range(count):
        x, y = rng.integers(20, 140, 2).tolist()
        picture = room.copy()
        cv2.circle(picture, (x, y), 4, (255, 255, 255), -1)
        cv2.imwrite(str(folder / f"{i:02}.png"), picture)
        images.append({"id": i, "file_name": f"{i:02}.png"})
        joints = [v for k in range(16) for v in (x + k % 4, y + k // 4, 2)]
        annotations.append({"id": i, "image_id": i, "category_id": 1, "keypoints": joints, "iscrowd": 0})
    category = {"id": 1, "name": "person", "keypoints": list(MPII16.joints), "skeleton": []}
    content = {"images": images, "annotations": annotations, "categories": [category]}
    (root / "camera" / "annotations.json").write_text(json.dumps(content))
    return load("coco:camera/annotations.json:camera/images", root), content


def test_a_fixed_cameras_pictures_are_not_one_group(tmp_path, monkeypatch, capsys):
    """They look alike whoever stands in them: joined, all would fall into one split. It is said, once."""
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "cache"))
    seen, content = fixed_camera(tmp_path, 60)
    joined = join_twins(seen)
    assert [p.group for p in joined.persons] == [f"{i:02}.png" for i in range(60)]
    assert all(take(joined, split).persons for split in ("train", "dev", "val"))
    join_twins(seen)
    said = capsys.readouterr().err
    assert said.count("note: 60 of the 60 images of camera look alike") == 1
    # groups that the file gives stay whole
    for image in content["images"]:
        image["group"] = image["id"] // 10
    (tmp_path / "camera" / "annotations.json").write_text(json.dumps(content))
    grouped = join_twins(load("coco:camera/annotations.json:camera/images", tmp_path))
    assert [p.group for p in grouped.persons] == [str(i // 10) for i in range(60)]


def test_twins_are_joined_beside_a_large_group_that_the_file_gives(tmp_path, monkeypatch):
    """A scene with a picture more is no fixed camera, and what is alike elsewhere stays on one side."""
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "cache"))
    _, content = fixed_camera(tmp_path, 60)
    rng = np.random.default_rng(4)
    for i in range(40, 60):  # 20 others, of which the last two are one picture
        noise = rng.integers(0, 255, (8, 9, 3), dtype=np.uint8)
        picture = cv2.resize(noise, (180, 160), interpolation=cv2.INTER_NEAREST)
        for name in (f"{i:02}.png", "59.png") if i == 58 else (f"{i:02}.png",) if i < 58 else ():
            cv2.imwrite(str(tmp_path / "camera" / "images" / name), picture)
    for image in content["images"][:39]:
        image["group"] = "scene"
    (tmp_path / "camera" / "annotations.json").write_text(json.dumps(content))
    joined = join_twins(load("coco:camera/annotations.json:camera/images", tmp_path))
    groups = {p.image.name: p.group for p in joined.persons}
    assert groups["39.png"] == groups["00.png"]
    assert groups["58.png"] == groups["59.png"]
    assert len(set(groups.values())) == 1 + 18 + 1


def test_a_few_twins_in_a_chain_are_one_group_with_the_first_name(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "cache"))
    seen, _ = fixed_camera(tmp_path, 12)
    assert {p.group for p in join_twins(seen).persons} == {"00.png"}


def test_an_empty_split_says_why(coco):
    spec, root = coco
    few = load(spec, root).persons[:2]
    absent = next(s for s in ("dev", "val") if all(side("figures", p.group) != s for p in few))
    path = root / "figures" / "annotations.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "annotations": content["annotations"][:2]}))
    with pytest.raises(EdgeposeError, match=f"in split '{absent}'; groups of images are dealt out by a hash"):
        select(DataSet(data=spec, split=absent), MPII16, root)


def test_a_set_may_say_what_it_is_called(coco):
    """So that its splits are the same in another folder."""
    spec, root = coco
    path = root / "figures" / "annotations.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "info": {"edgepose_set": "hall"}}))
    assert load(spec, root).name == "hall"
    for info in ({"edgepose_set": "a/b"}, {"edgepose_set": 7}):
        path.write_text(json.dumps({**content, "info": info}))
        with pytest.raises(EdgeposeError, match=r"info.edgepose_set is .*; it must be a name"):
            load(spec, root)
    path.write_text(json.dumps({**content, "info": {"year": 2020}}))
    assert load(spec, root).name == "figures"


def test_data_without_a_split_are_told_where_nobody_learnt_from_is_wanted(capsys):
    say_without_split("--fit-on", ["lsp:lspet@dev", "own/hall", "own/door@all"])
    say_without_split("--fit-on", None)
    assert capsys.readouterr().err == (
        "note: --fit-on own/hall names no split, so whom the network learnt from counts too; write own/hall@dev, "
        "or own/hall@all where nobody did\n"
    )


def test_dhash_sees_through_scaling(coco):
    spec, root = coco
    image = read_image(load(spec, root).persons[0].image)
    smaller = cv2.resize(image, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)
    assert (dhash(image) ^ dhash(smaller)).bit_count() <= 4


@pytest.mark.parametrize(("name", "dev", "val"), [("lspet", 0.03, 0.05), ("mpii_sports", 0.08, 0.20)])
def test_so_many_scenes_are_on_each_side(name, dev, val):
    sides = [side(name, str(number)) for number in range(20_000)]
    assert sides.count("dev") / len(sides) == pytest.approx(dev, abs=0.006)
    assert sides.count("val") / len(sides) == pytest.approx(val, abs=0.012)


def test_a_limit_draws_evenly(tmp_path):
    spec, root = make_coco(tmp_path, 8)
    whole, some = (select(DataSet(data=spec, split="all", limit=n), MPII16, root).persons for n in (0, 3))
    assert [p.image for p in some] == [whole[i].image for i in (0, 3, 7)]
