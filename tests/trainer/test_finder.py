"""Training a person finder: targets, loss, samples, scenes, recipes, and runs that learn and resume."""

import csv
import json
import math
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from edgepose import EdgeposeError
from edgepose.people.association import iou
from edgepose.people.finder import decode
from edgepose.toml import validate
from tests.trainer.conftest import make_coco
from trainer import checkpoints
from trainer import fit as poses
from trainer.cli import RECIPES, app
from trainer.data.samples import Draw
from trainer.finder import fit as finders
from trainer.finder.evaluate import look, of_network, quality
from trainer.finder.fit import fit, load_best
from trainer.finder.recipe import FinderRecipe, SceneAugmentation, SceneSet, load
from trainer.finder.samples import MOST, SceneSamples
from trainer.finder.scenes import Scene, read
from trainer.finder.targets import MIDDLE, SPREAD, focal, known, losses, maps
from trainer.recipe import Recipe

NOBODY = np.zeros((0, 4))


def batch(*boxes, rows=8):
    """Boxes in cells as a batch of one: [1, rows, 4], NaN where there is none."""
    table = torch.full((1, rows, 4), torch.nan)
    if boxes:
        table[0, : len(boxes)] = torch.tensor(boxes)
    return table


# Targets


def test_one_person_by_hand():
    """A box of 20 x 40 cells around (15.3, 24.6): deviations 1.8 and 3.6 about cell (15, 25)."""
    heat, regression, middle = maps(batch((5.3, 4.6, 25.3, 44.6)), 48)
    assert heat.shape == middle.shape == (1, 48, 48)
    assert regression.shape == (1, 4, 48, 48)
    assert heat[0, 25, 15] == 1
    assert (heat == 1).sum() == 1
    assert heat[0, 25, 17] == pytest.approx(math.exp(-((2 / (SPREAD * 20)) ** 2) / 2))
    assert heat[0, 22, 16] == pytest.approx(math.exp(-((1 / 1.8) ** 2 + (3 / 3.6) ** 2) / 2))
    assert regression[0, :, 25, 15].tolist() == pytest.approx([math.log(20), math.log(40), 0.3, -0.4], abs=1e-5)
    assert regression[0, :, 27, 14].tolist() == pytest.approx([math.log(20), math.log(40), 1.3, -2.4], abs=1e-5)
    assert torch.equal(middle, heat >= MIDDLE)


def test_small_people_have_a_gaussian_of_least_width():
    heat, _, _ = maps(batch((9.0, 9.0, 11.0, 11.0)), 20)
    assert heat[0, 10, 11] == pytest.approx(math.exp(-((1 / 0.7) ** 2) / 2))


def test_of_two_people_each_has_the_cells_nearer_to_it():
    left, right = (2.0, 2.0, 22.0, 42.0), (14.0, 2.0, 34.0, 42.0)  # centres (12, 22) and (24, 22)
    heat, regression, _ = maps(batch(left, right), 48)
    assert heat[0, 22, 12] == heat[0, 22, 24] == 1
    single = [maps(batch(box), 48)[0] for box in (left, right)]
    assert torch.equal(heat, torch.maximum(*single))
    assert regression[0, 2, 22, 15] == -3
    assert regression[0, 2, 22, 21] == 3


def test_nobody_is_an_empty_map():
    heat, regression, middle = maps(batch(), 16)
    assert not heat.any()
    assert not middle.any()
    assert regression.isfinite().all()


def test_rows_may_stand_anywhere_and_images_are_apart():
    box = (2.0, 3.0, 12.0, 13.0)
    table = torch.full((2, 5, 4), torch.nan)
    table[1, 3] = torch.tensor(box)
    heat, _, _ = maps(table, 16)
    assert not heat[0].any()
    assert torch.equal(heat[1:], maps(batch(box), 16)[0])


@pytest.mark.parametrize("box", [(-9.0, -4.0, 6.0, 10.0), (-12.0, 10.0, 3.0, 30.0), (20.0, 20.0, 50.0, 41.0)])
def test_people_partly_outside_have_their_peak_in_the_map(box):
    """Also where their centre lies outside: the nearest cell stands for it, and its offset leads there."""
    heat, regression, _ = maps(batch(box), 32)
    assert (heat == 1).sum() == 1
    decoded, scores = decode(whole(heat, regression), 0.99)
    assert scores == pytest.approx(1)
    assert np.allclose(decoded, [box], atol=1e-3)


