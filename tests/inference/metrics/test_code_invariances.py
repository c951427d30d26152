"""What must not change a metric of a table of codes: their order, and maps of each alone."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from worlds.code_tables import independent_factors, unit

from ppl_models.inference import metrics

ORDER = np.array([3, 0, 5, 1, 4, 2])
# Metrics of one table, those of two, and those that change with the scale of a code.
OF_TRAIN = (
    *("mig", "modularity", "med", "med_miller_madow", "irs", "sap_continuous"),
    *("unconfoundedness", "unsupervised_scores"),
)
OF_BOTH = ("explicitness", "sap")
OF_SCALE = ("irs", "unsupervised_scores", "sap")
WITHIN = {"explicitness": 1e-3, "sap": 0.01}


def random_tables(change=lambda z: z):
    """Two tables of six codes that mix five factors, with noise."""
    source = np.random.RandomState(5)
    mixing = source.normal(size=(5, 6))
    made = []
    for rows in (600, 300):
        factors = independent_factors(source, rows)
        codes = unit(factors) @ mixing + 0.5 * source.normal(size=(rows, 6))
        made.append(metrics.from_arrays(change(codes), factors))
    return made


def asked(name, train, test):
    metric = getattr(metrics, name)
    if name == "unconfoundedness":
        metric = partial(metric, rho=(1, 2, 3))
    return metric(train, test) if name in OF_BOTH else metric(train)


@pytest.mark.parametrize("name", OF_TRAIN + OF_BOTH)
def test_the_order_of_codes(name):
    plain = asked(name, *random_tables())
    moved = asked(name, *random_tables(lambda z: z[:, ORDER]))
    for key, values in moved.items():
        wanted = plain[key]
        if "code" in wanted.dims:
            wanted = wanted.isel(code=ORDER)
        np.testing.assert_allclose(values, wanted, atol=WITHIN.get(name, 1e-9), err_msg=key)


@pytest.mark.parametrize("name", [n for n in OF_TRAIN + OF_BOTH if n not in OF_SCALE])
def test_scale_and_place_of_each_code(name):
    by, to = np.array([1e-3, -2.0, 50.0, -1.0, 0.3, 7.0]), np.array([0, 5.0, -300.0, 1, 2, -0.1])
    plain = asked(name, *random_tables())
    mapped = asked(name, *random_tables(lambda z: z * by + to))
    for key, values in mapped.items():
        np.testing.assert_allclose(values, plain[key], atol=WITHIN.get(name, 1e-9), err_msg=key)


def test_what_scale_and_place_leave_of_irs_and_of_scores_without_factors():
    """IRS of each code, and all but the Wasserstein dependence; IRS weighs codes by reach."""
    by, to = np.array([1e-3, -2.0, 50.0, -1.0, 0.3, 7.0]), 10.0
    plain, mapped = (random_tables(f)[0] for f in (lambda z: z, lambda z: z * by + to))
    for key in ("irs_per_code", "irs_matrix"):
        np.testing.assert_allclose(metrics.irs(mapped)[key], metrics.irs(plain)[key], atol=1e-9)
    one, other = (metrics.unsupervised_scores(table) for table in (plain, mapped))
    for key in ("gaussian_total_correlation", "mutual_information_score"):
        assert float(other[key]) == pytest.approx(float(one[key]), abs=1e-9)
    same = random_tables(lambda z: 4 * z + to)[0]
    for key in ("gaussian_wasserstein_normalised",):
        found = metrics.unsupervised_scores(same)[key]
        assert float(found) == pytest.approx(float(one[key]), abs=1e-9)
    assert float(metrics.irs(same).irs) == pytest.approx(float(metrics.irs(plain).irs), abs=1e-9)
