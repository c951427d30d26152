"""Arrays of bytes in MATLAB's files of version 5 to 7, compressed or not."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator

import numpy as np

from ppl_models.data.store.stored_array import Array

HEADER = 128
ORDERS = {b"IM": "<", b"MI": ">"}
MATRIX, COMPRESSED, BYTES = 14, 15, 2  # types of elements
UINT8 = 9  # class of an array
COMPLEX = 8
RATIO = 1032  # of what deflate can hold to its bytes, at best


def array(data: bytes, name: str) -> Array:
    """The array of uint8 of a name; each compressed array of the file is read to its checksum.

    Args:
        data: The file.
        name: The variable.

    Raises:
        ValueError: If it is no such file or damaged, or has no such array of uint8.
        zlib.error: If a compressed array is damaged.
    """
    order = ORDERS.get(data[126:HEADER], "")
    if not order or struct.unpack(f"{order}H", data[124:126]) != (0x0100,):
        raise ValueError("it is no MATLAB file of version 5 to 7")
    found = {}
    for kind, content in _elements(memoryview(data)[HEADER:], order):
        if kind == COMPRESSED:
            kind, content = _inflated(content, order)
        if kind == MATRIX:
            parts = list(_elements(content, order))[:4]
            if len(parts) > 2 and (own := bytes(parts[2][1]).decode("latin1")) not in found:
                found[own] = parts
            elif len(parts) > 2:
                raise ValueError(f"it has two arrays {own[:80]!r}")
    if name not in found:
        raise ValueError(
            f"it has no array {name!r}, but {', '.join(map(repr, found))[:120] or 'none'}"
        )
    return _bytes(found[name], order)


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Type and content of each element; together they are all there is."""
    place = 0
    while place < len(data):
        if len(data) - place < 8:
            raise ValueError("it is cut short")
        kind, size = struct.unpack_from(f"{order}II", data, place)
        start = place + 8
        if kind >> 16:  # up to four bytes stand in the second half of the tag
            kind, size, start = kind & 0xFFFF, kind >> 16, place + 4
            if size > 4:
                raise ValueError(f"a short element claims {size} bytes")
            place = start + 4
        else:
            place = start + size + (0 if kind == COMPRESSED else -size % 8)
        if start + size > len(data):
            raise ValueError(f"an element claims {size} bytes, {len(data) - start} are left")
        yield kind, data[start : start + size]


def _inflated(content: memoryview, order: str) -> tuple[int, memoryview]:
    stream = zlib.decompressobj()
    tag = stream.decompress(content, 8)
    if len(tag) < 8:
        raise ValueError("a compressed array is cut short")
    kind, size = struct.unpack(f"{order}II", tag)
    if size > RATIO * len(content):
        raise ValueError(f"a compressed array claims {size} bytes, but has {len(content)}")
    inner = stream.decompress(stream.unconsumed_tail, size + 1)
    if len(inner) != size or not stream.eof or stream.unused_data:
        raise ValueError(f"a compressed array claims {size} bytes and has others")
    return kind, memoryview(inner)


def _bytes(parts: list[tuple[int, memoryview]], order: str) -> Array:
    if len(parts) < 4 or len(parts[0][1]) != 8 or len(parts[1][1]) % 4:
        raise ValueError("its array is no array of numbers")
    (_, flags), (_, sizes), _, (kind, content) = parts
    form = struct.unpack(f"{order}II", flags)[0]
    shape = struct.unpack(f"{order}{len(sizes) // 4}i", sizes)
    if form & 0xFF != UINT8 or form >> 8 & COMPLEX or kind != BYTES:
        raise ValueError(f"its array is of class {form & 0xFF}, expected {UINT8}, uint8")
    if len(shape) > 8 or min(shape, default=-1) < 0 or math.prod(shape) != len(content):
        raise ValueError(f"its array of shape {shape[:8]} has {len(content)} bytes")
    return np.frombuffer(content, np.uint8).reshape(shape, order="F")
