"""The file of a run's state: written with a checksum, read without running or reserving anything.

It is torch's own archive, with a comment at its end that holds the SHA-256 of all the rest.
"""

from __future__ import annotations

import hashlib
import io
import pickletools
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppl_models.files import write_atomically
from ppl_models.inference.training.folder_lock import RunFolderError

STATE = "state.pt"
FORMAT = 2  # the first without checksum had none
MARK = b"sha256:"
COMMENT = len(MARK) + 2 * hashlib.sha256().digest_size
# All that the pickle inside may call for: a state is tensors, and plain values around them.
KNOWN = re.compile(
    r"torch\._utils _rebuild_tensor_v2|collections OrderedDict|torch [A-Z]\w*Storage"
)


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write weights, optimiser, random state and history as one file."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    data = buffer.getvalue()
    # The last two bytes of an archive say how long its comment is.
    told = MARK + hashlib.sha256(data).hexdigest().encode()
    data = data[:-2] + struct.pack("<H", len(told)) + told
    write_atomically(folder / STATE, lambda path: _write(path, data))


def read_state(folder: Path) -> dict[str, Any]:
    """Read the state.

    Its tensors lie in the file until they are used. What it claims to hold is compared with
    what it holds before that is read, and only tensors and plain values are.

    Raises:
        RunFolderError: If it is missing or damaged, naming it.
    """
    path = folder / STATE
    if not path.exists():
        raise RunFolderError(f"{folder} holds no weights yet, expected a {STATE} in it")
    try:
        checked = _check(path)
        state = torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
        model = state.get("model") if isinstance(state, dict) else None
        if not isinstance(model, dict) or not all(isinstance(v, Tensor) for v in model.values()):
            raise ValueError("it holds no weights")
        if state.get("format", 1) != 1 and not checked:
            raise ValueError("it lacks its checksum")
    except Exception as error:  # torch raises many kinds for a damaged archive
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunFolderError(f"{path} is damaged: {reason}") from None
    return dict(state)


def _check(path: Path) -> bool:
    """Compare a file with its checksum, and with the sizes it claims; whether it has the one."""
    data = path.read_bytes()
    told = data[-COMMENT:]
    checked = told.startswith(MARK)
    if checked:
        rest = data[: -COMMENT - 2] + b"\0\0"
        if hashlib.sha256(rest).hexdigest() != told[len(MARK) :].decode(errors="replace"):
            raise ValueError("its checksum differs")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        # Tensors are stored as they are: what is packed could be larger than any memory.
        if any(m.compress_type or m.file_size != m.compress_size for m in members):
            raise ValueError("it has packed members, expected stored ones")
        if sum(m.file_size for m in members) > len(data):
            raise ValueError("its members claim to be larger than the file")
        if len({m.filename for m in members}) < len(members):
            raise ValueError("it has two members of one name")
        if not checked and (broken := archive.testzip()) is not None:
            raise ValueError(f"its member {broken} has another checksum")
        (pickle,) = (m for m in members if m.filename.endswith("/data.pkl"))
        for code, argument, _ in pickletools.genops(archive.read(pickle)):
            if code.name == "GLOBAL" and not KNOWN.fullmatch(str(argument)):
                raise ValueError(f"it names {argument}, expected tensors and plain values")
            if code.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4", "BYTEARRAY8"):
                raise ValueError(f"it holds a {code.name}, expected tensors and plain values")
    return checked


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
