"""Q/DQ graphs: what is quantised, what can go back to float, and that the budget is kept or nothing is written."""

import os
import signal
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.calibrate import HistogramCalibrater

from calibration import gate, graph, sensitivity, sets
from calibration import quantize as quantize_module
from calibration import report as page
from calibration.judge import METRICS, Answers, Judge
from calibration.quantize import METHODS, int8_manual, quantize, quantized_graph
from calibration.ranges import PERCENTILE, amax, by_percentile, by_squared_error
from calibration.sensitivity import Budget, Run, Sensitivity, cheapest, sensitivities
from calibration.sets import CalibrationSet
from calibration.verify import compare_outcome
from edgepose import EdgeposeError, engines, skeletons
from edgepose.bundle import save


def pair(name, scale):
    """Q/DQ of tensor ``name``."""
    made = [
        helper.make_node("QuantizeLinear", [name, f"{name}_s", f"{name}_z"], [f"{name}_q"], name=f"{name}_Q"),
        helper.make_node("DequantizeLinear", [f"{name}_q", f"{name}_s", f"{name}_z"], [f"{name}_d"], name=f"{name}_DQ"),
    ]
    constants = [
        numpy_helper.from_array(np.array(scale, np.float32), f"{name}_s"),
        numpy_helper.from_array(np.array(0, np.int8), f"{name}_z"),
    ]
    return made, constants


def two_layers():
    """x -> Q/DQ -> a -> Q/DQ -> b -> y, where a doubles (its weight through a Q/DQ too) and b adds one."""
    nodes, constants = [], [numpy_helper.from_array(np.array([2.0], np.float32), "w")]
    for name, scale in (("x", 0.1), ("w", 0.02), ("h", 0.5)):
        made, more = pair(name, scale)
        constants += more
        nodes.append((name, made))
    parts = dict(nodes)
    one = numpy_helper.from_array(np.array([1.0], np.float32), "one")
    body = [
        *parts["x"],
        *parts["w"],
        helper.make_node("Mul", ["x_d", "w_d"], ["h"], name="a"),
        *parts["h"],
        helper.make_node("Add", ["h_d", "one"], ["y"], name="b"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"])
    made = helper.make_graph(body, "two", [x], [y], [*constants, one])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def compute(model, x):
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.array(x, np.float32)})[0]


def test_layers_are_what_is_fed_through_pairs():
    model = two_layers()
    assert graph.layers(model) == ["a", "b"]
    assert graph.activations(model) == {"x": "x_s", "h": "h_s"}
    assert graph.ranges(model) == pytest.approx({"x": 12.7, "h": 63.5})


def test_a_layer_back_in_float_loses_its_pairs_only():
    model = two_layers()
    assert compute(model, [1.23]) == pytest.approx([1.0 + 2.5])  # 1.2 * 2 = 2.4 -> 2.5 by steps of a half
    without_b = graph.in_float(model, ["b"])
    assert compute(without_b, [1.23]) == pytest.approx([3.4])
    assert graph.layers(without_b) == ["a"]
    bare = graph.in_float(model, ["a", "b"])
    assert compute(bare, [1.23]) == pytest.approx([3.46])
    assert {n.op_type for n in bare.graph.node} == {"Mul", "Add"}
    assert {t.name for t in bare.graph.initializer} == {"w", "one"}
    assert graph.layers(model) == ["a", "b"]  # the given one is as it was
    onnx.checker.check_model(bare)


@pytest.mark.parametrize("method", METHODS)
def test_int8_answers_nearly_as_float(learnt, tmp_path, method):
    made = quantize(learnt.bundle, learnt.chosen, tmp_path / "int8.onnx", method=method)
    assert (made.manual.name, made.manual.precision) == ("tiny-int8", "int8")
    assert made.manual.made_from["bundle"] == learnt.bundle.sha256
    assert made.manual.made_from["calibration_set"] == learnt.chosen.sha256
    model = onnx.load(made.path)
    assert model.opset_import[0].version == 17  # what TensorRT 8.6 states to know
    kinds = {n.op_type for n in model.graph.node if n.name in graph.layers(model)}
    assert {"Conv", "Add"} <= kinds
    zeros = [numpy_helper.to_array(t) for t in model.graph.initializer if t.name.endswith("zero_point")]
    assert all(z.dtype == np.int8 and not z.any() for z in zeros)  # symmetric, as TensorRT wants it
    judge = Judge(learnt.persons, learnt.bundle.manual)
    answers = [judge.answer(engines.load(b)) for b in (learnt.bundle, made)]
    assert np.nanmedian(judge.shift(*answers)) < 0.05
    assert not np.array_equal(answers[0].joints, answers[1].joints)  # and it is another computation


