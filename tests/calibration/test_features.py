"""Features: which map is the bottleneck, and what becomes of crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from calibration import features
from edgepose import bundle as bundles
from edgepose.bundle import Bundle
from edgepose.errors import EdgeposeError
from tests.conftest import tiny_manual


def hourglass() -> onnx.ModelProto:
    """64 -> 16 -> 4 -> 16: averages, at the ground weighed by a channel attention (a map of 1 x 1), and joints."""
    rng = np.random.default_rng(7)
    constants = [
        numpy_helper.from_array(rng.normal(0, 1 / 255, (16, 3, 1, 1)).astype(np.float32), "weight"),
        numpy_helper.from_array(np.array([1, 1, 4, 4], dtype=np.float32), "scales"),
    ]
    node = helper.make_node
    nodes = [
        node("AveragePool", ["image"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]),
        node("AveragePool", ["pooled"], ["floor"], kernel_shape=[4, 4], strides=[4, 4]),
        node("GlobalAveragePool", ["floor"], ["attention"]),
        node("Mul", ["floor", "attention"], ["weighed"]),
        node("Resize", ["weighed", "", "scales"], ["up"], mode="nearest"),
        node("Conv", ["up", "weight"], ["heatmaps"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "hourglass",
        [info("image", TensorProto.FLOAT, ["N", 3, 64, 64])],
        [info("heatmaps", TensorProto.FLOAT, ["N", 16, 16, 16])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def glass(tmp_path: Path) -> Bundle:
    """A bundle of :func:`hourglass`."""
    return bundles.save(hourglass(), tiny_manual(), tmp_path / "glass.onnx")


@pytest.fixture
def crops() -> np.ndarray:
    """Twenty crops of noise for 64 x 64 inputs."""
    return np.random.default_rng(0).integers(0, 256, (20, 3, 64, 64), dtype=np.uint8)


def test_bottleneck_is_the_last_of_the_smallest_maps() -> None:
    model = onnx.shape_inference.infer_shapes(hourglass())
    assert features.bottleneck(model) == "weighed"


def test_bottleneck_features_by_hand(glass: Bundle, crops: np.ndarray) -> None:
    blocks = crops.astype(np.float64).reshape(20, 3, 4, 16, 4, 16).mean(axis=(3, 5))
    expected = blocks * blocks.mean(axis=(2, 3), keepdims=True)
    found = features.bottleneck_features(glass, crops, batch=7)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.reshape(20, -1), rtol=1e-4)


def test_bottleneck_of_the_shipped_model(shipped: Bundle) -> None:
    """At the ground of the hourglass a 192 pixel input is 6 x 6 cells; the graph behind it is left out."""
    graph = features.up_to_bottleneck(shipped).graph
    assert [d.dim_value for d in graph.output[0].type.tensor_type.shape.dim][2:] == [6, 6]
    assert len(graph.node) < len(onnx.load(shipped.path).graph.node)
    width, height = shipped.manual.input_size
    noise = np.random.default_rng(0).integers(0, 256, (3, 3, height, width), dtype=np.uint8)
    whole = features.bottleneck_features(shipped, noise)
    np.testing.assert_allclose(whole[1:2], features.bottleneck_features(shipped, noise[1:2]), rtol=1e-3, atol=1e-3)
    assert np.abs(whole[0] - whole[1]).max() > 0.01


def test_crops_of_another_size(glass: Bundle) -> None:
    with pytest.raises(EdgeposeError, match=r"crops are \[3, 32, 32\] but tiny takes \[3, 64, 64\]; cut them"):
        features.bottleneck_features(glass, np.zeros((2, 3, 32, 32), dtype=np.uint8))


def test_numbers_that_are_none(tmp_path: Path, crops: np.ndarray) -> None:
    model = hourglass()
    model.graph.node[3].op_type = "Div"  # by an attention of nought
    broken = bundles.save(model, tiny_manual(), tmp_path / "broken.onnx")
    with pytest.raises(EdgeposeError, match="model tiny gave no numbers at its bottleneck"):
        features.bottleneck_features(broken, np.zeros_like(crops))


def test_unknown_features(glass: Bundle, crops: np.ndarray) -> None:
    with pytest.raises(EdgeposeError, match="unknown features 'bottlneck'; did you mean 'bottleneck'"):
        features.extract("bottlneck", glass, crops)


def test_autoencoder_features_tell_pictures_apart(glass: Bundle) -> None:
    """A bar across against a bar upright, over noise: the nearest neighbour is of the same kind."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rng = np.random.default_rng(1)
    pictures = rng.integers(0, 60, (60, 3, 64, 64), dtype=np.uint8)
    for number, picture in enumerate(pictures):
        at = int(rng.integers(24, 34))
        if number % 2:
            picture[:, at : at + 8] = 220
        else:
            picture[:, :, at : at + 8] = 220
    found = features.extract("autoencoder", glass, pictures, seed=3)
    torch.set_num_threads(threads)
    apart = np.linalg.norm(found[:, None] - found[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert found.shape == (60, 32)
    assert np.mean(apart.argmin(axis=1) % 2 == np.arange(60) % 2) > 0.95
