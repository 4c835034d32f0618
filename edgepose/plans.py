"""TensorRT plans and their manifests: what a plan was built from and on, whether it fits here, and where it is kept.

A plan is worth nothing without its manifest, ``NAME.plan.json`` beside ``NAME.plan``. One that does not fit this
machine is built again or refused with the reason; it is never run.
"""

from __future__ import annotations

import hashlib
import platform
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationError

from edgepose.bundle import Bundle
from edgepose.console import say
from edgepose.engines import Precision
from edgepose.engines.device_memory import GPU
from edgepose.errors import EdgeposeError
from edgepose.files import alone, cache_dir, kind, write_beside
from edgepose.validation import STRICT, first_fault
from edgepose.versions import numbers

Hardware = Literal["this", "same-capability", "ampere+"]


# Which major version runs version-compatible plans of the one before (TensorRT 11.4.1, support matrix).
_NEXT_MAJOR = {((8,), (10,)), ((10,), (11,))}


class _Strict(BaseModel):
    model_config = STRICT


class Wanted(_Strict):
    """What a plan is asked to be; part of its manifest, and of its name in the cache."""

    precision: Precision = "auto"  # auto: the bundle's own
    max_batch: Annotated[int, Field(ge=1, le=256)] = 8  # persons in one run; more are run in slices
    opt_batch: Annotated[int, Field(ge=1, le=256)] = 1  # what the kernels are chosen for
    workspace_mb: Annotated[int, Field(ge=1)] = 1024  # scratch memory that a kernel may take, MiB
    strongly_typed: bool = True  # precision by the file's types where TensorRT can; False: by flags
    dla_core: Annotated[int, Field(ge=0)] | None = None  # run on this core, what it cannot do on the GPU
    version_compatible: bool = False  # runs on later TensorRTs of this major version and the next, more slowly
    hardware: Hardware = "this"  # which other GPUs may run it, more slowly
    effort: Annotated[int, Field(ge=0, le=5)] | None = None  # builder optimisation level; None: TensorRT's own
    targets: list[str] = []  # e.g. ["SM86"]: GPUs to build for, where TensorRT can build without one (TensorRT-RTX)


class Machine(_Strict):
    """What a plan depends on, and what explains its speed."""

    library: str  # tensorrt or tensorrt_rtx
    tensorrt: str
    platform: str = ""  # "aarch64", "x86_64"; empty in manifests of before it was written down
    cuda: str = ""  # the newest CUDA that the driver takes; empty where there is no GPU
    driver: str = ""
    gpu: str = ""
    compute_capability: str = ""  # "8.7"
    l4t: str = ""  # "36.4.3", from /etc/nv_tegra_release
    jetpack: str = ""  # version of the package nvidia-jetpack
    power_mode: str = ""  # by nvpmodel


class Manifest(_Strict):
    """All that one must know to run a plan, or to refuse it."""

    schema_: Annotated[Literal["edgepose.plan/1"], Field(alias="schema")] = "edgepose.plan/1"
    bundle: str
    bundle_sha256: str
    plan_sha256: str
    machine: Machine
    wanted: Wanted
    precision: str
    strongly_typed: bool
    flags: list[str]  # builder flags that were set
    batches: tuple[int, int, int]  # least, best, most persons in one run
    calibration_sha256: str = ""  # of the calibration set, where one was used
    build_seconds: float
    accuracy_delta: dict[str, float] | None = None  # figures against the float model, in points, as measured before
    built: str  # UTC, ISO 8601


def machine_here(library: str, tensorrt: str, gpu: GPU | None) -> Machine:
    """This machine; ``gpu`` is None where a plan is built without one."""
    release = re.search(r"R(\d+).*?REVISION:\s*([\d.]+)", _text(Path("/etc/nv_tegra_release")))
    driver = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", _text(Path("/proc/driver/nvidia/version")))
    power = re.search(r"NV Power Mode:\s*(\S+)", _said("nvpmodel", "-q"))
    return Machine(
        library=library,
        tensorrt=tensorrt,
        platform=platform.machine(),
        cuda=gpu.cuda if gpu else "",
        driver=driver[1] if driver else "",
        gpu=gpu.name if gpu else "",
        compute_capability=".".join(map(str, gpu.compute_capability)) if gpu else "",
        l4t=f"{release[1]}.{release[2]}" if release else "",
        jetpack=_said("dpkg-query", "--show", "--showformat=${Version}", "nvidia-jetpack").strip(),
        power_mode=power[1] if power else "",
    )


def fits(manifest: Manifest, here: Machine) -> str | None:
    """None where the plan may run here, else the reason why not, to follow '... does not fit: '."""
    there = manifest.machine
    built, installed = numbers(there.tensorrt), numbers(here.tensorrt)
    if there.library != here.library:
        return f"it was built by {there.library}, and here is {here.library}"
    if there.platform != here.platform and there.platform:
        return f"it was built on {there.platform}, and here is {here.platform}"
    if manifest.wanted.version_compatible:
        major = built[:1] == installed[:1] or (built[:1], installed[:1]) in _NEXT_MAJOR
        if not major or installed < built:
            return (f"it runs on TensorRT {there.tensorrt} and later ones up to the next major version, and here is "
                    f"{here.tensorrt}")  # fmt: skip
    elif built != installed:
        return f"it was built by TensorRT {there.tensorrt}, and here is {here.tensorrt}"
    if numbers(there.cuda)[:1] != numbers(here.cuda)[:1] and there.cuda and not manifest.wanted.version_compatible:
        return f"it was built with CUDA {there.cuda}, and here is {here.cuda}"
    return _other_gpu(manifest, here)