def whole(heat, regression):
    """A batch of one as the finder's five maps."""
    return torch.cat([heat[:, None], regression], dim=1)[0].numpy()


SIZE = 40
spots = st.floats(0, SIZE - 1, width=32)
sides = st.floats(1.5, 38, width=32)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(spots, spots, sides, sides), min_size=1, max_size=4))
def test_decoding_the_targets_gives_the_boxes_back(people):
    """At the peaks by the device's own decoder, and at every cell from which they are learnt."""
    boxes = np.array([(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x, y, w, h in people])
    centres = np.array([(x, y) for x, y, _, _ in people])
    apart = np.abs(centres[:, None] - centres[None]).max(axis=2) + 99 * np.eye(len(boxes))
    assume(apart.min() > 3)  # neighbouring cells, of which one peak hides the other, are nobody's promise
    assume((iou(boxes, boxes) - np.eye(len(boxes))).max() < 0.55)
    heat, regression, middle = maps(batch(*boxes.tolist()), SIZE)
    assert (heat == 1).sum() == len(boxes)
    decoded, scores = decode(whole(heat, regression), 0.5)
    assert scores == pytest.approx(np.ones(len(boxes)))
    assert np.allclose(decoded[np.lexsort(decoded.T)], boxes[np.lexsort(boxes.T)], atol=1e-3)
    rows, columns = np.nonzero(middle[0].numpy())
    width, height, dx, dy = regression[0].numpy()[:, rows, columns]
    centre = np.stack([columns + dx, rows + dy], axis=1)
    half = np.exp(np.stack([width, height], axis=1)) / 2
    there = np.concatenate([centre - half, centre + half], axis=1)
    assert np.abs(there[:, None] - boxes[None]).max(axis=2).min(axis=1).max() < 1e-3


# Loss


def scalar_focal(logit, y):
    """Eq. 1 of one cell, before the division by N."""
    p = 1 / (1 + math.exp(-logit))
    return -((1 - p) ** 2) * math.log(p) if y == 1 else -((1 - y) ** 4) * p**2 * math.log(1 - p)


def test_focal_loss_is_equation_1():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (2, 6, 6))
    heat = rng.uniform(0, 1, (2, 6, 6)) ** 2
    heat[0, 2, 3] = heat[1, 0, 0] = 1
    by_hand = np.vectorize(scalar_focal)(logits, heat)
    assert np.allclose(focal(torch.from_numpy(logits), torch.from_numpy(heat)), by_hand, atol=1e-12)


def test_focal_loss_of_extreme_logits_is_finite():
    logits = torch.tensor([[[-200.0, 200.0], [-200.0, 200.0]]], requires_grad=True)
    heat = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    loss = focal(logits, heat)
    assert loss.detach().flatten().tolist() == pytest.approx([200, 0, 0, 200])
    loss.sum().backward()
    assert logits.grad.isfinite().all()


def test_the_centre_is_divided_by_the_number_of_people():
    """Eq. 1's N, over the batch."""
    table = torch.cat([batch((2.0, 2.0, 10.0, 10.0), (16.0, 16.0, 26.0, 30.0)), batch((8.0, 8.0, 20.0, 20.0))])
    predicted = torch.randn(2, 5, 32, 32, generator=torch.Generator().manual_seed(0))
    nowhere = torch.full_like(table, torch.nan)
    expected = focal(predicted[:, 0], maps(table, 32)[0]).sum() / 3
    assert losses(predicted, table, nowhere)["centre"] == pytest.approx(float(expected))


def test_exact_regression_costs_nothing_and_an_error_its_weight():
    table = batch((3.2, 4.4, 20.1, 27.9))
    heat, regression, _ = maps(table, 32)
    predicted = torch.cat([heat[:, None], regression], dim=1)
    assert losses(predicted, table, batch())["size"] == losses(predicted, table, batch())["offset"] == 0
    predicted[:, 2] += 0.3  # ln height
    predicted[:, 3] -= 2.0  # dx
    parts = losses(predicted, table, batch())
    assert parts["size"] == pytest.approx(0.5 * 0.3, rel=1e-5)
    assert parts["offset"] == pytest.approx(0.5 * 2.0, rel=1e-5)


