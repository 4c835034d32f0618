"""Other people's pose networks and ours behind one face: an image and a person's box go in, joints come out.

MoveNet (Lightning, Thunder) and MediaPipe's BlazePose come as TFLite files and run on LiteRT's CPU kernels
(``pip install ai-edge-litert``). Of all of them the 17 joints of COCO are read. BlazePose is run once on an upright
crop; MediaPipe itself would follow with crops turned by the pose of the frame before.

Each can be given a second look at whoever leans far (edgepose.upright; ours, as in ``edgepose run``, if the scores say
that it is a person, others always): then it has a name of its own, its time is still that of one look, and ``looks``
tells how many it took.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from edgepose import bundle as bundles
from edgepose import engines
from edgepose.bundle import Bundle
from edgepose.crops import apply, crop_affine, invert, warp
from edgepose.engines import Engine
from edgepose.errors import EdgeposeError, missing
from edgepose.estimator import Estimator
from edgepose.skeletons import COCO17, Skeleton
from edgepose.upright import LEAN, box_upright, lean, second_counts
from trainer.profile.graph import analyse
from trainer.profile.latency import random_images

Floats = NDArray[np.float64]
Image = NDArray[np.uint8]
Opener = Callable[[int], "Contestant"]  # takes the number of CPU threads
TWICE = ", 2 looks"  # after the name of who has a second look


class Contestant(Protocol):
    """A pose network ready to run, whoever made it. Not for use by two threads at once."""

    name: str
    file: Path
    precision: str  # of its weights
    skeleton: Skeleton
    padding: float  # crop side / longer side of the person's box
    macs: int  # multiply-accumulates of one crop

    @property
    def looks(self) -> int:
        """Crops that the network was given so far."""
        ...

    def locate(self, image: Image, box: Floats) -> Floats:
        """Joints [K, 2] in pixels of a BGR ``image`` [H, W, 3], of the person in ``box`` [4]."""
        ...

    def run(self) -> None:
        """The network alone, once, on an input that is already there."""
        ...

    def close(self) -> None:
        """Release what the runtime holds."""
        ...


class _Counted:
    """An engine that counts the crops that it is given."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self.looks = engine, 0
        self.name, self.precision = engine.name, engine.precision

    def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        self.looks += len(images)
        return self._engine.infer(images)

    def close(self) -> None:
        self._engine.close()


class Ours:
    """A bundle, through the code that runs on the device."""

    def __init__(self, bundle: Bundle, engine: str, threads: int, *, second_look: bool = False) -> None:
        """EdgeposeError: an engine that is not here or cannot run it."""
        self._engine = _Counted(engines.load(bundle, engine, engines.Options(threads=threads, batches=(1,))))
        self._estimator = Estimator(self._engine, bundle.manual, second_look=second_look)
        self._input = random_images(bundle.manual, 1)
        self.name, self.file = bundle.path.stem + TWICE * second_look, bundle.path
        self.precision, self.padding = str(bundle.manual.precision), bundle.manual.padding
        self.skeleton = bundle.skeleton
        self.macs = analyse(onnx.load(bundle.path)).macs

    @property
    def looks(self) -> int:
        """See :class:`Contestant`."""
        return self._engine.looks

    def locate(self, image: Image, box: Floats) -> Floats:
        """See :class:`Contestant`."""
        joints: Floats = self._estimator.estimate(image, box[None]).joints[0]
        return joints

    def run(self) -> None:
        """See :class:`Contestant`."""
        self._engine.infer(self._input)

    def close(self) -> None:
        """See :class:`Contestant`."""
        self._engine.close()


@dataclass(frozen=True)
class Make:
    """What the files of one make have in common."""

    output: tuple[int, ...]  # shape of the output that holds the joints
    white: float  # input value of a white pixel
    # that output and the input size (width, height) -> joints, scores
    read: Callable[[NDArray[np.float32], tuple[int, int]], tuple[Floats, Floats]]


