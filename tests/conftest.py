"""Shared fixtures: a tiny bundle that runs anywhere, the shipped clip, the image sets where they are present."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key

from edgepose import bundle as bundles
from edgepose.bundle import Bundle, Manual

REPOSITORY = Path(__file__).parent.parent
CLIP = REPOSITORY / "deploy" / "demo" / "one_by_one_person.mp4"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see no EDGEPOSE_* variable but the folders, and no edgepose.toml in the folder that they run in."""
    for name in list(os.environ):
        if name.startswith("EDGEPOSE_") and name not in ("EDGEPOSE_DATA", "EDGEPOSE_CACHE"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("EDGEPOSE_CONFIG", os.devnull)


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, whose edgepose.toml is read."""
    monkeypatch.delenv("EDGEPOSE_CONFIG")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session", autouse=True)
def _a_cache_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests leave the user's cache alone; one that is named (EDGEPOSE_CACHE) keeps what they know of the image sets."""
    with pytest.MonkeyPatch.context() as patch:
        if not os.environ.get("EDGEPOSE_CACHE"):
            patch.setenv("EDGEPOSE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _a_crash_says_where(request: pytest.FixtureRequest) -> None:
    """Lightning, when a run ends, takes away the handler that prints where a process crashed: here it is set again."""
    if faulthandler.is_enabled():
        faulthandler.disable()  # enabled as it is, it would not be set
        faulthandler.enable(request.config.stash[fault_handler_stderr_fd_key])


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with lspet/ and mpii_sports/: $EDGEPOSE_DATA, else shared/data beside the checkout."""
    root = Path(os.environ.get("EDGEPOSE_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (root / "mpii_sports" / "annotations.json").is_file():
        pytest.skip(f"the image sets are not in {root}; set EDGEPOSE_DATA to their folder")
    return root


@pytest.fixture(scope="session")
def clip() -> Path:
    """The CC BY clip of one person at a time."""
    return CLIP


@pytest.fixture(scope="session")
def shipped() -> Bundle:
    """The shipped model."""
    return bundles.load("edgepose-s")


def tiny_graph(size: int = 64, joints: int = 16, stride: int = 4) -> object:
    """An ONNX model with the contract's input and output: average pooling, then a 1x1 convolution."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(7)
    weight = numpy_helper.from_array(rng.normal(0, 1 / 255, (joints, 3, 1, 1)).astype(np.float32), "weight")
    nodes = [
        helper.make_node("AveragePool", ["image"], ["pooled"], kernel_shape=[stride] * 2, strides=[stride] * 2),
        helper.make_node("Conv", ["pooled", "weight"], ["heatmaps"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, size, size])],
        [helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, ["N", joints, size // stride, size // stride])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def tiny_manual(**changes: object) -> Manual:
    """The manual that fits :func:`tiny_graph`."""
    return Manual.model_validate({"name": "tiny", "skeleton": "mpii16", "input_size": (64, 64), **changes})


@pytest.fixture
def tiny(tmp_path: Path) -> Bundle:
    """A bundle of random weights that loads in milliseconds."""
    return bundles.save(tiny_graph(), tiny_manual(), tmp_path / "tiny.onnx")
