"""``edgepose``: run, bench, listen, models, sources, config."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgepose import __version__, config, console
from edgepose.errors import EdgeposeError

if TYPE_CHECKING:
    from edgepose.camera import Snapshot

_OPTIONS = {
    "no_args_is_help": True,
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
}
app = typer.Typer(help="Live human pose on the edge: a camera goes in, joints come out over MQTT.", **_OPTIONS)  # type: ignore[arg-type]
models_app = typer.Typer(help="List the shipped models, or show one.", **{**_OPTIONS, "no_args_is_help": False})  # type: ignore[arg-type]
config_app = typer.Typer(help="The settings in force.", **_OPTIONS)  # type: ignore[arg-type]
app.add_typer(models_app, name="models", invoke_without_command=True)
app.add_typer(config_app, name="config")


def main() -> None:
    """Entry point of ``edgepose``."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # where its encoding lacks a character that others sent
    console.run(app)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"edgepose {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


# One definition per flag; commands share them. None: not given, so environment, file and default decide.
ConfigFile = Annotated[Path | None, typer.Option("--config", help="Settings file [edgepose.toml if it is here].")]
SourceUri = Annotated[str | None, typer.Option("--source", help="Camera or file: v4l2:///dev/video0, rtsp://, FILE.")]
Mqtt = Annotated[str | None, typer.Option("--mqtt", help="Broker: mqtt://[user@]host[:port]/[prefix], or mqtts://.")]
Model = Annotated[str | None, typer.Option("--model", help="A shipped model's name, or a bundle FILE.onnx.")]
EngineName = Annotated[str | None, typer.Option("--engine", help="auto, openvino, onnxruntime, tensorrt; reference.")]
Threads = Annotated[int | None, typer.Option("--threads", help="CPU threads of the engine; 0: its own choice.")]
Precision = Annotated[str | None, typer.Option("--precision", help="auto, float32, float16, bfloat16, int8.")]
EngineDevice = Annotated[str | None, typer.Option("--engine-device", help="The engine's own device name, e.g. GPU.")]
Build = Annotated[bool | None, typer.Option("--build/--no-build", help="If no TensorRT plan fits: build one, or end.")]
Overlap = Annotated[
    bool | None, typer.Option("--overlap/--no-overlap", help="Begin a film's next frames while the last one ends.")
]
Device = Annotated[str | None, typer.Option("--device", help="This machine's name in topics [host name].")]
Camera = Annotated[str | None, typer.Option("--camera", help="The camera's name in topics [from the URI].")]
Backend = Annotated[str | None, typer.Option("--backend", help="auto, gstreamer, pyav.")]
MaxFrames = Annotated[int | None, typer.Option("--max-frames", help="Stop after so many; 0: never.")]
Overlay = Annotated[str | None, typer.Option("--overlay", help="Draw into FILE.mp4, or a 'window'.")]
Record = Annotated[str | None, typer.Option("--record", help="Append every message but status to FILE.jsonl.")]
Stdout = Annotated[bool | None, typer.Option("--stdout", help="Print every message but status as a JSON line.")]
Qos = Annotated[int | None, typer.Option("--qos", help="MQTT QoS of poses: 0 or 1.")]
Encoding = Annotated[str | None, typer.Option("--encoding", help="json or cbor.")]
FinderName = Annotated[
    str | None,
    typer.Option("--finder", help="Finder's name or FILE.onnx; none: one person only [auto: the shipped one]."),
]
MostPeople = Annotated[int | None, typer.Option("--most", help="People at once, per camera [8].")]
SecondLook = Annotated[
    bool | None,
    typer.Option("--second-look/--no-second-look", help="Look again at people who lean far, turned upright [yes]."),
]
Smoothing = Annotated[str | None, typer.Option("--smoothing", help="off, one-euro, kalman [off].")]
Velocity = Annotated[bool | None, typer.Option("--velocity", help="Publish how fast joints move, too [no].")]
PredictTo = Annotated[
    str | None, typer.Option("--predict-to", help="acquired or publish: what time joints are of [acquired].")
]
Rate = Annotated[
    float | None,
    typer.Option("--rate", help="Messages per second at most, but for who comes or goes [0: every frame]."),
]
OnChange = Annotated[
    float | None, typer.Option("--on-change", help="Publish movements above this share of a person [0: all].")
]


