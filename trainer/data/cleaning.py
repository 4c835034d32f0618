"""Labels that a trained network contradicts: left and right exchanged, joints on another limb or another person.

A network that has seen a label often need not repeat it: where it answers otherwise twice, for the crop and for its
mirror image, the label is more likely wrong than the network. Sides are put right; joints far off are hidden from
training; a person most of whose labels are far off teaches nothing. The labels' own files stay as they are: a CSV
beside them says what to do (``data.corrections`` in a recipe).
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgepose.errors import EdgeposeError
from edgepose.files import write_beside
from edgepose.skeletons import Skeleton
from trainer.data.persons import Person, PersonSet

Sides = Literal["", "all", "arms", "legs"]
_NUMBER = re.compile("[0-9]{1,9}")
COLUMNS = ("image", "person", "exchange", "hide")

SURE = 0.6  # score of both looks from which a joint is known
NEAR = 0.25  # of the torso: two places are the same
FAR = 0.6  # of the torso: a label is elsewhere
KNOWN = {"all": 6, "arms": 4, "legs": 4}  # joints of a pair that must be known before sides are judged
MOST = 0.5  # of the known joints: so many more agree once exchanged; or so many are elsewhere


@dataclass(frozen=True)
class Correction:
    """What to change about the ``person``-th (from 0) labelled person of ``image`` (a file's name)."""

    image: str
    person: int
    exchange: Sides = ""
    hide: tuple[str, ...] = ()  # names of joints

    def apply(self, person: Person, skeleton: Skeleton) -> Person:
        """The person with its labels corrected; its box stays, since that is what a detector would give."""
        joints, labelled = person.joints, person.labelled
        if self.exchange:
            order = exchanged(skeleton, self.exchange)
            joints, labelled = joints[order], labelled[order]
        labelled = labelled.copy()
        labelled[[skeleton.index(name) for name in self.hide]] = False
        return replace(person, joints=np.where(labelled[:, None], joints, 0.0), labelled=labelled)


def exchanged(skeleton: Skeleton, sides: Sides) -> NDArray[np.intp]:
    """Permutation [K] that swaps left and right of all joints, of the arms or of the legs."""
    part = {"all": np.ones(len(skeleton), dtype=bool), "arms": ~skeleton.lower, "legs": skeleton.lower}[sides or "all"]
    return np.where(part, skeleton.mirror, np.arange(len(skeleton)))


def numbered(persons: list[Person]) -> Iterator[tuple[str, int]]:
    """What names each person in a file of corrections: its image and its number there.

    EdgeposeError where images of several folders share a name.
    """
    seen: Counter[str] = Counter()
    images: dict[str, Path] = {}
    for person in persons:
        if images.setdefault(person.image.name, person.image) != person.image:
            raise EdgeposeError(f"corrections go by images' file names, and {person.image} has the name of "
                                f"{images[person.image.name]}; rename the images")  # fmt: skip
        yield person.image.name, seen[person.image.name]
        seen[person.image.name] += 1


def judge(
    person: Person, name: tuple[str, int], looks: NDArray[np.floating], scores: NDArray[np.floating], skeleton: Skeleton
) -> Correction | None:
    """What two ``looks`` [2, K, 2] (pixels) with ``scores`` [2, K] say is wrong about a person's labels; None: nothing.

    The unit of length is the larger of the torso that was seen and the labelled one, so that a torso seen from its end
    makes nobody wrong.
    """
    seen = looks.mean(axis=0)
    a, b = (skeleton.index(joint) for joint in skeleton.torso)
    torso = float(np.linalg.norm(seen[a] - seen[b]))
    if person.labelled[[a, b]].all():
        torso = max(torso, float(np.linalg.norm(person.joints[a] - person.joints[b])))
    known = (scores.min(axis=0) >= SURE) & (np.linalg.norm(looks[0] - looks[1], axis=1) < NEAR * torso)

    def off(order: NDArray[np.intp]) -> tuple[NDArray[np.bool_], NDArray[np.floating]]:
        labelled = person.labelled[order] & known
        distance = np.linalg.norm(person.joints[order] - seen, axis=1) / torso
        return labelled, np.where(labelled, distance, 0.0)

    paired = skeleton.mirror != np.arange(len(skeleton))
    exchange: Sides = ""
    whole, part = np.arange(len(skeleton)), get_args(Sides)[1:]
    for sides in part:
        order = exchanged(skeleton, sides)
        (as_is, distance), (turned, other) = off(whole), off(order)
        gains = turned * (other < NEAR) - 1 * (as_is & (distance < NEAR))
        halves = [paired & (order != whole) & half for half in (skeleton.lower, ~skeleton.lower)]
        judged = sum(min(int((m & half).sum()) for m in (as_is, turned)) for half in halves)
        each = [int(gains[half].sum()) for half in halves]
        # Known arms may speak for unknown legs, but not against known ones.
        if judged >= KNOWN[sides] and sum(each) >= MOST * judged and min(each) >= 0:
            exchange = sides
            break
    order = exchanged(skeleton, exchange) if exchange else whole
    labelled, distance = off(order)
    far = labelled & (distance > FAR)
    if far.sum() > max(MOST * labelled.sum(), 2):
        far = person.labelled[order]  # labels of somebody else, or of nobody
    if not exchange and not far.any():
        return None
    return Correction(*name, exchange, tuple(skeleton.joints[k] for k in np.flatnonzero(far).tolist()))


def write(corrections: list[Correction], path: Path) -> None:
    """One line for each person with wrong labels: image, person, exchange, hide (joints between blanks)."""
    with write_beside(path) as beside, beside.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        rows.writerows([c.image, c.person, c.exchange, " ".join(c.hide)] for c in corrections)


def read(path: Path) -> list[Correction]:
    """The corrections of a file that ``write`` wrote; EdgeposeError names the line that is none."""
    try:
        with path.open(newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise EdgeposeError(f"corrections {path} cannot be read ({error}); make them with 'edgepose-train data clean'"
                            ) from error  # fmt: skip
    if not rows or tuple(rows[0]) != COLUMNS:
        raise EdgeposeError(f"corrections {path}: the first line must be {','.join(COLUMNS)}; make the file with "
                            "'edgepose-train data clean'")  # fmt: skip
    found = []
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(COLUMNS) or not _NUMBER.fullmatch(row[1]) or row[2] not in get_args(Sides):
            raise EdgeposeError(f"corrections {path}, line {number}: expected an image's name, the person's number, "
                                f"one of all | arms | legs or nothing, and joints, not '{','.join(row)}'")  # fmt: skip
        found.append(Correction(row[0], int(row[1]), row[2], tuple(row[3].split())))  # type: ignore[arg-type]
    return found


def correct(persons: PersonSet, path: Path) -> PersonSet:
    """The set with the corrections of ``path``; EdgeposeError where these are of other data or name no joint of it."""
    by_name = {(c.image, c.person): c for c in read(path)}
    for (image, person), correction in by_name.items():
        for joint in correction.hide:
            if joint not in persons.skeleton.joints:
                raise EdgeposeError(f"corrections {path}: {image}, person {person}: skeleton {persons.skeleton.name} "
                                    f"has no joint '{joint}'; clean with a model of that skeleton")  # fmt: skip
    names = list(numbered(persons.persons))
    if by_name and not by_name.keys() & set(names):
        raise EdgeposeError(f"corrections {path} name nobody of data set {persons.name}; they are of other data")
    corrected = [
        by_name[name].apply(person, persons.skeleton) if name in by_name else person
        for name, person in zip(names, persons.persons, strict=True)
    ]
    return PersonSet(persons.name, persons.skeleton, corrected)
