"""What claims tests share: MNIST, processes, and how a mean over seeds is written."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import json
import math
import os
import pickle
import re
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch

import ppl_models as zoo
from ppl_models import Batch, data, inference
from ppl_models.files import write_atomically
from ppl_models.inference.plots.samples import mosaic
from ppl_models.quiet import evaluating, quiet

ROOT = Path(__file__).parents[2]
ROOMS = ("ppl_models", "guides", "inference", "data")
MNIST = Path(os.environ.get("PPL_DATA", ".")) / "mnist"
needs_mnist = pytest.mark.skipif(
    not MNIST.is_dir(), reason="needs MNIST's idx files in $PPL_DATA/mnist"
)


def mnist(seed: int, labelled: int = 100, **options: Any) -> data.Dataset:
    """MNIST's idx files with as many labels, the same ones for the same seed."""
    return data.load("mnist", root=str(MNIST), labelled=labelled, seed=seed, **options)


def small_mnist(seed: int, labelled: int = 100) -> data.Dataset:
    """14 x 14 pixels, 3,000 unlabelled images beside the labelled, 2,000 for testing."""
    return mnist(seed, labelled, side=14, train=3000 + labelled, test=2000)


def supervised(
    rows: data.Dataset, seed: int, hidden: tuple[int, ...], steps: int, **training: Any
) -> inference.Run:
    """The label network of M2 alone on the labelled rows, in full batches, until it converges."""
    network = zoo.build("m2", rows, seed=seed, hidden=hidden)
    labelled = rows.train.where_observed("y")
    return inference.fit(
        network, labelled, inference.Classification("y"), seed=seed, epochs=steps,
        progress=False, **training,
    )  # fmt: skip


def spread(values: Sequence[float], scale: float = 1.0, digits: int = 2, unit: str = "") -> str:
    """Mean and standard deviation over seeds, e.g. ``19.9 (1.9) %``."""
    mean, deviation = (scale * f(values) for f in (statistics.mean, statistics.stdev))
    return f"{mean:.{digits}f} ({deviation:.{digits}f})" + (f" {unit}" if unit else "")


def percent(values: Sequence[float]) -> str:
    """Mean and standard deviation of shares, in per cent."""
    return spread(values, 100, 1, "%")


def run_all(
    job: Callable[..., Any], arguments: Iterable[Sequence[Any]], processes: int = 2
) -> list[Any]:
    """A job at each tuple of arguments, in processes of one thread each.

    What each came to is kept, so that a run of hours that was stopped goes on with the jobs that
    are missing, and those within :func:`resumed_fit` from the last state of their fit; see
    :func:`kept_in`. ``CLAIMS_PROCESSES`` is the number of processes.
    """
    processes = int(os.environ.get("CLAIMS_PROCESSES", processes))
    folder, arguments, found = kept_in(job), list(arguments), []
    missing = [given for given in arguments if not _file(folder, job, given).is_file()]
    # Without a call no process is started.
    with ProcessPoolExecutor(processes, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        list(pool.map(_kept, itertools.repeat(folder), itertools.repeat(job), missing))
    for given in arguments:
        seconds, result = _kept(folder, job, given)
        before = 0.0 if given in missing else seconds / processes
        SAVED.setdefault(f"{job.__qualname__}{given}", before)
        found.append(result)
    return found


SAVED: dict[str, float] = {}  # seconds of earlier runs that were found again, each once


def kept_in(job: Callable[..., Any]) -> Path:
    """The folder in which the results of a job are kept.

    It is named by the code that they hang on: a change in the packages, in what claims share or
    in the job's own module begins anew. ``CLAIMS_RESUME`` names another one, which is used
    whatever has changed. Results stay until the folder is deleted.
    """
    chosen = os.environ.get("CLAIMS_RESUME")
    if chosen is not None:
        return Path(chosen)
    shared = (p for p in Path(__file__).parent.glob("*.py") if not p.name.startswith("test_"))
    packages = (p for room in ROOMS for p in (ROOT / room).rglob("*.py"))
    module = Path(inspect.getfile(job))
    code = hashlib.sha256(torch.__version__.encode())
    for path in sorted({*shared, *packages, module}):
        code.update(f"{os.path.relpath(path, ROOT)}\n".encode() + path.read_bytes())
    return ROOT / ".claims" / code.hexdigest()[:12]


def _file(folder: Path, job: Callable[..., Any], arguments: Sequence[Any]) -> Path:
    """Where a job's result is kept."""
    module = job.__module__.removeprefix("tests.")
    name = f"{module}.{job.__qualname__}-{'-'.join(map(str, arguments))}"
    return folder / f"{re.sub(r'[^0-9A-Za-z_.-]', '_', name)}.pkl"


def _kept(folder: Path, job: Callable[..., Any], arguments: Sequence[Any]) -> tuple[float, Any]:
    """Seconds of an earlier run, and what the job came to, then or now."""
    global _folder, _fits
    path = _file(folder, job, arguments)
    if path.is_file():
        seconds, found = pickle.loads(path.read_bytes())
        return seconds, found
    began, outer = time.monotonic(), (_folder, _fits)
    _folder, _fits = folder, path.with_suffix(".fits")
    try:
        found = job(*arguments)
        done = pickle.dumps((time.monotonic() - began, found))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda temporary: temporary.write_bytes(done))
        shutil.rmtree(_fits, ignore_errors=True)
    finally:
        _folder, _fits = outer
    return 0.0, found


