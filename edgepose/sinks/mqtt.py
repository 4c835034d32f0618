"""Messages to an MQTT broker, through every way in which a broker can be away.

One thread connects, publishes and reconnects. Whoever publishes only puts bytes into a bounded queue, out of
which the oldest frame falls when it is full: after an outage the newest frames matter. What is retained (info,
status) is said again on every connection.
"""

from __future__ import annotations

import hashlib
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from edgepose.backoff import Backoff
from edgepose.errors import EdgeposeError
from edgepose.messages import (
    CONTENT_TYPES,
    Encoding,
    Info,
    Message,
    PoseMessage,
    Stats,
    Status,
    StatusState,
    encode,
    topics,
)
from edgepose.mqtt import TRANSIENT, Broker, GarbledError, LostError, Packet, RefusedError, Session, TooLargeError
from edgepose.redact import without_secrets

log = logging.getLogger(__name__)

State = Literal["connecting", "online", "refused", "lost", "stopped"]
BACKOFF = Backoff(0.5, 30.0)
MAX_INFLIGHT = 10  # QoS 1 publications that wait for the broker's word
UNACKNOWLEDGED_S = 20.0  # after which the broker will not do so any more: what is lost fills MAX_INFLIGHT for ever
STABLE_S = 5.0  # a connection that held this long starts the back-off anew
CLOCK_SET_NS = 5_000_000_000  # by which a clock moves that was set, and no other
_LAST_TRIES_S = 0.1  # between tries to connect when it is to end
FAREWELL_S = 0.3  # for the last status, after the queue was drained