def test_a_percentile_by_hand():
    counts = np.zeros(100)
    counts[:50], counts[99] = 2, 1  # 100 small values, one at the top
    assert by_percentile(counts, 10.0, 99.0) == pytest.approx(5.0)
    assert by_percentile(counts, 10.0, 100.0) == pytest.approx(10.0)


def test_the_least_squared_error_is_the_least():
    """Against quantising every value, for every range tried."""
    values = np.abs(np.random.default_rng(0).laplace(0, 1, 20_000))
    counts, edges = np.histogram(values, 512, (0, values.max()))
    found = by_squared_error(counts.astype(float), float(values.max()))

    def error(top):
        step = top / 127
        return ((np.clip(np.round(values / step), 0, 127) * step - values) ** 2).sum()

    errors = [error(edge) for edge in edges[32:]]
    assert error(found) < 1.02 * min(errors)
    assert error(found) < 0.95 * error(values.max())  # worth the search


@pytest.mark.parametrize("method", ["percentile", "mse"])
def test_ranges_are_of_all_images_together(learnt, method):
    """One range of eight crops as of one long crop: their magnitudes counted by hand."""
    import onnxruntime

    graph_of = onnx.load(learnt.bundle.path)
    inner = [name for node in graph_of.graph.node if node.op_type == "Relu" for name in node.output][:3]
    graph_of.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in inner)
    session = onnxruntime.InferenceSession(graph_of.SerializeToString(), providers=["CPUExecutionProvider"])
    images = learnt.chosen.images()
    images = images * np.linspace(0.2, 1, len(images), dtype=np.float32)[:, None, None, None]  # no two alike
    for name, found in amax(learnt.bundle, images, inner, method).items():
        values = np.abs(np.concatenate([session.run([name], {"image": image[None]})[0].ravel() for image in images]))
        bin_width = float(values.max()) / 2048
        if method == "percentile":
            highest = np.quantile(values, PERCENTILE / 100, method="inverted_cdf")  # of values that are there
            assert highest <= found * (1 + 1e-6)
            assert found == pytest.approx(float(highest), abs=1.01 * bin_width)
        else:
            edges = np.linspace(values.max() / 16, values.max(), 1921)
            steps = edges / 127
            errors = [((np.clip(np.round(values / s), 0, 127) * s - values) ** 2).sum() for s in steps[::16]]
            step = found / 127
            error = ((np.clip(np.round(values / step), 0, 127) * step - values) ** 2).sum()
            assert error < 1.02 * min(errors)


def test_ranges_by_percentile_and_error_cut_what_is_rare(learnt):
    """A percentile lies below the maximum; both differ from it."""
    maxima, percentiles, least = (
        graph.ranges(quantized_graph(learnt.bundle, learnt.chosen, method=m)) for m in ("max", "percentile", "mse")
    )
    assert all(percentiles[name] <= value * 1.01 for name, value in maxima.items())
    assert any(percentiles[name] < 0.95 * value for name, value in maxima.items())
    assert any(least[name] < 0.99 * value for name, value in maxima.items())


def test_ranges_by_entropy_are_others_than_by_maxima(learnt):
    maxima, entropy = (
        graph.ranges(quantized_graph(learnt.bundle, learnt.chosen, method=m)) for m in ("max", "entropy")
    )
    assert maxima.keys() == entropy.keys()
    assert any(entropy[name] < 0.95 * value for name, value in maxima.items())


def test_the_variant_for_cpus_has_unsigned_activations(learnt, tmp_path):
    made = quantize(learnt.bundle, learnt.chosen, tmp_path / "cpu.onnx", target="cpu")
    model = onnx.load(made.path)
    types = {numpy_helper.to_array(t).dtype for t in model.graph.initializer if t.name.endswith("zero_point")}
    assert np.dtype(np.uint8) in types
    judge = Judge(learnt.persons, learnt.bundle.manual)
    answers = [judge.answer(engines.load(b, "onnxruntime")) for b in (learnt.bundle, made)]
    assert np.nanmedian(judge.shift(*answers)) < 0.05


