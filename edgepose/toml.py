"""TOML files, read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from edgepose.errors import EdgeposeError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: Path) -> dict[str, Any]:
    """The parsed file; EdgeposeError where it is absent, unreadable or not TOML."""
    try:
        parsed: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise EdgeposeError(f"{path} does not exist; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise EdgeposeError(f"{path} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:  # no TOML, or a number of thousands of digits
        raise EdgeposeError(f"{path} is not valid TOML: {error}") from error
    if _has_null(parsed):
        raise EdgeposeError(f"{path} holds a null character (\\u0000), which no path, name or address has; take it out")
    return parsed


def _has_null(value: object) -> bool:
    if isinstance(value, dict):
        return any(_has_null(inner) for pair in value.items() for inner in pair)
    return any(map(_has_null, value)) if isinstance(value, list) else isinstance(value, str) and "\0" in value
