"""A file that the HDF5 library writes to, and that may be on a full disk."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any


class Disk:
    """A new binary file whose first failure is kept for later.

    HDF5 cannot close a file whose writes fail, and keeps handles whose clean-up crashes the
    interpreter. So what follows a failed write goes nowhere, and whoever writes asks
    :meth:`check`. Places that were never written read as zeros, which is what HDF5 finds where
    it has reserved room, and what it needs to finish after a failure.

    Args:
        path: The file.

    Raises:
        OSError: If it cannot be created.
    """

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        self._place = self._end = 0
        self._failure: OSError | None = None

    def check(self) -> None:
        """Raise the first failure.

        Raises:
            OSError: If there was one.
        """
        if self._failure is not None:
            raise self._failure

    def read(self, size: int) -> bytes:
        """So many bytes from the place at hand."""
        data = os.pread(self._handle, size, self._place)
        self._place += size
        return data.ljust(size, b"\0")

    def write(self, data: Any) -> int:
        """Write it all, or remember why not."""
        left, place = memoryview(data).cast("B"), self._place
        size = len(left)
        try:
            while self._failure is None and len(left):
                done = os.pwrite(self._handle, left, place)
                left, place = left[done:], place + done
        except OSError as error:
            self._failure = error
        self._place += size
        self._end = max(self._end, self._place)
        return size

    def truncate(self, size: int) -> int:
        """Set the size, or remember why not."""
        self._end = size
        try:
            os.ftruncate(self._handle, size)
        except OSError as error:
            self._failure = self._failure or error
        return size

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place."""
        self._place = offset + (0, self._place, self._end)[whence]
        return self._place

    def tell(self) -> int:
        """The place at hand."""
        return self._place

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)

    def __enter__(self) -> Disk:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
