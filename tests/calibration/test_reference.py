"""The engine that computes what a bundle says, and when INT8 is judged by it."""

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from calibration import gate
from calibration import report as page
from calibration.judge import METRICS
from calibration.quantize import quantize
from calibration.sensitivity import Budget
from calibration.verify import compare_outcome
from edgepose import EdgeposeError, engines
from edgepose.engines import cpu


def test_the_reference_computes_what_the_graph_says(learnt, tmp_path):
    """Beside ONNX's own evaluator, in numpy; onnxruntime otherwise takes pairs of Q/DQ into operators of its own."""
    made = quantize(learnt.bundle, learnt.chosen, tmp_path / "int8.onnx", target="cpu")
    images = learnt.chosen.images()[:2]
    model = onnx.load(made.path)
    model.opset_import[0].version = 19  # the first in which the evaluator knows Q/DQ
    wanted = ReferenceEvaluator(model).run(["heatmaps"], {"image": images})[0]
    found, other = (engines.load(made, name).infer(images) for name in ("reference", "onnxruntime"))
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert np.abs(other - wanted).max() > 1e-3


@pytest.mark.parametrize(("flags", "engine"), [("fpu avx2", "reference"), ("fpu avx2 avx_vnni", "openvino")])
def test_eight_bits_are_judged_where_openvino_is_given_seven(flags, engine, learnt, tmp_path, monkeypatch):
    says = tmp_path / "cpuinfo"
    says.write_text(f"flags\t\t: {flags}\n")
    monkeypatch.setattr(cpu, "CPUINFO", says)
    people = {f"{learnt.spec}@all": learnt.persons}
    made = gate.calibrate(learnt.bundle, learnt.chosen, people, tmp_path / "int8.onnx", budget=Budget(100, 100, 100))
    assert [row.engine for row in made.published.manual.accuracy] == [made.engine] == [engine]
    hits = made.judge.answer(engines.load(made.published, engine)).hits
    assert all(np.array_equal(made.int8.hits[m], hits[m], equal_nan=True) for m in METRICS)
    assert gate.judged(learnt.bundle, made.published, learnt.chosen, people).engine == engine
    compared = compare_outcome(made, repeats=2, threads=1)
    told = {d.metric: (d.a, d.b) for d in compared.differences}
    assert told["pckh01"] == pytest.approx((made.float_.percent("pckh01"), made.int8.percent("pckh01")))
    page.write(made, tmp_path / "page.html", repeats=2)
    assert "One crop on openvino, " in (tmp_path / "page.html").read_text()  # that is what runs it


def test_what_is_made_for_cpus_is_told_by_its_activations(learnt, tmp_path):
    """Not by its accuracy, which a file may not state."""
    made = quantize(learnt.bundle, learnt.chosen, tmp_path / "int8.onnx", target="cpu")
    people = {f"{learnt.spec}@all": learnt.persons}
    assert gate.judged(learnt.bundle, made, learnt.chosen, people).engine == "onnxruntime"
    with pytest.raises(EdgeposeError, match="was made with --target cpu, and no layer of such a file goes back"):
        gate.judged(learnt.bundle, made, learnt.chosen, people, search=True)
