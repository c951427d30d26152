"""A run folder is one run's at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from ppl_models.files import HOST

LOCK = ".lock"


class RunFolderError(ValueError):
    """A run folder that is missing, damaged, in use, or another run's."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder; the system lets go of it when the process ends, however it does.

    Args:
        folder: An existing folder; a hidden file stands in it meanwhile.

    Raises:
        RunFolderError: If another process holds it, naming the folder and the process.
        OSError: If it cannot be written to.
    """
    path = folder / LOCK
    handle = _take(path)
    try:
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()} on {HOST}".encode())
        yield
    finally:
        path.unlink(missing_ok=True)  # first: who opens it after this makes a new one
        os.close(handle)


def _take(path: Path) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 100).decode(errors="replace") or "unknown"
            os.close(handle)
            raise RunFolderError(
                f"{path.parent} is in use: process {holder} is at work in it; wait for its end, "
                "or choose another folder"
            ) from None
        except OSError:  # a file system without locks: it can only be trusted
            return handle
        try:
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)  # its holder has just removed it
