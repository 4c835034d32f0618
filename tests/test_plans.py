"""Which plan may run where."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from edgepose import EdgeposeError, plans
from edgepose.engines.device_memory import GPU
from edgepose.plans import Machine, Manifest, Wanted, fits
from edgepose.versions import numbers

ORIN = Machine(library="tensorrt", tensorrt="10.3.0", cuda="12.6", gpu="Orin", compute_capability="8.7")


def manifest(wanted=None, sha="0" * 64, **machine):
    return Manifest(
        bundle="tiny",
        bundle_sha256=sha,
        plan_sha256="0" * 64,
        machine=ORIN.model_copy(update=machine),
        wanted=wanted or Wanted(),
        precision="float32",
        strongly_typed=True,
        flags=[],
        batches=(1, 1, 8),
        build_seconds=1.0,
        built="2026-01-01T00:00:00+00:00",
    )


LATER = Wanted(version_compatible=True)


@pytest.mark.parametrize(
    ("plan", "here", "reason"),
    [
        (manifest(), {}, None),
        (manifest(), {"driver": "540.4.0", "l4t": "36.4.3", "power_mode": "MAXN"}, None),
        (manifest(), {"cuda": "12.8"}, None),
        (manifest(), {"cuda": "13.0"}, "built with CUDA 12.6, and here is 13.0"),
        (manifest(), {"tensorrt": "10.3.1"}, "built by TensorRT 10.3.0, and here is 10.3.1"),
        (manifest(tensorrt="10.13.0"), {"tensorrt": "10.3.0"}, "built by TensorRT 10.13.0"),
        (manifest(), {"library": "tensorrt_rtx"}, "built by tensorrt, and here is tensorrt_rtx"),
        (manifest(LATER), {"tensorrt": "10.13.0"}, None),
        (manifest(LATER, tensorrt="10.13.0"), {"tensorrt": "10.3.0"}, "runs on TensorRT 10.13.0 and later"),
        (manifest(LATER), {"tensorrt": "11.0.0"}, None),
        (manifest(LATER, tensorrt="8.6.2"), {"tensorrt": "10.3.0"}, None),
        (manifest(LATER, tensorrt="8.6.2"), {"tensorrt": "11.0.0"}, "up to the next major version, and here is 11.0.0"),
        (manifest(), {"compute_capability": "12.1", "gpu": "Thor"}, "compute capability 8.7 (Orin)"),
        (manifest(), {"gpu": "Orin NX"}, "tuned for the GPU Orin, and here is Orin NX"),
        (manifest(Wanted(hardware="same-capability")), {"gpu": "Orin NX"}, None),
        (manifest(Wanted(hardware="same-capability")), {"compute_capability": "8.6"}, "compute capability 8.7"),
        (manifest(Wanted(hardware="ampere+")), {"compute_capability": "12.0", "gpu": "RTX"}, None),
        (manifest(Wanted(hardware="ampere+")), {"compute_capability": "7.5"}, "needs compute capability 8.0"),
        (manifest(Wanted(hardware="ampere+")), {"l4t": "36.4.3"}, "which TensorRT does not support on a Jetson"),
        (manifest(platform="x86_64"), {"platform": "aarch64"}, "built on x86_64, and here is aarch64"),
        (manifest(platform="aarch64"), {"platform": "aarch64"}, None),
        (manifest(), {"platform": "aarch64"}, None),
        (manifest(Wanted(targets=["SM86", "SM87"])), {"gpu": "another"}, None),
        (manifest(Wanted(targets=["SM86"])), {}, "built for SM86, and the GPU here is SM87"),
    ],
)
def test_fits(plan, here, reason):
    found = fits(plan, ORIN.model_copy(update=here))
    assert found == reason if reason is None else reason in found


def test_versions_are_numbers():
    assert numbers("10.13.3.9.post1") == (10, 13, 3, 9) > numbers("10.3.0")
    assert numbers("") == ()


def plan_beside(tiny, wanted=None, content=b"plan", **changes):
    path = tiny.path.with_suffix(".plan")
    path.write_bytes(content)
    made = manifest(wanted, tiny.sha256).model_copy(
        update={"plan_sha256": plans.hashlib.sha256(content).hexdigest(), **changes}
    )
    plans.save(made, path)
    return path, made


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "cache"))


def test_a_plan_beside_its_bundle_is_taken(tiny):
    path, made = plan_beside(tiny)
    assert plans.obtain(tiny, Wanted(), ORIN, None) == (path, made)
    assert plans.obtain(tiny, Wanted(max_batch=3), ORIN, None) == (path, made)


def test_int8_that_no_gate_has_judged_is_taken_only_by_name(tiny):
    path, made = plan_beside(tiny, precision="int8")
    with pytest.raises(EdgeposeError, match="it computes in int8, and float32 is asked for"):
        plans.obtain(tiny, Wanted(), ORIN, None)
    assert plans.obtain(tiny, Wanted(precision="int8"), ORIN, None) == (path, made)


def stored(path, bundle):
    """A plan at ``path`` as a build leaves it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"new")
    made = manifest(sha=bundle.sha256).model_copy(update={"plan_sha256": plans.hashlib.sha256(b"new").hexdigest()})
    plans.save(made, path)
    return made


