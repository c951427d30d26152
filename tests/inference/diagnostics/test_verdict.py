"""Neighbours of k-hat against known weights, and verdicts on made-up posteriors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import xarray as xr
from worlds.log_weights import normal_weights

from ppl_models.inference.diagnostics import verdict as diagnostics
from ppl_models.inference.diagnostics.verdict import khat, verdict
from ppl_models.inference.posterior.groups import as_inference_data
from ppl_models.inference.posterior.importance_weights import importance_ess, khat_threshold


@pytest.mark.parametrize(
    ("draws", "limit"), [(100, 0.5), (500, 0.6295), (2000, 0.6971), (10**5, 0.7)]
)
def test_threshold_grows_with_the_draws(draws, limit):
    assert khat_threshold(draws) == pytest.approx(limit, abs=1e-4)


def test_effective_draws():
    weights = np.log([[1.0, 1.0, 3.0], [1.0, 1e-300, 1.0], [1.0, 1e-300, np.nan]])
    np.testing.assert_allclose(importance_ess(weights), [3, 1, np.nan])
    assert importance_ess(np.log([[3e-200], [1e-200]])) == pytest.approx(16 / 10)


def test_diagnostics_of_each_row():
    weights = normal_weights(0.9, 100, 11)
    found = diagnostics.per_row(weights.astype(np.float32))
    np.testing.assert_allclose(found["khat"], khat(weights), atol=1e-4)
    np.testing.assert_allclose(found["iw_bound"], np.log(np.exp(weights).mean(0)), atol=1e-5)
    np.testing.assert_allclose(found["elbo"], weights.mean(0), atol=1e-5)
    np.testing.assert_allclose(found["ess_is"], importance_ess(weights), rtol=1e-5)


# ---- verdicts -----------------------------------------------------------------------------


def made_up(weights=None, loss=None, stage=None, posterior=None, **nuts):
    groups = {} if posterior is None else {"posterior": posterior}
    if weights is not None:
        dims = ("chain", "draw", "datum")
        groups["sample_stats"] = xr.Dataset({"log_weight": (dims, weights[None])})
        found = diagnostics.per_row(weights)
        groups["diagnostics"] = xr.Dataset({n: (("datum",), v) for n, v in found.items()})
    if loss is not None:
        curve = {"loss": (("chain", "step"), np.asarray(loss)[None])}
        if stage is not None:
            curve["stage"] = (("chain", "step"), np.asarray(stage)[None])
        groups["training"] = xr.Dataset(curve)
    if nuts:
        groups["posterior"] = xr.Dataset({"z": (("chain", "draw"), nuts["z"])})
        groups["sample_stats"] = xr.Dataset({"diverging": (("chain", "draw"), nuts["diverging"])})
    return as_inference_data(groups, {"inference_method": "nuts" if nuts else "svi"})


def noise(*shape):
    return np.random.default_rng(1).normal(size=shape)


def test_weights_as_good_as_equal_have_no_tail():
    """Pareto noise of a thousandth of a nat: a heavy tail, and 95 % of the draws count."""
    tiny = 1e-3 * np.random.default_rng(0).pareto(1.0, (200, 100)).clip(max=100)
    assert (khat(tiny) > khat_threshold(200)).mean() > 0.5
    assert (importance_ess(tiny) > 0.95 * 200).all()
    found = verdict(made_up(tiny))
    assert found.ok
    assert "in 0.0% of 100 rows" in found.findings[1]


def codes(told, rows=100, draws=50):
    """Codes whose mean varies over rows with these standard deviations, around it by 1."""
    scale = np.asarray(told)
    z = scale * noise(rows, len(scale)) + noise(1, draws, rows, len(scale))
    posterior = xr.Dataset({"z": (("chain", "draw", "datum", "unit"), z)})
    return made_up(normal_weights(0.9, 200), posterior=posterior)


def test_units_that_say_nothing_of_the_rows_are_counted_and_forgiven():
    """A mean that varies by a tenth is 1 % of the variance; the noise of 50 draws would be 2 %."""
    found = verdict(codes([0.0, 0.0, 0.03, 2.0]))
    assert found.findings[-1].startswith("1 of 4 numbers of z tell rows apart; the others")
    assert found.ok and found.passed == [True] * 4
    assert verdict(codes([0.2, 0.0, 1.0, 2.0])).findings[-1] == (
        "3 of 4 numbers of z tell rows apart"
    )
    assert len(verdict(codes([1.0], rows=19)).findings) == 3  # too few rows to tell


def test_flags_stand_beside_the_findings():
    found = verdict(made_up(normal_weights(0.5, 200)))
    assert found.passed == [True, False, True]


def test_good_and_bad_guides():
    good = verdict(made_up(normal_weights(0.9, 200)))
    assert good.ok
    assert len(good.findings) == 3
    bad = verdict(made_up(normal_weights(0.5, 200)))
    assert not bad.ok
    assert "of 200 rows, expected at most 20%" in bad.findings[1]
    assert "IWELBO" in bad.findings[1]
    share = float((khat(normal_weights(0.5, 200)) > khat_threshold(200)).mean())
    assert f"in {share:.1%} of" in bad.findings[1]
    # KL(q || p) of scale 1.6 in ten dimensions is 3.1 nats, of 1.5 it is 2.2; log(200) / 2 = 2.65.
    wide, less = (verdict(made_up(normal_weights(scale, 200))) for scale in (1.6, 1.5))
    assert "far from the posterior" in wide.findings[2]
    assert "far from the posterior" not in less.findings[2]
    few = verdict(made_up(normal_weights(0.9, 20)))
    assert "needs at least 25 draws, got 20" in few.findings[1]


@pytest.mark.parametrize(
    ("loss", "stage", "ok", "words"),
    [
        (100 * np.exp(-np.arange(200) / 10) + noise(200), None, True, "changed by"),
        (100 - 0.4 * np.arange(200) + noise(200), None, False, "train longer"),
        (100 - np.arange(200) + 0.01 * np.arange(200) ** 2 + noise(200), None, False, "it rises"),
        # A first stage that falls, a second one that does not move.
        (np.r_[100 - np.arange(100), noise(100)], [0] * 100 + [1] * 100, True, "changed by"),
        (noise(9), None, True, "9 points, too few"),
    ],
    ids=["settled", "falling", "rising", "stages", "short"],
)
def test_slope_of_the_training_loss(loss, stage, ok, words):
    found = verdict(made_up(loss=loss, stage=stage))
    assert found.ok == ok
    assert words in found.findings[1]


def test_values_that_are_not_finite_are_counted():
    loss = noise(30)
    loss[3] = np.nan
    weights = normal_weights(0.9, 200, 8)
    weights[2, 5:7] = np.nan
    found = verdict(made_up(weights, loss))
    assert not found.ok
    assert "2 of 1600 in sample_stats/log_weight, 1 of 30 in training/loss" in found.findings[0]


def test_chains():
    z, quiet = noise(2, 400), np.zeros((2, 400), bool)
    assert verdict(made_up(z=z, diverging=quiet)).ok
    apart = verdict(made_up(z=z + np.array([[0], [3]]), diverging=quiet))
    assert not apart.ok
    assert "expected R-hat up to 1.05" in apart.findings[1]
    diverging = quiet.copy()
    diverging[0, :3] = True
    found = verdict(made_up(z=z, diverging=diverging))
    assert not found.ok
    assert "3 divergent" in found.findings[2]


def test_nothing_to_check():
    with pytest.raises(ValueError, match="nothing to check"):
        verdict(as_inference_data({"prior": xr.Dataset({"z": ("draw", noise(3))})}, {}))


def test_threshold_of_so_few_draws_that_nothing_can_be_told():
    assert khat_threshold(10) == 0
    assert math.isclose(khat_threshold(11), 1 - 1 / math.log10(11))
