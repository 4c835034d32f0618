"""What do real cameras cost? Accuracy of our models and of MoveNet Lightning as the picture gets worse.

    python tests/benchmarks/robustness.py --models edgepose-first-int8-cpu --out runs/robustness [--persons 100]

Persons and metric are those of peers.py. Every photograph is first reduced until the longer side of the person's box
is SIDE px at most, then made worse, then each model cuts its own crop. What is hidden from all (a joint outside the
picture) is not counted; torso lengths are those of the whole person. The same seed draws the same noise.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[2]))  # the tests are no installed package

from edgepose import console
from edgepose.crops import apply, box_of_joints, warp
from edgepose.errors import EdgeposeError
from edgepose.files import write_beside
from edgepose.metrics import correct, segment_length
from edgepose.skeletons import MPII16, convert
from tests.benchmarks.peers import LIMBS, SHARED, draw, percent
from tests.benchmarks.rivals import Contestant, Floats, Image, Rival, openers_of_ours
from trainer.data.persons import Person, read_image
from trainer.progress import progress

SIDE = 300  # px, the longer side of a person's box at most
MARGIN = 1.25  # sides of the box that are kept of the photograph on either side of its middle
READ_NOISE, SHOT_NOISE = 2.0, 0.25  # grey levels; variance per grey level of signal: a small sensor at high gain
SEED = 0
_TORSO = MPII16.index(MPII16.torso[0]), MPII16.index(MPII16.torso[1])
_LIMBS = [MPII16.index(joint) for joint in LIMBS.joints]
_COLOURS = ("#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe & Ito 2008
_RIVAL_COLOUR = "#D55E00"


@dataclass(frozen=True)
class Scene:
    """A picture with one labelled person, joints in the order of mpii16."""

    image: Image  # [H, W, 3] BGR
    joints: Floats  # [16, 2] pixels
    counted: NDArray[np.bool_]  # [16]
    box: Floats  # [4] what a detector would give
    torso: float  # pixels, of the whole person

    @property
    def side(self) -> float:
        """The longer side of the box, pixels."""
        return float((self.box[2:] - self.box[:2]).max())


def scene_of(photograph: Image, person: Person) -> Scene:
    """The person's surroundings, reduced to SIDE; nothing is enlarged."""
    low, high = person.box[:2], person.box[2:]
    reach = MARGIN * (high - low).max()
    middle = (low + high) / 2
    x0, y0 = np.maximum(np.floor(middle - reach), 0).astype(int)
    x1, y1 = np.ceil(middle + reach).astype(int) + 1
    shift = np.array([x0, y0], dtype=np.float64)
    torso = segment_length(person.joints[None], person.labelled[None], _TORSO)[0]
    whole = Scene(photograph[y0:y1, x0:x1], person.joints - shift, person.labelled, person.box - np.tile(shift, 2),
                  float(torso))  # fmt: skip
    return shrink(whole, SIDE)


