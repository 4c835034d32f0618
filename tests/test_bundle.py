import json

import onnx
import pytest

from edgepose import EdgeposeError
from edgepose import bundle as bundles
from edgepose.bundle import Manual
from tests.conftest import tiny_graph, tiny_manual

LARGEST = {"edgepose-l": 29e6}  # bytes; other pose networks 12e6, every finder 4e6


def refused(path, sentence):
    with pytest.raises(EdgeposeError, match=sentence) as caught:
        bundles.load(path)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_the_manual_travels_inside_the_file(tiny):
    again = bundles.load(tiny.path)
    assert again.manual == tiny.manual
    assert again.sha256 == tiny.sha256
    assert again.heatmap_size == (16, 16)
    assert len(again.skeleton) == 16
    # and it is plain JSON under the documented key
    (entry,) = onnx.load(str(tiny.path)).metadata_props
    assert entry.key == "edgepose"
    assert json.loads(entry.value)["schema"] == "edgepose.bundle/1"


def test_shipped_models_are_listed_and_load():
    names = bundles.shipped()
    assert names
    for name in names:
        bundle = bundles.load(name)
        largest = 4e6 if bundle.manual.role == "person" else LARGEST.get(name.removesuffix("-int8"), 12e6)
        assert bundle.path.stat().st_size <= largest
        assert bundle.manual.accuracy, f"{name} states no accuracy"
        assert bundle.manual.terms
        assert bundle.manual.score.fitted_on or bundle.manual.role == "person"
        assert not absolute_paths(bundle.manual.model_dump()), f"{name} names places of the machine that made it"


def absolute_paths(tree):
    """All texts of a manual that are a path from the root, also behind a ``kind:``."""
    if isinstance(tree, dict | list | tuple):
        inner = tree.values() if isinstance(tree, dict) else tree
        return [path for each in inner for path in absolute_paths(each)]
    return [tree] if isinstance(tree, str) and any(part.startswith("/") for part in tree.split(":")) else []


def test_unknown_model_names_the_nearest():
    refused("edgepose-frist", "unknown model 'edgepose-frist'; did you mean 'edgepose-first'")


def test_a_folder_of_the_same_name_hides_no_shipped_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "edgepose-s").mkdir()
    assert bundles.find("edgepose-s").name == "edgepose-s.onnx"
    (tmp_path / "mine").mkdir()
    with pytest.raises(EdgeposeError, match=r"model mine is a folder; name the \.onnx file in it"):
        bundles.find("mine")


def test_absent_file(tmp_path):
    refused(tmp_path / "no.onnx", "no.onnx does not exist; 'edgepose models' lists")


def test_not_onnx_at_all(tmp_path):
    path = tmp_path / "text.onnx"
    path.write_text("hello, I am not a model")
    refused(path, "is not a whole ONNX file")


def test_empty_file(tmp_path):
    path = tmp_path / "empty.onnx"
    path.touch()
    refused(path, "is not a whole ONNX file")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
def test_truncated_file(tiny, tmp_path, share):
    whole = tiny.path.read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(whole[: int(len(whole) * share)])
    refused(path, "is not a whole ONNX file")


def test_onnx_without_manual(tmp_path):
    path = tmp_path / "plain.onnx"
    onnx.save(tiny_graph(), str(path))
    refused(path, "is an ONNX file but not an edgepose bundle")


