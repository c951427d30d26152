"""h5 files from strangers, opened once another process has walked through their structure."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import h5py

from ppl_models.data.store import h5_walk

SECONDS = 2  # of processor time for a walk, and one more for each ...
BYTES = 10_000_000  # ... of the file
PATIENCE = 1.0  # seconds, for a fork
MARK = "user.ppl_models.written"
_walked: dict[tuple[str, int, int, int, int], str] = {}  # what is wrong by file; nothing if empty


@contextlib.contextmanager
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

    Once per file and process, and not for files that :func:`trust` has marked: some hundredths of
    a second, and longer with many texts.

    Raises:
        OSError: If it cannot be opened.
        ValueError: If it is damaged, leads to other files or to nothing, or claims more than it
            holds.
    """
    open(path, "rb").close()  # what the system says of it comes first
    key = _identity(path)
    if key not in _walked and _mark_of(path) == _mark(key):
        _walked[key] = ""
    if key not in _walked:
        seconds = SECONDS + key[1] // BYTES
        _walked[key] = "" if _passes(str(path), seconds) else _walk(str(path), seconds)
    if _walked[key]:
        raise ValueError(_walked[key])


def trust(path: str | Path) -> None:
    """Take a file for walked: this process has written it.

    Later processes see it by a mark beside the file's content (an extended attribute), where the
    system keeps such. It holds the file's place on the disk, which no copy or archive has.
    """
    key = _identity(path)
    _walked[key] = ""
    with contextlib.suppress(OSError, AttributeError):
        os.setxattr(path, MARK, _mark(key))


def _identity(path: str | Path) -> tuple[str, int, int, int, int]:
    stat = os.stat(path)
    return os.path.realpath(path), stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_dev


def _mark(key: tuple[str, int, int, int, int]) -> bytes:
    return " ".join(map(str, key[1:])).encode()


def _mark_of(path: str | Path) -> bytes:
    try:
        return os.getxattr(path, MARK)
    except (OSError, AttributeError):  # it has none, or the system knows no such
        return b""


def _passes(path: str, seconds: int) -> bool:
    """Whether a fork of this process comes through a file: a tenth of the time of a new process.

    It may fail for reasons of its own, such as a lock that another thread held when it was
    forked, and finds nothing that a new process does not find: that one has the last word.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads: the fork takes none of their locks for long
        child = os.fork()
    if not child:
        code = h5_walk.REFUSED
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            code = h5_walk.main(path, seconds)
        finally:
            os._exit(code)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status == 0
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


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
