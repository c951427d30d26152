"""Downstream tasks against brute force, closed forms and scikit-learn."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import KFold

from ppl_models.inference import metrics
from ppl_models.inference.metrics.disentanglement import boosted_trees, boosting, told_factors
from ppl_models.inference.metrics.disentanglement.downstream_tasks import total_variations
from ppl_models.inference.metrics.disentanglement.told_factors import chosen_logistic


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Trees of 3 rounds and two strengths of regularisation."""
    fewer = functools.partial(boosting.boosted, rounds=3)
    monkeypatch.setattr(boosted_trees, "boosted", fewer)
    monkeypatch.setattr(told_factors, "STRENGTHS", np.array([0.01, 10.0]))


def separate(rows: int = 120, seed: int = 0, sizes=(2, 3), noise: float = 0.05):
    """A code for each factor, and one of noise."""
    draw = np.random.default_rng(seed)
    factors = np.stack([draw.integers(size, size=rows) for size in sizes], 1)
    codes = np.concatenate([2.0 * factors, draw.normal(size=(rows, 1))], 1)
    return metrics.from_arrays(codes + noise * draw.normal(size=codes.shape), factors)


def test_chosen_as_by_scikit_learn(monkeypatch):
    monkeypatch.setattr(told_factors, "STRENGTHS", np.logspace(-4, 4, 10))
    draw = np.random.default_rng(0)
    codes = draw.normal(size=(150, 3))
    labels = np.digitize(codes @ [1.0, 0.5, 0.0] + draw.normal(size=150), [-0.5, 0.5])
    theirs = LogisticRegressionCV(
        Cs=10, cv=KFold(5), scoring="accuracy", solver="newton-cholesky",
        l1_ratios=(0,), use_legacy_attributes=False,
    ).fit(codes, labels)  # fmt: skip
    asked = draw.normal(size=(300, 3))
    assert (chosen_logistic(codes, labels)(asked) == theirs.predict(asked)).all()


def test_few_rows_without_some_classes():
    train, test = separate(), separate(seed=1)
    found = metrics.downstream(train, test, sizes=(5, 120))
    matrix = found.downstream_logistic_test_per_factor
    assert matrix.sel(size=120).values.tolist() == [1, 1]
    assert found.downstream_logistic_test_min.sel(size=5) == matrix.sel(size=5).min()
    assert float(found.downstream_logistic_test.sel(size=5)) < 1
    # a table of one row many times: what it shows is all that is told
    same = train.rows(np.zeros(6, int))
    told = metrics.from_arrays(same.codes, np.r_[same.factors[:5], 1 - same.factors[:1] % 2])
    share = metrics.downstream(told, test, sizes=(6,), classifier="boosting")
    expected = (test.factors == told.factors[0]).mean(0)
    assert np.allclose(share.downstream_boosting_test_per_factor[0], expected)


def test_statistical_efficiency_and_sizes_that_there_are_not(monkeypatch):
    train, test = separate(130), separate(seed=1)
    found = metrics.downstream(train, test, sizes=(100, 10_000))
    assert np.isnan(found.statistical_efficiency_logistic)
    assert np.isnan(found.downstream_logistic_train).values.tolist() == [False, True]
    assert found.downstream_logistic_test.attrs["reason"] == "the training table has 130 rows"
    monkeypatch.setattr("ppl_models.inference.metrics.disentanglement.downstream_tasks.MANY", 130)
    monkeypatch.setattr("ppl_models.inference.metrics.disentanglement.downstream_tasks.FEW", 5)
    found = metrics.downstream(train, test, sizes=(5, 130))
    five, all_rows = found.downstream_logistic_test.values
    assert float(found.statistical_efficiency_logistic) == five / all_rows < 1


def test_all_rows_are_told_by_the_trees_of_dci(monkeypatch):
    train, test = separate(), separate(seed=1)
    whole = metrics.dci(train, test, seed=4)
    monkeypatch.setattr(boosted_trees, "boosted", lambda *a: pytest.fail("fitted again"))
    found = metrics.downstream(train, test, sizes=(120,), classifier="boosting", seed=4)
    np.testing.assert_array_equal(
        found.downstream_boosting_test_per_factor[0],
        whole.dci_informativeness_test_per_factor,
    )


@pytest.mark.parametrize("classifier", ["logistic", "boosting"])
def test_without_its_code_a_factor_is_lost_and_others_are_not(classifier):
    found = metrics.reduced_downstream(separate(), separate(seed=1), classifier=classifier)
    matrix = found[f"reduced_downstream_{classifier}_matrix"].values
    assert matrix[0, 1] == matrix[1, 0] == 1
    assert matrix[0, 0] < 0.7 and matrix[1, 1] < 0.6  # chance is 1/2 and 1/3
    assert float(found[f"reduced_downstream_{classifier}_others"]) == 1
    assert float(found[f"reduced_downstream_{classifier}_own"]) == np.diag(matrix).mean()


