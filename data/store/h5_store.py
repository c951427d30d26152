"""The store: one h5 file per data set, written in blocks, checked whenever it is read.

Layout: ``sites/NAME``, ``masks/NAME``, ``splits/PART`` and ``numbers`` are arrays in blocks of
rows; ``checksums/...`` holds a CRC-32 per block of each; ``header`` is JSON that says how the
arrays are read, what the set is and how it was made, with a SHA-256 of every array and of its
checksums; the attribute ``sha256`` is the header's. So each byte that counts is covered.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from ppl_models.data.store.checked_h5 import check, opened, trust
from ppl_models.data.store.h5_writer import Writer
from ppl_models.data.store.row_blocks import Blocks, of_dataset
from ppl_models.data.store.stored_array import Array, OpenFile, Stored, stored_type, stored_width
from ppl_models.data.tables.lazy_column import Column
from ppl_models.data.tables.recipe import assemble
from ppl_models.data.tables.splits import PARTS
from ppl_models.data.tables.table import Dataset, Table
from ppl_models.files import write_atomically
from ppl_models.full_disk import Disk
from ppl_models.version import __version__

FORMAT = "ppl-models data 1"
FIELDS: dict[str, Any] = {  # of the header, and their types
    "name": str,
    "version": str,
    "seed": int,
    "recipe": dict | None,
    "roles": dict,
    "arrays": dict,
}
MEMORY = 256 << 20  # bytes
WRITING = threading.Lock()


def write(data: Dataset | Blocks, path: str | Path, compress: bool = False) -> Path:
    """Write a data set to an h5 file, block by block.

    What is read back equals what was written, bit by bit. Hidden values are not written. The
    file appears under its name once it is complete.

    Args:
        data: The data set, or its rows block by block.
        path: The file; one of that name is replaced.
        compress: Compress grey images and floats, too, with gzip. The file is then smaller
            (MNIST: 5 times), and rows are read at a half of the rate. Binary images and labels
            are always compressed: that is smaller and as fast.

    Returns:
        The path.

    Raises:
        OSError: If it cannot be written, naming the path; nothing is left behind.
        ValueError: If the rows do not fit together, naming block, site and row.
    """
    path = Path(path)
    blocks = of_dataset(data) if isinstance(data, Dataset) else data

    def into(temporary: Path) -> None:
        with Disk(temporary) as disk:
            with h5py.File(disk, "w", libver="v110") as file:
                _header(file, blocks, Writer(file, blocks, compress, disk.check).write())
            disk.check()

    with WRITING:  # temporary names tell processes apart, not threads
        write_atomically(path, into)
    trust(path)
    return path


def _header(file: h5py.File, blocks: Blocks, arrays: dict[str, dict[str, Any]]) -> None:
    header = {
        "format": FORMAT,
        "version": __version__,
        "name": blocks.name,
        "seed": blocks.seed,
        "recipe": blocks.recipe,
        "roles": dict(blocks.roles),
        "columns": {site: list(names) for site, names in blocks.columns.items()},
        "units": dict(blocks.units),
        "row_names": None if blocks.row_names is None else list(blocks.row_names),
        "arrays": arrays,
    }
    data = json.dumps(header).encode()
    file.create_dataset("header", data=np.frombuffer(data, np.uint8), track_times=False)
    file.attrs["sha256"] = hashlib.sha256(data).hexdigest()


def open(path: str | Path, memory: int = MEMORY) -> Dataset:
    """A data set from a file of :func:`write`.

    Labels, masks and what else has one value per row are read at once; vectors are read when
    they are asked for. A file may be read by several processes and threads at a time.

    Args:
        path: The file.
        memory: Bytes that a stream of its vectors holds at most (see
            :class:`ppl_models.data.Stream`), on top of labels and masks.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or no such file, now or when the damaged rows are read,
            naming file and array.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, expected an h5 file of data.write")
    with _whole(path, "the file"):
        handle = OpenFile(str(path))
        check(path)
        file = h5py.File(path, "r", locking="best-effort")
    with file:
        header = _read_header(path, file)
        stored = {
            name: _array(path, file, name, how, handle, memory)
            for name, how in header["arrays"].items()
        }
    _check_memory(path, stored, memory)
    with _whole(path, "'header'"):
        return _dataset(path, header, stored)


def _dataset(path: Path, header: dict[str, Any], stored: Mapping[str, Stored]) -> Dataset:
    numbers = _all(stored["numbers"])
    sites: dict[str, Any] = {}
    for name, array in _group(stored, "sites/"):
        lazy = array.dtype.is_floating_point and len(array.shape) > 1
        sites[name] = Column(array) if lazy else _all(array)
    arrays = header["arrays"]
    shapes = {s: arrays[f"sites/{s}"]["image"] for s in sites if arrays[f"sites/{s}"]["image"]}
    classes = {
        s: arrays[f"sites/{s}"]["classes"] for s in sites if not sites[s].is_floating_point()
    }
    masks = {name: _all(array) for name, array in _group(stored, "masks/")}
    whole = Table(
        header["name"],
        sites,
        masks,
        numbers,
        classes,
        shapes,
        # Files of earlier versions have none.
        **{what: header.get(what) for what in ("columns", "units", "row_names")},
    )
    tables = [
        whole.part(f"{header['name']}/{part}", _all(stored[f"splits/{part}"])) for part in PARTS
    ]
    recipe = header["recipe"] or {
        "name": os.path.abspath(path),
        "options": {},
        "seed": header["seed"],
        "version": header["version"],
        "digest": hashlib.sha256(json.dumps(arrays).encode()).hexdigest(),
    }
    train, validation, test = tables
    return Dataset(header["name"], train, validation, test, recipe, header["roles"])


