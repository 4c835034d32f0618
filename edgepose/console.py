"""How the commands end: faults as one sentence and exit code 2, never a traceback."""

from __future__ import annotations

import sys
from typing import Any

from edgepose.errors import EdgeposeError


def run(app: Any) -> None:
    """Run a typer application; an EdgeposeError becomes 'error: <sentence>' on stderr and its exit code."""
    try:
        app()
    except EdgeposeError as error:
        sys.stdout.flush()
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output (head, say) has gone; that is its right.
        sys.stderr.close()
        sys.exit(0)
