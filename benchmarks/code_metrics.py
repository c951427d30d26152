"""Metrics of a table of codes beside the formulas that they are published with.

    python benchmarks/code_metrics.py [--repeats 5] [--only vae] [--out code_metrics.json]

10,000 codes of 10 dimensions, 5 factors of 3 to 6 values, one thread. Ours and the peer take
turns in one process; the table gives medians of seconds of processor time and of the ratios turn
by turn. `ours` begins from arrays and pays for what a table of codes is prepared with.

- BetaVAE and FactorVAE score, 10,000 and 5,000 votes of 64: the peer is a loop over votes as in
  disentanglement_lib (Locatello et al. 2019), whose encoder is arithmetic on the factors, then
  scikit-learn's logistic regression, or a majority vote.
- Information: the peer calls scikit-learn's `mutual_info_score` for each code and factor, or for
  each two codes, after numpy's `histogram` and `digitize`.
- IRS: the peer loops over factors and values with `np.percentile`.
- Factorisation of support: the peer calls scipy's `cdist` for each batch and pair of codes.
- Explicitness and SAP: the peer calls scikit-learn's classifiers. So does ours for explicitness,
  of which about the same is expected. 5,000 rows to ask.
- DCI: the peer fits scikit-learn's `GradientBoostingClassifier`, for minutes: `--repeats 1`. Of
  DCI of a hierarchy it fits `GradientBoostingRegressor`.
- UDR: five tables of codes; the peer calls scipy's `spearmanr` for each two codes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from scipy.stats import entropy, spearmanr
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import mutual_info_score, roc_auc_score
from sklearn.svm import LinearSVC

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


def in_bins(codes: Array, bins: int = 20) -> Array:
    found = np.zeros(codes.shape, dtype=np.int64)
    for code in range(codes.shape[1]):
        edges = np.histogram(codes[:, code], bins)[1]
        found[:, code] = np.digitize(codes[:, code], edges[:-1])
    return found


def information_by_pairs() -> Array:
    """Of each code and each factor, with a call for each."""
    binned = in_bins(NOISY_CODES)
    return np.array([[mutual_info_score(b, y) for y in TABLE_FACTORS.T] for b in binned.T])


def mig_by_pairs() -> float:
    ranked = np.sort(information_by_pairs(), axis=0)
    entropies = [mutual_info_score(y, y) for y in TABLE_FACTORS.T]
    return float(np.mean((ranked[-1] - ranked[-2]) / entropies))


def modularity_by_pairs() -> float:
    squares = information_by_pairs() ** 2
    best = squares.max(1)
    return float(np.mean(1 - (squares.sum(1) - best) / (best * (squares.shape[1] - 1))))


def med_by_pairs() -> float:
    shares = information_by_pairs()
    shares = shares / shares.sum(0)
    focus = 1 - entropy(shares.T + 1e-11, base=shares.shape[1])
    return float(focus @ shares.sum(1) / shares.sum())


def irs_by_values() -> float:
    factors_in_bins = in_bins(TABLE_FACTORS)
    reach = np.max(np.abs(NOISY_CODES - NOISY_CODES.mean(0)), axis=0)
    spread = np.zeros((CODES, len(SIZES)))
    for factor, column in enumerate(factors_in_bins.T):
        values = np.unique(column)
        for value in values:
            group = NOISY_CODES[column == value]
            far = np.percentile(np.abs(group - group.mean(0)), 99, axis=0)
            spread[:, factor] += far / len(values)
    return float(np.average((1 - spread / reach[:, None]).max(1), weights=reach))


def dependence_by_pairs() -> tuple[float, float, float]:
    covariance = np.cov(NOISY_CODES.T)
    own = np.diag(np.diag(covariance))
    correlation = (np.log(np.diag(covariance)).sum() - np.linalg.slogdet(covariance)[1]) / 2
    distance = 2 * np.trace(covariance) - 2 * np.trace(sqrtm(own @ covariance)).real
    binned = in_bins(NOISY_CODES)
    pairs = [
        mutual_info_score(binned[:, i], binned[:, j])
        for i in range(CODES)
        for j in range(CODES)
        if i != j
    ]
    return float(correlation), float(distance), float(np.mean(pairs))


def fos_by_pairs() -> float:
    order = np.random.default_rng(0).permutation(len(NOISY_CODES))
    sums = []
    for start in range(0, len(order) - 127, 128):
        codes = NOISY_CODES[order[start : start + 128]]
        total = 0.0
        for i, j in itertools.combinations(range(CODES), 2):
            first, second = np.meshgrid(codes[:, i], codes[:, j])
            points = np.stack([first.ravel(), second.ravel()], 1)
            total += cdist(points, codes[:, [i, j]], "sqeuclidean").min(1).max()
        sums.append(total)
    return float(np.mean(sums))


def explicitness_by_sklearn() -> float:
    mean, deviation = NOISY_CODES.mean(0), NOISY_CODES.std(0)
    areas = []
    for y, asked in zip(TABLE_FACTORS.T, TEST_FACTORS.T, strict=True):
        fitted = LogisticRegression(max_iter=1_000).fit((NOISY_CODES - mean) / deviation, y)
        for codes, of in ((NOISY_CODES, y), (TEST_CODES, asked)):
            told = fitted.predict_proba((codes - mean) / deviation)
            areas.append(roc_auc_score(np.eye(told.shape[1])[of], told))
    return float(np.mean(areas))


def sap_by_sklearn() -> float:
    accuracy = np.zeros((CODES, len(SIZES)))
    for code in range(CODES):
        for factor in range(len(SIZES)):
            machine = LinearSVC(C=0.01, class_weight="balanced")
            machine.fit(NOISY_CODES[:, [code]], TABLE_FACTORS[:, factor])
            told = machine.predict(TEST_CODES[:, [code]])
            accuracy[code, factor] = np.mean(told == TEST_FACTORS[:, factor])
    ranked = np.sort(accuracy, axis=0)
    return float(np.mean(ranked[-1] - ranked[-2]))


def dci_by_sklearn() -> tuple[float, float, float, float]:
    importance, accuracy = [], []
    for y, asked in zip(TABLE_FACTORS.T, TEST_FACTORS.T, strict=True):
        trees = GradientBoostingClassifier(random_state=0).fit(NOISY_CODES, y)
        importance.append(trees.feature_importances_)
        accuracy.append(
            [np.mean(trees.predict(NOISY_CODES) == y), np.mean(trees.predict(TEST_CODES) == asked)]
        )
    matrix = np.array(importance).T
    shares = matrix / matrix.sum()
    per_code = 1 - entropy(matrix.T + 1e-11, base=len(SIZES))
    per_factor = 1 - entropy(matrix + 1e-11, base=CODES)
    train, test = np.mean(accuracy, 0)
    return per_code @ shares.sum(1), per_factor @ shares.sum(0), train, test


def hierarchy_by_sklearn() -> tuple[float, float]:
    importance = []
    for y in TABLE_FACTORS.T:
        trees = GradientBoostingRegressor(random_state=0).fit(NOISY_CODES, y)
        trees.predict(TEST_CODES)
        importance.append(trees.feature_importances_)
    matrix = np.array(importance).T
    child = matrix[:, :2].max(1) >= matrix[:, 2:].max(1)
    found = []
    for part in (matrix[child][:, :2], matrix[~child][:, 2:]):
        per_code = 1 - entropy(part.T + 1e-11, base=part.shape[1])
        found.append(float(per_code @ part.sum(1) / part.sum()))
    return found[0], found[1]


def udr_by_pairs() -> list[float]:
    scores = np.zeros((len(MODELS), len(MODELS)))
    for i, one in enumerate(MODELS):
        for j, other in enumerate(MODELS):
            if i == j:
                continue
            ranks = np.array([[abs(spearmanr(a, b)[0]) for b in other.T] for a in one.T])
            scores[i, j] = np.mean(
                [np.mean(ranks.max(axis) ** 2 / ranks.sum(axis)) for axis in (0, 1)]
            )
    return [float(np.median(np.delete(scores[:, j], j))) for j in range(len(MODELS))]


TEST_FACTORS = factors(ROWS // 2)
NOISY_CODES = TABLE_CODES + 0.3 * DRAW.normal(size=TABLE_CODES.shape)
TEST_CODES = encode(TEST_FACTORS) + 0.3 * DRAW.normal(size=(ROWS // 2, CODES))
MODELS = [
    encode(TABLE_FACTORS) @ DRAW.normal(size=(CODES, CODES)) + DRAW.normal(size=TABLE_CODES.shape)
    for _ in range(5)
]


def noisy() -> metrics.CodeTable:
    return metrics.from_arrays(NOISY_CODES, TABLE_FACTORS)


def asked() -> metrics.CodeTable:
    return metrics.from_arrays(TEST_CODES, TEST_FACTORS)


def agreement() -> Any:
    tables = [metrics.from_arrays(codes, TABLE_FACTORS) for codes in MODELS]
    return metrics.udr(tables, [np.ones(CODES)] * len(tables), "spearman")


# By name: ours, and the peer.
CONTENDERS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "information and MIG": (lambda: metrics.mig(noisy()), mig_by_pairs),
    "modularity": (lambda: metrics.modularity(noisy()), modularity_by_pairs),
    "MED": (lambda: metrics.med(noisy()), med_by_pairs),
    "IRS": (lambda: metrics.irs(noisy()), irs_by_values),
    "scores without factors": (lambda: metrics.unsupervised_scores(noisy()), dependence_by_pairs),
    "factorisation of support": (lambda: metrics.fos(noisy()), fos_by_pairs),
    "explicitness": (lambda: metrics.explicitness(noisy(), asked()), explicitness_by_sklearn),
    "SAP": (lambda: metrics.sap(noisy(), asked()), sap_by_sklearn),
    "DCI": (lambda: metrics.dci(noisy(), asked()), dci_by_sklearn),
    "DCI of a hierarchy": (
        lambda: metrics.hierarchical_dci(noisy(), asked(), ("y[0]", "y[1]")),
        hierarchy_by_sklearn,
    ),
    "UDR, ranks": (agreement, udr_by_pairs),
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
    if len(found) > 1:
        by, own = (sum(of[who] for of in found.values()) for who in ("peer", "ours"))
        print(f"| together | {by:.3f} | {own:.3f} | {by / own:.1f} |", flush=True)
    if args.out:
        args.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
