"""Members of zip files: every byte of the file is one's, and each is read to its checksum."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

RATIO = 1032  # of what deflate can hold to its bytes, at best
SLACK = 1 << 10
BLOCK = 1 << 20  # bytes read at a time
DESCRIPTORS = (12, 16, 20, 24)  # bytes that may follow a member that was written as a stream


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip file whose directory lists all that is in it, and claims no more.

    Raises:
        OSError: If it cannot be opened.
        ValueError: If members overlap, are missing in the directory, or claim more than their
            bytes can hold; if anything stands before, between or after them.
        zipfile.BadZipFile: If it is none.
    """
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        _check_end(file, archive)
        _check_members(file, archive)
        yield archive


def read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytearray:
    """A member, whole and with the checksum that the directory has; memory grows with it.

    Raises:
        ValueError: If it is not as long as the directory says.
        zipfile.BadZipFile: If its checksum is another.
    """
    data = bytearray()
    with archive.open(member) as file:
        while block := file.read(BLOCK):  # the end checks the checksum
            data += block
    if len(data) != member.file_size:
        raise ValueError(f"{member.filename[:80]!r} ends after {len(data)} bytes")
    return data


def _check_end(file: IO[bytes], archive: zipfile.ZipFile) -> None:
    comment = len(archive.comment)
    file.seek(-22 - comment, 2)
    end = file.read(22)
    if end[:4] != b"PK\5\6" or int.from_bytes(end[20:], "little") != comment:
        raise ValueError("something stands after its end")
    entries = int.from_bytes(end[10:12], "little")
    if entries not in (0xFFFF, len(archive.infolist())):
        raise ValueError(f"its directory has {len(archive.infolist())} of {entries} members")
    if len({member.filename for member in archive.infolist()}) < len(archive.infolist()):
        raise ValueError("two members have one name")


def _check_members(file: IO[bytes], archive: zipfile.ZipFile) -> None:
    members = sorted(archive.infolist(), key=lambda member: member.header_offset)
    ends = [*(member.header_offset for member in members), archive.start_dir]
    if ends[0] != 0:
        raise ValueError(f"{ends[0]} bytes stand before its first member")
    for member, next_start in zip(members, ends[1:], strict=True):
        name = repr(member.filename[:80])
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(
                f"{name} is packed by method {member.compress_type}, expected deflate"
            )
        packed, ratio = member.compress_size, RATIO if member.compress_type else 1
        if member.file_size > packed * ratio + (SLACK if ratio > 1 else 0):
            raise ValueError(f"{name} claims {member.file_size} bytes, but has {packed}")
        file.seek(member.header_offset)
        head = file.read(30)
        if len(head) < 30 or head[:4] != b"PK\3\4":
            raise ValueError(f"{name} does not start where the directory says")
        names = sum(struct.unpack("<HH", head[26:]))
        after = next_start - member.header_offset - 30 - names - packed
        if after and not (member.flag_bits & 8 and after in DESCRIPTORS):
            raise ValueError(f"{name} and what follows leave a gap or overlap by {after} bytes")
