"""``edgepose run`` as users start it: real programs, a real broker, real cameras over RTSP."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import jsonschema
import pytest

from edgepose import app, bench, config, console, engines
from edgepose.app import threads_beside
from edgepose.errors import EdgeposeError
from edgepose.messages import schemas
from edgepose.signals import stopping_on_signals
from edgepose.timing import STAGES
from tests import rtsp
from tests.broker import Mosquitto, wait_for, watch
from tests.sources.conftest import absent

EDGEPOSE = [sys.executable, "-m", "edgepose"]


@contextlib.contextmanager
def running(*arguments, **environment):
    """``edgepose run`` in the background; its errors go to a file that the process object names."""
    import tempfile

    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [*EDGEPOSE, "run", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, **environment},
        )

        def errors():
            log.seek(0)
            return log.read()

        process.errors = errors
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("setting", ["output.overlay", "output.record"])
def test_the_film_that_is_read_is_not_written_over(tmp_path, setting):
    film = tmp_path / "film.mp4"
    film.write_bytes(b"a film")
    flags = {"source.uri": str(film), setting: str(tmp_path / ".." / tmp_path.name / "film.mp4")}
    with (
        pytest.raises(EdgeposeError, match="is the film that is read, and would be replaced"),
        app.assembled(config.load(flags, environ={}).settings),
    ):
        pass
    assert film.read_bytes() == b"a film"


@pytest.mark.parametrize(("threads", "every", "finders"), [(4, 5, 2), (1, 5, 1), (4, 1, 4)])
def test_the_finder_beside_has_half_of_the_threads_and_each_network_its_batches(
    clip, monkeypatch, threads, every, finders
):
    asked = {}
    load = engines.load

    def recorded(bundle, name, options):
        asked[bundle.manual.role] = options
        return load(bundle, name, options)

    monkeypatch.setattr(engines, "load", recorded)
    flags = {"source.uri": str(clip), "engine.threads": threads, "people.every": every}
    with app.assembled(config.load(flags, environ={}).settings):
        pass
    assert (asked["pose"].threads, asked["pose"].batches) == (threads, (1, 2))
    assert (asked["person"].threads, asked["person"].batches) == (finders, (1,))


@pytest.mark.parametrize(
    ("chosen", "exact", "expected"),
    [
        (("openvino", "cpu", "auto"), True,
         "edgepose-finder-int8" if platform.machine() == "x86_64" else "edgepose-finder"),
        (("openvino", "cpu", "auto"), False, "edgepose-finder"),
        (("openvino", "auto", "float32"), True, "edgepose-finder"),
        (("openvino", "GPU", "auto"), True, "edgepose-finder"),
        (("onnxruntime", "auto", "auto"), True, "edgepose-finder"),
    ],
)  # fmt: skip
def test_the_finder_is_the_one_that_is_fast_and_good_here(clip, monkeypatch, chosen, exact, expected):
    asked, (engine, device, precision) = [], chosen
    monkeypatch.setattr(app, "sums_exactly", lambda: exact)

    def stopped(bundle, name, options):
        asked.append(bundle.manual.name)
        return SimpleNamespace(name=engine, precision="none", close=lambda: None)

    monkeypatch.setattr(engines, "load", stopped)
    flags = {"source.uri": str(clip), "engine.name": engine, "engine.device": device, "engine.precision": precision}
    with app.assembled(config.load(flags, environ={}).settings):
        pass
    assert asked == ["edgepose-s", expected]


@pytest.mark.parametrize(
    ("finder", "expected"),
    [("edgepose-finder", ("float16", "float32", "float16")), ("edgepose-finder-int8", ("auto", "auto", "auto"))],
)
def test_on_a_dla_the_finder_is_what_its_file_allows(clip, monkeypatch, finder, expected):
    """A DLA has no float32; what is INT8 stays as it is."""
    asked = {}

    def stopped(bundle, name, options):
        asked[bundle.manual.role] = options.precision
        return SimpleNamespace(name="none", precision="none", close=lambda: None)

    monkeypatch.setattr(engines, "load", stopped)
    for precision, finders in zip(("auto", "float32", "int8"), expected, strict=True):
        flags = {"source.uri": str(clip), "engine.device": "DLA:0", "engine.precision": precision,
                 "model": "edgepose-s-int8", "people.finder": finder}  # fmt: skip
        with app.assembled(config.load(flags, environ={}).settings):
            pass
        assert asked == {"pose": precision, "person": finders}


def bodies(watcher, leaf):
    return [json.loads(m.payload) for m in list(watcher.on(leaf))]


def states(watcher):
    return [b["state"] for b in bodies(watcher, "status")]


def test_a_file_goes_through_whole_and_validates_on_the_wire(tiny, clip, tmp_path):
    record, film = tmp_path / "out.jsonl", tmp_path / "out.mp4"
    with Mosquitto(tmp_path) as broker, watch(broker.port) as seen:
        done = subprocess.run(
            [*EDGEPOSE, "run", "--source", str(clip), "--mqtt", broker.url, "--model", str(tiny.path),
             "--device", "box", "--max-frames", "60", "--record", str(record), "--overlay", str(film), "--qos", "1"],
            capture_output=True, text=True, check=False, timeout=100,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "60 frames" in done.stderr
        wait_for(lambda: "stopped" in states(seen))
        poses = bodies(seen, "poses")
        assert [p["seq"] for p in poses] == list(range(60))
        for name, leaf in (("pose", "poses"), ("info", "info"), ("status", "status")):
            schema = next(s for k, s in schemas().items() if name in k)
            for body in bodies(seen, leaf):
                jsonschema.validate(body, schema)
        assert [m.topic.rpartition("/")[2] for m in seen.messages][:2] == ["info", "status"]  # who reads it is prepared
        first, info = bodies(seen, "info")
        assert first == info | {"image": None, "source": str(clip)}
        assert info["image"] == [768, 432]
        assert info["joints"][0] == "right_ankle"
        assert info["model"]["sha256"] == tiny.sha256 == poses[0]["model"]["sha256"]
        assert {m.topic.rsplit("/", 1)[0] for m in seen.on("poses")} == {"edgepose/box/one_by_one_person"}
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert [b["seq"] for b in lines if b["schema"] == "edgepose.pose/1"] == list(range(60))
    capture = cv2.VideoCapture(str(film))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 60
    assert abs(capture.get(cv2.CAP_PROP_FPS) - 10) < 0.5  # the camera's own time is kept
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.fixture
def hangups_told():
    """Also where the tests run under nohup, whose children would ignore SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangups_told")
