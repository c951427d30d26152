"""Kill -9 at any moment of a run, go on, and compare with the run that nobody killed.

Each life of a run trains a paper on a few digits, writes a state after every step, and then its
posterior and a built set. It is killed once, in turn in training, in the writing of a state, in
export and in the build, a random while after that has begun, and started again: weights,
optimiser, curve, posterior and built set have to be those of the uninterrupted run bit for bit,
and no file may be left over.

    python benchmarks/kills.py --kills 60
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

PAPERS = {
    "vae": "--hidden 8 --latent 2",
    "m1": "--hidden 8 --latent 2 --classifier 4",
    "m2": "--hidden 8 --latent 2",
    "m1m2": "--hidden 8 --latent 2 --code 3 --hidden-top 4",
    "mmdcgm": "--hidden 8 --latent 2",
    "mmdgm": "--hidden 8 --latent 2",
}
DATA = "--data digits --train 200 --validation 20 --test 20 --labelled 30"
FIT = "--batch-size 100 --seed 4 --draws 20 --rows 10 --device cpu --quiet --checkpoint-seconds 0"
SET = "data build xysquare --out {}/set.h5"
FILES = ["posterior.nc", "run.json", "set.h5", "state.pt"]
TOGETHER = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
TARGETS = ("training", "writing state", "export", "build")
PATIENCE = 240.0  # seconds that a life may take


@dataclass(frozen=True)
class Kind:
    """What is run: a paper, compiled or not, by how many processes."""

    paper: str
    compiled: bool
    processes: int

    def commands(self, out: Path, epochs: int) -> list[list[str]]:
        """The commands of a life: fit, export of the posterior, and the build of a set."""
        launch = TOGETHER if self.processes > 1 else ()
        fit = f"fit {self.paper} {DATA} {FIT} --epochs {epochs} --resume --out {out} "
        fit += PAPERS[self.paper] + (" --compile" if self.compiled else "")
        single = [sys.executable, "-m", "ppl_models"]
        return [
            [sys.executable, *launch, "-m", "ppl_models", *fit.split()],
            [*single, *SET.format(out).split()],
        ]


def run(kind: Kind, out: Path, epochs: int, target: str = "", wait: float = 0.0) -> str:
    """One life; killed once it is at its target, and then what it was doing."""
    for place, command in enumerate(kind.commands(out, epochs)):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        while target and process.poll() is None:
            if _phase(out, place).startswith(target):
                time.sleep(wait if "writing" not in target else 0.0)
                phase = _phase(out, place)
                kill(process.pid)
                process.wait()
                return phase
            time.sleep(0.0005)
        said, _ = process.communicate(timeout=PATIENCE)
        if process.returncode:
            raise SystemExit(f"{kind}: {said}")
    return ""


def _phase(out: Path, place: int) -> str:
    """What a living process is at."""
    if place:
        return "build"
    writing = [p.name for p in out.glob(".*.part")] if out.exists() else []
    if writing:
        return f"writing {writing[0].split('.')[1]}"
    if not (out / "run.json").exists():
        return "start"
    done = '"finished"' in (out / "run.json").read_text()
    return "export" if done else "training"


def kill(pid: int) -> None:
    """Kill -9 a process and its children, which torchrun gives sessions of their own."""
    listed = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    for child in listed.stdout.split():
        kill(int(child))
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def contents(out: Path) -> dict[str, object]:
    """All numbers that a life came to."""
    import h5py

    state = torch.load(out / "state.pt", weights_only=True)
    found: dict[str, object] = {}
    for key, value in _flat(state):
        if "seconds" not in key:
            found[key] = value.numpy() if isinstance(value, torch.Tensor) else value
    for name in ("posterior.nc", "set.h5"):
        with h5py.File(out / name) as file:
            file.visititems(
                lambda key, node, name=name: found.update(
                    {f"{name}/{key}": node[()]}
                    if isinstance(node, h5py.Dataset) and "seconds" not in key
                    else {}
                )
            )
    return found


def _flat(value: object, path: str = "") -> list[tuple[str, object]]:
    if isinstance(value, dict):
        return [pair for key, v in value.items() for pair in _flat(v, f"{path}/{key}")]
    if isinstance(value, list):
        return [pair for n, v in enumerate(value) for pair in _flat(v, f"{path}/{n}")]
    return [(path, value)]


def differing(one: dict[str, object], other: dict[str, object]) -> list[str]:
    """Names of what is not equal bit for bit."""
    return [
        key
        for key in one.keys() | other.keys()
        if key not in one
        or key not in other
        or np.asarray(one[key]).tobytes() != np.asarray(other[key]).tobytes()
    ]


def main() -> None:
    """Kill, go on, compare, and say how often it was right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--no-compile", action="store_true")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    kinds = [
        Kind(paper, compiled, processes)
        for processes in (1, 2)
        for compiled in (False, True)
        for paper in PAPERS
        if not (compiled and options.no_compile)
    ]
    wholes: dict[Kind, dict[str, object]] = {}
    phases: Counter[str] = Counter()
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for place in range(options.kills):
            kind = kinds[place % len(kinds)]
            if kind not in wholes:
                whole = Path(folder) / f"whole{len(wholes)}"
                run(kind, whole, options.epochs)
                wholes[kind] = contents(whole)
            out = Path(folder) / f"run{place}"
            target = TARGETS[(place + place // len(kinds)) % len(TARGETS)]
            phase = run(kind, out, options.epochs, target, draw.uniform(0.0, 0.5))
            phases[phase or "after its end"] += 1
            run(kind, out, options.epochs)
            left = sorted(path.name for path in out.iterdir())
            bad = differing(wholes[kind], contents(out))
            wrong += bool(bad) or left != FILES
            verdict = "equal" if not bad else f"DIFFERS in {len(bad)}: {sorted(bad)[:3]}"
            stale = "" if left == FILES else f", LEFT {left}"
            words = f"{place + 1:3} {kind} killed in {phase or 'nothing'}: {verdict}{stale}"
            print(words, flush=True)
    print(f"{options.kills} kills ({dict(phases)}), {wrong} not equal or with files left over")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
