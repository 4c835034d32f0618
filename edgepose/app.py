"""Settings -> a running loop: opens what they name, watches signals, closes everything in order."""

from __future__ import annotations

import os
import platform
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from edgepose import bundle as bundles
from edgepose import engines, sources
from edgepose.bundle import Bundle
from edgepose.camera import Camera, Snapshot, Speaking
from edgepose.config import CameraSettings, Settings, require_cameras
from edgepose.console import say
from edgepose.engines import Engine
from edgepose.engines.cpu import sums_exactly
from edgepose.errors import EdgeposeError
from edgepose.estimator import Estimator
from edgepose.files import real_path
from edgepose.loop import Loop
from edgepose.mqtt import Broker, parse_broker
from edgepose.people.crowd import Crowd, Everybody
from edgepose.people.finder import Finder
from edgepose.people.regions import Regions
from edgepose.people.single import OneEach
from edgepose.people.tracker import Following
from edgepose.signals import stopping_on_signals
from edgepose.sinks import Sink
from edgepose.sinks.console import ConsoleSink
from edgepose.sinks.mqtt import MQTTSink
from edgepose.sinks.overlay import Overlay, open_overlay
from edgepose.sinks.recording import RecordingSink
from edgepose.sources import Source, SourceSpec
from edgepose.sources.several import Several

CONNECT_S = 5.0  # what a broker is given to let us in before the first frame
_GLANCE_S = 0.2  # how long that is waited for before a signal is looked for


@dataclass(frozen=True)
class Parts:
    """What :func:`assembled` opened."""

    loop: Loop
    bundle: Bundle
    engine: Engine


@contextmanager
def assembled(
    settings: Settings, *, extra_sinks: tuple[Sink, ...] = (), check: Callable[[], None] = lambda: None
) -> Iterator[Parts]:
    """Everything that ``settings`` names, opened; closed in reverse order at the end, sinks drained.

    ``check`` is called now and then; what it raises ends the opening.
    EdgeposeError: whatever cannot be opened, as a sentence.
    """
    chosen = {spec.camera: (camera, spec) for camera, spec in _cameras(settings)}
    _spare_films(settings, chosen.values())
    bundle = bundles.load(settings.model, role="pose")
    with ExitStack() as stack:
        check()
        engine = _engine(settings, bundle, stack)
        check()
        regions = {name: camera.regions for name, (camera, _) in chosen.items()}
        estimator = Estimator(engine, bundle.manual, second_look=settings.people.second_look)
        crowd = _crowd(settings, estimator, regions, stack)
        sinks = _sinks(settings, extra_sinks, stack)
        speaking = Speaking(
            device=settings.device,
            bundle=bundle,
            engine=engine,
            stats_every=settings.output.stats_every,
            velocity=settings.people.velocity,
            predict_to=settings.people.predict_to,
            smoothing=settings.people.smoothing,
        )
        links: dict[str, MQTTSink] = {}
        faults: dict[str, str] = {}  # of cameras that ended by one
        if settings.mqtt.url:
            stack.push(partial(_say_goodbye, links, faults))
            broker = broker_of(settings)
            for name, (_, spec) in chosen.items():
                links[name] = _mqtt(settings, broker, spec, speaking)
            _connect(broker, links.values(), check)
        overlays: dict[str, Overlay] = {}
        for name, (camera, _) in chosen.items():
            if camera.overlay:
                overlays[name] = open_overlay(camera.overlay, bundle.skeleton)
                stack.callback(overlays[name].close)
        opened = {}
        for name, (camera, spec) in chosen.items():
            check()
            opened[name] = stack.enter_context(_open(camera, spec, links.get(name)))
        several = Several(opened, lambda name, fault: _ended(links.get(name), name, fault, faults))
        stack.callback(several.close)
        cameras = {
            name: Camera(
                opened[name],
                speaking,
                sinks=sinks,
                mqtt=links.get(name),
                overlay=overlays.get(name),
                gate=camera.gate,
                dropped=partial(several.dropped, name),
            )
            for name, (camera, _) in chosen.items()
        }
        yield Parts(Loop(several, crowd, cameras, overlap=settings.engine.overlap), bundle, engine)


