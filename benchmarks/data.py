"""Shuffled minibatches of 700,000 images: from the h5 store, from memory, from a DataLoader.

    python benchmarks/data.py [--images 700000] [--kind grey28] [--memory 64] [--turns 20]

- store: `Stream` over a table that `data.open` reads from the file, with a memory budget;
- memory: `Stream` over the same table in memory, as float32;
- loader0, loader2: a torch `DataLoader` with shuffle over the rows of the same file by h5py,
  with no and with two workers.

Each contender runs in a process of its own, and they take turns of a second, so that whatever
else runs on the machine slows all of them down. A row gives the median rate over the turns, the
median ratio to the turn in memory beside it, the processor time per image (of all threads and
workers) and the memory the process took on top of the imports. Kinds: grey28, grey images of
28 x 28; binary64, sprites of 64 x 64. Where float32 images do not fit in memory, give
`--in-memory` a smaller number.
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


def used():
    """Seconds of processor time of this process and of the workers it has."""
    total = time.process_time()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == os.getpid():
                total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def serve(contender, path, memory, in_memory, seconds):
    """One turn for each line of standard input."""
    torch.set_num_threads(1)
    before = status("VmRSS")
    source = batches(contender, path, memory, in_memory)
    next(source)
    print("ready", flush=True)
    for _ in sys.stdin:
        rows, checked, cpu, began = 0, 0.0, used(), time.perf_counter()
        while (spent := time.perf_counter() - began) < seconds:
            for _ in range(1 if contender.startswith("loader") else 50):
                x = next(source)
                rows += len(x)
                checked += float(x[0, 0])
        time.sleep(0.1)  # what was begun to be read ahead counts in this turn, not in the next
        turn = {"rate": rows / spent, "cpu": (used() - cpu) / rows}
        print(json.dumps(turn | {"peak": (status("VmHWM") - before) / 1024}), flush=True)
    os._exit(0)  # workers of a loader that is not used up


def started(contender, path, options):
    command = [sys.executable, __file__, "--contender", contender, "--path", str(path)]
    for name in ("memory", "in_memory", "seconds"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    process.stdout.readline()
    return process


def turn(process):
    process.stdin.write("\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=700_000)
    parser.add_argument("--kind", choices=SIDES, default="grey28")
    parser.add_argument("--memory", type=int, default=64, help="budget of the store in MiB")
    parser.add_argument("--in-memory", type=int, default=700_000, help="images held in memory")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=1, help="of a turn")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help="keep the file here, or use it again")
    options = parser.parse_args()
    if options.contender:
        memory = options.memory << 20
        serve(options.contender, options.path, memory, options.in_memory, options.seconds)
    with tempfile.TemporaryDirectory() as folder:
        path = options.path or Path(folder) / "images.h5"
        if not path.exists():
            build(path, options.kind, options.images)
        running = {name: started(name, path, options) for name in options.contenders}
        turns = [{n: turn(p) for n, p in running.items()} for _ in range(options.turns)]
        for process in running.values():
            process.stdin.close()
            process.wait()
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors")
    print(f"| {options.kind}, batch {BATCH} | images / s | of in-memory | us CPU | peak MiB |")
    print("|---|---|---|---|---|")
    for name in options.contenders:
        rate, cpu, peak = (np.median([t[name][k] for t in turns]) for k in ("rate", "cpu", "peak"))
        ratio = np.median([t[name]["rate"] / t["memory"]["rate"] for t in turns])
        print(f"| {name} | {rate:,.0f} | {ratio:.2f} | {1e6 * cpu:.2f} | {peak:,.0f} |")


if __name__ == "__main__":
    main()