@app.command()
def run(
    source: SourceUri = None,
    mqtt: Mqtt = None,
    config_file: ConfigFile = None,
    model: Model = None,
    engine: EngineName = None,
    threads: Threads = None,
    precision: Precision = None,
    engine_device: EngineDevice = None,
    build: Build = None,
    overlap: Overlap = None,
    device: Device = None,
    camera: Camera = None,
    backend: Backend = None,
    max_frames: MaxFrames = None,
    overlay: Overlay = None,
    record: Record = None,
    stdout: Stdout = None,
    qos: Qos = None,
    encoding: Encoding = None,
    finder: FinderName = None,
    most: MostPeople = None,
    second_look: SecondLook = None,
    smoothing: Smoothing = None,
    velocity: Velocity = None,
    predict_to: PredictTo = None,
    rate: Rate = None,
    on_change: OnChange = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print the source's exact pipeline and end.")] = False,
) -> None:
    """Stream a camera through the model and publish joints over MQTT."""
    flags = {
        "source.uri": source,
        "source.backend": backend,
        "source.camera": camera,
        "mqtt.url": mqtt,
        "mqtt.qos": qos,
        "mqtt.encoding": encoding,
        "model": model,
        "engine.name": engine,
        "engine.threads": threads,
        "engine.precision": precision,
        "engine.device": engine_device,
        "engine.build": build,
        "engine.overlap": overlap,
        "device": device,
        "max_frames": max_frames,
        "output.overlay": overlay,
        "output.record": record,
        "output.stdout": stdout,
        "people.finder": finder,
        "people.most": most,
        "people.second_look": second_look,
        "people.smoothing": smoothing,
        "people.velocity": velocity,
        "people.predict_to": predict_to,
        "gate.rate": rate,
        "gate.on_change": on_change,
    }
    _refuse_secrets(source)
    settings = config.load(flags, config_file).settings
    if explain:
        from edgepose import sources

        for each in config.require_cameras(settings):
            typer.echo(sources.explain(each.uri, backend=each.backend))
        return
    _require_output(settings)
    from edgepose.app import run as run_loop
    from edgepose.status import StatusLine

    with StatusLine() as line:
        end = run_loop(settings, line.attach)
    if end is not None:
        _summary(end)


def _refuse_secrets(source: str | None) -> None:
    """Everybody on this machine can read a command line."""
    from edgepose.redact import secrets_of
    from edgepose.sources import parse

    if source is None:
        return
    spec = parse(source, environ={})
    if spec.password or (spec.network and secrets_of(spec.location)):
        raise EdgeposeError("--source holds a password, which others on this machine can read; put name and password "
                            f"into EDGEPOSE_{spec.kind.upper()}_USER and EDGEPOSE_{spec.kind.upper()}_PASSWORD, or the "
                            "URL into a settings file or EDGEPOSE_SOURCE_URI")  # fmt: skip


def _require_output(settings: config.Settings) -> None:
    output = settings.output
    overlay = output.overlay or any(c.overlay for c in settings.camera)
    if not (settings.mqtt.url or overlay or output.record or output.stdout):
        raise EdgeposeError("nothing takes the poses; use --mqtt mqtt://HOST/, --overlay FILE.mp4, --record FILE.jsonl "
                            "or --stdout")  # fmt: skip


def _summary(end: Snapshot) -> None:
    console.say(
        f"{end.frames} frames in {end.seconds:.1f} s, a person in {end.frames_with_people} of them; dropped: "
        f"{end.dropped_frames} frames, {end.dropped_messages} messages"
    )


