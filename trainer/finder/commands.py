"""What ``edgepose-train evaluate`` and ``export`` do with a person finder."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path

import typer

from edgepose import bundle as bundles
from edgepose import engines
from edgepose.errors import EdgeposeError
from edgepose.people.finder import Finder
from edgepose.validation import validate
from trainer import checkpoints
from trainer.data.splits import of_split
from trainer.engine import refuse_engine
from trainer.finder.evaluate import LEAST, LOWEST, look, of_network, quality
from trainer.finder.monitor import sheet as draw
from trainer.finder.recipe import SceneSet
from trainer.finder.scenes import read


def is_finder(model: str) -> bool:
    """Whether a checkpoint or bundle is a person finder's."""
    if model.endswith(".ckpt"):
        return bool(checkpoints.read(Path(model))["recipe"].get("role") == "person")
    return bundles.load(model).manual.role == "person"


def scene_sets(data: list[str], guesses: list[str] | None, split: str = "") -> list[SceneSet]:
    """One set for each of ``data`` (DATA, or DATA@SPLIT), with its file of guesses where there is one.

    ``split`` is of data that name none of their own.
    """
    if len(guesses or []) > len(data):
        raise EdgeposeError("there are more --guesses than data; give one for each, in the same order")
    sets = []
    for text, guess in zip_longest(data, guesses or [], fillvalue=""):
        name, own = of_split(text)
        spec = {"data": name, "guesses": guess, "split": own or split or "all"}
        sets.append(validate(SceneSet, spec, f"'{text}'"))
    return sets


def evaluate(
    model: str,
    sets: list[SceneSet],
    root: Path | None,
    *,
    engine: str = "auto",
    threads: int = 0,
    as_json: bool = False,
    sheet: Path | None = None,
) -> None:
    """Print recall, precision and average precision at IoU 0.5."""
    scenes = [scene for spec in sets for scene in read(spec, root)]
    finder = _open(model, engine, threads)
    found = look(finder, scenes)
    result = quality(scenes, found, LEAST)
    if sheet is not None:
        draw(scenes, found, sheet)
    if as_json:
        data = [{"data": spec.data, "split": spec.split} for spec in sets]
        about = {"model": finder.manual.name, "engine": finder.engine.name, "data": data}
        typer.echo(json.dumps({**about, **asdict(result)}))
        return
    where = ", ".join(f"{spec.data} ({spec.split})" for spec in sets)
    typer.echo(
        f"{finder.manual.name} on {finder.engine.name}, {where}: {result.people} people in {result.images} images; "
        f"at IoU 0.5 AP {result.average_precision:.1f}; at score {result.least:g} recall {result.recall:.1f} (of "
        f"labelled {result.labelled_recall:.1f}), precision {result.precision:.1f}"
    )


def _open(model: str, engine: str, threads: int) -> Finder:
    if model.endswith(".ckpt"):
        from trainer.finder.fit import load_best

        refuse_engine(model, engine)
        return of_network(*load_best(Path(model)), threads=threads)
    bundle = bundles.load(model, role="person")
    return Finder(engines.load(bundle, engine, engines.Options(threads=threads)), bundle.manual, least=LOWEST)
