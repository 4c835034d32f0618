"""The one exception that users see, and the sentence-making helpers around it.

Every foreseeable fault (bad input, missing library, refused connection) is raised as
:class:`EdgeposeError` with one sentence that says what, where and what to do; the command
lines print that sentence and exit with code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EdgeposeError(Exception):
    """A fault the user can act on; ``str()`` is the sentence to show. Exit code 2."""

    exit_code = 2


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word most like ``word``, or None when nothing comes close."""
    found = difflib.get_close_matches(word, list(known), n=1)
    return found[0] if found else None


def unknown(kind: str, word: str, known: Iterable[str], where: str = "") -> EdgeposeError:
    """The error for a name that is not known: names the nearest one, or lists them all."""
    names = sorted(known)
    close = nearest(word, names)
    hint = f"did you mean '{close}'?" if close else f"known: {', '.join(names)}"
    place = f" in {where}" if where else ""
    return EdgeposeError(f"unknown {kind} '{word}'{place}; {hint}")


def missing(library: str, purpose: str, install: str) -> EdgeposeError:
    """The error for a library that is needed for ``purpose`` but not installed."""
    return EdgeposeError(f"{library} is needed {purpose} but is not installed; run: {install}")