@pytest.mark.parametrize(
    "numbers", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGHUP], [signal.SIGINT, signal.SIGTERM]], ids=str
)
def test_signals_drain_and_end_in_peace(tiny, numbers, tmp_path):
    with (
        Mosquitto(tmp_path) as broker,
        watch(broker.port) as seen,
        running(
            "--source", "videotest://?width=320&height=240&fps=20", "--mqtt", broker.url, "--model", tiny.path
        ) as p,
    ):
        wait_for(lambda: len(seen.on("poses")) > 5)
        start = time.monotonic()
        for number in numbers:
            p.send_signal(number)
            time.sleep(0.03)
        assert p.wait(20) == 0, p.errors()
        assert time.monotonic() - start < 2  # as promised; it takes about 0.2
        wait_for(lambda: states(seen)[-1:] == ["stopped"])
        assert "offline" not in states(seen)
        assert "Traceback" not in p.errors()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_starts_ends_in_peace(tiny, tmp_path, number):
    """While it still waits for a broker that is not there."""
    broker = Mosquitto(tmp_path)
    with running("--source", "videotest://", "--mqtt", broker.url, "--model", tiny.path) as p:
        wait_for(lambda: handles_signals(p.pid))
        p.send_signal(number)
        assert p.wait(20) == 0, p.errors()
        assert "Traceback" not in p.errors()


