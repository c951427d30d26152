"""The walk through an h5 file from a stranger: ``h5_walk.py PATH SECONDS``, a process of its own.

The h5 library parses whatever stands in a file and may loop, crash or take all memory over it.
This script meets each structure that a reader can meet later: links, attributes, chunk indices
and the heaps of texts. It prints what must not be read, and is killed where the structure does
not come to an end.
"""

from __future__ import annotations

import os
import resource
import sys
from typing import Any

import h5py

REFUSED, BUSY = 3, 4
RATIO = 1032  # of what deflate can hold to its bytes, at best
SLACK = 1 << 20  # bytes that a data set may claim without storing them: its fill value
MEMORY = 128 << 20  # bytes, on top of four times the file
INFLATED = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, 32000}
ROWS = 4096


def walk(path: str) -> None:
    """Meet everything in a file.

    Raises:
        ValueError: Naming what leads out of the file or claims more than the file holds.
        OSError: As the h5 library has it, as RuntimeError, too.
    """
    size = os.stat(path).st_size
    with h5py.File(path, "r", locking="best-effort") as file:
        left: list[Any] = [file]
        seen = {h5py.h5o.get_info(file.id).addr}
        soft: list[tuple[h5py.Group, str]] = []
        while left:
            found = left.pop()
            _attributes(found)
            if isinstance(found, h5py.Dataset):
                _dataset(found, size)
            elif isinstance(found, h5py.Group):
                for name in found:
                    inner = _member(found, name)
                    if inner is None:
                        soft.append((found, name))
                    elif (at := h5py.h5o.get_info(inner.id).addr) not in seen:
                        seen.add(at)
                        left.append(inner)
        for group, name in soft:  # there is no way out of the file any more
            try:
                group[name]
            except (KeyError, OSError, RuntimeError):
                target = os.fsdecode(group.id.links.get_val(_encoded(name)))
                place = _place(group, name)
                raise ValueError(f"{place} is a link to nothing, {target[:80]!r}") from None


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _place(group: h5py.Group, name: str) -> str:
    return repr(f"{group.name.rstrip('/')}/{name}"[:80])


def _member(group: h5py.Group, name: str) -> Any:
    """What a hard link leads to; None for a soft link, as all inside the file has a hard one."""
    kind = group.id.links.get_info(_encoded(name)).type
    if kind == h5py.h5l.TYPE_SOFT:
        return None
    if kind == h5py.h5l.TYPE_EXTERNAL:
        other = os.fsdecode(group.id.links.get_val(_encoded(name))[0])
        place = _place(group, name)
        raise ValueError(f"{place} is a link into another file, {other[:80]!r}")
    if kind != h5py.h5l.TYPE_HARD:
        raise ValueError(f"{_place(group, name)} is a link of a foreign kind")
    try:
        return group[name]
    except KeyError as error:
        raise OSError(f"{_place(group, name)}: {error.args[0]}") from None


def _attributes(found: Any) -> None:
    for name in found.attrs:
        try:
            found.attrs[name]
        except (TypeError, UnicodeError):  # of a kind that Python has not; no reader reads it
            continue


def _dataset(found: h5py.Dataset, size: int) -> None:
    place = repr(found.name[:80])
    plist = found.id.get_create_plist()
    if plist.get_layout() == h5py.h5d.VIRTUAL:
        raise ValueError(f"{place} is a virtual data set, made of other files")
    if plist.get_external_count():
        name = os.fsdecode(plist.get_external(0)[0])
        raise ValueError(f"{place} is stored in another file, {name[:80]!r}")
    if found.shape is None:
        return
    held, width = found.id.get_storage_size(), found.id.get_type().get_size()
    filters = {plist.get_filter(k)[0] for k in range(plist.get_nfilters())}
    if found.chunks is not None:
        chunk = width
        for side in found.chunks:
            chunk *= side
        stored = found.id.get_num_chunks()
        held = min(stored * chunk, RATIO * held) if filters else held
        if stored and chunk > RATIO * size + SLACK:
            raise ValueError(f"{place} claims blocks of {chunk} bytes, the file has {size}")
    claimed = found.size * width
    if claimed > held + SLACK:
        raise ValueError(f"{place} claims {claimed} bytes, but at most {held} are stored")
    try:
        in_heap = found.dtype.hasobject
    except TypeError:  # of a kind that Python has not; no reader reads it
        return
    unusual = {f for f in filters - INFLATED if h5py.h5z.filter_avail(f)}
    if in_heap or unusual:
        _read(found)


def _read(found: h5py.Dataset) -> None:
    """Texts lie in heaps, and some filters trust what they unpack: these are read once here."""
    if found.shape == ():
        found[()]
        return
    for start in range(0, len(found), ROWS):
        found[start : start + ROWS]


def main(path: str, seconds: int) -> int:
    """Walk within bounds of time and memory.

    Args:
        path: The file.
        seconds: Of processor time.

    Returns:
        Zero, or once the reason is printed ``REFUSED``, or ``BUSY`` if another process writes.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    most = MEMORY + 4 * os.stat(path).st_size
    try:
        with open("/proc/self/statm") as own:
            most += int(own.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    except OSError:  # elsewhere than on Linux memory is not bounded
        pass
    try:
        walk(path)
    except Exception as error:  # a damaged file fails anywhere inside the h5 library
        why = " ".join(str(error).split()) or type(error).__name__
        print(why.encode("ascii", "backslashreplace").decode()[:300])
        return BUSY if isinstance(error, BlockingIOError) else REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
