"""What claims tests share: MNIST, processes, and how a mean over seeds is written."""

from __future__ import annotations

import itertools
import math
import os
import pickle
import re
import statistics
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

    In the folder ``CLAIMS_RESUME``, if that is named, what each came to is kept until the folder
    is deleted: a run of hours that was stopped goes on with those that are missing.
    ``CLAIMS_PROCESSES`` is the number of processes.
    """
    processes = int(os.environ.get("CLAIMS_PROCESSES", processes))
    with ProcessPoolExecutor(processes, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        return list(pool.map(_kept, itertools.repeat(job), arguments))


def _kept(job: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    folder = os.environ.get("CLAIMS_RESUME")
    if folder is None:
        return job(*arguments)
    module = job.__module__.removeprefix("tests.")
    name = f"{module}.{job.__qualname__}-{'-'.join(map(str, arguments))}"
    path = Path(folder) / f"{re.sub(r'[^0-9A-Za-z_.-]', '_', name)}.pkl"
    if path.is_file():
        return pickle.loads(path.read_bytes())
    found = job(*arguments)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: temporary.write_bytes(pickle.dumps(found)))
    return found


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
