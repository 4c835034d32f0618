"""MPII Human Pose (Andriluka et al. 2014): the release's ``.mat``, and the widespread JSON list."""

from __future__ import annotations

import zlib
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from edgepose.errors import EdgeposeError
from edgepose.skeletons import MPII16
from trainer.data.coco import read_json
from trainer.data.persons import Floats, Person, PersonSet, make_person


def read(path: Path, images: Path) -> PersonSet:
    """Persons of ``path``: ``mpii_human_pose_v1_u12_1.mat`` or a JSON list of {image, joints, joints_vis}."""
    if path.suffix != ".mat":  # which has persons with joints alone
        return PersonSet("mpii", MPII16, _read_json(path, images))
    others = defaultdict[Path, list[Floats]](list)
    persons = _read_mat(path, images, others)
    return PersonSet("mpii", MPII16, persons, others=dict(others))


def _read_json(path: Path, images: Path) -> list[Person]:
    """The JSON form: 1-based ``joints`` [16, 2], ``joints_vis`` [16] and the file name ``image``."""
    persons = []
    rows = read_json(path)
    if not isinstance(rows, list):
        raise EdgeposeError(f"{path} is not the MPII JSON form: expected a list of persons")
    for number, row in enumerate(rows):
        try:
            joints = np.asarray(row["joints"], dtype=np.float64).reshape(16, 2)
            visible = np.asarray(row["joints_vis"], dtype=np.float64).reshape(16) > 0
            name = str(row["image"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise EdgeposeError(f"{path}: person {number} is malformed: {error}") from error
        labelled = visible & (joints > 0).all(axis=1)
        if labelled.sum() >= 2:
            persons.append(make_person(images / name, joints - 1.0, labelled, group=name))
    return persons


def _read_mat(path: Path, images: Path, others: dict[Path, list[Floats]]) -> list[Person]:
    """The release form: ``RELEASE.annolist(i).annorect(r).annopoints.point(k)`` with 1-based pixels.

    ``others`` gets the boxes of people without joints, as far as their place and size are known.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        release = loadmat(path, squeeze_me=True, struct_as_record=False)["RELEASE"]
        annotated = np.atleast_1d(release.annolist)
        training = np.atleast_1d(release.img_train)
        videos = np.atleast_1d(getattr(release, "act", np.array([])))
    except (OSError, KeyError, ValueError, AttributeError, NotImplementedError, MatReadError, zlib.error) as error:
        raise EdgeposeError(f"{path} is not the MPII release file ({error}); expected the struct RELEASE") from error
    if len(annotated) != len(training):
        raise EdgeposeError(f"{path}: annolist has {len(annotated)} images and img_train {len(training)}; take the "
                            "release's own file")  # fmt: skip
    persons = []
    for index, entry in enumerate(annotated):
        if not training[index]:  # the test half carries no joints
            continue
        try:
            name = str(entry.image.name)
            video = getattr(entry, "vididx", None)
            group = str(int(video)) if video is not None and np.size(video) else name
            known = getattr(videos[index], "act_name", "") if index < len(videos) else ""
            activity = str(known) if np.size(known) else ""
            for rect in np.atleast_1d(entry.annorect):
                person = _rect(rect, images / name, group, activity)
                if person is not None:
                    persons.append(person)
                elif (box := _about(rect)) is not None:
                    others[images / name].append(box)
        except (AttributeError, TypeError, ValueError, OverflowError) as error:
            raise EdgeposeError(f"{path}: image {index} is malformed: {error}") from error
    return persons


def _about(rect: Any) -> Floats | None:
    """About where a person without joints is: MPII's ``scale`` is the person's height over 200 px."""
    at: Any = getattr(rect, "objpos", None)
    scale: Any = getattr(rect, "scale", None)
    if not hasattr(at, "x") or scale is None or not np.size(scale):
        return None
    middle, half = np.array([float(at.x), float(at.y)]) - 1.0, 100.0 * float(np.ravel(scale)[0])
    return np.concatenate([middle - half, middle + half])


def _rect(rect: Any, image: Path, group: str, activity: str) -> Person | None:
    points = getattr(getattr(rect, "annopoints", None), "point", None)
    if points is None:
        return None
    joints, labelled = np.zeros((16, 2)), np.zeros(16, dtype=bool)
    for point in np.atleast_1d(points):
        if (k := int(point.id)) not in range(len(joints)):
            raise ValueError(f"a joint's id is {k}")
        joints[k] = float(point.x) - 1.0, float(point.y) - 1.0
        labelled[k] = True
    return make_person(image, joints, labelled, group, activity) if labelled.sum() >= 2 else None
