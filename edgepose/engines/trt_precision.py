"""How a plan gets its precision: from the types in the file, or by flags, by what the installed TensorRT has.

A *typed* file says its own precision: Q/DQ nodes (INT8) or float16 tensors. TensorRT 10 and later follow it in a
strongly typed network, and 11 knows nothing else. TensorRT 8.6 wants a flag for every precision that it may use.
"""

from __future__ import annotations

import importlib
import shlex
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgepose.bundle import Bundle
from edgepose.engines.trt_library import described, has
from edgepose.errors import EdgeposeError, missing
from edgepose.plans import Wanted

_FLAGS = {"float32": (), "float16": ("FP16",), "bfloat16": ("BF16",), "int8": ("INT8", "FP16")}
_JETPACKS = Path("/usr/src/tensorrt/bin/trtexec")  # on no PATH
_HARDWARE = {"same-capability": "SAME_COMPUTE_CAPABILITY", "ampere+": "AMPERE_PLUS"}


@dataclass(frozen=True)
class Mode:
    """What to tell the builder about precision."""

    precision: str  # that the plan computes in, where that pays
    strongly_typed: bool
    flags: tuple[str, ...] = ()  # of BuilderFlag
    halve: bool = False  # the file must be converted to float16 first
    calibrate: bool = False  # by TensorRT's own calibrator


def typed_as(model: Any) -> str:
    """'int8', 'float16' or 'float32': the narrowest type that the file itself (an onnx.ModelProto) computes in."""
    from onnx import TensorProto

    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        return "int8"
    casts = (a.i for node in model.graph.node if node.op_type == "Cast" for a in node.attribute if a.name == "to")
    types = {tensor.data_type for tensor in model.graph.initializer} | set(casts)
    return "float16" if TensorProto.FLOAT16 in types else "float32"


def choose(trt: Any, file: str, wanted: Wanted, *, calibration: bool = False) -> Mode:
    """How ``trt`` builds a file that is typed as ``file``, as ``wanted``; ``calibration``: a set is at hand.

    EdgeposeError: this TensorRT cannot, or the file is of another precision.
    """
    precision = wanted.precision
    if precision == "auto":
        precision = "int8" if calibration and file == "float32" else file  # type: ignore[assignment]
    can_type = has(trt, "NetworkDefinitionCreationFlag", "STRONGLY_TYPED")
    flags = _FLAGS[precision]
    can_flag = all(has(trt, "BuilderFlag", flag) for flag in flags) and has(trt, "BuilderFlag", "FP16")
    if file not in ("float32", precision):
        raise EdgeposeError(f"the model is {file} by its own types and cannot be built as {precision}; "
                            "leave --precision at auto, or build the float32 model")  # fmt: skip
    if file == precision:
        # DLA takes typed networks since TensorRT 11; before, it goes by flags.
        if can_type and (not can_flag or (wanted.strongly_typed and wanted.dla_core is None)):
            if not wanted.strongly_typed:
                raise EdgeposeError(f"{described(trt)} builds strongly typed networks only; "
                                    "do not ask for weak typing")  # fmt: skip
            return Mode(precision, strongly_typed=True)
        return Mode(precision, strongly_typed=False, flags=flags)
    if precision == "int8":
        return _calibrated(trt, calibration, can_flag)
    if can_flag:
        return Mode(precision, strongly_typed=False, flags=flags)
    if precision == "float16" and can_type:
        return Mode(precision, strongly_typed=True, halve=True)
    raise EdgeposeError(f"{described(trt)} cannot build a float32 model as {precision}; ask for float16 or float32")


def _calibrated(trt: Any, calibration: bool, can_flag: bool) -> Mode:
    if not (can_flag and hasattr(getattr(trt, "IBuilderConfig", None), "int8_calibrator")):
        raise EdgeposeError(f"{described(trt)} has no calibrator of its own; make an INT8 model first: "
                            "edgepose-calibrate quantize")  # fmt: skip
    if not calibration:
        raise EdgeposeError("a float32 model becomes int8 only with a calibration set; better, make an INT8 model "
                            "first: edgepose-calibrate quantize")  # fmt: skip
    return Mode("int8", strongly_typed=False, flags=_FLAGS["int8"], calibrate=True)


def halved(model: Any) -> Any:
    """``model`` (an onnx.ModelProto) computing in float16, with float32 input and output.

    EdgeposeError: the converter is not installed.
    """
    try:
        float16 = importlib.import_module("onnxconverter_common.float16")
    except ImportError:
        raise missing("onnxconverter-common", "to make a float16 network for this TensorRT, which has no FP16 flag",
                      ".venv/bin/pip install onnxconverter-common") from None  # fmt: skip
    left_out = [kind for kind in float16.DEFAULT_OP_BLOCK_LIST if kind != "Resize"]  # which TensorRT has in float16
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one for every weight that float16 cannot tell from its neighbour
        half = float16.convert_float_to_float16(model, keep_io_types=True, op_block_list=left_out)
    _scale_by_float32(half)
    return half


def _scale_by_float32(model: Any) -> None:
    """Give each Resize of ``model`` its scales in float32, as ONNX wants them whatever is resized."""
    from onnx import numpy_helper

    graph = model.graph
    known = {tensor.name: tensor for tensor in graph.initializer}
    known |= {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}
    for node in graph.node:
        if node.op_type == "Resize" and len(node.input) > 2 and node.input[2]:
            scales = numpy_helper.to_array(known[node.input[2]]).astype(np.float32)
            node.input[2] = f"{node.output[0]}_scales"
            graph.initializer.append(numpy_helper.from_array(scales, node.input[2]))