@app.command()
def bench(
    source: SourceUri = None,
    mqtt: Mqtt = None,
    config_file: ConfigFile = None,
    model: Model = None,
    engine: EngineName = None,
    threads: Threads = None,
    precision: Precision = None,
    build: Build = None,
    backend: Backend = None,
    max_frames: MaxFrames = None,
    finder: FinderName = None,
    most: MostPeople = None,
    second_look: SecondLook = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Time the whole loop on a file, stage by stage; warm-up left out."""
    flags = {
        "source.uri": source,
        "source.backend": backend,
        "mqtt.url": mqtt,
        "model": model,
        "engine.name": engine,
        "engine.threads": threads,
        "engine.precision": precision,
        "engine.build": build,
        "max_frames": max_frames,
        "people.finder": finder,
        "people.most": most,
        "people.second_look": second_look,
    }
    from edgepose.bench import apart
    from edgepose.bench import bench as measure

    _refuse_secrets(source)
    found = measure(apart(config.load(flags, config_file).settings, to_broker=mqtt is not None))
    typer.echo(json.dumps(found) if as_json else _bench_table(found), nl=True)


def _bench_table(found: dict[str, Any]) -> str:
    rows = [f"{'ms per frame':16}{'mean':>9}{'p50':>9}{'p95':>9}{'p99':>9}"]
    for stage, row in found["stages_ms"].items():
        rows.append(f"{stage:16}" + "".join(f"{row[k]:9.2f}" for k in ("mean", "p50", "p95", "p99")))
    rows.append(f"{found['fps']} fps over {found['frames']} frames (one after the other {found['fps_in_turn']}, "
                f"engine alone {found['engine_only_fps']}); "
                f"all but inference / inference: {found['rest_over_inference']}")  # fmt: skip
    rows.append(f"{found['model']}, {found['engine']} {found['precision']}, threads {found['threads'] or 'auto'}, "
                f"finder {found['finder']}, {found['machine']}")  # fmt: skip
    return "\n".join(rows)


@app.command()
def listen(
    mqtt: Mqtt = None,
    config_file: ConfigFile = None,
    device: Annotated[str | None, typer.Option(help="Only this device.")] = None,
    camera: Annotated[str | None, typer.Option(help="Only this camera.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line, for programs.")] = False,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many pose messages.")] = None,
    timeout: Annotated[float | None, typer.Option(min=0.1, help="End after so many seconds without poses.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Show one of so many pose messages of each camera.")] = 1,
    until_stopped: Annotated[bool, typer.Option("--until-stopped", help="End when a camera stops.")] = False,
) -> None:
    """Print what arrives from the broker."""
    from edgepose.app import broker_of
    from edgepose.listen import listen as follow

    settings = config.load({"mqtt.url": mqtt}, config_file).settings
    if not settings.mqtt.url:
        raise EdgeposeError("no broker was given; use --mqtt mqtt://HOST/")
    ending = follow(
        broker_of(settings),
        device=device,
        camera=camera,
        as_json=as_json,
        count=count,
        timeout_s=timeout,
        every=every,
        until_stopped=until_stopped,
    )
    if ending == "silence" and count is not None:
        raise EdgeposeError(f"no pose message came for {timeout:g} s, and fewer than {count} did in all")


@models_app.callback()
def models(context: typer.Context) -> None:
    """List the shipped models, or 'show' one."""
    if context.invoked_subcommand is not None:
        return
    from edgepose import bundle as bundles

    for name in bundles.shipped():
        bundle = bundles.load(name)
        manual = bundle.manual
        width, height = manual.input_size
        size = bundle.path.stat().st_size / 1e6
        typer.echo(f"{name:20} {manual.role:7} {manual.skeleton:8} {width}x{height}  {manual.precision}  {size:.1f} MB")
        for row in manual.accuracy:
            figures = ", ".join(f"{k} {v:.2f}" for k, v in row.figures.items() if v is not None)
            typer.echo(f"{'':20} {row.data} {row.split}, {row.persons} persons: {figures}")


@models_app.command()
def show(name: Annotated[str, typer.Argument(help="A shipped model's name, or a bundle FILE.onnx.")]) -> None:
    """Print a model's manual, as JSON."""
    from edgepose import bundle as bundles

    bundle = bundles.load(name)
    manual = bundle.manual.model_dump(mode="json", by_alias=True)
    typer.echo(json.dumps({"file": str(bundle.path), "sha256": bundle.sha256, **manual}, indent=2))


@app.command()
def sources() -> None:
    """List the cameras that are connected."""
    from edgepose.sources import cameras

    found = cameras()
    for camera in found:
        typer.echo(f"{camera.uri:28} {camera.name}  {camera.detail}")
    if not found:
        typer.echo("no camera found; a file, rtsp://, http:// or videotest:// works as --source, too", err=True)


@config_app.command("show")
def config_show(config_file: ConfigFile = None) -> None:
    """Print every setting in force and where its value comes from."""
    from edgepose.redact import redact_all

    found = config.load({}, config_file)
    for key in found.origins:
        value = json.dumps(redact_all(config.value_of(found.settings, key)))
        typer.echo(f"{key:22} = {value:32} # {found.origins[key]}")


if __name__ == "__main__":
    main()
