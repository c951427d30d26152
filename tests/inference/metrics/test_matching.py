"""Matching of codes with true factors: against brute force over all orders, and by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from ppl_models.inference.metrics.disentanglement import matching as matching_module
from ppl_models.inference.metrics.disentanglement.matching import (
    correlations,
    matching,
    mcc_permutation_test,
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
    codes = torch.zeros(4, 2)
    with pytest.raises(ValueError, match="codes hold a value that is not finite"):
        mean_correlation(codes / 0, codes)
    with pytest.raises(ValueError, match=r"factors have shape \(4,\), expected"):
        mean_correlation(codes, codes[:, 0])
    with pytest.raises(ValueError, match="permutations is 0"):
        mcc_permutation_test(codes, codes, permutations=0)
    with pytest.raises(ValueError, match="2 codes for 3 factors"):
        mcc_permutation_test(codes, torch.zeros(4, 3))
    with pytest.raises(ValueError, match="rows is 1"):
        mcc_permutation_test(codes[:1], codes[:1])


@pytest.mark.parametrize("ranks", [True, False])
def test_codes_of_networks_are_matched_without_their_gradient(ranks):
    codes = torch.randn(20, 3, requires_grad=True)
    assert mean_correlation(codes, codes.detach()[:, [2, 0, 1]], ranks) == pytest.approx(1)


@pytest.mark.parametrize("ranks", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_permutation_test_is_that_of_all_orders(ranks, dtype):
    """Of 5 rows there are 120 orders: p is their share, within four standard errors."""
    codes, factors = drawn(5, 3).to(dtype), drawn(5, 2, seed=3).to(dtype)
    score = mean_correlation(codes, factors, ranks)
    every = [
        mean_correlation(codes, factors[list(order)], ranks)
        for order in itertools.permutations(range(5))
    ]
    share = np.mean(np.array(every) >= score - 1e-9)
    found = mcc_permutation_test(codes, factors, ranks, permutations=4_000)
    assert found.score == score and found.null.shape == (4_000,)
    assert abs(found.p_value - share) < 4 * np.sqrt(share * (1 - share) / 4_000) + 1 / 4_000
    # Each score is that of one of the orders.
    far = (found.null[:50, None] - torch.tensor(every, dtype=torch.float64)).abs().min(1).values
    assert float(far.max()) < 1e-9
    assert abs(float(found.null.mean()) - np.mean(every)) < 4 * np.std(every) / 4_000**0.5


def test_the_permutation_test_in_parts_and_by_seed(monkeypatch):
    codes, factors = drawn(40, 3), drawn(40, 2, seed=1)
    state = torch.get_rng_state()
    one, same, other = (
        mcc_permutation_test(codes, factors, permutations=30, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(one.null, same.null) and not torch.equal(one.null, other.null)
    # In parts of 7 orders the draws are the same numbers.
    monkeypatch.setattr(matching_module, "AT_ONCE", 7 * factors.numel())
    parts = mcc_permutation_test(codes, factors, permutations=30)
    torch.testing.assert_close(parts.null, one.null)


def test_the_permutation_test_keeps_its_level_and_sees_a_rotation():
    """Unrelated rows: p is uniform. A rotation is no matching of factors, and is seen."""
    sets = range(100)
    small = [
        mcc_permutation_test(
            drawn(20, 3, seed=2 * s), drawn(20, 3, seed=2 * s + 1), permutations=39
        ).p_value
        for s in sets
    ]
    assert min(small) >= 1 / 40
    # Uniform on 1/40, 2/40, ..: at most 0.1 in 10 of 100, with a deviation of 3.
    assert 1 <= sum(p <= 0.1 + 1e-12 for p in small) <= 22
    assert stats.kstest(small, "uniform").pvalue > 1e-3
    factors = drawn(200, 2)
    turned = factors @ torch.tensor([[1.0, 1.0], [-1.0, 1.0]])
    found = mcc_permutation_test(turned, factors)
    assert found.p_value == 1 / 1001 and found.score < 0.8


def test_the_bias_of_the_mcc_of_unrelated_rows():
    """One code and one factor: E |r| = sqrt(2 / (pi N)) to first order."""
    for rows in (50, 400):
        null = mcc_permutation_test(drawn(rows, 1), drawn(rows, 1, seed=1)).null
        assert float(null.mean()) == pytest.approx((2 / (np.pi * rows)) ** 0.5, rel=0.1)
