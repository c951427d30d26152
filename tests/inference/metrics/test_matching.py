"""Matching of codes with true factors: against brute force over all orders, and by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from ppl_models.inference.metrics.matching import (
    correlations,
    matching,
    mean_correlation,
    set_scores,
)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("factors", "codes"), [(3, 3), (4, 4), (2, 4)])
def test_the_matching_is_the_best_of_all_orders(factors, codes):
    similarity = drawn(factors, codes).abs()
    found = matching(similarity)
    best = max(
        itertools.permutations(range(codes), factors),
        key=lambda order: sum(float(similarity[i, j]) for i, j in enumerate(order)),
    )
    assert tuple(found.tolist()) == best


@pytest.mark.parametrize("ranks", [False, True])
def test_correlations_are_scipys(ranks):
    codes, factors = drawn(50, 3), drawn(50, 2, seed=1)
    found = correlations(codes, factors, ranks)
    one = stats.spearmanr if ranks else stats.pearsonr
    wanted = [[abs(one(f, c)[0]) for c in codes.T.numpy()] for f in factors.T.numpy()]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_order_sign_and_scale_do_not_count():
    factors = drawn(200, 3)
    codes = factors[:, [2, 0, 1]] * torch.tensor([-3.0, 0.1, 7.0]) + 5
    assert mean_correlation(codes, factors) == pytest.approx(1, abs=1e-6)
    assert matching(correlations(codes, factors)).tolist() == [1, 2, 0]
    # Ranks see through any rising function, values do not.
    bent = codes.clone()
    bent[:, 0] = (2 * codes[:, 0]).exp()
    assert mean_correlation(bent, factors, ranks=True) == pytest.approx(1, abs=1e-6)
    assert mean_correlation(bent, factors) < 0.95


def test_a_constant_code_correlates_with_nothing():
    codes = torch.stack([torch.ones(20), torch.arange(20.0)], 1)
    factors = torch.arange(20.0)[:, None]
    assert correlations(codes, factors).tolist() == [[0.0, pytest.approx(1)]]


@pytest.mark.parametrize(
    ("found", "true", "scores"),
    [
        ([1, 1, 0, 0], [1, 0, 1, 0], (0.5, 0.5, 0.5)),
        ([1, 1, 1, 1], [1, 0, 0, 0], (0.25, 1.0, 0.4)),
        ([0, 0, 0, 0], [1, 0, 0, 0], (0.0, 0.0, 0.0)),
        ([1, 0, 0, 0], [1, 0, 0, 0], (1.0, 1.0, 1.0)),
    ],
)
def test_scores_of_sets(found, true, scores):
    assert set_scores(torch.tensor(found), torch.tensor(true)) == pytest.approx(scores)


def test_what_cannot_be_matched_is_one_line():
    with pytest.raises(ValueError, match="2 codes for 3 factors, expected at least as many"):
        matching(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="codes have 3 rows and factors 4"):
        correlations(torch.zeros(3, 1), torch.zeros(4, 1))
    with pytest.raises(ValueError, match=r"found has shape \(3,\), expected that of the truth"):
        set_scores(torch.zeros(3), torch.zeros(2, 3))


@pytest.mark.parametrize("ranks", [True, False])
def test_codes_of_networks_are_matched_without_their_gradient(ranks):
    codes = torch.randn(20, 3, requires_grad=True)
    assert mean_correlation(codes, codes.detach()[:, [2, 0, 1]], ranks) == pytest.approx(1)
