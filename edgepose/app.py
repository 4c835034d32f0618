"""Settings -> a running loop: opens what they name, watches signals, closes everything in order."""

from __future__ import annotations

import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from edgepose import bundle as bundles
from edgepose import engines, sources
from edgepose.bundle import Bundle
from edgepose.config import Settings, require_source
from edgepose.engines import Engine
from edgepose.estimator import Estimator
from edgepose.loop import Loop, Snapshot
from edgepose.mqtt import Broker, parse_broker
from edgepose.people.follow import SinglePerson
from edgepose.sinks import Sink
from edgepose.sinks.console import ConsoleSink
from edgepose.sinks.mqtt import MQTTSink
from edgepose.sinks.overlay import open_overlay
from edgepose.sinks.recording import RecordingSink
from edgepose.sources import Source


@dataclass(frozen=True)
class Parts:
    """What :func:`assembled` opened."""

    loop: Loop
    source: Source
    bundle: Bundle
    engine: Engine
    mqtt: MQTTSink | None


@contextmanager
def assembled(settings: Settings, *, extra_sinks: tuple[Sink, ...] = ()) -> Iterator[Parts]:
    """Everything that ``settings`` names, opened; closed in reverse order at the end, sinks drained.

    EdgeposeError: whatever cannot be opened, as a sentence.
    """
    spec = sources.parse(require_source(settings), camera=settings.source.camera or None)
    bundle = bundles.load(settings.model)
    with ExitStack() as stack:
        chosen = settings.engine
        options = engines.Options(chosen.threads, chosen.precision, chosen.device, chosen.build)
        engine = engines.load(bundle, chosen.name, options)
        stack.callback(engine.close)
        sinks: list[Sink] = [*extra_sinks]
        if settings.output.stdout:
            sinks.append(ConsoleSink(as_json=True))
        if settings.output.record:
            sinks.append(RecordingSink(Path(settings.output.record)))
        for sink in sinks:
            stack.callback(sink.close)
        overlay = None
        if settings.output.overlay:
            overlay = open_overlay(settings.output.overlay, bundle.skeleton)
            stack.callback(overlay.close)
        mqtt = _mqtt(settings, spec)
        if mqtt is not None:
            stack.callback(mqtt.close)
        source = _open(settings, spec, mqtt)
        stack.callback(source.close)
        tracker = SinglePerson(Estimator(engine, bundle.manual), run=uuid.uuid4().hex[:4])
        loop = Loop(
            source,
            tracker,
            bundle,
            engine,
            device=settings.device,
            sinks=sinks,
            mqtt=mqtt,
            overlay=overlay,
            stats_every=settings.output.stats_every,
        )
        yield Parts(loop, source, bundle, engine, mqtt)


def _open(settings: Settings, spec: sources.SourceSpec, mqtt: MQTTSink | None) -> Source:
    """The source; a camera that is lost is told to the broker and waited for."""

    def opened() -> Source:
        return sources.open_source(spec, backend=settings.source.backend)

    def on_state(state: sources.State, sentence: str) -> None:
        if mqtt is not None:
            mqtt.set_status(state, sentence if state == "camera-lost" else "")
        if state == "camera-lost":
            sys.stderr.write(f"camera lost: {sentence}; waiting for it\n")

    if not spec.live:
        return opened()
    return sources.Reconnecting(opened, camera=spec.camera, on_state=on_state)


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


def _mqtt(settings: Settings, spec: sources.SourceSpec) -> MQTTSink | None:
    """The link to the broker; one that refuses us is an error, one that is away is waited for."""
    mqtt = settings.mqtt
    if not mqtt.url:
        return None
    broker = broker_of(settings)
    sink = MQTTSink(
        broker,
        settings.device,
        spec.camera,
        status=("camera-lost", "no frame yet") if spec.live else ("online", ""),
        encoding=mqtt.encoding,
        qos=1 if mqtt.qos else 0,
        expiry_s=mqtt.expiry,
        queue_size=mqtt.queue,
    )
    try:
        if not sink.connect():
            sys.stderr.write(f"broker {broker}: {sink.reason or 'no answer yet'}; going on, and trying again\n")
    except BaseException:
        sink.close(0)
        raise
    return sink


class _StopRequested(BaseException):
    """A signal came before the loop ran; unwinds like KeyboardInterrupt, through everything that was opened."""


class Stopper:
    """What SIGINT and SIGTERM do: before the loop runs, unwind; after, ask it to stop. A second one ends at once."""

    def __init__(self) -> None:
        self._stop: Callable[[], None] | None = None

    def running(self, loop: Loop) -> None:
        """From now on a signal stops ``loop``."""
        self._stop = loop.stop

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        if self._stop is None:
            raise _StopRequested
        # In a thread of its own: the main thread may hold, right now, the locks that stopping takes.
        threading.Thread(target=self._stop, name="stop", daemon=True).start()


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stopping_on_signals() -> Iterator[Stopper]:
    """Handle SIGINT and SIGTERM inside; a stop that was asked for ends the block in peace."""
    stopper = Stopper()
    before = {each: signal.signal(each, stopper.handle) for each in _SIGNALS}
    try:
        yield stopper
    except _StopRequested:
        return
    finally:
        for each, old in before.items():
            signal.signal(each, old)


def run(settings: Settings, show: Callable[[Parts], Callable[[], None]] | None = None) -> Snapshot | None:
    """Run the loop to its end or to a signal; ``show(parts)`` gives what is called after every frame.

    The final state, after all sinks were drained; None where a signal came before the loop ran.
    """
    loop: Loop | None = None
    with stopping_on_signals() as stopper, assembled(settings) as parts:
        on_frame = show(parts) if show is not None else (lambda: None)
        stopper.running(parts.loop)
        loop = parts.loop
        loop.run(settings.max_frames, on_frame=on_frame)
    return loop.snapshot() if loop is not None else None
