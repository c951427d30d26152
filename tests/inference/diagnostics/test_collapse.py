"""Activity, KL and the average posterior against their closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch.distributions import Categorical, Normal, kl_divergence
from worlds.exact_guides import FAULTS, Fault, Mixture, exact, table_of

from ppl_models import inference
from ppl_models.data import Table


def guide_of(pair, x):
    """q(y | x), and mean and standard deviation of q(z | x, y) ``(B, C, L)``."""
    q = pair.guide.factor("y", {"x": x})
    z = pair.guide.factor("z", {"x": x[:, None], "y": torch.arange(4)}).base_dist
    return q, z


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kl_and_activity_are_those_in_closed_form(dtype):
    pair = exact(FAULTS["narrow"], dtype=dtype)
    table = table_of(pair, 800)
    found = inference.active_units(pair, table, draws=100)
    q, z = guide_of(pair, table.sites["x"])
    p = q.probs.unsqueeze(-1)
    kl = (p * kl_divergence(z, Normal(0.0, 1.0))).sum(1).mean(0).detach()
    np.testing.assert_allclose(found["kl"], kl, atol=0.02)
    prior = Categorical(logits=pair.prior_logits)
    label = kl_divergence(q, prior).detach()
    assert list(found["site"].values) == ["y", "z"]
    np.testing.assert_allclose(found["site_kl"], [label.mean(), kl.sum()], atol=0.03)
    error = label.std() / np.sqrt(800)
    assert float(found["site_kl_error"][0]) == pytest.approx(float(error), rel=0.1)
    activity = (p * z.loc).sum(1).detach().var(0)
    np.testing.assert_allclose(found["activity"], activity, rtol=0.1)
    assert found.attrs == {"active_units": 2, "units": 2}
    assert found["active"].all()
    assert not found["collapsed"].any()


def test_collapsed_codes_are_silent():
    pair = exact(FAULTS["collapsed"])
    found = inference.active_units(pair, table_of(pair, 500))
    assert found["collapsed"].values.tolist() == [False, True]
    assert found.attrs["active_units"] == 0
    assert abs(float(found["site_kl"][1])) < 1e-12
    # The variance of the posterior means is zero, but for what their noise leaves.
    assert (found["activity"] < 0.003).all()


def test_a_code_that_the_model_ignores_is_silent_though_the_guide_is_exact():
    pair = exact()
    with torch.no_grad():
        pair.A[:, 1] = 0.0
        pair.guide.factors["z"].net.world[0].A[:, 1] = 0.0
    found = inference.active_units(pair, table_of(pair, 500))
    assert found["active"].values.tolist() == [True, False]
    assert abs(float(found["kl"][1])) < 1e-12


def test_the_average_posterior_of_an_exact_guide_is_the_prior():
    pair = exact()
    found = inference.aggregate_posterior(pair, table_of(pair, 1000))
    assert (found["p_value"] > 0.01).all()
    assert float(found["mmd_p_value"][0]) > 0.01
    share = pair.prior_logits.softmax(0).detach()
    error = np.sqrt(share * (1 - share) / 1000)
    assert (abs(found["posterior_share"] - share.numpy()) < 4 * error.numpy()).all()


@pytest.mark.parametrize(
    ("fault", "what", "least"),
    [("narrow", "ratio", -0.15), ("wide", "ratio", 0.2), ("biased", "shift", 0.25)],
)
def test_an_average_posterior_off_the_prior_is_caught(fault, what, least):
    pair = exact(FAULTS[fault])
    found = inference.aggregate_posterior(pair, table_of(pair, 1000))
    away = found[what] - (1 if what == "ratio" else 0)
    assert (away * np.sign(least) > abs(least)).all()
    assert (found["p_value"] < 0.05).all()
    assert float(found["mmd_p_value"][0]) < 0.01


def test_labels_off_their_prior_show_in_their_shares():
    pair = exact(FAULTS["wrong labels"])
    found = inference.aggregate_posterior(pair, table_of(pair, 1000))
    expected = pair.prior_logits.softmax(0).roll(1).detach()
    np.testing.assert_allclose(found["posterior_share"], expected, atol=0.06)
    assert list(found["class"].values) == ["y=0", "y=1", "y=2", "y=3"]


def test_false_alarms_of_the_joint_distance():
    alarms = 0
    for seed in range(100):
        pair = exact(seed=seed)
        found = inference.aggregate_posterior(pair, table_of(pair, 60, seed), seed=seed)
        alarms += float(found["mmd_p_value"][0]) <= 0.05
    assert alarms <= binom.ppf(0.999, 100, 0.05)


def test_a_mixture_has_no_units():
    x = torch.linspace(-3, 4, 40, dtype=torch.float64)[:, None]
    table = Table("m", {"x": x})
    found = inference.active_units(Mixture(Fault()), table)
    assert found.attrs["units"] == 0
    q = Categorical(logits=Mixture().logits(x))
    expected = kl_divergence(q, Categorical(logits=Mixture().prior)).mean().detach()
    assert float(found["site_kl"][0]) == pytest.approx(float(expected), abs=0.05)


def test_too_few_rows_are_named():
    pair = exact()
    for call in (inference.active_units, inference.aggregate_posterior):
        with pytest.raises(ValueError, match="rows is 3, expected at least 20"):
            call(pair, table_of(pair, 30), [0, 1, 2])
