"""Engines: the same bundle on any runtime, behind one small protocol.

An engine module has ``load(bundle, options) -> Engine``. Modules are imported when they are asked
for, so that only the runtime in use must be installed.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from edgepose.bundle import Bundle
from edgepose.engines import cpu, trt_library
from edgepose.errors import EdgeposeError, unknown

Precision: TypeAlias = Literal["auto", "float32", "float16", "bfloat16", "int8"]  # auto: the bundle's own


class Engine(Protocol):
    """A loaded model. Not for use by two threads at once."""

    name: str  # which runtime, e.g. "openvino"
    precision: str  # what it computes in, e.g. "float32"

    def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """``images`` [N, 3, H, W] RGB 0..255 -> heatmaps [N, K, h, w], valid until the next call."""
        ...

    def close(self) -> None:
        """Release what the runtime holds."""
        ...


@dataclass(frozen=True)
class Options:
    """What a user may choose about an engine; a runtime that cannot follow a choice refuses it."""

    threads: int = 0  # 0: the runtime's own choice
    precision: Precision = "auto"
    device: str = "auto"  # e.g. "CPU", "GPU"; the runtime's own names
    build: bool = True  # whether a runtime that needs a compiled plan may build one (tensorrt)
    batches: tuple[int, ...] = ()  # sizes, 1 among them, of which all batches are made up; empty: any size (openvino)


# name -> (module in this package, libraries of which it needs one, how to install that)
REGISTRY: dict[str, tuple[str, tuple[str, ...], str]] = {
    "openvino": ("edgepose.engines.openvino", ("openvino",), "pip install 'edgepose[openvino]'"),
    "onnxruntime": ("edgepose.engines.onnxruntime", ("onnxruntime",), "pip install 'edgepose[onnxruntime]'"),
    "reference": ("edgepose.engines.reference", ("onnxruntime",), "pip install 'edgepose[onnxruntime]'"),
    # On a Jetson the library comes with JetPack.
    "tensorrt": ("edgepose.engines.tensorrt", trt_library.LIBRARIES, "sudo apt install python3-libnvinfer"),
}


def available() -> list[str]:
    """Engines whose module and libraries are all here, in order of preference."""
    order = ("tensorrt", "openvino", "onnxruntime")
    # TensorRT-RTX, which any desktop may have from pip, says nothing of a GPU: it is there for who asks for it.
    here = [n for n in order if _has(REGISTRY[n][1][0])]
    return [n for n in here if n != "tensorrt" or _has_memory()]


def _has_memory() -> bool:
    """Whether a library is here by which TensorRT gets the GPU's memory; JetPack brings none."""
    return _has("cuda") or _has("pycuda")


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def load(bundle: Bundle, name: str = "auto", options: Options | None = None) -> Engine:
    """Load ``bundle`` on the engine ``name`` ('auto': the first available).

    EdgeposeError: unknown engine, library not installed, or an option that the engine cannot follow.
    """
    options = options or Options()
    if name == "auto":
        here = available()
        if not here:
            raise EdgeposeError("no inference engine is installed; run: pip install 'edgepose[openvino]'")
        name = here[0]
    if name not in REGISTRY:
        raise unknown("engine", name, [*REGISTRY, "auto"])
    module, libraries, install = REGISTRY[name]
    if not any(map(_has, libraries)):
        raise EdgeposeError(f"engine '{name}' needs {libraries[0]}, which is not installed; run: {install}")
    if options.precision == "int8" and name != "tensorrt":
        if bundle.manual.precision != "int8":
            raise EdgeposeError(f"{bundle.path} is {bundle.manual.precision}; take its INT8 bundle, or make one: "
                                "edgepose-calibrate quantize")  # fmt: skip
        options = replace(options, precision="auto")
    if bundle.manual.precision == "int8" and name == "onnxruntime" and options.device.upper() in ("AUTO", "CPU"):
        cpu.say_where_sums_are_cut_off(bundle.manual.name)
    return cast(Engine, importlib.import_module(module).load(bundle, options))