def handles_signals(pid):
    """Whether the process catches SIGTERM by now."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1


def test_a_signal_ends_a_run_that_waits_for_its_camera(tiny, tmp_path):
    with Mosquitto(tmp_path) as broker, watch(broker.port) as seen:
        with running("--source", "rtsp://127.0.0.1:9/none", "--mqtt", broker.url, "--model", tiny.path) as p:
            wait_for(lambda: "camera-lost" in states(seen))
            p.send_signal(signal.SIGTERM)
            assert p.wait(20) == 0, p.errors()
        wait_for(lambda: states(seen)[-1:] == ["stopped"])


def test_a_second_signal_a_while_later_kills(tiny):
    """As where the first waits for something that never ends."""
    script = (
        "import time; from edgepose.signals import stopping_on_signals\n"
        "with stopping_on_signals() as stopper:\n    print('ready', flush=True)\n    time.sleep(60); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGTERM)
        time.sleep(1)
        assert child.poll() is None
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == -signal.SIGTERM


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes process 1 of a container")
def test_a_second_signal_ends_process_1_too():
    script = (
        "import os, signal, time; from edgepose.signals import stopping_on_signals\n"
        "with stopping_on_signals():\n    os.kill(1, signal.SIGTERM); time.sleep(1); os.kill(1, signal.SIGTERM)\n"
        "    time.sleep(60)"
    )
    command = ["unshare", "--pid", "--fork", sys.executable, "-c", script]
    assert subprocess.run(command, check=False, timeout=40).returncode == 128 + signal.SIGTERM


def test_what_cannot_be_told_on_stderr_stops_nothing(monkeypatch):
    with open("/dev/full", "w", encoding="utf-8") as full:  # noqa: PTH123
        monkeypatch.setattr(sys, "stderr", full)
        console.say("a sentence")
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()
    closed = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    console.say("a sentence")


@pytest.mark.parametrize("arguments", [("models",), ("config", "show")])
def test_a_full_disk_behind_stdout_is_a_sentence(arguments, tmp_path):
    with open("/dev/full", "w", encoding="utf-8") as full:  # noqa: PTH123
        done = subprocess.run([*EDGEPOSE, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: there is no room for what is to be written; make room there\n"


def test_a_full_disk_behind_stderr_changes_no_exit_code(tiny, tmp_path):
    command = [*EDGEPOSE, "run", "--source", "videotest://?frames=5", "--model", str(tiny.path), "--finder", "none"]
    with open("/dev/full", "w", encoding="utf-8") as full:  # noqa: PTH123
        done = subprocess.run([*command, "--record", str(tmp_path / "x.jsonl")], stderr=full, check=False, timeout=60)
        assert done.returncode == 0
        assert subprocess.run([*EDGEPOSE, "run"], stderr=full, check=False, timeout=60).returncode == 2
    assert (tmp_path / "x.jsonl").read_text()


def test_a_bench_does_not_disturb_who_runs_by_the_same_file(tmp_path):
    """Nor is it told to the broker, unless that is asked for."""
    file = tmp_path / "edgepose.toml"
    file.write_text(
        'device = "porch"\n[mqtt]\nurl = "mqtt://hub/"\n[output]\nrecord = "x.jsonl"\n[engine]\nthreads = 1\n'
    )
    settings = config.load({}, file, environ={}).settings
    file.write_text('[[camera]]\nname = "hall"\nuri = "a.mp4"\noverlay = "x.mkv"\n')
    assert bench.apart(config.load({}, file, environ={}).settings, to_broker=False).cameras[0].overlay == ""
    alone, told = bench.apart(settings, to_broker=False), bench.apart(settings, to_broker=True)
    assert (alone.mqtt.url, alone.output.record, alone.engine.threads) == ("", "", 1)
    assert (told.mqtt.url, told.output.record) == ("mqtt://hub/", "")
    assert alone.device == told.device == "bench-porch"  # each time the same: what is retained is written over


def test_a_signal_before_the_loop_raises_nothing_where_it_strikes_and_is_not_lost():
    """It may strike inside a library's import or callback, which swallow what is raised or crash on it."""
    reached = []
    with stopping_on_signals() as stopper:
        stopper.check()
        stopper.handle(signal.SIGTERM, None)
        reached.append("the library's next line")
        stopper.running(lambda: None)
        reached.append("the loop")
    assert reached == ["the library's next line"]


