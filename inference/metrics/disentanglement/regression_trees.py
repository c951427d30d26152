"""Gradient boosted trees that tell numbers by squared error, equal to scikit-learn's.

Friedman (2001), Greedy function approximation, algorithm 2, with the settings that
``sklearn.ensemble.GradientBoostingRegressor`` has by default: 100 rounds, depth 3, rate 0.1. They
are grown by what grows the trees of :mod:`.boosting`, on residuals in place of gradients.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ppl_models.inference.metrics.disentanglement.boosting import (
    INNER,
    LEAVES,
    RATE,
    ROUNDS,
    Grower,
    Presorted,
    Trees,
)

Array = np.ndarray[Any, Any]


def regressed(
    codes: Presorted, values: Array, rng: np.random.Generator, rounds: int = ROUNDS
) -> Trees:
    """Fits T numbers, each with trees of its own; their gains are summed.

    Args:
        codes: Of N rows.
        values: ``(N, T)``.
        rng: Draws among splits of the same gain to the last digit, as scikit-learn does, too.
        rounds: Trees for each number.
    """
    told = np.ascontiguousarray(values.T, np.float64)
    trees = len(told)
    code = np.zeros((rounds, trees, INNER), np.intp)
    threshold = np.full((rounds, trees, INNER), np.inf)
    leaf = np.zeros((rounds, trees, LEAVES))
    grower = Grower(codes, rng)
    prior = told.mean(1)
    scores = np.repeat(prior[:, None], told.shape[1], 1)
    for at in range(rounds):
        for tree in range(trees):
            residual = told[tree] - scores[tree]
            places = grower.tree(residual, code[at, tree], threshold[at, tree])
            count = np.bincount(places, minlength=LEAVES)
            leaf[at, tree] = RATE * np.bincount(places, residual, LEAVES) / np.maximum(count, 1)
            scores[tree] += leaf[at, tree].take(places)
    return Trees(prior, code, threshold, leaf, grower.gain, scores.T)
