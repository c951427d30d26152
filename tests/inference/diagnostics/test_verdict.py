"""Neighbours of k-hat against known weights, and verdicts on made-up posteriors."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import xarray as xr
from worlds.log_weights import normal_weights
from worlds.made_up import made_up

from ppl_models.inference.diagnostics.verdict import verdict
from ppl_models.inference.posterior.groups import as_inference_data
from ppl_models.inference.posterior.importance_weights import (
    importance_ess,
    khat_threshold,
    per_row,
)
from ppl_models.inference.posterior.pareto import khat


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
    found = per_row(weights.astype(np.float32))
    np.testing.assert_allclose(found["khat"], khat(weights), atol=1e-4)
    np.testing.assert_allclose(found["iw_bound"], np.log(np.exp(weights).mean(0)), atol=1e-5)
    np.testing.assert_allclose(found["elbo"], weights.mean(0), atol=1e-5)
    np.testing.assert_allclose(found["ess_is"], importance_ess(weights), rtol=1e-5)


# ---- verdicts -----------------------------------------------------------------------------


def test_weights_as_good_as_equal_have_no_tail():
    """Pareto noise of a thousandth of a nat: a heavy tail, and 95 % of the draws count."""
    tiny = 1e-3 * np.random.default_rng(0).pareto(1.0, (200, 100)).clip(max=100)
    assert (khat(tiny) > khat_threshold(200)).mean() > 0.5
    assert (importance_ess(tiny) > 0.95 * 200).all()
    found = verdict(made_up(tiny))
    assert found.ok
    assert found.findings[1].fact == "k-hat is above 0.57 in 0.0% of 100 rows (at most 20%)"


def test_good_and_bad_guides():
    good = verdict(made_up(normal_weights(0.9, 200)))
    assert good.ok and [c.name for c in good.findings] == ["finite", "k-hat", "gap"]
    bad = verdict(made_up(normal_weights(0.5, 200)))
    assert [c.name for c in bad.failed] == ["k-hat"]
    share = float((khat(normal_weights(0.5, 200)) > khat_threshold(200)).mean())
    assert bad.findings[1].figure == pytest.approx(share) and bad.findings[1].limit == 0.2
    assert bad.findings[1].sentence == (
        f"k-hat is above 0.57 in {share:.1%} of 200 rows (at most 20%). To try: train longer or "
        "with IWELBO, or give the guide a richer family: it is too narrow or far too wide."
    )
    # KL(q || p) of scale 1.6 in ten dimensions is 3.1 nats, of 1.5 it is 2.2; log(200) / 2 = 2.65.
    wide, less = (verdict(made_up(normal_weights(scale, 200))) for scale in (1.6, 1.5))
    assert not wide.findings[2].ok and less.findings[2].ok
    assert wide.findings[2].figure == pytest.approx(3.1, abs=0.2)
    assert "nats (at most 2.65). To try: train longer" in wide.findings[2].sentence
    few = verdict(made_up(normal_weights(0.9, 20)))
    assert few.findings[1].fact == "k-hat needs at least 25 draws, and there are 20"


def test_values_that_are_not_finite_are_counted_and_placed():
    loss = np.random.default_rng(1).normal(size=30)
    loss[3] = np.nan
    weights = normal_weights(0.9, 200, 8)
    weights[2, 5:7] = np.nan
    found = verdict(made_up(weights, loss))
    assert found.findings[0].sentence == (
        "3 numbers are not finite (at most 0): 2 of 1600 in sample_stats/log_weight, first in row "
        "5, 1 of 30 in training/loss. To try: look for data outside the likelihood's support, or "
        "train with a smaller learning rate."
    )


def test_a_verdict_is_printed_line_by_line():
    found = verdict(made_up(normal_weights(0.5, 200)))
    lines = str(found).splitlines()
    assert lines[0] == "ok      0 numbers are not finite (at most 0)."
    assert lines[1].startswith("FAILED  k-hat is above") and lines[-1] == "not to be trusted"
    assert (
        json.loads(json.dumps(found.findings[1].plain()))["sentence"] == found.findings[1].sentence
    )


def test_nothing_to_check():
    with pytest.raises(ValueError, match="nothing to check"):
        verdict(as_inference_data({"prior": xr.Dataset({"z": ("draw", np.ones(3))})}, {}))


def test_threshold_of_so_few_draws_that_nothing_can_be_told():
    assert khat_threshold(10) == 0
    assert math.isclose(khat_threshold(11), 1 - 1 / math.log10(11))
