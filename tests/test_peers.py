"""The benchmarks against other people's models: what they count, what they spoil, and a run of each from end to end."""

import importlib.util
import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepose import bundle as bundles
from edgepose.errors import EdgeposeError
from edgepose.skeletons import COCO17, MPII16, convert
from tests.benchmarks import peers, rivals, robustness
from tests.benchmarks.peers import LIMBS
from tests.benchmarks.robustness import CORRUPTIONS, Scene
from tests.conftest import tiny_manual
from trainer.data.persons import make_person, to_skeleton
from trainer.data.splits import side
from trainer.profile import latency

REPOSITORY = Path(__file__).parent.parent
SYNTH = "synth:60"  # of which more than four are on the side dev
WEAKENING = ("blur", "noise", "low light", "colour", "JPEG")  # they leave every pixel at its place
needs_litert = pytest.mark.skipif(importlib.util.find_spec("ai_edge_litert") is None, reason="no ai-edge-litert here")


@pytest.fixture
def lightning():
    file = REPOSITORY.parent / "shared" / "peers" / "movenet_lightning_int8.tflite"
    if not file.is_file():
        pytest.skip(f"{file} is not here")
    return file


def picture(size=200):
    """Soft clutter [size, size, 3]."""
    noise = np.random.default_rng(1).integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8)
    return cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)


def labelled_person(folder):
    """A person on a picture of its own; torso 100 px, so that 20 px is the limit."""
    joints = np.stack([np.full(16, 50.0), 40 + np.arange(16) * 8.0], axis=1)
    joints[MPII16.index("left_shoulder")] = [80, 40]
    joints[MPII16.index("right_hip")] = [80, 140]
    labelled = np.ones(16, bool)
    labelled[MPII16.index("left_ankle")] = False
    cv2.imwrite(str(folder / "a.png"), picture())
    return make_person(folder / "a.png", joints, labelled, "g", "golf")


class Told:
    """A contestant that says what it is told, in COCO's order."""

    name, precision, skeleton, padding, macs, file = "told", "float32", COCO17, 1.0, 10**9, Path(__file__)
    looks = 0

    def __init__(self, joints):
        self.joints, self.runs = joints, 0

    def locate(self, image, box):
        return self.joints

    def run(self):
        self.runs += 1

    def close(self):
        pass


def test_accuracy_of_a_hand_computed_case(tmp_path):
    person = labelled_person(tmp_path)
    said = convert(person.joints, MPII16, COCO17)
    said[COCO17.index("left_wrist"), 0] += 20.5
    said[COCO17.index("right_knee"), 1] -= 300
    said[COCO17.index("left_elbow"), 0] += 20  # the limit itself is right
    said[COCO17.index("left_ankle")] += 999  # unlabelled: does not count
    said[COCO17.index("nose")] = -999  # no limb joint: does not count
    persons = [to_skeleton(person, MPII16, LIMBS)]
    found = peers.accuracy(peers.judge(Told(said), persons), persons)
    assert (found.persons, found.joints) == (1, 11)
    assert found.pck == pytest.approx(100 * 9 / 11)
    assert found.per_joint["left_wrist"] == found.per_joint["right_knee"] == 0
    assert found.per_joint["left_elbow"] == found.per_joint["left_hip"] == 100
    assert np.isnan(found.per_joint["left_ankle"])
    assert found.by_activity == {"golf (1)": found.pck}


def test_the_interval_is_that_of_persons_not_of_joints():
    alike = np.tile([1.0, 1, 0, 0], (30, 3))  # half of every person's joints
    each = np.arange(30)
    assert peers.interval(alike, each) == (50, 50)
    unlike = np.repeat([[0.0], [1.0]], 15, axis=0) * np.ones(12)  # half of the persons
    low, high = peers.interval(unlike, each)
    deviation = 100 * 0.5 / np.sqrt(30)
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.1)
    assert (low + high) / 2 == pytest.approx(50, abs=2)


