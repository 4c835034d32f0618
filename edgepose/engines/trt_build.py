"""Bundle -> TensorRT plan and manifest, by whichever TensorRT from 8.6 to 11 (or TensorRT-RTX) is installed.

Runs on the device as well as on a desktop: ``edgepose run`` builds with it what does not fit.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from edgepose import plans
from edgepose.bundle import Bundle
from edgepose.engines.device_memory import Memory, open_memory
from edgepose.engines.trt_callbacks import CALIBRATION_BATCH, calibrator, shown
from edgepose.engines.trt_library import Heard, described, has, library
from edgepose.engines.trt_precision import (
    Mode,
    batches,
    choose,
    halved,
    hardware_level,
    refuse_for_dla,
    refuse_ranges,
    shares_profiles_by_choice,
    typed_as,
)
from edgepose.errors import EdgeposeError
from edgepose.files import cache_dir, kind, make_folder, write_beside
from edgepose.plans import Machine, Manifest, Wanted
from edgepose.validation import STRICT


def build(
    bundle: Bundle,
    path: Path,
    wanted: Wanted | None = None,
    *,
    trt: Any = None,
    memory: Memory | None = None,
    calibration: NDArray[np.uint8] | None = None,
    calibration_sha256: str = "",
    calibration_cache: Path | None = None,
    timing_cache: Path | None = None,
) -> Manifest:
    """Build ``bundle`` into ``path`` (NAME.plan) with its manifest beside it.

    ``trt`` is the TensorRT module (default: the installed one), ``memory`` the GPU (default: the first; without one
    only ``wanted.targets`` can be built for). ``calibration`` [N, 3, H, W] uint8 RGB makes a float32 bundle INT8 by
    TensorRT's own calibrator, where it has one; ``calibration_cache`` is its file, and enough where it is there
    already; beside it is kept of which model and set it is. ``timing_cache`` keeps measurements of kernels, so that the
    next build is quicker. ``calibration_sha256``, of the set (default: of the set that the cache was made with, else
    that the bundle names), goes into the manifest, and so does what the bundle lost against the float one.

    EdgeposeError: no TensorRT, no GPU, a cache of another model or set, or TensorRT refuses the model or the wish; the
    sentence has its reason.
    """
    wanted, trt = wanted or Wanted(), trt or library()
    import onnx

    model = onnx.load(bundle.path)
    ranges = calibration is not None or _kept(calibration_cache)
    ours = Origin(bundle_sha256=bundle.sha256, crops_sha256=_hash(calibration), set_sha256=calibration_sha256)
    if calibration_cache is not None:
        ours = _of_cache(calibration_cache, ours)
    types = typed_as(model)
    if types != bundle.manual.precision:  # its plans would be built again at every start
        raise EdgeposeError(f"{bundle.path} says that it is {bundle.manual.precision} and is {types} by its own types; "
                            "export it again, or put 'precision' in its manual right")  # fmt: skip
    mode = choose(trt, types, wanted, calibration=ranges)
    if ranges:
        refuse_ranges(bundle, mode)
    _require_writable(path)
    content = (halved(model) if mode.halve else model).SerializeToString()
    start = time.monotonic()
    with ExitStack() as stack:
        if memory is None and not wanted.targets:
            memory = open_memory()
            stack.callback(memory.close)
        here = plans.machine_here(trt.__name__, trt.__version__, memory.gpu if memory else None)
        if wanted.hardware != "this" and here.l4t:
            raise EdgeposeError(f"TensorRT has no plans for several GPUs ({wanted.hardware}) on a Jetson; "
                                "leave out --hardware, and build on each of them")  # fmt: skip
        cache = calibration_cache or _calibration_cache(bundle, ours)
        images = _images(bundle, calibration) if mode.calibrate else None
        keep = partial(_keep if calibration_cache is not None else _keep_if_possible, ours)
        calibrating = None if images is None else calibrator(trt, memory, images, cache, keep)
        job = _Job(trt, bundle, content, wanted, mode, calibrating, timing_cache or _timing_cache(here))
        plan, flags = _serialised(job)
    manifest = Manifest(
        bundle=bundle.manual.name,
        bundle_sha256=bundle.sha256,
        plan_sha256=hashlib.sha256(plan).hexdigest(),
        machine=here,
        wanted=wanted,
        precision=mode.precision,
        strongly_typed=mode.strongly_typed,
        flags=flags,
        batches=batches(wanted),
        calibration_sha256=ours.set_sha256 or bundle.manual.made_from.get("calibration_set", ""),
        build_seconds=round(time.monotonic() - start, 2),
        accuracy_delta=_delta(bundle),
        built=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    with write_beside(path) as beside:
        beside.write_bytes(plan)
    plans.save(manifest, path)
    return manifest


def _delta(bundle: Bundle) -> dict[str, float] | None:
    """Points that an INT8 bundle gained, mostly below nought, by data set and metric; None where it does not say."""
    rows = bundle.manual.accuracy
    return {f"{r.data}@{r.split} {metric}": -lost for r in rows for metric, lost in r.lost.items()} or None


@dataclass(frozen=True)
class _Job:
    """One build, all questions answered."""

    trt: Any
    bundle: Bundle
    content: bytes  # the ONNX file, as TensorRT is to read it
    wanted: Wanted
    mode: Mode
    calibrator: Any
    timing_cache: Path


def _serialised(job: _Job) -> tuple[bytes, list[str]]:
    """The plan's bytes, and the names of the builder flags that were set."""
    trt, bundle, wanted = job.trt, job.bundle, job.wanted
    heard = Heard(trt)

    def refused(what: str) -> EdgeposeError:
        return EdgeposeError(f"{described(trt)} cannot {what} {bundle.path}: {heard.last()}")

    try:
        builder = trt.Builder(heard.logger)
    except (TypeError, RuntimeError):  # what its constructor raises without a usable GPU
        raise refused("make a builder for") from None
    network = builder.create_network(_network_flags(trt, job.mode))
    parser = trt.OnnxParser(network, heard.logger)
    if wanted.dla_core is not None and has(trt, "OnnxParserFlag", "ADJUST_FOR_DLA"):
        parser.set_flag(trt.OnnxParserFlag.ADJUST_FOR_DLA)
    if not parser.parse(job.content):
        faults = "; ".join(" ".join(parser.get_error(i).desc().split()) for i in range(parser.num_errors))
        raise EdgeposeError(f"{described(trt)} cannot read {bundle.path}: {faults or heard.last()}")
    config = builder.create_builder_config()
    flags = _configure(trt, builder, config, wanted, job.mode)
    width, height = bundle.manual.input_size
    config.add_optimization_profile(_profile(builder, batches(wanted), (3, height, width)))
    if job.calibrator is not None:
        config.int8_calibrator = job.calibrator
        config.set_calibration_profile(_profile(builder, (CALIBRATION_BATCH,) * 3, (3, height, width)))
    timing = _use_timing_cache(config, job.timing_cache)
    with shown(trt, config, f"building {bundle.manual.name}"):
        plan = builder.build_serialized_network(network, config)
    if job.calibrator is not None and job.calibrator.fault is not None:
        raise job.calibrator.fault
    if plan is None:
        raise refused("build")
    if timing:
        with suppress(EdgeposeError), write_beside(job.timing_cache) as beside:  # without it the next build is slower
            beside.write_bytes(bytes(config.get_timing_cache().serialize()))
    return bytes(plan), flags


