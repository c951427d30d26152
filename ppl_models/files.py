"""Writing files so that nothing half-written is left behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def temporary(path: Path, writer: int | str) -> Path:
    """The name that a process (or ``"*"``, as a pattern for all) writes to meanwhile."""
    return path.with_name(f".{path.name}.{writer}.part")


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Write to a temporary name beside ``path``, then rename.

    Args:
        path: Final name; an existing file is replaced only when the new one is complete.
        write: Called with the temporary name.

    Raises:
        OSError: With a one-line message naming the path; the temporary file is gone.
    """
    part = temporary(path, os.getpid())
    try:
        write(part)
        os.replace(part, path)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
