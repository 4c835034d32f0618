"""Features of crops, in which likeness of poses is distance: the hourglass's own bottleneck, or an autoencoder's.

The bottleneck is taken as it is, flattened, neither pooled nor scaled. On mpii_sports train (1159 persons, shipped
model) the pose of the nearest neighbour from another scene, mean joint distance in box sides, is 0.132 off with the
flattened map, 0.147 with average and maximum pooled, 0.204 at random: where in the map a limb lies is what tells
poses apart. Scaling each feature to unit variance changes none of these by more than 0.001.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration import autoencoder
from calibration.graph import session
from edgepose.bundle import Bundle
from edgepose.errors import EdgeposeError, unknown
from trainer.progress import progress

Crops = NDArray[np.uint8]
Features = NDArray[np.float32]


def extract(kind: str, bundle: Bundle, crops: Crops, *, seed: int = 0) -> Features:
    """Features [N, D] of ``crops`` [N, 3, H, W]; ``kind`` is one of :data:`KINDS`."""
    if kind not in KINDS:
        raise unknown("features", kind, KINDS)
    return KINDS[kind](bundle, crops, seed)


def bottleneck_features(bundle: Bundle, crops: Crops, *, batch: int = 16) -> Features:
    """The flattened bottleneck [N, C*h*w] of ``crops`` [N, 3, H, W] RGB, computed on onnxruntime.

    EdgeposeError: crops of another size than the bundle's input, or a graph without maps.
    """
    width, height = bundle.manual.input_size
    if crops.ndim != 4 or crops.shape[1:] != (3, height, width):
        raise EdgeposeError(f"crops are {list(crops.shape[1:])} but {bundle.manual.name} takes [3, {height}, {width}]; "
                            "cut them with this model")  # fmt: skip
    network = session(up_to_bottleneck(bundle), "to compute features")
    starts = range(0, len(crops), batch)
    maps = [
        network.run(None, {"image": crops[start : start + batch].astype(np.float32)})[0]
        for start in progress(starts, len(starts), "bottleneck features")
    ]
    features = np.concatenate([m.reshape(len(m), -1) for m in maps]).astype(np.float32)
    if not np.isfinite(features).all():
        raise EdgeposeError(f"model {bundle.manual.name} gave no numbers at its bottleneck; use --features autoencoder")
    return features


def up_to_bottleneck(bundle: Bundle) -> Any:
    """The bundle's graph from ``image`` to its bottleneck alone, an onnx.ModelProto."""
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load(bundle.path))
    name = bottleneck(model)
    if not name:
        raise EdgeposeError(f"{bundle.path}: no map of known size is in the graph; use --features autoencoder")
    return onnx.utils.Extractor(model).extract_model(["image"], [name])


def bottleneck(model: Any) -> str:
    """Name of the last float map [N, C, h, w] of the smallest size; '' if there is none. Shapes must be inferred.

    The last, because all work at that size is done by then; with stacked hourglasses it is the last stack's.
    """
    values = {v.name: v for v in [*model.graph.value_info, *model.graph.output]}
    best, smallest = "", float("inf")
    for output in (o for node in model.graph.node for o in node.output if o in values):
        tensor = values[output].type.tensor_type
        sides = [d.dim_value for d in tensor.shape.dim][2:]
        # A map of 1x1 is a channel attention's summary, not the hourglass's ground.
        if len(sides) != 2 or tensor.elem_type != 1 or min(sides) < 2:  # 1: onnx.TensorProto.FLOAT
            continue
        if sides[0] * sides[1] <= smallest:
            best, smallest = output, sides[0] * sides[1]
    return best


def autoencoder_features(crops: Crops, *, seed: int = 0) -> Features:
    """The code [N, D] that a small convolutional autoencoder, trained on these ``crops`` alone, gives each of them."""
    images = autoencoder.thumbnails(crops)
    return autoencoder.encode(autoencoder.train(images, seed=seed), images)


KINDS: dict[str, Callable[[Bundle, Crops, int], Features]] = {
    "bottleneck": lambda bundle, crops, seed: bottleneck_features(bundle, crops),
    "autoencoder": lambda bundle, crops, seed: autoencoder_features(crops, seed=seed),
}
