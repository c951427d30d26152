"""Peak memory of one training step of an M2 with 10, 100 and 1,000 label values.

    python benchmarks/memory.py [--chunk 10] [--out benchmarks/memory.json]

The M2 has data of 784, a code of 50, 64 hidden units and 32 unlabelled rows. Each cell is the
largest resident set of a fresh process over one step of `EnumeratedELBO` (forward and backward),
less that of the same process before it, in MiB; `chunk` sums that many label values per pass and
repeats each pass in the backward pass. Import and a step on two label values come first, so that
libraries and lazily made tables are not counted; glibc is told to give freed tensors back at once,
so that gaps between them are not counted either.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pyro
import torch

import ppl_models as zoo
from ppl_models.batch import Batch
from ppl_models.inference import EnumeratedELBO

VALUES = (10, 100, 1000)
ROWS, HIDDEN = 32, 64


def peak() -> float:
    """Largest resident set of this program so far, in MiB."""
    # getrusage would go on counting from the process that started this one.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def step(values: int, chunk: int) -> None:
    """One loss and its gradient."""
    pair = zoo.build("m2", classes=values, hidden=(HIDDEN,), likelihood="bernoulli")
    batch = Batch({"x": torch.rand(ROWS, 784).round()}, size=50_000)
    with pyro.validation_enabled(False):
        objective = EnumeratedELBO(chunk=chunk)
        objective.differentiable_loss(pair.model, pair.guide, batch).backward()


def measure(values: int, chunk: int) -> float:
    """MiB that a step takes in this process, which must be fresh."""
    torch.set_num_threads(1)
    step(2, min(chunk, 1))
    before = peak()
    step(values, chunk)
    return peak() - before


def in_fresh_process(values: int, chunk: int) -> float:
    """MiB of a step, measured in a process of its own."""
    command = [sys.executable, __file__, "--one", str(values), str(chunk)]
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout
    return float(json.loads(out))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunk", type=int, default=10)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--one", type=int, nargs=2, metavar=("VALUES", "CHUNK"), default=None)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(*args.one)))
        return
    rows = []
    print(f"{'label values':>12} {'at once MiB':>12} {f'chunk={args.chunk} MiB':>14}")
    for values in VALUES:
        mib = {chunk: in_fresh_process(values, chunk) for chunk in (0, args.chunk)}
        rows.append(
            {"values": values, "at_once": mib[0], "chunk": args.chunk, "mib": mib[args.chunk]}
        )
        print(f"{values:12d} {mib[0]:12.0f} {mib[args.chunk]:14.0f}", flush=True)
    if args.out:
        args.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
