"""The live status line: where it is rewritten, where lines are printed, and that nobody need read it."""

import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from edgepose import status
from edgepose.camera import Snapshot
from edgepose.console import say
from edgepose.status import StatusLine

NOW = Snapshot(
    frames=7, frames_with_people=3, people=1, fps=9.5, latency_p50_ms=None, latency_p95_ms=None, dropped_frames=0,
    dropped_messages=0, broker="none", seconds=1.0,
)  # fmt: skip


def one_frame(file, monkeypatch):
    """The status line of a run of one frame, with ``file`` as stderr."""
    parts = SimpleNamespace(loop=SimpleNamespace(snapshot=lambda: NOW))
    with monkeypatch.context() as patch:
        patch.setattr(status, "EVERY", 0)
        patch.setattr(sys, "stderr", file)
        with StatusLine() as line:
            line.attach(parts)()
            time.sleep(0.5)


@pytest.mark.parametrize(("name", "rewritten"), [("xterm", True), ("dumb", False)])
def test_a_line_is_rewritten_where_a_terminal_can_do_that(monkeypatch, name, rewritten):
    monkeypatch.setenv("TERM", name)
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as file:
        one_frame(file, monkeypatch)
        text = os.read(ours, 65536).decode()
    os.close(ours)
    assert "9.5 fps | latency - | dropped 0 frames, 0 messages | people 1 | broker none |" in text
    assert ("\x1b[" in text) == rewritten


def test_a_file_is_no_terminal_whatever_colours_are_wanted(tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with (tmp_path / "log").open("w") as file:
        one_frame(file, monkeypatch)
    assert (tmp_path / "log").read_text() == f"{status.line(NOW)}\n"


def test_a_terminal_that_goes_away_ends_no_run(tiny, tmp_path):
    record = tmp_path / "out.jsonl"
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "edgepose", "run", "--source", "videotest://?width=64&height=64&fps=15", "--model",
               str(tiny.path), "--finder", "none", "--max-frames", "45", "--record", str(record)]  # fmt: skip
    with subprocess.Popen(command, stderr=theirs, env={**os.environ, "TERM": "xterm"}) as child:
        os.close(theirs)
        assert os.read(ours, 1)
        while not record.exists():
            time.sleep(0.1)
        os.close(ours)
        assert child.wait(60) == 0
    seqs = [json.loads(line)["seq"] for line in record.read_text().splitlines() if "edgepose.pose/1" in line]
    assert len(seqs) == 45


def test_what_a_camera_says_steers_no_terminal(capsys):
    say("camera door lost: \x1b]52;c;aGk=\x07 \u2026\nand so on")
    assert capsys.readouterr().err == "camera door lost: ?]52;c;aGk=? \u2026\nand so on\n"
