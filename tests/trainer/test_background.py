"""Windows in which nobody is: where they lie, and what a network learns from them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgepose.crops import crop_affine, warp
from edgepose.errors import EdgeposeError
from edgepose.people.association import inside
from edgepose.skeletons import MPII16
from tests.trainer.conftest import figure
from trainer.augment import Augmentation
from trainer.data.background import AROUND, SMALLEST, empty_windows, windows
from trainer.data.cache import MARGIN, open_cache
from trainer.data.module import PoseData
from trainer.data.persons import Person, load
from trainer.data.samples import Draw, Samples
from trainer.data.splits import join_twins, side, take
from trainer.evaluate import open_estimator
from trainer.finder.recipe import SceneSet
from trainer.finder.scenes import Scene, read
from trainer.fit import fit
from trainer.recipe import Background, Recipe

PERSON, DOUBTFUL = (20.0, 40.0, 180.0, 380.0), (560.0, 200.0, 640.0, 400.0)


def photograph(seed: int = 0, size: tuple[int, int] = (640, 400)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)


def scene(people: list[tuple[float, ...]], unsure: list[tuple[float, ...]], name: str = "a.png") -> Scene:
    boxes = np.array(people, float).reshape(-1, 4)
    return Scene(Path(name), boxes, np.ones(len(boxes), bool), np.array(unsure, float).reshape(-1, 4))


def grown(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * AROUND
    return np.concatenate([middle - half, middle + half], axis=1)


def test_windows_keep_away_from_people_and_from_doubtful_places() -> None:
    found = np.concatenate([empty_windows(scene([PERSON], [DOUBTFUL], f"{i}.png"), photograph(), 5) for i in range(40)])
    assert len(found) > 100
    sides = found[:, 2:] - found[:, :2]
    assert np.allclose(sides[:, 0], sides[:, 1])
    assert sides.min() >= SMALLEST
    around = grown(found)
    assert inside(around, np.array([PERSON, DOUBTFUL])).max() <= 0.02
    assert (around[:, :2] >= -1e-6).all()
    assert (around[:, 2:] <= np.array([640, 400]) + 1e-6).all()


def test_whoever_stands_beside_an_empty_window_is_never_shown() -> None:
    """However augmentation zooms out, turns and shifts: who is there is white, all that is empty black."""
    window = np.array([200.0, 200.0, 264.0, 264.0])
    (around,) = grown(window[None])
    image = np.full((464, 464, 3), 255, np.uint8)
    image[round(around[1]) : round(around[3]), round(around[0]) : round(around[2])] = 0
    nobody = Person(Path("x.png"), np.zeros((16, 2)), np.zeros(16, bool), unpadded(window, 1.25), "x", nobody=True)
    size = 64
    side = round(size * MARGIN)
    cached = warp(image, crop_affine(nobody.box, (side, side), 1.25 * MARGIN), (side, side))
    assert cached[1:-1, 1:-1].max() == 0, "a sample shows parts of this, and beyond its edge what stands there"


def unpadded(window: NDArray[np.float64], padding: float) -> NDArray[np.float64]:
    """The box whose crop with ``padding`` shows ``window`` [4]."""
    middle, half = (window[:2] + window[2:]) / 2, (window[2:] - window[:2]) / 2 / padding
    return np.concatenate([middle - half, middle + half])


def test_nobody_small_stands_in_a_window() -> None:
    small = [(x, 150.0, x + 20, 200.0) for x in (210.0, 330.0, 450.0)]
    found = np.concatenate([empty_windows(scene(small, [], f"{i}.png"), photograph(), 5) for i in range(40)])
    assert len(found) > 100
    assert inside(np.array(small), grown(found)).max() <= 0.1


def test_windows_are_the_same_each_time_and_no_more_than_asked_for() -> None:
    one, two = (empty_windows(scene([PERSON], []), photograph(), 3) for _ in range(2))
    assert np.array_equal(one, two)
    assert len(one) == 3
    assert not np.array_equal(one, empty_windows(scene([PERSON], [], "b.png"), photograph(), 3))


@pytest.mark.parametrize(
    ("image", "people"),
    [
        (np.full((400, 640, 3), 90, np.uint8), [PERSON]),  # nothing to see
        (photograph(size=(60, 60)), []),  # no room
        (photograph(), [(0.0, 0.0, 640.0, 400.0)]),  # somebody everywhere
    ],
)
def test_there_may_be_no_window(image: NDArray[np.uint8], people: list[tuple[float, ...]]) -> None:
    assert empty_windows(scene(people, []), image, 5).shape == (0, 4)


@pytest.fixture
def wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """Drawn persons at the left of wide, textured photographs; most of each is empty."""
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(3)
    (tmp_path / "wide").mkdir()
    images, annotations = [], []
    for i in range(6):
        drawn, joints = figure(rng, MPII16)
        ground = cv2.resize(rng.integers(40, 200, (20, 60, 3), dtype=np.uint8), (480, 160))
        ground[:, :160] = drawn
        cv2.imwrite(str(tmp_path / "wide" / f"{i}.png"), ground)
        images.append({"id": i, "file_name": f"{i}.png", "group": i})
        keypoints = [v for x, y in joints for v in (float(x), float(y), 2)]
        annotations.append({"id": i, "image_id": i, "category_id": 1, "keypoints": keypoints, "iscrowd": 0})
    category = {"id": 1, "name": "person", "keypoints": list(MPII16.joints), "skeleton": []}
    text = json.dumps({"images": images, "annotations": annotations, "categories": [category]})
    (tmp_path / "wide.json").write_text(text)
    return "coco:wide.json:wide", tmp_path


def test_a_crop_shows_its_window_and_says_that_every_joint_is_nowhere(wide: tuple[str, Path]) -> None:
    data, root = wide
    nobodies = windows(Background(data=data, split="all"), MPII16, 1.25, root)
    assert len(nobodies.persons) > 6
    first = nobodies.persons[0]
    affine = crop_affine(first.box, (64, 64), 1.25)
    window = empty_windows(
        scene([tuple(box) for box in _people(data, root, first.image)], [], first.image.name), _read(first.image), 5
    )[0]
    assert np.allclose(affine @ np.append(window[:2], 1), (-0.5, -0.5))
    still = Augmentation(scale=(1, 1), rotation=0, shift=0, flip=1, colour=0, blur=0, half_body=1)
    samples = Samples(nobodies.persons, [(0, open_cache(nobodies, 64, 1.25))], MPII16, 1.25, still)
    sample = samples[Draw(0, (1, 2, 3), 64)]
    assert sample["labelled"].all()
    assert (np.abs(sample["joints"]) > 1000).all()
    seen = sample["image"].transpose(1, 2, 0)[:, ::-1, ::-1].astype(float)  # flip = 1 mirrors it
    assert np.abs(seen - warp(_read(first.image), affine, (64, 64))).mean() < 6


def _people(data: str, root: Path, image: Path) -> list[NDArray[np.float64]]:
    return [p.box for p in load(data, root).persons if p.image == image]


def _read(path: Path) -> NDArray[np.uint8]:
    return np.asarray(cv2.imread(str(path)), np.uint8)


def test_photographs_that_no_annotation_is_of_show_nobody(wide: tuple[str, Path]) -> None:
    """The set of an empty room: nobody is labelled, and all of each picture is free."""
    data, root = wide
    content = json.loads((root / "wide.json").read_text())
    kept = [annotation for annotation in content["annotations"] if annotation["image_id"] != 2]
    for labels in (kept, []):
        (root / "wide.json").write_text(json.dumps(content | {"annotations": labels}))
        nobodies = windows(Background(data=data, split="all", empty=True), MPII16, 1.25, root).persons
        assert {p.image.name for p in nobodies} == {f"{i}.png" for i in range(6)}
        assert any(p.box[0] < 100 for p in nobodies if p.image.name == "2.png")  # where somebody was
    scenes = read(SceneSet(data=data, split="all", empty=True), root)
    assert len(scenes) == 6
    assert not any(len(s.people) + len(s.unsure) for s in scenes)
    with pytest.raises(EdgeposeError, match="has no labelled person in split 'all'"):  # perhaps nobody looked
        read(SceneSet(data=data, split="all"), root)
    room = join_twins(load(data, root))
    dealt = {split: take(room, split).bare for split in ("train", "dev", "val")}
    assert sorted(str(group) for part in dealt.values() for group in part.values()) == [str(i) for i in range(6)]
    assert all(side(room.name, group) == split for split, part in dealt.items() for group in part.values())


def peaks_in_empty_windows(wide: tuple[str, Path], out: Path, background: list[Background]) -> float:
    """Mean raw peak that a little network, trained with ``background``, sees where nobody is."""
    data, root = wide
    recipe = Recipe.model_validate(
        {
            "name": "little", "data": [{"data": data, "split": "all"}], "background": background,
            "model": {"width": 32, "depth": 2, "stacks": 1, "order": "post"}, "precision": "float32",
            "stages": [{"images": 800, "size": 64, "batch": 8}], "optimiser": {"rate": 5e-3, "warm_up": 10, "ema": 0.9},
        }
    )  # fmt: skip
    estimator = open_estimator(str(fit(recipe, out, root=root, workers=0, threads=1)))
    nobodies = windows(Background(data=data, split="all", windows=2), MPII16, 1.25, root).persons
    return float(np.mean([estimator.estimate(_read(p.image), p.box[None]).scores.mean() for p in nobodies]))


def test_a_network_learns_to_see_nobody_there(wide: tuple[str, Path], tmp_path: Path) -> None:
    without = peaks_in_empty_windows(wide, tmp_path / "without", [])
    with_them = peaks_in_empty_windows(wide, tmp_path / "with", [Background(data=wide[0], split="all")])
    assert with_them < 0.5 * without


def test_photographs_without_room_are_refused(wide: tuple[str, Path]) -> None:
    data, root = wide
    for path in (root / "wide").iterdir():
        cv2.imwrite(str(path), np.full((160, 480, 3), 90, np.uint8))
    with pytest.raises(EdgeposeError, match="no photograph has room for a window without anybody; leave it out"):
        windows(Background(data=data, split="all"), MPII16, 1.25, root)


def test_windows_are_drawn_as_often_as_the_recipe_says(wide: tuple[str, Path]) -> None:
    data, root = wide
    recipe = Recipe.model_validate(
        {
            "name": "little", "data": [{"data": data, "split": "all"}], "stages": [{"images": 16, "size": 64}],
            "background": [{"data": data, "split": "all", "share": 3}],
        }
    )  # fmt: skip
    drawn = PoseData(recipe, root, workers=0)
    drawn.setup("fit")
    assert drawn._shares[:6] == [1] * 6
    assert len(drawn._shares) > 12
    assert set(drawn._shares[6:]) == {3}
