"""Importance sampling and SIR against the linear world's exact posterior and evidence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch import nn
from worlds.linear import LinearPair, draw, linear
from worlds.shared_sites import shared

from ppl_models import guides, inference
from ppl_models.data import Table
from ppl_models.inference.diagnostics import verdict
from ppl_models.inference.diagnostics.weight_checks import KHAT_SHARE
from ppl_models.inference.posterior import importance_weights, pareto, rows as export_sites
from ppl_models.inference.sampling import importance

SURE = 0.9995  # of the chi-square tests


class Prior(nn.Module):
    """p(z) as a factor's network."""

    def forward(self, x):
        return torch.zeros(*x.shape[:-1], 4, dtype=x.dtype)


def world(own: bool = False, rows: int = 6, dtype=torch.float64) -> tuple[LinearPair, Table]:
    """Own: the label is the model's own, and the guide draws z from the prior."""
    pair = linear(dtype=dtype)
    if own:
        pair.guide = guides.Factored(z=guides.Normal(2, {"x": 3}, net=Prior()))
    x, y = draw(pair, rows)
    return pair, Table("w/test", {"x": x, "y": y}, numbers=torch.arange(rows) + 100,
                       classes={"y": ("a", "b", "c", "d")})  # fmt: skip


def moments(pair, x, y=None):
    """Posterior mean and second moment of z ``(B, L)`` and p(y | x) ``(B, C)``."""
    joint = pair.log_evidence(x)[0].detach()
    if y is not None:
        joint = torch.where(nn.functional.one_hot(y, 4).bool(), joint, -torch.inf)
    p = joint.softmax(-1)
    loc, scale = pair.posterior_z(x[:, None], torch.arange(4))
    average = lambda v: (p[..., None] * v).sum(1).numpy()  # noqa: E731
    return average(loc), average(loc**2 + scale**2), p.numpy()


def close(off, error):
    """Whether independent deviations are those of their standard errors."""
    z = np.asarray(off / error).ravel()
    return (z**2).sum() < chi2.ppf(SURE, len(z))


@pytest.mark.parametrize(
    ("own", "summed", "labelled"),
    [(False, True, False), (False, False, False), (True, True, False), (False, True, True)],
)
def test_evidence_and_weighted_draws_are_exact_within_their_errors(own, summed, labelled):
    pair, table = world(own)
    x, y = table.sites["x"], table.sites["y"]
    state = torch.get_rng_state()
    idata = inference.importance(
        pair, table, given=("x", "y") if labelled else None, draws=4000,
        enumerate_labels=summed, seed=3,
    )  # fmt: skip
    assert torch.equal(torch.get_rng_state(), state)
    joint, evidence = (v.detach() for v in pair.log_evidence(x))
    exact = (joint.gather(1, y[:, None])[:, 0] if labelled else evidence).numpy()
    found = idata.diagnostics
    assert close(found["log_evidence"] - exact, found["log_evidence_error"])
    assert (found["log_evidence_error"] < 0.15).all()
    weights = idata.sample_stats["log_weight"].values[0]
    w = np.exp(weights - weights.max(0))
    w /= w.sum(0)
    first, second, p = moments(pair, x, y if labelled else None)
    z = idata.proposal["z"].values[0]
    for value, expected in ((z, first), (z**2, second)):
        mean = (w[..., None] * value).sum(0)
        error = np.sqrt((w[..., None] ** 2 * (value - mean) ** 2).sum(0))
        # The entries of a row share their weights: one direction each.
        assert close((mean - expected)[:, 0], error[:, 0])
    if not labelled:
        label = idata.proposal["y"].values[0]
        for place in range(4):
            hit = label == place
            share = (w * hit).sum(0)
            error = np.sqrt((w**2 * (hit - share) ** 2).sum(0))
            told = p[:, place] > 0.02
            assert close((share - p[:, place])[told], error[told])


def test_diagnostics_are_those_of_the_weights():
    pair, table = world()
    idata = inference.importance(pair, table, [4, 1], draws=200)
    weights = idata.sample_stats["log_weight"].values[0]
    assert idata.diagnostics["datum"].values.tolist() == [104, 101]
    np.testing.assert_array_equal(idata.diagnostics["khat"], pareto.khat(weights))
    np.testing.assert_array_equal(
        idata.diagnostics["ess_is"], importance_weights.importance_ess(weights)
    )
    np.testing.assert_allclose(
        idata.diagnostics["log_evidence"], idata.diagnostics["iw_bound"], rtol=1e-12
    )
    share = np.exp(weights - weights.max(0))
    error = share.std(0, ddof=1) / share.mean(0) / np.sqrt(200)
    np.testing.assert_allclose(idata.diagnostics["log_evidence_error"], error, rtol=1e-10)
    assert verdict.verdict(idata).ok


