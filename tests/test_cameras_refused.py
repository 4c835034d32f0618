"""Settings of several cameras: what is refused, in one sentence, and what is shown."""

import json
import subprocess
import sys

import pytest

from edgepose import bundle as bundles
from edgepose.bundle import Manual
from tests.conftest import CLIP, tiny_graph
from tests.test_cameras import camera
from tests.test_run import EDGEPOSE
from tests.test_run_refused import refused

TWO = camera("a", "videotest://") + camera("b", "videotest://")
ZONE = "regions = { only = [[[0, 0], [1, 0], [1, 1]], [[0, 0], [1, 2], [1, 1]]] }"
BAD = {
    "both": (f"[source]\nuri = 'videotest://'\n{TWO}", (), "edgepose.toml: there is both a source and [[camera]]"),
    "source on the command line": (TWO, ("--source", "videotest://"), "both a source and [[camera]] tables"),
    "the one camera's name": (TWO, ("--camera", "door"), "source.camera is of the one camera of [source]"),
    "the one camera's backend": (f"[source]\nbackend = 'pyav'\n{TWO}", (), "source.backend is of the one camera of"),
    "same name": (camera("a", "x") + camera("a", "y"), (), "'a' and 'a' are both named 'a' in topics; rename one"),
    "same name in topics": (
        camera("Front.Door", "x") + camera("front-door", "y"),
        (),
        "'Front.Door' and 'front-door' are both named 'front-door'",
    ),
    "no name": ("[[camera]]\nuri = 'videotest://'\n", (), "key 'camera.0.name' is missing; add it"),
    "no uri": (camera("a", "x") + "[[camera]]\nname = 'b'\n", (), "key 'camera.1.uri' is missing; add it"),
    "name of nothing": (camera("...", "videotest://"), (), "'...' has no letter or digit"),
    "name of two levels": (camera("a/b", "videotest://"), (), "key 'camera.0.name' (it is 'a/b')"),
    "overlay of all": (f"[output]\noverlay = 'x.mp4'\n{TWO}", (), "overlay, regions and gate belong into each"),
    "overlay on the command line": (TWO, ("--overlay", "x.mp4"), "overlay, regions and gate belong into each"),
    "rate on the command line": (TWO, ("--rate", "2"), "overlay, regions and gate belong into each"),
    "regions of all": (f"[regions]\nmost = 2\n{TWO}", (), "overlay, regions and gate belong into each"),
    "same overlay": (
        camera("a", "x", "overlay = 'x.mp4'") + camera("b", "y", "overlay = './x.mp4'"),
        (),
        "'a' and 'b' both draw into the overlay x.mp4; give each a file of its own",
    ),
    "overlay of a wrong kind": (TWO + "overlay = 'x.txt'\n", (), "overlay 'x.txt' must be 'window' or a file"),
    "corner outside": (
        camera("a", "x") + camera("b", "y", ZONE),
        (),
        "edgepose.toml: key 'camera.1.regions.only.1.1': the corner (1, 2) is outside the image",
    ),
    "flat polygon": (
        camera("a", "x", "regions = { ignore = [[[0, 0], [1, 1]]] }"),
        (),
        "key 'camera.0.regions.ignore.0': a polygon needs at least three corners",
    ),
    "unknown key of a camera": (TWO + "overlya = 'x.mp4'\n", (), "'camera.1.overlya'; did you mean 'overlay'"),
    "unknown key of its gate": (TWO + "gate = { rtae = 2 }\n", (), "'camera.1.gate.rtae'; did you mean 'rate'"),
    "unknown key of its regions": (TWO + "regions.olny = []\n", (), "'camera.1.regions.olny'; did you mean 'only'"),
    "unknown table": ("[[cmaera]]\nname = 'a'\n", (), "unknown key 'cmaera'; did you mean 'camera'"),
    "unknown key of people": ("[people]\nfindre = 'x'\n", (), "'people.findre'; did you mean 'finder'"),
    "wrong uri of the second": (
        camera("a", "videotest://") + camera("b", "videotest://?widht=3"),
        (),
        "did you mean 'width'",
    ),
    "pose model for a finder": (TWO, ("--finder", "edgepose-first"), "is a pose model (--model) but a person finder"),
    "unknown finder": (TWO, ("--finder", "edgepose-frist"), "did you mean 'edgepose-first'"),
    "unknown smoothing": (TWO, ("--smoothing", "kallman"), "command line: key 'people.smoothing'"),
    "negative rate": (camera("a", "x", "gate.rate = -1"), (), "key 'camera.0.gate.rate' (it is -1)"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD)
def test_wrong_settings_get_one_sentence(fault, own_folder):
    text, flags, sentence = BAD[fault]
    (own_folder / "edgepose.toml").write_text(text)
    assert sentence in refused("run", "--stdout", *flags)


def test_what_looks_at_one_camera_refuses_several(own_folder):
    """In words that help."""
    (own_folder / "edgepose.toml").write_text(TWO)
    said = refused("bench")
    assert "2 are configured" in said
    assert "--config" in said


def test_cameras_without_an_output_are_refused(own_folder):
    (own_folder / "edgepose.toml").write_text(TWO)
    assert "nothing takes the poses" in refused("run")


def test_config_show_has_the_cameras(own_folder):
    (own_folder / "edgepose.toml").write_text(
        camera("door", "rtsp://me:secret@host/cam", ZONE.replace("2", "0.5")) + TWO
    )
    done = subprocess.run([*EDGEPOSE, "config", "show"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("camera ")]
    assert row.endswith("# edgepose.toml")
    assert "secret" not in done.stdout
    shown = json.loads(row.partition("=")[2].rpartition("#")[0])
    assert [c["name"] for c in shown] == ["door", "a", "b"]
    assert shown[0]["regions"]["only"][1][1] == [1.0, 0.5]


def test_explain_shows_every_camera(own_folder):
    (own_folder / "edgepose.toml").write_text(camera("door", "rtsp://me:secret@host/cam") + camera("clip", CLIP))
    done = subprocess.run(
        [sys.executable, "-m", "edgepose", "run", "--explain"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "host/cam" in done.stdout
    assert CLIP.name in done.stdout
    assert "secret" not in done.stdout


def test_a_finder_is_no_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finder = bundles.save(
        tiny_graph(joints=5), Manual(name="f", role="person", input_size=(64, 64)), tmp_path / "f.onnx"
    )
    said = refused("run", "--stdout", "--source", "videotest://", "--model", finder.path)
    assert "is a person finder (--finder) but a pose model (--model) is asked for here" in said