def _network_flags(trt: Any, mode: Mode) -> int:
    flags = trt.NetworkDefinitionCreationFlag
    bits = 1 << int(flags.STRONGLY_TYPED) if mode.strongly_typed else 0
    if hasattr(trt.Builder, "max_batch_size"):  # there is still an implicit batch to say no to
        bits |= 1 << int(flags.EXPLICIT_BATCH)
    return bits


def _configure(trt: Any, builder: Any, config: Any, wanted: Wanted, mode: Mode) -> list[str]:
    """Everything but shapes and caches; the names of the builder flags that were set."""
    names = list(mode.flags)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, wanted.workspace_mb << 20)
    if wanted.effort is not None:
        config.builder_optimization_level = wanted.effort
    if wanted.precision == "float32":
        config.clear_flag(trt.BuilderFlag.TF32)  # float32 that was asked for by name has all its bits
    if wanted.version_compatible:
        if not has(trt, "BuilderFlag", "VERSION_COMPATIBLE"):
            raise EdgeposeError(f"{described(trt)} cannot build for later versions; build again after an update")
        names.append("VERSION_COMPATIBLE")
    level = hardware_level(trt, wanted)
    if level is not None:
        config.hardware_compatibility_level = level
    if wanted.dla_core is not None:
        _use_dla(trt, builder, config, wanted.dla_core, mode)
        names.append("GPU_FALLBACK")
    if wanted.targets:
        _aim(trt, config, wanted.targets)
    if shares_profiles_by_choice(trt):
        config.set_preview_feature(trt.PreviewFeature.PROFILE_SHARING_0806, True)
    for name in names:
        config.set_flag(getattr(trt.BuilderFlag, name))
    return names


def _use_dla(trt: Any, builder: Any, config: Any, core: int, mode: Mode) -> None:
    if core >= builder.num_DLA_cores:
        raise EdgeposeError(f"{described(trt)} sees {builder.num_DLA_cores} DLA cores here and no core {core}; "
                            "use --engine-device GPU")  # fmt: skip
    refuse_for_dla(trt, mode)
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core


def _aim(trt: Any, config: Any, targets: list[str]) -> None:
    """Build for the named GPUs instead of the one here."""
    if not hasattr(trt, "ComputeCapability"):
        raise EdgeposeError(f"{described(trt)} builds for the GPU that it runs on; leave out the targets")
    config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        if not hasattr(trt.ComputeCapability, target):
            raise EdgeposeError(f"{described(trt)} does not build for '{target}'; "
                                f"it knows {', '.join(trt.ComputeCapability.__members__)}")  # fmt: skip
        config.set_compute_capability(getattr(trt.ComputeCapability, target), index)