def test_regression_is_learnt_in_the_middle_only():
    table = batch((3.0, 4.0, 25.0, 27.0))
    predicted = torch.randn(1, 5, 32, 32, generator=torch.Generator().manual_seed(1)).requires_grad_()
    parts = losses(predicted, table, batch())
    (parts["size"] + parts["offset"]).backward()
    _, _, middle = maps(table, 32)
    assert torch.equal(predicted.grad[:, 1:].abs().sum(dim=1) > 0, middle)
    assert not predicted.grad[:, 0].any()


def test_unsure_places_do_not_count_but_people_in_them_do():
    person, unsure = (6.0, 6.0, 16.0, 22.0), (4.0, 2.0, 24.5, 26.0)
    predicted = torch.randn(1, 5, 32, 32, generator=torch.Generator().manual_seed(2)).requires_grad_()
    losses(predicted, batch(person), batch(unsure))["centre"].backward()
    counts = predicted.grad[0, 0] != 0
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[2:27, 4:25] = True
    middle = maps(batch(person), 32)[2][0]
    assert middle.sum() > 1
    assert torch.equal(counts, ~inside | middle)


def test_unsure_places_by_hand():
    heat = torch.zeros(1, 8, 8)
    assert known(batch(), heat).all()
    beyond = batch((-20.0, -20.0, -5.0, -5.0), (9.0, 0.0, 30.0, 30.0))
    assert known(beyond, heat).all()
    two = known(batch((1.0, 1.0, 2.4, 3.0), (6.5, 6.5, 20.0, 20.0)), heat)
    assert (two == 0).sum() == 2 * 3 + 1
    assert two[0, 7, 7] == 0
    heat[0, 2, 1] = 1
    assert known(batch((1.0, 1.0, 2.4, 3.0)), heat)[0, 2, 1] == 1


def test_with_nobody_in_the_picture_losses_and_gradients_are_finite():
    predicted = torch.randn(2, 5, 16, 16, generator=torch.Generator().manual_seed(3)).requires_grad_()
    nobody = torch.full((2, MOST, 4), torch.nan)
    parts = losses(predicted, nobody, nobody)
    assert parts["size"] == parts["offset"] == 0
    assert parts["centre"] > 0
    torch.stack(list(parts.values())).sum().backward()
    assert predicted.grad.isfinite().all()
    assert predicted.grad[:, 0].all()  # every cell learns that it is background


def test_losses_of_half_precision_are_taken_in_full():
    table = batch((3.0, 4.0, 25.0, 27.0))
    predicted = torch.randn(1, 5, 32, 32, generator=torch.Generator().manual_seed(4)).bfloat16()
    assert all(part.dtype == torch.float32 for part in losses(predicted, table, batch()).values())


# Samples

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
    assert made["people"].shape == made["unsure"].shape == (MOST, 4)
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
    made = sample(grounds(tmp_path, size=200, people=boxes), size=200, mosaic=0.0, scale=[1.0, 1.0])
    assert len(boxes) == 80
    assert len(rows(made["people"])) == MOST == 64
    assert len(rows(made["unsure"])) == 16


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


# Scenes


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


def test_guesses_about_another_image_do_not_matter(drawn_scenes):
    seen = guessed(drawn_scenes, [body(BESIDE, 0.9)], [posed(BESIDE, 0.9)], image="777.png")
    assert len(seen.people) == 1
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


def test_a_split_without_anybody_is_refused(drawn_scenes):
    spec, root = drawn_scenes
    hide_joints(root, 0)
    path = root / "figures" / "annotations.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "annotations": content["annotations"][:1]}))
    with pytest.raises(EdgeposeError, match="has no labelled person in split 'all'"):
        read(SceneSet(data=spec, split="all"), root)


# Recipes and runs


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """(spec, root) of eight drawn figures."""
    root = tmp_path_factory.mktemp("drawn")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEPOSE_CACHE", str(root / "cache"))
        yield make_coco(root, 8)


