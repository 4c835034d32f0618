"""``edgepose-calibrate``: choose a calibration set, quantise, judge, compare runners, build engines."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgepose import console
from edgepose.errors import EdgeposeError, unknown
from edgepose.files import real_path

if TYPE_CHECKING:
    from edgepose.bundle import Bundle
    from trainer.data.persons import Person

app = typer.Typer(
    help="Calibrate INT8 engines that are as good as the float model, or say that they are not.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
Root = Annotated[
    Path | None,
    typer.Option("--data-root", envvar="EDGEPOSE_DATA", help="Folder that relative data paths count from."),
]
Data = Annotated[list[str], typer.Option("--data", help="DATA@SPLIT, as for edgepose-train; may be repeated.")]
JudgeOn = Annotated[
    list[str], typer.Option(help="DATA@SPLIT on which float and INT8 are compared; of several, on each.")
]
FloatBundle = Annotated[str, typer.Argument(help="The float bundle, by name or file.")]
Set = Annotated[Path, typer.Option("--set", help="What 'select' wrote.")]
Ranges = Annotated[str, typer.Option(help="How ranges are found: max | entropy | percentile | mse")]
LosePckh05 = Annotated[float, typer.Option(min=0, help="Points of PCKh@0.5 that may be lost.")]
LosePckh01 = Annotated[float, typer.Option(min=0, help="Points of PCKh@0.1 that may be lost.")]
LosePck02Torso = Annotated[float, typer.Option(min=0, help="Points of PCK@0.2 of the torso that may be lost.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0: the engine's choice.")]


def main() -> None:
    """Entry point of ``edgepose-calibrate``."""
    console.run(app, "trainer,calibration")


def persons_of(texts: list[str], skeleton: str, root: Path | None) -> list[Person]:
    """The persons of every DATA@SPLIT of ``texts``, in ``skeleton``; EdgeposeError where there is none."""
    return [person for persons in people_of(texts, skeleton, root).values() for person in persons]


def people_of(texts: list[str], skeleton: str, root: Path | None) -> dict[str, list[Person]]:
    """As :func:`persons_of`, by DATA@SPLIT. Groups are of scenes: no two sets have one in common."""
    from dataclasses import replace

    from edgepose import skeletons
    from edgepose.validation import validate
    from trainer.data.module import select as of_set
    from trainer.data.splits import join_twins, of_split
    from trainer.recipe import DataSet

    people = {}
    for text in texts:
        data, split = of_split(text)
        spec = validate(DataSet, {"data": data, "split": split or "all"}, f"'{text}'")
        chosen = of_set(spec, skeletons.get(skeleton), root)
        if spec.split == "all":  # only splits join them already
            chosen = join_twins(chosen)
        people[text] = [replace(person, group=f"{data}: {person.group}") for person in chosen.persons]
    return people


def _judges(judge_on: list[str], bundle: Bundle, root: Path | None) -> dict[str, list[Person]]:
    """The persons on whom float and INT8 are compared."""
    from trainer.data.splits import say_without_split

    say_without_split("--judge-on", judge_on)
    return people_of(judge_on, bundle.manual.skeleton, root)


def _say_same(drawn: list[str], judge_on: list[str]) -> None:
    """Tell where INT8 is judged on those whom its ranges are from."""
    from trainer.data.splits import of_split

    def alike(a: str, b: str) -> bool:
        (data, split), (other, others) = of_split(a), of_split(b)
        return data == other and (split == others or {split, others} & {"", "all"} != set())

    for text in sorted(set(judge_on)):
        for each in sorted({each for each in drawn if alike(text, each)}):
            console.say(f"note: ranges are from {each}, and INT8 is judged on {'it' if each == text else text} too; "
                        "it may be worse on others")  # fmt: skip


def _named(path: Path | None, suffix: str, what: str) -> None:
    """Look at a name before the work, not after it."""
    if path is not None and path.suffix != suffix:
        raise EdgeposeError(f"{path}: the file name of {what} ends in {suffix}")


def _bundle(name: str) -> Bundle:
    """A pose network's."""
    from edgepose import bundle

    found = bundle.load(name)
    if found.manual.role != "pose":
        raise EdgeposeError(f"{name} is a person finder, and this is for pose networks; see 'quantize-finder'")
    return found


