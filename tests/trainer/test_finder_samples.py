"""A finder's training samples: boxes lie on what they are of, whatever is done to the picture."""

import cv2
import numpy as np
import pytest

from edgepose.people.association import iou
from trainer.data.samples import Draw
from trainer.finder.recipe import SceneAugmentation
from trainer.finder.samples import MOST, UNSURE, SceneSamples
from trainer.finder.scenes import Scene

NOBODY = np.zeros((0, 4))

PLAIN = {"colour": 0.0, "blur": 0.0}
RECTANGLES = [  # image height, width; bright rectangle x0, y0, x1, y1 (pixels, the last one not in it)
    ((160, 160), (50, 30, 110, 140)),
    ((90, 240), (150, 10, 210, 80)),
    ((240, 100), (5, 120, 70, 200)),
    ((150, 200), (0, 60, 90, 150)),
]


@pytest.fixture(scope="module")
def bright(tmp_path_factory):
    """Scenes of a bright rectangle each, that is the person."""
    folder = tmp_path_factory.mktemp("bright")
    scenes = []
    for i, ((height, width), (x0, y0, x1, y1)) in enumerate(RECTANGLES):
        image = np.zeros((height, width, 3), dtype=np.uint8)
        image[y0:y1, x0:x1] = 255
        cv2.imwrite(str(folder / f"{i}.png"), image)
        box = np.array([[x0, y0, x1, y1]]) - 0.5
        scenes.append(Scene(folder / f"{i}.png", box, np.ones(1, dtype=bool), NOBODY))
    return scenes


def sample(scenes, index=0, seed=0, size=128, **augmentation):
    samples = SceneSamples(scenes, SceneAugmentation.model_validate({**PLAIN, **augmentation}))
    return samples[Draw(index, (1, 2, seed), size)]


def rows(table):
    return table[np.isfinite(table).all(axis=1)]


def mask(boxes, size, grow):
    """[S, S]: pixels whose centre lies in a box that was grown by so many pixels."""
    axis = np.arange(size)
    inside = np.zeros((size, size), dtype=bool)
    for x0, y0, x1, y1 in boxes:
        columns, lines = ((axis >= low - grow) & (axis <= high + grow) for low, high in ((x0, x1), (y0, y1)))
        inside |= columns[None, :] & lines[:, None]
    return inside


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(8))
def test_boxes_lie_on_what_they_are_of(bright, seed, mosaic):
    """Whatever is bright lies in a box, and boxes hold nothing else."""
    size = 192
    made = sample(bright, seed % 4, seed, size, mosaic=mosaic, scale=[0.6, 1.6])
    people, unsure = rows(made["people"]), rows(made["unsure"])
    seen = made["image"].max(axis=0) > 190  # the ground is dark, and what lies outside is grey
    everybody = np.concatenate([people, unsure])
    assert len(everybody)
    assert not (seen & ~mask(everybody, size, 1)).any()
    assert seen[mask(everybody, size, -2)].all()


@pytest.mark.parametrize("index", range(4))
def test_without_augmentation_a_scene_is_letterboxed(bright, index):
    made = sample(bright, index, size=160, mosaic=0.0, flip=0.0, scale=[1.0, 1.0])
    (height, width), rectangle = RECTANGLES[index]
    zoom = 160 / max(height, width)
    bars = (160 - zoom * np.array([width, height])) / 2
    expected = np.array(rectangle) * zoom + np.tile(bars, 2) - 0.5
    assert np.allclose(rows(made["people"]), [expected], atol=1e-3)


def test_a_mirrored_scene_has_its_box_mirrored(bright):
    plain, mirrored = (sample(bright, 1, size=96, mosaic=0.0, flip=share, scale=[1.0, 1.0]) for share in (0.0, 1.0))
    x0, y0, x1, y1 = rows(plain["people"])[0]
    assert np.allclose(rows(mirrored["people"]), [[95 - x1, y0, 95 - x0, y1]], atol=1e-3)
    assert np.abs(mirrored["image"][:, :, ::-1].astype(int) - plain["image"]).max() <= 3


def test_the_same_draw_is_the_same_sample(bright):
    settings = {"mosaic": 0.5, "colour": 0.4, "blur": 0.5}
    for seed in range(4):
        first, second = (sample(bright, 0, seed, **settings) for _ in range(2))
        assert all(np.array_equal(first[k], second[k], equal_nan=k != "image") for k in first)
    other = sample(bright, 0, 99, **settings)
    assert not np.array_equal(first["image"], other["image"])


def test_samples_are_what_the_network_takes(bright):
    made = sample(bright, size=64)
    assert made["image"].shape == (3, 64, 64)
    assert made["image"].dtype == np.uint8
    assert (made["people"].shape, made["unsure"].shape) == ((MOST, 4), (UNSURE, 4))
    assert made["people"].dtype == np.float32