def values(spec="synth:2", **changes):
    return {
        "role": "person",
        "name": "tiny",
        "precision": "float32",
        "input_size": [64, 64],
        "validate_every": 1000,
        "data": [{"data": spec, "split": "all"}],
        "model": {"width": 16, "depth": 2, "stacks": 1, "stem": "compact", "block": "narrow"},
        "stages": [{"images": 24, "size": 32, "batch": 4}, {"images": 24, "size": 64, "batch": 4}],
        "optimiser": {"rate": 1e-2, "warm_up": 4, "ema": 0.9},
        **changes,
    }


def recipe(spec="synth:2", **changes):
    return FinderRecipe.model_validate(values(spec, **changes))


def toml(spec):
    """The recipe of a run of four steps."""
    return f"""role = "person"
name = "tiny"
precision = "float32"
input_size = [64, 32]
[[data]]
data = "{spec}"
split = "all"
[[validation]]
data = "{spec}"
split = "all"
[model]
width = 16
depth = 1
stacks = 1
stem = "compact"
block = "narrow"
[[stages]]
images = 16
size = 32
batch = 4
"""


def weights(path):
    return checkpoints.read(path)["state_dict"]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


TINY = {"width": 16, "depth": 2, "stacks": 1}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": {"width": 16, "depth": 2, "stacks": 2}}, r"one plain hourglass: kind stacked-hourglass, stacks 1"),
        ({"model": {**TINY, "kind": "cascade"}}, r"one plain hourglass"),
        ({"model": {**TINY, "attention": {}}}, r"one plain hourglass"),
        ({"model": {**TINY, "preprocessing": "z-score"}}, r"model.preprocessing of a finder must be imagenet"),
        ({"input_size": [72, 64]}, r"size 72 must be a multiple of 16 \(stride 4, 2 poolings\)"),
        ({"input_size": [64, 40]}, r"size 40 must be a multiple of 16"),
        ({"stages": [{"images": 8, "size": 72, "batch": 4}]}, r"size 72 must be a multiple of 16"),
        ({"model": {**TINY, "block": "hru"}, "stages": [{"images": 8, "size": 48, "batch": 4}]},
         r"size 48 must be a multiple of 32 \(stride 4, 3 poolings\)"),
        ({"stages": [{"images": 3, "size": 64, "batch": 4}]}, r"stages.0.images 3 is less than one batch of 4"),
        ({"optimiser": {"accumulate": 2}}, "optimiser.accumulate must be 1 for a finder"),
        ({"padding": 1.2}, r"unknown key 'padding'"),
        ({"augmentation": {"mosiac": 0.5}}, r"unknown key 'augmentation.mosiac'; did you mean 'mosaic'\?"),
        ({"augmentation": {"scale": [0, 1]}}, r"augmentation.scale.*two factors above nought, the smaller first"),
        ({"augmentation": {"scale": [1.5, 0.5]}}, r"augmentation.scale.*the smaller first"),
        ({"augmentation": {"mosaic": 1.5}}, r"augmentation.mosaic"),
        ({"data": []}, r"key 'data'"),
        ({"data": [{"data": "synth:2", "split": "test"}]}, r"data.0.split"),
        ({"role": "pose"}, r"key 'role'"),
    ],
)  # fmt: skip
def test_wrong_recipes_are_refused_with_a_sentence(changes, sentence):
    with pytest.raises(EdgeposeError, match=sentence) as caught:
        validate(FinderRecipe, values(**changes), "tiny.toml")
    assert str(caught.value).startswith("tiny.toml: ")
    assert "\n" not in str(caught.value)