@pytest.mark.parametrize(("method", "off"), [("entropy", 0.5), ("percentile", 0.1)])  # the former has 128 bins
def test_histograms_for_cpus_are_of_a_few_images_at_a_time(learnt, monkeypatch, method, off):
    """The activations of a whole set are many gigabytes of a large network."""
    at_once = []
    clear = HistogramCalibrater.clear_collected_data

    def noted(calibrater):
        at_once.append(len(calibrater.intermediate_outputs))
        clear(calibrater)

    monkeypatch.setattr(HistogramCalibrater, "clear_collected_data", noted)
    ranges = []
    for most in (3, 8):
        monkeypatch.setattr("calibration.quantize.AT_ONCE", most)
        ranges.append(graph.ranges(quantized_graph(learnt.bundle, learnt.chosen, method=method, target="cpu")))
    assert at_once == [2, 2, 2, 2, 8]  # of eight
    apart, together = ranges
    assert apart.keys() == together.keys()
    near = [abs(apart[name] - value) <= off * value for name, value in together.items()]
    assert np.mean(near) > 0.9


def test_what_cannot_be_quantised_is_refused(learnt, tmp_path):
    small = CalibrationSet(learnt.chosen.crops[:, :, :32, :32], learnt.chosen.about)
    tight = replace(learnt.chosen, about=learnt.chosen.about.model_copy(update={"padding": 1.1}))
    made = quantize(learnt.bundle, learnt.chosen, tmp_path / "int8.onnx")
    for bundle, chosen, changes, sentence in (
        (learnt.bundle, learnt.chosen, {"method": "entropie"}, "did you mean 'entropy'"),
        (learnt.bundle, small, {}, "has crops of 32 x 32, the input of .* is 64 x 64"),
        (learnt.bundle, tight, {}, "cut with a padding of 1.1, and .* has 1.25; make a set with this model"),
        (made, learnt.chosen, {}, "is int8 already"),
        (learnt.bundle, learnt.chosen, {"method": "mse", "target": "cpu"}, "has no calibration method 'mse'"),
    ):
        with pytest.raises(EdgeposeError, match=sentence):
            quantize(bundle, chosen, tmp_path / "refused.onnx", **changes)
    assert not (tmp_path / "refused.onnx").exists()


def test_it_is_refused_before_anybody_is_judged(learnt, tmp_path, monkeypatch):
    """Who has many persons would wait for minutes."""
    monkeypatch.setattr(gate, "judge_of", lambda *_: pytest.fail("too late"))
    for work in (
        lambda: gate.calibrate(learnt.bundle, learnt.chosen, {}, tmp_path / "x.onnx", method="mse", target="cpu"),
        lambda: gate.rank(learnt.bundle, learnt.chosen, {}, method="mes"),
    ):
        with pytest.raises(EdgeposeError, match="calibration method 'me?s"):
            work()


def _killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_where_the_system_ends_modelopt_it_is_said(learnt, monkeypatch):
    monkeypatch.setattr(quantize_module, "_modelopt", _killed)
    with pytest.raises(EdgeposeError, match="ModelOpt's process was ended, as the system does where memory is short"):
        quantized_graph(learnt.bundle, learnt.chosen)


def test_sets_are_whole_or_refused(learnt, tmp_path):
    again = sets.load(learnt.set_path)
    assert np.array_equal(again.crops, learnt.chosen.crops)
    assert again.about == learnt.chosen.about
    assert again.images().dtype == np.float32
    assert again.images().max() > 100  # RGB 0..255
    broken = tmp_path / "broken.npz"
    broken.write_bytes(learnt.set_path.read_bytes()[:500])
    with pytest.raises(EdgeposeError, match="is not a whole calibration set"):
        sets.load(broken)
    np.savez(tmp_path / "other.npz", crops=np.zeros(3))
    with pytest.raises(EdgeposeError, match="is not a whole calibration set"):
        sets.load(tmp_path / "other.npz")
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(EdgeposeError, match="is one array and no calibration set"):
        sets.load(tmp_path / "array.npy")
    with pytest.raises(EdgeposeError, match="is not a calibration set: its crops are uint8"):
        sets.save(CalibrationSet(learnt.chosen.crops[:0], learnt.chosen.about.model_copy(update={"persons": []})),
                  tmp_path / "empty.npz")  # fmt: skip
    with pytest.raises(EdgeposeError, match="does not exist; make one with 'edgepose-calibrate select'"):
        sets.load(tmp_path / "nowhere.npz")
    with pytest.raises(EdgeposeError, match="ends in .npz"):
        sets.save(learnt.chosen, tmp_path / "set.bin")


