"""Are our models better than what people use today? Accuracy and cost on the same persons, in one run.

    python tests/benchmarks/peers.py --out runs/peers [--split val] [--persons 200]

Accuracy is PCK@0.2 (torso: left shoulder to right hip) over the 12 limb joints of persons whose torso is labelled,
their box given: the tight box of the labelled joints. A bundle cuts its crop by its manual; a peer by the factor among
FACTORS that suits it best on the split dev. Latency is of the network alone on one crop, all models in turns. Needs
``pip install ai-edge-litert`` for the peers, TFLite files in --peers.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import groupby, product
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[2]))  # the tests are no installed package

from calibration.judge import Answers
from calibration.verify import Difference, difference, drawn_again, scenes_of
from edgepose import console
from edgepose.engines.openvino import core
from edgepose.errors import EdgeposeError, unknown
from edgepose.files import write_beside
from edgepose.metrics import LIMB_JOINTS, correct, segment_length
from edgepose.skeletons import COCO17, Skeleton, convert
from tests.benchmarks.rivals import Contestant, Floats, Opener, openers_of_ours, openers_of_rivals
from trainer.data.module import select
from trainer.data.persons import Person, read_image
from trainer.data.splits import SPLITS
from trainer.grid import evenly
from trainer.profile.latency import Timing, take_turns
from trainer.progress import progress
from trainer.recipe import DataSet

SHARED = Path(__file__).parents[3] / "shared"
SETS = ["mpii_sports", "lspet"]
FACTORS = (1.0, 1.1, 1.25, 1.5, 1.75)  # crop side / longer side of the box, that a peer may have
THREADS = (1, 2)
COLOURS = {"INT8": "#0072B2", "float": "#56B4E9", "peer": "#D55E00"}  # Okabe & Ito 2008

_NAMES = tuple(j for j in COCO17.joints if j.endswith(LIMB_JOINTS))
LIMBS = Skeleton("limbs12", _NAMES, tuple((a, b) for a, b in COCO17.limbs if a in _NAMES and b in _NAMES))
TORSO = LIMBS.index(LIMBS.torso[0]), LIMBS.index(LIMBS.torso[1])


@dataclass(frozen=True)
class Accuracy:
    """Shares of right joints in percent; ``low`` and ``high`` bound ``pck`` with 95 % confidence."""

    persons: int
    scenes: int  # that these are of
    joints: int
    pck: float
    low: float
    high: float
    per_joint: dict[str, float]
    by_activity: dict[str, float]  # 'activity (persons)' -> share


@dataclass
class Row:
    """One model's results; those of accuracy by set, those of time by number of threads."""

    name: str
    kind: str  # a key of COLOURS
    precision: str
    gmac: float
    megabytes: float
    crop_factor: float
    accuracy: dict[str, Accuracy] = field(default_factory=dict)
    milliseconds: dict[int, Timing] = field(default_factory=dict)
    looks: dict[str, float] = field(default_factory=dict)  # crops per person that the network was given
    hits: dict[str, Floats] = field(default_factory=dict)  # [N, 12], see judge
    scenes: dict[str, NDArray[np.intp]] = field(default_factory=dict)  # [N], whose intervals are wanted
    seconds: dict[int, Floats] = field(default_factory=dict)  # [repeats], in turns with the other rows'


@dataclass(frozen=True)
class Duel:
    """One of ours against a peer: points gained with their 95 % interval by set, time : the peer's by threads."""

    ours: str
    peer: str
    gain: dict[str, Difference]
    time: dict[int, float]  # median over the turns