@app.command()
def select(
    model: FloatBundle,
    out: Annotated[Path, typer.Argument(help="The calibration set to write, NAME.npz.")],
    data: Data,
    data_root: Root = None,
    count: Annotated[int, typer.Option(min=1, help="Crops to choose.")] = 128,
    method: Annotated[str, typer.Option(help="random | farthest | kmeans | dec | fcae")] = "kmeans",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Same seed, same set.")] = 0,
    clusters: Annotated[
        int, typer.Option(min=0, help="Clusters, for methods that cluster; 0: a quarter of --count.")
    ] = 0,
    features: Annotated[str, typer.Option(help="What is clustered: bottleneck | autoencoder.")] = "bottleneck",
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet of the clusters to this PNG.")] = None,
) -> None:
    """Choose which crops calibrate: a set that covers the poses, rare ones included."""
    from calibration import select as selection
    from calibration import sets
    from trainer.grid import require_picture

    _named(out, ".npz", "a calibration set")
    require_picture(sheet)
    bundle = _bundle(model)
    persons = persons_of(data, bundle.manual.skeleton, data_root)
    drawn = selection.select(
        bundle, persons, count, method=method, seed=seed, clusters=clusters, features=features, data=data
    )
    chosen = sets.save(drawn, out)
    if sheet is not None:
        selection.contact_sheet(drawn, sheet, drawn.sizes)
    typer.echo(f"wrote {out}: {len(chosen)} of {len(persons)} persons by {method}, sha256 {chosen.sha256[:12]}")


@app.command()
def quantize(
    model: FloatBundle,
    out: Annotated[Path, typer.Argument(help="The INT8 bundle to write, NAME.onnx.")],
    calibration_set: Set,
    judge_on: JudgeOn,
    data_root: Root = None,
    method: Ranges = "max",
    target: Annotated[str, typer.Option(help="tensorrt (OpenVINO too) | cpu (OpenVINO and onnxruntime)")] = "tensorrt",
    lose_pckh05: LosePckh05 = 0.5,
    lose_pckh01: LosePckh01 = 1.0,
    lose_pck02_torso: LosePck02Torso = 0.5,
    search: Annotated[bool, typer.Option(help="Rank the layers even where plain INT8 is good enough.")] = False,
    against: Annotated[str, typer.Option(help="Float bundle to compare accuracy with, if not the same.")] = "",
    report_to: Annotated[
        Path | None, typer.Option("--report", help="Write the page of this calibration, NAME.html.")
    ] = None,
    threads: Threads = 0,
) -> None:
    """Quantise, judge, put layers back to float where needed; writes what is within budget, else exit 3."""
    from calibration import gate, sets
    from calibration import report as page
    from calibration.quantize import TARGETS
    from calibration.sensitivity import Budget

    _named(out, ".onnx", "a bundle")
    _named(report_to, ".html", "a report")
    if target not in TARGETS:
        raise unknown("target", target, TARGETS)
    if search and target == "cpu":
        raise EdgeposeError("--search ranks the layers that could go back to float, and with --target cpu none does; "
                            "leave one of them out")  # fmt: skip
    bundle, reference = _bundle(model), _bundle(against) if against else None
    if real_path(str(out)) in {real_path(str(b.path)) for b in (bundle, reference) if b is not None}:
        raise EdgeposeError(f"{out} is the float bundle itself; write the INT8 bundle to another file")
    chosen = sets.load(calibration_set)
    _say_same(chosen.about.data, judge_on)
    outcome = gate.calibrate(
        bundle,
        chosen,
        _judges(judge_on, bundle, data_root),
        out,
        against=reference,
        method=method,
        budget=Budget(lose_pckh05, lose_pckh01, lose_pck02_torso),
        target=TARGETS[target],
        threads=threads,
        search=search,
    )
    if report_to is not None:
        page.write(outcome, report_to, threads=threads)
    if outcome.fault:
        raise gate.refuse(outcome)
    typer.echo(f"wrote {out}: {outcome.sentence()}")


