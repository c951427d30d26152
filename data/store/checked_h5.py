"""h5 files from strangers, opened once another process has walked through their structure."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from ppl_models.data.store import h5_walk

SECONDS = 2  # of processor time for a walk, and one more for each ...
BYTES = 10_000_000  # ... of the file
_walked: dict[tuple[str, int, int, int], str] = {}  # what is wrong by file; nothing if empty


@contextmanager
def opened(path: str | Path) -> Iterator[h5py.File]:
    """A file, for reading.

    Raises:
        OSError: If it cannot be opened.
        ValueError: See :func:`check`.
    """
    check(path)
    with h5py.File(path, "r", locking="best-effort") as file:
        yield file


def check(path: str | Path) -> None:
    """That the h5 library comes through a file, and that all of it lies in the file.

    Once per file and process, and not for files that this process has written: a fifth of a
    second, and longer with many texts.

    Raises:
        OSError: If it cannot be opened.
        ValueError: If it is damaged, leads to other files or to nothing, or claims more than it
            holds.
    """
    open(path, "rb").close()  # what the system says of it comes first
    key = _identity(path)
    if key not in _walked:
        _walked[key] = _walk(str(path), SECONDS + key[1] // BYTES)
    if _walked[key]:
        raise ValueError(_walked[key])


def trust(path: str | Path) -> None:
    """Take a file for walked: this process has written it."""
    _walked[_identity(path)] = ""


def _identity(path: str | Path) -> tuple[str, int, int, int]:
    stat = os.stat(path)
    return os.path.realpath(path), stat.st_size, stat.st_mtime_ns, stat.st_ino


def _walk(path: str, seconds: int) -> str:
    """What is wrong with a file; empty if nothing is.

    Raises:
        ValueError: If another process writes to it, which need not last.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OPENBLAS_NUM_THREADS": "1",
    }
    # -P and -S: neither its own folder nor the start-up of site-packages is needed.
    command = [sys.executable, "-P", "-S", h5_walk.__file__, path, str(seconds)]
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=20 * seconds,
        )
    except subprocess.TimeoutExpired:
        return f"its structure has no end, not after {20 * seconds} s"
    if done.returncode == 0:
        return ""
    if done.returncode == h5_walk.BUSY:
        raise ValueError(done.stdout.decode().strip())
    if done.returncode == h5_walk.REFUSED:
        return done.stdout.decode().strip()
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"its structure has no end, not after {seconds} s of processor time"
    return f"it breaks the h5 library, exit status {done.returncode}"
