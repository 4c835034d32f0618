"""A network that has learnt eight drawn figures, as checkpoint and float bundle, and a calibration set for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from calibration import sets
from calibration.sets import About, CalibrationSet, cut
from edgepose.bundle import Bundle
from tests.trainer.conftest import make_coco
from trainer.data.module import select
from trainer.data.persons import Person
from trainer.export import export
from trainer.fit import fit
from trainer.recipe import DataSet, Recipe


@dataclass(frozen=True)
class Learnt:
    """Where everything lies."""

    spec: str
    root: Path
    checkpoint: Path
    bundle: Bundle
    persons: list[Person]
    chosen: CalibrationSet
    set_path: Path


@pytest.fixture(scope="session")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Learnt:
    """Trained for a few seconds to find most joints of its eight figures."""
    root = tmp_path_factory.mktemp("calibration")
    spec, _ = make_coco(root, 8)
    recipe = Recipe.model_validate(
        {
            "name": "tiny",
            "precision": "float32",
            "data": [{"data": spec, "split": "all"}],
            "model": {"width": 32, "depth": 2, "stacks": 1, "order": "post"},
            "target": {"sigma": 1.5},
            "stages": [{"images": 1600, "size": 64, "batch": 8}],
            "optimiser": {"rate": 5e-3, "warm_up": 10, "ema": 0.9},
            "augmentation": {"scale": [1, 1], "rotation": 0, "shift": 0, "flip": 0, "colour": 0, "blur": 0},
        }
    )
    checkpoint = fit(recipe, root / "run", root=root, workers=0, threads=1)
    bundle = export(checkpoint, root / "tiny.onnx", root=root)
    persons = select(DataSet(data=spec, split="all"), bundle.skeleton, root).persons
    about = About(
        model=bundle.manual.name,
        data=[f"{spec}@all"],
        method="random",
        seed=0,
        pool=len(persons),
        persons=[p.image.name for p in persons],
    )
    chosen = sets.save(CalibrationSet(cut(persons, bundle.manual), about), root / "set.npz")
    return Learnt(spec, root, checkpoint, bundle, persons, chosen, root / "set.npz")