@app.command("quantize-finder")
def quantize_finder(
    model: Annotated[str, typer.Argument(help="The float person finder, by name or file.")],
    out: Annotated[Path, typer.Argument(help="The INT8 bundle to write, NAME.onnx.")],
    data: Annotated[
        list[str], typer.Option("--data", help="DATA@SPLIT whose images give the ranges; may be repeated.")
    ],
    judge_on: Annotated[
        list[str], typer.Option(help="DATA@SPLIT on whose people float and INT8 are compared; of several, on each.")
    ],
    guesses: Annotated[
        list[str] | None,
        typer.Option(help="What other models saw in the images: a file for each --judge-on, in the same order."),
    ] = None,
    data_root: Root = None,
    count: Annotated[int, typer.Option(min=1, help="Images that the ranges are taken from.")] = 128,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Same seed, same images.")] = 0,
    method: Ranges = "max",
    lose_ap: Annotated[float, typer.Option(min=0, help="Points of average precision that may be lost.")] = 0.5,
    threads: Threads = 0,
) -> None:
    """A person finder in INT8, judged by whom it finds; writes what is within budget, else exit 3."""
    from calibration import finders
    from calibration.quantize import check
    from edgepose import bundle as bundles
    from trainer.data.splits import say_without_split
    from trainer.finder.commands import scene_sets
    from trainer.finder.scenes import read

    _named(out, ".onnx", "a bundle")
    bundle = bundles.load(model, role="person")
    if real_path(str(out)) == real_path(str(bundle.path)):
        raise EdgeposeError(f"{out} is the float bundle itself; write the INT8 bundle to another file")
    check(bundle, method)
    for option, texts in (("--data", data), ("--judge-on", judge_on)):
        if len(set(texts)) < len(texts):
            raise EdgeposeError(f"{option} names a set twice; name each once")
    say_without_split("--judge-on", judge_on)
    _say_same(data, judge_on)
    pools = {text: read(spec, data_root) for text, spec in zip(data, scene_sets(data, None), strict=True)}
    judges = {t: read(spec, data_root) for t, spec in zip(judge_on, scene_sets(judge_on, guesses), strict=True)}
    chosen = finders.drawn(pools, bundle.manual, count, seed)
    outcome = finders.calibrate(bundle, chosen, judges, out, method=method, lose_ap=lose_ap, threads=threads)
    typer.echo(f"wrote {out}: {outcome.sentence()}")


@app.command()
def sensitivity(
    model: FloatBundle,
    calibration_set: Set,
    judge_on: JudgeOn,
    data_root: Root = None,
    method: Ranges = "max",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
    threads: Threads = 0,
) -> None:
    """What does quantising each layer alone do to the joints; the most harmful layer first."""
    from calibration import gate, sets
    from calibration.sensitivity import show

    bundle = _bundle(model)
    people = _judges(judge_on, bundle, data_root)
    ranked = gate.rank(bundle, sets.load(calibration_set), people, method=method, threads=threads)
    if as_json:
        typer.echo(json.dumps([asdict(s) for s in ranked]))
    else:
        show(ranked)


@app.command()
def report(
    model: FloatBundle,
    int8: Annotated[str, typer.Argument(help="The INT8 bundle that was made from it.")],
    out: Annotated[Path, typer.Argument(help="The page to write, NAME.html.")],
    calibration_set: Annotated[Path, typer.Option("--set", help="The set that it was made with.")],
    judge_on: JudgeOn,
    data_root: Root = None,
    layers: Annotated[bool, typer.Option(help="Rank the layers too, which takes a run for each.")] = False,
    lose_pckh05: LosePckh05 = 0.5,
    lose_pckh01: LosePckh01 = 1.0,
    lose_pck02_torso: LosePck02Torso = 0.5,
    threads: Threads = 2,
) -> None:
    """One page about a calibration: its set, accuracy by joint and group, latency, ranges, the worst crops."""
    from calibration import gate, sets
    from calibration import report as page
    from calibration.sensitivity import Budget

    _named(out, ".html", "a report")
    bundle = _bundle(model)
    outcome = gate.judged(
        bundle,
        _bundle(int8),
        sets.load(calibration_set),
        _judges(judge_on, bundle, data_root),
        budget=Budget(lose_pckh05, lose_pckh01, lose_pck02_torso),
        threads=threads,
        search=layers,
    )
    page.write(outcome, out, threads=threads)
    typer.echo(f"wrote {out}: {outcome.sentence()}")