@pytest.fixture(scope="module")
def harmed(learnt):
    """The Q/DQ graph with one layer's range far too small, so that this layer alone spoils the joints."""
    model = quantized_graph(learnt.bundle, learnt.chosen)
    name = next(n.name for n in model.graph.node if n.op_type == "Conv" and "heads" in n.name)
    conv = next(n for n in model.graph.node if n.name == name)
    scales = graph.activations(model)
    fed = graph.before_pair(conv.input[0], {o: n for n in model.graph.node for o in n.output})
    tensor = next(t for t in model.graph.initializer if t.name == scales[fed])
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(0.01), tensor.name))
    return model, name


def test_the_harmful_layer_is_found_and_put_back(learnt, harmed):
    model, name = harmed
    judge = Judge(learnt.persons, learnt.bundle.manual)
    run = Run(judge, int8_manual(learnt.bundle, learnt.chosen, "max"), threads=1)
    float_ = judge.answer(engines.load(learnt.bundle))
    ranked = sensitivities(model, float_, judge, run)
    assert ranked[0].layer == name
    assert ranked[0].shift > 5 * ranked[1].shift
    budget = Budget(pckh05=2, pckh01=10, pck02_torso=2)
    assert budget.broken_by(float_, run(model), judge.sets)
    found = cheapest(model, float_, ranked, budget, run)
    assert found.keep_float == [name]
    assert found.fault == ""
    assert name not in graph.layers(found.model)


@dataclass(frozen=True)
class Lost:
    """Answers that say only how many points they lost."""

    points: float

    def percent(self, _metric, _persons):
        return 80 - self.points


@pytest.mark.parametrize("needed", [0, 1, 3, 13, 17, 20])
def test_the_search_finds_the_smallest_number(needed, monkeypatch):
    """Forty layers that each cost half a point: as many go back as the budget asks for, no more, in few tries."""
    tries = []
    monkeypatch.setattr(sensitivity, "in_float", lambda _, keep: len(keep))

    class Tried:
        judge = SimpleNamespace(sets={"": None})

        def __call__(self, kept):
            tries.append(kept)
            return Lost(20 - 0.5 * kept)

    ranked = [Sensitivity(f"layer{i}", 0.5, 0.1) for i in range(40)]
    found = cheapest(0, Lost(0), ranked, Budget(20 - 0.5 * needed, 100, 100), Tried())
    assert found.keep_float == [f"layer{i}" for i in range(needed)]
    assert found.fault == ""
    assert len(tries) <= 12
    # more than half of the layers would no longer be an INT8 model
    assert "pckh05 lost" in cheapest(0, Lost(0), ranked, Budget(5, 100, 100), Tried()).fault


def test_of_one_layer_none_goes_back(monkeypatch):
    """It would be a float model that says INT8."""
    monkeypatch.setattr(sensitivity, "in_float", lambda _, keep: len(keep))

    class Tried:
        judge = SimpleNamespace(sets={"": None})

        def __call__(self, kept):
            return Lost(1 - kept)

    found = cheapest(0, Lost(0), [Sensitivity("only", 1.0, 0.1)], Budget(0.5, 100, 100), Tried())
    assert found.keep_float == []
    assert found.fault


def test_a_layer_that_leaves_no_places_is_the_most_harmful(learnt):
    judge = Judge(learnt.persons, learnt.bundle.manual)
    float_ = judge.answer(engines.load(learnt.bundle))
    names = graph.layers(quantized_graph(learnt.bundle, learnt.chosen))
    moved = replace(float_, joints=float_.joints + 1.0)
    nowhere = replace(float_, joints=np.full_like(float_.joints, np.nan))
    answers = iter([nowhere if name == names[-1] else moved for name in names])
    ranked = sensitivities(quantized_graph(learnt.bundle, learnt.chosen), float_, judge, lambda _: next(answers))
    assert ranked[0].layer == names[-1]
    assert np.isfinite(ranked[0].shift)


