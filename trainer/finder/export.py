"""Checkpoint -> finder bundle: ONNX with its manual, checked against the network that it was made from."""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from edgepose import engines
from edgepose.bundle import Accuracy, Bundle, save
from edgepose.people.finder import Finder
from trainer.export import compare, to_onnx
from trainer.finder.evaluate import LEAST, LOWEST, WithProbability, look, manual_of, quality
from trainer.finder.fit import load_best
from trainer.finder.recipe import SceneSet
from trainer.finder.scenes import read


def export(
    checkpoint: Path,
    path: Path,
    *,
    root: Path | None = None,
    measure_on: list[SceneSet] | None = None,
    terms: str = "",
    description: str = "",
) -> Bundle:
    """Write the checkpoint's best weights as a finder bundle to ``path``.

    ``measure_on`` are scenes whose figures go into the manual. EdgeposeError: not a finder's checkpoint, or the
    exported graph and the checkpoint disagree.
    """
    recipe, model = load_best(checkpoint)
    made_from = {"checkpoint": hashlib.sha256(checkpoint.read_bytes()).hexdigest()}
    manual = manual_of(recipe).model_copy(update={"terms": terms, "description": description, "made_from": made_from})
    network = WithProbability(model)
    proto = to_onnx(network, manual)
    with tempfile.TemporaryDirectory() as folder:  # nothing is installed before it has passed
        bundle = save(proto, manual, Path(folder) / path.name)
        compare(network, bundle)
        if measure_on:
            manual = manual.model_copy(update={"accuracy": [measure(bundle, spec, root) for spec in measure_on]})
    return save(proto, manual, path)


def measure(bundle: Bundle, spec: SceneSet, root: Path | None) -> Accuracy:
    """Recall, precision and average precision of ``bundle`` on the default engine."""
    scenes = read(spec, root)
    with closing(engines.load(bundle)) as engine:
        found = quality(scenes, look(Finder(engine, bundle.manual, least=LOWEST), scenes), LEAST)
    keys = ("average_precision", "recall", "precision", "labelled_recall")
    figures = {key: value for key, value in asdict(found).items() if key in keys}
    return Accuracy(data=spec.data, split=spec.split, persons=found.people, engine=engine.name, figures=figures)
