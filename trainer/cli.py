"""``edgepose-train``: fit recipes; evaluate, export and explain what they made; profile and compare them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgepose import console
from edgepose.errors import EdgeposeError, unknown
from edgepose.files import kind

if TYPE_CHECKING:
    from edgepose.bundle import Bundle

app = typer.Typer(
    help="Train pose networks, measure and explain them, and export bundles for edgepose.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

data_app = typer.Typer(help="Look at data sets, and clean their labels.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")

Root = Annotated[
    Path | None,
    typer.Option("--data-root", envvar="EDGEPOSE_DATA", help="Folder that relative data paths count from."),
]
Guesses = Annotated[
    list[str] | None, typer.Option(help="Of a finder: what other models saw in the images of each data, in order.")
]
RECIPES = Path(__file__).parent / "recipes"


def main() -> None:
    """Entry point of ``edgepose-train``."""
    console.run(app, "trainer")


def _recipe_file(name: str) -> Path:
    """A recipe by path, or by the name of a shipped one."""
    path = Path(name)
    if path.suffix == ".toml" or kind(path) == "file":
        return path
    shipped = {p.stem: p for p in RECIPES.glob("*.toml")}
    if name not in shipped:
        raise unknown("recipe", name, shipped)
    return shipped[name]


@app.command()
def fit(
    recipe: Annotated[str, typer.Argument(help="RECIPE.toml, or the name of a shipped recipe.")],
    out: Annotated[Path | None, typer.Option(help="Folder for checkpoints, logs, pictures [runs/NAME].")] = None,
    data_root: Root = None,
    resume: Annotated[bool, typer.Option(help="Go on with the run in --out.")] = False,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads of the network; 0: torch's choice.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Processes that make samples; 0: in the training one.")] = 1,
    devices: Annotated[int, typer.Option(min=1, help="GPUs, or CPU processes, that share each batch (DDP).")] = 1,
) -> None:
    """Train a recipe; checkpoints, logs, curve.png and sheet.png go to --out."""
    from trainer.learner import is_first

    path = _recipe_file(recipe)
    fit_one = _fit_finder if _is_finders(path) else _fit_pose
    folder = fit_one(path, out, root=data_root, resume=resume, workers=workers, threads=threads, devices=devices)
    if is_first():
        pictures = [str(folder / name) for name in ("curve.png", "sheet.png") if (folder / name).is_file()]
        typer.echo(f"trained: {folder / 'last.ckpt'}" + ("; look at " + " and ".join(pictures) if pictures else ""))


def _fit_pose(path: Path, out: Path | None, **settings: Any) -> Path:
    from trainer import fit as training
    from trainer.recipe import load

    recipe = load(path)
    folder = out or Path("runs") / recipe.name
    training.fit(recipe, folder, **settings)
    return folder


def _fit_finder(path: Path, out: Path | None, **settings: Any) -> Path:
    from trainer.finder import fit as training
    from trainer.finder.recipe import load

    recipe = load(path)
    folder = out or Path("runs") / recipe.name
    training.fit(recipe, folder, **settings)
    return folder


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A bundle (name or .onnx file) or a checkpoint (.ckpt).")],
    data: Annotated[
        list[str],
        typer.Option(help="DIR | lsp:DIR | coco:JSON:IMAGES | mpii:FILE:IMAGES | synth:COUNT; may be repeated."),
    ],
    data_root: Root = None,
    split: Annotated[str, typer.Option(help="train | dev | val | all; of --data without an @SPLIT.")] = "all",
    engine: Annotated[str, typer.Option(help="Of a bundle: auto | openvino | onnxruntime | reference ...")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0: the engine's choice.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet of predictions to this PNG.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="At most so many persons, evenly drawn; 0: all.")] = 0,
    plot: Annotated[
        Path | None, typer.Option(help="Write how far scores and ellipses keep their word to a PNG.")
    ] = None,
    second_look: Annotated[
        bool, typer.Option("--second-look", help="Look again at who leans far, turned upright, as 'edgepose run' does.")
    ] = False,
    guesses: Guesses = None,
) -> None:
    """Accuracy on labelled persons, their box given; of a person finder, recall and precision on whole images."""
    from trainer.finder import commands as finders
    from trainer.grid import require_picture

    require_picture(sheet)
    require_picture(plot, drawn=True)
    if finders.is_finder(model):
        if limit or plot is not None or second_look:
            raise EdgeposeError(f"{model} is a person finder; --limit, --plot and --second-look are of pose models")
        sets = finders.scene_sets(data, guesses, split)
        finders.evaluate(model, sets, data_root, engine=engine, threads=threads, as_json=as_json, sheet=sheet)
        return
    _refuse_guesses(model, guesses)
    from trainer.data.module import select
    from trainer.evaluate import Predictions, figures, open_estimator, predict
    from trainer.grid import evenly
    from trainer.pictures import contact_sheet, reliability_plot
    from trainer.uncertainty import reliability

    chosen = _sets(data, split)
    estimator = open_estimator(model, engine, threads, second_look=second_look)
    persons = [p for spec in chosen for p in select(spec, estimator.skeleton, data_root).persons]
    if limit and limit < len(persons):
        persons = [persons[i] for i in evenly(len(persons), limit)]
    predictions: Predictions = predict(estimator, persons)
    found: dict[str, Any] = {
        "model": estimator.manual.name,
        "engine": estimator.engine.name,
        "data": [spec.data for spec in chosen],
        "split": ", ".join(dict.fromkeys(spec.split for spec in chosen)),
        **figures(predictions, estimator.skeleton),
        "reliability": reliability(predictions, estimator.skeleton, estimator.manual.ellipses.radii),
    }
    if sheet is not None:
        contact_sheet(predictions, estimator.skeleton, sheet)
    if plot is not None:
        reliability_plot(found["reliability"], plot)
    if as_json:
        typer.echo(json.dumps(found))
    else:
        _table(found)


def _table(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{found['model']} on {', '.join(found['data'])} ({found['split']}): "
                        f"{found['persons']} persons, {found['engine']}")  # fmt: skip
    keys = ("pckh05", "pckh01", "pck02_torso")
    for heading in ("joint", "PCKh@0.5", "PCKh@0.1", "PCK@0.2 torso"):
        table.add_column(heading, justify="left" if heading == "joint" else "right")
    for joint, row in found["per_joint"].items():
        table.add_row(joint, *(_figure(row[k]) for k in keys))
    table.add_section()
    table.add_row("all", *(_figure(found[k]) for k in keys))
    table.add_row("12 limb joints", "", "", _figure(found["pck02_torso_limbs"]))
    Console().print(table)
    kept = found["reliability"]
    error = "no labelled head to judge by" if kept["ece"] is None else f"expected calibration error {kept['ece']:.3f}"
    typer.echo(f"scores: {error}; 90 % ellipses hold {100 * kept['ellipse_90']:.1f} % of the joints")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


@app.command()
def blend(
    first: Annotated[Path, typer.Argument(help="A checkpoint.")],
    second: Annotated[Path, typer.Argument(help="A checkpoint of a run that went on from the first.")],
    out: Annotated[Path, typer.Argument(help="The checkpoint to write, NAME.ckpt.")],
    share: Annotated[float, typer.Option(min=0, max=1, help="How much of the second: 0 is the first.")] = 0.5,
) -> None:
    """Write the weights between those of two runs: often most of what the second gained, little of what it lost."""
    from trainer.blend import blend as between

    if out.suffix != ".ckpt":
        raise EdgeposeError(f"{out}: a checkpoint's file name ends in .ckpt")
    between(first, second, share, out)
    typer.echo(f"wrote {out}: {1 - share:g} of {first}, {share:g} of {second}")


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint written by fit.")],
    out: Annotated[Path, typer.Argument(help="The bundle to write, NAME.onnx.")],
    data_root: Root = None,
    fit_on: Annotated[
        list[str] | None,
        typer.Option(help="DATA@SPLIT on which scores and covariances are fitted; may be repeated."),
    ] = None,
    measure_on: Annotated[
        list[str] | None, typer.Option(help="DATA@SPLIT whose accuracy goes into the manual; may be repeated.")
    ] = None,
    terms: Annotated[str, typer.Option(help="Terms of use, kept in the bundle.")] = "",
    description: Annotated[str, typer.Option(help="What the model is, kept in the bundle.")] = "",
    guesses: Guesses = None,
) -> None:
    """Write a checkpoint's weights (their moving average at the end) as a bundle, checked against the network."""
    from trainer import export as poses
    from trainer.data.splits import say_without_split
    from trainer.finder import commands as finders
    from trainer.finder import export as people

    if out.suffix != ".onnx":
        raise EdgeposeError(f"{out}: a bundle's file name ends in .onnx")
    say_without_split("--measure-on", measure_on)
    about: dict[str, Any] = {"root": data_root, "terms": terms, "description": description}
    if finders.is_finder(str(checkpoint)):
        if fit_on:
            raise EdgeposeError(f"{checkpoint} is a person finder's, which has no scores of joints; leave out --fit-on")
        bundle = people.export(checkpoint, out, measure_on=finders.scene_sets(measure_on or [], guesses), **about)
    else:
        _refuse_guesses(str(checkpoint), guesses)
        say_without_split("--fit-on", fit_on)
        bundle = poses.export(checkpoint, out, fit_on=_sets(fit_on), measure_on=_sets(measure_on), **about)
        if not fit_on:
            typer.echo(f"note: without --fit-on the scores in {out} are heatmaps' peaks, and ellipses promise nothing; "
                       "'edgepose run' takes scores for probabilities, and may see nobody", err=True)  # fmt: skip
    _say_written(bundle)


