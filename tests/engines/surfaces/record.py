"""Record which names a TensorRT Python module has, into a JSON file beside this one.

    python record.py MODULE FILE.json "where the module came from"
    python record.py --bindings FOLDER FILE.json "where ..."

The second form is for a bindings wheel (unpacked into FOLDER) whose libraries are not to be had: the wheel's own
extension module is imported with empty libraries in place of libnvinfer and its parser, which is enough to read its
classes and their members, and for nothing else. It needs a C compiler and the Python that the wheel is for.
"""

import argparse
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# fmt: off
CLASSES = [
    "Builder", "IBuilderConfig", "INetworkDefinition", "ITensor", "IOptimizationProfile", "ITimingCache",
    "IHostMemory", "OnnxParser", "ParserError", "Runtime", "ICudaEngine", "IExecutionContext", "ILogger",
    "IProgressMonitor", "IInt8EntropyCalibrator2",
]
ENUMS = [
    "BuilderFlag", "NetworkDefinitionCreationFlag", "OnnxParserFlag", "MemoryPoolType", "DeviceType",
    "HardwareCompatibilityLevel", "PreviewFeature", "ExecutionContextAllocationStrategy", "ComputeCapability",
    "TensorIOMode", "DataType",
]
# fmt: on


def surface(module, source):
    """What the JSON file holds: version, source, and the members of the classes and enumerations above."""
    found = {"version": module.__version__, "source": source, "classes": {}, "enums": {}}
    for name in CLASSES:
        if inspect.isclass(getattr(module, name, None)):
            found["classes"][name] = sorted(m for m in dir(getattr(module, name)) if not m.startswith("_"))
    for name in ENUMS:
        if hasattr(module, name):
            found["enums"][name] = {k: int(v) for k, v in getattr(module, name).__members__.items()}
    found["enums"]["Severity"] = {k: int(v) for k, v in module.ILogger.Severity.__members__.items()}
    return found


def with_empty_libraries(folder):
    """Run this script again with the libraries that the extension module in ``folder`` asks for, empty."""
    extension = next(folder.rglob("tensorrt.so"))
    needed = re.findall(r"\[(libnv\S+)\]", subprocess.check_output(["readelf", "-d", extension], text=True))
    undefined = subprocess.check_output(["nm", "-D", "--undefined-only", extension], text=True)
    # What carries no '@VERSION' is of TensorRT or of Python; none of it is called before an object is made.
    names = [n for n in re.findall(r" U ([^@\s]+)$", undefined, re.MULTILINE) if not re.match(r"_?Py", n)]
    with tempfile.TemporaryDirectory() as libraries:
        code = "".join(f"void {name}(void) {{}}\n" for name in names)
        for name in needed:
            subprocess.run(["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-x", "c", "-", "-o",
                            f"{libraries}/{name}"], input=code, text=True, check=True)  # fmt: skip
        environment = {**os.environ, "LD_LIBRARY_PATH": libraries, "PYTHONPATH": str(extension.parent.parent)}
        command = [sys.executable, __file__, extension.parent.name, *sys.argv[3:]]
        subprocess.run(command, env=environment, check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bindings", type=Path)
    parser.add_argument("rest", nargs="+")
    asked = parser.parse_args()
    if asked.bindings:
        with_empty_libraries(asked.bindings)
        return
    module, path, source = asked.rest
    found = surface(importlib.import_module(module), source)
    Path(path).write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
