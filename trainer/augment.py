"""Augmentation: one composed affine per sample, and colour noise.

Scale 0.7-1.3 and rotation +-40 degrees as in Bulat & Tzimiropoulos 2016 (section 4), flip with
joint swap and colour noise as in the code of Newell et al. 2016 and in Yang et al. 2017.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from edgepose.crops import crop_affine

Share = Annotated[float, Field(ge=0, le=1)]


def _rising(scale: tuple[float, float]) -> tuple[float, float]:
    if not 0 < scale[0] <= scale[1]:
        raise ValueError("must be two factors above nought, the smaller first")
    return scale


Scale = Annotated[tuple[float, float], AfterValidator(_rising)]


class Augmentation(BaseModel):
    """How far samples are varied; draws are uniform, of the scale's logarithm."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    scale: Scale = (0.7, 1.3)
    rotation: Annotated[float, Field(ge=0, le=180)] = 40.0  # degrees, +-
    upside_down: Share = 0.0  # share of samples turned by any angle at all
    shift: Annotated[float, Field(ge=0, le=0.3)] = 0.05  # fraction of the input, +-
    flip: Share = 0.5
    colour: Annotated[float, Field(ge=0, le=1)] = 0.3  # gain, contrast and brightness, +-
    blur: Share = 0.1  # share of samples that lose detail, as a small or badly focused person does


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
