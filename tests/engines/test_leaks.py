"""Ten thousand inferences, and a model loaded again and again, in a process that must not grow."""

import json
import subprocess
import sys

import pytest

CODE = """
import gc, json, sys
import numpy as np
from edgepose import bundle, engines
from edgepose.engines import Options

def resident():
    gc.collect()
    with open('/proc/self/statm') as file:
        return int(file.read().split()[1]) * 4096 / 2**20

tiny, name = bundle.load(sys.argv[1]), sys.argv[2]
image = np.zeros((1, 3, 64, 64), np.float32)

def use(count):
    engine = engines.load(tiny, name, Options(threads=1))
    for _ in range(count):
        engine.infer(image)
    engine.close()

use(2000)
before = resident()
use(10_000)
inferred = resident() - before
for _ in range(30):
    use(2)
before = resident()
for _ in range(100):
    use(2)
print(json.dumps({'inferences': inferred, 'loads': resident() - before}))
"""


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_nothing_grows(tiny, name):
    command = [sys.executable, "-c", CODE, str(tiny.path), name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=True)
    grown = json.loads(done.stdout)
    assert grown["inferences"] < 4, grown  # MiB; one heatmap kept per inference would be 160
    assert grown["loads"] < 8, grown  # MiB in 100 loads