def test_two_codes_are_taken_one_after_the_other():
    table = separate()
    twice = metrics.from_arrays(np.c_[table.codes, table.codes[:, :1] * 2 + 1], table.factors)
    kept = metrics.reduced_downstream(twice, twice, removed=1)
    gone = metrics.reduced_downstream(twice, twice, removed=2)
    assert float(kept.reduced_downstream_logistic_matrix[0, 0]) == 1
    assert float(gone.reduced_downstream_logistic_matrix[0, 0]) < 0.7
    with pytest.raises(ValueError, match="removed is 4, expected fewer than 4 codes"):
        metrics.reduced_downstream(twice, twice, removed=4)


def shifted(rows: int = 200, seed: int = 0):
    """Whether the code of the first factor is large depends on the second factor."""
    draw = np.random.default_rng(seed)
    factors = draw.integers(2, size=(rows, 2))
    codes = (factors[:, :1] * 2 - 1) * (1 - 2 * factors[:, 1:])
    return metrics.from_arrays(np.c_[codes, 10 * factors[:, 1]], factors)


def test_the_gap_of_a_code_that_turns_round():
    train, test = shifted(), shifted(seed=1)
    found = metrics.strong_downstream(train, test, repetitions=2, classifier="boosting")
    # told from the code's sign in one half, the first factor is told wrong in the other
    shifted_factors = found.strong_downstream_boosting_shifted_per_factor.values
    assert shifted_factors[0] == 0
    assert found.strong_downstream_boosting_ordinary_per_factor.values.tolist() == [1, 1]
    assert float(found.strong_downstream_boosting_gap) == pytest.approx(1 - shifted_factors.mean())


def test_a_shift_changes_nothing_of_separate_codes():
    found = metrics.strong_downstream(separate(), separate(seed=1), repetitions=2)
    assert float(found.strong_downstream_logistic_gap) == 0
    one = separate(sizes=(2,))
    found = metrics.strong_downstream(one, one, repetitions=1)
    assert np.isnan(found.strong_downstream_logistic_gap)
    assert "fewer than two" in found.strong_downstream_logistic_gap.attrs["reason"]


def test_total_variation_by_brute_force():
    draw = np.random.default_rng(0)
    guesses, groups = draw.integers(4, size=60), draw.integers(3, size=60) * 5
    found, rows = total_variations(guesses, groups)
    for at, group in enumerate((0, 5, 10)):
        of = guesses[groups == group]
        distances = [abs((of == g).mean() - (guesses == g).mean()) for g in range(4)]
        assert found[at] == pytest.approx(sum(distances) / 2)
        assert rows[at] == len(of)


def test_noise_in_total_variation_is_as_documented():
    draw = np.random.default_rng(0)
    rows, values, classes = 400, 8, 4
    groups = np.repeat(np.arange(values), rows)
    found = np.mean(
        [total_variations(draw.integers(classes, size=len(groups)), groups)[0] for _ in range(50)]
    )
    assert found == pytest.approx(np.sqrt((classes - 1) / (2 * np.pi * rows)), rel=0.1)


@pytest.mark.parametrize("classifier", ["logistic", "boosting"])
def test_fairness_of_a_table_by_hand(classifier):
    # factor 0 is told from a code that is factor 1 as well: its predictions are factor 1
    grid = np.array([(0, 0), (1, 1), (0, 0), (1, 1), (0, 0), (1, 1)] * 10)
    train = metrics.from_arrays(grid[:, 1:] * 1.0, grid)
    test = metrics.from_arrays([[0.0], [0.0], [0.0], [1.0]], [(0, 0), (1, 0), (0, 0), (1, 1)])
    found = metrics.fairness(train, test, classifier)
    # predictions 0, 0, 0, 1: overall (3/4, 1/4); factor 1 is 0: (1, 0), 1: (0, 1)
    mean, most = (found[f"fairness_{classifier}_{of}_matrix"].values for of in ("mean", "max"))
    assert mean[0, 1] == pytest.approx((3 * 0.25 + 0.75) / 4)
    assert most[0, 1] == pytest.approx(0.75)
    # factor 1 by factor 0: rows 0 and 2 (1, 0); rows 1 and 3 (1/2, 1/2)
    assert mean[1, 0] == pytest.approx(0.25) and most[1, 0] == pytest.approx(0.25)
    assert np.isnan(np.diag(mean)).all() and np.isnan(np.diag(most)).all()
    assert float(found[f"fairness_{classifier}_mean"]) == pytest.approx(np.nanmean(mean))
    assert float(found[f"fairness_{classifier}_max"]) == pytest.approx(0.75)


def test_seeds_decide_and_nothing_else():
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    train, test = separate(noise=2.0), separate(seed=1, noise=2.0)
    runs = [metrics.strong_downstream(train, test, 2, "boosting", s) for s in (0, 0, 1)]
    assert runs[0].equals(runs[1]) and not runs[0].equals(runs[2])
    assert (np.random.get_state()[1] == before).all()


def test_what_is_refused():
    table = separate(20)
    with pytest.raises(ValueError, match="classifier is 'tree', expected 'logistic' or"):
        metrics.fairness(table, table, "tree")
    with pytest.raises(ValueError, match="sizes"):
        metrics.downstream(table, table, sizes=(4,))
    with pytest.raises(ValueError, match="the test table has 2 codes, expected 3"):
        metrics.downstream(table, table.with_codes(np.array([0, 1])))
