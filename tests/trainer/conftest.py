"""Drawn data sets: figures of known joints on textured grounds, in each file format."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from edgepose.skeletons import LSP14, MPII16

# A person standing with arms out, in units of the body's height.
STANDING = {
    "right_ankle": (-0.1, 1.0), "right_knee": (-0.1, 0.77), "right_hip": (-0.07, 0.53), "left_hip": (0.07, 0.53),
    "left_knee": (0.1, 0.77), "left_ankle": (0.1, 1.0), "pelvis": (0.0, 0.53), "thorax": (0.0, 0.22),
    "upper_neck": (0.0, 0.16), "neck": (0.0, 0.19), "head_top": (0.0, 0.0), "right_wrist": (-0.3, 0.45),
    "right_elbow": (-0.25, 0.33), "right_shoulder": (-0.12, 0.2), "left_shoulder": (0.12, 0.2),
    "left_elbow": (0.25, 0.33), "left_wrist": (0.3, 0.45),
}  # fmt: skip


def figure(rng, skeleton, size=160):
    """An image [size, size, 3] of a figure whose every joint has a colour of its own, and its joints [K, 2]."""
    image = cv2.resize(rng.integers(60, 120, (size // 8, size // 8, 3), dtype=np.uint8), (size, size))
    height = rng.uniform(0.55, 0.75) * size
    origin = np.array([size / 2, size * 0.12]) + rng.uniform(-6, 6, 2)
    joints = np.array([STANDING[j] for j in skeleton.joints]) * height + origin
    joints += rng.normal(0, 0.02 * height, joints.shape)
    for a, b in skeleton.limb_indices:
        cv2.line(image, joints[a].round().astype(int).tolist(), joints[b].round().astype(int).tolist(), (200,) * 3, 4)
    hues = np.linspace(0, 170, len(skeleton)).astype(np.uint8)
    for k, point in enumerate(joints):
        colour = cv2.cvtColor(np.uint8([[[hues[k], 255, 255]]]), cv2.COLOR_HSV2BGR)[0, 0].tolist()
        cv2.circle(image, point.round().astype(int).tolist(), 5, colour, -1)
    return image, joints


@pytest.fixture
def coco(tmp_path: Path) -> tuple[str, Path]:
    """('coco:...' spec, root) of eight figures in COCO form with the mpii16 skeleton."""
    return make_coco(tmp_path, 8)


def make_coco(root: Path, count: int) -> tuple[str, Path]:
    """Draw ``count`` figures into root/figures and write root/figures/annotations.json."""
    rng = np.random.default_rng(5)
    folder = root / "figures" / "images"
    folder.mkdir(parents=True)
    images, annotations = [], []
    for i in range(count):
        image, joints = figure(rng, MPII16)
        cv2.imwrite(str(folder / f"{i:03}.png"), image)
        images.append({"id": i, "file_name": f"{i:03}.png", "group": i // 2, "activity": "standing"})
        keypoints = [v for x, y in joints for v in (float(x), float(y), 2)]
        annotations.append({"id": i, "image_id": i, "category_id": 1, "keypoints": keypoints, "iscrowd": 0})
    category = {"id": 1, "name": "person", "keypoints": list(MPII16.joints), "skeleton": []}
    text = json.dumps({"images": images, "annotations": annotations, "categories": [category]})
    (root / "figures" / "annotations.json").write_text(text)
    return "coco:figures/annotations.json:figures/images", root


@pytest.fixture
def lsp(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A folder in LSPET's form with 5 images of 6 rows, and the array; row 3 has its image absent."""
    rng = np.random.default_rng(6)
    (tmp_path / "images").mkdir()
    array = np.zeros((14, 3, 6))
    for i in range(6):
        image, joints = figure(rng, LSP14)
        array[:, :2, i], array[:, 2, i] = joints, 1
        if i != 3:
            cv2.imwrite(str(tmp_path / "images" / f"im{i + 1:05}.png"), image)
    array[4, :, 0] = -1, -1, 0  # an unlabelled joint
    savemat(tmp_path / "joints.mat", {"joints": array})
    return tmp_path, array
