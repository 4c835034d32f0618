"""Augmentation: one composed affine per sample, and colour noise.

Scale 0.7-1.3 and rotation +-40 degrees as in Bulat & Tzimiropoulos 2016 (section 4), flip with
joint swap and colour noise as in the code of Newell et al. 2016 and in Yang et al. 2017.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, Field

from edgepose.crops import BORDER, box_of_joints, crop_affine
from edgepose.validation import STRICT
from trainer.data.persons import Person

Share = Annotated[float, Field(ge=0, le=1)]


def _rising(scale: tuple[float, float]) -> tuple[float, float]:
    if not 0 < scale[0] <= scale[1]:
        raise ValueError("must be two factors above nought, the smaller first")
    return scale


Scale = Annotated[tuple[float, float], AfterValidator(_rising)]


class Augmentation(BaseModel):
    """How far samples are varied; draws are uniform, of the scale's logarithm."""

    model_config = STRICT

    scale: Scale = (0.7, 1.3)
    rotation: Annotated[float, Field(ge=0, le=180)] = 40.0  # degrees, +-
    upside_down: Share = 0.0  # share of samples turned by any angle at all
    shift: Annotated[float, Field(ge=0, le=0.3)] = 0.05  # fraction of the input, +-
    flip: Share = 0.5
    colour: Annotated[float, Field(ge=0, le=1)] = 0.3  # gain, contrast and brightness, +-
    blur: Share = 0.1  # share of samples that lose detail, as a small or badly focused person does
    hue: Share = 0.0  # share of samples in other colours: hair, clothes and light of another hue, pale or strong
    motion: Share = 0.0  # share of samples smeared along a random direction, as in a long exposure
    dark: Share = 0.0  # share of samples in low light: less of it, and the sensor's noise in what is left
    grey: Share = 0.0  # share of samples without colour, as by infrared light at night
    jpeg: Share = 0.0  # share of samples that were compressed hard
    cut_out: Share = 0.0  # share of samples with one to three patches hidden; the joints under them stay asked for
    half_body: Share = 0.0  # share of samples framed on the upper or the lower body alone, as a camera too near does
    truncated: Share = 0.0  # share of samples where the picture ends across the person; joints beyond leave maps empty


def draw_affine(
    augmentation: Augmentation,
    rng: np.random.Generator,
    box: NDArray[np.float64],
    size: tuple[int, int],
    padding: float,
) -> tuple[NDArray[np.float64], bool]:
    """A random crop map [2, 3] from image pixels to the input, and whether it mirrors."""
    low, high = augmentation.scale
    scale = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    limit = 180.0 if rng.random() < augmentation.upside_down else augmentation.rotation
    rotation = float(rng.uniform(-limit, limit))
    shift = tuple(rng.uniform(-augmentation.shift, augmentation.shift, 2))
    flip = bool(rng.random() < augmentation.flip)
    affine = crop_affine(
        box, size, padding, scale=scale, rotation=rotation, shift=(float(shift[0]), float(shift[1])), flip=flip
    )
    return affine, flip