def test_recipes_are_read_from_their_file(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(toml("synth:2"))
    assert load(path).input_size == (64, 32)
    path.write_text(toml("synth:2").replace("stacks = 1", "stacks = 2"))
    with pytest.raises(EdgeposeError, match=r"tiny\.toml: .*stacks 1"):
        load(path)


def test_the_shipped_recipe_makes_a_network():
    shipped = load(RECIPES / "finder.toml")
    model = finders.network(shipped).eval()
    width, height = shipped.input_size
    with torch.inference_mode():
        (out,) = model(torch.zeros(1, 3, height, width))
    assert out.shape == (1, 5, height // 4, width // 4)


@pytest.mark.parametrize("block", ["residual", "hru", "prm-b", "narrow", "depthwise", "reparam"])
def test_every_block_makes_a_finder(block):
    model = finders.network(recipe(model={**TINY, "block": block}, stages=[{"images": 4, "size": 64, "batch": 4}]))
    out = model.train()(torch.zeros(2, 3, 64, 96))[-1]
    assert out.shape == (2, 5, 16, 24)


def test_the_recipes_norm_and_initialisation_are_obeyed():
    kinds = {type(m).__name__ for m in finders.network(recipe(model={**TINY, "norm": "l2"})).modules()}
    assert "ChannelL2" in kinds
    assert "BatchNorm2d" not in kinds
    drawn = []
    for kind in ("he", "xavier"):
        torch.manual_seed(0)
        drawn.append(finders.network(recipe(model={**TINY, "initialisation": kind})))
    assert not same(drawn[0].stem.state_dict(), drawn[1].stem.state_dict())
    bias = [m.bias for m in drawn[1].heads[0].modules() if isinstance(m, torch.nn.Conv2d)][-1]
    assert bias.detach().tolist() == pytest.approx([-2.19, 2.0, 2.5, 0.0, 0.0])


def test_figures_are_learnt_and_found(drawn, tmp_path):
    spec, root = drawn
    made = recipe(
        spec,
        validation=[{"data": spec, "split": "all"}],
        validate_every=40,
        stages=[{"images": 640, "size": 64, "batch": 8}],
        optimiser={"rate": 1e-2, "warm_up": 10, "ema": 0.9},
        augmentation={"scale": [0.8, 1.2], "mosaic": 0.3, "colour": 0.1, "blur": 0.0},
    )
    last = fit(made, tmp_path, root=root, workers=0, threads=1)
    for name in ("curve.png", "sheet.png", "recipe.json", "log/from-0000000/metrics.csv"):
        assert (tmp_path / name).stat().st_size > 0, name
    with (tmp_path / "validation.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [r["step"] for r in table] == ["40", "80"]
    assert json.loads((tmp_path / "validation.json").read_text())["step"] == 80
    kept, model = load_best(last)
    assert kept == made
    scenes = read(made.data[0], root)
    found = look(of_network(kept, model), scenes)
    result = quality(scenes, found, 0.3)
    assert result.average_precision > 90
    assert result.average_precision == float(table[-1]["average_precision"])
    assert not model.training
    with (tmp_path / "log" / "from-0000000" / "metrics.csv").open() as file:
        logged = [r for r in csv.DictReader(file) if r.get("loss")]
    for part in ("loss_centre", "loss_size"):
        assert float(logged[-1][part]) < 0.5 * float(logged[0][part]), part


@pytest.mark.parametrize(
    "changes", [{}, {"model": {**TINY, "depth": 1, "dropout": 0.3}}], ids=["plain", "random network"]
)
def test_resuming_gives_the_same_weights(drawn, tmp_path, changes):
    """Stopped in the first stage, in the second, and not at all: bit for bit the same network."""
    spec, root = drawn
    made = recipe(spec, **changes)
    whole = fit(made, tmp_path / "whole", root=root, workers=0, threads=1)
    parts = tmp_path / "parts"
    fit(made, parts, root=root, workers=0, threads=1, max_steps=4)
    fit(made, parts, root=root, workers=0, threads=1, resume=True, max_steps=8)
    last = fit(made, parts, root=root, workers=0, threads=1, resume=True)
    assert checkpoints.read(last)["global_step"] == 12
    assert same(weights(whole), weights(last))
    assert not same(weights(parts / checkpoints.PREVIOUS), weights(last))


@pytest.fixture(scope="module")
def runs(drawn, tmp_path_factory):
    """Last checkpoints of a finder and of a pose network after one step."""
    spec, root = drawn
    folder = tmp_path_factory.mktemp("runs")
    common = {"data": [{"data": spec, "split": "all"}], "stages": [{"images": 4, "size": 64, "batch": 4}]}
    finder = fit(recipe(**common), folder / "finder", root=root, workers=0, threads=1)
    network = {"width": 16, "depth": 2, "stacks": 1}
    pose = Recipe.model_validate({"name": "pose", "precision": "float32", "model": network, **common})
    return finder, poses.fit(pose, folder / "pose", root=root, workers=0, threads=1)


def test_checkpoints_of_the_other_kind_are_refused(runs):
    finder, pose = runs
    with pytest.raises(EdgeposeError, match=r"is a checkpoint of a pose network, not of a person finder"):
        load_best(pose)
    with pytest.raises(EdgeposeError, match=r"is a checkpoint of a person finder, not of a pose network"):
        poses.load_best(finder)


def test_a_checkpoint_with_other_weights_is_refused(runs, tmp_path):
    content = checkpoints.read(runs[0])
    content["recipe"]["model"]["width"] = 32
    torch.save(content, tmp_path / "odd.ckpt")
    with pytest.raises(EdgeposeError, match=r"odd\.ckpt does not fit its own recipe"):
        load_best(tmp_path / "odd.ckpt")


def test_a_run_is_not_overwritten_nor_mixed(drawn, runs):
    spec, root = drawn
    for path in runs:
        with pytest.raises(EdgeposeError, match="already holds a run; add --resume"):
            fit(recipe(spec), path.parent, root=root, workers=0, threads=1)
        with pytest.raises(EdgeposeError):  # another recipe's, or not a finder's at all
            fit(recipe(spec, seed=2), path.parent, root=root, workers=0, threads=1, resume=True)


def test_a_run_can_begin_with_anothers_weights(drawn, runs, tmp_path):
    spec, root = drawn
    still = {
        "stages": [{"images": 4, "size": 64, "batch": 4}],
        "optimiser": {"kind": "adamw", "rate": 1e-9, "weight_decay": 0, "warm_up": 1},
    }
    second = fit(recipe(spec, start_from=str(runs[0]), **still), tmp_path / "2", root=root, workers=0, threads=1)
    before, after = load_best(runs[0])[1].state_dict(), load_best(second)[1].state_dict()
    assert all(torch.allclose(before[k], after[k], atol=1e-6) for k in before if "running" not in k and "num" not in k)
    wider = {**TINY, "width": 32}
    with pytest.raises(EdgeposeError, match=r"start_from: the network in .* is not the recipe's"):
        fit(recipe(spec, start_from=str(runs[0]), model=wider), tmp_path / "3", root=root, workers=0, threads=1)
    with pytest.raises(EdgeposeError, match=r"is a checkpoint of a pose network"):
        fit(recipe(spec, start_from=str(runs[1])), tmp_path / "4", root=root, workers=0, threads=1)


def test_the_command_trains_a_finder(drawn, tmp_path):
    """In a process of its own, with another that makes the samples."""
    spec, root = drawn
    path, out = tmp_path / "tiny.toml", tmp_path / "run"
    path.write_text(toml(spec))
    command = [sys.executable, "-m", "trainer.cli", "fit", str(path), "--out", str(out), "--data-root", str(root),
               "--workers", "1", "--threads", "1"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert f"trained: {out / 'last.ckpt'}" in done.stdout
    assert load_best(out / "last.ckpt")[0] == load(path)
    assert checkpoints.read(out / "last.ckpt")["global_step"] == 4
    for name in ("curve.png", "sheet.png", "validation.csv"):
        assert (out / name).stat().st_size > 0, name


@pytest.mark.parametrize(
    ("wrong", "more", "sentence"),
    [
        ("stacks = 1", ["--devices", "2"], r"a person finder is trained on one device; leave --devices out"),
        ("stacks = 2", [], r"tiny\.toml: .*stacks 1"),
        ("stakcs = 1", [], r"tiny\.toml: unknown key 'model\.stakcs'; did you mean 'stacks'\?"),
    ],
)
def test_the_command_refuses_in_one_sentence(drawn, tmp_path, wrong, more, sentence):
    spec, root = drawn
    path, out = tmp_path / "tiny.toml", tmp_path / "run"
    path.write_text(toml(spec).replace("stacks = 1", wrong))
    told = CliRunner().invoke(app, ["fit", str(path), "--out", str(out), "--data-root", str(root), *more])
    assert isinstance(told.exception, EdgeposeError)
    assert re.search(sentence, str(told.exception))
    assert not out.exists()
