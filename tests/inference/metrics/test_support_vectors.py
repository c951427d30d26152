"""Machines that see one number: scikit-learn's, solved to the end."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.svm import LinearSVC

from ppl_models.inference.metrics.disentanglement.support_vectors import in_order, machines


def drawn(values: int, scale: float, shift: float, seed: int = 0):
    source = np.random.default_rng(seed)
    labels = source.integers(0, values, 500)
    return (labels + source.normal(size=500)) * scale + shift, labels


@pytest.mark.parametrize("values", [2, 3, 6])
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (30.0, -5.0), (-1.0, 40.0)])
def test_machines_are_scikit_learns(values, scale, shift):
    codes, labels = drawn(values, scale, shift)
    order = np.argsort(codes)
    found = machines(in_order(codes[order]), labels[order])
    peer = LinearSVC(
        C=0.01, class_weight="balanced", dual=False, tol=1e-12, max_iter=100_000, random_state=0
    ).fit(codes[:, None], labels)
    wanted = np.concatenate([peer.coef_, peer.intercept_[:, None]], axis=1)
    if values == 2:
        np.testing.assert_allclose(found[0], -found[1], rtol=1e-9)
        found = found[1:]
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e5])
@pytest.mark.parametrize("cost", [0.01, 100.0])
def test_no_other_line_costs_less(scale, cost):
    """By a search without derivatives from where it ended, and from none."""
    codes, labels = drawn(3, scale, 0.3 * scale, seed=1)
    order = np.argsort(codes)
    found = machines(in_order(codes[order]), labels[order], cost)
    counts = np.bincount(labels)
    for c, line in enumerate(found):
        sign = np.where(labels == c, 1, -1)
        weight = np.where(labels == c, cost * 500 / (3 * counts[c]), cost)

        def value(line, sign=sign, weight=weight):
            w, b = line[0] / scale, line[1]
            inside = np.maximum(0, 1 - sign * (w * codes + b))
            return (w * w + b * b) / 2 + (weight * inside**2).sum()

        ours = value(line * [scale, 1])
        for start in (line * [scale, 1], np.zeros(2)):
            other = minimize(value, start, method="Nelder-Mead", options={"fatol": 1e-12})
            assert ours <= other.fun * (1 + 1e-12)


def test_a_code_that_is_constant_tells_how_many():
    labels = np.repeat([0, 1, 2], [50, 100, 200])
    found = machines(in_order(np.zeros(350)), labels)
    assert (found[:, 0] == 0).all()
    # Of n_c rows of weight a each and m of weight c: b (1 + 2 (a n_c + c m)) = 2 (a n_c - c m).
    share, rest = 0.01 * 350 / 3, 0.01 * (350 - np.array([50, 100, 200]))
    np.testing.assert_allclose(found[:, 1], 2 * (share - rest) / (1 + 2 * (share + rest)))