def test_movenet_gives_y_before_x_as_shares_of_the_crop():
    output = np.zeros((1, 1, 17, 3), np.float32)
    output[0, 0, 9] = 0.25, 0.75, 0.5  # COCO's left wrist
    joints, scores = rivals.read_movenet(output, (200, 100))
    at = LIMBS.index("left_wrist")
    assert convert(joints, COCO17, LIMBS)[at].tolist() == [149.5, 24.5]
    assert scores[9] == 0.5


def test_blazepose_points_become_cocos_joints():
    output = np.zeros((1, 39, 5), np.float32)
    for number, joint in (
        (15, "left_wrist"),
        (24, "right_hip"),
        (11, "left_shoulder"),
        (28, "right_ankle"),
        (0, "nose"),
    ):
        output[0, number, :2] = number + 1, 100
        output[0, number, 3] = np.log(3)
        joints, scores = rivals.read_blazepose(output.reshape(1, 195), (256, 256))
        assert joints[COCO17.index(joint)].tolist() == [number + 0.5, 99.5]
        assert scores[COCO17.index(joint)] == pytest.approx(0.75)


def test_limbs_are_the_twelve_that_all_skeletons_name():
    assert len(LIMBS) == 12
    assert set(LIMBS.joints) <= set(MPII16.joints) & set(COCO17.joints)
    assert not {"nose", "pelvis", "head_top"} & set(LIMBS.joints)


