"""``edgepose-calibrate build`` as far as it goes without TensorRT, and the commands where the trainer is not installed.

The building itself: tests/engines.
"""

import subprocess
import sys

import pytest

from tests.calibration.command import run


def words(*options):
    done = run("build", "edgepose-s", "--print-trtexec", *options)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_dlas_plan_is_for_one_person_unless_more_are_asked_for():
    half = ("--precision", "float16")
    assert "--maxShapes=image:8x3x192x192" in words(*half)
    assert "--maxShapes=image:1x3x192x192" in words(*half, "--dla", "0")
    assert "--minShapes=image:4x3x192x192" in words(*half, "--dla", "0", "--max-batch", "4")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--dla", "0"), "a DLA computes in float16 or int8, not in float32; use --precision float16"),
        (("--set", "none.npz"), "trtexec reads no calibration set; build with --set and --calibration-cache first"),
        (("--max-batch", "0"), "--max-batch"),
    ],
)
def test_what_trtexec_would_not_build_is_not_printed(options, says):
    done = run("build", "edgepose-s", "--print-trtexec", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("module", "words", "extras"),
    [
        ("calibration", ["select", "edgepose-s", "set.npz", "--data", "coco:a.json:images"], "trainer,calibration"),
        ("trainer", ["fit", "first", "--out", "run"], "trainer"),
    ],
)
def test_without_the_trainers_libraries_it_is_said_what_to_install(module, words, extras, tmp_path):
    """As where the device alone was set up, which installs these commands too."""
    code = f"import sys; sys.modules['torch'] = None; sys.argv[1:] = {words!r}\nfrom {module}.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: torch is needed for this command but is not installed; run: pip install 'edgepose[{extras}]'\n"
    )
