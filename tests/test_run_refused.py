"""Bad input to ``edgepose``: one sentence, exit code 2, no traceback; and nothing is shown that is secret."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.broker import Mosquitto, wait_for, watch
from tests.test_run import EDGEPOSE


def refused(*arguments, **environment):
    """The one sentence with which a command ends."""
    done = subprocess.run(
        [*EDGEPOSE, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=100,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    said = [line for line in lines if line.lower().startswith("error:")]
    assert len(said) == 1, done.stderr
    return said[0]


BAD = [
    (("run", "--source", "videotest://"), "error: nothing takes the poses; use --mqtt"),
    (("run", "--stdout"), "error: no source was given; use --source"),
    (("run", "--stdout", "--source", "/nowhere/x.mp4"), "x.mp4"),
    (("run", "--stdout", "--source", "v4l3:///dev/video0"), "v4l2"),
    (("run", "--stdout", "--source", "videotest://?widht=3"), "did you mean 'width'"),
    (("run", "--stdout", "--source", "videotest://", "--model", "edgepose-frist"), "did you mean 'edgepose-first'"),
    (("run", "--stdout", "--source", "videotest://", "--engine", "openvno"), "did you mean 'openvino'"),
    (("run", "--stdout", "--source", "videotest://", "--threads", "-1"), "command line: key 'engine.threads'"),
    (("run", "--source", "videotest://", "--mqtt", "http://x/"), "is no MQTT URL"),
    (("run", "--source", "videotest://", "--mqtt", "mqtt://me:secret@x/"), "EDGEPOSE_MQTT_PASSWORD"),
    (("run", "--source", "videotest://", "--overlay", "x.txt"), "must be 'window' or a file that ends in"),
    (("run", "--source", "videotest://", "--overlay", "/nowhere/x.mp4"), "/nowhere does not exist"),
    (("run", "--source", "videotest://", "--record", "/nowhere/x.jsonl"), "/nowhere"),
    (("run", "--source", "videotest://", "--overlay", "x.mkv", "--record", "./x.mkv"), "overlay and recording at once"),
    (("run", "--config", "/nowhere.toml"), "error: /nowhere.toml does not exist"),
    (("run", "--sorce", "x"), "No such option"),
    (("models", "show", "nothing"), "unknown model 'nothing'"),
    (("listen",), "error: no broker was given"),
    (("bench", "--source", "videotest://?frames=9"), "bench needs a file"),
    (("bench", "--source", "images:///x?loop=true"), "begins again at its end; say by --max-frames how many to time"),
    (("run", "--stdout", "--source", "circle"), "circle"),
    (("run", "--stdout", "--source", "file:///a%00b.mp4"), "holds a null character (%00), which no path has"),
    (("bench", "--source", "rtsp://me:secret@x/y?token=secret"), "--source holds a password"),
]


@pytest.mark.parametrize(("arguments", "sentence"), BAD, ids=lambda v: " ".join(v) if isinstance(v, tuple) else "")
def test_bad_input_gets_one_sentence_and_exit_2(arguments, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("circle").symlink_to("circle")
    said = refused(*arguments)
    assert sentence in said
    assert "secret" not in said


def test_a_closed_stderr_changes_nothing(tiny):
    """As some supervisors start programs."""

    def code(*arguments):
        words = shlex.join([*EDGEPOSE, *map(str, arguments)])
        done = subprocess.run(["bash", "-c", f"{words} 2>&-"], check=False, capture_output=True, timeout=100)
        return done.returncode

    assert code("run", "--stdout", "--source", "/nowhere/x.mp4") == 2
    assert code("run", "--stdout", "--source", "videotest://?frames=4&live=false", "--model", tiny.path) == 0


def test_a_refused_connection_is_an_error(tiny, tmp_path):
    with Mosquitto(tmp_path, users={"me": "right"}) as broker:
        said = refused("run", "--source", "videotest://", "--mqtt", broker.url, "--model", tiny.path,
                       EDGEPOSE_MQTT_USER="me", EDGEPOSE_MQTT_PASSWORD="wrong")  # fmt: skip
    assert "EDGEPOSE_MQTT_PASSWORD" in said


@pytest.mark.parametrize("name", ["MQTT", "RTSP"])
def test_a_password_that_cannot_be_sent_is_refused_and_not_shown(name, tiny):
    latin = b"P\xe4ss-secret".decode("utf-8", "surrogateescape")
    source, broker = ("rtsp://127.0.0.1:9/x", "") if name == "RTSP" else ("videotest://", "mqtt://me@127.0.0.1:9/")
    options = ["--mqtt", broker] if broker else ["--stdout"]
    said = refused("run", "--source", source, "--model", tiny.path, *options,
                   **{f"EDGEPOSE_{name}_USER": "me", f"EDGEPOSE_{name}_PASSWORD": latin})  # fmt: skip
    assert "is no UTF-8; set it in a terminal that writes UTF-8" in said
    assert "ss-secret" not in said


def pictures(folder, count, broken=""):
    folder.mkdir()
    for i in range(count):
        cv2.imwrite(str(folder / f"{i}.png"), np.zeros((48, 64, 3), np.uint8))
    if broken:
        (folder / broken).write_bytes(b"no picture")
    return folder


def test_a_run_that_ends_by_a_fault_says_so_to_the_broker(tiny, tmp_path):
    folder = pictures(tmp_path / "pictures", 3, "3.png")
    with Mosquitto(tmp_path) as broker, watch(broker.port) as seen:
        said = refused("run", "--source", f"images://{folder}", "--mqtt", broker.url, "--model", tiny.path)
        wait_for(lambda: seen.on("status") and json.loads(seen.on("status")[-1].payload)["state"] == "stopped")
        reason = json.loads(seen.on("status")[-1].payload)["reason"]
    assert "3.png" in reason
    assert reason in said


def test_of_several_cameras_each_says_its_own_fault_last(tiny, tmp_path):
    door, hall = pictures(tmp_path / "door", 3, "3.png"), pictures(tmp_path / "hall", 8)
    with Mosquitto(tmp_path) as broker, watch(broker.port) as seen:
        file = tmp_path / "edgepose.toml"
        file.write_text(
            f'model = "{tiny.path}"\n[mqtt]\nurl = "{broker.url}"\n'
            + "".join(f'[[camera]]\nname = "{f.name}"\nuri = "images://{f}"\n' for f in (door, hall))
        )
        done = subprocess.run([*EDGEPOSE, "run", "--config", file], check=False, timeout=100, capture_output=True)
        assert b"Traceback" not in done.stderr

        def last():
            told = [(m.topic.split("/")[-2], json.loads(m.payload)) for m in seen.on("status")]
            return {camera: (status["state"], status["reason"]) for camera, status in told}

        wait_for(lambda: [state for state, _ in last().values()] == ["stopped", "stopped"])
        assert "3.png" in last()["door"][1]
        assert last()["hall"][1] == ""


def test_typos_in_the_file_are_refused(own_folder):
    (own_folder / "edgepose.toml").write_text("[mqtt]\nulr = 'mqtt://x'\n")
    assert "edgepose.toml: unknown key 'mqtt.ulr'; did you mean 'url'" in refused("run")


@pytest.mark.parametrize("source", ["rtsp://me:hush@cam/s", "http://cam/v?user=me&pwd=hush"])
@pytest.mark.parametrize("command", ["run", "bench"])
def test_a_cameras_password_on_the_command_line_is_refused(command, source):
    done = subprocess.run([*EDGEPOSE, command, "--source", source], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--source holds a password, which others on this machine can read; put name and pass" in done.stderr
    assert f"into EDGEPOSE_{source.partition(':')[0].upper()}_USER and" in done.stderr
    assert "hush" not in done.stderr + done.stdout


def test_a_password_from_the_environment_is_masked():
    uri = {**os.environ, "EDGEPOSE_SOURCE_URI": "rtsp://me:secret@x/y?token=secret"}
    done = subprocess.run([*EDGEPOSE, "bench"], capture_output=True, text=True, check=False, env=uri)
    assert done.returncode == 2
    assert "rtsp://me:***@x/y?token=*** is live" in done.stderr
    assert "secret" not in done.stderr + done.stdout
