"""Shuffled minibatches of 700,000 images: from the h5 store, from memory, from a DataLoader.

    python benchmarks/data.py [--images 700000] [--kind grey28] [--memory 64] [--rounds 3]

- store: `Stream` over a table that `data.open` reads from the file, with a memory budget;
- memory: `Stream` over the same table in memory, as float32;
- loader0, loader2: a torch `DataLoader` with shuffle over the rows of the same file by h5py,
  with no and with two workers.

Each contender runs in processes of its own, in turn; a row gives its best rate and the memory
its process took on top of the imports. Kinds: grey28, grey images of 28 x 28; binary64, sprites
of 64 x 64. Where float32 images do not fit in memory, give `--in-memory` a smaller number.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import torch

from ppl_models import data
from ppl_models.data import Stream, Table

BATCH = 128
SIDES = {"grey28": 28, "binary64": 64}
CONTENDERS = ("memory", "store", "loader0", "loader2")


def blocks(kind, images, rows=4096):
    """Discs of random place and size, soft in grey images."""
    side = SIDES[kind]
    axis = np.arange(side, dtype=np.float32)
    rng = np.random.default_rng(0)
    for start in range(0, images, rows):
        n = min(rows, images - start)
        x, y = rng.uniform(side / 4, 3 * side / 4, (2, n, 1)).astype(np.float32)
        radius = rng.uniform(side / 12, side / 5, (n, 1, 1)).astype(np.float32)
        distance = np.sqrt(((axis - x) ** 2)[:, None] + ((axis - y) ** 2)[:, :, None])
        if kind == "binary64":
            image = distance <= radius
        else:
            noise = rng.integers(0, 40, (n, side, side), dtype=np.uint8)
            image = (255 * np.clip(radius + 2 - distance, 0, 2) / 2).astype(np.uint8)
            image = np.where(image > 40, image - noise, 0).astype(np.uint8)
        yield {"x": image, "y": np.arange(start, start + n) % 10}


def build(path, kind, images):
    began = time.perf_counter()
    made = data.Blocks(kind, blocks(kind, images), classes={"y": 10}, splits=(0.98, 0.01, 0.01))
    data.write(made, path)
    seconds = time.perf_counter() - began
    print(f"{images} images in {path.stat().st_size / 1e6:.0f} MB, written in {seconds:.0f} s")


class Rows(torch.utils.data.Dataset):
    """What one writes by hand: rows by h5py, one at a time."""

    def __init__(self, path):
        self.path, self.file = path, None
        with h5py.File(path) as file:
            self.rows = len(file["sites/y"])

    def __len__(self):
        return self.rows

    def __getitem__(self, row):
        if self.file is None:
            self.file = h5py.File(self.path)
        x = self.file["sites/x"][row]
        x = np.unpackbits(x) if len(x) == 512 else x / np.float32(255)
        return torch.from_numpy(x.astype(np.float32)), int(self.file["sites/y"][row, 0])


def batches(contender, path, memory, in_memory):
    if contender.startswith("loader"):
        workers = int(contender[-1])
        while True:
            loader = torch.utils.data.DataLoader(
                Rows(path), BATCH, shuffle=True, num_workers=workers, drop_last=True
            )
            yield from (x for x, _ in loader)
    table = data.open(path, memory=memory).train
    if contender == "memory":
        table = table.rows(torch.arange(min(in_memory, len(table))))
        x = torch.empty(table.sites["x"].shape)
        for start in range(0, len(x), 1 << 14):
            x[start : start + (1 << 14)] = table.sites["x"][start : start + (1 << 14)]
        table = Table("memory", {"x": x, "y": table.sites["y"]}, classes=table.classes)
    stream = Stream(table, BATCH, seed=0)
    step = 0
    while True:
        yield stream.step(step)[0]["x"]
        step += 1


def status(key):
    """A number of kilobytes that the kernel keeps of this process and those it started."""
    total = 0
    own = os.getpid()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            lines = (folder / "status").read_text().splitlines()
        except OSError:
            continue
        found = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        if own in (int(found["Pid"]), int(found["PPid"])) and key in found:
            total += int(found[key].split()[0])
    return total


def run(contender, path, memory, in_memory, seconds):
    torch.set_num_threads(1)
    before = status("VmRSS")
    source = batches(contender, path, memory, in_memory)
    next(source)
    began, rows, total = time.perf_counter(), 0, 0.0
    while (spent := time.perf_counter() - began) < seconds:
        for _ in range(1 if contender.startswith("loader") else 100):
            x = next(source)
            rows += len(x)
            total += float(x[0, 0])
    print(json.dumps({"rate": rows / spent, "peak": (status("VmHWM") - before) / 1024}))
    os._exit(0)  # workers of a loader that is not used up


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=700_000)
    parser.add_argument("--kind", choices=SIDES, default="grey28")
    parser.add_argument("--memory", type=int, default=64, help="budget of the store in MiB")
    parser.add_argument("--in-memory", type=int, default=700_000, help="images held in memory")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help="keep the file here, or use it again")
    options = parser.parse_args()
    if options.contender:
        memory = options.memory << 20
        run(options.contender, options.path, memory, options.in_memory, options.seconds)
    with tempfile.TemporaryDirectory() as folder:
        path = options.path or Path(folder) / "images.h5"
        if not path.exists():
            build(path, options.kind, options.images)
        best = {}
        for _ in range(options.rounds):
            for contender in CONTENDERS:
                command = [sys.executable, __file__, "--contender", contender, "--path", str(path)]
                for name in ("memory", "in_memory", "seconds"):
                    command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
                said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                found = json.loads(said.splitlines()[-1])
                known = best.setdefault(contender, found)
                known["rate"] = max(known["rate"], found["rate"])
                known["peak"] = max(known["peak"], found["peak"])
    print(f"| {options.kind}, batch {BATCH} | images / s | of in-memory | peak MiB |")
    print("|---|---|---|---|")
    for contender, found in best.items():
        ratio = found["rate"] / best["memory"]["rate"]
        print(f"| {contender} | {found['rate']:,.0f} | {ratio:.2f} | {found['peak']:,.0f} |")


if __name__ == "__main__":
    main()