def test_macs_of_a_bundle_made_by_hand(tmp_path):
    weights = {"a": (8, 3, 3, 3), "b": (8, 1, 3, 3), "c": (8, 16, 2, 2)}
    nodes = [
        helper.make_node("Conv", ["image", "a"], ["x"], kernel_shape=[3, 3], strides=[8, 8], pads=[1] * 4),
        helper.make_node("Conv", ["x", "b"], ["y"], kernel_shape=[3, 3], pads=[1] * 4, group=8),
        helper.make_node("ConvTranspose", ["y", "c"], ["heatmaps"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape])
        for name, shape in (("image", (3, 64, 64)), ("heatmaps", (16, 16, 16)))
    ]
    constants = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in weights.items()]
    graph = helper.make_graph(nodes, "by-hand", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    bundle = bundles.save(model, tiny_manual(), tmp_path / "by-hand.onnx")
    found = rivals.Ours(bundle, "openvino", 1)
    assert found.macs == 8 * 8 * 8 * 27 + 8 * 8 * 8 * 9 + 8 * 8 * 8 * 16 * 4
    assert (found.name, found.precision, found.padding) == ("by-hand", "float32", 1.25)


def test_quantising_changes_no_macs():
    found = [rivals.Ours(bundles.load(f"edgepose-first{end}"), "openvino", 1) for end in ("", "-int8-cpu")]
    assert found[0].macs == found[1].macs > 10**8
    assert [f.precision for f in found] == ["float32", "int8"]


def test_a_second_look_is_counted_and_named(monkeypatch):
    once, twice = (opened(1) for opened in rivals.openers_of_ours(["edgepose-s-int8"], "openvino", second_look=True))
    assert (once.name, twice.name) == ("edgepose-s-int8", "edgepose-s-int8, 2 looks")
    monkeypatch.setattr("edgepose.estimator.LEAN", -1.0)  # everybody leans
    monkeypatch.setattr("edgepose.estimator.SOMEBODY", 0.0)
    for contestant, looks in ((once, 1), (twice, 2)):
        contestant.locate(picture(), np.array([20.0, 20, 180, 180]))
        assert contestant.looks == looks
        contestant.close()


@needs_litert
def test_a_peer_has_its_second_look_as_well(lightning, monkeypatch):
    once, twice = rivals.Rival(lightning, 1), rivals.Rival(lightning, 1, second_look=True)
    assert twice.name == "movenet_lightning_int8, 2 looks"
    box = np.array([20.0, 20, 180, 180])
    monkeypatch.setattr(rivals, "LEAN", 1000.0)  # nobody leans
    assert np.array_equal(twice.locate(picture(), box), once.locate(picture(), box))
    monkeypatch.setattr(rivals, "LEAN", -1.0)  # everybody does
    twice.locate(picture(), box)
    assert (once.looks, twice.looks) == (1, 3)


def test_a_peer_gets_the_factor_that_suits_it_on_all_sets_together(tmp_path):
    person = to_skeleton(labelled_person(tmp_path), MPII16, LIMBS)

    class Fond(Told):
        def locate(self, image, box):
            return self.joints if self.padding == 1.25 else self.joints + 50

    rival = Fond(convert(person.joints, LIMBS, COCO17))
    found = peers.best_factor(rival, [[person], [person]])
    assert found == dict.fromkeys(peers.FACTORS, 0) | {1.25: 100}
    assert rival.padding == 1.25


def test_factors_are_chosen_on_dev_and_reported_on_val(tmp_path, monkeypatch):
    seen = []
    judge = peers.judge
    monkeypatch.setattr(peers, "judge", lambda who, persons: seen.append((who.name, persons)) or judge(who, persons))
    monkeypatch.setattr(
        peers, "openers_of_rivals", lambda folder, second_look: [lambda threads: Told(np.zeros((17, 2)))]
    )
    peers.main(models=["edgepose-first"], data=[SYNTH], split="val", persons=4, repeats=1, out=tmp_path)
    sides = {name: [{side("synth", p.group) for p in persons} for who, persons in seen if who == name]
             for name in ("told", "edgepose-first")}  # fmt: skip
    assert sides["told"] == [{"dev"}] * len(peers.FACTORS) + [{"val"}]
    assert sides["edgepose-first"] == [{"val"}]


def test_everybody_has_as_many_turns(monkeypatch):
    now = itertools.count()  # a clock that every look moves on by a second
    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=lambda: next(now), sleep=lambda _: None))
    for settle, burst in ((2, latency.BURST), (0.5, 1)):
        monkeypatch.setattr(latency, "SETTLE", settle)
        told = [Told(None), Told(None), Told(None)]
        seconds = latency.take_turns([t.run for t in told], 4)
        assert seconds.tolist() == [[1.0] * 3] * 4
        assert {t.runs for t in told} == {latency.WARM_UP + 4 * (1 + burst)}


def test_a_duel_is_fought_pair_by_pair():
    hits = np.random.default_rng(0).integers(0, 2, (40, 12)).astype(float)
    better = hits.copy()
    better[:, 0] = 1
    ours = peers.Row("a", "INT8", "int8", 1, 1, 1, hits={"s": better}, seconds={1: np.array([1.0, 2, 3])},
                     scenes={"s": np.arange(40)})  # fmt: skip
    peer = peers.Row("b", "peer", "int8", 1, 1, 1, hits={"s": hits}, seconds={1: np.array([2.0, 4, 6])})
    (duel,) = peers.duels([ours, peer])
    assert duel.time == {1: 0.5}
    gain = 100 * (better.sum() - hits.sum()) / hits.size
    assert duel.gain["s"].gain == pytest.approx(gain)
    assert duel.gain["s"].low > 0  # narrower than either's own interval, which is 9 points wide


@pytest.fixture
def scene(tmp_path):
    """A person of 127 x 300 px; a white spot on black at every joint."""
    joints = np.stack([np.linspace(60, 187, 16), np.linspace(50, 350, 16)[::-1]], axis=1).round()
    image = np.zeros((400, 260, 3), np.uint8)
    for x, y in joints.astype(int):
        image[y - 2 : y + 3, x - 2 : x + 3] = 255
    return Scene(image, joints, np.ones(16, bool), np.array([60.0, 50, 187, 350]), 100.0)


