"""Built sets, kept so that each is built once."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ppl_models.data.store.h5_store import MEMORY, open, write
from ppl_models.data.store.row_blocks import Blocks
from ppl_models.data.tables.table import Dataset
from ppl_models.version import __version__

FOLDER = "built"
TAIL = 1 << 16  # bytes


def folders() -> list[Path]:
    """Where built sets are: ``$PPL_DATA/built``, and the user's cache folder."""
    import pooch

    own = os.environ.get("PPL_DATA")
    cache = Path(pooch.os_cache("ppl-models")) / FOLDER
    return [Path(own) / FOLDER, cache] if own else [cache]


def file_name(name: str, options: Mapping[str, Any]) -> str:
    """Name of the file of a set made with these options by this version of the package."""
    made = json.dumps([__version__, options], sort_keys=True, default=str)
    return f"{name}-{hashlib.sha256(made.encode()).hexdigest()[:12]}.h5"


def identity(path: Path) -> list[Any]:
    """What tells a source file from another of its name: size, time of change and last bytes.

    The time, in nanoseconds, changes with whatever is written to the file. A file that is put
    in its place may have its time, too, as archives and ``cp -p`` keep it; its end then tells
    it, since gzip, zip and npz files end with checksums of all that is in them. Neither costs
    more for a larger file.
    """
    stat = path.stat()
    with path.open("rb") as file:
        file.seek(max(0, stat.st_size - TAIL))
        tail = hashlib.sha256(file.read(TAIL)).hexdigest()
    return [str(path.resolve()), stat.st_size, stat.st_mtime_ns, tail]


def cached(
    name: str,
    options: Mapping[str, Any],
    build: Callable[[], Dataset | Blocks],
    *,
    memory: int = MEMORY,
    compress: bool = False,
) -> Dataset:
    """A set from its file, which is built when it is in none of :func:`folders`.

    Several processes may build the same set at once: each writes a file of its own, and the
    last to finish gives it its name.

    Args:
        name: Name of the set.
        options: All that decides its content, the :func:`identity` of its files, too.
        build: Makes it.
        memory: See :func:`ppl_models.data.open`.
        compress: See :func:`ppl_models.data.write`.

    Raises:
        OSError: If it can be written to none of the folders, naming them.
        ValueError: If its file is damaged, naming it.
    """
    places = [folder / file_name(name, options) for folder in folders()]
    for path in places:
        if path.is_file():
            return open(path, memory)
    failed = []
    for path in places:
        try:
            _make(path.parent)
        except OSError as error:
            failed.append(f"{path.parent}: {error.strerror or error}")
            continue
        made = build()  # whatever it lacks is no fault of the folder
        try:
            return open(write(made, path, compress), memory)
        except OSError as error:
            failed.append(f"{path.parent}: {error.strerror or error}")
    raise OSError(
        f"{name} cannot be built, no folder can be written to ({'; '.join(failed)}); set PPL_DATA "
        "to one that can"
    )


def _make(folder: Path) -> None:
    # A folder that is marked as read-only is left as it is, by root, too.
    above = next(p for p in (folder, *folder.parents) if p.exists())
    if above.is_dir() and not above.stat().st_mode & 0o222:
        raise PermissionError(errno.EROFS, f"{above} is read-only")
    folder.mkdir(parents=True, exist_ok=True)
