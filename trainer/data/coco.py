"""COCO keypoint JSON, with whatever skeleton its category names."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from edgepose.errors import EdgeposeError
from edgepose.skeletons import SKELETONS, Skeleton
from trainer.data.persons import Floats, PersonSet, make_person


def read_json(path: Path) -> Any:
    """Parsed JSON; EdgeposeError names a file that is not JSON and the place of the fault."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no Unicode, no JSON, a number of 5,000 digits
        raise EdgeposeError(f"{path} cannot be read as JSON: {error}") from error


def _skeleton(category: dict[str, Any]) -> Skeleton:
    names = tuple(str(k) for k in category["keypoints"])
    for known in SKELETONS.values():
        if known.joints == names:
            return known
    pairs = [(int(a), int(b)) for a, b in category.get("skeleton") or ()]
    limbs = tuple((names[a - 1], names[b - 1]) for a, b in pairs if 0 < a <= len(names) and 0 < b <= len(names))
    return Skeleton(name=f"custom{len(names)}", joints=names, limbs=limbs)


def _box(annotation: dict[str, Any]) -> Floats:
    """[4] of an annotation's ``bbox``: x, y, width, height; nothing at all where it has none."""
    x, y, width, height = (float(v) for v in annotation.get("bbox") or (0, 0, 0, 0))
    return np.array([x, y, x + width, y + height])


def _own_name(data: dict[str, Any], path: Path) -> str:
    """What the file says that its set is called; empty where it says nothing."""
    info = data.get("info")
    name = info.get("edgepose_set", "") if isinstance(info, dict) else ""
    if not isinstance(name, str) or "/" in name:
        raise EdgeposeError(f"{path}: info.edgepose_set is {name!r}; it must be a name, without a /")
    return name


def read(path: Path, images: Path) -> PersonSet:
    """Persons of the annotation file; crowds and persons with fewer than two joints are among its ``others``.

    An image's ``group`` (frames of one scene) and ``activity`` are kept where the file has them. The set's name, by
    which splits are drawn, is ``edgepose_set`` in the file's ``info``, else the name of the folder that it lies in.
    """
    data = read_json(path)
    try:
        records = {i["id"]: {**i, "file_name": str(i["file_name"])} for i in data["images"]}
        categories = {c["id"]: c for c in data["categories"]}
        annotations = list(data["annotations"])
        skeletons = {key: _skeleton(c) for key, c in categories.items() if c.get("keypoints")}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise EdgeposeError(f"{path} is not COCO keypoint JSON: {error} is missing or malformed") from error
    if len({s.joints for s in skeletons.values()}) != 1:
        raise EdgeposeError(
            f"{path} must have one category with keypoints, it has {len(skeletons)}; is it a detection set?"
        )
    skeleton = next(iter(skeletons.values()))
    persons = []
    others = defaultdict[Path, list[Floats]](list)
    foreign = 0  # annotations with keypoints, but of another category
    shown = set()  # ids of the images with somebody in them, or something else that the file has boxes of
    for number, annotation in enumerate(annotations):
        if not isinstance(annotation, dict):
            raise EdgeposeError(f"{path}: annotation {number} is not an object; is it COCO keypoint JSON?")
        try:
            shown.add(annotation.get("image_id"))
            if annotation.get("category_id") not in skeletons:
                foreign += bool(annotation.get("keypoints"))
                continue
            if annotation.get("iscrowd") or not annotation.get("keypoints"):
                others[images / str(records[annotation["image_id"]]["file_name"])].append(_box(annotation))
                continue
            table = np.asarray(annotation["keypoints"], dtype=np.float64)
            if table.shape != (3 * len(skeleton),):
                raise ValueError(f"keypoints has {table.size} numbers, not 3 for each of {len(skeleton)} joints")
            table = table.reshape(-1, 3)
            image = records[annotation["image_id"]]
            name = str(image["file_name"])
            labelled = table[:, 2] > 0
            if labelled.sum() < 2:
                others[images / name].append(_box(annotation))
                continue
            if not np.isfinite(table[labelled, :2]).all():
                raise ValueError("a labelled joint's place is no number")
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            raise EdgeposeError(f"{path}: annotation {annotation.get('id', number)} is malformed: {error}") from error
        activity = str(image.get("activity") or "")  # null stands for none
        persons.append(make_person(images / name, table[:, :2], labelled, _group(image, name), activity))
    if foreign and not persons:
        raise EdgeposeError(f"{path}: {foreign} annotations have keypoints, but not the category_id of the category "
                            f"that names them ({', '.join(map(str, skeletons))}); give them that")  # fmt: skip
    # The same name however the path is written, since splits follow it; absolute, and no link is followed.
    name = _own_name(data, path) or Path(os.path.abspath(path)).parent.name or path.stem  # noqa: PTH100
    return PersonSet(name, skeleton, persons, others=dict(others), bare=_bare(records, shown, images))


def _group(image: dict[str, Any], name: str) -> str:
    group = image.get("group")  # null stands for none
    return name if group is None else str(group)


def _bare(records: dict[Any, Any], shown: set[Any], images: Path) -> dict[Path, str]:
    """The images that no annotation is of, and their groups."""
    named = {number: str(image["file_name"]) for number, image in records.items()}
    seen = {named[number] for number in shown & named.keys()}  # one file may have several records
    return {images / name: _group(records[number], name) for number, name in named.items() if name not in seen}