def test_summing_labels_costs_no_variance():
    pair, table = world()
    errors = [
        inference.importance(pair, table, draws=2000, enumerate_labels=e)
        .diagnostics["log_evidence_error"].values
        for e in (True, False)
    ]  # fmt: skip
    assert (errors[0] < 0.7 * errors[1]).all()


def test_blocks_of_rows_and_draws_change_nothing_but_the_random_numbers(monkeypatch):
    pair, table = world()
    cells = []
    whole = export_sites.Sites.draws_at_a_time

    def small(sites, pair, rows, labels):
        cells.append(rows)
        return 250 // rows

    for limit in (whole, small):
        monkeypatch.setattr(export_sites.Sites, "draws_at_a_time", limit)
        idata = inference.importance(pair, table, draws=1000)
        exact = pair.log_evidence(table.sites["x"])[1].detach().numpy()
        found = idata.diagnostics
        assert idata.proposal["z"].shape == (1, 1000, 6, 2)
        assert close(found["log_evidence"] - exact, found["log_evidence_error"])
    assert cells


def test_proposals_are_kept_within_a_limit_and_all_weights(monkeypatch):
    pair, table = world()
    whole = inference.importance(pair, table, draws=50)
    monkeypatch.setattr(importance, "POSTERIOR_CELLS", 6 * 3 * 20)  # y and z: 3 numbers
    part = inference.importance(pair, table, draws=50)
    for name in ("y", "z"):
        np.testing.assert_array_equal(part.proposal[name], whole.proposal[name][:, :20])
    np.testing.assert_array_equal(
        part.sample_stats["log_weight"], whole.sample_stats["log_weight"]
    )


@pytest.mark.parametrize(("own", "summed"), [(False, True), (False, False), (True, True)])
def test_resampled_draws_have_the_posterior_moments(own, summed):
    pair, table = world(own)
    idata = inference.sir(pair, table, draws=1500, proposals=6000, enumerate_labels=summed, seed=1)
    first, second, p = moments(pair, table.sites["x"])
    ess = idata.diagnostics["ess_is"].values
    # Draws share proposals: the variance is that of both samplings (bounded by weights that
    # have nothing to do with the value).
    widen = np.sqrt(1 + 1500 / ess)
    z, y = idata.posterior["z"].values[0], idata.posterior["y"].values[0]
    assert y.dtype == np.int64
    sd = np.sqrt(second - first**2)
    error = sd * widen[:, None] / np.sqrt(1500)
    assert (abs(z.mean(0) - first) < 4.5 * error).all()
    np.testing.assert_allclose(z.std(0), sd, rtol=0.2)
    share = np.stack([(y == c).mean(0) for c in range(4)], -1)
    error = np.sqrt(p * (1 - p) / 1500) * widen[:, None]
    assert (abs(share - p) < 4.5 * error + 1e-3).all()


def test_a_narrow_guide_shows_in_khat():
    pair, table = world(rows=12)
    with torch.no_grad():
        pair.guide.factors["z"].net.log_widen.fill_(np.log(0.35))
    idata = inference.importance(pair, table, draws=1000)
    limit = importance_weights.khat_threshold(1000)
    assert (idata.diagnostics["khat"] > limit).mean() > KHAT_SHARE
    assert not verdict.verdict(idata).ok


def test_weights_that_are_all_zero_are_told_and_not_fatal():
    """A row so far off that float32 knows no density: its draws are arbitrary."""
    pair, table = world(dtype=torch.float32)
    table.sites["x"][2] = 1e25
    idata = inference.sir(pair, table, draws=20, proposals=50)
    assert np.isinf(idata.diagnostics["khat"][2])
    others = [0, 1, 3, 4, 5]
    exact = pair.double().log_evidence(table.sites["x"][others].double())[1].detach().numpy()
    found = idata.diagnostics.isel(datum=others)
    error = found["log_evidence_error"].values
    assert (abs(found["log_evidence"].values - exact) < 4.5 * error + 1e-3).all()


def test_bad_options_are_named():
    pair, table = world()
    for call, words in (
        (lambda: inference.importance(pair, table, draws=1), "draws is 1, expected at least 2"),
        (lambda: inference.sir(pair, table, proposals=1), "proposals is 1"),
        (lambda: inference.sir(pair, table, [6]), "row 6 is not in w/test"),
        (
            lambda: inference.importance(world(own=True)[0], table, enumerate_labels=False),
            "site 'y' is latent in the model, but the guide does not sample it",
        ),
        (lambda: inference.importance(*shared(3)), "site 'w' stands outside the data plate"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