def test_accuracy_is_compared_with_a_float_model(learnt, tmp_path):
    made = quantize(learnt.bundle, learnt.chosen, tmp_path / "int8.onnx")
    with pytest.raises(EdgeposeError, match="is int8; accuracy is compared with a float32 bundle"):
        gate.calibrate(learnt.bundle, learnt.chosen, {f"{learnt.spec}@all": learnt.persons}, tmp_path / "twice.onnx",
                       against=made)  # fmt: skip


def test_answers_that_are_no_places_are_over_any_budget():
    def answers(head, torso):
        of = {"pckh05": head, "pckh01": head, "pck02_torso": torso}
        return Answers(np.zeros((2, 1, 2)), {name: np.full((2, 1), hit) for name, hit in of.items()})

    everybody = {"": np.ones(2, dtype=bool)}
    # No head is labelled: what cannot be judged is not asked for.
    assert Budget().broken_by(answers(np.nan, 1.0), answers(np.nan, 1.0), everybody) == ""
    assert "pck02_torso lost nan" in Budget(100, 100, 100).broken_by(
        answers(np.nan, 1.0), answers(np.nan, np.nan), everybody
    )


def test_each_set_of_persons_has_the_whole_budget(learnt, harmed, tmp_path):
    """And who has no head labelled, as in LSPET, is judged by the torso, and said to be."""
    neck = learnt.persons[0].labelled.copy()
    neck[skeletons.get("mpii16").index("upper_neck")] = False
    people = {"a@dev": learnt.persons[:5], "b": [replace(p, labelled=neck) for p in learnt.persons[5:]]}
    made = gate.calibrate(learnt.bundle, learnt.chosen, people, tmp_path / "int8.onnx", budget=Budget(100, 100, 100))
    first, second = made.published.manual.accuracy
    assert (first.data, first.split, first.persons, set(first.figures)) == ("a", "dev", 5, set(METRICS))
    assert (second.data, second.split, second.persons, set(second.figures)) == ("b", "all", 3, {"pck02_torso"})
    judge = made.judge
    assert judge.leading == "pck02_torso"
    assert "a@dev, 5 persons: pckh05 " in made.sentence()
    assert "; b, 3 persons: pck02_torso " in made.sentence()
    assert sum(int(name.split("(")[1].rstrip(")")) for name in made.activities) == 8
    ranked = gate.rank(learnt.bundle, learnt.chosen, {"b": people["b"]})
    assert all(np.isfinite(s.lost) and s.metric == "pck02_torso" for s in ranked)
    assert np.isfinite(judge.shift(made.float_, made.int8)).all()
    spoilt = Run(judge, int8_manual(learnt.bundle, learnt.chosen, "max"), threads=1)(harmed[0])
    worse = {name: np.where(mask[:, None], spoilt.hits["pck02_torso"], made.float_.hits["pck02_torso"])
             for name, mask in judge.sets.items()}  # fmt: skip
    only_b = replace(made.float_, hits={**made.float_.hits, "pck02_torso": worse["b"]})
    lost = made.float_.percent("pck02_torso", judge.sets["b"]) - spoilt.percent("pck02_torso", judge.sets["b"])
    assert lost > 1
    # Not lost in the mean: on a set of its own it is over a budget that both together are within.
    between = (lost + made.float_.percent("pck02_torso") - only_b.percent("pck02_torso")) / 2
    budget = Budget(100, 100, between)
    assert budget.broken_by(made.float_, only_b, {"": np.ones(8, bool)}) == ""
    assert f"pck02_torso lost {lost:.2f} points of " in budget.broken_by(made.float_, only_b, judge.sets)
    assert "on b, allowed are" in budget.broken_by(made.float_, only_b, judge.sets)
    assert "on a@dev" not in budget.broken_by(made.float_, only_b, judge.sets)


