"""A step on rows of five modalities: of all 31 patterns in one batch, complete, and as 31 kinds.

    python benchmarks/modalities.py [--repeats 30] [--rows 310]

Interleaved in one process, on one thread; median milliseconds of loss, gradient and one step of
Adam, and the median of the ratios to the step of complete rows beside it.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Sequence

import pyro
import torch
from interleaved import Step, measure, ratio, stepping

import ppl_models as zoo
from ppl_models.batch import Batch
from ppl_models.data import Table
from ppl_models.inference.training.merged_rows import merged
from ppl_models.pair import Pair

SITES = ("a", "b", "c", "d", "e")
SIZES = (64, 144, 100, 40, 200)


def pair_of(name: str) -> Pair:
    """Five modalities, networks of 256 units."""
    settings = {"subsets": 0} if name == "mvae" else {}
    settings |= {"each": "random"} if name == "mopoe" else {}
    return zoo.build(
        name, modalities=SITES, sizes=SIZES, kinds=("normal",) * 5, scales=(0.5,) * 5, **settings
    )


def step_of(pair: Pair, batches: Sequence[Batch]) -> Step:
    (stage,) = pair.stages()
    loss = stage.objective.differentiable_loss
    return stepping(pair, lambda: loss(pair.model, pair.guide, batches))


def steps(name: str, rows: int) -> dict[str, Step]:
    """The steps to compare, on as many rows each."""
    torch.manual_seed(0)
    values = {n: torch.randn(rows, size) for n, size in zip(SITES, SIZES, strict=True)}
    patterns = [p for k in range(1, 6) for p in itertools.combinations(SITES, k)]
    masks = {
        n: torch.tensor([n in patterns[row % len(patterns)] for row in range(rows)]) for n in SITES
    }
    gaps = Table("gaps", values, observed=masks)
    kinds = tuple(gaps.gather(regime, regime.index) for regime in gaps.regimes())
    pair = pair_of(name)
    (one,) = merged(pair, gaps).batches()
    return {
        "complete rows": step_of(pair_of(name), (Batch(values),)),
        "31 patterns, one batch": step_of(pair, (one,)),
        "31 patterns, 31 batches": step_of(pair_of(name), kinds),
    }


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--rows", type=int, default=310)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pyro.enable_validation(False)
    for name in ("mvae", "mmvae", "mopoe"):
        every = steps(name, options.rows)
        times = measure(every, options.repeats)
        for what, found in times.items():
            times_that = ratio(times, what, "complete rows")
            print(f"{name:6} {what:24} {statistics.median(found):8.1f} ms   {times_that:5.2f}")


if __name__ == "__main__":
    main()
