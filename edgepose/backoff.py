"""How long to wait before what failed is tried again."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """Doubles from ``first_s`` to ``most_s`` seconds, less up to a half at random, so that many do not come at once."""

    first_s: float = 0.5
    most_s: float = 30.0
    jitter: Callable[[], float] = random.random  # 0 .. 1; 1 takes nothing off

    def delay(self, failures: int) -> float:
        """Seconds to wait after ``failures`` (1 or more) in a row."""
        return min(self.most_s, self.first_s * 2.0 ** min(failures - 1, 30)) * (0.5 + 0.5 * self.jitter())
