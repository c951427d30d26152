"""Writing blocks of rows into an h5 file, each with its checksum."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from ppl_models.data.store.row_blocks import Blocks
from ppl_models.data.store.stored_array import Array, stored_type, stored_width
from ppl_models.data.tables.splits import PARTS, split
from ppl_models.elements import THERE

BLOCK_BYTES = 1 << 18  # of the vectors of a block of rows, before compression
MOST_ROWS = 1 << 14  # of a block
LEVEL = 1  # of gzip: on binary images, level 4 packs 25 % smaller but five times slower
WORTH = 0.9  # compression that saves less than a tenth is left out


class Writer:
    """Writes the arrays of a file and says how each is read.

    Args:
        file: An empty file.
        source: The rows.
        compress: Compress bytes and floats, too, not bits and labels alone.
        check: Raises an ``OSError`` if the disk could not take what was written.
    """

    def __init__(
        self, file: h5py.File, source: Blocks, compress: bool, check: Callable[[], None]
    ) -> None:
        self.file, self.source, self.compress, self.check = file, source, compress, check
        self.forms: dict[str, dict[str, Any]] = {}  # of each site, from the first block
        self.block = 0
        self.rows = 0
        self.checksums: dict[str, list[int]] = {}
        self.digests: dict[str, Any] = {}  # of each array, so far
        self.masks: dict[str, list[Array]] = {}
        self.labels: list[Array] = []  # of the first label site, to stratify by

    def write(self) -> dict[str, dict[str, Any]]:
        """Write all arrays.

        Returns:
            How each is read, by name.

        Raises:
            ValueError: If the rows do not fit together, naming block, site and row.
        """
        source = self.source
        for site in source.classes:
            source.class_names(site)  # checks them
        self.file.create_group("checksums", track_times=False)
        for above in ("", "checksums/"):
            for group in ("sites", "masks", "splits"):
                self.file.create_group(above + group, track_times=False)
        for rows in self._whole_blocks():
            for site, array in rows.items():
                self._append(f"sites/{site}", array)
        if not self.rows:
            raise ValueError(f"{source.name} has no rows, expected at least one")
        arrays = {f"sites/{site}": form for site, form in self.forms.items()}
        for site, parts in self.masks.items():
            mask = np.concatenate(parts)
            if not mask.all():
                arrays[f"masks/{site}"] = self._flat(f"masks/{site}", mask, "bool")
        arrays["numbers"] = self._flat("numbers", self._numbers(), "int64")
        for part, index in self._splits().items():
            arrays[f"splits/{part}"] = self._flat(f"splits/{part}", index, "int64")
        for name, how in arrays.items():
            sums = np.array(self.checksums[name], np.uint32)
            self.file.create_dataset(f"checksums/{name}", data=sums, track_times=False)
            how["shape"] = [self.file[name].shape[0], *how.pop("row")]
            how["checksums"] = hashlib.sha256(sums.tobytes()).hexdigest()
            how["sha256"] = self.digests[name].hexdigest()
        return arrays

    def _whole_blocks(self) -> Iterator[dict[str, Array]]:
        """Encoded rows, ``self.block`` of them at a time, the last time fewer."""
        held: dict[str, Array] = {}
        for number, given in enumerate(self.source.blocks):
            encoded = self._encode(number, given)
            held = {s: np.concatenate((held[s], a)) if held else a for s, a in encoded.items()}
            count = len(next(iter(held.values())))
            for start in range(0, count - self.block + 1, self.block):
                yield {s: a[start : start + self.block] for s, a in held.items()}
            held = {s: a[count // self.block * self.block :] for s, a in held.items()}
        if held and len(next(iter(held.values()))):
            yield held

    def _encode(self, number: int, given: Mapping[str, Any]) -> dict[str, Array]:
        where = f"block {number} of {self.source.name}"
        pairs = {
            site: value if isinstance(value, tuple) else (value, None)
            for site, value in given.items()
        }
        sites = {site: (_array(value), mask) for site, (value, mask) in pairs.items()}
        if not sites:
            raise ValueError(f"{where} has no sites, expected at least one")
        if not self.forms:
            self._plan(where, {site: array for site, (array, _) in sites.items()})
        if sites.keys() != self.forms.keys():
            raise ValueError(f"{where} has sites {sorted(sites)}, expected {sorted(self.forms)}")
        counts = {site: len(array) for site, (array, _) in sites.items()}
        rows = next(iter(counts.values()))
        encoded = {}
        for site, (array, mask) in sites.items():
            if counts[site] != rows:
                raise ValueError(
                    f"{where}: site {site!r} has {counts[site]} rows, expected {rows}"
                )
            seen = np.ones(rows, bool) if mask is None else np.asarray(mask)
            if seen.dtype != bool or seen.shape != (rows,):
                raise ValueError(
                    f"{where}: the mask of site {site!r} has type {seen.dtype} and shape "
                    f"{seen.shape}, expected bool and ({rows},)"
                )
            encoded[site] = self._site(f"{where}, site {site!r}", site, array, seen)
        self.rows += rows
        return encoded

    def _plan(self, where: str, sites: Mapping[str, Array]) -> None:
        source = self.source
        for what in ("classes", "shapes", "divisors", "roles", "columns", "units"):
            for site in getattr(source, what):
                if site not in sites:
                    raise ValueError(
                        f"{where} lacks site {site!r} of {what}; it has {sorted(sites)}"
                    )
        for site, array in sites.items():
            label, kind = site in source.classes, array.dtype.kind
            if not label and not (kind in "bf" or array.dtype == np.uint8):
                raise ValueError(
                    f"{where}: site {site!r} has type {array.dtype}, expected bool, uint8 or "
                    f"floats, or its class names in classes"
                )
            if label and kind not in "iub":
                raise ValueError(
                    f"{where}: site {site!r} has type {array.dtype}, expected labels of an "
                    "integer type, since it has classes"
                )
            encoding = (
                "int64" if label
                else "bits" if kind == "b"
                else "uint8" if kind == "u"
                else "float64" if array.dtype.itemsize == 8
                else "float32"
            )  # fmt: skip
            image = list(source.shapes.get(site, ()))
            # A set is no image: its elements stay apart, beside what says which there are.
            if not label and array.ndim > 2 and site + THERE not in sites:
                image = image or list(array.shape[1:])
                array = array.reshape(len(array), -1)
            self.forms[site] = {
                "encoding": encoding,
                "row": list(array.shape[1:]),
                "divisor": source.divisors.get(site, 255) if encoding == "uint8" else 1,
                "image": image,
                "classes": source.class_names(site) if label else None,
            }
        widest = sum(
            stored_width(f["encoding"], tuple(f["row"])) * stored_type(f["encoding"]).itemsize
            for f in self.forms.values()
            if f["encoding"] != "int64"
        )
        self.block = max(1, min(MOST_ROWS, BLOCK_BYTES // max(1, widest)))
        for form in self.forms.values():
            form["block"] = self.block

    def _site(self, where: str, site: str, array: Array, seen: Array) -> Array:
        """Rows of a site as they are stored ``(n, width)``, hidden ones blank."""
        form = self.forms[site]
        encoding, row = form["encoding"], tuple(form["row"])
        label = encoding == "int64"
        wanted = {"bits": "b", "uint8": "u", "int64": "iub"}.get(encoding, "f")
        if array.dtype.kind not in wanted or int(np.prod(array.shape[1:])) != int(np.prod(row)):
            raise ValueError(
                f"{where} has type {array.dtype} and rows of shape {array.shape[1:]}, but the "
                f"first block {encoding} and {row}"
            )
        rows = array.reshape(len(array), -1)
        if label:
            rows = rows.astype(np.int64)
            seen = seen & (rows != -1).all(1)
            most = len(form["classes"])
            bad = ((rows < 0) | (rows >= most)) & seen[:, None]
            expected = f"a label in 0..{most - 1}, or -1 if missing"
        elif encoding.startswith("float"):
            bad = ~np.isfinite(rows) & seen[:, None]
            expected = "a finite number"
        else:
            bad, expected = np.zeros((1, 1), bool), ""
        if bad.any():
            place, column = np.argwhere(bad)[0]
            raise ValueError(
                f"{where}, row {self.rows + place}, column {column}: got {rows[place, column]}, "
                f"expected {expected}"
            )
        self.masks.setdefault(site, []).append(seen)
        rows = np.where(seen[:, None], rows, -1 if label else np.zeros((), rows.dtype))
        if label and site == next(iter(self.source.classes)) and not row:
            self.labels.append(rows[:, 0])
        return (
            np.packbits(rows, axis=1) if encoding == "bits" else rows.astype(encoding, copy=False)
        )

    def _append(self, name: str, rows: Array) -> None:
        rows = np.ascontiguousarray(rows)
        if name not in self.file:
            self._create(name, rows)
        array, start = self.file[name], self.file[name].shape[0]
        array.resize(start + len(rows), axis=0)
        array[start:] = rows
        self.check()
        self.checksums[name].append(zlib.crc32(rows.data))
        self.digests[name].update(rows)

    def _create(self, name: str, rows: Array) -> None:
        """An array of no rows yet, such as these."""
        form = self.forms.get(name.removeprefix("sites/"), {})
        kept = form.get("encoding", "int64") not in ("bits", "int64") and not self.compress
        worth = not kept and len(zlib.compress(rows.data, LEVEL)) < WORTH * rows.nbytes
        self.file.create_dataset(
            name,
            (0, rows.shape[1]),
            rows.dtype,
            chunks=(self.block, rows.shape[1]),
            maxshape=(None, rows.shape[1]),
            compression="gzip" if worth else None,
            compression_opts=LEVEL if worth else None,
            track_times=False,  # equal sets make equal files
        )
        self.checksums[name] = []
        self.digests[name] = hashlib.sha256()

    def _flat(self, name: str, values: Array, encoding: str) -> dict[str, Any]:
        for start in range(0, len(values), self.block):
            self._append(name, values[start : start + self.block, None])
        if not len(values):
            self._create(name, values[:, None].astype(np.int64))
        return {"encoding": encoding, "row": [], "divisor": 1, "block": self.block}

    def _numbers(self) -> Array:
        given = self.source.numbers
        numbers = np.arange(self.rows) if given is None else _array(given).astype(np.int64)
        if numbers.shape != (self.rows,):
            raise ValueError(
                f"numbers of {self.source.name} have shape {numbers.shape}, "
                f"expected ({self.rows},)"
            )
        values, times = np.unique(numbers, return_counts=True)
        if (times > 1).any():
            raise ValueError(
                f"{self.source.name} has two rows of number {values[times > 1][0]}, expected one"
            )
        return numbers

    def _splits(self) -> dict[str, Array]:
        source = self.source
        if not isinstance(source.splits, Mapping):
            return self._drawn()
        if set(source.splits) != set(PARTS):
            raise ValueError(
                f"splits of {source.name} are {sorted(source.splits)}, expected {sorted(PARTS)}"
            )
        splits = {part: _array(source.splits[part]).astype(np.int64) for part in PARTS}
        times = np.zeros(self.rows, np.int64)
        for part, index in splits.items():
            if len(index) and (index.min() < 0 or index.max() >= self.rows):
                raise ValueError(
                    f"split {part!r} of {source.name} has rows {index.min()}..{index.max()}, "
                    f"expected some of 0..{self.rows - 1}"
                )
            np.add.at(times, index, 1)
        if (times > 1).any():
            row = int(np.argmax(times > 1))
            raise ValueError(f"row {row} of {source.name} is in the splits twice, expected once")
        return splits

    def _drawn(self) -> dict[str, Array]:
        complete = np.ones(self.rows, bool)
        for parts in self.masks.values():
            complete &= np.concatenate(parts)
        rows = np.flatnonzero(complete)
        labels = torch.from_numpy(np.concatenate(self.labels)[rows]) if self.labels else None
        shares: tuple[Any, ...] = tuple(self.source.splits)
        if len(shares) != 3:
            raise ValueError(f"splits are {shares}, expected three: training, validation, test")
        parts = [rows[p.numpy()] for p in split(len(rows), shares, self.source.seed, labels)]
        parts[0] = np.sort(np.concatenate((parts[0], np.flatnonzero(~complete))))
        return dict(zip(PARTS, parts, strict=True))


def _array(values: Any) -> Array:
    array: Array = (
        values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    )
    return array