def draw(data: str, split: str, count: int, root: Path, skeleton: Skeleton = LIMBS) -> list[Person]:
    """At most ``count`` (0: all) persons of one set whose torso is labelled, evenly drawn, in order of their images.

    EdgeposeError: no such set or split, or nobody in it.
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if count < 0:
        raise EdgeposeError(f"--persons is {count}; give the number of persons in each set, or 0 for all")
    a, b = (skeleton.index(joint) for joint in skeleton.torso)
    chosen = select(DataSet.model_validate({"data": data, "split": split}), skeleton, root).persons
    judged = [p for p in chosen if np.isfinite(segment_length(p.joints[None], p.labelled[None], (a, b))[0])]
    if not judged:
        raise EdgeposeError(f"nobody in split '{split}' of {data} has a labelled torso; choose other data")
    drawn = [judged[i] for i in evenly(len(judged), count or len(judged))]
    return sorted(drawn, key=lambda p: str(p.image))


def judge(contestant: Contestant, persons: list[Person]) -> Floats:
    """[N, 12]: 1 where ``contestant`` finds the limb joint, 0 where not, NaN where it is not labelled."""
    joints = []
    for path, group in groupby(progress(persons, len(persons), contestant.name), key=lambda p: p.image):
        image = read_image(path)
        joints += [contestant.locate(image, person.box) for person in group]
    truth, labelled = np.stack([p.joints for p in persons]), np.stack([p.labelled for p in persons])
    found = convert(np.stack(joints), contestant.skeleton, LIMBS)
    return correct(found, truth, labelled, segment_length(truth, labelled, TORSO), 0.2)


def percent(hits: Floats) -> float:
    """Share of ones in ``hits`` that are not NaN; NaN of nothing."""
    judged = hits[np.isfinite(hits)]
    return float(100 * judged.mean()) if judged.size else float("nan")


def interval(hits: Floats, scenes: NDArray[np.intp]) -> tuple[float, float]:
    """95 % interval of :func:`percent` by the bootstrap over ``scenes`` [N]; see :mod:`calibration.verify`."""
    right, count = drawn_again(np.stack([np.nansum(hits, axis=1), np.isfinite(hits).sum(axis=1)]), scenes)
    shares = 100 * right / np.maximum(count, 1)
    low, high = np.percentile(shares, [2.5, 97.5])
    return float(low), float(high)


def accuracy(hits: Floats, persons: list[Person]) -> Accuracy:
    """All figures from ``hits`` [N, 12]."""
    activities = np.array([p.activity for p in persons])
    counts = Counter(activities.tolist())
    scenes = scenes_of(persons)
    low, high = interval(hits, scenes)
    return Accuracy(
        persons=len(persons),
        scenes=int(scenes.max()) + 1,
        joints=int(np.isfinite(hits).sum()),
        pck=percent(hits),
        low=low,
        high=high,
        per_joint={joint: percent(hits[:, k]) for k, joint in enumerate(LIMBS.joints)},
        by_activity={f"{a} ({counts[a]})": percent(hits[activities == a]) for a in sorted(counts) if a},
    )


def best_factor(rival: Contestant, sets: list[list[Person]]) -> dict[float, float]:
    """Crop factor -> mean accuracy of ``rival`` over ``sets``; the best one becomes its padding."""
    found = {}
    for factor in FACTORS:
        rival.padding = factor
        found[factor] = float(np.mean([percent(judge(rival, persons)) for persons in sets]))
    rival.padding = max(found, key=lambda factor: found[factor])
    return found


def measure_latency(rows: list[Row], openers: list[Opener], repeats: int) -> None:
    """Fill in the milliseconds of ``rows``, whose models ``openers`` open, for each number of threads."""
    for threads in THREADS:
        contestants = [opened(threads) for opened in openers]
        for row, seconds in zip(rows, take_turns([c.run for c in contestants], repeats).T, strict=True):
            low, median, high = (float(v) for v in np.percentile(seconds * 1e3, [25, 50, 75]))
            row.milliseconds[threads], row.seconds[threads] = Timing(median, low, high), seconds
        for contestant in contestants:
            contestant.close()


def measure_accuracy(contestant: Contestant, ours: bool, sets: dict[str, list[Person]], dev: list[list[Person]]) -> Row:
    """The row of ``contestant``, its latency left out; of a peer the crop factor is chosen on ``dev`` first."""
    if not ours:
        factors = best_factor(contestant, dev)
        tried = ", ".join(f"{factor:g}: {pck:.1f}" for factor, pck in factors.items())
        typer.echo(f"{contestant.name}: accuracy on dev by crop factor {tried}; takes {contestant.padding:g}")
    kind = ("INT8" if contestant.precision == "int8" else "float") if ours else "peer"
    row = Row(contestant.name, kind, contestant.precision, round(contestant.macs / 1e9, 3),
              round(contestant.file.stat().st_size / 1e6, 2), contestant.padding)  # fmt: skip
    for name, persons in sets.items():
        before = contestant.looks
        row.hits[name], row.scenes[name] = judge(contestant, persons), scenes_of(persons)
        row.looks[name] = round((contestant.looks - before) / len(persons), 3)
    row.accuracy = {name: accuracy(row.hits[name], persons) for name, persons in sets.items()}
    return row


def cost(row: Row, threads: int, name: str) -> float:
    """Milliseconds per person of one set, all looks counted."""
    return row.milliseconds[threads].median * row.looks.get(name, 1.0)


def duels(rows: list[Row]) -> list[Duel]:
    """Each of ours against each peer, pair by pair: what is hard for both, or slow for both, cancels.

    Times are of one look.
    """
    none = np.zeros(0)  # the joints themselves are not compared
    found = []
    for mine, peer in product((r for r in rows if r.kind != "peer"), [r for r in rows if r.kind == "peer"]):
        gain = {
            name: difference("pck", *(Answers(none, {"pck": r.hits[name]}) for r in (peer, mine)), mine.scenes[name])
            for name in mine.hits
        }
        ratio = {n: float(np.median(mine.seconds[n] / peer.seconds[n])) for n in mine.seconds}
        found.append(Duel(mine.name, peer.name, gain, ratio))
    return found


def markdown(rows: list[Row], split: str) -> str:
    """Tables: the whole, ours against each peer, each joint, each activity."""
    sets = list(rows[0].accuracy)
    head = ["model", "weights", *(_whom(s, split, rows[0].accuracy[s]) for s in sets)]
    head += ["GMAC", "MB", *(f"ms, {_threads(n)}" for n in THREADS), "crop factor"]
    body = []
    for row in rows:
        looks = {name: f" with {n:.2f} looks" if n > 1 else "" for name, n in row.looks.items()}
        shares = [f"{a.pck:.1f} ({a.low:.1f} .. {a.high:.1f}){looks[n]}" for n, a in row.accuracy.items()]
        times = [f"{t.median:.2f} ({t.low:.2f} .. {t.high:.2f})" for t in row.milliseconds.values()]
        body.append([row.name, row.precision, *shares, f"{row.gmac:.2f}", f"{row.megabytes:.1f}", *times,
                     f"{row.crop_factor:g}"])  # fmt: skip
    text = ("PCK@0.2 torso over 12 limb joints in percent with its 95 % interval; median milliseconds of one crop, "
            f"network alone and one look, with quartiles.\n\n{_table(head, body)}")  # fmt: skip
    head = ["ours", "peer", *(f"{s}, points gained" for s in sets), *(f"time : peer's, {_threads(n)}" for n in THREADS)]
    body = []
    for duel in duels(rows):
        gains = [f"{d.gain:+.1f} ({d.low:+.1f} .. {d.high:+.1f})" for d in duel.gain.values()]
        body.append([duel.ours, duel.peer, *gains, *(f"{ratio:.2f}" for ratio in duel.time.values())])
    text += f"\nOurs against each peer\n\n{_table(head, body)}" if body else ""
    for name in sets:
        text += f"\n{name} by joint\n\n" + _matrix(rows, {r.name: r.accuracy[name].per_joint for r in rows})
        if rows[0].accuracy[name].by_activity:
            text += f"\n{name} by activity\n\n" + _matrix(rows, {r.name: r.accuracy[name].by_activity for r in rows})
    return text


def _whom(name: str, split: str, found: Accuracy) -> str:
    return f"{name} {split}, {found.persons} persons of {found.scenes} scenes"


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _matrix(rows: list[Row], figures: dict[str, dict[str, float]]) -> str:
    """A line for each key of the figures, a column for each model."""
    body = [[key, *(f"{figures[r.name][key]:.1f}" for r in rows)] for key in figures[rows[0].name]]
    return _table(["", *(r.name for r in rows)], body)


def _table(head: list[str], body: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def plot(rows: list[Row], split: str, path: Path) -> None:
    """Accuracy against latency with most threads, a panel for each set: towards the upper left is better."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator

    threads = max(THREADS)
    sets = list(rows[0].accuracy)
    known = (("MoveNet", "movenet"), ("BlazePose", "pose_landmark"))
    peers = [maker for maker, start in known if any(r.name.startswith(start) for r in rows)]
    labels = {"INT8": "edgepose, INT8", "float": "edgepose, float", "peer": ", ".join(peers)}
    markers = {"INT8": "o", "float": "D", "peer": "s"}
    figure, panels = pyplot.subplots(1, len(sets), figsize=(5.5 * len(sets), 4.5), squeeze=False, layout="constrained")
    for axes, name in zip(panels[0], sets, strict=True):
        for kind, colour in COLOURS.items():
            mine = [r for r in rows if r.kind == kind]
            if not mine:
                continue
            x, y = [cost(r, threads, name) for r in mine], [r.accuracy[name].pck for r in mine]
            spread = [[r.accuracy[name].pck - r.accuracy[name].low for r in mine],
                      [r.accuracy[name].high - r.accuracy[name].pck for r in mine]]  # fmt: skip
            axes.errorbar(x, y, yerr=spread, fmt=markers[kind], color=colour, elinewidth=0.8, label=labels[kind])
            side = 1 if kind == "peer" else -1  # ours to the left above, others to the right below: fewer collide
            for row in mine:
                here = cost(row, threads, name), row.accuracy[name].pck
                axes.annotate(_short(row.name), here, (6 * side, -6 * side), textcoords="offset points", va="center",
                              ha="left" if side > 0 else "right", fontsize=8, color="#333333")  # fmt: skip
        axes.set(xscale="log", xlabel=f"ms per person, {threads} threads", ylabel="PCK@0.2 torso, 12 limb joints, %",
                 title=_whom(name, split, rows[0].accuracy[name]))  # fmt: skip
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.margins(x=0.3)
        axes.grid(alpha=0.3)
    handles, names = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    with write_beside(path) as beside:
        figure.savefig(beside, dpi=120)
    pyplot.close(figure)


