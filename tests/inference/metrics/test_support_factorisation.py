"""Factorisation of support by loops, and what scale, order and constant codes do to it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.inference import metrics


def table(codes):
    return metrics.from_arrays(codes, np.arange(len(codes))[:, None] % 2)


def by_loops(codes, i, j):
    """Max over combinations of min over rows."""
    pairs = codes[:, [i, j]]
    return max(
        min(((np.array([a, b]) - row) ** 2).sum() for row in pairs)
        for a, b in itertools.product(codes[:, i], codes[:, j])
    )


@pytest.fixture(scope="module")
def codes():
    return np.random.default_rng(0).normal(size=(21, 3)) * [1, 2, 0.5]


@pytest.mark.parametrize("standardised", [False, True])
def test_values_by_loops(codes, standardised):
    """Two batches of 8 rows, in the order of the seed; five rows are left out."""
    found = metrics.fos(table(codes), batch=8, standardised=standardised, seed=3)
    used = codes / codes.std(0) if standardised else codes
    every = list(itertools.combinations(range(3), 2))
    order = numpy_generator(3, 0).permutation(21)
    batches = [used[order[:8]], used[order[8:16]]]
    for i, j in every:
        mean = np.mean([by_loops(b, i, j) for b in batches])
        assert float(found.fos_pairwise[i, j]) == pytest.approx(mean)
        assert float(found.fos_pairwise[j, i]) == pytest.approx(mean)
    hand = np.mean([sum(by_loops(b, i, j) for i, j in every) for b in batches])
    assert float(found.fos) == pytest.approx(hand)
    assert found.fos.attrs == {"batch": 8, "standardised": int(standardised), "seed": 3}


def test_scale_place_and_order_of_codes(codes):
    plain = metrics.fos(table(codes))
    moved = metrics.fos(table((3 * codes - 1)[:, ::-1]))
    np.testing.assert_allclose(moved.fos_pairwise[::-1, ::-1], 9 * plain.fos_pairwise)
    mapped = metrics.fos(table(codes * [5, -1, 0.1]), standardised=True)
    np.testing.assert_allclose(mapped.fos, metrics.fos(table(codes), standardised=True).fos)


def test_a_grid_and_codes_that_do_not_vary():
    grid = np.array(list(itertools.product(range(5), range(5))), dtype=float)
    assert float(metrics.fos(table(grid)).fos) == 0
    constant = np.concatenate([grid, np.ones((25, 1))], 1)
    for standardised in (False, True):
        assert float(metrics.fos(table(constant), standardised=standardised).fos) == 0
    one = metrics.fos(table(grid[:, :1]))
    assert np.isnan(one.fos) and np.isnan(one.fos_pairwise).all()
    assert one.fos.attrs["reason"] == "there is one code"
    assert float(metrics.fos(table(grid[:1])).fos) == 0  # a single row


def test_a_batch_of_one_row_is_refused(codes):
    with pytest.raises(ValueError, match=r"batch is 1, expected"):
        metrics.fos(table(codes), batch=1)
