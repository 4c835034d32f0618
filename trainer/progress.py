"""Progress bars for long work, on the terminal's error stream; silent where there is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def progress(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Iterate over ``items`` under a bar named ``what``."""
    from rich.console import Console
    from rich.progress import track

    console = Console(file=sys.stderr)
    yield from track(items, description=what, total=total, console=console, disable=not console.is_terminal)