def _with_manual(path, text):
    model = tiny_graph()
    entry = model.metadata_props.add()
    entry.key, entry.value = "edgepose", text
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"skeleton": "mpii61"}, "skeleton.*unknown skeleton 'mpii61'; did you mean 'mpii16'"),
        ({"colour": "blue"}, "unknown key 'colour'"),
        ({"decode": {"metod": "dark"}}, "unknown key 'decode.metod'; did you mean 'method'"),
        (
            {"input_size": [128, 64]},
            r"the manual says image is \[N, 3, 64, 128\] but the graph says \['N', 3, 64, 64\]",
        ),
        ({"input_size": [62, 64]}, "input 62x64 is no multiple of its stride 4"),
        ({"stride": 8}, r"the manual says heatmaps is \[N, 16, 8, 8\]"),
        ({"skeleton": "coco17"}, r"the manual says heatmaps is \[N, 17, 16, 16\]"),
        ({"schema": "edgepose.bundle/9"}, "schema"),
        ({"covariance_scale": [1.0, 2.0]}, "covariance_scale has 2 values for 16 joints"),
        ({"ellipses": {"raw": [0.0, 0.5, 1.0], "factor": [1.0, 1.0]}}, "raw and ellipses.factor must be equally long"),
        ({"ellipses": {"radii": [[2.0, 1.0, 3.0]]}}, "ellipses.radii must rise"),
        ({"ellipses": {"radii": [[1.0, 2.0, 3.0]] * 2}}, "ellipses.radii has 2 rows for 16 joints"),
        ({"score": {"raw": [0.0, 0.0], "probability": [0, 1]}}, "score.raw must rise"),
        ({"score": {"raw": [0.0, float("nan")], "probability": [0, 1]}}, r"score.raw.1' \(it is nan\)"),
        ({"covariance_scale": [float("inf")]}, r"covariance_scale.0' \(it is inf\)"),
        ({"decode": {"blur_sigma": float("inf")}}, r"decode.blur_sigma' \(it is inf\)"),
        ({"padding": float("inf")}, r"padding' \(it is inf\)"),
    ],
)
def test_a_wrong_manual_is_refused_with_its_fault(tmp_path, change, sentence):
    manual = {**json.loads(tiny_manual().model_dump_json(by_alias=True)), **change}
    refused(_with_manual(tmp_path / "wrong.onnx", json.dumps(manual)), sentence)


def test_a_graph_that_gives_other_heatmaps_than_it_says_is_refused(tmp_path):
    """Engines take memory for what it says; TensorRT would write behind it."""
    model = tiny_graph()
    for size in model.graph.output[0].type.tensor_type.shape.dim[2:]:
        size.dim_value //= 2
    entry = model.metadata_props.add()
    entry.key = "edgepose"
    entry.value = json.dumps({**json.loads(tiny_manual().model_dump_json(by_alias=True)), "stride": 8})
    onnx.save(model, str(tmp_path / "false.onnx"))
    refused(tmp_path / "false.onnx", r"is not a whole ONNX file \(.*; fetch or export it again")


def test_a_missing_key_is_named(tmp_path):
    refused(_with_manual(tmp_path / "m.onnx", '{"name": "x"}'), "key 'input_size' is missing")
    nameless = '{"name": "x", "input_size": [64, 64]}'
    refused(_with_manual(tmp_path / "m.onnx", nameless), "skeleton belongs to role pose: name it there")


def test_a_finder_has_five_maps_and_is_not_taken_for_a_pose_model(tmp_path):
    manual = Manual(name="f", role="person", input_size=(64, 64))
    made = bundles.save(tiny_graph(joints=5), manual, tmp_path / "finder.onnx")
    assert made.manual.maps == 5
    assert bundles.load(made.path, role="person").sha256 == made.sha256
    with pytest.raises(EdgeposeError, match="is a person finder .* but a pose model .* is asked for"):
        bundles.load(made.path, role="pose")
    with pytest.raises(EdgeposeError, match=r"the manual says heatmaps is \[N, 5, 16, 16\]"):
        bundles.save(tiny_graph(), manual, tmp_path / "finder.onnx")
    with pytest.raises(EdgeposeError, match="is a pose model .* but a person finder .* is asked for"):
        bundles.load("edgepose-first", role="person")


def test_a_manual_that_is_not_json(tmp_path):
    refused(_with_manual(tmp_path / "m.onnx", "{not json"), "the bundle's manual is wrong")


def test_saving_a_contradiction_leaves_the_old_file(tiny):
    before = tiny.path.read_bytes()
    with pytest.raises(EdgeposeError, match="the manual says"):
        bundles.save(tiny_graph(size=128), tiny.manual, tiny.path)
    assert tiny.path.read_bytes() == before
    assert [p.name for p in tiny.path.parent.iterdir()] == ["tiny.onnx"]


def test_weights_in_another_file_are_refused(tmp_path, tiny):
    model = onnx.load(tiny.path)
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="w.bin")
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(EdgeposeError, match="its weights lie in another file"):
        bundles.load(tmp_path / "x.onnx")
