"""What metrics of a table of codes give where their formulas have no value."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import xarray as xr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ppl_models.inference import metrics

ROWS = 400
OF_TRAIN = (
    *("mig", "modularity", "med", "med_miller_madow", "irs", "unconfoundedness"),
    *("sap_continuous", "mutual_information", "unsupervised_scores"),
)
OF_BOTH = ("explicitness", "logistic_informativeness", "sap")


def arrays(seed: int, values=(3, 4), codes: int = 3):
    """Factors, and codes of which the last leans on both."""
    source = np.random.default_rng(seed)
    factors = np.stack([source.integers(0, n, ROWS) for n in values], axis=1)
    z = source.normal(size=(ROWS, codes))
    for code in range(codes):
        z[:, code] += factors[:, code % len(values)]
    z[:, -1] += factors.sum(1)
    return z, factors


def tables(change=lambda z, y: (z, y), **options):
    """Train and test, both changed in the same way."""
    return tuple(metrics.from_arrays(*change(*arrays(seed, **options))) for seed in (0, 1))


def everything(train, test) -> xr.Dataset:
    """All metrics, with the warnings that they may give."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "[0-9]+ of [0-9]+ codes are constant", UserWarning)
        found = [getattr(metrics, name)(train) for name in OF_TRAIN]
    found += [getattr(metrics, name)(train, test) for name in OF_BOTH]
    return xr.merge(found, combine_attrs="override")


def equal(one: xr.Dataset, other: xr.Dataset, without=(), within: float = 1e-9) -> None:
    """All numbers without codes and factors are the same, but for some."""
    for name in set(one.data_vars) - set(without):
        if not {"code", "factor"} & set(one[name].dims):
            np.testing.assert_allclose(one[name], other[name], atol=within, err_msg=name)


def beside(value: float, noise: float = 0.0):
    """Adds a code that is constant, up to rounding."""

    def change(z, y):
        added = value + noise * np.random.default_rng(9).normal(size=(len(z), 1))
        return np.concatenate([added, z], axis=1), y

    return change


@pytest.mark.parametrize(("value", "noise"), [(0.0, 0.0), (1.5, 1e-12), (1e8, 1e-3)])
def test_a_constant_code(value, noise):
    """It tells nothing: only what averages over all codes, or counts them, changes."""
    plain, added = everything(*tables()), everything(*tables(beside(value, noise)))
    counted = ("modularity", "mutual_information_score", "med_completeness")
    counted += ("med_miller_madow_completeness", "gaussian_total_correlation")
    equal(added, plain, counted, 1e-6)
    assert float(added.modularity) == pytest.approx(float(plain.modularity) * 3 / 4)
    assert added.modularity_per_code[0] == 0
    assert float(added.mutual_information_score) == pytest.approx(
        float(plain.mutual_information_score) / 2
    )
    assert np.isnan(added.gaussian_total_correlation)
    assert float(added.gaussian_total_correlation_active) == pytest.approx(
        float(plain.gaussian_total_correlation)
    )
    assert (added.mutual_information[0] == 0).all() and (added.sap_continuous_matrix[0] == 0).all()
    assert np.isnan(added.irs_matrix[0]).all() and added.irs_parent[0] == -1
    assert added.irs_active_codes == 3 and added.sizes["code"] == 4
    assert not added.unconfoundedness_codes[..., 0].any()


def test_all_codes_constant():
    found = everything(*tables(lambda z, y: (np.ones_like(z), y)))
    zero = ("mig", "modularity", "irs", "sap", "sap_continuous", "gaussian_wasserstein")
    assert [float(found[name]) for name in zero] == [0.0] * len(zero)
    assert float(found.explicitness_test) == 0.5 and found.irs_active_codes == 0
    assert float(found.gaussian_total_correlation_active) == 0
    assert np.isnan(found.med) and np.isnan(found.gaussian_wasserstein_normalised)
    assert found.med.attrs["without_information"] == "y[0], y[1]"
    assert np.isnan(found.unconfoundedness).all()


def test_one_code():
    found = everything(*tables(codes=1))
    nats, entropy = found.mutual_information[0], found.factor_entropy
    np.testing.assert_allclose(found.mig_per_factor, nats / entropy)
    np.testing.assert_allclose(found.sap_per_factor, found.sap_matrix[0])
    np.testing.assert_allclose(found.sap_continuous_per_factor, found.sap_continuous_matrix[0])
    # All of each factor's information is the one code's, which so tells of both alike.
    assert np.isnan(found.med_completeness) and float(found.med) == pytest.approx(0, abs=1e-9)
    assert np.isnan(found.mutual_information_score) and float(found.gaussian_wasserstein) == 0
    assert float(found.gaussian_total_correlation) == 0
    assert float(found.unconfoundedness.sel(rho=1)) == 0