def client_id(device: str, camera: str, prefix: str = "edgepose") -> str:
    """``edgepose-<device>-<camera>``; a long one is cut to 64 characters.

    One that was cut, whose device has a '-' so that it could be read as another pair's, or whose topics begin with a
    ``prefix`` of their own, as where two sites share a broker, stays its own by a hash.
    """
    name = f"edgepose-{device}-{camera}"
    if len(name) <= 64 and "-" not in device and prefix == "edgepose":
        return name
    whole = f"{device}/{camera}" if prefix == "edgepose" else f"{prefix}/{device}/{camera}"
    return f"{name[:55]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def _running_ns() -> int:
    """A clock that nobody sets, and that goes on while a board sleeps."""
    return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class MQTTSink:
    """Publishes one camera's messages. ``publish`` and ``set_...`` never block and may be called by any thread.

    ``state`` and ``reason`` say how the link does; it is ``online`` once the broker has accepted the status message.
    ``dropped`` counts pose messages that were not sent.
    """

    def __init__(
        self,
        broker: Broker,
        device: str,
        camera: str,
        *,
        encoding: Encoding = "json",
        qos: Literal[0, 1] = 0,
        expiry_s: int = 10,
        queue_size: int = 64,
        keepalive_s: int = 15,
        status: tuple[StatusState, str] = ("online", ""),
        info: Info | None = None,
        backoff: Backoff = BACKOFF,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        if qos not in (0, 1):
            raise EdgeposeError(f"MQTT QoS {qos} is not offered; choose 0 or 1")
        if encoding not in CONTENT_TYPES:
            raise EdgeposeError(f"encoding '{encoding}' is not known; choose {' or '.join(CONTENT_TYPES)}")
        if expiry_s < 1 or queue_size < 1 or keepalive_s < 1:
            raise EdgeposeError("the message expiry, the queue size and the keep-alive must be 1 or more")
        if broker.tls:
            broker.tls_context()  # a missing file is told now, not from the thread
        self.topics = topics(broker.prefix, device, camera)
        self.dropped = 0
        self._connections = 0
        self._broker, self._device, self._camera = broker, device, camera
        self._client_id = client_id(device, camera, broker.prefix)
        self._encoding, self._qos, self._expiry_s, self._keepalive_s = encoding, qos, expiry_s, keepalive_s
        self._backoff, self._clock, self._queue_size = backoff, clock, queue_size
        self._lock = threading.Condition()
        self._state: State = "connecting"
        self._reason = ""
        self._queue: deque[tuple[float, Packet]] = deque()  # (when queued, monotonic s; message), oldest first
        self._retained: dict[str, Packet] = {}  # topic -> what a new connection must say
        self._due: dict[str, Packet] = {}  # topic -> newest not yet sent, of info, status and stats
        self._inflight: dict[int, tuple[float, Packet]] = {}  # message id -> sent with QoS 1, not yet acknowledged
        self._handed: dict[int, float] = {}  # message id -> since when that waits, monotonic s; oldest first
        self._stop = threading.Event()
        self._drain_until = 0.0
        self._give_up = 0.0  # when the thread is not waited for any more, monotonic s
        self._ended = False
        self._farewell = ""  # the reason of 'stopped'
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._thread = threading.Thread(target=self._run, name=f"mqtt {device}/{camera}", daemon=True)
        # The state, and when it began: UTC as it was told, and by the running clock; nanoseconds.
        self._since: tuple[StatusState, int, int] = (status[0], clock(), _running_ns())
        self._status_reason = ""
        if info is not None:
            self.set_info(info)
        self.set_status(*status)
        self._thread.start()

    @property
    def state(self) -> State:
        """connecting, online, refused, lost or stopped."""
        return self._state

    @property
    def reason(self) -> str:
        """Why it is not online: a sentence, or empty."""
        return self._reason

    @property
    def reconnects(self) -> int:
        """Connections after the first."""
        return max(0, self._connections - 1)

    def connect(self, timeout_s: float = 5.0) -> bool:
        """Wait until the broker has let us in; False when it is not there yet (see ``reason``): trying goes on.

        EdgeposeError when the broker refuses us, or TLS does: somebody must put that right.
        """
        with self._lock:
            self._lock.wait_for(lambda: self._state in ("online", "refused", "stopped"), timeout_s)
            if self._state == "refused":
                raise EdgeposeError(self._reason)
            return self._state == "online"

    def publish(self, message: Message) -> None:
        """Queue a pose message, or replace what is retained or still waiting of the other kinds."""
        if isinstance(message, PoseMessage):
            self.publish_pose(message)
        elif isinstance(message, Stats):
            self.publish_stats(message)
        elif isinstance(message, Info):
            self.set_info(message)
        else:
            self._set_due(self._packet(self.topics.status, message), retained=True)

    def publish_pose(self, message: PoseMessage) -> None:
        """Queue one frame's message; when the queue is full, the oldest falls out and is counted."""
        packet = replace(self._packet(self.topics.poses, message), qos=self._qos, expiry_s=self._expiry_s)
        with self._lock:
            if len(self._queue) >= self._queue_size or self._stop.is_set():
                self.dropped += 1
            if self._stop.is_set():
                return
            if len(self._queue) >= self._queue_size:
                self._queue.popleft()
            self._queue.append((time.monotonic(), packet))
        self._wake()

    def publish_stats(self, message: Stats) -> None:
        """Send the statistics; of several that wait, only the newest is sent."""
        self._set_due(self._packet(self.topics.stats, message), retained=False)

    def set_info(self, message: Info) -> None:
        """Retain the info message, now and on every new connection."""
        self._set_due(self._packet(self.topics.info, message), retained=True)

    def set_status(self, state: StatusState, reason: str = "") -> None:
        """Retain the camera's status; a new connection says it again. A new reason leaves since when it is so."""
        with self._lock:  # until it is due: of two threads the later one's is the newest
            if self._since[0] != state:
                self._since = state, self._clock(), _running_ns()
            self._status_reason = without_secrets(reason)
            self._set_due(self._status(state, self._status_reason, self._since[1]), retained=True)

    def close(self, drain_s: float = 1.0, *, reason: str = "") -> None:
        """Send what is queued for up to ``drain_s``, then ``stopped``, and disconnect; gives up after 0.5 s more.

        ``reason``: the fault for which it ends, if it is one. Of several sinks each is to ``begin_close`` before one is
        waited for.
        """
        self.begin_close(drain_s, reason=reason)
        self._thread.join(max(0.0, self._give_up - time.monotonic()))
        with self._lock:
            if self._ended:
                return
            self._ended = True
            self.dropped += len(self._queue)
            self._queue.clear()
        self._show("stopped", "")

    def begin_close(self, drain_s: float = 1.0, *, reason: str = "") -> None:
        """As ``close``, but nothing is waited for."""
        with self._lock:
            if self._stop.is_set():
                return
            self._farewell = without_secrets(reason)
            self._drain_until = time.monotonic() + drain_s
            self._give_up = self._drain_until + 0.5
            self._stop.set()
        self._wake()

    def _put_right(self) -> None:
        """Say anew since when the state is what it is, where the clock was set: a board may learn the time late."""
        with self._lock:
            state, told_ns, begun_ns = self._since
            since_ns = max(0, self._clock() - (_running_ns() - begun_ns))
            if abs(since_ns - told_ns) > CLOCK_SET_NS:
                self._since = state, since_ns, begun_ns
                self._set_due(self._status(state, self._status_reason, since_ns), retained=True)

    def _packet(self, topic: str, message: Message) -> Packet:
        return Packet(
            topic,
            encode(message, self._encoding),
            qos=1,
            content_type=CONTENT_TYPES[self._encoding],
            schema=message.schema_,
        )

    def _status(self, state: StatusState, reason: str, since_ns: int | None) -> Packet:
        status = Status(device=self._device, camera=self._camera, state=state, since_ns=since_ns, reason=reason)
        return replace(self._packet(self.topics.status, status), retain=True)

    def _set_due(self, packet: Packet, *, retained: bool) -> None:
        with self._lock:
            if self._stop.is_set():
                return
            packet = replace(packet, retain=retained)
            self._due[packet.topic] = packet
            if retained:
                self._retained[packet.topic] = packet
        self._wake()

    def _wake(self) -> None:
        try:
            self._wake_write.send(b"\0")
        except OSError:  # full: the thread is about to wake anyway; or closed: there is none
            return

    def _show(self, state: State, reason: str) -> None:
        with self._lock:
            if (state, reason) == (self._state, self._reason) or self._state == "stopped":
                return
            self._state, self._reason = state, reason
            self._lock.notify_all()
        log.log(logging.WARNING if reason else logging.INFO, "MQTT %s: %s", state, reason or self._broker)

    # What follows runs in the sink's own thread.

    def _run(self) -> None:
        failures = 0
        while not self._done():
            held = self._one_connection()
            self._take_back()
            failures = 1 if held else failures + 1
            self._stop.wait(self._backoff.delay(failures))
            if self._stop.is_set() and not self._done():  # that ended the wait at once
                time.sleep(_LAST_TRIES_S)
        self._wake_read.close()
        self._wake_write.close()

    def _done(self) -> bool:
        """Whether to try no more: it is to end, and there is nothing to send, nobody who takes it, or no time left."""
        waits = self._queue or self._connections  # who knows that we were online is to hear that we stopped
        vain = not waits or self._state == "refused"
        return self._stop.is_set() and (vain or time.monotonic() >= self._drain_until)

    def _one_connection(self) -> bool:
        """From connecting to the end of the connection; whether it held for a while."""
        self._denied, self._not_taken, self._large = set[str](), set[str](), False
        session, opened = None, time.monotonic()
        try:
            session = Session(
                self._broker,
                self._client_id,
                will=self._status("offline", "the connection to the device broke", None),
                keepalive_s=self._keepalive_s,
                on_acknowledged=self._acknowledged,
            )
            session.open()
            while not session.connected and not self._done():
                session.step(0.5 if not self._stop.is_set() else 0.05, self._wake_read)
            if session.connected:
                opened = time.monotonic()
                self._connections += 1
                self._serve(session)
        except RefusedError as error:
            self._show("refused", str(error))
        except LostError as error:
            reason = str(error)
            soon = session and session.connected and time.monotonic() - opened < STABLE_S
            if soon and not isinstance(error, GarbledError):
                reason += f"; if this goes on, look for another client named {self._client_id}"
            if not self._stop.is_set():  # else it is the broker's answer to our goodbye
                self._show("lost" if self._connections else "connecting", reason)
        except Exception as error:
            log.exception("MQTT: unexpected fault; connecting anew")
            self._show("lost", f"unexpected fault: {type(error).__name__}")  # its text may hold what was to be sent
        finally:
            if session:
                session.close()
        return session is not None and session.connected and time.monotonic() - opened > STABLE_S

    def _serve(self, session: Session) -> None:
        with self._lock:
            self._due = {**self._retained, **self._due}
            self._due[self.topics.status] = self._due.pop(self.topics.status)  # last: who reads 'online' has the info
        while not self._stop.is_set():
            self._put_right()
            self._flush(session)
            if self._handed and time.monotonic() - next(iter(self._handed.values())) > UNACKNOWLEDGED_S:
                raise LostError(f"{self._broker} has not acknowledged a message for {UNACKNOWLEDGED_S:g} s")
            session.step(1.0, self._wake_read)
        while self._busy(session) and time.monotonic() < self._drain_until:
            self._flush(session)
            session.step(0.05, self._wake_read)
        with self._lock:
            self._due = {self.topics.status: self._status("stopped", self._farewell, self._clock())}
            self.dropped += len(self._queue)
            self._queue.clear()
        deadline = max(self._drain_until, time.monotonic()) + FAREWELL_S  # on a slow link what was left of the time
        self._drain_until = 0.0  # whatever becomes of the farewell: it is said once
        while self._busy(session) and time.monotonic() < deadline:
            self._flush(session)
            session.step(0.05)
        if self._busy(session) or self.topics.status in self._denied | self._not_taken:
            return  # 'stopped' did not get through: no goodbye either, so that the last will says 'offline'
        session.disconnect()
        while time.monotonic() < deadline:  # the broker closes when it has read our goodbye: LostError
            session.step(0.05)

    def _busy(self, session: Session) -> bool:
        return bool(self._queue or self._due or self._inflight or session.congested)

    def _flush(self, session: Session) -> None:
        """Hand over what waits, as long as the socket takes it: our queue is the one that may fill, not paho's."""
        while not session.congested and len(self._inflight) < min(MAX_INFLIGHT, session.receive_maximum):
            entry = self._next()
            if entry is None:
                return
            try:
                mid = session.publish(entry[1])
            except TooLargeError as error:
                self._too_large(entry[1], str(error))
                continue
            except (LostError, RefusedError):
                self._not_sent(entry)
                raise
            if entry[1].qos:
                self._inflight[mid] = entry
                self._handed[mid] = time.monotonic()

    def _too_large(self, packet: Packet, reason: str) -> None:
        """The broker does not take it: one pose message is lost, anything else is as if it had been denied."""
        if packet.topic == self.topics.poses:
            with self._lock:
                self.dropped += 1
            if not self._large:
                log.warning("MQTT: a pose message is dropped: %s", reason)
            self._large = True
            return
        if not self._denied:
            self._show("refused", reason)
        self._denied.add(packet.topic)

    def _not_sent(self, entry: tuple[float, Packet]) -> None:
        """The connection broke over it: a pose message with QoS 1 waits for the next one, another is lost."""
        if entry[1].topic != self.topics.poses:
            return  # what is retained is said anew at every connection
        with self._lock:
            if entry[1].qos:
                self._queue.appendleft(entry)
            else:
                self.dropped += 1

    def _next(self) -> tuple[float, Packet] | None:
        now = time.monotonic()
        with self._lock:
            for topic in self._due:
                return now, self._due.pop(topic)
            while self._queue:
                queued, packet = self._queue.popleft()
                left = self._expiry_s - int(now - queued)
                if left > 0:
                    return queued, replace(packet, expiry_s=left)
                self.dropped += 1
        return None

    def _acknowledged(self, mid: int, denial: str) -> None:
        entry = self._inflight.pop(mid, None)
        self._handed.pop(mid, None)
        if entry is None:
            return
        packet = entry[1]
        if denial and packet.topic == self.topics.poses:
            with self._lock:
                self.dropped += 1
        if denial in TRANSIENT:
            if packet.topic not in self._not_taken:  # once for each topic: a quota lasts
                log.warning("MQTT: %s took no message on %s: %s", self._broker, packet.topic, denial)
            self._not_taken.add(packet.topic)
        elif denial:
            if not self._denied:
                self._show(
                    "refused",
                    f"{self._broker} does not let us publish to {packet.topic}: {denial}; "
                    "grant write access to the device's topics",
                )
            self._denied.add(packet.topic)
        else:
            self._taken(packet.topic)

    def _taken(self, topic: str) -> None:
        """The broker takes messages on ``topic``. What it did not take is said again when it takes one of those topics
        or, as every few seconds, the stats.
        """
        missing = self._denied | self._not_taken
        if topic in missing or (missing and topic == self.topics.stats):
            self._denied.discard(topic)
            self._not_taken.discard(topic)
            again = missing - {topic} | (set() if self._denied else {self.topics.status})
            with self._lock:
                self._due.update({t: p for t, p in self._retained.items() if t in again and t not in self._due})
        elif topic == self.topics.status and not self._denied:
            self._show("online", "")

    def _take_back(self) -> None:
        """Put pose messages that a lost connection did not acknowledge before all others."""
        with self._lock:
            for entry in reversed(self._inflight.values()):
                if entry[1].topic == self.topics.poses:
                    self._queue.appendleft(entry)
            self._inflight.clear()
            self._handed.clear()
            while len(self._queue) > self._queue_size:
                self._queue.popleft()
                self.dropped += 1
