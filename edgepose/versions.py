"""Versions, compared as such and never as texts."""

from __future__ import annotations

import re


def numbers(text: str) -> tuple[int, ...]:
    """A version as numbers: '10.13.3.9.post1' -> (10, 13, 3, 9)."""
    found = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()