def read_movenet(output: NDArray[np.float32], size: tuple[int, int]) -> tuple[Floats, Floats]:
    """Joints [17, 2] in crop pixels and scores [17] from (y, x, score) [1, 1, 17, 3], shares of the ``size`` (w, h)."""
    rows = output.reshape(17, 3).astype(np.float64)
    return rows[:, [1, 0]] * size - 0.5, rows[:, 2]


_BLAZEPOSE_TO_COCO = [0, 2, 5, 7, 8, *range(11, 17), *range(23, 29)]


def read_blazepose(output: NDArray[np.float32], _: tuple[int, int]) -> tuple[Floats, Floats]:
    """The same from (x, y, z, visibility, presence) [1, 195] of 39 points, x and y in pixels, the last two logits."""
    rows = output.reshape(39, 5).astype(np.float64)[_BLAZEPOSE_TO_COCO]
    return rows[:, :2] - 0.5, 1 / (1 + np.exp(-rows[:, 3]))


MAKES = (Make((1, 1, 17, 3), 255.0, read_movenet), Make((1, 195), 1.0, read_blazepose))


class Rival:
    """A TFLite file on LiteRT."""

    skeleton = COCO17
    padding = 1.0

    def __init__(self, file: Path, threads: int, *, second_look: bool = False) -> None:
        """EdgeposeError: LiteRT is not installed, or the file is none that it can run and we can read."""
        if not file.is_file():
            raise EdgeposeError(f"model file {file} does not exist; name a .tflite file that does")
        try:
            self._network = _interpreter()(str(file), num_threads=threads)
            self._network.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise EdgeposeError(f"LiteRT cannot load {file}: {str(error).splitlines()[0]}") from error
        self._input = self._network.get_input_details()[0]
        shapes = {tuple(map(int, o["shape"])): o["index"] for o in self._network.get_output_details()}
        make = next((m for m in MAKES if m.output in shapes), None)
        if make is None:
            raise EdgeposeError(f"{file} gives {sorted(shapes)}, neither MoveNet's {MAKES[0].output} nor BlazePose's "
                                f"{MAKES[1].output}; take it out of the folder")  # fmt: skip
        self._make, self._output = make, shapes[make.output]
        _, height, width, _ = map(int, self._input["shape"])
        self.input_size = width, height
        noise = np.random.default_rng(0).uniform(0, make.white, self._input["shape"])  # for ``run``
        self._network.set_tensor(self._input["index"], noise.astype(self._input["dtype"]))
        self.name, self.file, self.looks = file.stem + TWICE * second_look, file, 0
        self._second_look = second_look
        self.macs, self.precision = counted(file)

    def predict(self, crop: Image) -> tuple[Floats, Floats]:
        """Joints [17, 2] in pixels of an RGB ``crop`` [H, W, 3] of the network's own size, and scores [17]."""
        values = (crop * (self._make.white / 255)).astype(self._input["dtype"])
        self._network.set_tensor(self._input["index"], values[None])
        self.run()
        return self._make.read(self._network.get_tensor(self._output), self.input_size)

    def locate(self, image: Image, box: Floats) -> Floats:
        """See :class:`Contestant`."""
        joints, scores = self._look(image, box, 0.0)
        leaning = lean(joints[None], self.skeleton)
        if self._second_look and abs(leaning[0]) > LEAN:
            turn = -float(leaning[0])
            again, sure = self._look(image, box_upright(joints, turn, box), turn)
            if second_counts(leaning, scores[None], again[None], sure[None], self.skeleton)[0]:
                return again
        return joints

    def _look(self, image: Image, box: Floats, turn: float) -> tuple[Floats, Floats]:
        """Joints [17, 2] in pixels of ``image``, its crop turned by ``turn`` degrees clockwise, and scores [17]."""
        affine = crop_affine(box, self.input_size, self.padding, rotation=turn)
        joints, scores = self.predict(warp(image, affine, self.input_size)[:, :, ::-1])
        self.looks += 1
        return apply(invert(affine), joints), scores

    def run(self) -> None:
        """See :class:`Contestant`."""
        self._network.invoke()

    def close(self) -> None:
        """See :class:`Contestant`."""
        del self._network