def is_stored(path: str | Path) -> bool:
    """Whether a file is one of :func:`write`, or damaged such that this cannot be told."""
    try:
        with opened(path) as file:
            return "header" in file
    except (OSError, ValueError):
        return True


def load_file(
    path: str, labelled: int | None = None, memory: int = MEMORY, seed: int = 0
) -> Dataset:
    """A data set from a file of :func:`write`; see :func:`open`.

    Args:
        path: The file.
        labelled: Training rows that keep their label, balanced over the classes; all that the
            file has if None.
        memory: Bytes that a stream of its vectors holds at most.
        seed: Seed of the labels that are kept.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, naming file and array, or has too few labels.
    """
    whole = open(path, memory)
    tables = whole.train, whole.validation, whole.test
    options = {"memory": memory}
    made = assemble(
        whole.name, *tables, labelled=labelled, seed=seed, options=options, source=str(path)
    )
    return dataclasses.replace(made, roles=whole.roles)


@contextmanager
def _whole(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # a damaged file fails anywhere inside the h5 library
        if str(error).startswith(f"{path} "):
            raise
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(
            f"{path} is damaged, or no file of data.write: cannot read {what} ({why}); copy or "
            "build the file again"
        ) from None


def _read_header(path: Path, file: h5py.File) -> dict[str, Any]:
    with _whole(path, "'header'"):
        data = _small(file["header"]).tobytes()
        if hashlib.sha256(data).hexdigest() != file.attrs["sha256"]:
            raise ValueError("its checksum differs")
        header: dict[str, Any] = json.loads(data)
        if header["format"] != FORMAT:
            raise ValueError(
                f"{path} has format {str(header['format'])[:80]!r}, expected {FORMAT!r}"
            )
        for name, kind in FIELDS.items():
            if not isinstance(header[name], kind):
                raise ValueError(f"its {name} is {str(header[name])[:80]!r}")
    return header


def _small(array: h5py.Dataset) -> Array:
    # Never allocate what a damaged header claims.
    if array.nbytes > Path(array.file.filename).stat().st_size:
        raise ValueError(f"it claims {array.nbytes} bytes, more than the file has")
    values: Array = array[()]
    return values


def _array(
    path: Path,
    file: h5py.File,
    name: str,
    how: Mapping[str, Any],
    handle: OpenFile,
    memory: int,
) -> Stored:
    with _whole(path, f"array {name!r}"):
        _check_form(how)
        rows, block = how["shape"][0], how["block"]
        array = file[name]
        width = stored_width(how["encoding"], tuple(how["shape"][1:]))
        if array.shape != (rows, width) or array.dtype != stored_type(how["encoding"]):
            raise ValueError(
                f"it is {array.dtype} of shape {array.shape}, expected "
                f"{stored_type(how['encoding'])} of shape {(rows, width)}"
            )
        places = _places(array, block)
        checksums = _small(file[f"checksums/{name}"])
        if checksums.shape != (len(places),) or checksums.dtype != np.uint32:
            raise ValueError("its checksums have another shape")
        if hashlib.sha256(checksums.tobytes()).hexdigest() != how["checksums"]:
            raise ValueError("its checksums are not what was written")
    return Stored(
        name=name,
        file=handle,
        encoding=how["encoding"],
        shape=tuple(how["shape"]),
        divisor=how["divisor"],
        block=block,
        places=places,
        checksums=checksums,
        digest=hashlib.sha256(json.dumps(how).encode()).hexdigest(),
        memory=memory,
    )


def _check_form(how: Mapping[str, Any]) -> None:
    # The checksums tell what was changed, not who wrote it.
    sizes = [how["block"], *how["shape"]]
    if not all(type(size) is int and size >= 0 for size in sizes) or not how["block"]:
        raise ValueError(f"its sizes are {str(sizes)[:80]}")
    if stored_type(how["encoding"]).kind not in "biuf":
        raise ValueError(f"it is of {how['encoding'][:80]}, expected numbers")
    if type(how["divisor"]) not in (int, float) or not how["divisor"]:
        raise ValueError(f"its values are divided by {str(how['divisor'])[:80]}")


def _places(array: h5py.Dataset, block: int) -> Array:
    count = math.ceil(array.shape[0] / block)
    if array.chunks != (block, array.shape[1]):
        raise ValueError(f"it has blocks {array.chunks}, expected {(block, array.shape[1])}")
    if count != array.id.get_num_chunks():
        raise ValueError("blocks are missing")
    places = np.full((count, 3), -1, dtype=np.int64)

    def note(chunk: Any) -> None:
        number = chunk.chunk_offset[0] // block
        packed = array.compression == "gzip" and not chunk.filter_mask & 1
        places[number] = chunk.byte_offset, chunk.size, packed

    array.id.chunk_iter(note)
    if (places < 0).any() or (places[:, 1] > 2 * block * array.shape[1] * 8 + 1024).any():
        raise ValueError("blocks are missing")
    return places


def _check_memory(path: Path, stored: Mapping[str, Stored], memory: int) -> None:
    widest = sum(a.block * a.row_bytes for n, a in stored.items() if n.startswith("sites/"))
    if memory < 4 * widest:
        raise ValueError(
            f"memory is {memory} bytes, expected at least {4 * widest} for {path}: four blocks"
        )


def _group(stored: Mapping[str, Stored], prefix: str) -> Iterator[tuple[str, Stored]]:
    for name, array in stored.items():
        if name.startswith(prefix):
            yield name.removeprefix(prefix), array


def _all(array: Stored) -> Tensor:
    return array.read(torch.arange(array.shape[0]))