def _other_gpu(manifest: Manifest, here: Machine) -> str | None:
    there, wanted = manifest.machine, manifest.wanted
    if wanted.targets:
        target = "SM" + here.compute_capability.replace(".", "")
        known = target in wanted.targets
        return None if known else f"it was built for {', '.join(wanted.targets)}, and the GPU here is {target}"
    if wanted.hardware != "this" and here.l4t:
        return f"it was built for several GPUs ({wanted.hardware}), which TensorRT does not support on a Jetson"
    if wanted.hardware == "ampere+":
        ampere = numbers(here.compute_capability) >= (8, 0)
        return None if ampere else f"it needs compute capability 8.0, and the GPU here has {here.compute_capability}"
    if there.compute_capability != here.compute_capability:
        return (f"it was built for compute capability {there.compute_capability} ({there.gpu}), and the GPU here "
                f"({here.gpu}) has {here.compute_capability}")  # fmt: skip
    if wanted.hardware == "this" and there.gpu != here.gpu:
        return f"it was tuned for the GPU {there.gpu}, and here is {here.gpu}"
    return None


def manifest_path(plan: Path) -> Path:
    """Where the manifest of ``plan`` is: NAME.plan.json."""
    return plan.with_name(plan.name + ".json")


def save(manifest: Manifest, plan: Path) -> None:
    """Write the manifest beside its plan."""
    with write_beside(manifest_path(plan)) as beside:
        beside.write_text(manifest.model_dump_json(by_alias=True, indent=2) + "\n", encoding="utf-8")


def load(plan: Path) -> Manifest:
    """Read the manifest of ``plan`` and check that it speaks of this file; EdgeposeError where it does not."""
    path = manifest_path(plan)
    try:
        manifest = Manifest.model_validate_json(path.read_text(encoding="utf-8"))
        digest = hashlib.sha256(plan.read_bytes()).hexdigest()
    except ValidationError as error:
        raise EdgeposeError(f"{path} is not a plan's manifest: {first_fault(Manifest, error)}") from error
    except (OSError, ValueError) as error:
        raise EdgeposeError(f"the plan {plan} has no readable manifest ({error}); build it again") from error
    if digest != manifest.plan_sha256:
        raise EdgeposeError(f"{path} speaks of another file than {plan}; build the plan again")
    return manifest


def cached(bundle: Bundle, wanted: Wanted, machine: Machine) -> Path:
    """Where the cache keeps the plan of ``bundle`` that is as ``wanted``, for the GPU of ``machine``.

    A power mode may turn off a part of a Jetson's GPU, which is another GPU then: each has its own plan.
    """
    key = hashlib.sha256((bundle.sha256 + wanted.model_dump_json() + machine.gpu).encode()).hexdigest()[:12]
    return cache_dir() / "plans" / f"{bundle.manual.name}-{key}.plan"


def obtain(
    bundle: Bundle,
    wanted: Wanted,
    here: Machine,
    build: Callable[[Path], Manifest] | None,
    tell: Callable[[str], None] = say,
) -> tuple[Path, Manifest]:
    """The plan to run: beside the bundle, else in the cache, else built into the cache, which ``tell`` announces.

    EdgeposeError: none fits and ``build`` is None (the sentence has the reason), or building fails.
    """
    beside, kept = bundle.path.with_suffix(".plan"), cached(bundle, wanted, here)
    reasons = []
    for path in (beside, kept):
        if kind(path) != "nothing":
            found = _usable(path, bundle, wanted, here)
            if isinstance(found, Manifest):
                return path, found
            reasons.append(f"the plan {path} does not fit: {found}")
    why = "; ".join(reasons) or f"there is no plan of {bundle.manual.name} for this machine"
    if build is None:
        raise EdgeposeError(f"{why}; leave out --no-build, or build one with 'edgepose-calibrate build'")
    tell(f"{why}; building one for {here.gpu} with TensorRT {here.tensorrt}, once: this takes minutes")
    with alone(kept.with_suffix(".lock")):  # two that build at once would need memory twice, and time each other
        found = _usable(kept, bundle, wanted, here) if kind(kept) != "nothing" else ""
        if isinstance(found, Manifest):
            return kept, found  # by another process, for which we waited
        manifest = build(kept)
    tell(f"built {kept} in {manifest.build_seconds:.0f} s")
    return kept, manifest


def _usable(plan: Path, bundle: Bundle, wanted: Wanted, here: Machine) -> Manifest | str:
    """The manifest of a plan that may run, or why it may not."""
    try:
        manifest = load(plan)
    except EdgeposeError as error:
        return str(error)
    if manifest.bundle_sha256 != bundle.sha256:
        return f"it was built from another file than {bundle.path}"
    return _other_wish(manifest, bundle, wanted) or fits(manifest, here) or manifest


def _other_wish(manifest: Manifest, bundle: Bundle, wanted: Wanted) -> str | None:
    precision = bundle.manual.precision if wanted.precision == "auto" else wanted.precision
    if wanted.precision == "float32" != manifest.wanted.precision:
        return "it may compute in TF32, and float32 is asked for"
    if precision != manifest.precision:
        return f"it computes in {manifest.precision}, and {precision} is asked for"
    if wanted.dla_core != manifest.wanted.dla_core:
        return "it is for another engine device"
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _said(*command: str) -> str:
    """What a command prints; empty where it is absent or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
