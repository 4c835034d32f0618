"""The house's rules, checked: what may import what, and how light the device package is."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgepose import bundle as bundles
from edgepose.toml import read_toml

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "lightning", "trainer", "calibration", "matplotlib")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("path", sorted((ROOT / "edgepose").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_device_package_never_imports_upwards(path):
    assert not [m for m in imports(path) if m.split(".")[0] in HEAVY]


def test_import_needs_the_light_libraries_alone_and_is_quick():
    """Everything but numpy, cv2, paho and pydantic is hidden; the import must work, and load none of them in vain."""
    code = """
import sys, time
class Hide:
    hidden = {'torch','lightning','openvino','onnxruntime','onnx','av','gi','scipy','typer','rich','cbor2','matplotlib'}
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in self.hidden:
            raise ImportError(f'{name} is hidden')
sys.meta_path.insert(0, Hide())
start = time.process_time()
import edgepose
first = time.process_time() - start
assert edgepose.__version__
import edgepose.skeletons, edgepose.crops, edgepose.heatmaps, edgepose.bundle, edgepose.engines, edgepose.sources
import edgepose.people.single, edgepose.config, edgepose.metrics
print(first)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.5


def test_cpp_libraries_survive_gstreamer():
    """GStreamer brings libunwind; C++ exceptions of what is loaded later must still be caught."""
    pytest.importorskip("gi")
    code = """
import numpy
from edgepose.gst import gst
gst()
import matplotlib.ft2font, openvino
try:
    openvino.Core().read_model('/nowhere.onnx')
except RuntimeError:
    print('caught')
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "caught\n", done.stderr


def test_versions_agree():
    import edgepose

    assert f'version = "{edgepose.__version__}"' in (ROOT / "pyproject.toml").read_text()
    assert f"## {edgepose.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_no_file_is_longer_than_500_lines():
    long = {p.name: n for folder in ("edgepose", "trainer", "calibration", "deploy", "tests")
            for p in (ROOT / folder).rglob("*.py") if (n := len(p.read_text().splitlines())) > 500}  # fmt: skip
    assert not long


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "NAME: s"),
        (["s", "nowhere"], "must hold lspet/"),
        (["x", "DATA"], "'x' is no shipped model"),
        (["l", "DATA"], "there is no movenet_thunder_fp16.tflite here"),
        (["m", "DATA"], "there is no movenet_lightning_fp16.tflite here"),
    ],
)
def test_the_command_that_makes_a_shipped_model_says_what_it_needs(arguments, says, tmp_path):
    for folder in ("lspet", "mpii_sports"):
        (tmp_path / folder).mkdir()
    (tmp_path / "mpii_sports" / "people_pseudo.json").touch()
    arguments = [str(tmp_path) if a == "DATA" else a for a in arguments]
    command = [ROOT / "deploy" / "model.sh", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr


def test_each_run_of_a_shipped_model_begins_where_the_one_before_ended():
    script = (ROOT / "deploy" / "model.sh").read_text()
    chains = [chain.split() for chain in re.findall(r'recipes="([^"]+)"', script)]
    assert [chain[-1] for chain in chains] == ["s", "m", "l"]
    for first, *others in chains:
        begun = [read_toml(ROOT / "trainer" / "recipes" / f"{name}.toml") for name in (first, *others)]
        assert "movenet" in begun[0]["pretrained"]
        ends = [f"runs/{recipe['name']}/last.ckpt" for recipe in begun]
        assert [recipe["start_from"] for recipe in begun[1:]] == ends[:-1]


def test_each_teacher_of_a_shipped_model_is_shipped_or_made_before():
    script, made = (ROOT / "deploy" / "model.sh").read_text(), []
    for chain in re.findall(r'recipes="([^"]+)"', script):
        names = chain.split()
        for i, name in enumerate(names):
            teacher = read_toml(ROOT / "trainer" / "recipes" / f"{name}.toml").get("distillation", {}).get("teacher")
            if teacher is None or teacher in bundles.shipped():
                continue
            before = names[i - 1]
            assert teacher == f"runs/edgepose-{before}/edgepose-{before}.onnx"
            assert f"    {name}) bundle {before} " in script
            made.append(name)
    assert made == ["l"]
