"""What the commands say, and how they end: faults as one sentence and exit code 2, never a traceback."""

from __future__ import annotations

import errno
import importlib.util
import os
import sys
from contextlib import suppress
from typing import Any

from edgepose.errors import EdgeposeError, missing


def say(sentence: str) -> None:
    """Tell whoever runs us, on stderr; a full disk there, or nobody who reads it, is no reason to stop."""
    with suppress(OSError, ValueError, AttributeError):  # the last: it was closed before we began
        sys.stderr.write(printable(sentence, "\n\t") + "\n")
        sys.stderr.flush()


def printable(text: str, but: str = "") -> str:
    """``text`` with nothing in it that could steer a terminal, as what cameras and others say may, ``but`` these."""
    return "".join(c if c.isprintable() or c in but else "?" for c in text)


def run(app: Any, extras: str = "") -> None:
    """Run a typer application; an EdgeposeError becomes 'error: <sentence>' on stderr and its exit code.

    ``extras`` of edgepose are what its commands need; where a library of theirs is absent they are named.
    """
    try:
        app()
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        absent = library and library not in sys.stdlib_module_names and importlib.util.find_spec(library) is None
        if not (extras and absent):  # else it is there, and something within it is wrong
            raise
        install = f"pip install 'edgepose[{extras}]'"
        say(f"error: {missing(library, 'for this command', install)}")
        sys.exit(EdgeposeError.exit_code)
    except EdgeposeError as error:
        with suppress(OSError, ValueError, AttributeError):
            sys.stdout.flush()
        say(f"error: {error}")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output (head, say) has gone; that is its right. What typer prints itself it makes a 1 of.
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        say("error: there is no room for what is to be written; make room there")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the interpreter would try to write the rest at its end
        sys.exit(2)