@app.command()
def verify(
    a: Annotated[str, typer.Argument(help="MODEL[@ENGINE[/PRECISION]]: bundle or checkpoint.")],
    b: Annotated[str, typer.Argument(help="The same, of the runner to compare with it.")],
    data: Data,
    data_root: Root = None,
    lose_pckh05: LosePckh05 = 0.5,
    lose_pckh01: LosePckh01 = 1.0,
    lose_pck02_torso: LosePck02Torso = 0.5,
    repeats: Annotated[int, typer.Option(min=1, help="Turns of the timing.")] = 50,
    threads: Threads = 2,
    plot: Annotated[Path | None, typer.Option(help="Write the distribution of distances to this PNG.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Do two runners give the same joints, and what does each cost; exit 3 where b loses more than allowed.

    All --data together.
    """
    from calibration import gate
    from calibration import verify as verifying
    from calibration.judge import Judge
    from trainer.grid import require_picture

    require_picture(plot, drawn=True)
    first, second = verifying.open_runner(a, threads), verifying.open_runner(b, threads)
    judge = Judge(persons_of(data, first.manual.skeleton, data_root), first.manual)
    found = verifying.compare(first, second, judge, repeats=repeats, threads=threads)
    if as_json:
        typer.echo(json.dumps(asdict(found)))
    else:
        verifying.show(found)
    if plot is not None:
        verifying.plot(first, second, judge, plot)
    fault = found.fault({"pckh05": lose_pckh05, "pckh01": lose_pckh01, "pck02_torso": lose_pck02_torso})
    if fault:
        raise gate.BudgetError(fault)


@app.command()
def build(
    model: Annotated[str, typer.Argument(help="The bundle, by name or file; its own precision unless you choose.")],
    out: Annotated[Path | None, typer.Argument(help="The plan to write, NAME.plan [beside the bundle].")] = None,
    precision: Annotated[str, typer.Option(help="auto | float32 | float16 | bfloat16 | int8")] = "auto",
    calibration_set: Annotated[
        Path | None, typer.Option("--set", help="What 'select' wrote: int8 by TensorRT's own calibrator (8.6, 10).")
    ] = None,
    calibration_cache: Annotated[
        Path | None,
        typer.Option(help="What TensorRT's own calibrator found, read or written; enough where it is there."),
    ] = None,
    max_batch: Annotated[
        int | None, typer.Option(min=1, max=256, help="Most persons in one run; on a DLA always so many [8; DLA: 1].")
    ] = None,
    opt_batch: Annotated[int, typer.Option(min=1, max=256, help="Persons that the kernels are chosen for.")] = 1,
    workspace: Annotated[int, typer.Option(min=1, help="Scratch memory for a kernel, MiB.")] = 1024,
    dla: Annotated[int | None, typer.Option(min=0, help="Run on this DLA core, the rest on the GPU.")] = None,
    hardware: Annotated[str, typer.Option(help="this | same-capability | ampere+: GPUs that may run it.")] = "this",
    version_compatible: Annotated[bool, typer.Option("--version-compatible", help="Run on later versions.")] = False,
    weakly_typed: Annotated[bool, typer.Option("--weakly-typed", help="Precision by flags, not by types.")] = False,
    effort: Annotated[int | None, typer.Option(min=0, max=5, help="Builder optimisation level.")] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="A GPU to build for without having it, SM86 and the like (TensorRT-RTX); may be repeated."),
    ] = None,
    timing_cache: Annotated[Path | None, typer.Option(help="Where kernel timings are kept [the cache].")] = None,
    print_trtexec: Annotated[bool, typer.Option("--print-trtexec", help="Print trtexec's line, and end.")] = False,
) -> None:
    """Build a TensorRT plan with its manifest, for the machine that this runs on."""
    from calibration import sets
    from edgepose import bundle as bundles
    from edgepose import plans
    from edgepose.engines import trt_build, trt_library, trt_precision
    from edgepose.validation import validate

    bundle = bundles.load(model)
    most = max_batch or (8 if dla is None else 1)  # one person must not cost a DLA eight crops
    wish = {"precision": precision, "max_batch": most, "opt_batch": opt_batch, "workspace_mb": workspace,
            "dla_core": dla, "hardware": hardware, "version_compatible": version_compatible, "effort": effort,
            "strongly_typed": not weakly_typed, "targets": target or []}  # fmt: skip
    wanted = validate(plans.Wanted, wish, "build")
    plan = out or bundle.path.with_suffix(".plan")
    _named(plan, ".plan", "a plan")
    if print_trtexec:
        if calibration_set is not None:
            raise EdgeposeError("trtexec reads no calibration set; build with --set and --calibration-cache first, "
                                "then give it that cache")  # fmt: skip
        trt = trt_library.library() if trt_library.installed() == "tensorrt" else None
        cache = str(calibration_cache or "")
        typer.echo(trt_precision.trtexec_line(bundle, wanted, plan=str(plan), calibration_cache=cache, trt=trt))
        return
    chosen = sets.load(calibration_set) if calibration_set is not None else None
    if chosen is not None:
        sets.refuse_other(chosen, bundle)
    made = trt_build.build(
        bundle,
        plan,
        wanted,
        calibration=chosen.crops if chosen else None,
        calibration_sha256=chosen.sha256 if chosen else "",
        calibration_cache=calibration_cache,
        timing_cache=timing_cache,
    )
    typing = "strongly typed" if made.strongly_typed else f"flags {', '.join(made.flags) or 'none'}"
    machine = made.machine
    typer.echo(f"wrote {plan}: {made.precision} ({typing}), {machine.library} {machine.tensorrt} for "
               f"{machine.gpu or ', '.join(wanted.targets)}, {made.build_seconds:.0f} s")  # fmt: skip


if __name__ == "__main__":
    main()