def cluttered(scene):
    return replace(scene, image=cv2.resize(picture(), scene.image.shape[1::-1]))


def psnr(a, b):
    error = np.mean((a.image.astype(float) - b.image) ** 2)
    return 10 * np.log10(255**2 / error) if error else np.inf


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_first_level_changes_nothing(scene, name):
    corruption = CORRUPTIONS[name]
    same = corruption.apply(cluttered(scene), corruption.levels[0], np.random.default_rng(0))
    assert np.array_equal(same.image, cluttered(scene).image)
    assert np.array_equal(same.joints, scene.joints)
    assert same.counted.all()
    assert np.array_equal(same.box, scene.box)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_the_same_each_time(scene, name):
    corruption = CORRUPTIONS[name]
    once, again = (
        corruption.apply(cluttered(scene), corruption.levels[-1], np.random.default_rng((0, 3))) for _ in range(2)
    )
    assert np.array_equal(once.image, again.image)
    assert not np.array_equal(once.image, cluttered(scene).image)


@pytest.mark.parametrize("name", WEAKENING)
def test_pictures_get_worse_from_level_to_level(scene, name):
    corruption, clean = CORRUPTIONS[name], cluttered(scene)
    found = [psnr(corruption.apply(clean, level, np.random.default_rng(0)), clean) for level in corruption.levels]
    assert found[0] == np.inf
    assert all(a > b for a, b in itertools.pairwise(found))


def test_noise_is_as_strong_as_it_says(scene):
    grey = replace(scene, image=np.full((300, 300, 3), 128, np.uint8))
    noisy = robustness.add_noise(grey, 20, np.random.default_rng(0)).image
    assert noisy.std() == pytest.approx(20, rel=0.02)
    assert noisy.mean() == pytest.approx(128, abs=0.5)
    dark = robustness.darken(grey, 0.5, np.random.default_rng(0)).image
    assert dark.mean() == pytest.approx(64, abs=0.5)
    assert dark.std() == pytest.approx(np.sqrt(2**2 + 0.25 * 64), rel=0.03)


def test_without_colour_is_grey_and_as_bright(scene):
    night = robustness.fade(cluttered(scene), 0, None).image
    assert (night == night[..., :1]).all()
    luma = cluttered(scene).image @ np.array([0.114, 0.587, 0.299])  # BT.601, of BGR
    assert np.abs(night[..., 0] - luma).max() < 1.5
    half = robustness.fade(cluttered(scene), 0.5, None).image.astype(float)
    assert np.abs(half - (cluttered(scene).image + night.astype(float)) / 2).max() <= 1


def test_blur_is_measured_at_a_person_of_256_px(scene):
    small = replace(scene, box=np.array([60.0, 50, 187, 178]))  # 128 px: half the sigma
    assert np.array_equal(robustness.blur(small, 4, None).image, cv2.GaussianBlur(small.image, (0, 0), 2))


def whiteness(scene):
    """The darkest of the spots, where the joints are said to be."""
    return min(scene.image[tuple(np.round(xy).astype(int)[::-1])].min() for xy in scene.joints[scene.counted])


@pytest.mark.parametrize("degrees", [15, 45, 90, 135, 180])
def test_joints_turn_with_the_picture(scene, degrees):
    turned = robustness.turn(scene, degrees, None)
    assert whiteness(turned) > 150
    assert turned.box.tolist() == [*turned.joints.min(axis=0), *turned.joints.max(axis=0)]
    down = turned.joints[0] - turned.joints[-1]  # from head to foot; it was down and to the left
    was = scene.joints[0] - scene.joints[-1]
    angle = np.degrees(np.arctan2(down[1], down[0]) - np.arctan2(was[1], was[0])) % 360
    assert angle == pytest.approx(degrees)


