"""Metrics of a table of codes beside the formulas that they are published with.

    python benchmarks/code_metrics.py [--repeats 5] [--only vae] [--out code_metrics.json]

10,000 codes of 10 dimensions, 5 factors of 3 to 6 values, one thread. Ours and the peer take
turns in one process; the table gives medians of seconds of processor time and of the ratios turn
by turn. `ours` begins from arrays and pays for what a table of codes is prepared with.

- BetaVAE and FactorVAE score, 10,000 and 5,000 votes of 64: the peer is a loop over votes as in
  disentanglement_lib (Locatello et al. 2019), whose encoder is arithmetic on the factors, then
  scikit-learn's logistic regression, or a majority vote.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from ppl_models.inference import metrics

Array = np.ndarray[Any, Any]
SIZES = np.array([3, 4, 5, 6, 4])
ROWS, CODES = 10_000, 10
VOTES, TEST_VOTES, BATCH, PRUNE = 10_000, 5_000, 64, 0.05
DRAW = np.random.default_rng(0)
WEIGHTS = DRAW.normal(size=(len(SIZES), CODES))


def factors(rows: int) -> Array:
    return np.stack([DRAW.integers(size, size=rows) for size in SIZES], 1)


def encode(classes: Array) -> Array:
    """A mixture of the factors, which costs less than any network."""
    return (classes - (SIZES - 1) / 2) / np.sqrt((SIZES**2 - 1) / 12) @ WEIGHTS


TABLE_FACTORS = factors(ROWS)
TABLE_CODES = encode(TABLE_FACTORS)


def table() -> metrics.CodeTable:
    return metrics.from_arrays(TABLE_CODES, TABLE_FACTORS)


def beta_vae_by_loops() -> float:
    """Votes one after another, and the classifier with scikit-learn's settings."""

    def votes(count: int) -> tuple[Array, Array]:
        seen, told = np.zeros((count, CODES)), np.zeros(count, dtype=np.int64)
        for vote in range(count):
            told[vote] = DRAW.integers(len(SIZES))
            one, other = factors(BATCH), factors(BATCH)
            other[:, told[vote]] = one[:, told[vote]]
            seen[vote] = np.mean(np.abs(encode(one) - encode(other)), axis=0)
        return seen, told

    with warnings.catch_warnings(action="ignore"):  # it stops short of convergence
        fitted = LogisticRegression().fit(*votes(VOTES))
    return fitted.score(*votes(TEST_VOTES))


def factor_vae_by_loops() -> float:
    """Votes one after another, counted in a table."""
    variance = np.var(encode(factors(ROWS)), axis=0, ddof=1)
    active = np.sqrt(variance) >= PRUNE

    def votes(count: int) -> Array:
        counts = np.zeros((len(SIZES), CODES), dtype=np.int64)
        for _ in range(count):
            factor = DRAW.integers(len(SIZES))
            rows = factors(BATCH)
            rows[:, factor] = rows[0, factor]
            local = np.var(encode(rows), axis=0, ddof=1)
            counts[factor, np.argmin(local[active] / variance[active])] += 1
        return counts

    named = votes(VOTES).argmax(0)
    test = votes(TEST_VOTES)
    return float(test[named, np.arange(CODES)].sum() / test.sum())


# By name: ours, and the peer.
CONTENDERS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "BetaVAE score": (lambda: metrics.beta_vae_score(table()), beta_vae_by_loops),
    "FactorVAE score": (lambda: metrics.factor_vae_score(table()), factor_vae_by_loops),
}


def seconds(run: Callable[[], Any]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="metrics whose name contains this")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    print("| metric | peer, s | ours, s | peer / ours |\n|---|---|---|---|")
    found = {}
    for name, (ours, peer) in CONTENDERS.items():
        if args.only in name:
            ours()  # imports
            turns = [(seconds(peer), seconds(ours)) for _ in range(args.repeats)]
            by, own = (statistics.median(of) for of in zip(*turns, strict=True))
            ratio = statistics.median(p / o for p, o in turns)
            found[name] = {"peer": by, "ours": own, "ratio": ratio}
            print(f"| {name} | {by:.3f} | {own:.3f} | {ratio:.1f} |", flush=True)
    if args.out:
        args.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
