"""Files that are whole or absent, and what the system refuses as a sentence."""

import errno
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from edgepose import EdgeposeError, sources
from edgepose import bundle as bundles
from edgepose.files import cache_dir, kind, make_folder, write_beside
from edgepose.sinks.overlay import open_overlay
from edgepose.sinks.recording import RecordingSink
from edgepose.skeletons import MPII16

LONG = "x" * 300  # longer than any file's name may be


def test_what_lies_there(tmp_path):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    assert [kind(tmp_path / name) for name in ("", "file", "pipe", "none", "file/below")] == [
        "folder", "file", "other", "nothing", "nothing",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "opened",
    [
        lambda folder: bundles.load(folder / f"{LONG}.onnx"),
        lambda folder: sources.open_source(str(folder / f"{LONG}.mp4")),
        lambda folder: sources.open_source(f"images:{folder / LONG}"),
        lambda folder: RecordingSink(folder / LONG / "x.jsonl"),
        lambda folder: open_overlay(str(folder / LONG / "x.mp4"), MPII16),
    ],
    ids=["model", "video", "images", "record", "overlay"],
)
def test_what_may_not_be_looked_at_is_a_sentence(opened, tmp_path):
    with pytest.raises(EdgeposeError, match=r"xxx.* cannot be looked at: .*; check the path and its permissions"):
        opened(tmp_path)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody who may not look")
def test_a_folder_of_somebody_else_is_a_sentence(tmp_path):
    (tmp_path / "private").mkdir(mode=0o700)
    code = f"import os, pathlib, edgepose.files as f; os.setuid(65534); f.kind(pathlib.Path({str(tmp_path)!r}) / 'x/y')"
    tmp_path.chmod(0o700)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "EdgeposeError" in done.stderr
    assert "cannot be looked at: Permission denied" in done.stderr


def test_without_a_home_it_is_asked_where_files_may_go(monkeypatch, tmp_path):
    for name in ("EDGEPOSE_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def nobody(_):
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(EdgeposeError, match="no home folder to keep files in; let EDGEPOSE_CACHE name one"):
        cache_dir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "edgepose"


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "deep" / "x.txt"
    with write_beside(path) as beside:
        beside.write_text("first")
    with pytest.raises(ZeroDivisionError), write_beside(path) as beside:
        beside.write_text(f"half {1 / 0}")
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_and_a_folder_in_the_way_are_sentences(tmp_path):
    with pytest.raises(EdgeposeError, match=r"cannot write .*x\.txt: No space left on device; make room"):  # noqa: SIM117
        with write_beside(tmp_path / "x.txt"), open("/dev/full", "w") as full:  # noqa: PTH123
            full.write("x")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(EdgeposeError, match=r"cannot write .*folder\.txt: Is a directory"):  # noqa: SIM117
        with write_beside(tmp_path / "folder.txt") as beside:
            beside.write_text("x")
    assert [p.name for p in tmp_path.iterdir()] == ["folder.txt"]


def test_a_file_system_that_fails_by_then_is_a_sentence(tmp_path, monkeypatch):
    """The half-written file cannot be removed either."""

    def fail(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    def write():
        with write_beside(tmp_path / "x.txt"):
            monkeypatch.setattr(Path, "chmod", fail)
            monkeypatch.setattr(Path, "unlink", fail)

    with pytest.raises(EdgeposeError, match=r"cannot write .*x\.txt: Read-only file system"):
        write()


def test_a_file_where_a_folder_is_to_be_is_a_sentence(tmp_path):
    make_folder(tmp_path / "a" / "b", "")
    make_folder(tmp_path / "a" / "b", "")
    (tmp_path / "file").touch()
    with pytest.raises(EdgeposeError, match=r"cannot make folder .*/file/x: Not a directory; choose another --out"):
        make_folder(tmp_path / "file" / "x", "choose another --out")
