"""IRS and unconfoundedness: golden values, and brute force over values and sets."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from worlds.code_tables import CODES, VALUES, golden

from ppl_models.inference import metrics
from ppl_models.inference.metrics.disentanglement.interventional import irs_matrix, strongest_codes


def drawn(rows=400, seed=0):
    """Seven codes and three factors, one of them with more values than bins."""
    source = np.random.default_rng(seed)
    factors = np.stack([source.integers(0, n, rows) for n in (3, 5, 50)], axis=1)
    return source.normal(size=(rows, 7)) + factors[:, [0, 1, 2, 0, 1, 2, 0]] / 2, factors


@pytest.mark.parametrize("name", CODES)
def test_golden_values(name):
    table, _ = golden(name)
    wanted = VALUES[name]
    found = metrics.irs(table)
    scores = [float(found.irs), float(metrics.irs(table, quantile=1.0).irs)]
    assert scores == pytest.approx(wanted["irs"], abs=1e-6)
    assert found.irs_active_codes == wanted["irs_active"]
    if "irs_per_code" in wanted:
        known = found.irs_per_code.notnull().values
        np.testing.assert_allclose(found.irs_per_code[known], wanted["irs_per_code"], atol=1e-6)
        assert found.irs_parent[known].values.tolist() == wanted["irs_parents"]
    uc = metrics.unconfoundedness(table, rho=(1, 2)).unconfoundedness
    assert uc.values == pytest.approx(wanted["uc"], abs=1e-6)


@pytest.mark.parametrize("bins", [20, None])
@pytest.mark.parametrize("quantile", [0.5, 0.99, 1.0])
def test_irs_by_loops(quantile, bins):
    codes, factors = drawn()
    matrix = np.empty((7, 3))
    for k, column in enumerate(factors.T):
        groups = column
        if bins is not None:
            groups = np.digitize(column, np.histogram(column, bins)[1][:-1])
        for d, z in enumerate(codes.T):
            spreads = [
                np.quantile(abs(z[groups == g] - z[groups == g].mean()), quantile)
                for g in set(groups)
            ]
            matrix[d, k] = 1 - np.mean(spreads) / abs(z - z.mean()).max()
    found = metrics.irs(metrics.from_arrays(codes, factors), quantile, bins)
    np.testing.assert_allclose(found.irs_matrix, matrix, atol=1e-12)
    reach = abs(codes - codes.mean(0)).max(0)
    assert float(found.irs) == pytest.approx(reach @ matrix.max(1) / reach.sum(), abs=1e-12)


def test_more_values_than_bins_are_joined_or_not():
    codes, factors = drawn()
    table = metrics.from_arrays(codes, factors)
    joined, apart = (metrics.irs(table, bins=bins) for bins in (20, None))
    assert joined.irs.attrs["bins"] == 20 and apart.irs.attrs["bins"] == "none"
    few = {"factor": [0, 1]}
    np.testing.assert_array_equal(joined.irs_matrix[few], apart.irs_matrix[few])
    assert (abs(joined.irs_matrix - apart.irs_matrix).isel(factor=2) > 1e-3).all()


def test_unconfoundedness_by_sets():
    table = metrics.from_arrays(*drawn())
    matrix = irs_matrix(table)
    found = metrics.unconfoundedness(table, rho=range(1, 8))
    for rho in range(1, 8):
        sets = [set(sorted(range(7), key=lambda d: -matrix[d, k])[:rho]) for k in range(3)]
        overlap = [len(a & b) / len(a | b) for a, b in itertools.combinations(sets, 2)]
        one = found.sel(rho=rho)
        assert float(one.unconfoundedness) == pytest.approx(1 - np.mean(overlap), abs=1e-12)
        told = [set(np.flatnonzero(line)) for line in one.unconfoundedness_codes.values]
        assert told == sets
    assert float(found.unconfoundedness.sel(rho=7)) == 0  # every factor has all codes


def test_of_equal_codes_the_first_is_taken():
    codes, factors = drawn()
    twice = np.concatenate([codes[:, :3], -2 * codes[:, :3] + 7], axis=1)
    sets = strongest_codes(metrics.from_arrays(twice, factors), 1)
    assert not sets[:, 3:].any() and (sets.sum(1) == 1).all()


@pytest.mark.parametrize("seed", range(3))
def test_codes_of_one_factor_each_are_told_apart_up_to_their_number(seed):
    source = np.random.default_rng(seed)
    factors = source.integers(0, 4, (500, 4))
    table = metrics.from_arrays(factors + 1e-3 * source.normal(size=(500, 4)), factors)
    found = metrics.unconfoundedness(table, rho=(1, 2)).unconfoundedness
    assert float(found[0]) == 1
    # Of two codes, each factor's second is any of the others: overlaps of 1 / 3 or of none or all.
    assert float(found[1]) < 1


def test_options_that_cannot_be():
    table = metrics.from_arrays(*drawn())
    with pytest.raises(ValueError, match="quantile is 0, expected a number above 0 and at most 1"):
        metrics.irs(table, quantile=0)
    with pytest.raises(ValueError, match="bins is 1, expected at least 2"):
        metrics.irs(table, bins=1)
    with pytest.raises(ValueError, match="rho is 8, expected at most the number of codes, 7"):
        metrics.unconfoundedness(table, rho=(1, 8))
    with pytest.raises(ValueError, match="rho is 0, expected at least 1"):
        metrics.unconfoundedness(table, rho=(0,))
    with pytest.raises(ValueError, match=r"rho is 2, expected whole numbers, such as \(1, 2\)"):
        metrics.unconfoundedness(table, rho=2)
