import itertools

import numpy as np
import pytest

from edgepose.crops import apply, crop_affine
from edgepose.skeletons import MPII16
from trainer.augment import Augmentation, colour_noise, draw_affine
from trainer.data import load
from trainer.data.cache import open_cache
from trainer.data.samples import NOWHERE, Plan, Samples, Stage

STAGES = [Stage(5, 4, 64), Stage(3, 2, 128)]


def test_a_plan_started_later_is_the_same_plan():
    shares = np.array([1.0, 2.0, 0.5, 1.0, 1.0])
    whole = list(Plan(shares, STAGES, seed=3))
    assert len(whole) == 8 == len(Plan(shares, STAGES, seed=3, start=6))
    assert [len(b) for b in whole] == [4] * 5 + [2] * 3
    assert [b[0].size for b in whole] == [64] * 5 + [128] * 3
    for start in range(8):
        assert list(Plan(shares, STAGES, seed=3, start=start)) == whole[start:]
    assert list(Plan(shares, STAGES, seed=4)) != whole


def test_shares_are_kept():
    shares = np.array([1.0, 3.0, 0.25])
    draws = itertools.chain.from_iterable(Plan(shares, [Stage(1000, 17, 64)], seed=0))
    counts = np.bincount([d.index for d in draws])
    assert np.allclose(counts / counts[0], [1, 3, 0.25], atol=0.05)


@pytest.fixture
def samples(coco, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "cache"))
    persons = load(coco[0], coco[1])
    return lambda a: Samples(persons.persons, [(0, open_cache(persons, 96, 1.25))], MPII16, 1.25, a)


def test_a_sample_is_a_function_of_its_draw(samples):
    draw = next(iter(Plan(np.ones(8), [Stage(1, 1, 96)], seed=1)))[0]
    one, two = samples(Augmentation())[draw], samples(Augmentation())[draw]
    assert all(np.array_equal(one[k], two[k]) for k in one)


APART = (0, 1, 4, 5, 9, 10, 11, 14, 15)  # joints whose dots overlap no other dot


def test_joints_lie_on_their_own_colour_after_every_augmentation(samples):
    """Each joint is drawn in a hue of its own; flip, rotation and scale must take label and pixel along together."""
    import cv2

    augmentation = Augmentation(colour=0, blur=0, rotation=40, shift=0.05)
    dataset = samples(augmentation)
    hues = np.linspace(0, 170, 16).astype(int)
    seen, flips = 0, set()
    for batch in Plan(np.ones(8), [Stage(12, 4, 96)], seed=2):
        for draw in batch:
            sample = dataset[draw]
            image = cv2.cvtColor(sample["image"].transpose(1, 2, 0), cv2.COLOR_RGB2HSV)
            rng = np.random.default_rng(draw.seed)
            _, mirrored = draw_affine(augmentation, rng, np.array([0.0, 0, 9, 9]), (96, 96), 1.25)
            flips.add(mirrored)
            assert sample["joints"][2, 0] < sample["joints"][3, 0]  # still a right hip on the image's left
            for k, (x, y) in enumerate(sample["joints"]):
                if k not in APART or not (3 < x < 92 and 3 < y < 92):
                    continue
                # in a mirrored image the pixel of a left joint is the one drawn for the right
                drawn = MPII16.mirror[k] if mirrored else k
                hue, saturation, _ = image[round(float(y)), round(float(x))]
                if saturation > 150:
                    seen += 1
                    assert abs(int(hue) - hues[drawn]) <= 8, (k, hue, hues[drawn])
    assert seen > 200
    assert flips == {True, False}


def test_joints_beyond_the_pictures_end_are_asked_for_nowhere(samples):
    """Labelled still: their maps are to be empty. The others stay where they are."""
    dataset, whole = samples(Augmentation(truncated=1)), samples(Augmentation())
    for batch in Plan(np.ones(8), [Stage(4, 4, 96)], seed=5):
        for draw in batch:
            sample, plain = dataset[draw], whole[draw]
            gone = sample["joints"][:, 0] == NOWHERE
            assert gone.any()
            assert not gone.all()
            assert np.array_equal(sample["joints"][~gone], plain["joints"][~gone])
            assert np.array_equal(sample["labelled"], plain["labelled"])
            inside = gone & (plain["joints"] > 0).all(axis=1) & (plain["joints"] < 95).all(axis=1)
            columns, rows = np.round(plain["joints"][inside]).astype(int).T
            assert (sample["image"][:, rows, columns] == 114).all()


def test_drawn_affines_stay_in_their_ranges():
    augmentation = Augmentation(scale=(0.7, 1.3), rotation=40, shift=0, flip=0.5)
    box = np.array([10.0, 20, 110, 220])
    plain = crop_affine(box, (64, 64), 1.25)[0, 0]
    rng = np.random.default_rng(0)
    scales, angles, flips = [], [], []
    for _ in range(2000):
        affine, flip = draw_affine(augmentation, rng, box, (64, 64), 1.25)
        linear = affine[:, :2] * ([[-1], [1]] if flip else 1)
        scales.append(np.sqrt(np.linalg.det(linear)) / plain)
        angles.append(np.degrees(np.arctan2(linear[1, 0], linear[0, 0])))
        flips.append(flip)
        assert np.allclose(apply(affine, np.array([60.0, 120])), 31.5)
    assert 0.7 <= min(scales) < 0.75
    assert 1.25 < max(scales) <= 1.3
    assert -40 <= min(angles) < -35
    assert 35 < max(angles) <= 40
    assert 0.45 < np.mean(flips) < 0.55


def test_upside_down_share_turns_all_the_way():
    rng = np.random.default_rng(0)
    box = np.array([0.0, 0, 10, 10])
    draws = [draw_affine(Augmentation(upside_down=1, flip=0), rng, box, (64, 64), 1)[0] for _ in range(300)]
    assert np.mean([a[1, 1] < 0 for a in draws]) > 0.4


def test_colour_noise_changes_colours_not_shape():
    crop = np.random.default_rng(0).integers(0, 255, (32, 48, 3), dtype=np.uint8)
    rng = np.random.default_rng(1)
    noisy = colour_noise(Augmentation(blur=0), rng, crop)
    assert noisy.shape == crop.shape
    assert noisy.dtype == np.uint8
    assert np.abs(noisy.astype(int) - crop).mean() > 2
    assert np.corrcoef(noisy[..., 1].ravel(), crop[..., 1].ravel())[0, 1] > 0.9
    assert np.array_equal(colour_noise(Augmentation(colour=0, blur=0), rng, crop), crop)
    blurred = colour_noise(Augmentation(colour=0, blur=1), rng, crop)
    assert blurred.shape == crop.shape
    assert blurred.std() < 0.8 * crop.std()
    assert abs(float(blurred.mean()) - float(crop.mean())) < 2