def hardware_level(trt: Any, wanted: Wanted) -> Any:
    """TensorRT's own name of ``wanted.hardware``, None for this GPU alone; EdgeposeError where it has none."""
    if wanted.hardware == "this":
        return None
    member = _HARDWARE[wanted.hardware]
    if not has(trt, "HardwareCompatibilityLevel", member):
        raise EdgeposeError(f"{described(trt)} cannot build for other GPUs ({wanted.hardware}); "
                            "build on each of them instead")  # fmt: skip
    return getattr(trt.HardwareCompatibilityLevel, member)


def refuse_ranges(bundle: Bundle, mode: Mode) -> None:
    """EdgeposeError where ranges were given that nothing would use."""
    if not mode.calibrate:
        raise EdgeposeError(f"{bundle.path} is built as {mode.precision} and needs no ranges; leave out --set and "
                            "--calibration-cache")  # fmt: skip


def refuse_for_dla(trt: Any, mode: Mode) -> None:
    """EdgeposeError where nothing of the network could run on a DLA: TensorRT would run it on the GPU, in silence."""
    if mode.precision not in ("float16", "int8"):
        raise EdgeposeError(f"a DLA computes in float16 or int8, not in {mode.precision}; use --precision float16")
    if mode.precision == "int8" and not (mode.strongly_typed or mode.calibrate):
        raise EdgeposeError(f"a DLA takes no Q/DQ model by {described(trt)}; use the float32 model with "
                            "--precision float16, or the GPU")  # fmt: skip


def shares_profiles_by_choice(trt: Any) -> bool:
    """Whether a profile serves one context at a time unless told otherwise; the engine has one per batch size."""
    newer = hasattr(trt, "ExecutionContextAllocationStrategy")  # TensorRT 10: always shared
    return not newer and has(trt, "PreviewFeature", "PROFILE_SHARING_0806")


def batches(wanted: Wanted) -> tuple[int, int, int]:
    """Least, best and most persons in one run; a DLA takes one number only."""
    most = wanted.max_batch
    if wanted.dla_core is not None:
        return most, most, most
    return 1, min(wanted.opt_batch, most), most


class _TensorRT10:
    """What TensorRT 10 has, where no TensorRT is here to ask: JetPack 6.1 to 7.2."""

    __name__, __version__ = "tensorrt", "10"

    class BuilderFlag:
        FP16 = INT8 = BF16 = True

    class NetworkDefinitionCreationFlag:
        STRONGLY_TYPED = True

    class IBuilderConfig:
        int8_calibrator = True

    class HardwareCompatibilityLevel:
        AMPERE_PLUS = SAME_COMPUTE_CAPABILITY = True


def trtexec_line(
    bundle: Bundle, wanted: Wanted, *, plan: str = "", calibration_cache: str = "", trt: Any = None
) -> str:
    """The ``trtexec`` command that builds the same plan, without its manifest; of TensorRT 10 where none is here.

    EdgeposeError: no such plan can be built, or nothing that ``trtexec`` can be told.
    """
    import onnx

    file = typed_as(onnx.load(bundle.path))
    asked = trt or _TensorRT10()
    mode = choose(asked, file, wanted, calibration=bool(calibration_cache))
    if calibration_cache:
        refuse_ranges(bundle, mode)
    if wanted.targets:
        raise EdgeposeError("trtexec builds for the GPU that it runs on; leave out --target")
    hardware_level(asked, wanted)
    if wanted.dla_core is not None:
        refuse_for_dla(asked, mode)
    if mode.halve:
        raise EdgeposeError("trtexec of this TensorRT has no --fp16; give it a float16 model, or build without trtexec")
    width, height = bundle.manual.input_size
    least, best, most = (f"image:{n}x3x{height}x{width}" for n in batches(wanted))
    words = [str(_JETPACKS) if _JETPACKS.is_file() else "trtexec"]
    words += [f"--onnx={bundle.path}", f"--saveEngine={plan or bundle.path.with_suffix('.plan')}"]
    words += [f"--minShapes={least}", f"--optShapes={best}", f"--maxShapes={most}"]
    words += [f"--memPoolSize=workspace:{wanted.workspace_mb}"]
    if trt is not None and shares_profiles_by_choice(trt):
        words.append("--preview=+profileSharing0806")
    if mode.strongly_typed and (trt is None or has(trt, "BuilderFlag", "FP16")):
        words.append("--stronglyTyped")  # in TensorRT 11 every network is
    words += [f"--{flag.lower()}" for flag in mode.flags]
    if wanted.precision == "float32":
        words.append("--noTF32")
    if calibration_cache:
        words.append(f"--calib={calibration_cache}")
    if wanted.dla_core is not None:
        words += [f"--useDLACore={wanted.dla_core}", "--allowGPUFallback"]
    if wanted.version_compatible:
        words.append("--versionCompatible")
    if wanted.hardware != "this":
        level = {"ampere+": "ampere+", "same-capability": "sameComputeCapability"}[wanted.hardware]
        words.append(f"--hardwareCompatibilityLevel={level}")
    if wanted.effort is not None:
        words.append(f"--builderOptimizationLevel={wanted.effort}")
    return shlex.join(words)
