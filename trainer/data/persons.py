"""Labelled persons, whatever file they come from, and the ``--data`` strings that name them.

lsp:DIR                              LSP or LSPET: joints.mat and images/
coco:ANNOTATIONS.json:IMAGES_DIR     COCO keypoint JSON, any skeleton in its category
mpii:ANNOTATIONS:IMAGES_DIR          MPII: the release's .mat, or the widespread .json list
synth:COUNT[:SEED]                   drawn persons, for tests and first tries without any data; also synth://COUNT
DIR                                  a folder with one of the first three, recognised by what lies in it
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepose.crops import box_of_joints
from edgepose.errors import EdgeposeError, unknown
from edgepose.files import kind as kind_of
from edgepose.skeletons import Skeleton, joint_map
from edgepose.sources.images import read_picture

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Person:
    """One labelled person. ``joints`` [K, 2] in image pixels; ``labelled`` [K] tells which are real."""

    image: Path
    joints: NDArray[np.float64]
    labelled: NDArray[np.bool_]
    box: NDArray[np.float64]  # [4] tight box of the labelled joints
    group: str  # persons of one group never fall on both sides of a split
    activity: str = ""
    nobody: bool = False  # the box is of a place where nobody is: every joint is known to be nowhere


@dataclass(frozen=True)
class PersonSet:
    """Persons that share a skeleton, and the name that splits and caches are keyed by.

    ``others``: boxes [4] in images, as the file has them, of people and crowds whose joints nobody labelled. ``bare``:
    photographs that no annotation is of, and the group of each: nobody is there, or nobody looked. ``absent``: persons
    who were left out because their image is not there, of a format in which that is no fault.
    """

    name: str
    skeleton: Skeleton
    persons: list[Person] = field(repr=False)
    others: dict[Path, list[Floats]] = field(repr=False, default_factory=dict)
    bare: dict[Path, str] = field(repr=False, default_factory=dict)
    absent: int = 0

    def subset(self, keep: Callable[[Person], bool]) -> PersonSet:
        """The persons for which ``keep`` holds."""
        return replace(self, persons=[p for p in self.persons if keep(p)])


def make_person(
    image: Path, joints: NDArray[np.float64], labelled: NDArray[np.bool_], group: str, activity: str = ""
) -> Person:
    """A Person whose box is the tight box of its labelled joints; unlabelled coordinates become 0.

    EdgeposeError: a labelled joint is not at a finite place.
    """
    clean = np.where(labelled[:, None], joints, 0.0)
    if not np.isfinite(clean).all():
        raise EdgeposeError(f"a labelled joint of a person in image {image} is at no finite place; correct its label")
    return Person(image, clean, labelled, box_of_joints(clean, labelled), group, activity)


def to_skeleton(person: Person, source: Skeleton, target: Skeleton) -> Person:
    """The person in another skeleton; joints without a counterpart are unlabelled. The box stays."""
    if source is target:
        return person
    joints, labelled = np.zeros((len(target), 2)), np.zeros(len(target), dtype=bool)
    for t, s in joint_map(source, target).items():
        joints[t], labelled[t] = person.joints[s], person.labelled[s]
    return Person(person.image, joints, labelled, person.box, person.group, person.activity)


def unlabelled(person: Person) -> Person:
    """The person with its joints hidden; the box stays."""
    return replace(person, labelled=np.zeros_like(person.labelled))


def from_behind(person: Person, skeleton: Skeleton) -> bool:
    """Whether the labels show the back: seen along the body, left shoulder and left hip lie to the left of the right.

    By a tenth of the torso's length at least; a person whose four joints are not all labelled is not known to be.
    """
    names = ("left_shoulder", "right_shoulder", "left_hip", "right_hip")
    if not set(names) <= set(skeleton.joints):
        return False
    four = [skeleton.index(name) for name in names]
    if not person.labelled[four].all():
        return False
    left_shoulder, right_shoulder, left_hip, right_hip = person.joints[four]
    down = (left_hip + right_hip - left_shoulder - right_shoulder) / 2
    across = np.stack([left_shoulder - right_shoulder, left_hip - right_hip])
    return bool((down[0] * across[:, 1] - down[1] * across[:, 0] > 0.1 * (down @ down)).all())


def load(spec: str, root: Path | None = None) -> PersonSet:
    """Read the persons that ``spec`` names; relative paths count from ``root`` (default: here).

    EdgeposeError: unknown format, missing file or folder, or a file that is not of that format.
    """
    from trainer.data import coco, lsp, mpii, synth

    if ":" not in spec:
        spec = recognise(spec, root)
    kind, _, rest = spec.partition(":")
    parts = rest.split(":") if rest else []
    readers: dict[str, tuple[Callable[..., PersonSet], int, str]] = {
        "lsp": (lsp.read, 1, "DIR"),
        "coco": (coco.read, 2, "ANNOTATIONS.json:IMAGES_DIR"),
        "mpii": (mpii.read, 2, "ANNOTATIONS:IMAGES_DIR"),
    }
    if kind == "synth":
        return synth.read(rest.removeprefix("//"))
    if kind not in readers:
        raise unknown("data format", kind, [*readers, "synth"], f"'{spec}'")
    read, count, form = readers[kind]
    if len(parts) != count or not all(parts):
        raise EdgeposeError(f"data '{spec}' is incomplete; write {kind}:{form}")
    paths = [(root or Path()) / p for p in parts]
    for path in paths:
        if kind_of(path) == "nothing":
            raise EdgeposeError(f"data '{spec}': {path} does not exist; check the path or set --data-root")
    return read(*paths)


def _images(base: Path, annotations: str) -> str:
    """The folder of images beside an annotation file: images/, or COCO's val2017/ for ..._val2017.json."""
    for name in ("images", annotations.rpartition("_")[2]):
        if (base / name).is_dir():
            return name
    return ""


