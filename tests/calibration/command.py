"""The command line, as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """``edgepose-calibrate`` with ``words``."""
    command = [sys.executable, "-m", "calibration.cli", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment, check=False)