def _interpreter() -> Any:
    """LiteRT's class; EdgeposeError: it is not installed."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise missing("ai-edge-litert", "to run other people's .tflite files", "pip install ai-edge-litert") from None
    return Interpreter


def counted(file: Path) -> tuple[int, str]:
    """Multiply-accumulates of one input, counted as in :mod:`trainer.profile.graph`, and the weights' precision."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(file.read_bytes(), 0)
    graph = model.Subgraphs(0)
    kinds = schema.BuiltinOperator
    macs, types = 0, {graph.Tensors(i).Type() for i in range(graph.TensorsLength())}
    for i in range(graph.OperatorsLength()):
        node = graph.Operators(i)
        code = model.OperatorCodes(node.OpcodeIndex())
        kind = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())  # the older field ends at 127
        if kind == kinds.CONV_2D:  # weights [C out, kernel h, kernel w, C in]
            macs += math.prod(_output(graph, node)) * math.prod(_input(graph, node, 1)[1:])
        elif kind == kinds.DEPTHWISE_CONV_2D:  # weights [1, kernel h, kernel w, C out]
            macs += math.prod(_output(graph, node)) * math.prod(_input(graph, node, 1)[1:3])
        elif kind == kinds.FULLY_CONNECTED:  # weights [C out, C in]
            macs += math.prod(_output(graph, node)) * _input(graph, node, 1)[-1]
        elif kind == kinds.TRANSPOSE_CONV:  # inputs: output shape, weights [C out, kernel h, kernel w, C in], image
            macs += math.prod(_input(graph, node, 2)) * math.prod(_input(graph, node, 1)[:3])
    if schema.TensorType.INT8 in types:
        return macs, "int8"
    return macs, "float16" if schema.TensorType.FLOAT16 in types else "float32"


def _input(graph: Any, node: Any, which: int) -> list[int]:
    return [int(size) for size in graph.Tensors(node.Inputs(which)).ShapeAsNumpy()]


def _output(graph: Any, node: Any) -> list[int]:
    return [int(size) for size in graph.Tensors(node.Outputs(0)).ShapeAsNumpy()]


def openers_of_ours(models: list[str], engine: str, *, second_look: bool = False) -> list[Opener]:
    """What opens the bundles that are named, or all shipped pose bundles where none is.

    EdgeposeError: there is no such bundle, or it is no pose model.
    """
    chosen = [bundles.load(m, role="pose") for m in models] or [bundles.load(m) for m in bundles.shipped()]
    return [
        partial(Ours, bundle, engine, second_look=twice)
        for bundle in chosen
        if bundle.manual.role == "pose"
        for twice in ((False, True) if second_look else (False,))
    ]


def openers_of_rivals(folder: Path, *, second_look: bool = False) -> list[Opener]:
    """What opens the TFLite files in ``folder``, and BlazePose's where a mediapipe that brings it (0.10.21) is here.

    EdgeposeError: there is no such folder, or a file and no LiteRT to run it.
    """
    if not folder.is_dir():
        raise EdgeposeError(f"folder {folder} does not exist; name one with --peers, an empty one for no peers")
    files = sorted(folder.glob("*.tflite"))
    mediapipe = importlib.util.find_spec("mediapipe")
    for place in (mediapipe and mediapipe.submodule_search_locations) or ():
        files += sorted(Path(place).glob("modules/pose_landmark/*.tflite"))
    if files:
        _interpreter()
    return [
        partial(Rival, file, second_look=twice)
        for file in files
        for twice in ((False, True) if second_look else (False,))
    ]
