"""DCI against the reference's formulas and values, and its edge cases."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from scipy.stats import entropy
from worlds.code_tables import golden

from ppl_models.inference import metrics
from ppl_models.inference.metrics.disentanglement import boosted_trees, boosting
from ppl_models.inference.metrics.disentanglement.boosted_trees import booster, importance_scores


def table(rows: int = 90, seed: int = 0, sizes=(2, 3), dims: int = 3) -> metrics.CodeTable:
    draw = np.random.default_rng(seed)
    factors = np.stack([draw.integers(size, size=rows) for size in sizes], 1)
    codes = 0.4 * draw.normal(size=(rows, dims))
    codes[:, : len(sizes)] += factors[:, :dims]
    return metrics.from_arrays(codes, factors)


@pytest.fixture
def few_rounds(monkeypatch):
    """Trees of 5 rounds: what is asked does not depend on how many there are."""
    fewer = functools.partial(boosting.boosted, rounds=5)
    monkeypatch.setattr(boosted_trees, "boosted", fewer)


@pytest.mark.parametrize("part", ["disentanglement", "completeness"])
def test_scores_of_an_importance_matrix_by_hand(part):
    matrix = np.array([[0.7, 0.1, 0.0], [0.2, 0.1, 0.0], [0.1, 0.6, 1.0], [0.0, 0.2, 0.0]])
    per_code, per_factor, disentanglement, completeness = importance_scores(matrix)
    weights = matrix / matrix.sum()
    of_codes = [1 - entropy(row / row.sum(), base=3) for row in matrix]
    of_factors = [1 - entropy(column, base=4) for column in matrix.T]
    if part == "disentanglement":
        np.testing.assert_allclose(per_code, of_codes, atol=1e-8)
        assert disentanglement == pytest.approx(weights.sum(1) @ of_codes, abs=1e-8)
    else:
        np.testing.assert_allclose(per_factor, of_factors, atol=1e-8)
        assert completeness == pytest.approx(weights.sum(0) @ of_factors, abs=1e-8)


def test_constant_codes_score_0(few_rounds):
    rows = metrics.from_arrays(np.full((30, 2), 1.5), np.arange(60).reshape(30, 2) % 3)
    found = metrics.dci(rows, rows)
    assert found.dci_importance.values.tolist() == [[0, 0], [0, 0]]
    assert float(found.dci_disentanglement) == pytest.approx(0, abs=1e-12)
    assert float(found.dci_completeness) == pytest.approx(0, abs=1e-12)
    assert float(found.dci_informativeness_test) == pytest.approx(1 / 3)


def test_the_golden_values_of_an_aligned_code():
    # R is the identity; 1 less the entropy of 1e-11 beside 1 is 0.9999999993 of the reference
    train, test = (part.rows(slice(0, 100)) for part in golden("axis_aligned"))
    found = metrics.dci(train, test)
    np.testing.assert_allclose(found.dci_importance, np.eye(5), atol=1e-9)
    assert float(found.dci_disentanglement) == pytest.approx(0.9999999993, abs=1e-9)
    assert float(found.dci_completeness) == pytest.approx(0.9999999993, abs=1e-9)
    assert float(found.dci_informativeness_test) == 1


GOLDEN = {  # disentanglement, completeness, informativeness in training and test rows
    "rotated": (0.3143938277, 0.3171372384, 0.9973, 0.9648),
    "constant_codes": (0.9999999993, 0.999999999, 1.0, 0.9982),
}


@pytest.mark.long
@pytest.mark.parametrize("name", GOLDEN)
def test_the_golden_values(name):
    found = metrics.dci(*golden(name))
    names = ("disentanglement", "completeness", "informativeness_train", "informativeness_test")
    scores = [float(found[f"dci_{name}"]) for name in names]
    np.testing.assert_allclose(scores, GOLDEN[name], atol=0.01)


def test_one_code_one_factor_and_factors_of_one_value(few_rounds):
    train, test = table(sizes=(2,)), table(seed=1, sizes=(2,))
    found = metrics.dci(train, test)
    assert np.isnan(found.dci_disentanglement) and 0 < float(found.dci_completeness) < 1
    assert found.dci_completeness.attrs["reason"] == (
        "fewer than two factors have more than one value"
    )
    found = metrics.dci(*(part.with_codes(np.array([1])) for part in (table(), table(seed=1))))
    assert np.isnan(found.dci_completeness)
    # R is a row of ones: nothing tells the factors apart
    assert float(found.dci_disentanglement) == pytest.approx(0)
    assert found.dci_completeness.attrs["reason"] == "there is one code"
    train = table(sizes=(2, 1, 3), dims=4)
    found = metrics.dci(train, train)
    assert np.isnan(found.dci_importance[:, 1]).all()
    assert found.attrs["excluded_factors"] == "y[1]"
    alone = metrics.dci(*[train.with_factors(np.array([0, 2]))] * 2)
    assert float(found.dci_completeness) == pytest.approx(float(alone.dci_completeness), abs=0.01)


def test_a_value_that_only_test_rows_have_is_never_told(few_rounds):
    train, test = table(), table(seed=1)
    unseen = metrics.from_arrays(test.codes, np.full_like(test.factors, 7))
    assert float(metrics.dci(train, unseen).dci_informativeness_test) == 0


def test_codes_in_another_order_give_the_same(few_rounds):
    train, test = table(200), table(200, seed=1)
    order = np.array([2, 0, 1])
    one, other = (
        metrics.dci(train, test),
        metrics.dci(*(of.with_codes(order) for of in (train, test))),
    )
    np.testing.assert_allclose(one.dci_importance[order], other.dci_importance, atol=0.01)
    assert float(one.dci_completeness) == pytest.approx(float(other.dci_completeness), abs=0.01)


def test_trees_are_kept_with_the_table(few_rounds, monkeypatch):
    train = table()
    trees = booster(train, 1, seed=2)
    monkeypatch.setattr(boosted_trees, "boosted", lambda *a: pytest.fail("fitted again"))
    assert booster(train, 1, seed=2) is trees


def test_histogram_boosters_have_a_name_of_their_own(few_rounds):
    train, test = table(400), table(400, seed=1)
    found, exact = metrics.dci_hist(train, test), metrics.dci(train, test)
    assert not set(found.data_vars) & set(exact.data_vars)
    shares = found.dci_hist_importance
    np.testing.assert_allclose(shares.sum("code"), 1)
    # each factor has its code: both kinds of trees agree on that
    assert (shares.argmax("code") == exact.dci_importance.argmax("code")).all()
    assert shares.values.max(0).min() > 0.6
    constant = metrics.from_arrays(np.ones((40, 2)), train.factors[:40])
    assert metrics.dci_hist(constant, constant).dci_hist_importance.values.sum() == 0


def test_other_codes_or_factors_are_refused():
    with pytest.raises(ValueError, match="the test table has 2 codes, expected 3"):
        metrics.dci(table(), table().with_codes(np.array([0, 1])))
    with pytest.raises(ValueError, match="the test table has 1 factors, expected 2"):
        metrics.dci_hist(table(), table().with_factors(np.array([0])))