def kept(job: Callable[..., Any], *arguments: Any) -> Any:
    """What another job comes to, asked within a job: from what is kept, or done now."""
    if _folder is None:
        raise RuntimeError("kept is called within a job of run_all")
    return _kept(_folder, job, arguments)[1]


_folder: Path | None = None  # of the results of the job at hand
_fits: Path | None = None  # where fits of the job at hand keep their states


def resumed_fit(
    name: str, pair: zoo.Pair, rows: data.Dataset, looks: int = 30, **options: Any
) -> tuple[inference.Run, dict[str, Any]]:
    """A fit that goes on from its last state after a stop, and its errors by pass.

    Args:
        name: Of the fit, within its job.
        pair: What is fitted.
        rows: The data set.
        looks: Times at which errors are taken.
        options: Of the fit; the passes are given as ``epochs``, per stage or of the only one.

    Returns:
        The run; and the ``minutes`` of training, before and after stops, the ``passes`` of the
        last stage at each look, and the errors on ``validation`` and ``test`` rows then.
    """
    if _fits is None:
        raise RuntimeError("resumed_fit is called within a job of run_all")
    out = _fits / name
    told = out.with_suffix(".json")
    found: dict[str, list[float]] = json.loads(told.read_text()) if told.is_file() else {}

    def look(run: inference.Run, step: int) -> None:
        steps = run.history["step"]
        before = steps[-2] if len(steps) > 1 else 0
        if step * looks // run.planned == before * looks // run.planned:
            return
        with quiet(torch.device("cpu")), evaluating(pair):
            found[str(step)] = [run.error(table) for table in (rows.validation, rows.test)]
        told.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(told, lambda path: path.write_text(json.dumps(found)))

    callbacks = (look, *options.pop("callbacks", ()))
    run = inference.fit(
        pair, rows, out=out, resume=True, callbacks=callbacks, progress=False, **options
    )
    steps, stages = run.history["step"], run.history["stage"]
    first = max((s for s, k in zip(steps, stages, strict=True) if k < stages[-1]), default=0)
    epochs = options["epochs"][-1] if isinstance(options["epochs"], tuple) else options["epochs"]
    seen = sorted((int(step), *errors) for step, errors in found.items() if int(step) > first)
    passes = [(step - first) / (steps[-1] - first) * epochs for step, *_ in seen]
    if looks and (not seen or seen[-1][0] != steps[-1]):
        raise RuntimeError(f"{out} has {len(seen)} looks, expected one at step {steps[-1]}")
    return run, {
        "minutes": run.history["seconds"][-1] / 60,
        "passes": passes,
        "validation": [validated for _, validated, _ in seen],
        "test": [tested for *_, tested in seen],
    }


def by_class(pair: zoo.Pair, rows: data.Table, count: int = 8) -> Any:
    """A figure of square images, each drawn in every one of ten classes with its own style."""
    from matplotlib import pyplot as plt

    seen = Batch({"x": rows.sites["x"][:count]})
    lines = [seen["x"]]
    for label in range(10):
        torch.manual_seed(0)  # the same style for every class
        lines.append(pair.intervene(seen, y=label)["x"])
    side = math.isqrt(seen["x"].shape[-1])
    figure, ax = plt.subplots(figsize=(6, 0.55 * count))
    _, across = mosaic(ax, torch.stack(lines, 1).reshape(-1, side, side).numpy(), 11)
    ax.set_xticks(across, ["row", *map(str, range(10))])
    return figure