def recognise(folder: str, root: Path | None = None) -> str:
    """The full ``--data`` string of a folder; EdgeposeError when it holds no data set, or several."""
    from trainer.data.coco import read_json

    base = (root or Path()) / folder
    if kind_of(base) != "folder":
        raise EdgeposeError(f"data '{folder}' is neither a folder nor FORMAT:...; formats: lsp, coco, mpii, synth")
    faults: list[str] = []
    found = [f"lsp:{folder}"] if (base / "joints.mat").is_file() else []
    for path in sorted([*base.glob("*.json"), *base.glob("annotations/*.json")]):
        try:
            content = read_json(path)
        except EdgeposeError as error:  # not everything that lies there is ours
            faults.append(str(error))
            continue
        name = path.relative_to(base)
        if isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys():
            found.append(f"coco:{folder}/{name}:{folder}/{_images(base, path.stem)}")
        elif isinstance(content, list) and content and isinstance(content[0], dict) and "joints" in content[0]:
            found.append(f"mpii:{folder}/{name}:{folder}/{_images(base, path.stem)}")
    found += [f"mpii:{folder}/{p.name}:{folder}/{_images(base, p.stem)}" for p in sorted(base.glob("mpii*.mat"))]
    if len(found) != 1:
        what = (
            f"several data sets ({', '.join(found)}); name one of them" if found else "no data set that is recognised"
        ) + "".join(f" ({fault})" for fault in faults)
        raise EdgeposeError(f"folder {base} holds {what}; write lsp:DIR, coco:JSON:IMAGES or mpii:FILE:IMAGES")
    return found[0]


def read_image(path: Path) -> NDArray[np.uint8]:
    """BGR image [H, W, 3]; EdgeposeError names a file that cannot be read."""
    image = read_picture(path)
    if image is None:
        state = "does not exist" if kind_of(path) == "nothing" else "is not a readable image"
        raise EdgeposeError(f"image {path} {state}; 'edgepose-train data check' names all such images of a set")
    return image