def test_images_are_rgb(tmp_path):
    cv2.imwrite(str(tmp_path / "blue.png"), np.full((40, 40, 3), (250, 20, 10), dtype=np.uint8))
    blue = Scene(tmp_path / "blue.png", NOBODY, np.zeros(0, dtype=bool), NOBODY)
    assert sample([blue], mosaic=0.0, scale=[1, 1])["image"][:, 64, 64].tolist() == [10, 20, 250]


def grounds(folder, count=1, size=100, people=NOBODY, unsure=NOBODY):
    """Scenes of one grey each."""
    scenes = []
    for i in range(count):
        cv2.imwrite(str(folder / f"{i}.png"), np.full((size, size, 3), 40 + 50 * i, dtype=np.uint8))
        scenes.append(Scene(folder / f"{i}.png", people, np.ones(len(people), dtype=bool), unsure))
    return scenes


def test_tiny_people_are_unsure(tmp_path):
    """A side of 12 pixels in the image is 6 in the input, below the bar; 40 are 20."""
    boxes = np.array([[10.0, 10, 16, 22], [30, 30, 50, 70]])
    made = sample(grounds(tmp_path, people=boxes), size=50, mosaic=0.0, flip=0.0, scale=[1.0, 1.0])
    assert np.allclose(rows(made["people"]), [(boxes[1] + 0.5) / 2 - 0.5], atol=1e-4)
    assert np.allclose(rows(made["unsure"]), [(boxes[0] + 0.5) / 2 - 0.5], atol=1e-4)


def test_people_who_are_cut_off_are_unsure_and_those_outside_nobody(tmp_path):
    """Their boxes end where the picture ends; from 40 % on they are people still."""
    boxes = np.array([[-14.5, 10, 5.5, 50], [85.5, 10, 105.5, 50], [120, 0, 160, 50]])  # 30 %, 70 %, nothing visible
    doubtful = np.array([[-60.0, 0, -20, 30], [40, 80, 70, 130]])
    made = sample(grounds(tmp_path, people=boxes, unsure=doubtful), size=100, mosaic=0.0, flip=0.0, scale=[1.0, 1.0])
    assert np.allclose(rows(made["people"]), [[85.5, 10, 99.5, 50]], atol=1e-4)
    assert np.allclose(rows(made["unsure"]), [[-0.5, 10, 5.5, 50], [40, 80, 70, 99.5]], atol=1e-4)


def test_there_are_at_most_so_many_and_the_rest_is_unsure(tmp_path):
    """Never background: that would teach that people are not."""
    low = np.stack(np.meshgrid(np.arange(10) * 20.0, np.arange(8) * 20.0), axis=-1).reshape(-1, 2)
    boxes = np.concatenate([low, low + 15], axis=1)
    doubtful = np.concatenate([boxes, boxes + 1])
    scenes = grounds(tmp_path, size=200, people=boxes, unsure=doubtful)
    made = sample(scenes, size=200, mosaic=0.0, flip=0.0, scale=[1.0, 1.0])
    assert len(boxes) == 80
    assert len(rows(made["people"])) == MOST == 64
    there = rows(made["unsure"])
    assert len(there) == 16 + 160
    told = np.concatenate([rows(made["people"]), there])
    for box in np.concatenate([boxes, doubtful]):
        assert np.abs(told - box).max(axis=1).min() < 1e-3


def test_a_mosaic_has_four_images(tmp_path):
    """Of one grey each and of four scenes: a corner of the input shows one of them, the first its own."""
    scenes = grounds(tmp_path, count=4)
    corners = []
    for seed in range(12):
        image = sample(scenes, 2, seed, size=128, mosaic=1.0, scale=[1.0, 1.0])["image"][0]
        levels = [
            np.bincount(part.ravel(), minlength=256) for half in np.split(image, 2) for part in np.hsplit(half, 2)
        ]
        for level in levels:
            level[114] = 0  # the letterbox
        corners.append([int(level.argmax()) for level in levels])
    assert all(c[0] == 140 for c in corners)
    assert {level for c in corners for level in c[1:]} == {40, 90, 140, 190}


def test_people_of_all_images_of_a_mosaic_are_there_and_stay_in_their_own(tmp_path):
    scenes = grounds(tmp_path, people=np.array([[-0.5, -0.5, 99.5, 99.5]]))
    made = sample(scenes, 0, 5, size=128, mosaic=1.0, scale=[1.0, 1.0])
    people = rows(made["people"])
    assert len(people) == 4
    assert not (iou(people, people) - np.eye(4) > 1e-6).any()
    assert not (made["image"][0][~mask(people, 128, 1)] != 114).any()


def test_a_scene_that_is_scaled_lies_anywhere_in_its_place(bright):
    boxes = [
        rows(sample(bright, 0, seed, 96, mosaic=0.0, flip=0.0, scale=[0.6, 0.6])["people"])[0] for seed in range(30)
    ]
    sides = np.array([box[2:] - box[:2] for box in boxes])
    assert np.ptp(sides, axis=0).max() < 1e-3
    assert (np.ptp(boxes, axis=0) > 0.25 * 96).all()  # the scene's edge is up to a fifth off the middle's, either way