def _short(name: str) -> str:
    return name.replace("edgepose-", "").replace("movenet_", "").replace("pose_landmark", "BlazePose").replace("_", " ")


def main(
    models: Annotated[list[str] | None, typer.Option(help="A bundle; may be repeated [all shipped]")] = None,
    peers: Annotated[Path, typer.Option(help="Folder of other people's .tflite files.")] = SHARED / "peers",
    data: Annotated[list[str] | None, typer.Option(help="A set as in recipes; may be repeated [both sets]")] = None,
    data_root: Annotated[Path, typer.Option(envvar="EDGEPOSE_DATA", help="Where the sets lie.")] = SHARED / "data",
    split: Annotated[str, typer.Option(help="dev for choices, val for reports; all of drawn persons.")] = "dev",
    persons: Annotated[int, typer.Option(help="At most so many of each set, evenly drawn; 0: all.")] = 200,
    repeats: Annotated[int, typer.Option(help="Turns of the timing.")] = 20,
    engine: Annotated[str, typer.Option(help="What runs the bundles.")] = "openvino",
    second_look: Annotated[bool, typer.Option("--second-look", help="Each model also with a second look.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of results.json, table.md and pareto.png.")] = Path("runs/peers"),
) -> None:
    """Measure every model and print the tables."""
    if repeats < 1:
        raise EdgeposeError(f"--repeats is {repeats}; latency needs one turn at least")
    ours = openers_of_ours(models or [], engine, second_look=second_look)
    theirs = openers_of_rivals(peers, second_look=second_look)
    sets = {text: draw(text, split, persons, data_root) for text in data or SETS}
    dev = [draw(text, "dev", persons, data_root) for text in sets] if theirs and split != "dev" else [*sets.values()]
    rows = []
    for number, opener in enumerate([*ours, *theirs]):
        contestant = opener(max(THREADS))
        rows.append(measure_accuracy(contestant, number < len(ours), sets, dev))
        contestant.close()
    measure_latency(rows, [*ours, *theirs], repeats)
    table = markdown(rows, split)
    models_found = [{k: v for k, v in asdict(row).items() if k not in ("hits", "scenes", "seconds")} for row in rows]
    about = {"metric": "PCK@0.2 torso, 12 limb joints, percent", "split": split, "engine": engine, "repeats": repeats,
             "processor": str(core().get_property("CPU", "FULL_DEVICE_NAME")), "models": models_found,
             "duels": [asdict(duel) for duel in duels(rows)]}  # fmt: skip
    for name, text in (("results.json", json.dumps(about, indent=1)), ("table.md", table)):
        with write_beside(out / name) as beside:
            beside.write_text(text)
    plot(rows, split, out / "pareto.png")
    typer.echo(f"{table}\nlook at {out / 'pareto.png'}")


if __name__ == "__main__":
    console.run(lambda: typer.run(main))