def framing(
    augmentation: Augmentation, rng: np.random.Generator, person: Person, lower: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """The person's box [4], or the tight box of the labelled joints of one half; ``lower`` [K]: which are the legs'."""
    if person.nobody or not augmentation.half_body or rng.random() >= augmentation.half_body:
        return person.box
    half = person.labelled & (lower if rng.random() < 0.5 else ~lower)
    if half.sum() < 4:
        return person.box
    tight = box_of_joints(person.joints, half)
    # A half seen end on is a few pixels wide: all that it would show is noise.
    large_enough = np.ptp(tight.reshape(2, 2), axis=0).max() >= 0.3 * np.ptp(person.box.reshape(2, 2), axis=0).max()
    return tight if large_enough else person.box


def colour_noise(augmentation: Augmentation, rng: np.random.Generator, crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Per-channel gain, contrast and brightness as one look-up table; sometimes a loss of detail."""
    import cv2

    strength = augmentation.colour
    if strength > 0:
        gain = 1 + rng.uniform(-strength, strength, 3) * 0.5
        contrast = 1 + rng.uniform(-strength, strength)
        brightness = 127.5 * rng.uniform(-strength, strength)
        levels = np.arange(256.0)[:, None]
        table = ((levels - 127.5) * contrast + 127.5 + brightness) * gain
        crop = cv2.LUT(crop, np.clip(table, 0, 255).astype(np.uint8).reshape(256, 1, 3)).astype(np.uint8, copy=False)
    if rng.random() < augmentation.blur:
        height, width = crop.shape[:2]
        factor = rng.uniform(1.2, 3.0)
        small = cv2.resize(crop, (int(width / factor), int(height / factor)), interpolation=cv2.INTER_AREA)
        crop = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)
    return crop


def degrade(augmentation: Augmentation, rng: np.random.Generator, crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What the world and real cameras do to a BGR crop [H, W, 3], in their order.

    Hidden, in other colours, smeared, dark and noisy, without colour, compressed.
    A share of nought draws no random number: recipes without these see the samples that they always saw.
    """
    # cut_out: DeVries & Taylor 2017, with rectangles.
    steps = {
        "cut_out": _hide,
        "hue": _recolour,
        "motion": _smear,
        "dark": _darken,
        "grey": _without_colour,
        "jpeg": _compress,
    }
    for name, step in steps.items():
        share = getattr(augmentation, name)
        if share and rng.random() < share:
            crop = step(rng, crop)
    return crop


def truncate(
    augmentation: Augmentation,
    rng: np.random.Generator,
    crop: NDArray[np.uint8],
    joints: NDArray[np.float64],
    labelled: NDArray[np.bool_],
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A share of crops [H, W, 3] end across the person; also says which of ``joints`` [K, 2] lie beyond, [K].

    At inference what lies outside a camera's picture is BORDER, and its joints are not to be guessed with confidence.
    A share of nought draws no random number, as in ``degrade``.
    """
    nowhere = np.zeros(len(joints), bool)
    if not augmentation.truncated or labelled.sum() < 2 or rng.random() >= augmentation.truncated:
        return crop, nowhere
    axis, far = int(rng.integers(2)), bool(rng.integers(2))
    places = joints[labelled, axis]
    share = rng.uniform(0.03, 0.4)
    edge = places.max() - share * np.ptp(places) if far else places.min() + share * np.ptp(places)
    edge = int(np.clip(round(edge), 0, crop.shape[1 - axis]))
    ended: NDArray[np.uint8] = crop.copy()
    beyond = slice(edge, None) if far else slice(0, edge)
    ended[(slice(None), beyond) if axis == 0 else (beyond, slice(None))] = BORDER
    end = edge - 0.5  # between two pixels' centres
    return ended, joints[:, axis] >= end if far else joints[:, axis] < end


def _hide(rng: np.random.Generator, crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = crop.shape[:2]
    hidden: NDArray[np.uint8] = crop.copy()
    for _ in range(rng.integers(1, 4)):
        h, w = (int(side * rng.uniform(0.1, 0.35)) for side in (height, width))
        y, x = int(rng.integers(0, height - h)), int(rng.integers(0, width - w))
        # One colour, or another place of the same picture: a network must not learn that hidden means grey.
        if rng.random() < 0.5:
            hidden[y : y + h, x : x + w] = rng.integers(0, 256, 3)
        else:
            v, u = int(rng.integers(0, height - h)), int(rng.integers(0, width - w))
            hidden[y : y + h, x : x + w] = crop[v : v + h, u : u + w]
    return hidden


def _recolour(rng: np.random.Generator, crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    import cv2

    # Colours turn about the axis of the greys, by Rodrigues' formula; how bright a pixel is stays, grey stays grey.
    turn, _ = cv2.Rodrigues(np.full(3, rng.uniform(-np.pi / 2, np.pi / 2) / np.sqrt(3)))
    saturation = rng.uniform(0.3, 1.5)
    return np.asarray(cv2.transform(crop, saturation * turn + (1 - saturation) / 3), np.uint8)


def _without_colour(rng: np.random.Generator, crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    import cv2

    # What is bright by infrared light, hair and dyed cloth often, need not be so to the eye: any mixture of channels.
    return np.asarray(cv2.transform(crop, np.tile(rng.dirichlet(np.ones(3)), (3, 1))), np.uint8)


def _smear(rng: np.random.Generator, crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    import cv2

    length = int(max(3, rng.uniform(0.02, 0.08) * crop.shape[1])) | 1  # odd: an even one has no middle, and shifts
    kernel = np.zeros((length, length), np.float32)
    kernel[length // 2] = 1
    turn = cv2.getRotationMatrix2D(((length - 1) / 2, (length - 1) / 2), float(rng.uniform(0, 180)), 1)
    line = cv2.warpAffine(kernel, turn, (length, length))
    return np.asarray(cv2.filter2D(crop, -1, line / line.sum()), np.uint8)


def _darken(rng: np.random.Generator, crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    light = crop * np.float32(rng.uniform(0.15, 0.7))
    # Shot noise grows with the root of the light, read noise does not; the exposure is then partly made up for.
    noise = rng.standard_normal(crop.shape, np.float32) * np.sqrt(np.float32(rng.uniform(0.5, 4)) + 0.3 * light)
    exposed: NDArray[np.uint8] = np.clip((light + noise) * rng.uniform(1, 2.5), 0, 255).astype(np.uint8)
    return exposed


def _compress(rng: np.random.Generator, crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    import cv2

    _, encoded = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(8, 50))])
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