def test_joints_shrink_with_the_picture(scene):
    small = robustness.shrink(scene, 150)
    assert small.image.shape == (200, 130, 3)
    assert whiteness(small) > 150
    assert small.side == pytest.approx(150, abs=0.1)
    assert small.torso == pytest.approx(50)
    assert robustness.shrink(scene, 301) is scene  # nothing is enlarged


def test_the_bottom_is_cut_away_with_its_joints(scene):
    cut = robustness.truncate(scene, 0.4, None, axis=1)
    assert cut.image.shape == (230, 260, 3)  # 350 - 0.4 * 300
    assert cut.box.tolist() == [60, 50, 187, 229.5]
    assert np.array_equal(cut.counted, scene.joints[:, 1] < 230)
    assert 0 < cut.counted.sum() < 16
    assert cut.torso == scene.torso  # its ends may be outside
    hits = robustness.right(Told(convert(scene.joints, MPII16, COCO17)), cut)
    assert np.array_equal(np.isnan(hits), ~cut.counted[[MPII16.index(j) for j in LIMBS.joints]])
    assert np.nanmean(hits) == 1


def test_a_side_is_cut_away_with_its_joints(scene):
    cut = robustness.truncate(scene, 0.5, None, axis=0)
    assert cut.image.shape == (400, 124, 3)
    assert np.array_equal(cut.counted, scene.joints[:, 0] < 124)
    assert cut.box.tolist() == [60, 50, 123.5, 350]


def test_a_scene_is_the_person_with_its_surroundings(scene):
    wide = np.zeros((1200, 1500, 3), np.uint8)
    wide[500:900, 700:960] = scene.image
    offset = np.array([700.0, 500])
    person = make_person(Path("a"), scene.joints + offset, scene.counted, "g")
    found = robustness.scene_of(wide, person)
    assert whiteness(found) == 255
    assert found.image.shape[0] < 800
    assert np.allclose(found.box - found.joints.min(axis=0)[[0, 1, 0, 1]], scene.box - [60, 50, 60, 50])
    double = make_person(Path("a"), person.joints * 2 + 0.5, person.labelled, "g")
    found = robustness.scene_of(cv2.resize(wide, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST), double)
    assert found.side == pytest.approx(300, abs=0.5)
    assert whiteness(found) > 150


def test_a_joint_is_right_within_a_fifth_of_the_torso(scene):
    for off, share in ((20, 1), (20.5, 0)):
        said = convert(scene.joints + np.array([off, 0]), MPII16, COCO17)
        assert np.array_equal(robustness.right(Told(said), scene), np.full(12, share))


def test_a_curve_has_the_same_noise_at_all_levels(tmp_path):
    seen = []

    class Watching(Told):
        def locate(self, image, box):
            seen.append(image.astype(float))
            return self.joints

    hits = robustness.judge([Watching(np.zeros((17, 2)))], [labelled_person(tmp_path)])
    assert {name: h.shape for name, h in hits.items()} == {n: (1, len(c.levels), 1, 12) for n, c in CORRUPTIONS.items()}
    first = len(CORRUPTIONS["blur"].levels)
    clean, weak, strong = (seen[first + i] for i in range(3))
    assert np.corrcoef((weak - clean).ravel(), (strong - clean).ravel())[0, 1] > 0.9


def test_points_lost_are_the_mean_of_the_later_levels():
    lines = {"blur": {"a": [80.0, 70, 30], "b": [90.0, 90, 90]}}
    assert robustness.costs(lines) == {"blur": {"a": 30, "b": 0}}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"split": "test"}, "unknown split 'test'; known: all, dev, train, val"),
        ({"persons": -1}, "--persons is -1; give the number of persons in each set, or 0 for all"),
        ({"repeats": 0}, "--repeats is 0; latency needs one turn at least"),
        ({"models": ["edgepose-frist"]}, "unknown model 'edgepose-frist'; did you mean 'edgepose-first'?"),
        ({"models": ["edgepose-finder"]}, "a person finder (--finder) but a pose model (--model) is asked for here"),
        ({"peers": Path("nowhere")}, "folder nowhere does not exist; name one with --peers, an empty one for no peers"),
    ],
)
def test_wrong_options_are_refused(tmp_path, options, sentence):
    chosen = {"peers": tmp_path, "data": ["synth:4"], "split": "all", "models": ["edgepose-first"], "out": tmp_path}
    with pytest.raises(EdgeposeError) as error:
        peers.main(**chosen | options)
    assert str(error.value).endswith(sentence)