def _profile(builder: Any, counts: tuple[int, ...], image: tuple[int, int, int]) -> Any:
    profile = builder.create_optimization_profile()
    profile.set_shape("image", *((count, *image) for count in counts))
    return profile


def _use_timing_cache(config: Any, path: Path) -> bool:
    """Attach the cache in ``path``, or an empty one; whether TensorRT takes any."""
    kept = b""
    with suppress(OSError):  # without it the build is slower
        kept = path.read_bytes()
    for content in (kept, b""):
        cache = config.create_timing_cache(content)
        with suppress(TypeError):  # None is no cache
            if config.set_timing_cache(cache, False):
                return True
    return False


def _require_writable(path: Path) -> None:
    """Before the minutes, not after them."""
    advice = "choose a folder you may write to"
    make_folder(path.parent, advice)
    if not os.access(path.parent, os.W_OK):
        raise EdgeposeError(f"cannot write {path}: its folder may not be written to; {advice}")


def _kept(cache: Path | None) -> bool:
    """Whether ranges of an earlier build are to be read; EdgeposeError: they are not there."""
    if cache is not None and kind(cache) != "file":
        raise EdgeposeError(f"there is no calibration cache {cache}; give a --set too, whose ranges it will keep")
    return cache is not None


class Origin(BaseModel):
    """Of which model and set a calibration cache is; TensorRT takes any that is there, and asks for no crop."""

    model_config = STRICT

    bundle_sha256: str
    crops_sha256: str
    set_sha256: str = ""
    cache_sha256: str = ""  # of the cache's own bytes, which others may write over


def _beside(cache: Path) -> Path:
    return cache.with_name(cache.name + ".json")


def _of_cache(cache: Path, ours: Origin) -> Origin:
    """The origin of ``cache``, or ``ours`` if it is still to be made; EdgeposeError where it is another's.

    One that edgepose did not make is taken as it is, but not beside a set.
    """
    if kind(cache) != "file":
        return ours
    theirs: Origin | None = None
    with suppress(OSError, ValidationError):
        told = Origin.model_validate_json(_beside(cache).read_bytes())
        theirs = told if told.cache_sha256 == hashlib.sha256(cache.read_bytes()).hexdigest() else None
    if theirs is not None and theirs.bundle_sha256 != ours.bundle_sha256:
        raise EdgeposeError(f"the calibration cache {cache} was made with another model; name another file")
    if ours.crops_sha256 and (theirs is None or theirs.crops_sha256 != ours.crops_sha256):
        raise EdgeposeError(f"TensorRT would take the ranges in {cache}, which are not of this set, and look at "
                            "no crop; name another file, or leave out --set")  # fmt: skip
    return theirs or ours


def _keep(ours: Origin, cache: Path, content: bytes) -> None:
    """Write what TensorRT found, and beside it of which model and set it is."""
    about = ours.model_copy(update={"cache_sha256": hashlib.sha256(content).hexdigest()})
    with write_beside(cache) as beside:
        beside.write_bytes(content)
    with write_beside(_beside(cache)) as beside:
        beside.write_text(about.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _keep_if_possible(ours: Origin, cache: Path, content: bytes) -> None:
    with suppress(EdgeposeError):  # without it the next build looks at the crops again
        _keep(ours, cache, content)


def _images(bundle: Bundle, crops: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """The ``crops`` that TensorRT's calibrator is given; none where a cache is enough."""
    width, height = bundle.manual.input_size
    if crops is None:
        return np.zeros((0, 3, height, width), np.uint8)
    if crops.shape[1:] != (3, height, width):
        raise EdgeposeError(f"the crops of the set are {crops.shape[3]} x {crops.shape[2]} pixels and {bundle.path} "
                            f"takes {width} x {height}; select a set with this model")  # fmt: skip
    if len(crops) < CALIBRATION_BATCH:
        raise EdgeposeError(f"calibration by TensorRT needs {CALIBRATION_BATCH} crops or more, and the set has "
                            f"{len(crops)}; select more")  # fmt: skip
    return crops


def _hash(crops: NDArray[np.uint8] | None) -> str:
    return hashlib.sha256(crops.tobytes()).hexdigest() if crops is not None else ""


def _calibration_cache(bundle: Bundle, ours: Origin) -> Path:
    """Named after model and set, for a cache is right for no other pair."""
    name = f"{bundle.manual.name}-{bundle.sha256[:12]}-{ours.crops_sha256[:12]}.cache"
    return cache_dir() / "calibration" / name


def _timing_cache(here: Machine) -> Path:
    parts = (here.library, here.tensorrt, here.gpu or "none", here.power_mode)  # another mode has other times
    name = re.sub(r"[^\w().-]+", "-", "-".join(part for part in parts if part)) + ".cache"
    return cache_dir() / "timing" / name
