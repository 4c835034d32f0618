"""Finding cameras: on this machine, whatever it has, and in made-up /sys and /dev folders."""

from __future__ import annotations

from pathlib import Path

from edgepose.sources import cameras
from edgepose.sources.discover import _capabilities, _is_camera
from edgepose.sources.uri import parse


def test_this_machine() -> None:
    for camera in cameras():
        assert parse(camera.uri).kind in ("v4l2", "csi")
        assert camera.name


def test_decoders_and_scalers_are_no_cameras() -> None:
    """By bits of linux/videodev2.h: webcams, decoders, the inputs of scalers; and one that does not tell."""
    webcam, mplane, decoder, scaler = 0x04200001, 0x04201000, 0x04204000, 0x04200002
    assert [_is_camera(c) for c in (webcam, mplane, 0x04200003, None)] == [True] * 4  # the third: a loopback
    assert [_is_camera(c) for c in (decoder, 0x0420C000, scaler, 0x04202000, 0x04A00000)] == [False] * 5


def test_what_is_no_device_does_not_tell(tmp_path: Path) -> None:
    (tmp_path / "video0").touch()
    assert _capabilities(tmp_path / "video0") is None
    assert _capabilities(tmp_path / "video1") is None


def test_none_is_an_empty_list(tmp_path: Path) -> None:
    assert cameras(sys=tmp_path, dev=tmp_path, proc=tmp_path) == []


def test_v4l2_and_csi(tmp_path: Path) -> None:
    dev, sys, proc = tmp_path / "dev", tmp_path / "sys", tmp_path / "proc"
    dev.mkdir()
    driver = sys / "drivers" / "uvcvideo"
    driver.mkdir(parents=True)
    for node, name, index in [
        ("video10", "HD Webcam", 0),
        ("video2", "Door", 0),
        ("video3", "Door", 1),
        ("video4", "Gone", 0),
    ]:
        entry = sys / "class" / "video4linux" / node
        (entry / "device").mkdir(parents=True)
        (entry / "device" / "driver").symlink_to(driver)
        (entry / "name").write_text(name + "\n")
        (entry / "index").write_text(f"{index}\n")
        if name != "Gone":
            (dev / node).touch()
    (dev / "nvhost-vi").touch()
    for i, status in enumerate(["okay", "disabled"]):
        module = proc / "device-tree" / "tegra-camera-platform" / "modules" / f"module{i}"
        module.mkdir(parents=True)
        (module / "status").write_text(status + "\0")
        (module / "badge").write_text(f"imx219_{i}\0")
    found = cameras(sys=sys, dev=dev, proc=proc)
    assert [(c.uri, c.name, c.detail) for c in found] == [
        (f"v4l2://{dev}/video2", "Door", "driver uvcvideo"),
        (f"v4l2://{dev}/video10", "HD Webcam", "driver uvcvideo"),
        ("csi://0", "imx219_0", "CSI sensor"),
    ]