def test_a_live_camera_reports_latency(tiny, tmp_path):
    with (
        Mosquitto(tmp_path) as broker,
        watch(broker.port) as seen,
        running("--source", "videotest://?width=320&height=240&fps=20", "--mqtt", broker.url, "--model", tiny.path,
                EDGEPOSE_OUTPUT_STATS_EVERY="1"),
    ):  # fmt: skip
        wait_for(lambda: len(seen.on("stats")) >= 2)
        stats = bodies(seen, "stats")[-1]
        assert 0 < stats["latency_p50_ms"] < 5000
        assert stats["fps"] > 1
        poses = bodies(seen, "poses")
        assert all(b["acquired_ns"] < b["published_ns"] for b in poses)
        acquired = [b["acquired_ns"] for b in poses]
        assert acquired == sorted(acquired)


@pytest.mark.timeout(300)
def test_the_camera_goes_and_comes_back(tiny, tmp_path):
    if rtsp.why_not():
        pytest.skip(rtsp.why_not())
    with (
        Mosquitto(tmp_path) as broker,
        watch(broker.port) as seen,
        rtsp.RtspServer() as camera,
        running("--source", camera.url, "--mqtt", broker.url, "--model", tiny.path, "--camera", "door") as p,
    ):
        wait_for(lambda: len(seen.on("poses")) > 3, 40)
        camera.kill()
        wait_for(lambda: states(seen)[-1:] == ["camera-lost"], 40)
        count = len(seen.on("poses"))
        camera.start()
        wait_for(lambda: len(seen.on("poses")) > count + 3, 60)
        assert states(seen)[-1] == "online"
        seqs = [b["seq"] for b in bodies(seen, "poses")]
        assert seqs == sorted(set(seqs))
        assert p.poll() is None


@pytest.mark.timeout(300)
def test_a_camera_that_stands_still_is_lost_after_as_long_as_the_settings_say(tiny, tmp_path):
    if rtsp.why_not():
        pytest.skip(rtsp.why_not())
    with (
        Mosquitto(tmp_path) as broker,
        watch(broker.port) as seen,
        rtsp.RtspServer() as camera,
        running("--source", camera.url, "--mqtt", broker.url, "--model", tiny.path, EDGEPOSE_SOURCE_STALL="1.5"),
    ):
        wait_for(lambda: len(seen.on("poses")) > 3, 40)
        camera.freeze()
        wait_for(lambda: states(seen)[-1:] == ["camera-lost"], 40)
        assert "no frame from" in (reason := bodies(seen, "status")[-1]["reason"])
        assert "for 1.5 s" in reason


def test_the_broker_goes_and_comes_back(tiny, tmp_path):
    with (
        Mosquitto(tmp_path) as broker,
        running(
            "--source", "videotest://?width=320&height=240&fps=20", "--mqtt", broker.url, "--model", tiny.path
        ) as p,
    ):
        with watch(broker.port) as seen:
            wait_for(lambda: len(seen.on("poses")) > 3)
            last = bodies(seen, "poses")[-1]["seq"]
        broker.kill()
        time.sleep(1)
        assert p.poll() is None
        broker.start()
        with watch(broker.port) as seen:
            wait_for(lambda: len(seen.on("poses")) > 3, 40)
            assert bodies(seen, "poses")[0]["seq"] > last
            assert states(seen)[0] == "online"
            assert bodies(seen, "info")


def test_a_broker_that_is_not_there_yet_is_waited_for(tiny, tmp_path):
    broker = Mosquitto(tmp_path)
    with running(
        "--source", "videotest://?width=320&height=240&fps=20", "--mqtt", broker.url, "--model", tiny.path
    ) as p:
        wait_for(lambda: "trying again" in p.errors(), 30)
        with broker, watch(broker.port) as seen:
            wait_for(lambda: len(seen.on("poses")) > 3, 40)


