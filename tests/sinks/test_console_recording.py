"""Lines on a console and lines in a file."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgepose.bundle import Bundle
from edgepose.errors import EdgeposeError
from edgepose.messages import Info, PoseMessage, Stats, Status, decode, info_message
from edgepose.sinks import Sink
from edgepose.sinks.console import ConsoleSink
from edgepose.sinks.recording import RecordingSink
from tests.conftest import tiny_manual
from tests.test_messages import example


def info() -> Info:
    bundle = Bundle(Path("tiny.onnx"), tiny_manual(), "0" * 64)
    return info_message(device="bench", camera="front", source="clip.mp4", bundle=bundle, engine="ort")


def one_person() -> PoseMessage:
    rows = [[10.0, 20.0, 0.1, 1, 0, 1]] * 16
    rows[9] = [312.4, 88.0, 0.97, 1, 0, 1]
    person = {"id": "p7", "box": [0, 0, 9, 9], "score": 0.5, "joints": rows}
    return PoseMessage.model_validate(example(0).model_dump(by_alias=True) | {"people": [person]})


def test_the_console_writes_a_line_per_message() -> None:
    out = io.StringIO()
    sink: Sink = ConsoleSink(out=out, clock=lambda: example(0).acquired_ns + 45_000_000)
    stats = Stats(
        device="bench", camera="front", measured_ns=1, fps=29.97, latency_p50_ms=5, latency_p95_ms=None, people=1,
        dropped_frames=2, dropped_messages=3, broker_reconnects=4, uptime_s=1,
    )  # fmt: skip
    sink.publish(one_person())
    sink.publish(info())
    sink.publish(one_person())
    sink.publish(example(0))
    sink.publish(Status(device="bench", camera="front", state="camera-lost", since_ns=1, reason="un\x1b[2Jplugged"))
    sink.publish(stats)
    sink.close()
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("bench/front #7 45 ms, 1 person | p7: joint 9 312,88 (0.97), joint 0 10,20 (0.10), ")
    assert lines[1] == "bench/front shows clip.mp4 through tiny (float32, ort)"
    assert "p7: head_top 312,88 (0.97), right_ankle 10,20 (0.10)" in lines[2]
    assert lines[3] == "bench/front #7 45 ms, 0 people"
    assert lines[4] == "bench/front is camera-lost: un?[2Jplugged"
    assert lines[5] == ("bench/front 30.0 fps, latency 5/- ms (p50/p95), 2 frames and 3 messages dropped, 4 reconnects")
    assert len(lines) == 6


def test_the_console_writes_json_lines() -> None:
    out = io.StringIO()
    sink = ConsoleSink(as_json=True, out=out)
    sink.publish(example(2))
    sink.publish(example(0))
    assert [decode(line.encode()) for line in out.getvalue().splitlines()] == [example(2), example(0)]


def test_a_console_that_nobody_reads_is_a_sentence() -> None:
    read, write = os.pipe()
    os.close(read)
    with pytest.raises(EdgeposeError, match="program that read our output has ended"):
        ConsoleSink(out=os.fdopen(write, "w", closefd=False)).publish(example(0))


def test_a_recording_is_a_line_per_message_and_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "poses.jsonl"
    for seq in (1, 2):
        sink: Sink = RecordingSink(path)
        sink.publish(example(1, seq=seq))
        sink.close()
        sink.close()
    assert [decode(line) for line in path.read_bytes().splitlines()] == [example(1, seq=1), example(1, seq=2)]


def test_a_crash_loses_no_whole_line_and_the_next_recording_starts_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "poses.jsonl"
    script = (
        "import os, sys; from pathlib import Path; from edgepose.sinks.recording import RecordingSink\n"
        "from tests.test_messages import example\n"
        "sink = RecordingSink(Path(sys.argv[1])); [sink.publish(example(1, seq=i)) for i in range(20)]; os._exit(3)"
    )
    root = Path(__file__).parent.parent.parent
    assert subprocess.run([sys.executable, "-c", script, path], cwd=root, timeout=60, check=False).returncode == 3
    assert [json.loads(line)["seq"] for line in path.read_text().splitlines()] == list(range(20))
    path.write_bytes(path.read_bytes()[:-10])
    sink = RecordingSink(path)
    sink.publish(example(1, seq=20))
    lines = path.read_bytes().splitlines()
    assert len(lines) == 21
    assert decode(lines[-1]) == example(1, seq=20)


def test_places_where_no_recording_can_be_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(EdgeposeError, match=r"folder .*none for the recording poses.jsonl does not exist; create it"):
        RecordingSink(tmp_path / "none" / "poses.jsonl")
    with pytest.raises(EdgeposeError, match=r"cannot write recording .*: Is a directory"):
        RecordingSink(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_a_sentence() -> None:
    sink = RecordingSink(Path("/dev/full"))
    with pytest.raises(EdgeposeError, match="No space left on device; make room or choose another file"):
        sink.publish(example(1))


def test_an_output_on_a_full_disk_is_a_sentence() -> None:
    with Path("/dev/full").open("w", buffering=1) as out:
        sink = ConsoleSink(out=out)
        with pytest.raises(EdgeposeError, match="cannot write to the output: No space left"):
            sink.publish(one_person())
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())  # what is left in the buffer goes somewhere