@app.command()
def refit(
    model: Annotated[str, typer.Argument(help="A pose bundle's name or .onnx file.")],
    out: Annotated[Path, typer.Argument(help="The bundle to write, NAME.onnx.")],
    fit_on: Annotated[
        list[str], typer.Option(help="DATA@SPLIT on which scores and covariances are fitted; may be repeated.")
    ],
    data_root: Root = None,
    measure_on: Annotated[
        list[str] | None, typer.Option(help="DATA@SPLIT whose accuracy goes into the manual; may be repeated.")
    ] = None,
    mirror_ratio: Annotated[
        float | None,
        typer.Option(help="Share of the first peak from which a second one keeps left and right apart; 0: none does.  "
                     "[default: as the bundle has it]", min=0, max=1),
    ] = None,
) -> None:  # fmt: skip
    """Fit a bundle's scores and covariances to your own labelled persons; its weights stay as they are."""
    from trainer import export as poses
    from trainer.data.splits import say_without_split

    if out.suffix != ".onnx":
        raise EdgeposeError(f"{out}: a bundle's file name ends in .onnx")
    say_without_split("--fit-on", fit_on)
    say_without_split("--measure-on", measure_on)
    bundle = poses.refit(
        model, out, _sets(fit_on), root=data_root, measure_on=_sets(measure_on), mirror_ratio=mirror_ratio
    )
    _say_written(bundle)


