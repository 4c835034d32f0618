"""Which cameras this machine has. None is an empty list, not an error."""

from __future__ import annotations

import fcntl
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgepose.errors import EdgeposeError

_QUERYCAP = 0x80685600  # VIDIOC_QUERYCAP of linux/videodev2.h, and some of the bits of its answer:
_CAPTURE = 0x00000001 | 0x00001000  # V4L2_CAP_VIDEO_CAPTURE, _CAPTURE_MPLANE
_MEMORY = 0x00008000 | 0x00004000  # V4L2_CAP_VIDEO_M2M, _M2M_MPLANE: from memory to memory
_OWN = 0x80000000  # V4L2_CAP_DEVICE_CAPS: the node's own are told beside those of the whole device


@dataclass(frozen=True)
class Camera:
    """One camera: the URI to open it with, its name, and what else is known of it (sizes, driver)."""

    uri: str
    name: str
    detail: str


def cameras(*, sys: Path = Path("/sys"), dev: Path = Path("/dev"), proc: Path = Path("/proc")) -> list[Camera]:
    """V4L2 cameras, then CSI sensors, by URI. The folders are parameters for the tests."""
    found = {camera.uri: camera for camera in _v4l2_from_sys(sys, dev)}
    if sys == Path("/sys"):
        found.update({camera.uri: camera for camera in _v4l2_from_gstreamer()})
    return sorted(found.values(), key=_order) + _csi(dev, proc)


def _order(camera: Camera) -> tuple[str, int]:
    number = re.search(r"(\d+)$", camera.uri)
    return camera.uri.rstrip("0123456789"), int(number.group(1)) if number else 0


def _v4l2_from_sys(sys: Path, dev: Path) -> list[Camera]:
    result = []
    folder = sys / "class" / "video4linux"
    for entry in folder.iterdir() if folder.is_dir() else ():
        node = dev / entry.name
        # A camera has one node for pictures (index 0) and more for metadata.
        if not entry.name.startswith("video") or _text(entry / "index") not in ("", "0") or not node.exists():
            continue
        if not _is_camera(_capabilities(node)):
            continue
        driver = entry / "device" / "driver"
        detail = f"driver {driver.resolve().name}" if driver.exists() else ""
        result.append(Camera(f"v4l2://{node}", _text(entry / "name") or entry.name, detail))
    return result


def _capabilities(node: Path) -> int | None:
    """What the device says that it can (``device_caps`` of linux/videodev2.h); None where it does not tell."""
    buffer = bytearray(104)  # struct v4l2_capability
    try:
        file = os.open(node, os.O_RDWR | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.ioctl(file, _QUERYCAP, buffer)
    except OSError:
        return None
    finally:
        os.close(file)
    whole, own = struct.unpack_from("=II", buffer, 84)
    return int(own if whole & _OWN else whole)


def _is_camera(capabilities: int | None) -> bool:
    """Whether a device takes pictures, and is no decoder or scaler, which give them back; unknown ones may."""
    return capabilities is None or (bool(capabilities & _CAPTURE) and not capabilities & _MEMORY)


def _v4l2_from_gstreamer() -> list[Camera]:
    from edgepose.gst import gst

    try:
        module = gst()
    except EdgeposeError:
        return []
    monitor = module.DeviceMonitor.new()
    monitor.add_filter("Video/Source", None)
    if not monitor.start():
        return []
    try:
        devices = monitor.get_devices() or []
    finally:
        monitor.stop()
    return [camera for device in devices if (camera := _from_device(device)) is not None]


def _from_device(device: Any) -> Camera | None:
    properties = device.get_properties()
    path = properties and (properties.get_string("device.path") or properties.get_string("api.v4l2.path"))
    if not path:
        return None
    caps = device.get_caps()
    sizes = set()
    for i in range(caps.get_size() if caps else 0):
        structure = caps.get_structure(i)
        (has_width, width), (has_height, height) = structure.get_int("width"), structure.get_int("height")
        if has_width and has_height:
            sizes.add((width, height))
    largest = sorted(sizes, reverse=True)[:4]
    return Camera(f"v4l2://{path}", device.get_display_name(), ", ".join(f"{w}x{h}" for w, h in largest))


def _csi(dev: Path, proc: Path) -> list[Camera]:
    """Sensors that a Jetson's device tree declares, in the order of its camera modules."""
    if not any((dev / name).exists() for name in ("nvhost-vi", "host1x-fence", "capture-vi-channel0")):
        return []
    modules = proc / "device-tree" / "tegra-camera-platform" / "modules"
    names = []
    for module in sorted(modules.glob("module*")) if modules.is_dir() else ():
        if _text(module / "status") in ("", "ok", "okay"):
            badge = _text(module / "badge")
            names.append(badge or module.name)
    return [Camera(f"csi://{i}", name, "CSI sensor") for i, name in enumerate(names)]


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""