def shrink(scene: Scene, side: float) -> Scene:
    """The picture reduced until the box's longer side is ``side`` px at most."""
    if side >= scene.side:
        return scene
    height, width = scene.image.shape[:2]
    size = max(round(width * side / scene.side), 1), max(round(height * side / scene.side), 1)
    image = np.asarray(cv2.resize(scene.image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    zoom = np.array(size) / (width, height)
    joints = (scene.joints + 0.5) * zoom - 0.5  # pixel centres are whole numbers
    box = (scene.box + 0.5) * np.tile(zoom, 2) - 0.5
    return Scene(image, joints, scene.counted, box, scene.torso * math.sqrt(float(zoom.prod())))


def blur(scene: Scene, sigma: float, _: np.random.Generator) -> Scene:
    """Gaussian blur, ``sigma`` in px of a picture whose box would be 256 px."""
    if sigma == 0:
        return scene
    return replace(scene, image=np.asarray(cv2.GaussianBlur(scene.image, (0, 0), sigma * scene.side / 256), np.uint8))


def add_noise(scene: Scene, deviation: float, rng: np.random.Generator) -> Scene:
    """White Gaussian noise of ``deviation`` grey levels in each channel."""
    noise = rng.standard_normal(scene.image.shape, dtype=np.float32)
    return replace(scene, image=_grey_levels(scene.image + deviation * noise))


def darken(scene: Scene, gain: float, rng: np.random.Generator) -> Scene:
    """Less light with the camera's exposure kept: darker by ``gain``, with shot and read noise; 1: as it is."""
    if gain == 1:
        return scene
    signal = gain * scene.image.astype(np.float32)
    noise = rng.standard_normal(signal.shape, dtype=np.float32) * np.sqrt(READ_NOISE**2 + SHOT_NOISE * signal)
    return replace(scene, image=_grey_levels(signal + noise))


def fade(scene: Scene, share: float, _: np.random.Generator) -> Scene:
    """Only ``share`` of the colour left; 1: as it is, 0: grey, as of a camera that sees by infrared light at night."""
    if share == 1:
        return scene
    grey = cv2.cvtColor(cv2.cvtColor(scene.image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    return replace(scene, image=np.asarray(cv2.addWeighted(scene.image, share, grey, 1 - share, 0), np.uint8))


def compress(scene: Scene, quality: float, _: np.random.Generator) -> Scene:
    """JPEG of ``quality``; 100: as it is."""
    if quality == 100:
        return scene
    code = cv2.imencode(".jpg", scene.image, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1]
    return replace(scene, image=np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR), dtype=np.uint8))


def truncate(scene: Scene, share: float, _: np.random.Generator, *, axis: int) -> Scene:
    """The picture ends ``share`` of the box inside it: at its bottom (``axis`` 1), or at its right (0).

    Joints beyond are not counted, and the box ends with the picture. The joints that stay differ from level to level:
    compare the models at a level, not the levels of a model.
    """
    if share == 0:
        return scene
    low, high = scene.box[axis], scene.box[axis + 2]
    edge = max(round(high - share * (high - low)), 1)  # the first row or column that is lost
    box = scene.box.copy()
    box[axis + 2] = edge - 0.5
    image = scene.image[:edge] if axis == 1 else scene.image[:, :edge]
    return replace(scene, image=image, counted=scene.counted & (scene.joints[:, axis] < edge - 0.5), box=box)


def turn(scene: Scene, degrees: float, _: np.random.Generator) -> Scene:
    """The camera rolled by ``degrees``: the picture turns about its middle, the box is that of the joints again."""
    if degrees == 0:
        return scene
    height, width = scene.image.shape[:2]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    size = math.ceil(abs(cos) * width + abs(sin) * height), math.ceil(abs(sin) * width + abs(cos) * height)
    linear = np.array([[cos, -sin], [sin, cos]])
    middle, target = (np.array([w - 1, h - 1]) / 2 for w, h in ((width, height), size))
    affine = np.column_stack([linear, target - linear @ middle])
    joints = apply(affine, scene.joints)
    box = box_of_joints(joints, scene.counted)
    return replace(scene, image=warp(scene.image, affine, size), joints=joints, box=box)


def _grey_levels(values: NDArray[np.floating[Any]]) -> Image:
    levels: Image = np.clip(np.round(values), 0, 255).astype(np.uint8)
    return levels


@dataclass(frozen=True)
class Corruption:
    """One thing that goes wrong with a picture, in rising degrees; the first leaves it as it is."""

    text: str
    levels: tuple[float, ...]
    apply: Callable[[Scene, float, np.random.Generator], Scene]


CORRUPTIONS = {
    "blur": Corruption("Gaussian blur, sigma in px at 256 px", (0, 1, 2, 3, 4, 6), blur),
    "noise": Corruption("sensor noise, grey levels", (0, 10, 20, 30, 45, 60), add_noise),
    "low light": Corruption("light that is left, noise with it", (1, 0.7, 0.5, 0.3, 0.2, 0.1), darken),
    "colour": Corruption("colour that is left", (1, 0.75, 0.5, 0.25, 0), fade),
    "JPEG": Corruption("JPEG quality (100: as it is)", (100, 95, 70, 40, 20, 10, 5), compress),
    "size": Corruption("longer side of the person, px at most", (SIDE, 200, 128, 96, 64),
                       lambda scene, side, _: shrink(scene, side)),
    "cut at the bottom": Corruption("share of the box below the picture", (0, 0.1, 0.2, 0.3, 0.4, 0.5),
                                    partial(truncate, axis=1)),
    "cut at the side": Corruption("share of the box beside the picture", (0, 0.1, 0.2, 0.3, 0.4, 0.5),
                                  partial(truncate, axis=0)),
    "rotation": Corruption("camera rolled, degrees", (0, 15, 30, 45, 60, 90, 135, 180), turn),
}  # fmt: skip


def judge(contestants: list[Contestant], persons: list[Person]) -> dict[str, Floats]:
    """Corruption -> hits [models, levels, persons, 12] as of :func:`tests.benchmarks.peers.judge`."""
    hits = {
        name: np.full((len(contestants), len(c.levels), len(persons), len(LIMBS)), np.nan)
        for name, c in CORRUPTIONS.items()
    }
    for n, person in enumerate(progress(persons, len(persons), "corrupting pictures")):
        scene = scene_of(read_image(person.image), person)
        for name, corruption in CORRUPTIONS.items():
            for i, level in enumerate(corruption.levels):
                # The same noise at all levels: a curve shows its strength alone.
                worse = corruption.apply(scene, level, np.random.default_rng((SEED, n)))
                for m, contestant in enumerate(contestants):
                    hits[name][m, i, n] = right(contestant, worse)
    return hits


def right(contestant: Contestant, scene: Scene) -> Floats:
    """[12]: 1 where ``contestant`` finds the limb joint within 0.2 torso lengths, 0 where not, NaN: not counted."""
    found = convert(contestant.locate(scene.image, scene.box), contestant.skeleton, LIMBS)
    truth, counted = scene.joints[_LIMBS], scene.counted[_LIMBS]
    hits: Floats = correct(found[None], truth[None], counted[None], np.array([scene.torso]), 0.2)[0]
    return hits


def curves(hits: dict[str, Floats], names: list[str]) -> dict[str, dict[str, list[float]]]:
    """Corruption -> model -> accuracy in percent at each level."""
    return {c: {name: [percent(level) for level in own] for name, own in zip(names, h, strict=True)}
            for c, h in hits.items()}  # fmt: skip


def costs(lines: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    """Corruption -> model -> points lost against its first level, mean of the others."""
    return {c: {name: own[0] - float(np.mean(own[1:])) for name, own in models.items()} for c, models in lines.items()}


def show(lines: dict[str, dict[str, list[float]]], rival: str) -> None:
    """Print a table for each corruption, then what each of our models loses beyond what the rival loses."""
    for name, models in lines.items():
        corruption = CORRUPTIONS[name]
        typer.echo(f"\n{name}: {corruption.text}\n")
        typer.echo(f"| model | {' | '.join(f'{level:g}' for level in corruption.levels)} |")
        typer.echo("|---" * (1 + len(corruption.levels)) + "|")
        for model, shares in models.items():
            typer.echo(f"| {model} | {' | '.join(f'{share:.1f}' for share in shares)} |")
    lost = costs(lines)
    typer.echo(f"\nPoints lost, mean over the levels, beyond what {rival} loses; the worst first\n")
    for model in next(iter(lines.values())):
        if model != rival:
            beyond = {c: models[model] - models[rival] for c, models in lost.items()}
            worst = sorted(beyond, key=lambda c: -beyond[c])
            typer.echo(f"{model}: " + ", ".join(f"{c} {beyond[c]:+.1f}" for c in worst))


def plot(lines: dict[str, dict[str, list[float]]], rival: str, title: str, path: Path) -> None:
    """A panel for each corruption; damage grows to the right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(3, 3, figsize=(11, 9), sharey=True, layout="constrained")
    for axes, (name, models) in zip(panels.flat, lines.items(), strict=True):
        levels = CORRUPTIONS[name].levels
        ours = [model for model in models if model != rival]
        for number, model in enumerate(ours):
            axes.plot(levels, models[model], "o-", color=_COLOURS[number % len(_COLOURS)], markersize=4, label=model)
        axes.plot(levels, models[rival], "s--", color=_RIVAL_COLOUR, markersize=4, label=rival)
        axes.set(title=name, xlabel=CORRUPTIONS[name].text, ylim=(0, 100))
        if levels[0] > levels[-1]:
            axes.invert_xaxis()
        axes.grid(alpha=0.3)
    for axes in panels[:, 0]:
        axes.set_ylabel("PCK@0.2 torso, 12 limb joints, %")
    figure.suptitle(title, fontsize=11)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4))
    with write_beside(path) as beside:
        figure.savefig(beside, dpi=110)
    pyplot.close(figure)


def main(
    models: Annotated[list[str] | None, typer.Option(help="A bundle; may be repeated [all shipped]")] = None,
    rival: Annotated[Path, typer.Option(help="Whom to compare with.")] = SHARED / "peers/movenet_lightning_fp16.tflite",
    factor: Annotated[float, typer.Option(help="The rival's crop factor, as peers.py finds it.")] = 1.25,
    data: Annotated[str, typer.Option(help="A set as in recipes.")] = "mpii_sports",
    data_root: Annotated[Path, typer.Option(envvar="EDGEPOSE_DATA", help="Where the sets lie.")] = SHARED / "data",
    split: Annotated[str, typer.Option(help="dev for choices, val for reports; all of drawn persons.")] = "dev",
    persons: Annotated[int, typer.Option(help="At most so many, evenly drawn; 0: all.")] = 100,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    engine: Annotated[str, typer.Option(help="What runs the bundles.")] = "openvino",
    second_look: Annotated[bool, typer.Option("--second-look", help="Ours also with a second look.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of robustness.json and .png.")] = Path("runs/robustness"),
) -> None:
    """Print accuracy at every level of every corruption, and draw it."""
    if not 0.5 <= factor <= 3:
        raise EdgeposeError(f"--factor is {factor:g}; a crop is 0.5 to 3 times as large as the person's box")
    drawn = draw(data, split, persons, data_root, MPII16)
    contestants = [opened(threads) for opened in openers_of_ours(models or [], engine, second_look=second_look)]
    contestants.append(Rival(rival, threads))
    contestants[-1].padding = factor
    names = [c.name for c in contestants]
    lines = curves(judge(contestants, drawn), names)
    for contestant in contestants:
        contestant.close()
    title = f"{data}, {split}, {len(drawn)} persons"
    about = {"metric": "PCK@0.2 torso, 12 limb joints, percent", "data": data, "split": split, "persons": len(drawn),
             "engine": engine, "rival": rival.stem, "factor": factor, "curves": lines, "points_lost": costs(lines),
             "levels": {name: c.levels for name, c in CORRUPTIONS.items()}}  # fmt: skip
    with write_beside(out / "robustness.json") as beside:
        beside.write_text(json.dumps(about, indent=1))
    plot(lines, rival.stem, title, out / "robustness.png")
    typer.echo(title)
    show(lines, rival.stem)
    typer.echo(f"look at {out / 'robustness.png'}")


if __name__ == "__main__":
    console.run(lambda: typer.run(main))
