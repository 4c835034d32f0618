"""What a bundle says, word by word: each operator by itself in float32, INT8 as its Q/DQ pairs round; slow.

INT8 on TensorRT and on CPUs with VNNI is that but for the order of sums and halves rounded otherwise. On CPUs without
it OpenVINO is given other weights (see :mod:`edgepose.engines.narrow`), so INT8 files are judged by this there.
"""

from __future__ import annotations

from edgepose.bundle import Bundle
from edgepose.engines import Options
from edgepose.engines.onnxruntime import ONNXRuntimeEngine


class ReferenceEngine(ONNXRuntimeEngine):
    """An onnxruntime session that fuses nothing and replaces nothing."""

    name = "reference"
    optimised = False


def load(bundle: Bundle, options: Options) -> ReferenceEngine:
    """Open ``bundle``; EdgeposeError where the device or the graph is refused."""
    return ReferenceEngine(bundle, options)
