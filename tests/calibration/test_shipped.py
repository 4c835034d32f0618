"""The shipped INT8 bundles: of the shipped float one, and as good as it where the images are at hand."""

import numpy as np
import onnx
import pytest

from calibration import graph
from calibration.judge import Judge
from calibration.sensitivity import Budget
from edgepose import bundle as bundles
from edgepose import engines, skeletons
from trainer.data.module import select
from trainer.recipe import DataSet

SPORTS = "coco:mpii_sports/annotations.json:mpii_sports/images"
SHIPPED = [("edgepose-first", "int8"), ("edgepose-first", "int8-cpu"), ("edgepose-s", "int8"),
           ("edgepose-l", "int8")]  # fmt: skip
RUNNERS = [("edgepose-first", "int8", "openvino"), ("edgepose-first", "int8-cpu", "openvino"),
           ("edgepose-first", "int8-cpu", "onnxruntime"), ("edgepose-s", "int8", "openvino"),
           ("edgepose-l", "int8", "openvino")]  # fmt: skip
FLOAT_LAYERS = {"edgepose-s-int8": 2}  # convolutions that were put back; see the card


@pytest.mark.parametrize(("name", "kind"), SHIPPED)
def test_they_are_made_from_what_is_shipped(name, kind):
    shipped, made = bundles.load(name), bundles.load(f"{name}-{kind}")
    assert made.manual.name == f"{name}-{kind}"
    assert made.manual.precision == "int8"
    assert made.manual.made_from["bundle"] == shipped.sha256
    assert made.manual.score == shipped.manual.score
    assert made.manual.ellipses == shipped.manual.ellipses
    assert len(made.manual.accuracy) == 1
    model = onnx.load(made.path)
    quantised = [n for n in model.graph.node if n.name in graph.layers(model)]
    convolutions = [n for n in model.graph.node if n.op_type == "Conv"]
    left = len(convolutions) - len([n for n in quantised if n.op_type == "Conv"])
    assert left == FLOAT_LAYERS.get(made.manual.name, 0)


@pytest.mark.parametrize(("name", "kind", "engine"), RUNNERS)
def test_they_keep_the_budget(name, kind, engine, data_root):
    shipped = bundles.load(name)
    persons = select(DataSet(data=SPORTS, split="dev"), skeletons.get("mpii16"), data_root).persons
    judge = Judge(persons, shipped.manual)
    answers = [judge.answer(engines.load(b, engine)) for b in (shipped, bundles.load(f"{name}-{kind}"))]
    assert Budget().broken_by(*answers, judge.sets) == ""
    assert np.nanmedian(judge.shift(*answers)) < 0.02