def test_one_that_does_not_fit_is_built_again_into_the_cache(tiny, tmp_path):
    plan_beside(tiny, machine=ORIN.model_copy(update={"tensorrt": "8.6.2"}))
    built, said = [], []

    def build(path):
        built.append(path)
        return stored(path, tiny)

    path, _ = plans.obtain(tiny, Wanted(), ORIN, build, said.append)
    assert path.is_relative_to(tmp_path / "cache")
    assert "does not fit: it was built by TensorRT 8.6.2, and here is 10.3.0" in said[0]
    assert "building one for Orin" in said[0]
    assert plans.obtain(tiny, Wanted(), ORIN, build, said.append)[0] == path
    assert built == [path]
    assert plans.obtain(tiny, Wanted(precision="float16"), ORIN, build, said.append)[0] != path
    half = ORIN.model_copy(update={"gpu": "Orin (8 SM)"})  # what a power mode leaves of it
    assert plans.obtain(tiny, Wanted(), half, build, said.append)[0] != path
    assert plans.obtain(tiny, Wanted(), ORIN, None, said.append)[0] == path, "the other one's plan is still there"


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda plan: plan.write_bytes(b"other"), "speaks of another file"),
        (lambda plan: plans.manifest_path(plan).unlink(), "has no readable manifest"),
        (lambda plan: plans.manifest_path(plan).write_text("{}"), "is not a plan's manifest: key"),
        (
            lambda plan: plans.manifest_path(plan).write_text(
                json.dumps({**json.loads(plans.manifest_path(plan).read_text()), "bundle_sha256": "1" * 64})
            ),
            "it was built from another file than",
        ),
    ],
)
def test_a_damaged_or_foreign_plan_is_refused_with_its_reason(tiny, harm, reason):
    path, _ = plan_beside(tiny)
    harm(path)
    with pytest.raises(EdgeposeError, match=reason) as refused:
        plans.obtain(tiny, Wanted(), ORIN, None)
    assert "leave out --no-build" in str(refused.value)


def test_a_plan_of_another_precision_or_device_is_not_what_was_asked_for(tiny):
    plan_beside(tiny)
    with pytest.raises(EdgeposeError, match="it computes in float32, and float16 is asked for"):
        plans.obtain(tiny, Wanted(precision="float16"), ORIN, None)
    with pytest.raises(EdgeposeError, match="for another engine device"):
        plans.obtain(tiny, Wanted(dla_core=0), ORIN, None)


def test_float32_by_name_takes_no_plan_that_may_compute_in_tf32(tiny):
    """A plan of a float32 file built with 'auto' says float32, too."""
    plan_beside(tiny)
    with pytest.raises(EdgeposeError, match="it may compute in TF32, and float32 is asked for"):
        plans.obtain(tiny, Wanted(precision="float32"), ORIN, None)


def test_the_machine_is_described_from_what_it_says(tmp_path, monkeypatch):
    tegra = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 2025\n"
    driver = "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build  (buildbrain)\n"
    texts = {"/etc/nv_tegra_release": tegra, "/proc/driver/nvidia/version": driver}
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, answer in (("nvpmodel", "NV Power Mode: MAXN_SUPER\\n2\\n"), ("dpkg-query", "6.2+b77")):
        (folder / name).write_text(f"#!/bin/sh\nprintf '{answer}'\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(plans, "_text", lambda path: texts[str(path)])
    monkeypatch.setattr(plans.platform, "machine", lambda: "aarch64")
    found = plans.machine_here("tensorrt", "10.3.0", GPU("Orin", (8, 7), True, "12.6"))
    told = {
        "platform": "aarch64",
        "driver": "540.4.0",
        "l4t": "36.4.3",
        "jetpack": "6.2+b77",
        "power_mode": "MAXN_SUPER",
    }
    assert found == ORIN.model_copy(update=told)


def test_a_machine_without_a_gpu_is_described_too(monkeypatch):
    monkeypatch.setenv("PATH", "")
    found = plans.machine_here("tensorrt_rtx", "1.7.1", None)
    assert (found.gpu, found.power_mode, found.tensorrt) == ("", "", "1.7.1")


def test_two_who_want_one_plan_build_it_once(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "cache"))
    built = []

    def build(path):
        built.append(path)
        time.sleep(0.5)
        return stored(path, tiny)

    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(plans.obtain, tiny, Wanted(), ORIN, build, lambda _: None) for _ in range(2)]
        (first, _), (second, _) = (each.result() for each in asked)
    assert first == second
    assert len(built) == 1
