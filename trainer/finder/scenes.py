"""Scenes: images, the boxes of the people in them, and places where nobody is sure.

A person's box is the tight box of its labelled joints, which is what the pose network's crop is made of. Labels leave
people out; ``people_pseudo.json`` beside a set has what two other models saw there. Where both saw someone, it counts
as a person; what only one of them saw is neither person nor background: the loss leaves it out.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, FiniteFloat, RootModel

from edgepose.errors import EdgeposeError
from edgepose.people.association import iou
from edgepose.validation import validate
from trainer.data.persons import Person, load
from trainer.data.splits import join_twins, take, why_empty
from trainer.finder.recipe import SceneSet

Boxes = NDArray[np.float64]
Row = tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]  # box and score
_JOINTS, _SHARE = 10, 0.7  # labelled joints, or share of a small skeleton's, from which their box is the whole person's
_SURE = 0.6  # score of the detector's guess, which is of whole bodies
_SEEN = 0.3  # score of the pose model's guess
_SAME = 0.5  # IoU from which two boxes are one person
_SHRINK = 0.04  # a detector's box reaches beyond the joints, by this share of its sides, on each side


@dataclass(frozen=True)
class Scene:
    """One image: ``people`` [N, 4] and ``unsure`` [M, 4] in image pixels; ``labelled`` [N]: by a label, not a guess."""

    image: Path
    people: Boxes
    labelled: NDArray[np.bool_]
    unsure: Boxes


class _Pose(BaseModel):
    box: Row


class _Guess(BaseModel):
    detector: list[Row]
    multipose: list[_Pose]


class _Guesses(RootModel[dict[str, _Guess]]):
    """What two models saw, by the image's file name."""


def read(spec: SceneSet, root: Path | None) -> list[Scene]:
    """The scenes of one set's split.

    EdgeposeError: no such data, a file of guesses that is absent or of another form, or nobody is left.
    """
    persons = load(spec.data, root)
    chosen = persons if spec.split == "all" else take(join_twins(persons), spec.split)
    by_image: dict[Path, list[Person]] = defaultdict(list)
    for person in chosen.persons:
        if person.labelled.any():
            by_image[person.image].append(person)
    images = sorted(by_image.keys() | (chosen.bare.keys() if spec.empty else set()))
    if not images:
        raise EdgeposeError(f"data '{spec.data}' has no labelled person in split '{spec.split}'"
                            f"{why_empty(spec.split)}")  # fmt: skip
    guesses = _guesses((root or Path()) / spec.guesses) if spec.guesses else {}
    if guesses and len({image.name for image in images}) < len(images):
        raise EdgeposeError(f"guesses {spec.guesses} go by images' file names, and data '{spec.data}' has one name in "
                            "several folders; rename the images")  # fmt: skip
    if guesses and not guesses.keys() & {i.name for i in (*(p.image for p in persons.persons), *persons.bare)}:
        raise EdgeposeError(
            f"guesses {spec.guesses} name no image of data '{spec.data}'; give the file that lies with it"
        )
    return [_scene(image, by_image[image], guesses.get(image.name), persons.others.get(image, [])) for image in images]


def _guesses(path: Path) -> dict[str, _Guess]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EdgeposeError(f"guesses {path} cannot be read ({error}); check the path or set --data-root") from error
    return validate(_Guesses, content, f"guesses {path}").root


def _scene(image: Path, persons: list[Person], guess: _Guess | None, others: list[Boxes]) -> Scene:
    whole = np.array([p.labelled.sum() >= min(_JOINTS, _SHARE * len(p.labelled)) for p in persons], dtype=bool)
    labels = np.array([p.box for p in persons]).reshape(-1, 4)
    people, unsure = [labels[whole]], [labels[~whole], np.array(others).reshape(-1, 4)]
    if guess is not None:
        bodies = _rows(guess.detector)
        poses = _rows([p.box for p in guess.multipose])
        bodies[:, :4] = _shrunk(bodies[:, :4])
        others = [g[_new(g[:, :4], labels)] for g in (bodies, poses)]
        agree = (iou(others[0][:, :4], others[1][:, :4]) >= _SAME) & (others[1][:, 4] >= _SEEN)
        sure = agree.any(axis=1) & (others[0][:, 4] >= _SURE)
        people.append(others[0][sure, :4])
        doubtful = np.concatenate([others[0][~sure], others[1]])[:, :4]
        unsure.append(doubtful[_new(doubtful, people[-1])])
    found = np.concatenate(people)
    return Scene(image, found, np.arange(len(found)) < whole.sum(), np.concatenate(unsure))


def _rows(values: Sequence[Row]) -> Boxes:
    """[N, 5]: boxes and scores."""
    return np.array(values, dtype=np.float64).reshape(-1, 5)


def _shrunk(boxes: Boxes) -> Boxes:
    sides = boxes[:, 2:] - boxes[:, :2]
    return np.concatenate([boxes[:, :2] + _SHRINK * sides, boxes[:, 2:] - _SHRINK * sides], axis=1)


def _new(boxes: Boxes, known: Boxes) -> NDArray[np.bool_]:
    """[N]: which ``boxes`` are not of somebody in ``known``."""
    return np.asarray(~(iou(boxes, known) >= _SAME).any(axis=1))