def test_nothing_is_published_over_budget(learnt, tmp_path, monkeypatch, harmed):
    monkeypatch.setattr(gate, "quantized_graph", lambda *_, **__: harmed[0])
    # One layer may go back, and the least harmful comes first: whether the worst is enough is the processor's rounding.
    monkeypatch.setattr(gate, "cheapest", lambda model, float_, ranked, budget, run: cheapest(
        model, float_, ranked[::-1], budget, run, most=0.0))  # fmt: skip
    outcome = gate.calibrate(
        learnt.bundle, learnt.chosen, {f"{learnt.spec}@all": learnt.persons}, tmp_path / "int8.onnx"
    )
    assert outcome.published is None
    assert not (tmp_path / "int8.onnx").exists()
    error = gate.refuse(outcome)
    assert error.exit_code == 3
    assert "is over its budget, nothing was written: pckh05 lost" in str(error)
    assert harmed[1] in str(error)
    page.write(outcome, tmp_path / "page.html", repeats=2)
    assert "Over the budget" in (tmp_path / "page.html").read_text()


def test_the_page_compares_with_what_the_gate_compared_with(learnt, tmp_path):
    """With ``against``, another float model: here one whose last layer answers nought."""
    model = onnx.load(learnt.bundle.path)
    last = [n for n in model.graph.node if n.op_type == "Conv"][-1]
    for tensor in model.graph.initializer:
        if tensor.name in last.input:
            tensor.CopyFrom(numpy_helper.from_array(0 * numpy_helper.to_array(tensor), tensor.name))
    other = save(model, learnt.bundle.manual, tmp_path / "other.onnx")
    outcome = gate.calibrate(
        learnt.bundle, learnt.chosen, {"x@all": learnt.persons}, tmp_path / "int8.onnx", against=other
    )
    assert outcome.float_.percent("pckh05") < outcome.int8.percent("pckh05") - 20
    assert outcome.published is not None
    told = outcome.published.manual.accuracy[0].figures["pckh05"]
    assert told == pytest.approx(outcome.int8.percent("pckh05"), abs=0.01), "INT8's, not that of what it is held to"
    found = compare_outcome(outcome, repeats=1)
    assert found.differences[0].a == pytest.approx(outcome.float_.percent("pckh05"))
    assert found.differences[0].b == pytest.approx(outcome.int8.percent("pckh05"))


def test_within_budget_is_published_with_its_proof(learnt, tmp_path):
    path = tmp_path / "int8.onnx"
    people = {f"{learnt.spec}@all": learnt.persons}
    outcome = gate.calibrate(learnt.bundle, learnt.chosen, people, path, search=True)
    assert outcome.fault == ""
    assert outcome.published is not None
    assert outcome.published.path == path
    assert len(outcome.ranked) == len(graph.layers(onnx.load(path))) + len(outcome.keep_float)
    row = outcome.published.manual.accuracy[0]
    assert (row.data, row.split, row.persons) == (learnt.spec, "all", 8)
    assert row.figures["pckh05"] == pytest.approx(outcome.int8.percent("pckh05"), abs=0.01)
    lost = outcome.float_.percent("pckh01") - outcome.int8.percent("pckh01")
    assert row.lost["pckh01"] == pytest.approx(lost, abs=0.01)
    assert set(outcome.activities) == {"standing (8)"}
    assert sum(mask.sum() for mask in outcome.cluster_masks.values()) == 8
    assert len(outcome.clusters) == 2
    page.write(outcome, tmp_path / "page.html", repeats=2)
    text = (tmp_path / "page.html").read_text()
    for part in (
        "The calibration set",
        "Latency",
        "By joint",
        "By activity",
        "By cluster of poses",
        "Layer by layer",
        "Ranges",
        "Worst crops",
    ):
        assert part in text
    assert "http" not in text.replace("http-equiv", "")
    assert text.count("src=") == text.count('src="data:')


def test_a_range_of_uint8_reaches_as_far_as_its_zero_point_lets_it() -> None:
    """Of 256 steps of 0.5 with 115 of them below nought, 140 lie above it."""
    from onnx import TensorProto, helper

    node = helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"])
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [], [0.5])
    unsigned, signed = TensorProto.UINT8, TensorProto.INT8
    for kind, zero, largest in ((unsigned, 115, 70.0), (unsigned, 200, 100.0), (signed, 0, 63.5)):
        inner = helper.make_graph([node], "g", [], [], [scale, helper.make_tensor("zero", kind, [], [zero])])
        assert graph.ranges(helper.make_model(inner)) == {"x": largest}
