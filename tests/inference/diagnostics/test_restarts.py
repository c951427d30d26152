"""Agreement of restarts: R-hat against ArviZ, label switching, and restarts that differ."""

from __future__ import annotations

import arviz as az
import numpy as np
import pytest
import torch
import xarray as xr
from worlds.exact_guides import FAULTS, Mixture, exact, table_of
from worlds.linear import linear

from ppl_models import inference
from ppl_models.data import Table
from ppl_models.inference.diagnostics import restarts

ORDER = [2, 0, 3, 1]


def switched(sign: float = -1.0):
    """The exact pair with its classes in another order and its codes mirrored."""
    pair, new = exact(), exact()
    with torch.no_grad():
        new.means.copy_(pair.means[ORDER])
        new.prior_logits.copy_(pair.prior_logits[ORDER])
        new.A.mul_(sign)
    new.guide.factors["y"].net.logits = lambda x: new.log_evidence(x)[0]
    new.guide.factors["z"].net.world = [new]
    return new


def test_rhat_is_arviz_s_without_splitting():
    g = np.random.default_rng(0)
    values = g.normal(size=(4, 400, 3)) + np.array([0, 0.3, 0, 0])[:, None, None]
    values[2, :, 1] *= 2
    ours = restarts.rhat(values)
    # ArviZ splits each chain in two, which for independent draws changes little.
    dataset = xr.Dataset({"x": (("chain", "draw", "k"), values)})
    np.testing.assert_allclose(ours - 1, az.rhat(dataset)["x"].values - 1, rtol=0.5)
    same = g.normal(size=(4, 400, 200))
    assert restarts.rhat(same).mean() == pytest.approx(1.0, abs=0.003)
    flat = np.zeros((2, 5, 2))
    flat[1, :, 1] = 1.0
    np.testing.assert_array_equal(restarts.rhat(flat), [1.0, np.inf])


def test_switched_classes_and_mirrored_codes_agree_once_matched():
    pair = exact()
    table = table_of(pair, 60)
    found = inference.agreement([pair, switched(), pair], table, switched=["y"])
    # Class c of the first is where ORDER holds c.
    assert found["y_classes"].values.tolist() == [[0, 1, 2, 3], [1, 3, 0, 2], [0, 1, 2, 3]]
    assert float(found["y_distance"].max()) < 1e-12
    assert float(found["rhat"].max()) < 1.05
    np.testing.assert_allclose(found["elbo"][0], found["elbo"][1], atol=1e-9)
    assert found["datum"].values.tolist() == list(range(100, 160))
    names = ["log p(x)", "E[x][0]", "E[x][1]", "E[x][2]", "y=0", "y=1", "y=2", "y=3"]
    assert list(found["quantity"].values) == names


def test_a_label_that_was_ever_observed_is_not_matched():
    pair = exact()
    found = inference.agreement([pair, switched()], table_of(pair, 60))
    assert found["y_classes"].values.tolist() == [[0, 1, 2, 3]] * 2
    assert float(found["rhat"].sel(quantity="y=0").max()) > 2
    assert float(found["y_distance"].max()) > 0.9


def test_labels_of_a_mixture_are_matched_by_default():
    one, two = Mixture(), Mixture()
    with torch.no_grad():
        two.means.copy_(one.means.flip(0))
        two.prior.copy_(one.prior.flip(0))
    table = Table("m", {"x": torch.linspace(-4, 5, 50, dtype=torch.float64)[:, None]})
    found = inference.agreement([one, two], table)
    assert found["y_classes"].values.tolist() == [[0, 1, 2], [2, 1, 0]]
    assert float(found["y_distance"].max()) < 1e-12


@pytest.mark.parametrize(
    ("fault", "quantity", "least"),
    [("biased", "E[x][2]", 1.05), ("collapsed", "E[x][2]", 1.05), ("wrong labels", "y=0", 1.5)],
)
def test_a_restart_that_ended_elsewhere_is_caught(fault, quantity, least):
    pair, other = exact(), exact(FAULTS[fault])
    table = table_of(pair, 60)
    found = inference.agreement([pair, other], table, draws=400)
    assert float(found["rhat"].sel(quantity=quantity).mean()) > least
    # Their bounds differ by KL(q || p), which is what the second lost.
    assert float((found["elbo"][0] - found["elbo"][1]).mean()) > 0.2


def test_false_alarms_of_restarts_that_agree():
    pair = exact()
    found = inference.agreement([pair] * 4, table_of(pair, 250), draws=200)
    assert float((found["rhat"] > 1.05).mean()) < 0.01


def test_bad_options_are_named():
    pair = exact()
    table = table_of(pair, 20)
    for call, words in (
        (lambda: inference.agreement([pair], table), "fits is 1, expected at least 2"),
        (lambda: inference.agreement([pair, pair], table, switched=["k"]), "label 'k'"),
        (lambda: inference.agreement([pair, linear(classes=3)], table), "fit 1 .* 'y of 3'"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
