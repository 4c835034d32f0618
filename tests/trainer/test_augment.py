"""What real cameras do to pictures, and framings on half a body."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgepose.crops import BORDER, apply
from edgepose.skeletons import MPII16
from trainer.augment import Augmentation, colour_noise, degrade, draw_affine, framing, truncate
from trainer.data.persons import Person, make_person


def photograph() -> NDArray[np.uint8]:
    """Smooth and textured, mid-grey in the mean: [96, 96, 3]."""
    y, x = np.mgrid[:96, :96]
    waves = 120 + 60 * np.sin(x / 7) * np.cos(y / 9)
    return np.repeat(waves[..., None], 3, axis=2).astype(np.uint8)


def coloured() -> NDArray[np.uint8]:
    """The same, warm on one side and cool on the other, so that no hue clips it: [96, 96, 3] BGR."""
    tint = np.linspace(-25, 25, 96)
    return np.clip(photograph() * 0.5 + 60 + np.stack([tint, 0 * tint, -tint], axis=-1), 0, 255).astype(np.uint8)


def standing() -> Person:
    """Ankles at y = 100, hips at 60, head top at 0."""
    height = {"ankle": 100, "knee": 80, "hip": 60, "pelvis": 60, "thorax": 25, "neck": 20, "top": 0,
              "wrist": 60, "elbow": 40, "shoulder": 22}  # fmt: skip
    joints = [
        (50 + 10 * (j.startswith("left_") - j.startswith("right_")), height[j.split("_")[-1]]) for j in MPII16.joints
    ]
    return make_person(Path("drawn.png"), np.array(joints, float), np.ones(16, bool), "alone")


def changed(name: str, seed: int = 0, share: float = 1.0) -> NDArray[np.uint8]:
    return degrade(Augmentation.model_validate({name: share}), np.random.default_rng(seed), photograph())


@pytest.mark.parametrize("name", ["cut_out", "hue", "motion", "dark", "grey", "jpeg"])
def test_a_degradation_changes_the_picture_the_same_way_for_the_same_seed(name: str) -> None:
    first, again, other = (
        degrade(Augmentation.model_validate({name: 1}), np.random.default_rng(seed), coloured()) for seed in (0, 0, 1)
    )
    assert first.shape == (96, 96, 3)
    assert first.dtype == np.uint8
    assert not np.array_equal(first, coloured())
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_another_hue_is_as_bright_and_leaves_grey_as_it_is() -> None:
    assert np.array_equal(changed("hue"), photograph())
    before, cosines = coloured().astype(float), []
    for seed in range(20):
        after = degrade(Augmentation(hue=1), np.random.default_rng(seed), coloured()).astype(float)
        assert np.abs(after.mean(axis=2) - before.mean(axis=2)).max() < 1
        first, second = ((p - p.mean(axis=2, keepdims=True))[:, :10].mean(axis=(0, 1)) for p in (before, after))
        strengths = [float(np.linalg.norm(colour)) for colour in (first, second)]
        assert 0.2 < strengths[1] / strengths[0] < 1.6
        cosines.append(first @ second / (strengths[0] * strengths[1]))
    assert min(cosines) > -0.1  # turned by 90 degrees at most
    assert min(cosines) < 0.5 < max(cosines)  # some by more than 60, some by less


def test_without_colour_every_channel_is_one_mixture_of_them() -> None:
    for seed in range(20):
        night = degrade(Augmentation(grey=1), np.random.default_rng(seed), coloured())
        assert (night == night[..., :1]).all()
        assert (night >= coloured().min(axis=2, keepdims=True)).all()
        assert (night <= coloured().max(axis=2, keepdims=True)).all()


def test_without_degradations_no_random_number_is_drawn() -> None:
    """Otherwise runs begun before these existed would see other samples when they are resumed."""
    rng, untouched = np.random.default_rng(5), np.random.default_rng(5)
    assert np.array_equal(degrade(Augmentation(), rng, photograph()), photograph())
    framing(Augmentation(), rng, standing(), MPII16.lower)
    assert rng.random() == untouched.random()


def test_a_share_is_the_share_of_samples() -> None:
    hidden = [not np.array_equal(changed("cut_out", seed, 0.3), photograph()) for seed in range(400)]
    assert np.mean(hidden) == pytest.approx(0.3, abs=0.06)


def test_cut_out_leaves_most_of_the_picture_and_hides_whole_patches() -> None:
    shares = [np.mean((changed("cut_out", seed) != photograph()).any(axis=2)) for seed in range(100)]
    assert min(shares) > 0.005
    assert 0.02 < np.mean(shares) < 0.2
    assert max(shares) < 0.37


def test_motion_smears_along_one_direction() -> None:
    """A dot becomes a line: its light stays, and spreads along one axis far more than along the other."""
    dot = np.zeros((96, 96, 3), np.uint8)
    cv2.circle(dot, (48, 48), 2, (255, 255, 255), -1)
    ratios, directions = [], set[int]()
    for seed in range(30):
        line = degrade(Augmentation(motion=1), np.random.default_rng(seed), dot)[:, :, 0].astype(float)
        assert line.sum() == pytest.approx(float(dot[:, :, 0].sum()), rel=0.1)
        y, x = np.nonzero(line > 8)
        spread, axes = np.linalg.eigh(np.cov(np.stack([x, y]), aweights=line[y, x]))
        if spread[1] > 1.5 * spread[0]:
            directions.add(int(np.degrees(np.arctan2(axes[1, 1], axes[0, 1])) % 180) // 45)
        ratios.append(spread[1] / spread[0])
        middle = (line.sum(axis=0) @ np.arange(96), line.sum(axis=1) @ np.arange(96)) / line.sum()
        assert np.allclose(middle, 48, atol=0.2)  # joints stay where their labels are
    assert np.median(ratios) > 1.2
    assert directions == {0, 1, 2, 3}


def test_low_light_is_darker_and_noisier() -> None:
    grey = np.full((96, 96, 3), 128, np.uint8)
    dark = [degrade(Augmentation(dark=1), np.random.default_rng(seed), grey) for seed in range(40)]
    assert np.mean([d.mean() for d in dark]) < 118
    assert min(float(d.std()) for d in dark) > 0.5


def test_half_a_body_is_framed_by_its_own_joints() -> None:
    seen = {
        tuple(framing(Augmentation(half_body=1), np.random.default_rng(seed), standing(), MPII16.lower))
        for seed in range(20)
    }
    assert seen == {(40.0, 0.0, 60.0, 60.0), (40.0, 60.0, 60.0, 100.0)}


def test_a_half_with_few_labels_or_no_extent_keeps_the_whole_person() -> None:
    person = standing()
    legs_unknown = make_person(person.image, person.joints, ~MPII16.lower, "alone")
    folded = person.joints.copy()
    folded[MPII16.lower] = (50, 60)
    for other in (legs_unknown, make_person(person.image, folded, person.labelled, "alone")):
        boxes = [framing(Augmentation(half_body=1), np.random.default_rng(s), other, MPII16.lower) for s in range(20)]
        assert any(np.array_equal(box, other.box) for box in boxes)
        assert {box[3] - box[1] for box in boxes} <= {60.0, other.box[3] - other.box[1]}


def test_a_truncated_picture_ends_in_border_and_what_lies_beyond_is_nowhere() -> None:
    joints = np.array([[20.0, 10], [30, 50], [44, 90], [80, 30]])
    labelled = np.array([True, True, True, False])
    picture = np.full((96, 96, 3), 7, np.uint8)
    sides = set()
    for seed in range(40):
        crop, beyond = truncate(Augmentation(truncated=1), np.random.default_rng(seed), picture, joints, labelled)
        gone = (crop == BORDER).all(axis=2)
        assert gone.any()
        assert (crop[~gone] == 7).all()
        cells = np.round(joints).astype(int)
        assert (gone[cells[:, 1], cells[:, 0]] == beyond).all()
        assert 1 <= beyond[labelled].sum() <= 2  # somebody is left
        sides.add((bool(gone[0].all()), bool(gone[-1].all()), bool(gone[:, 0].all()), bool(gone[:, -1].all())))
    assert len(sides) == 4
    assert (picture == 7).all()
    crop, beyond = truncate(Augmentation(), np.random.default_rng(0), picture, joints, labelled)
    assert crop is picture
    assert not beyond.any()


def test_crops_are_shifted_and_colours_vary_as_far_as_the_recipe_says() -> None:
    rng, box = np.random.default_rng(0), np.array([10.0, 20, 110, 220])
    made = Augmentation(scale=(1, 1), rotation=0, shift=0.2, flip=0)
    middle = np.array([60.0, 120])
    off = np.array([apply(draw_affine(made, rng, box, (64, 64), 1.25)[0], middle) - 31.5 for _ in range(500)])
    assert np.abs(off).max() <= 0.2 * 64
    assert (np.abs(off).max(axis=0) > 12).all()
    assert np.abs(off.mean(axis=0)).max() < 1.5
    grey, colour = np.full((8, 8, 3), 127, np.uint8), Augmentation(colour=0.3, blur=0)
    seen = np.array([colour_noise(colour, rng, grey)[0, 0].astype(int) for _ in range(300)])
    assert np.ptp(seen, axis=1).mean() > 5  # each channel by itself
    assert np.abs(seen.mean(axis=1) - 127).max() > 25  # and all together
