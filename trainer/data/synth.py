"""Synthetic persons: posed, clothed figures before cluttered grounds, with exact labels. For tests and first tries.

A figure is a tree of bones with random lengths and plausible joint angles. Limbs are tapered and textured, the far
arm and leg are drawn behind the trunk and the near ones before it; then come things that hide parts of the body, a
light from one side, blur and noise. Joints that are hidden keep their labels.

Spec: ``synth:COUNT`` or ``synth:COUNT:SEED``. The pictures are drawn once, into the cache folder.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgepose.errors import EdgeposeError
from edgepose.files import cache_dir, make_folder, write_beside
from edgepose.skeletons import MPII16
from trainer.data.persons import PersonSet, make_person
from trainer.progress import progress

SIZE = 256  # pixels, square
VERSION = 1  # of the drawing; a change draws anew

Image = NDArray[np.uint8]
Point = NDArray[np.float64]
Floats = NDArray[np.floating]

# Bone lengths in units of the body's height, after anthropometric tables (Drillis & Contini 1966),
# but for the forearm, which is to the middle of the hand, and the widths of hips and shoulders.
_LENGTHS = {"thigh": 0.245, "shin": 0.246, "trunk": 0.29, "neck": 0.05, "head": 0.13, "upper_arm": 0.186,
            "forearm": 0.2, "hips": 0.1, "shoulders": 0.22}  # fmt: skip


_COUNT, _SEED = re.compile("0{0,9}[1-9][0-9]{0,6}"), re.compile("[0-9]{0,9}")  # at most ten million


def read(text: str) -> PersonSet:
    """The set that 'COUNT' or 'COUNT:SEED' names, drawn now if it is not in the cache."""
    count_text, _, seed_text = text.partition(":")
    if not _COUNT.fullmatch(count_text) or not _SEED.fullmatch(seed_text):
        raise EdgeposeError(f"data 'synth:{text}' is not a number of persons; write synth:COUNT or synth:COUNT:SEED")
    count, seed = int(count_text), int(seed_text or 0)
    folder = cache_dir() / f"synth-{VERSION}-{seed}-{count}"
    labels = folder / "joints.json"
    if not labels.exists():
        _draw_all(folder, labels, count, seed)
    table = np.array(json.loads(labels.read_text()))
    labelled = np.ones(len(MPII16), dtype=bool)
    persons = [make_person(folder / f"{i:06}.jpg", joints, labelled, group=str(i)) for i, joints in enumerate(table)]
    return PersonSet("synth", MPII16, persons)


def _draw_all(folder: Path, labels: Path, count: int, seed: int) -> None:
    make_folder(folder, "let EDGEPOSE_CACHE name another one")
    table = []
    for i in progress(range(count), count, "drawing persons"):
        image, joints = draw(np.random.default_rng((VERSION, seed, i)))
        if not cv2.imwrite(str(folder / f"{i:06}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 90]):
            raise EdgeposeError(f"cannot write into {folder}; make room, or let EDGEPOSE_CACHE name another")
        table.append(np.round(joints, 2).tolist())
    with write_beside(labels) as beside:  # last: a set with labels is whole
        beside.write_text(json.dumps(table))


def draw(rng: np.random.Generator) -> tuple[Image, Point]:
    """One picture [SIZE, SIZE, 3] BGR and its joints [16, 2] in mpii16 order, pixels."""
    joints = _place(rng, _pose(rng))
    image = _ground(rng)
    _figure(rng, image, joints)
    _hide(rng, image)
    return _light(rng, image), joints


def _pose(rng: np.random.Generator) -> Point:
    """Joints [16, 2] of a figure about one unit high, hips at the origin, y downwards."""
    length = {name: value * rng.uniform(0.88, 1.12) for name, value in _LENGTHS.items()}
    turn = rng.uniform(-1, 1)  # 1: seen from the front, -1: from behind, 0: from the side
    lean = rng.normal(0, 0.25)

    def bone(start: Point, angle: float, size: float) -> Point:
        # foreshortening: a bone that points at the camera looks shorter
        shown = size * float(np.sqrt(1 - min(abs(rng.normal(0, 0.35)), 0.9) ** 2))
        return start + shown * np.array([np.sin(angle), np.cos(angle)])

    at: dict[str, Point] = {"pelvis": np.zeros(2)}
    across = np.array([np.cos(lean), np.sin(lean)])
    at["thorax"] = bone(at["pelvis"], np.pi - lean, length["trunk"])
    at["upper_neck"] = bone(at["thorax"], np.pi - lean + rng.normal(0, 0.15), length["neck"])
    at["head_top"] = bone(at["upper_neck"], np.pi - lean + rng.normal(0, 0.25), length["head"])
    for name, sign in (("left", 1.0), ("right", -1.0)):
        # seen from the front the person's left is on the picture's right
        at[f"{name}_hip"] = at["pelvis"] + sign * turn * across * length["hips"] / 2
        at[f"{name}_shoulder"] = at["thorax"] + sign * turn * across * length["shoulders"] / 2
        thigh = rng.normal(sign * turn * 0.15, 0.45)
        at[f"{name}_knee"] = bone(at[f"{name}_hip"], thigh, length["thigh"])
        at[f"{name}_ankle"] = bone(at[f"{name}_knee"], thigh - abs(rng.normal(0, 0.5)) * _facing(turn), length["shin"])
        arm = rng.normal(sign * turn * 0.5, 0.9)
        at[f"{name}_elbow"] = bone(at[f"{name}_shoulder"], arm, length["upper_arm"])
        at[f"{name}_wrist"] = bone(
            at[f"{name}_elbow"], arm + abs(rng.normal(0, 0.9)) * _facing(turn), length["forearm"]
        )
    return np.array([at[j] for j in MPII16.joints])


def _facing(turn: float) -> float:
    """Which way knees and elbows bend in the picture."""
    return 1.0 if turn >= 0 else -1.0


def _place(rng: np.random.Generator, pose: Point) -> Point:
    """Scaled, tilted a little and put so that most of the figure is in the picture."""
    tilt = rng.normal(0, 0.15)
    turned = pose @ np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    low, high = turned.min(axis=0), turned.max(axis=0)
    scale = SIZE * rng.uniform(0.5, 0.85) / max(high - low)
    middle = np.array([SIZE / 2, SIZE / 2]) + rng.normal(0, 0.04 * SIZE, 2)
    return np.asarray((turned - (low + high) / 2) * scale + middle)


def _noise(rng: np.random.Generator, cells: int, size: int = SIZE) -> NDArray[np.float32]:
    """Smooth noise 0..1 [size, size, 3] with about ``cells`` blobs a side."""
    coarse = rng.random((cells, cells, 3), dtype=np.float32)
    return np.clip(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC), 0, 1)


def _ground(rng: np.random.Generator) -> Image:
    """Clutter: noise at three scales, then boxes, discs and lines."""
    base = rng.uniform(20, 235, 3)
    layers = [(int(c), w) for c, w in ((2, 0.5), (rng.integers(4, 12), 0.3), (rng.integers(20, 90), 0.2))]
    field = np.asarray(sum(w * (_noise(rng, c) - 0.5) for c, w in layers))
    image = np.clip(base + field * rng.uniform(60, 260), 0, 255).astype(np.uint8)
    for _ in range(rng.integers(2, 14)):
        _thing(rng, image, rng.uniform(0.05, 0.5))
    return image


def _thing(rng: np.random.Generator, image: Image, share: float) -> None:
    """A box, disc or line of about ``share`` of the picture's side, of one textured colour."""
    mask = np.zeros(image.shape[:2], np.uint8)
    x, y = rng.integers(0, SIZE, 2).tolist()
    w, h = (rng.uniform(0.3, 1.0, 2) * share * SIZE).astype(int).tolist()
    kind = rng.integers(3)
    if kind == 0:
        corners = cv2.boxPoints(((x, y), (w + 2, h + 2), float(rng.uniform(0, 90))))
        cv2.fillPoly(mask, [corners.astype(np.int32)], 255)
    elif kind == 1:
        cv2.ellipse(mask, (x, y), (w // 2 + 1, h // 2 + 1), float(rng.uniform(0, 180)), 0, 360, 255, -1)
    else:
        end = rng.integers(0, SIZE, 2).tolist()
        cv2.line(mask, (x, y), (end[0], end[1]), 255, int(rng.integers(1, 9)))
    _paint(rng, image, mask, rng.uniform(0, 255, 3))


def _paint(rng: np.random.Generator, image: Image, mask: Image, colour: Floats) -> None:
    """Fill ``mask`` with a colour, its texture or stripes, and soft edges."""
    texture = (_noise(rng, int(rng.integers(3, 60))) - 0.5) * rng.uniform(0, 90)
    if rng.random() < 0.25:
        u = np.arange(SIZE) * rng.uniform(0.2, 1.2)
        texture = texture + (40 * np.sign(np.sin(u[None, :] if rng.random() < 0.5 else u[:, None])))[..., None]
    fill = np.clip(colour + texture, 0, 255)
    soft = (cv2.GaussianBlur(mask, (3, 3), 0) / 255.0)[..., None]
    image[:] = (image * (1 - soft) + fill * soft).astype(np.uint8)


def _figure(rng: np.random.Generator, image: Image, joints: Point) -> None:
    """Far limbs, trunk, head, near limbs; clothes of three colours and one skin."""
    at = dict(zip(MPII16.joints, joints, strict=True))
    unit = float(np.linalg.norm(joints.max(axis=0) - joints.min(axis=0)))
    skin = np.array([60, 90, 130]) * rng.uniform(0.5, 1.6)
    shirt, trousers, shoes = rng.uniform(0, 255, 3), rng.uniform(0, 255, 3), rng.uniform(0, 120, 3)
    sleeves, legs = rng.random() < 0.5, rng.random() < 0.6
    near = "left" if rng.random() < 0.5 else "right"
    far = "right" if near == "left" else "left"
    stout = rng.uniform(0.85, 1.35)

    def limb(a: str, b: str, thick: float, thin: float, colour: Floats) -> None:
        _taper(rng, image, (at[a], at[b]), (thick * stout * unit, thin * stout * unit), colour)

    def leg(name: str) -> None:
        limb(f"{name}_knee", f"{name}_ankle", 0.045, 0.03, trousers if legs else skin)
        limb(f"{name}_hip", f"{name}_knee", 0.065, 0.05, trousers)
        ankle = at[f"{name}_ankle"]
        _taper(rng, image, (ankle, ankle + np.array([0, 0.03 * unit])), (0.035 * unit, 0.04 * unit), shoes)

    def arm(name: str) -> None:
        limb(f"{name}_shoulder", f"{name}_elbow", 0.042, 0.034, shirt)
        limb(f"{name}_elbow", f"{name}_wrist", 0.034, 0.024, shirt if sleeves else skin)

    arm(far)
    leg(far)
    leg(near)
    trunk = np.array([at[k] for k in ("left_shoulder", "right_shoulder", "right_hip", "left_hip")])
    mask = np.zeros(image.shape[:2], np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull(trunk.astype(np.float32)).astype(np.int32), 255)
    mask = np.asarray(cv2.dilate(mask, np.ones((3, 3), np.uint8), iterations=max(int(0.035 * stout * unit), 1)))
    _paint(rng, image, mask, shirt)
    limb("thorax", "upper_neck", 0.035, 0.03, skin)
    _head(rng, image, at["upper_neck"], at["head_top"], skin)
    arm(near)


def _taper(
    rng: np.random.Generator, image: Image, ends: tuple[Point, Point], radii: tuple[float, float], colour: Floats
) -> None:
    """A limb between two points with round ends of these radii, pixels."""
    (a, b), (wide, thin) = ends, radii
    mask = np.zeros(image.shape[:2], np.uint8)
    for t in np.linspace(0, 1, max(int(np.linalg.norm(b - a)), 2)):
        x, y = (a + (b - a) * t).round().astype(int).tolist()
        cv2.circle(mask, (x, y), max(round(wide + (thin - wide) * float(t)), 1), 255, -1)
    _paint(rng, image, mask, colour)


def _head(rng: np.random.Generator, image: Image, neck: Point, top: Point, skin: Floats) -> None:
    """An oval from neck to crown, its upper part hair."""
    middle, size = (neck + top) / 2, float(np.linalg.norm(top - neck))
    angle = float(np.degrees(np.arctan2(top[1] - neck[1], top[0] - neck[0])))
    for share, colour in ((1.0, skin), (0.55, rng.uniform(0, 160, 3))):
        mask = np.zeros(image.shape[:2], np.uint8)
        centre = middle + (top - neck) * (1 - share) / 2
        axes = (max(round(size * share / 2), 1), max(round(size * (0.38 if share == 1.0 else 0.36)), 1))
        cv2.ellipse(mask, centre.round().astype(int).tolist(), axes, angle, 0, 360, 255, -1)
        _paint(rng, image, mask, colour)


def _hide(rng: np.random.Generator, image: Image) -> None:
    """Now and then something stands before the figure."""
    for _ in range(rng.integers(0, 3)):
        _thing(rng, image, rng.uniform(0.1, 0.35))


def _light(rng: np.random.Generator, image: Image) -> Image:
    """A light from one side, exposure, blur and sensor noise."""
    direction = rng.normal(0, 1, 2)
    v, u = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    slope = (u * direction[0] + v * direction[1]) * rng.uniform(0, 0.25)
    lit = image * np.clip(rng.uniform(0.6, 1.25) + slope, 0.15, 1.8)[..., None]
    lit = cv2.GaussianBlur(lit, (0, 0), rng.uniform(0.3, 1.4))
    noisy: Image = np.clip(lit + rng.normal(0, rng.uniform(1, 9), image.shape), 0, 255).astype(np.uint8)
    return noisy