def test_json_lines_go_to_stdout_also_where_a_status_line_is_shown(tiny):
    ours, terminal = os.openpty()
    done = subprocess.run(
        [*EDGEPOSE, "run", "--source", "videotest://?frames=5", "--model", str(tiny.path), "--stdout"],
        stdout=subprocess.PIPE, stderr=terminal, check=False, timeout=100,
    )  # fmt: skip
    os.close(terminal)
    os.close(ours)
    assert done.returncode == 0
    assert "edgepose.info/1" in {json.loads(line)["schema"] for line in done.stdout.splitlines()}


def test_config_show_names_every_origin(own_folder):
    (own_folder / "edgepose.toml").write_text("[engine]\nthreads = 3\n")
    done = subprocess.run(
        [*EDGEPOSE, "config", "show"], capture_output=True, text=True, check=True,
        env={**os.environ, "EDGEPOSE_MQTT_URL": "mqtt://x/"},
    )  # fmt: skip
    rows = {line.split("=")[0].strip(): line for line in done.stdout.splitlines()}
    assert rows["engine.threads"].endswith("# edgepose.toml")
    assert rows["mqtt.url"].endswith("# EDGEPOSE_MQTT_URL")
    assert rows["model"].endswith("# default")


@pytest.mark.parametrize(("backend", "parts"), [("gstreamer", ["filesrc", "appsink"]), ("pyav", ["av.open("])])
def test_explain_prints_the_pipeline(clip, backend, parts):
    if why := absent(backend):
        pytest.skip(why)
    command = [*EDGEPOSE, "run", "--source", str(clip), "--backend", backend, "--explain"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert all(part in done.stdout for part in parts), done.stdout


def test_bench_accounts_for_every_stage(clip, tiny):
    done = subprocess.run(
        [*EDGEPOSE, "bench", "--source", str(clip), "--model", str(tiny.path), "--max-frames", "80", "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert list(found["stages_ms"]) == list(STAGES)
    for row in found["stages_ms"].values():
        assert 0 <= row["p50"] <= row["p95"] <= row["p99"]
    assert found["frames"] == 50  # 30 frames of warm-up are left out
    assert found["fps"] > 0
    assert found["fps_in_turn"] > 0


def test_bench_of_frames_that_are_all_warm_up_is_refused(clip):
    settings = config.load({"source.uri": str(clip), "max_frames": 30}, environ={}).settings
    with pytest.raises(EdgeposeError, match="--max-frames 30 is too few: the first 30 frames are not counted"):
        bench.bench(settings)


@pytest.mark.parametrize(("flags", "passes"), [({}, [False, True]), ({"engine.overlap": False}, [False]),
                                               ({"people.finder": "none"}, [False])])  # fmt: skip
def test_stages_are_timed_without_overlap_and_the_whole_as_it_runs(clip, tiny, monkeypatch, flags, passes):
    overlaps, assembled = [], bench.assembled

    def noted(settings, **rest):
        overlaps.append(settings.engine.overlap)
        return assembled(settings, **rest)

    monkeypatch.setattr(bench, "assembled", noted)
    flags = {"source.uri": str(clip), "model": str(tiny.path), "max_frames": 40, **flags}
    bench.bench(config.load(flags, environ={}).settings)
    assert overlaps == passes


def test_models_lists_and_shows():
    listed = subprocess.run([*EDGEPOSE, "models"], capture_output=True, text=True, check=True).stdout
    name = listed.split()[0]
    shown = json.loads(
        subprocess.run([*EDGEPOSE, "models", "show", name], capture_output=True, text=True, check=True).stdout
    )
    assert shown["name"] == name
    assert shown["schema"] == "edgepose.bundle/1"


def test_sources_lists_without_a_camera():
    done = subprocess.run([*EDGEPOSE, "sources"], capture_output=True, text=True, check=True)
    assert done.stdout or "no camera found" in done.stderr


@pytest.mark.parametrize(("threads", "beside"), [(0, 4), (1, 1), (2, 1), (8, 4)])
def test_the_finder_has_half_of_the_threads_or_one(monkeypatch: pytest.MonkeyPatch, threads: int, beside: int) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    assert threads_beside(threads) == beside
