import builtins
import errno
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from edgepose import EdgeposeError
from edgepose.draw import LEFT, RIGHT
from edgepose.estimator import Poses
from edgepose.frame import Frame
from edgepose.gst import gst
from edgepose.people import People
from edgepose.sinks.overlay import annotate, open_overlay
from edgepose.skeletons import MPII16


def frame(seq, width=101, height=67, period_ns=100_000_000, steady_ns=None):
    image = np.full((height, width, 3), 40, np.uint8)
    image.flags.writeable = False  # as a view of the pipeline's memory is
    return Frame(image, 10**18 + seq * period_ns, seq, "cam", steady_ns)


def someone(score=0.9):
    joints = np.zeros((1, 16, 2))
    joints[0] = [50, 30]
    joints[0, MPII16.index("left_wrist")] = [20, 50]
    joints[0, MPII16.index("left_elbow")] = [20, 20]
    joints[0, MPII16.index("right_wrist")] = [80, 50]
    joints[0, MPII16.index("right_elbow")] = [80, 20]
    return People(
        ["run-1"], np.array([[20.0, 20, 80, 50]]), Poses(joints, np.full((1, 16), score), np.zeros((1, 16, 3)))
    )


def test_left_is_green_right_is_orange_and_the_frame_is_left_alone():
    shot = frame(0)
    drawn = annotate(shot, someone(), MPII16)
    assert (shot.image == 40).all()
    assert np.abs(drawn[35, 20].astype(int) - LEFT).max() < 40
    assert np.abs(drawn[35, 80].astype(int) - RIGHT).max() < 40


def test_uncertain_joints_are_not_drawn():
    drawn = annotate(frame(0), someone(score=0.1), MPII16)
    assert (drawn[35, 20] == 40).all()


