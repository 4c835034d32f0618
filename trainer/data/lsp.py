"""LSP and LSPET (Johnson & Everingham 2010, 2011): ``joints.mat`` and a folder of images."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from edgepose.errors import EdgeposeError
from edgepose.files import kind
from edgepose.skeletons import LSP14
from trainer.data.persons import PersonSet, make_person

SUFFIXES = (".jpg", ".webp", ".png")


def read(folder: Path) -> PersonSet:
    """Persons of ``folder``; those whose image is absent, or with fewer than two joints, are left out.

    LSPET's array is 14 x 3 x N with a labelled flag (1: labelled); LSP's is 3 x 14 x N with an
    occlusion flag (all joints labelled).
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    path = folder / "joints.mat"
    if kind(path) == "nothing":
        raise EdgeposeError(f"{path} does not exist; lsp:DIR is a folder with LSP's joints.mat and images/")
    try:
        array = np.asarray(loadmat(path)["joints"], dtype=np.float64)
    except (OSError, KeyError, ValueError, NotImplementedError, MatReadError, zlib.error) as error:
        raise EdgeposeError(f"{path} is not an LSP joints.mat ({error}); expected an array 'joints'") from error
    if array.ndim != 3 or array.shape[:2] not in ((14, 3), (3, 14)):
        raise EdgeposeError(f"{path}: 'joints' has shape {array.shape}; expected 14 x 3 x N or 3 x 14 x N")
    extended = array.shape[0] == 14
    table = array.transpose(2, 0, 1) if extended else array.transpose(2, 1, 0)

    images = {p.stem: p for p in sorted((folder / "images").glob("im*")) if p.suffix.lower() in SUFFIXES}
    if not images:
        raise EdgeposeError(f"{folder / 'images'} holds no im*.jpg, .webp or .png; put the set's images there")
    width = len(next(iter(images)))
    persons, absent = [], 0
    for number, row in enumerate(table, start=1):
        image = images.get(f"im{number:0{width - 2}d}")
        if image is None:
            absent += 1
            continue
        labelled = (row[:, 2] > 0) & (row[:, :2] > -0.5).all(axis=1) if extended else np.ones(14, dtype=bool)
        if labelled.sum() < 2:
            continue
        # The files are MATLAB's, but LSPET's pixels count from 0: read less one, joints lie up and to the left of
        # where a network sees them (docs/experiments.md). LSP's, by the same people, was not at hand: taken alike.
        persons.append(make_person(image, row[:, :2], labelled, group=image.stem))
    return PersonSet("lspet" if extended else "lsp", LSP14, persons, absent=absent)
