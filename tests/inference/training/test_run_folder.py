"""Runs that are killed on the way, or in the midst of a write, and resumed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from worlds.processes import together

import ppl_models as zoo
from ppl_models import data, inference
from ppl_models.commands import main as cli
from ppl_models.inference.training import run_folder

STEPS = 100  # 20 epochs of 5 steps
FIT = "fit m2 --labelled 30 --splits (200,20,30) --hidden 8 --latent 2 --epochs 20 --seed 4"
FIT += " --batch-size 50 --draws 30 --rows 5 --quiet --device cpu --checkpoint-seconds 0"
LAUNCH = {
    1: [sys.executable, "-m", "ppl_models"],
    2: [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        "-m", "ppl_models"],
}  # fmt: skip
PATIENCE = 60.0  # seconds until a process has to have come to its step


def command_line(folder, out, resume=False):
    where = ["--data", str(folder / "rows.npz"), "--out", str(out)]
    return [*FIT.split(), *where, *(["--resume"] if resume else [])]


def finish(processes, folder, out, resume=False):
    """The run to its end, in this process or two forks of it."""
    line = command_line(folder, out, resume)
    if processes == 1:
        assert cli.main(line) == 0
    else:
        assert [o.value for o in together(2, folder, lambda rank: cli.main(line))] == [0, 0]
    return run_folder.read_state(out)


def children(pid):
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def kill_at(step, processes, folder, out):
    """Start the command, resuming, and kill -9 all of it as soon as the step is written."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*LAUNCH[processes], *command_line(folder, out, resume=True)]
    log = folder / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream)
    workers, wanted = [], 0 if processes == 1 else processes
    began = time.monotonic()
    try:
        while len(workers) < wanted or step_of(out) < step:
            assert process.poll() is None and time.monotonic() - began < PATIENCE, log.read_text()
            time.sleep(0.03)
            if len(workers) < wanted:
                workers = children(process.pid)
    finally:  # torchrun gives its workers sessions of their own: one by one
        for pid in (process.pid, *workers):
            os.kill(pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, log.read_text()


def step_of(out):
    return run_folder.read_state(out)["step"] if (out / run_folder.STATE).exists() else 0


def same(a, b):
    """Equal bit for bit: weights, optimiser, random state, curve."""
    assert a.keys() == b.keys()
    for name, value in a["model"].items():
        assert torch.equal(value, b["model"][name]), name
    assert torch.equal(a["rng"], b["rng"])
    assert (a["step"], a["stage"], a["done_before"]) == (b["step"], b["stage"], b["done_before"])
    assert a["history"]["loss"] == b["history"]["loss"]
    assert a["history"]["step"] == b["history"]["step"]


@pytest.mark.long  # kills in the midst of a write, below, and Ctrl-C are among the short ones
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_killed_three_times_is_the_uninterrupted_one(tmp_path, processes):
    y = torch.arange(250) % 3
    x = torch.rand(250, 6, generator=torch.Generator().manual_seed(0)) * (1 + y[:, None]) / 3
    np.savez(tmp_path / "rows.npz", x=x.numpy(), y=y.numpy())
    whole = finish(processes, tmp_path, tmp_path / "whole")
    out = tmp_path / "run"
    draw = random.Random(processes)
    steps = sorted(draw.sample(range(5, STEPS - 40), 3))
    for step in steps:
        kill_at(step, processes, tmp_path, out)
        assert step <= step_of(out) < STEPS
        assert json.loads((out / "run.json").read_text())["status"] == "running"
    same(finish(processes, tmp_path, out, resume=True), whole)
    assert sorted(p.name for p in out.iterdir()) == ["posterior.nc", "run.json", "state.pt"]


# ---- in the midst of a write -------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", train=200, validation=50, test=50, labelled=30)


def fit(digits, out, resume=False):
    pair = zoo.build("m2", digits, hidden=(8,), latent=2)
    options = {"epochs": 2, "batch_size": 50, "checkpoint_seconds": 0, "device": "cpu"}
    inference.fit(pair, digits, out=out, resume=resume, progress=False, **options)
    return run_folder.read_state(out)


def die_in(method, name, count):
    """Replace a method by one that kills its process on the way of the count-th write."""
    original, seen = getattr(*method), []

    def replacement(first, *rest):
        target = str(first)
        if name in target:
            seen.append(target)
            if len(seen) == count:
                if rest and isinstance(rest[0], bytes):
                    with open(first, "wb") as file:
                        file.write(rest[0][: len(rest[0]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
        return original(first, *rest)

    return replacement


@pytest.mark.parametrize("name", ["state.pt", "run.json"])
@pytest.mark.parametrize("method", [(Path, "write_bytes"), (os, "replace")])
@pytest.mark.parametrize("count", [1, 3])
def test_a_kill_in_a_write_leaves_what_was_there(
    digits, tmp_path, monkeypatch, name, method, count
):
    out = tmp_path / "run"
    whole = fit(digits, tmp_path / "whole")
    monkeypatch.setattr(*method, die_in(method, name, count))
    (outcome,) = together(1, tmp_path / "fork", lambda rank: fit(digits, out))
    monkeypatch.undo()
    assert outcome.code == -signal.SIGKILL
    left = [p.name for p in out.iterdir() if p.name.endswith(".part")]
    assert len(left) == 1 and left[0].startswith(f".{name}.")
    state = out / "state.pt"
    # The first description is written before the first state, and one after each state.
    written = count - 1
    assert state.exists() == (written > 0)
    if written:
        assert step_of(out) == written
    same(fit(digits, out, resume=True), whole)
    assert sorted(p.name for p in out.iterdir()) == ["run.json", "state.pt"]