def test_one_factor():
    train, test = tables(values=(4,))
    found = everything(train, test)
    for name in ("modularity", "med", "med_miller_madow", "unconfoundedness"):
        assert np.isnan(found[name]).all()
        assert "fewer than two factors" in found[name].attrs["reason"]
    nats = found.mutual_information.values[:, 0]
    shares = nats / nats.sum()
    even = -(shares * np.log(shares)).sum() / np.log(3)
    assert float(found.med_completeness) == pytest.approx(1 - even, abs=1e-9)
    assert not found.med_kept.any()
    for name, values in (
        ("mig", nats / float(found.factor_entropy[0])),
        ("sap", found.sap_matrix.values[:, 0]),
        ("sap_continuous", found.sap_continuous_matrix.values[:, 0]),
    ):
        _, second, first = np.sort(values)
        assert float(found[name]) == pytest.approx(first - second, abs=1e-12), name
    reach = np.abs(train.codes - train.codes.mean(0)).max(0)
    irs = np.average(found.irs_matrix.values[:, 0], weights=reach)
    assert float(found.irs) == pytest.approx(irs, abs=1e-12)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    told = probe.fit(train.codes, train.factors[:, 0]).predict_proba(test.codes)
    area = roc_auc_score(test.factors[:, 0], told, multi_class="ovr", average="macro")
    assert float(found.explicitness_test) == pytest.approx(area, abs=1e-3)


def test_a_factor_of_one_value():
    """It is left out and listed, and the others are as without it."""
    plain = everything(*tables())
    found = everything(*tables(lambda z, y: (z, np.insert(y, 1, 7, axis=1))))
    equal(found, plain)
    assert found.attrs["excluded_factors"] == "y[1]"
    for name, of in found.items():
        if of.dims == ("factor",) and name != "factor_entropy":
            assert np.isnan(of[1]), name
            np.testing.assert_allclose(of[[0, 2]], plain[name], rtol=1e-12, err_msg=str(name))
    assert np.isnan(found.sap_matrix[:, 1]).all() and np.isnan(found.irs_matrix[:, 1]).all()
    assert np.isnan(found.med_importance[:, 1]).all() and 1 not in found.irs_parent


def test_factors_of_one_value_alone():
    found = everything(*tables(lambda z, y: (z, np.zeros_like(y))))
    none = ("mig", "modularity", "med", "med_completeness", "irs", "sap", "sap_continuous")
    none += ("explicitness_train", "logistic_informativeness_test")
    assert all(np.isnan(found[name]) for name in none)
    assert found.irs.attrs["reason"] == "no factor has more than one value"


@pytest.mark.parametrize("lacking", ["train", "test"])
def test_a_value_that_one_table_lacks(lacking):
    """Areas are averaged over the values of both, and its rows still belong to the rest."""
    both = dict(zip(("train", "test"), tables(), strict=True))
    both[lacking] = both[lacking].rows(both[lacking].factors[:, 1] != 2)
    train, test = both["train"], both["test"]
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000))
    told = model.fit(train.codes, train.factors[:, 1]).predict_proba(test.codes)
    areas = [
        roc_auc_score(test.factors[:, 1] == value, told[:, list(model.classes_).index(value)])
        for value in (0, 1, 3)
    ]
    found = metrics.explicitness(train, test)
    assert found.explicitness_test.attrs["without_value"] == "y[1] = 2"
    assert float(found.explicitness_test_per_factor[1]) == pytest.approx(np.mean(areas))


def test_a_factor_of_one_value_in_the_test_rows():
    train, test = tables()
    found = metrics.explicitness(train, test.rows(test.factors[:, 1] == 1))
    assert np.isnan(found.explicitness_test_per_factor[1])  # there is no rest
    assert found.explicitness_test == found.explicitness_test_per_factor[0]


def test_a_factor_of_which_no_code_tells_anything():
    """Each of its values comes with each code equally often."""

    def change(z, y):
        code = np.tile([0.0, 0.0, 1.0, 1.0], len(z) // 4)
        other = np.repeat([0.0, 1.0], len(z) // 2)
        factors = np.stack([code, np.tile([0, 1], len(z) // 2), other], 1)
        return np.stack([code, other], 1), factors.astype(int)

    found = metrics.med(tables(change)[0])
    assert found.med.attrs["without_information"] == "y[1]"
    assert np.isnan(found.med_importance[:, 1]).all()
    assert float(found.med) == pytest.approx(1, abs=1e-9)


def test_a_code_without_information_fills_a_place_of_the_first_factor():
    """As in the released code; which codes were kept is listed."""

    def change(z, y):
        still = np.zeros((len(z), 2))
        return np.concatenate([still, y + 0.0], axis=1), y

    found = metrics.med(tables(change)[0])
    kept = [np.flatnonzero(line).tolist() for line in found.med_kept.values]
    assert kept == [[2, 3], [0, 2, 3]]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_codes_that_are_not_finite(value):
    codes, factors = arrays(0)
    codes[5, 1] = value
    with pytest.raises(ValueError, match=rf"code 'z\[1\]' is {value} in row 5, expected a finite"):
        metrics.from_arrays(codes, factors)
