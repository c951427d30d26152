"""A file that the h5 library writes to, and that may be on a full disk."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Disk(io.RawIOBase):
    """A new binary file that remembers the first failure instead of raising it.

    The h5 library cannot close a file whose writes fail; whoever writes asks :meth:`check`.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb+", buffering=0)
        self._failure: OSError | None = None

    def check(self) -> None:
        """Raise the first failure.

        Raises:
            OSError: If there was one.
        """
        if self._failure is not None:
            raise self._failure

    def write(self, data: Any) -> int:
        """Write it all; see the class."""
        size = len(memoryview(data).cast("B"))

        def whole() -> None:
            view = memoryview(data).cast("B")
            while view:
                view = view[self._file.write(view) :]

        self._try(whole)
        return size

    def truncate(self, size: int | None = None) -> int:
        """Set the size; see the class."""
        wanted = self.tell() if size is None else size
        self._try(lambda: self._file.truncate(wanted))
        return wanted

    def readinto(self, buffer: Any) -> int:
        """Read; what is missing after a failure is zeros."""
        found = self._file.readinto(buffer) or 0
        if self._failure is not None:
            memoryview(buffer).cast("B")[found:] = bytes(len(memoryview(buffer).cast("B")) - found)
            return len(memoryview(buffer).cast("B"))
        return found

    def seek(self, place: int, whence: int = 0) -> int:
        """Go to a place."""
        return self._file.seek(place, whence)

    def tell(self) -> int:
        """The place."""
        return self._file.tell()

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()

    def _try(self, do: Callable[[], object]) -> None:
        if self._failure is None:
            try:
                do()
            except OSError as error:
                self._failure = error
