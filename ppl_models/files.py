"""Writing files so that nothing half-written is left behind."""

from __future__ import annotations

import contextlib
import glob
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path

HOST = re.sub(r"[^\w.-]", "_", platform.node())[:32]
WRITER = re.compile(r"\.(\d+)-(\d*)@([\w.-]*)\.part")


def temporary(path: Path) -> Path:
    """The name that this process writes to meanwhile: it says who that is, and since when."""
    pid = os.getpid()
    return path.with_name(f".{path.name}.{pid}-{started(pid)}@{HOST}.part")


def started(pid: int) -> str:
    """When a process of this machine began, which tells it from another of its number."""
    try:
        # What stands in front of the last parenthesis is its name, which may hold anything.
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2]
        return text.split()[19]
    except (OSError, IndexError):  # there is no such process, or no such folder
        return ""


def alive(pid: int, start: str, host: str) -> bool:
    """Whether a process may still be at work; one of another machine always may."""
    if host != HOST:
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is somebody else's
        pass
    return started(pid) == start


def remove_stale(folder: Path, name: str = "*") -> None:
    """Remove what dead processes of this machine were writing to when they died.

    Args:
        folder: Where to look.
        name: Of the file that they were writing; any by default.
    """
    for part in folder.glob(f".{name}.*.part"):
        writer = WRITER.search(part.name)
        if writer and not alive(int(writer[1]), writer[2], writer[3]):
            part.unlink(missing_ok=True)


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Write to a temporary name beside ``path``, then rename; a power cut changes nothing of it.

    What processes that died in the midst of writing this file have left is removed.

    Args:
        path: Final name; an existing file is replaced only when the new one is complete and on
            the disk.
        write: Called with the temporary name.

    Raises:
        OSError: With a one-line message naming the path; the temporary file is gone.
    """
    part = temporary(path)
    try:
        remove_stale(path.parent, glob.escape(path.name))
        write(part)
        _to_disk(part)
        os.replace(part, path)
        # Not every file system keeps folders in step on demand; the file itself is complete.
        with contextlib.suppress(OSError):
            _to_disk(path.parent)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
