"""Finding cameras: on this machine, whatever it has, and in made-up /sys and /dev folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgepose.gst import gst
from edgepose.sources import cameras, discover
from edgepose.sources.discover import Camera, _capabilities, _from_device, _is_camera
from edgepose.sources.uri import parse
from tests.sources.conftest import absent


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


class Device:
    """Stands in for a GstDevice; its caps and properties are GStreamer's own."""

    def __init__(self, name: str, properties: str | None, caps: str) -> None:
        self._name, self._properties, self._caps = name, properties, caps

    def get_display_name(self) -> str:
        return self._name

    def get_properties(self) -> Any:
        return self._properties and gst().Structure.new_from_string(self._properties)

    def get_caps(self) -> Any:
        return gst().Caps.from_string(self._caps)


@pytest.mark.skipif(bool(absent("gstreamer")), reason=absent("gstreamer"))
def test_what_gstreamer_tells_of_a_camera() -> None:
    """Its path under either name, and its largest sizes; a range of sizes is none."""
    sizes = "; ".join(f"video/x-raw,width={w},height={h}" for w, h in [(640, 480), (1920, 1080), (320, 240)])
    usb = _from_device(Device("Webcam", 'v4l2,device.path="/dev/video7"', f"{sizes}; image/jpeg,width=640,height=480"))
    assert usb == Camera("v4l2:///dev/video7", "Webcam", "1920x1080, 640x480, 320x240")
    wired = _from_device(Device("Pipe", 'pw,api.v4l2.path="/dev/video2"', "video/x-raw,width=[1,640],height=[1,480]"))
    assert wired == Camera("v4l2:///dev/video2", "Pipe", "")
    assert _from_device(Device("Screen", 'x,node.id="3"', sizes)) is None
    assert _from_device(Device("Nothing", None, sizes)) is None


def test_what_gstreamer_knows_of_a_camera_goes_before_what_the_kernel_does(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = [Camera("v4l2:///dev/video10", "b", "driver uvcvideo"), Camera("v4l2:///dev/video2", "a", "driver x")]
    monkeypatch.setattr(discover, "_v4l2_from_sys", lambda *_: kernel)
    monkeypatch.setattr(discover, "_v4l2_from_gstreamer", lambda: [Camera("v4l2:///dev/video10", "B", "640x480")])
    monkeypatch.setattr(discover, "_csi", lambda *_: [])
    assert cameras() == [kernel[1], Camera("v4l2:///dev/video10", "B", "640x480")]


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
