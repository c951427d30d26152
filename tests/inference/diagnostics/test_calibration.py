"""Bands, simulation-based calibration and label calibration, on guides with known faults."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import nn
from worlds.exact_guides import FAULTS, Fault, Mixture, exact, table_of
from worlds.shared_sites import shared

from ppl_models import guides, inference
from ppl_models.inference.diagnostics import calibration, uniform_bands

SURE = 0.999


def test_probability_of_a_path_is_the_sum_over_all_of_them():
    low, high, count = np.array([0, 1, 2]), np.array([2, 3, 4]), 4
    where, total = uniform_bands.points(count), 0.0
    np.testing.assert_allclose(where, [0.25, 0.5, 0.75])
    for cells in itertools.product(range(4), repeat=count):
        below = np.array([sum(cell <= edge for cell in cells) for edge in range(3)])
        total += ((below >= low) & (below <= high)).all() / 4**count
    assert uniform_bands.inside(count, low, high) == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("count", [40, 300, 3000])
def test_bands_hold_as_often_as_they_say(count):
    low, high = uniform_bands.band(count, 0.95)
    u = np.random.default_rng(0).random((1000, count))
    share = uniform_bands.below(u) / count
    out = ((share < low - 1e-9) | (share > high + 1e-9)).any(-1).sum()
    assert binom.ppf(1 - SURE, 1000, 0.05) <= out <= binom.ppf(SURE, 1000, 0.05)
    p = uniform_bands.p_value(u[:100])
    assert (p < 0.2).sum() <= binom.ppf(SURE, 100, 0.2)
    assert uniform_bands.p_value(u[0] ** 1.5) < 1e-4 or count == 40
    assert uniform_bands.p_value(np.full(count, 0.3)) < 1e-9
    # As unlikely as 1e-240 at a single point, where SciPy's quantiles overflow.
    assert uniform_bands.p_value(np.full(250, 0.9)) == 0


CAUGHT = {
    # Fault: quantities that must fail, the one that tells how, and the sign of bias and spread.
    "narrow": (("z[0]", "z[1]"), "z[0]", 0, 1),
    "wide": (("z[0]", "z[1]"), "z[0]", 0, -1),
    "biased": (("z[0]", "z[1]"), "z[0]", -1, 0),
    "collapsed": (("log_joint",), "log_joint", 1, 0),
    "sure labels": (("y", "q(y)"), "q(y)", -1, 1),
    "wrong labels": (("y", "q(y)"), "q(y)", -1, 1),
    "stale": (("q(y)",), "q(y)", -1, 0),
}


def test_an_exact_guide_passes_and_every_fault_is_caught():
    good = inference.sbc(exact(), 1000, draws=50)
    assert good.attrs["passed"] == 1
    assert list(good["quantity"].values) == ["y", "q(y)", "z[0]", "z[1]", "log_joint"]
    z = (good["coverage"] - good["level"]) / good["coverage_error"]
    assert abs(z).max() < 3.5
    for name, (failing, which, bias, spread) in CAUGHT.items():
        found = inference.sbc(exact(FAULTS[name]), 1000, draws=50)
        assert found.attrs["passed"] == 0, name
        assert not found["passed"].sel(quantity=list(failing)).any(), name
        assert (found["p_value"].sel(quantity=list(failing)) < 0.01).all(), name
        told = found.sel(quantity=which)
        for sign, value in ((bias, told["bias"]), (spread, told["spread"])):
            assert sign == 0 or sign * value > 3, name
    # Collapsed codes are invisible to the ranks of the codes themselves.
    blind = inference.sbc(exact(FAULTS["collapsed"]), 1000, draws=50)
    assert blind["passed"].sel(quantity=["z[0]", "z[1]"]).all()


def test_coverage_is_that_of_a_guide_of_known_width():
    """A central interval of level l of a guide k times as wide as the posterior."""
    found = inference.sbc(exact(FAULTS["narrow"]), 1000, draws=200, given=("x", "y"))
    found = found.sel(quantity=["z[0]", "z[1]"])
    normal = torch.distributions.Normal(0.0, 1.0)
    for level in (0.5, 0.8, 0.9):
        edge = 0.6 * normal.icdf(torch.tensor(0.5 + level / 2))
        expected = float(2 * normal.cdf(edge) - 1)
        error = math.sqrt(expected * (1 - expected) / 2000)
        told = float(found["coverage"].sel(level=level).mean())
        assert told == pytest.approx(expected, abs=4 * error + 0.01)


@pytest.mark.parametrize(("fault", "passed"), [(Fault(), 1), (FAULTS["sure labels"], 0),
                                               (FAULTS["wrong labels"], 0)])  # fmt: skip
def test_a_mixture_whose_label_is_all_that_is_latent(fault, passed):
    found = inference.sbc(Mixture(fault), 1000, draws=50)
    assert list(found["quantity"].values) == ["y", "q(y)", "log_joint"]
    assert found.attrs["passed"] == passed


def test_known_labels_are_conditioned_on():
    found = inference.sbc(exact(FAULTS["sure labels"]), 600, draws=50, given=("x", "y"))
    assert list(found["quantity"].values) == ["z[0]", "z[1]", "log_joint"]
    assert found.attrs["passed"] == 1  # the label's fault plays no part
    assert found.attrs["given"] == "x, y"


class _Marginal(nn.Module):
    """p(z) for a guide that leaves the label to the model."""

    def forward(self, x):
        return torch.zeros(*x.shape[:-1], 4, dtype=x.dtype)


def test_a_label_that_only_the_model_has_is_drawn_from_it():
    """Its posterior given z and x is exact: only the codes, which ignore x, are not."""
    pair = exact()
    pair.guide = guides.Factored(z=guides.Normal(2, {"x": 3}, net=_Marginal()))
    found = inference.sbc(pair, 600, draws=50)
    assert list(found["quantity"].values) == ["z[0]", "z[1]", "y", "log_joint"]
    assert not found["passed"].sel(quantity="log_joint")


def test_false_alarms_over_a_hundred_exact_guides():
    alarms = [
        inference.sbc(exact(seed=s), 100, draws=20, seed=s).attrs["passed"] == 0
        for s in range(100)
    ]  # fmt: skip
    assert sum(alarms) <= binom.ppf(SURE, 100, 0.05)


def test_sbc_leaves_no_trace_and_repeats():
    pair = exact(dtype=torch.float32).train()
    before = {n: p.clone() for n, p in pair.named_parameters()}
    state = torch.get_rng_state()
    one, two = (inference.sbc(pair, 50, draws=10, seed=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert pair.training
    assert all(torch.equal(p, before[n]) for n, p in pair.named_parameters())
    np.testing.assert_array_equal(one["u"], two["u"])
    assert not np.array_equal(one["u"], inference.sbc(pair, 50, draws=10, seed=4)["u"])


def test_bad_options_are_named():
    for call, words in (
        (lambda: inference.sbc(exact(), 5), "rows is 5, expected at least 20"),
        (lambda: inference.sbc(exact(), level=1.0), "level is 1.0"),
        (lambda: inference.sbc(exact(), 20, given=("w",)), "site 'w'"),
        (lambda: inference.sbc(shared(3)[0], 20), "'w' stands outside|stands in the plates"),
        (lambda: inference.calibration_error(np.ones((2, 2)), np.zeros(2)), "probs sum to 2"),
        (lambda: inference.calibration_error(np.full((2, 2), 0.5), np.array([0, 2])), "0..1"),
        (lambda: inference.calibration_error(np.ones(2), np.zeros(2)), "expected .N, C."),
    ):
        with pytest.raises(ValueError, match=words):
            call()


# ---- labels -------------------------------------------------------------------------------


def test_calibration_error_by_hand():
    probs = np.array([[0.9, 0.1], [0.95, 0.05], [0.4, 0.6], [0.35, 0.65]])
    found = inference.calibration_error(probs, np.array([0, 1, 1, 1]), bins=5)
    # Bins [0.6, 0.8): confidence 0.625, all right; [0.8, 1]: 0.925, half right.
    assert float(found["ece"]) == pytest.approx(0.5 * 0.375 + 0.5 * 0.425)
    np.testing.assert_allclose(found["bin_accuracy"], [np.nan, np.nan, np.nan, 1, 0.5])
    assert float(found["accuracy"]) == 0.75
    variance = 0.09 + 0.0475 + 0.24 + 0.2275
    over = (0.9 + 0.95 + 0.6 + 0.65) / 4 - 0.75
    assert float(found["overconfidence"]) == pytest.approx(4 * over / math.sqrt(variance))


@pytest.mark.parametrize(
    ("name", "caught"), [("good", False), ("sure labels", True), ("wrong labels", True)]
)
def test_wrong_label_probabilities_are_caught(name, caught):
    pair = exact(FAULTS.get(name, Fault()))
    found = inference.label_calibration(pair, table_of(pair, 2000))
    assert (float(found["p_value"]) < 0.01) == caught
    assert (float(found["overconfidence"]) > 5) == caught
    assert (float(found["ece"]) > 2 * float(found["by_chance"])) == caught


def test_unsure_labels_are_caught_too():
    pair = exact(Fault(sharpen=0.4))
    found = inference.label_calibration(pair, table_of(pair, 2000))
    assert float(found["overconfidence"]) < -5
    assert float(found["p_value"]) < 0.01


def test_false_alarms_of_right_probabilities():
    g = np.random.default_rng(0)
    alarms = 0
    for seed in range(200):
        probs = g.dirichlet([0.5] * 4, 150)
        labels = (g.random((150, 1)) > probs.cumsum(1)).sum(1)
        found = calibration.calibration_error(probs, labels, simulations=99, seed=seed)
        alarms += float(found["p_value"]) <= 0.05
    assert binom.ppf(1 - SURE, 200, 0.05) <= alarms <= binom.ppf(SURE, 200, 0.05)