def _cameras(settings: Settings) -> list[tuple[CameraSettings, SourceSpec]]:
    """Every camera and what its URI means."""
    return [(camera, sources.parse(camera.uri, camera=camera.name or None)) for camera in require_cameras(settings)]


def _engine(settings: Settings, bundle: Bundle, stack: ExitStack) -> Engine:
    chosen = settings.engine
    options = engines.Options(chosen.threads, chosen.precision, chosen.device, chosen.build, batches=(1, 2))
    if bundle.manual.role == "person":
        options = replace(options, batches=(1,))
        if "int8" in (chosen.precision, bundle.manual.precision):  # that is of the pose network; a file's is its own
            options = replace(options, precision="auto")
        of_dla = chosen.device.upper().startswith("DLA") and options.precision == "auto"
        if of_dla and bundle.manual.precision == "float32":  # which a DLA does not have
            options = replace(options, precision="float16")
        if settings.people.every > 1:
            options = replace(options, threads=threads_beside(chosen.threads))
    engine = engines.load(bundle, chosen.name, options)
    stack.callback(engine.close)
    return engine


def threads_beside(threads: int) -> int:
    """The finder's threads beside a pose network that has ``threads``, 0: its engine's own choice.

    With as many each would hold the other up.
    """
    # Half of the CPUs that the system counts may be all that there are (two for each core).
    return max(threads // 2 if threads else len(os.sched_getaffinity(0)) // 4, 1)


def finder_name(settings: Settings, engine: Engine) -> str:
    """The finder beside the pose network on ``engine``; ``auto`` is in INT8 where that is faster and as good."""
    if settings.people.finder != "auto":
        return settings.people.finder
    on_x86 = engine.name == "openvino" and platform.machine() == "x86_64" and sums_exactly()
    plain = settings.engine.precision == "auto" and settings.engine.device.upper() in ("AUTO", "CPU")
    return "edgepose-finder-int8" if on_x86 and plain else "edgepose-finder"


def _crowd(settings: Settings, estimator: Estimator, regions: dict[str, Regions], stack: ExitStack) -> Crowd:
    people = settings.people
    run = uuid.uuid4().hex[:8]
    if people.finder == "none":
        return OneEach(estimator, run, regions, smoothing=people.smoothing, hold_sides=people.hold_sides)
    bundle = bundles.load(finder_name(settings, estimator.engine), role="person")
    finder = Finder(_engine(settings, bundle, stack), bundle.manual, people.least)
    following = Following(every=people.every, confirm=people.confirm, patience=people.patience, most=people.most)
    everybody = Everybody(
        estimator,
        finder,
        run,
        regions,
        following=following,
        smoothing=people.smoothing,
        hold_sides=people.hold_sides,
        lying=people.second_look,
    )
    stack.callback(everybody.settle)  # before its finder's engine is closed
    return everybody


def _spare_films(settings: Settings, chosen: Iterable[tuple[CameraSettings, SourceSpec]]) -> None:
    """EdgeposeError where what is written would replace a film that is read, or the recording."""
    films = {real_path(spec.location) for _, spec in chosen if spec.kind == "file"}
    overlays, record = [camera.overlay for camera, _ in chosen if camera.overlay != "window"], settings.output.record
    for name in filter(None, [*overlays, record]):
        if real_path(name) in films:
            raise EdgeposeError(f"{name} is the film that is read, and would be replaced; write to another file")
    for name in filter(None, overlays):
        if record and real_path(name) == real_path(record):
            raise EdgeposeError(f"{name} is to be overlay and recording at once; give each a file of its own")


def _sinks(settings: Settings, extra: tuple[Sink, ...], stack: ExitStack) -> list[Sink]:
    """What takes every camera's messages."""
    sinks: list[Sink] = [*extra]
    if settings.output.stdout:
        sinks.append(ConsoleSink(as_json=True))
    if settings.output.record:
        sinks.append(RecordingSink(Path(settings.output.record)))
    for sink in sinks:
        stack.callback(sink.close)
    return sinks


def _open(camera: CameraSettings, spec: SourceSpec, mqtt: MQTTSink | None) -> Source:
    """The source; a camera that is lost is told to the broker and waited for."""

    def opened() -> Source:
        return sources.open_source(spec, backend=camera.backend, stall_timeout=camera.stall or None)

    def on_state(state: sources.State, sentence: str, new: bool) -> None:
        if mqtt is not None:
            mqtt.set_status(state, sentence if state == "camera-lost" else "")
        if state == "camera-lost" and new:
            say(f"camera {spec.camera} lost: {sentence}; waiting for it")

    if not spec.live:
        return opened()
    return sources.Reconnecting(opened, camera=spec.camera, on_state=on_state)


def _say_goodbye(
    links: dict[str, MQTTSink], faults: dict[str, str], _kind: object, error: BaseException | None, _trace: object
) -> None:
    """The last status: stopped, and by which fault where there was one: the camera's own, else the run's."""
    reason = ""
    if isinstance(error, Exception):
        reason = str(error) if isinstance(error, EdgeposeError) else f"unexpected fault: {type(error).__name__}"
    for camera, link in links.items():
        link.begin_close(reason=faults.get(camera, reason))
    for link in links.values():
        link.close()


def _ended(mqtt: MQTTSink | None, camera: str, fault: EdgeposeError | None, faults: dict[str, str]) -> None:
    """One of several cameras gives no more frames; the others go on. Its fault is kept for the last status."""
    if fault is not None:
        faults[camera] = str(fault)
        say(f"camera {camera} ended: {fault}; going on without it")
    if mqtt is None:
        return
    if fault is not None:
        mqtt.set_status("camera-lost", str(fault))
    else:
        mqtt.close()  # says 'stopped' when all poses were sent, not before


def broker_of(settings: Settings) -> Broker:
    """The broker that ``settings`` name, checked."""
    mqtt = settings.mqtt

    def path(text: str) -> Path | None:
        return Path(text) if text else None

    return parse_broker(
        mqtt.url,
        version=mqtt.version or None,
        cafile=path(mqtt.cafile),
        certfile=path(mqtt.certfile),
        keyfile=path(mqtt.keyfile),
        insecure=mqtt.insecure,
        password_file=path(mqtt.password_file),
    )


def _mqtt(settings: Settings, broker: Broker, spec: SourceSpec, speaking: Speaking) -> MQTTSink:
    """A camera's link to the broker, which has its info before any status says that poses come."""
    mqtt = settings.mqtt
    return MQTTSink(
        broker,
        settings.device,
        spec.camera,
        status=("camera-lost", "no frame yet") if spec.live else ("online", ""),
        info=speaking.info(spec.camera, spec.redacted(), live=spec.live),
        encoding=mqtt.encoding,
        qos=1 if mqtt.qos else 0,
        expiry_s=mqtt.expiry,
        queue_size=mqtt.queue,
    )


def _connect(broker: Broker, links: Iterable[MQTTSink], check: Callable[[], None]) -> None:
    """Wait once for all links: a broker that refuses us is an error, one that is away is told."""
    deadline = time.monotonic() + CONNECT_S

    def connected(link: MQTTSink) -> bool:
        while not link.connect(min(_GLANCE_S, max(0.0, deadline - time.monotonic()))):
            check()
            if time.monotonic() >= deadline:
                return False
        return True

    away = [link for link in links if not connected(link)]
    if away:
        say(f"{away[0].reason or f'{broker} does not answer yet'}; going on, and trying again")


def run(settings: Settings, show: Callable[[Parts], Callable[[], None]] | None = None) -> Snapshot | None:
    """Run the loop to its end or to a signal; ``show(parts)`` gives what is called after every frame.

    The final state, after all sinks were drained; None where a signal came before the loop ran.
    """
    loop: Loop | None = None
    with stopping_on_signals() as stopper, assembled(settings, check=stopper.check) as parts:
        on_frame = show(parts) if show is not None else (lambda: None)
        stopper.running(parts.loop.stop)
        loop = parts.loop
        loop.run(settings.max_frames, on_frame=on_frame)
    return loop.snapshot() if loop is not None else None