@pytest.fixture(params=[True, False], ids=["PyAV", "OpenCV"])
def with_av(request, monkeypatch):
    """Once with PyAV and once as where it is not installed."""
    if not request.param:
        real = builtins.__import__

        def no_av(name, *args, **kwargs):
            if name == "av":
                raise ImportError(name)
            return real(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", no_av)
    return request.param


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_film_keeps_the_cameras_time(tmp_path, with_av, suffix):
    path = tmp_path / f"film{suffix}"
    overlay = open_overlay(str(path), MPII16)
    for seq in range(20):
        overlay.show(frame(seq), someone())
        assert not path.exists()  # whole or absent
    overlay.close()
    overlay.close()
    capture = cv2.VideoCapture(str(path))
    assert (capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT)) == (100, 66)
    frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    seconds = frames / capture.get(cv2.CAP_PROP_FPS)
    assert 1.8 <= seconds <= 2.2
    if with_av and suffix == ".mp4":
        assert frames == 20
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_with_a_colon_is_no_protocol(tmp_path, with_av, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overlay = open_overlay("2026-05-01T12:30:00.mp4", MPII16)
    overlay.show(frame(0), someone())
    overlay.close()
    assert [path.name for path in tmp_path.iterdir()] == ["2026-05-01T12:30:00.mp4"]


def test_an_avi_shows_its_pictures_in_order(tmp_path):
    av = pytest.importorskip("av")
    overlay = open_overlay(str(tmp_path / "film.avi"), MPII16)
    for seq in range(20):
        overlay.show(frame(seq), someone())
    overlay.close()
    with av.open(str(tmp_path / "film.avi")) as container:
        times = [float(shown.pts * shown.time_base) for shown in container.decode(video=0)]
    assert times == sorted(times)
    assert len(times) == 20
    assert times[-1] == pytest.approx(1.9, abs=0.2)


def seconds_of(path):
    capture = cv2.VideoCapture(str(path))
    shown = 0
    while capture.read()[0]:
        shown += 1
        last = capture.get(cv2.CAP_PROP_POS_MSEC)
    return shown, last / 1e3


@pytest.mark.parametrize("jump", [-60, 3600])
def test_a_clock_that_jumps_costs_a_film_no_frames(tmp_path, with_av, jump):
    """Set back: no time passes. An hour away: shown as a second."""
    overlay = open_overlay(str(tmp_path / "film.mp4"), MPII16)
    for seq in range(20):
        overlay.show(frame(seq + (10 * jump if seq >= 10 else 0)), someone())
    overlay.close()
    shown, seconds = seconds_of(tmp_path / "film.mp4")
    assert shown >= 20
    assert 1.6 <= seconds <= 3.2


def test_utc_that_is_set_leaves_no_gap_in_a_film(tmp_path, with_av):
    overlay = open_overlay(str(tmp_path / "film.mp4"), MPII16)
    for seq in range(20):
        overlay.show(frame(seq + 36_000 * (seq >= 10), steady_ns=seq * 100_000_000), someone())
    overlay.close()
    assert seconds_of(tmp_path / "film.mp4")[1] == pytest.approx(1.9, abs=0.15)


def test_pictures_of_another_size_are_fitted_in(tmp_path, with_av):
    overlay = open_overlay(str(tmp_path / "film.mp4"), MPII16)
    for seq in range(20):
        overlay.show(frame(seq, *((101, 67) if seq < 10 else (60, 120))), someone())
    overlay.close()
    capture = cv2.VideoCapture(str(tmp_path / "film.mp4"))
    shown = []
    while (read := capture.read())[0]:
        shown.append(read[1])
    assert len(shown) >= 20
    assert {image.shape for image in shown} == {(66, 100, 3)}
    assert shown[-1][:, 2:30].max() < 20  # black beside a tall picture
    assert shown[-1][2:64, 40:60].mean() > 20


@pytest.mark.parametrize("form", ["mkv", "mp4", "avi"])
def test_a_full_disk_is_a_sentence_and_leaves_nothing(form, tmp_path):
    pytest.importorskip("av")
    (tmp_path / f".film.part.{form}").symlink_to("/dev/full")
    overlay = open_overlay(str(tmp_path / f"film.{form}"), MPII16)

    def film():
        for seq in range(200):
            overlay.show(frame(seq, 640, 480), someone())
        overlay.close()

    with pytest.raises(EdgeposeError, match=r"cannot write overlay .*film\..*: No space left on device; make room"):
        film()
    overlay.close()  # as the loop does with all that it opened; there is nothing to finish
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_too_long_with_what_marks_it_as_half_is_a_sentence(with_av, tmp_path):
    overlay = open_overlay(str(tmp_path / f"{'x' * 248}.mp4"), MPII16)

    def film():
        for seq in range(100):
            overlay.show(frame(seq), someone())
        overlay.close()

    with pytest.raises(EdgeposeError, match=r"cannot write overlay .*xxx\.mp4: .*; make room or choose another file"):
        film()
    overlay.close()
    assert not list(tmp_path.iterdir())


def test_a_film_that_broke_is_not_put_in_its_place(with_av, tmp_path, monkeypatch):
    overlay = open_overlay(str(tmp_path / "film.mp4"), MPII16)
    overlay.show(frame(0), someone())
    monkeypatch.setattr(overlay._writer, "add", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(EdgeposeError, match="Input/output error"):
        overlay.show(frame(1), someone())
    overlay.close()
    assert not list(tmp_path.iterdir())


def test_a_film_that_cannot_be_put_in_its_place_is_kept(with_av, tmp_path):
    overlay = open_overlay(str(tmp_path / "film.mp4"), MPII16)
    overlay.show(frame(0), someone())
    (tmp_path / "film.mp4").mkdir()
    with pytest.raises(EdgeposeError, match=r"film.mp4 in its place: Is a directory; it is .*\.film\.part\.mp4"):
        overlay.close()
    overlay.close()  # as the loop does
    assert cv2.VideoCapture(str(tmp_path / ".film.part.mp4")).read()[0]


@pytest.mark.parametrize("suffix", ["mkv", "avi", "mp4"])
def test_what_a_killed_run_had_drawn_is_kept(suffix, tmp_path, capsys):
    """But for an .mp4, which nobody can read before it is closed."""
    for number in (1, 2):
        (tmp_path / f".film.part.{suffix}").write_bytes(b"%d" % number)
        overlay = open_overlay(str(tmp_path / f"film.{suffix}"), MPII16)
        overlay.show(frame(0), someone())
        overlay.close()
    kept = sorted(path.name for path in tmp_path.iterdir())
    if suffix == "mp4":
        assert kept == ["film.mp4"]
        return
    assert kept == [f"film.1.{suffix}", f"film.2.{suffix}", f"film.{suffix}"]
    assert [(tmp_path / name).read_bytes() for name in kept[:2]] == [b"1", b"2"]
    assert f"of an earlier run was not finished; what there is of it is {tmp_path / kept[0]}" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_a_film_that_another_run_draws_is_left_alone(suffix, with_av, tmp_path):
    target = str(tmp_path / f"film.{suffix}")
    ours, other = open_overlay(target, MPII16), open_overlay(target, MPII16)
    ours.show(frame(0), someone())
    with pytest.raises(EdgeposeError, match=rf"another run is writing overlay .*film\.{suffix}; choose another file"):
        other.show(frame(0), someone())
    other.close()
    ours.show(frame(1), someone())
    ours.close()
    assert [path.name for path in tmp_path.iterdir()] == [f"film.{suffix}"]
    capture = cv2.VideoCapture(target)
    assert [capture.read()[0] for _ in range(2)] == [True, True]
    after = open_overlay(target, MPII16)  # it may be drawn anew when it is whole
    after.show(frame(0), someone())
    after.close()


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_on_a_disk_that_fills_what_can_be_seen_is_kept(suffix, with_av, tmp_path, monkeypatch):
    overlay = open_overlay(str(tmp_path / f"film.{suffix}"), MPII16)
    for number in range(30):
        overlay.show(frame(number), someone())
    if with_av:
        overlay._writer._container.close()  # so that what it holds back is on the disk
    else:
        overlay._writer.close()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(overlay._writer, "add", full)
    part = tmp_path / f".film.part.{suffix}"
    with pytest.raises(EdgeposeError, match="No space left on device; make room or choose another file") as caught:
        overlay.show(frame(30), someone())
    assert part.exists() == (suffix == "mkv") == (f"what there is of it is {part}" in str(caught.value))


def test_a_picture_of_one_line_is_shown(with_av, tmp_path):
    overlay = open_overlay(str(tmp_path / "film.mp4"), MPII16)
    overlay.show(frame(0, 1, 40), someone())
    overlay.close()
    assert (tmp_path / "film.mp4").stat().st_size > 0


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("film.txt", "must be 'window' or a file that ends in"),
        ("/no/where/film.mp4", "/no/where does not exist"),
        ("folder.mp4", "overlay folder.mp4 is a folder; name a file in it"),
    ],
)
def test_bad_targets_get_a_sentence(target, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(EdgeposeError, match=sentence):
        open_overlay(target, MPII16)


def test_no_display_is_a_sentence(monkeypatch):
    pytest.importorskip("gi")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(EdgeposeError, match=r"there is no display.*--overlay FILE\.mp4"):
        open_overlay("window", MPII16)


def test_a_display_that_does_not_answer_is_a_sentence(monkeypatch):
    pytest.importorskip("gi")
    if gst().ElementFactory.find("ximagesink") is None:
        pytest.skip("ximagesink is not installed (gstreamer1.0-x)")
    monkeypatch.setenv("DISPLAY", ":987")
    overlay = open_overlay("window", MPII16)
    with pytest.raises(EdgeposeError, match=r"--overlay FILE\.mp4"):
        overlay.show(frame(0), someone())
    overlay.close()


def test_a_window_opens_on_a_display(tiny):
    """On a virtual display, through the command line, as a user would."""
    if shutil.which("xvfb-run") is None:
        pytest.skip("xvfb is not installed")
    command = ["xvfb-run", "-a", "-s", "-screen 0 640x480x24", sys.executable, "-m", "edgepose", "run", "--source",
               "videotest://?width=322&height=240&fps=20", "--overlay", "window", "--max-frames", "10",
               "--model", str(tiny.path)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "10 frames" in done.stderr