def test_a_crop_factor_out_of_range_is_refused():
    with pytest.raises(EdgeposeError, match="--factor is 9; a crop is 0.5 to 3 times as large as the person's box"):
        robustness.main(factor=9)


@needs_litert
def test_a_file_that_is_no_network_is_refused(tmp_path):
    (tmp_path / "a.tflite").write_bytes(b"TFL3 or not")
    with pytest.raises(EdgeposeError, match=r"LiteRT cannot load .*a\.tflite: "):
        rivals.Rival(tmp_path / "a.tflite", 1)
    with pytest.raises(EdgeposeError, match=r"b\.tflite does not exist; name a \.tflite file that does"):
        rivals.Rival(tmp_path / "b.tflite", 1)


@needs_litert
def test_lightning_is_read_and_counted_rightly(lightning, data_root):
    rival = rivals.Rival(lightning, 1)
    assert (rival.input_size, rival.precision, round(rival.macs / 1e6)) == ((192, 192), "int8", 271)
    rival.padding = 1.1
    assert peers.percent(peers.judge(rival, peers.draw("mpii_sports", "dev", 8, data_root))) > 75


def script(name, *options):
    """Run a benchmark as its user does."""
    command = [sys.executable, f"tests/benchmarks/{name}.py", *map(str, options)]
    settings = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=REPOSITORY, env=settings, capture_output=True, text=True, check=False)


def test_peers_from_end_to_end(tmp_path):
    (tmp_path / "none").mkdir()
    model = "edgepose-first-int8-cpu"
    done = script("peers", "--models", model, "--data", SYNTH, "--persons", 4, "--repeats", 1,
                  "--peers", tmp_path / "none", "--out", tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    row = found["models"][0]
    assert (row["name"], row["kind"], found["split"]) == (model, "INT8", "dev")
    assert row["gmac"] == 0.748
    assert row["megabytes"] == round((bundles.MODELS / f"{model}.onnx").stat().st_size / 1e6, 2)
    accuracy = row["accuracy"][SYNTH]
    assert accuracy["persons"] == 4
    assert accuracy["low"] <= accuracy["pck"] <= accuracy["high"]
    assert set(row["milliseconds"]) == {"1", "2"}
    assert all(0 < t["low"] <= t["median"] <= t["high"] for t in row["milliseconds"].values())
    assert (tmp_path / "table.md").read_text() in done.stdout
    assert cv2.imread(str(tmp_path / "pareto.png")) is not None


@needs_litert
def test_robustness_from_end_to_end(tmp_path, lightning):
    done = script("robustness", "--models", "edgepose-first-int8-cpu", "--data", SYNTH, "--persons", 2, "--rival",
                  lightning, "--out", tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "robustness.json").read_text())
    for name, corruption in CORRUPTIONS.items():
        lines = found["curves"][name]
        assert set(lines) == {"edgepose-first-int8-cpu", lightning.stem}
        assert all(len(line) == len(corruption.levels) for line in lines.values())
        assert lines[lightning.stem][0] == found["curves"]["blur"][lightning.stem][0]  # nothing is wrong yet
    assert cv2.imread(str(tmp_path / "robustness.png")) is not None


def test_a_wrong_option_ends_in_one_sentence():
    done = script("peers", "--models", "edgepose-frist")
    assert done.returncode == 2
    assert done.stderr == "error: unknown model 'edgepose-frist'; did you mean 'edgepose-first'?\n"
