"""Explicitness, logistic informativeness and SAP: golden values and scikit-learn's own."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from worlds.code_tables import CODES, VALUES, golden

from ppl_models.inference import metrics


@pytest.mark.parametrize("name", CODES)
def test_golden_values(name):
    train, test = golden(name)
    wanted = VALUES[name]
    found = metrics.explicitness(train, test)
    both = [float(found.explicitness_train), float(found.explicitness_test)]
    assert both == pytest.approx(wanted["explicitness"], abs=0.003)
    told = metrics.logistic_informativeness(train, test)
    both = [float(told[f"logistic_informativeness_{part}"]) for part in ("train", "test")]
    assert both == pytest.approx(wanted["med"]["informativeness"], abs=0.01)
    continuous = float(metrics.sap_continuous(train).sap_continuous)
    assert continuous == pytest.approx(wanted["sap_continuous"], abs=1e-6)
    one = metrics.sap(train, test)
    assert float(one.sap) == pytest.approx(wanted["sap"], abs=0.01)
    if "sap_matrix" in wanted:
        np.testing.assert_allclose(one.sap_matrix, wanted["sap_matrix"], atol=0.01)


def tables(rows=300, values=(2, 4), seed=0):
    source = np.random.default_rng(seed)
    mixing = source.normal(size=(len(values), 4))
    made = []
    for _ in range(2):
        factors = np.stack([source.integers(0, n, rows) for n in values], axis=1)
        noise = source.normal(size=(rows, 4))
        made.append(metrics.from_arrays(factors @ mixing + noise, factors + 3))
    return made


@pytest.mark.parametrize("part", ["train", "test"])
def test_areas_and_shares_are_sklearns(part):
    train, test = tables()
    asked = {"train": train, "test": test}[part]
    scaler = StandardScaler().fit(train.codes)
    areas, shares = [], []
    for k in range(2):
        model = LogisticRegression(max_iter=1_000).fit(
            scaler.transform(train.codes), train.factors[:, k]
        )
        told = model.predict_proba(scaler.transform(asked.codes))
        y = asked.factors[:, k]
        areas.append(
            np.mean([roc_auc_score(y == v, told[:, n]) for n, v in enumerate(model.classes_)])
        )
        shares.append((model.predict(scaler.transform(asked.codes)) == y).mean())
    found = metrics.explicitness(train, test)[f"explicitness_{part}_per_factor"]
    np.testing.assert_allclose(found, areas, atol=1e-9)
    found = metrics.logistic_informativeness(train, test)
    np.testing.assert_allclose(found[f"logistic_informativeness_{part}_per_factor"], shares)


def test_squared_correlations_are_numpys():
    train, _ = tables()
    wanted = np.corrcoef(train.codes.T, train.factors.T)[:4, 4:] ** 2
    found = metrics.sap_continuous(train)
    np.testing.assert_allclose(found.sap_continuous_matrix, wanted, atol=1e-12)
    ranked = np.sort(wanted, axis=0)
    np.testing.assert_allclose(found.sap_continuous_per_factor, ranked[-1] - ranked[-2])


def test_classifiers_are_fitted_once(monkeypatch):
    train, test = tables()
    fitted = []
    original = LogisticRegression.fit
    monkeypatch.setattr(
        LogisticRegression, "fit", lambda self, *a: fitted.append(1) or original(self, *a)
    )
    metrics.explicitness(train, test)
    metrics.logistic_informativeness(train, test)
    assert len(fitted) == 2


@pytest.mark.parametrize("metric", ["explicitness", "logistic_informativeness", "sap"])
def test_tables_of_other_codes_or_factors(metric):
    train, test = tables()
    ask = getattr(metrics, metric)
    with pytest.raises(ValueError, match="the test table has 3 codes, expected 4"):
        ask(train, test.with_codes([0, 1, 2]))
    with pytest.raises(
        ValueError, match=r"factors of the test table have 'y\[1\]', expected 'y\["
    ):
        ask(train, test.with_factors([1, 0]))


def test_no_global_random_state_is_used_or_changed():
    train, test = tables()
    found = []
    for seed in (0, 1):
        np.random.seed(seed)
        before = np.random.get_state()[1].copy()
        found.append(metrics.sap(train, test).sap_matrix.values)
        metrics.explicitness(train, test)
        assert (np.random.get_state()[1] == before).all()
    np.testing.assert_array_equal(*found)
