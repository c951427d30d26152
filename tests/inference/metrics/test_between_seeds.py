"""MCC on held-out rows, after a linear map, and between fits: by hand and by all exchanges."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.testing import assert_close

from ppl_models.inference.metrics import (
    canonical_correlation,
    correlations,
    held_out_correlation,
    matching,
    mean_correlation,
    seed_agreement,
    seed_permutation_test,
)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def turned():
    """Factors, and the same turned by 45 degrees in a plane and stretched."""
    factors = drawn(400, 3)
    turn = torch.tensor([[1.0, 1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
    return factors, factors @ turn


def test_all_are_one_for_factors_in_another_order_sign_and_scale() -> None:
    factors = drawn(100, 4)
    codes = factors[:, [2, 0, 3, 1]] * torch.tensor([-3.0, 0.1, 7.0, 1.0]) + 5
    for measure in (mean_correlation, held_out_correlation, canonical_correlation):
        assert measure(codes, factors) == pytest.approx(1, abs=1e-6)
        assert measure(codes, factors, ranks=True) == pytest.approx(1, abs=1e-6)


def test_a_linear_map_is_seen_by_the_strong_one_alone() -> None:
    factors, codes = turned()
    assert canonical_correlation(codes, factors) == pytest.approx(1, abs=1e-6)
    # Two thirds of the factors have a correlation of sqrt(1 / 2), up to 4 / sqrt(200).
    assert held_out_correlation(codes, factors) == pytest.approx((2 * 0.5**0.5 + 1) / 3, abs=0.1)


def test_unrelated_codes_are_near_zero() -> None:
    codes, factors = drawn(10_000, 5), drawn(10_000, 5, seed=1)
    for measure in (mean_correlation, held_out_correlation, canonical_correlation):
        assert measure(codes, factors) < 0.03


def test_on_held_out_rows_it_is_the_match_of_the_others_and_lower_on_average() -> None:
    excess = []
    for seed in range(60):
        codes, factors = drawn(40, 4, seed=seed), drawn(40, 3, seed=1000 + seed)
        found = held_out_correlation(codes, factors, seed=seed)
        order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
        one, other = order[:20], order[20:]
        chosen = matching(correlations(codes[one], factors[one]))
        each = [
            abs(float(torch.corrcoef(torch.stack([codes[other, c], factors[other, f]]))[0, 1]))
            for f, c in enumerate(chosen.tolist())
        ]
        assert found == pytest.approx(sum(each) / 3, abs=1e-6)
        excess.append(mean_correlation(codes[other], factors[other]) - found)
    assert min(excess) >= -1e-9 and sum(excess) / 60 > 0.05  # 0.12 of these


def test_agreement_of_fits_with_each_other() -> None:
    factors, codes = turned()
    found = seed_agreement([factors, codes, -2 * codes[:, [1, 2, 0]]])
    assert_close(found, found.T)
    assert found.diagonal().tolist() == [1, 1, 1]
    assert found[1, 2] == pytest.approx(1, abs=1e-6)
    assert found[0, 1] == pytest.approx(mean_correlation(factors, codes))
    weak = seed_agreement([factors, codes], canonical_correlation)
    assert weak[0, 1] == pytest.approx(1, abs=1e-6)


def symmetric(fits, seed):
    table = torch.rand(fits, fits, generator=torch.Generator().manual_seed(seed)).double()
    return (table + table.T) / 2


def within(table, fits):
    pairs = list(itertools.combinations(fits, 2))
    return sum(float(table[i, j]) for i, j in pairs) / len(pairs)


def test_all_exchanges_of_two_data_sets_by_hand() -> None:
    tables = [symmetric(5, 0), symmetric(4, 1)]
    null = []
    for one in itertools.combinations(range(5), 2):
        for other in itertools.combinations(range(4), 2):
            total = 0.0
            for table, chosen in zip(tables, (one, other), strict=True):
                rest = [k for k in range(len(table)) if k not in chosen]
                total += within(table, chosen) - within(table, rest)
            null.append(total / 2)
    found = seed_permutation_test(tables, 2)
    assert found.score == pytest.approx(null[0])
    assert_close(found.null.sort().values, torch.tensor(null).double().sort().values)
    as_large = sum(abs(value) >= abs(null[0]) - 1e-9 for value in null)
    assert found.p_value == pytest.approx(as_large / len(null))


def test_p_values_of_exchanged_fits_are_no_smaller_than_their_share() -> None:
    """Whichever fits are called the first kind, p is at most a in at most a of the cases."""
    table = symmetric(6, 3)
    found = []
    for chosen in itertools.combinations(range(6), 3):
        order = [*chosen, *(k for k in range(6) if k not in chosen)]
        found.append(seed_permutation_test([table[order][:, order]], 3).p_value)
    p = torch.tensor(found).double()
    assert all((p <= a + 1e-9).double().mean() <= a + 1e-9 for a in (0.1, 0.2, 0.5, 1.0))


def test_random_exchanges_come_near_all_of_them() -> None:
    tables = [symmetric(8, 5)]  # 70 exchanges
    exact = seed_permutation_test(tables, 4)
    assert len(exact.null) == 70
    few = seed_permutation_test(tables, 4, permutations=69)
    assert len(few.null) == 69
    at_least_as_large = int((few.null.abs() >= abs(few.score) - 1e-9).sum())
    assert few.p_value == (1 + at_least_as_large) / 70
    error = (exact.p_value * (1 - exact.p_value) / 69) ** 0.5
    assert abs(few.p_value - exact.p_value) < 4 * error + 1 / 70
    again = seed_permutation_test(tables, 4, permutations=69)
    assert torch.equal(again.null, few.null)


def test_fits_of_one_kind_that_alone_agree_are_told() -> None:
    table = torch.full((6, 6), 0.3).double()
    table[:3, :3] = 0.9
    found = seed_permutation_test([table] * 3, 3)
    assert found.score == pytest.approx(0.6)
    assert found.p_value == pytest.approx(2 / 20**3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: held_out_correlation(drawn(3, 2), drawn(3, 2)), "rows is 3, expected at least 4"),
        (lambda: canonical_correlation(drawn(5, 2), drawn(4, 2)), "codes have 5 rows and factors"),
        (lambda: seed_permutation_test([], 2), "agreements is 0, expected at least 1"),
        (lambda: seed_permutation_test([torch.eye(4)], 1), "first is 1, expected at least 2"),
        (lambda: seed_permutation_test([torch.eye(4)], 3), r"shape \(4, 4\), expected .* least 5"),
        (lambda: seed_permutation_test([torch.ones(4, 5)], 2), r"shape \(4, 5\), expected \(S, S"),
        (lambda: seed_permutation_test([torch.full((4, 4), torch.nan)], 2), "is not finite"),
    ],
)
def test_what_cannot_be_compared_is_one_line(call, message) -> None:
    with pytest.raises(ValueError, match=message) as told:
        call()
    assert "\n" not in str(told.value)
