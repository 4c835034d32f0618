"""Files that are whole or absent: written beside their place, then renamed into it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from edgepose.errors import EdgeposeError


@contextlib.contextmanager
def write_beside(path: Path) -> Iterator[Path]:
    """Yield a temporary path in ``path``'s folder with the same suffix; rename it to ``path`` at the end.

    After an exception, or a full disk, the temporary file is removed and ``path`` is as it was. EdgeposeError for what
    the system refuses, inside too.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    except OSError as error:
        raise EdgeposeError(
            f"cannot write {path}: {error.strerror or error}; choose a folder you may write to"
        ) from error
    os.close(handle)
    beside = Path(name)
    try:
        yield beside
        umask = os.umask(0)
        os.umask(umask)
        beside.chmod(0o666 & ~umask)  # mkstemp's 0600 is for secrets, not for results
        with beside.open("rb") as written:  # else a power cut may leave the new name with nothing behind it
            os.fsync(written.fileno())
        beside.replace(path)
    except OSError as error:
        raise EdgeposeError(
            f"cannot write {path}: {error.strerror or error}; make room or choose another file"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # a file system that fails, or may only be read by now
            beside.unlink(missing_ok=True)


@contextlib.contextmanager
def alone(path: Path, busy: str = "", advice: str = "choose a folder you may write to") -> Iterator[None]:
    """Be the only process within; ``path`` is the file, made here, by which they know of each other.

    Another one is waited for; with ``busy`` that is EdgeposeError's sentence instead. EdgeposeError that ends in
    ``advice`` where it cannot be made.
    """
    make_folder(path.parent, advice)
    try:
        file = path.open("ab")
    except OSError as error:
        raise EdgeposeError(f"cannot write {path}: {error.strerror or error}; {advice}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            raise EdgeposeError(busy) from None
        except OSError:
            pass  # a file system that knows no locks
        yield


def make_folder(path: Path, advice: str) -> None:
    """Make the folder where there is none; EdgeposeError that ends in ``advice`` where the system refuses."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EdgeposeError(f"cannot make folder {path}: {error.strerror or error}; {advice}") from error


def kind(path: Path) -> Literal["file", "folder", "nothing", "other"]:
    """What lies at ``path``; EdgeposeError where the system does not let us look: permissions, a name too long."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a path with a null character
        return "nothing"
    except OSError as error:
        raise EdgeposeError(
            f"{path} cannot be looked at: {error.strerror or error}; check the path and its permissions"
        ) from error
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"


def real_path(name: str) -> str:
    """``name`` with its links followed, to compare; as it is where they lead nowhere or in a circle."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: a null character
        return os.path.realpath(name)
    return name


def cache_dir() -> Path:
    """Where rebuilt-at-will files go: $EDGEPOSE_CACHE, else $XDG_CACHE_HOME/edgepose, else ~/.cache/edgepose.

    EdgeposeError: none of them is known.
    """
    chosen = os.environ.get("EDGEPOSE_CACHE")
    if chosen:
        return Path(chosen)
    if general := os.environ.get("XDG_CACHE_HOME"):
        return Path(general) / "edgepose"
    try:
        return Path.home() / ".cache" / "edgepose"
    except RuntimeError:
        raise EdgeposeError("who runs this has no home folder to keep files in; let EDGEPOSE_CACHE name one") from None
