"""Recipes against each other at one equal, small budget: same data, size, images seen, about equal MACs.

Every recipe keeps its network's kind and parts; its width is chosen for the MACs asked for, its stacks are cut to
two unless said otherwise (a compositional model keeps its levels), and everything that is not the network comes from
one common recipe. What is left is the difference that the architecture makes at that size.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from edgepose import skeletons
from edgepose.errors import EdgeposeError
from edgepose.files import write_beside
from edgepose.validation import validate
from trainer import fit as training
from trainer.data.module import select
from trainer.evaluate import figures, open_estimator, predict
from trainer.models.build import build
from trainer.models.compact import fold
from trainer.profile.report import Profile, profile
from trainer.recipe import DataSet, Recipe

MOST_STACKS = 2  # where nothing else is said
_WIDTHS = range(16, 513, 4)


@dataclass(frozen=True)
class Row:
    """What one recipe's run gave."""

    name: str
    width: int
    stacks: int
    images: int
    persons: int
    pckh05: float
    pckh01: float
    made_of: str  # hash of the cut recipe and of what it was measured on


def macs(recipe: Recipe) -> int:
    """Multiply-accumulates of one image through the exported network."""
    with torch.random.fork_rng(devices=[]):
        network = fold(build(recipe))
    image = torch.zeros(1, 3, recipe.input_size, recipe.input_size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(image)
    return int(counter.get_total_flops()) // 2


def fewer_stacks(recipe: Recipe, stacks: int | None = None) -> Recipe:
    """The recipe with ``stacks``, and named after them; without a number at most two."""
    if stacks is not None:
        return _with_model(recipe, stacks=stacks).model_copy(update={"name": f"{recipe.name}-{stacks}"})
    if recipe.model.kind == "compositional":
        return recipe
    return _with_model(recipe, stacks=min(recipe.model.stacks, MOST_STACKS))


def _with_model(recipe: Recipe, **changes: int) -> Recipe:
    values = recipe.model_dump(mode="json")
    return validate(Recipe, {**values, "model": {**values["model"], **changes}}, f"recipe {recipe.name}")


def at_budget(recipe: Recipe, common: Recipe, budget: int) -> Recipe:
    """``common`` with the network of ``recipe``, as wide as ``budget`` MACs allow most nearly.

    EdgeposeError: even the narrowest network costs more than 1.5 times the budget, or the widest less than half.
    """
    made: dict[int, Recipe] = {}

    def at(width: int) -> Recipe:
        if width not in made:
            model = {**recipe.model.model_dump(mode="json"), "width": width, "frozen": 0}  # all begin afresh
            values = {**common.model_dump(mode="json"), "name": recipe.name, "model": model}
            made[width] = validate(Recipe, values, f"recipe {recipe.name} at this size")
        return made[width]

    joints = len(skeletons.get(common.skeleton))  # a compositional network's width holds its joints' maps, and more
    narrowest = max(joints // 4 * 4 + 4, _WIDTHS[0]) if recipe.model.kind == "compositional" else _WIDTHS[0]
    low, high = _WIDTHS.index(narrowest), len(_WIDTHS) - 1  # MACs grow with width: halve the range
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if macs(at(_WIDTHS[middle])) < budget else (low, middle)
    near = [w for w in (_WIDTHS[low] - 4, _WIDTHS[low]) if w >= narrowest]
    best = min(near, key=lambda w: abs(macs(at(w)) - budget))
    cost = macs(at(best))
    if not 0.5 * budget < cost < 1.5 * budget:
        raise EdgeposeError(
            f"recipe {recipe.name} cannot cost about {budget / 1e6:g} M MACs at {common.input_size} px: "
            f"at width {best} it costs {cost / 1e6:.0f} M; choose other --macs"
        )
    return at(best)


def run(recipe: Recipe, folder: Path, measure_on: DataSet, *, root: Path | None, workers: int, threads: int) -> Row:
    """Train and measure one row; a finished row is read from ``folder``, an interrupted run is resumed."""
    done = folder / "row.json"
    # Without what is as by default: a key that later versions have makes no other run.
    texts = [made.model_dump_json(exclude_defaults=True) for made in (recipe, measure_on)]
    made_of = hashlib.sha256(" ".join(texts).encode()).hexdigest()[:16]
    if done.exists():
        row = Row(**json.loads(done.read_text()))
        if row.made_of != made_of:
            raise EdgeposeError(f"{done} was made with another budget, common recipe or data; choose another --out")
        return row
    last = training.fit(recipe, folder, root=root, resume=True, workers=workers, threads=threads)
    skeleton = skeletons.get(recipe.skeleton)
    found = figures(predict(open_estimator(str(last)), select(measure_on, skeleton, root).persons), skeleton)
    row = Row(
        name=recipe.name,
        width=recipe.model.width,
        stacks=recipe.model.stacks,
        images=sum(s.images for s in recipe.stages),
        persons=found["persons"],
        pckh05=found["pckh05"],
        pckh01=found["pckh01"],
        made_of=made_of,
    )
    with write_beside(done) as beside:
        beside.write_text(json.dumps(asdict(row), indent=1))
    return row


def compare(
    recipes: list[Recipe],
    common: Recipe,
    folder: Path,
    *,
    budget: int,
    measure_on: DataSet,
    root: Path | None = None,
    workers: int = 1,
    threads: int = 0,
) -> list[tuple[Row, Profile]]:
    """Train every recipe at ``budget`` MACs, then time all of them one after the other on the quiet machine.

    Writes a run per recipe, ``table.md`` and ``pareto.png`` into ``folder``; may be called again to go on.
    EdgeposeError: two recipes share a name, one has a teacher, rows were made of something else, and what fit and
    profile raise.
    """
    for recipe in recipes:
        if recipe.distillation is not None:
            raise EdgeposeError(f"recipe {recipe.name} learns from a teacher, which the others have not; leave it out")
    skeleton = skeletons.get(common.skeleton)
    ends = [skeleton.index(joint) for joint in skeleton.head or ()]
    if not ends or not any(p.labelled[ends].all() for p in select(measure_on, skeleton, root).persons):
        raise EdgeposeError(f"recipes are compared by PCKh, and nobody in '{measure_on.data}' has a labelled head in "
                            f"skeleton {skeleton.name}; measure on other data")  # fmt: skip
    names = [r.name for r in recipes]
    if len(set(names)) < len(names):
        raise EdgeposeError(f"recipes to compare share a name: {', '.join(names)}; give each its own")
    cut = [at_budget(r, common, budget) for r in recipes]
    rows = [run(r, folder / r.name, measure_on, root=root, workers=workers, threads=threads) for r in cut]
    found = [(row, profile(r, threads=threads or 2)) for row, r in zip(rows, cut, strict=True)]
    folder.mkdir(parents=True, exist_ok=True)
    with write_beside(folder / "table.md") as beside:
        beside.write_text(markdown(found))
    plot(found, folder / "pareto.png")
    return found


def markdown(found: list[tuple[Row, Profile]]) -> str:
    """The table, best PCKh@0.5 first."""
    lines = [
        "| recipe | stacks x width | MMAC | parameters | PCKh@0.5 | PCKh@0.1 | CPU FP32 | CPU INT8 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row, cost in sorted(found, key=lambda pair: -pair[0].pckh05):
        times = cost.latency
        lines.append(
            f"| {row.name} | {row.stacks} x {row.width} | {cost.macs / 1e6:.0f} | {cost.parameters / 1e3:.0f} k | "
            f"{row.pckh05:.1f} | {row.pckh01:.1f} | {times.float32.median:.1f} ms | {times.int8.median:.1f} ms |"
        )
    return "\n".join(lines) + "\n"


def plot(found: list[tuple[Row, Profile]], path: Path) -> None:
    """Accuracy against INT8 latency; the line joins those that no other beats in both."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), constrained_layout=True)
    points = [(cost.latency.int8.median, row.pckh05, row.name) for row, cost in found]
    best = sorted(p for p in points if not any(q[:2] != p[:2] and q[0] <= p[0] and q[1] >= p[1] for q in points))
    axes.plot([p[0] for p in best], [p[1] for p in best], color="#c33", linewidth=1, label="not beaten in both")
    for x, y, name in points:
        axes.scatter(x, y, color="#258")
        axes.annotate(name, (x, y), textcoords="offset points", xytext=(5, 4), fontsize=9)
    axes.set(xlabel="CPU latency, INT8, ms per crop", ylabel="PCKh@0.5, %")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    with write_beside(path) as beside:
        figure.savefig(beside, dpi=110)
    pyplot.close(figure)
