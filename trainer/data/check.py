"""What is wrong with a data set, before hours are spent on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepose.crops import apply, crop_affine, warp
from edgepose.draw import draw_pose
from edgepose.errors import EdgeposeError
from edgepose.skeletons import SKELETONS
from trainer.data.persons import Person, PersonSet, read_image
from trainer.data.splits import dhash, join_twins, side, twins
from trainer.grid import evenly, write_grid
from trainer.progress import progress

_TILE = 160
_SHOWN = 5  # places of a kind of fault, in words


@dataclass
class Findings:
    """Counts, and the places of each fault as 'image name: what'."""

    images: int = 0  # with somebody in them
    bare: int = 0  # images that no annotation is of
    persons: int = 0
    absent: int = 0  # more persons, left out because their image is not there
    joints: dict[str, int] = field(default_factory=dict)  # labelled, by joint name
    splits: dict[str, int] = field(default_factory=dict)  # persons, by side
    median_height: float = 0.0  # pixels, of the persons' boxes
    unreadable: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)  # labelled joints that lie outside their image
    degenerate: list[str] = field(default_factory=list)  # persons whose joints span no area
    duplicates: list[str] = field(default_factory=list)  # pictures nearly identical to one before

    @property
    def clean(self) -> bool:
        """Whether nothing stands in the way of training; duplicates are kept on one side of a split anyway."""
        return not (self.unreadable or self.outside or self.degenerate)

    def in_words(self) -> str:
        """All of it, of each kind of fault the first places."""
        known = [(name, [j for j in SKELETONS[name].joints if j in self.joints]) for name in SKELETONS]
        lines = [
            f"{self.persons} persons in {self.images} images ({self.bare} more without annotations; {self.absent} more "
            "persons whose image is absent), "
            f"median height {self.median_height:.0f} px; "
            + ", ".join(f"{n} {name}" for name, n in sorted(self.splits.items())),
            "labelled: " + ", ".join(f"{name} {n}" for name, n in self.joints.items()),
            "joints that a skeleton has by these names: "
            + ", ".join(f"{name} {len(names)} of {len(SKELETONS[name])}" for name, names in known),
        ]
        for what, places in (
            ("unreadable images", self.unreadable),
            ("labelled joints outside their image", self.outside),
            ("persons without extent", self.degenerate),
            ("near-duplicates (kept on one side of a split)", self.duplicates),
        ):
            lines.append(f"{what}: {len(places)}")
            lines += [f"  {place}" for place in places[:_SHOWN]]
            if len(places) > _SHOWN:
                lines.append(f"  ... and {len(places) - _SHOWN} more (--json lists all)")
        return "\n".join(lines)


def check(persons: PersonSet) -> Findings:
    """Look at every image and person of a set."""
    if not persons.persons and not persons.bare:
        raise EdgeposeError(f"data set {persons.name} holds no person with two labelled joints or more")
    found = Findings(persons=len(persons.persons), bare=len(persons.bare), absent=persons.absent)
    by_image: dict[Path, list[Person]] = {}
    for person in persons.persons:
        by_image.setdefault(person.image, []).append(person)
    found.images = len(by_image)
    by_image |= {image: [] for image in persons.bare}
    codes: dict[Path, int] = {}
    for path, group in progress(sorted(by_image.items()), len(by_image), f"checking {persons.name}"):
        try:
            image = read_image(path)
        except EdgeposeError as error:
            found.unreadable.append(str(error))
            continue
        codes[path] = dhash(image)
        for person in group:
            _check_person(person, image.shape[1], image.shape[0], persons, found)
    labelled = np.array([p.labelled for p in persons.persons]).reshape(-1, len(persons.skeleton)).sum(axis=0)
    found.joints = {name: int(n) for name, n in zip(persons.skeleton.joints, labelled, strict=True)}
    heights = [float(p.box[3] - p.box[1]) for p in persons.persons]
    found.median_height = float(np.median(heights)) if heights else 0.0
    for person in (persons if found.unreadable else join_twins(persons)).persons:  # as training splits them
        name = side(persons.name, person.group)
        found.splits[name] = found.splits.get(name, 0) + 1
    paths = list(codes)
    found.duplicates = [f"{paths[i].name} = {paths[near[0]].name}" for i, near in twins(codes.values())]
    return found


def _check_person(person: Person, width: int, height: int, persons: PersonSet, found: Findings) -> None:
    inside = (person.joints > -1).all(axis=1) & (person.joints < [width, height]).all(axis=1)
    for k in np.flatnonzero(person.labelled & ~inside):
        x, y = person.joints[k]
        found.outside.append(
            f"{person.image.name}: {persons.skeleton.joints[k]} at {x:.0f},{y:.0f} of {width}x{height}"
        )
    if min(person.box[2:] - person.box[:2]) < 1:
        found.degenerate.append(f"{person.image.name}: box {np.round(person.box).tolist()}")


def sheet(persons: PersonSet, path: Path, rows: int = 5, columns: int = 8) -> None:
    """A contact sheet of persons, evenly drawn, with their labels."""
    chosen = [persons.persons[i] for i in evenly(len(persons.persons), rows * columns)]
    tiles = [_tile(p, persons) for p in chosen if _readable(p.image)]  # check() names the others
    if not tiles:
        raise EdgeposeError(f"no sheet was drawn: none of the images of {persons.name} can be read")
    write_grid(tiles, columns, path)


def _readable(path: Path) -> bool:
    try:
        read_image(path)
    except EdgeposeError:
        return False
    return True


def _tile(person: Person, persons: PersonSet) -> NDArray[np.uint8]:
    affine = crop_affine(person.box, (_TILE, _TILE), 1.4)
    tile = warp(read_image(person.image), affine, (_TILE, _TILE))
    draw_pose(tile, apply(affine, person.joints), person.labelled, persons.skeleton, 1)
    return tile
