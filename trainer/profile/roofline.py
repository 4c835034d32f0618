"""How long a graph takes at least on a device that is not here: the roofline model.

time = sum over layers of max(2 MACs / peak, bytes moved / bandwidth) (Williams, Waterman & Patterson 2009).

Each layer reads its inputs and weights from memory once and writes its output once, all in the one precision.
Element-wise layers (ReLU, Add, batch norm, ...) are taken as fused into the layer that makes their largest input: they
cost the reading of their other inputs and nothing else. Those that only rearrange (Reshape, Concat, ...) are free.

This is a lower bound on time where tensors go through memory; launches, layouts and imperfect kernels come on top, and
real engines reach a fraction of it. Only layers whose tensors stay in the GPU's cache can beat their bandwidth term.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from trainer.profile.graph import BYTES, Layer

Precision = Literal["float16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("float16", "int8")

FUSED = frozenset({
    "Add", "BatchNormalization", "Cast", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish",
    "LeakyRelu", "Max", "Min", "Mul", "Neg", "Pow", "PRelu", "Relu", "Sigmoid", "Softplus", "Sqrt", "Sub", "Tanh",
})  # fmt: skip
FREE = frozenset({"Concat", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Unsqueeze"})


@dataclass(frozen=True)
class Device:
    """Peak rates of a module's GPU alone, no DLA, dense: structured sparsity would double what NVIDIA's Orin has."""

    name: str
    int8: float  # operations per second on tensor cores; one multiply-accumulate is two
    bandwidth: float  # bytes per second
    source: str

    def peak(self, precision: Precision) -> float:
        """Operations per second; tensor cores of these generations do half as many in FP16 as in INT8."""
        return self.int8 if precision == "int8" else self.int8 / 2


# NVIDIA states Orin's INT8 rates for structured sparsity; the dense rate is half of it.
DEVICES = (
    Device(
        "Jetson Orin Nano 8GB", 20e12, 68e9,
        "Jetson Orin Nano Series Data Sheet DS-11105-001 v1.1: 40 sparse, 20 dense INT8 TOPS, 68 GB/s",
    ),
    Device(
        "Jetson Orin NX 16GB", 30e12, 102.4e9,
        "Jetson Orin NX Series Data Sheet DS-10712-001: 60 of its 100 sparse INT8 TOPS are the GPU's, 102.4 GB/s",
    ),
    Device(
        "Jetson AGX Orin 64GB", 85e12, 204.8e9,
        "Jetson AGX Orin Series Technical Brief v1.2: 170 of its 275 sparse INT8 TOPS are the GPU's, 204.8 GB/s",
    ),
    Device(
        "Jetson Xavier NX", 13.5e12, 59.7e9,
        "computed: 48 tensor cores x 256 INT8 operations x 1.1 GHz (Jetson Xavier NX Data Sheet DA-09366-001; "
        "21 TOPS are with its two DLAs); 59.7 GB/s is LPDDR4x at 1866 MHz, older data sheets (v1.3) give 1600 MHz",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Estimate:
    """A roofline time, never a measurement."""

    device: str
    precision: Precision
    milliseconds: float
    compute_bound: float  # share of that time in layers that the arithmetic limits, not the memory


def bytes_moved(layer: Layer, precision: Precision) -> int:
    """Bytes between memory and GPU, by the rule at the top of this module."""
    if layer.op in FREE:
        elements = 0
    elif layer.op in FUSED:
        elements = sum(layer.inputs) - max(layer.inputs, default=0)
    else:
        elements = sum(layer.inputs) + layer.weights + layer.output
    return elements * BYTES[precision]


def estimate(layers: Iterable[Layer], device: Device, precision: Precision) -> Estimate:
    """Roofline time of ``layers`` one after another, batch 1."""
    total = compute_bound = 0.0
    for layer in layers:
        arithmetic = 2 * layer.macs / device.peak(precision)
        memory = bytes_moved(layer, precision) / device.bandwidth
        total += max(arithmetic, memory)
        compute_bound += arithmetic if arithmetic > memory else 0.0
    return Estimate(device.name, precision, total * 1e3, compute_bound / total if total else 0.0)