def _say_written(bundle: Bundle) -> None:
    size = bundle.path.stat().st_size / 1e6
    typer.echo(f"wrote {bundle.path}: {bundle.manual.name}, {size:.2f} MB, sha256 {bundle.sha256[:12]}")
    for row in bundle.manual.accuracy:
        typer.echo(f"  {row.data} ({row.split}, {row.persons} persons): {row.figures}")


def _refuse_guesses(model: str, guesses: list[str] | None) -> None:
    if guesses:
        raise EdgeposeError(f"{model} is a pose model; leave out --guesses, which is of person finders")


def _sets(texts: list[str] | None, split: str = "all") -> list[Any]:
    """Of each DATA@SPLIT; ``split`` is that of those that name none."""
    from edgepose.validation import validate
    from trainer.data.splits import SPLITS, of_split
    from trainer.recipe import DataSet

    sets = []
    for text in texts or []:
        data, own = of_split(text)
        if (own or split) not in SPLITS:
            raise unknown("split", own or split, SPLITS)
        sets.append(validate(DataSet, {"data": data, "split": own or split}, f"'{text}'"))
    return sets


@data_app.command("check")
def data_check(
    data: Annotated[str, typer.Argument(help="DIR | lsp:DIR | coco:JSON:IMAGES | mpii:FILE:IMAGES | synth:COUNT")],
    data_root: Root = None,
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet of labelled persons to this PNG.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Count, and look for missing files, joints outside their image, duplicates; exit 1 where something is wrong."""
    from dataclasses import asdict

    from trainer.data import check, load
    from trainer.grid import require_picture

    require_picture(sheet)
    persons = load(data, data_root)
    found = check.check(persons)
    if sheet is not None:
        check.sheet(persons, sheet)
    typer.echo(json.dumps(asdict(found)) if as_json else found.in_words())
    if not found.clean:
        raise typer.Exit(1)


@data_app.command("clean")
def data_clean(
    data: Annotated[str, typer.Argument(help="DIR | lsp:DIR | coco:JSON:IMAGES | mpii:FILE:IMAGES | synth:COUNT")],
    out: Annotated[Path, typer.Option(help="The file of corrections (.csv), for data.corrections in a recipe.")],
    model: Annotated[str, typer.Option(help="The bundle that judges: a shipped one's name, or a file.")] = "edgepose-l",
    data_root: Root = None,
    split: Annotated[str, typer.Option(help="train | dev | val | all; leave alone what you measure on.")] = "train",
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet of corrected persons to this PNG.")] = None,
    engine: Annotated[str, typer.Option(help="auto | openvino | onnxruntime | tensorrt | reference")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0: the engine's choice.")] = 0,
) -> None:
    """Find labels that a trained network contradicts: sides exchanged, joints on another limb or another person."""
    from trainer import clean as cleaner
    from trainer.data import cleaning
    from trainer.data.module import everybody
    from trainer.evaluate import open_estimator
    from trainer.grid import require_picture

    require_picture(sheet)
    (spec,) = _sets([f"{data}@{split}"])
    estimator = open_estimator(model, engine, threads, second_look=True)
    persons = everybody(spec, estimator.skeleton, data_root)
    found = cleaner.clean(persons, estimator)
    cleaning.write(found.corrections, out)
    typer.echo(f"{found.summary()}\nwrote {out}")
    if sheet is not None and found.corrections:
        cleaner.sheet(found, persons, sheet)
        typer.echo(f"wrote {sheet}")
    elif sheet is not None:
        typer.echo("no sheet: there is nothing to show")


@app.command()
def profile(
    recipe: Annotated[str, typer.Argument(help="RECIPE.toml, or the name of a shipped recipe.")],
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    repeats: Annotated[int, typer.Option(min=1, help="Turns of the timing.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """What a recipe's network costs: parameters, MACs, memory, CPU latency in FP32 and INT8, Jetson estimates."""
    from dataclasses import asdict

    from trainer.profile.report import profile as measure
    from trainer.profile.report import show
    from trainer.recipe import load

    found = measure(load(_recipe_file(recipe)), threads=threads, repeats=repeats)
    if as_json:
        typer.echo(json.dumps(asdict(found)))
    else:
        show(found)


@app.command()
def explain(
    model: Annotated[str, typer.Argument(help="A checkpoint (.ckpt), or a bundle (without projections).")],
    data: Annotated[str, typer.Option(help="Persons to explain it on: lsp:DIR | coco:JSON:IMAGES | synth:COUNT ...")],
    out: Annotated[Path, typer.Option(help="The report: .html, or .png for one tall picture.")],
    data_root: Root = None,
    split: Annotated[str, typer.Option(help="train | dev | val | all")] = "all",
    count: Annotated[int, typer.Option(min=1, help="Persons drawn.")] = 6,
    layer: Annotated[list[str] | None, typer.Option(help="Module path, e.g. stem.1; may be repeated.")] = None,
    joint: Annotated[list[str] | None, typer.Option(help="Joint to occlude and project; may be repeated.")] = None,
    channels: Annotated[int, typer.Option(min=1, help="Channels of a layer.")] = 8,
    patch_images: Annotated[int, typer.Option(min=1, help="Persons searched for the top nine patches.")] = 200,
    square: Annotated[int, typer.Option(min=0, help="Side of the occluding square, pixels; 0: a sixth.")] = 0,
    step: Annotated[int, typer.Option(min=0, help="Step of the occluding square, pixels; 0: a sixteenth.")] = 0,
) -> None:
    """What a network looks at: heatmaps, attention, occlusion, and features projected back to pixels."""
    from trainer.explain import explain as write

    path = write(
        model,
        data,
        out,
        root=data_root,
        split=split,
        count=count,
        layers=layer,
        joints=joint,
        channels=channels,
        patch_images=patch_images,
        square=square,
        step=step,
    )
    typer.echo(f"wrote {path}")


@app.command()
def compare(
    recipes: Annotated[list[str], typer.Argument(help="RECIPE or RECIPE@STACKS whose networks are compared.")],
    out: Annotated[Path, typer.Option(help="Folder for the runs, table.md and pareto.png; goes on where it was.")],
    measure_on: Annotated[str, typer.Option(help="DATA@SPLIT whose accuracy is tabled.")],
    common: Annotated[str, typer.Option(help="Recipe that gives data, size, images, optimiser to all.")] = "common",
    macs: Annotated[int, typer.Option(min=1, help="Million multiply-accumulates that each network may cost.")] = 80,
    data_root: Root = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0: torch's choice, and 2 for latency.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Processes that make samples.")] = 1,
) -> None:
    """Train recipes' networks at one equal small budget and write the table and its Pareto plot."""
    from trainer.compare import compare as run
    from trainer.compare import fewer_stacks
    from trainer.data.splits import of_split, say_without_split
    from trainer.recipe import load

    say_without_split("--measure-on", [measure_on])
    loaded = []
    for text in recipes:
        name, stacks = of_split(text)
        if stacks and not stacks.isdecimal():
            raise EdgeposeError(f"'{text}': what follows @ is a number of stacks; write e.g. {name}@2")
        loaded.append(fewer_stacks(load(_recipe_file(name)), int(stacks) if stacks else None))
    run(
        loaded,
        load(_recipe_file(common)),
        out,
        budget=macs * 1_000_000,
        measure_on=_sets([measure_on])[0],
        root=data_root,
        workers=workers,
        threads=threads,
    )
    typer.echo((out / "table.md").read_text() + f"look at {out / 'pareto.png'}")


@app.command()
def recipes() -> None:
    """List the shipped recipes."""
    from trainer.finder import recipe as finders
    from trainer.recipe import load

    for path in sorted(RECIPES.glob("*.toml")):
        if path.stem == "common":
            continue  # what 'compare' gives to all; no network of its own
        if _is_finders(path):
            finder = finders.load(path)
            model, about = finder.model, f"{finder.input_size[0]} x {finder.input_size[1]} px, finds people"
        else:
            recipe = load(path)
            model, about = recipe.model, f"{recipe.input_size} px, {recipe.skeleton}"
        typer.echo(f"{path.stem:14} {model.kind}, {model.stacks} x {model.width} channels of {model.block}, {about}")


def _is_finders(path: Path) -> bool:
    """Whether a recipe is a person finder's."""
    from edgepose.toml import read_toml

    return bool(read_toml(path).get("role") == "person")


if __name__ == "__main__":
    main()
