"""A sparse h5ad file that is larger than its memory: peak memory against cells, and reading speed.

    python benchmarks/cells.py [--cells 25000 50000 100000] [--memory 64]

The files have 1,200 genes, a tenth of them caught in a cell on average, as CSR. They are made in
a temporary folder, some cells at a time. Each line is fresh processes: one loads the file with a
memory budget, which looks at every value once, and takes one epoch of shuffled batches of 128;
the other reads it whole, as dense float32. Peak memory is on top of the imports and of a file of
2,000 cells that was read before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from ppl_models import data

GENES, CAUGHT, ROWS, BATCH = 1_200, 0.1, 5_000, 128


def build(path: Path, cells: int) -> None:
    """A file of counts, written by appending."""
    draw = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        group.attrs["encoding-type"], group.attrs["shape"] = "csr_matrix", (cells, GENES)
        kinds = {"data": np.float32, "indices": np.int32}
        stored = {
            name: group.create_dataset(name, (0,), kind, maxshape=(None,), chunks=(1 << 16,))
            for name, kind in kinds.items()
        }
        starts = np.zeros(cells + 1, np.int64)
        for first in range(0, cells, ROWS):
            there = draw.random((min(ROWS, cells - first), GENES)) < CAUGHT
            there[:, 0] = True
            ends = starts[first] + there.sum(1).cumsum()
            starts[first + 1 : first + 1 + len(there)] = ends
            values = {"indices": there.nonzero()[1], "data": 1 + draw.poisson(1, there.sum())}
            for name, array in stored.items():
                array.resize((ends[-1],))
                array[starts[first] :] = values[name]
        group["indptr"] = starts
        for table, count in (("obs", cells), ("var", GENES)):
            names = np.char.add(table, np.arange(count).astype(str)).astype("S")
            file[f"{table}/_index"] = names
            file[table].attrs["_index"] = "_index"


def peak() -> float:
    """Largest resident set of this program so far, in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure(folder: Path, cells: int, memory: int) -> dict[str, float]:
    """Seconds and MiB of one file, in this process, which must be fresh."""
    options = {"splits": (1.0, 0.0, 0.0), "library": "library"}
    if memory:
        options["memory"] = memory << 20
    small = data.load(str(folder / "2000.h5ad"), **{**options, "memory": 4 << 20})
    data.Stream(small.train, BATCH).step(0)
    before, began = peak(), time.perf_counter()
    if not memory:
        options["memory"] = 1 << 40
    rows = data.load(str(folder / f"{cells}.h5ad"), **options).train
    loaded, stream = time.perf_counter(), data.Stream(rows, BATCH, seed=0)
    steps = len(rows) // BATCH
    total = sum(float(stream.step(step)[0]["x"].sum()) for step in range(steps))
    done = time.perf_counter()
    assert total > 0
    return {
        "load_s": loaded - began,
        "cells_per_s": steps * BATCH / (done - loaded),
        "mib": peak() - before,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, nargs="+", default=[25_000, 50_000, 100_000])
    parser.add_argument("--memory", type=int, default=64, help="MiB that the stream may hold")
    parser.add_argument("--one", nargs=3, default=None)
    args = parser.parse_args()
    if args.one:
        folder, cells, memory = args.one
        print(json.dumps(measure(Path(folder), int(cells), int(memory))))
        return
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder) / "2000.h5ad", 2_000)
        for cells in args.cells:
            path = Path(folder) / f"{cells}.h5ad"
            build(path, cells)
            for memory in (args.memory, 0):
                command = [sys.executable, __file__, "--one", folder, str(cells), str(memory)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found = json.loads(done.stdout)
                told = f"{memory} MiB" if memory else "whole"
                print(
                    f"{cells:8d} cells, {path.stat().st_size >> 20} MiB on disk, {told:>8}: "
                    f"load {found['load_s']:.1f} s, {found['cells_per_s']:,.0f} cells / s, "
                    f"peak {found['mib']:.0f} MiB",
                    flush=True,
                )
            path.unlink()


if __name__ == "__main__":
    main()
