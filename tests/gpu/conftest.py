"""What needs an NVIDIA GPU; skipped with the reason elsewhere. One command: ``python -m pytest tests/gpu -s``."""

import importlib
import importlib.util

import pytest

from edgepose import EdgeposeError
from edgepose.engines.device_memory import CUDAPython, PyCUDA, open_memory
from edgepose.engines.trt_library import LIBRARIES


def pytest_configure(config):
    config.addinivalue_line("markers", "gpu: needs an NVIDIA GPU")


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/gpu" in item.path.as_posix():
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def gpu():
    """The first GPU's description."""
    try:
        memory = open_memory()
    except EdgeposeError as error:
        pytest.skip(str(error))
    memory.close()
    return memory.gpu


@pytest.fixture(params=[PyCUDA, CUDAPython], ids=["pycuda", "cuda-python"])
def memory(request, gpu):
    """Each of the two implementations that is installed."""
    package = "pycuda" if request.param is PyCUDA else "cuda"
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{request.param.library} is not installed")
    made = request.param()
    yield made
    made.close()


@pytest.fixture(params=LIBRARIES)
def trt(request, gpu):
    """Each TensorRT that is installed."""
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return importlib.import_module(request.param)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "cache"))
