"""Many damaged files, counted by what their readers make of them: run by hand.

    cd tests && python -m worlds.mutated_runs --mutations 2000 [--targets own]

Each target has a process of its own, in which one damaged file after another is read, so that
crashes, hangs and the memory of each are seen.
"""

from __future__ import annotations

import argparse
import collections
import json
import select
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from worlds import mutations, run_files
from worlds.mutations import KINDS, Target, mutated, verdict

TARGETS = mutations.TARGETS | {
    name: Target(
        lambda folder, name=name: run_files.make(folder / "run") / name,
        lambda folder, name=name: run_files.read(folder / "run", name),
        name != "posterior.nc",
    )
    for name in run_files.NAMES
}
HANG = 10  # seconds
MEMORY = 200 << 20  # bytes on top of ten times the file


def high_water() -> int:
    """Most memory of this process since it was asked last, in bytes."""
    status = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")
    return int(status.split("VmHWM:")[1].split()[0]) << 10


def child(name: str, start: int, end: int, seed: int) -> None:
    """Read damaged files and say a line of JSON for each."""
    warnings.simplefilter("ignore")
    target = TARGETS[name]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        path = target.make(folder)
        content, expected = path.read_bytes(), target.read(folder)
        for number in range(start, end):
            rng = np.random.default_rng([seed, number])
            kind = KINDS[number % len(KINDS)]
            path.write_bytes(damaged := mutated(content, kind, rng))
            before, began = high_water() and high_water(), time.monotonic()
            found, words = verdict(target, folder, path, expected)
            if damaged == content:
                found = "same"
            seconds = time.monotonic() - began
            memory = high_water() - before
            large = memory > 10 * len(damaged) + MEMORY  # walks through h5 files have a limit
            print(json.dumps([number, kind, found, words, seconds, memory, large]), flush=True)


def run(name: str, mutations: int, seed: int) -> collections.Counter:
    """Counts of one target, each finding of a wrong kind printed."""
    counts: collections.Counter = collections.Counter()
    number = 0
    while number < mutations:
        command = [sys.executable, "-m", "worlds.mutated_runs", "--child", name]
        command += ["--span", f"{number}:{mutations}", "--seed", str(seed)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        while select.select([process.stdout], [], [], 6 * HANG)[0]:
            line = process.stdout.readline()
            if not line:
                break
            number, kind, found, words, seconds, memory, large = json.loads(line)
            number += 1
            if found == "silent" and not TARGETS[name].checksum:
                found = "silent, no checksum"
            counts[found] += 1
            counts["hang"] += seconds > HANG
            counts["large"] += large
            counts["slowest"] = max(counts["slowest"], seconds)
            counts["MiB"] = max(counts["MiB"], memory >> 20)
            if found in ("silent", "traceback", "unnamed") or seconds > HANG or large:
                print(f"  {name} {number - 1} {kind}: {found} {seconds:.1f} s {words}")
        process.kill()
        if number < mutations:
            counts["crash or hang"] += 1
            print(f"  {name} {number}: crash or hang, exit status {process.wait()}")
            number += 1
        process.wait()
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=2000, help="over all targets")
    parser.add_argument("--targets", default="", help="those whose name has this")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--span", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child, *map(int, given.span.split(":")), given.seed)
        return
    names = [name for name in TARGETS if given.targets in name]
    total: collections.Counter = collections.Counter()
    for name in names:
        counts = run(name, -(-given.mutations // len(names)), given.seed)
        slowest, most = counts.pop("slowest"), counts.pop("MiB")
        shown = ", ".join(f"{what} {count}" for what, count in sorted(counts.items()) if count)
        print(f"{name}: {shown}; at most {slowest:.2f} s, {most} MiB", flush=True)
        total += counts
    print("all:", ", ".join(f"{what} {count}" for what, count in sorted(total.items())))


if __name__ == "__main__":
    main()
