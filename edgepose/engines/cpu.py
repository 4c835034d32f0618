"""What INT8 is worth on this CPU."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

from edgepose import console

CPUINFO = Path("/proc/cpuinfo")
_DOT_PRODUCTS = {"avx_vnni", "avx512_vnni", "amx_int8"}  # flags of instructions that sum products of bytes in 32 bits


def sums_exactly() -> bool:
    """Whether sums of INT8 products are exact here.

    An x86 CPU without VNNI and AMX has ``vpmaddubsw`` alone, which adds two products in 16 bits: large ones are cut off
    (saturate). One that does not say what it has is taken for such a one.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    try:
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return any(_DOT_PRODUCTS & set(line.split()) for line in lines if line.startswith("flags"))


@cache
def say_where_sums_are_cut_off(model: str) -> None:
    """Tell, once of each INT8 ``model``, that this CPU takes something from its accuracy, if it does.

    For engines whose graph is not narrowed: see :mod:`edgepose.engines.narrow`.
    """
    if not sums_exactly():
        console.say(f"note: this CPU has neither VNNI nor AMX, so that {model} may be less accurate with "
                    "onnxruntime than where it was measured; --engine openvino avoids that")  # fmt: skip
