"""`make demo`: the shipped clip through the shipped model, over a real broker, to a real subscriber.

Starts three ordinary programs, as a user would: a broker (mosquitto, else amqtt), `edgepose listen`, and
`edgepose run`. Ends by itself, with a summary and what to type next.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CLIP = Path(__file__).with_name("one_by_one_person.mp4")
EDGEPOSE = [sys.executable, "-m", "edgepose"]
SHOWN_EVERY = 10  # messages: one camera second


def say(text: str) -> None:
    sys.stdout.write(f"\033[1m{text}\033[0m\n" if sys.stdout.isatty() else f"{text}\n")
    sys.stdout.flush()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextmanager
def broker(port: int) -> Iterator[str]:
    """A broker on 127.0.0.1; yields its name and, for amqtt, the MQTT version that it needs."""
    mosquitto = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    with tempfile.TemporaryDirectory() as folder:
        if mosquitto:
            name, options = "mosquitto", ""
            config = Path(folder) / "mosquitto.conf"
            config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n")
            command = [mosquitto, "-c", str(config)]
        else:
            name, options = "amqtt", "?version=3.1.1"
            config = Path(folder) / "amqtt.yaml"
            config.write_text(
                f"listeners:\n  default:\n    type: tcp\n    bind: 127.0.0.1:{port}\n"
                "plugins:\n  amqtt.plugins.authentication.AnonymousAuthPlugin:\n    allow_anonymous: true\n"
            )
            command = [str(Path(sys.executable).with_name("amqtt")), "-c", str(config)]
        with (Path(folder) / "broker.log").open("w+") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
            try:
                for _ in range(100):
                    with socket.socket() as s:
                        if s.connect_ex(("127.0.0.1", port)) == 0:
                            break
                    if process.poll() is not None:
                        log.seek(0)
                        sys.exit(f"error: the broker {name} ended at once: {log.read()[-300:]}")
                    time.sleep(0.1)
                else:
                    sys.exit(f"error: the broker {name} does not answer on port {port}")
                say(f"1. broker: {name} on 127.0.0.1:{port}")
                yield f"mqtt://127.0.0.1:{port}/edgepose{options}"
            finally:
                end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a program to end; make it, if it does not."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()


def main() -> int:
    film, record = ROOT / "demo.mp4", ROOT / "demo.jsonl"
    record.unlink(missing_ok=True)
    # The demo shows the product as it comes: settings of this folder or environment stay out.
    clean = {k: v for k, v in os.environ.items() if not k.startswith("EDGEPOSE_")} | {"EDGEPOSE_CONFIG": os.devnull}
    with broker(free_port()) as url:
        say("2. subscriber: edgepose listen (one message a camera second is shown)")
        listener = subprocess.Popen(
            [*EDGEPOSE, "listen", "--mqtt", url, "--every", str(SHOWN_EVERY), "--until-stopped"], env=clean
        )
        try:
            time.sleep(1.5)  # so that it hears the first message
            say("3. publisher: edgepose run")
            run = subprocess.run(
                [*EDGEPOSE, "run", "--source", str(CLIP), "--mqtt", url, "--qos", "1", "--device", "demo",
                 "--overlay", str(film), "--record", str(record)],
                check=False, env=clean,
            )  # fmt: skip
            if run.returncode == 0:
                listener.wait(15)
        except subprocess.TimeoutExpired:
            say("the subscriber did not hear the end")
        finally:
            if listener.poll() is None:
                end(listener)
    if run.returncode or listener.returncode:
        say("the demo failed; the lines above say why")
        return run.returncode or 1
    summary(record, film)
    return 0


def summary(record: Path, film: Path) -> None:
    """What happened, and what to type next."""
    messages = [json.loads(line) for line in record.read_text().splitlines()]
    poses = [m for m in messages if m["schema"] == "edgepose.pose/1"]
    people = [m for m in poses if m["people"]]
    ids = {p["id"] for m in people for p in m["people"]}
    say("\nDone.")
    sys.stdout.write(
        f"  {len(poses)} frames published, a person in {len(people)} of them, {len(ids)} ids\n"
        f"  look at   {film.name}   (the clip with skeletons)\n"
        f"  and at    {record.name} (every message)\n\n"
        "Next, with your own camera and broker:\n"
        "  .venv/bin/edgepose sources\n"
        "  .venv/bin/edgepose run --source v4l2:///dev/video0 --mqtt mqtt://localhost/\n"
        "  .venv/bin/edgepose listen --mqtt mqtt://localhost/\n"
    )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
