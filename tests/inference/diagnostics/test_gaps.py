"""Gaps against their closed forms, NUTS, held-out evidence and leave-one-out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Normal, kl_divergence
from worlds.exact_guides import FAULTS, Fault, Mixture, exact, table_of

from ppl_models import guides, inference
from ppl_models.data import Table
from ppl_models.inference.diagnostics import gaps, row_scores
from ppl_models.inference.posterior import export
from ppl_models.networks import Label

ROWS = 12


def kl(pair, x):
    """KL(q(y, z | x) || p(y, z | x)) of each row, in closed form."""
    y = torch.arange(4)
    q = pair.guide.factor("y", {"x": x})
    z = pair.guide.factor("z", {"x": x[:, None], "y": y}).base_dist
    loc, scale = pair.posterior_z(x[:, None], y)
    codes = kl_divergence(z, Normal(loc, scale)).sum(-1)
    exact_y = Categorical(logits=pair.log_evidence(x)[0])
    return (kl_divergence(q, exact_y) + (q.probs * codes).sum(-1)).detach().numpy()


@pytest.mark.parametrize("name", ["good", "narrow", "collapsed", "wrong labels", "stale"])
def test_the_networks_lose_what_the_guide_is_off_by(name):
    pair = exact(FAULTS.get(name, Fault()))
    table = table_of(pair, ROWS)
    found = inference.amortisation_gap(pair, table, draws=200, temperatures=8)
    x = table.sites["x"]
    evidence = pair.log_evidence(x)[1].detach().numpy()
    np.testing.assert_allclose(found["log_evidence"], evidence, atol=0.05)
    expected, gap = kl(pair, x), found["amortisation_gap"]
    # In rows whose label is all but certain the draws do not show the error that they make.
    off = abs(gap - expected)
    assert (off < 5 * found["amortisation_gap_error"] + 0.1).all()
    error = float(np.sqrt((found["amortisation_gap_error"] ** 2).sum())) / ROWS
    assert float(gap.mean()) == pytest.approx(expected.mean(), abs=4 * error + 0.02)
    # The family holds the exact posterior.
    assert abs(found["family_gap"]).max() < 0.1
    if name == "good":
        assert abs(gap).max() < 1e-3
        assert abs(found["iw_gap"]).max() < 1e-3
    else:
        assert float(gap.mean()) > 0.1
    assert found["datum"].values.tolist() == list(range(100, 100 + ROWS))


class Wide(torch.nn.Module):
    """Means of x as parameters of a Normal whose entries are correlated a posteriori."""

    def forward(self, x, y):
        return torch.zeros(*torch.broadcast_shapes(x.shape[:-1], y.shape), 4, dtype=x.dtype)


def test_what_the_family_cannot_do_is_told_apart_from_the_networks():
    """Correlated codes: the best diagonal Normal misses half a log of the determinants."""
    pair = exact()
    with torch.no_grad():
        pair.A[:, 1] = 2 * pair.A[:, 0] + 0.3 * pair.A[:, 1]
    pair.guide = guides.Factored(
        y=pair.guide.factors["y"], z=guides.Normal(2, {"x": 3, "y": Label(4)}, net=Wide())
    )
    pair.guide.factors["y"].net.logits = lambda x: pair.log_evidence(x)[0]
    precision = torch.eye(2).double() + pair.A.T @ pair.A / pair.noise**2
    family = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision)).item()
    found = inference.amortisation_gap(pair, table_of(pair, 6), draws=600, temperatures=10)
    assert family > 0.1
    error = found["family_gap_error"]
    assert (abs(found["family_gap"] - family) < 4 * error + 0.02).all()
    assert (found["amortisation_gap"] > 3 * found["amortisation_gap_error"]).mean() > 0.8


@pytest.mark.training
def test_nuts_tells_shift_and_width():
    pair = exact(Fault(shift=0.5, widen=0.6))
    table = table_of(pair, 20)
    found = inference.against_nuts(pair, table, [3], draws=200, warmup=100, seed=1)
    x = table.sites["x"][[3]]
    p = pair.guide.factor("y", {"x": x}).probs.unsqueeze(-1)
    loc, scale = pair.posterior_z(x[:, None], torch.arange(4))
    q = pair.guide.factor("z", {"x": x[:, None], "y": torch.arange(4)}).base_dist

    def moments(loc, scale):
        mean = (p * loc).sum(1)
        return mean, ((p * (loc**2 + scale**2)).sum(1) - mean**2).sqrt()

    (true, width), (ours, narrow) = moments(loc, scale), moments(q.loc, q.scale)
    shift, ratio = ((ours - true) / width).detach(), (narrow / width).detach()
    assert found.attrs["rhat"] < 1.1
    assert (abs(found["shift"] - shift.numpy()) < 4.5 * found["shift_error"]).all()
    assert (abs(found["ratio"] - ratio.numpy()) < 4.5 * found["ratio_error"]).all()
    assert (found["ratio"] < 0.9).all()
    assert (found["label_distance"] < 0.1).all()
    assert found["datum"].values.tolist() == [103]


@pytest.mark.training
def test_nuts_tells_wrong_labels():
    pair = exact(FAULTS["wrong labels"])
    table = table_of(pair, 20)
    found = inference.against_nuts(pair, table, [1], draws=50, warmup=50)
    p = pair.log_evidence(table.sites["x"][[1]])[0].softmax(-1).detach()
    expected = 0.5 * (p - p.roll(1, -1)).abs().sum(-1)
    np.testing.assert_allclose(found["label_distance"][:, 0], expected, atol=0.1)
    assert (found["label_distance"] > 0.4).all()


def test_held_out_evidence_and_its_errors():
    pair = exact(FAULTS["wide"])
    table = table_of(pair, 200)
    values = pair.log_evidence(table.sites["x"])[1].detach().numpy()
    found = inference.held_out(pair, table, draws=300)
    noise = float(found["monte_carlo_error"])
    assert 0 < noise < 0.02
    assert float(found["mean"]) == pytest.approx(values.mean(), abs=4 * noise)
    assert float(found["error"]) == pytest.approx(values.std(ddof=1) / math.sqrt(200), rel=0.05)
    one = inference.held_out(Mixture(), Table("m", {"x": table.sites["x"][:, :1]}))
    exact_one = Mixture().log_evidence(table.sites["x"][:, :1]).detach().numpy()
    np.testing.assert_allclose(one["log_evidence"], exact_one, atol=1e-9)
    assert float(one["monte_carlo_error"]) < 1e-9


def test_rows_are_paired_in_a_difference():
    pair = exact()
    table = table_of(pair, 100)
    better, worse = (inference.held_out(p, table) for p in (pair, exact()))
    worse["log_evidence"] = worse["log_evidence"] - 0.3 - 0.01 * np.sin(np.arange(100))
    mean, error = gaps.difference(better, worse.isel(datum=slice(None, None, -1)))
    assert mean == pytest.approx(0.3, abs=1e-3)
    assert error < 0.002 < float(better["error"])
    with pytest.raises(ValueError, match="different rows"):
        gaps.difference(better, worse.isel(datum=slice(0, 9)))


@pytest.mark.parametrize("fault", ["good", "wide"])
def test_leave_one_out_with_the_guide_s_correction_is_the_evidence(fault):
    """What a row's own code would be without the row is the prior: LOO is log p(x)."""
    pair = exact(FAULTS.get(fault, Fault()))
    table = table_of(pair, 100)
    idata = export.posterior(pair, table, draws=1000, prior_draws=0)
    found, shapes = row_scores.loo(idata)
    evidence = pair.log_evidence(table.sites["x"])[1].detach().numpy()
    good = shapes < 0.7
    assert good.mean() > 0.5
    assert abs(found - evidence)[good].mean() < 0.12
    # Without the correction each row would have seen itself.
    seen = idata.log_likelihood["x"].values[0]
    naive = np.logaddexp.reduce(seen, 0) - math.log(1000)
    assert (naive - evidence).mean() > 0.3


def test_bad_options_are_named():
    pair = exact()
    table = table_of(pair, 3)
    for call, words in (
        (lambda: inference.amortisation_gap(pair, table, draws=1), "draws is 1"),
        (lambda: inference.amortisation_gap(pair, table, steps=0), "steps is 0"),
        (lambda: inference.held_out(pair, table, [0]), "rows is 1, expected at least 2"),
        (lambda: inference.against_nuts(pair, table, wamup=3), "option 'wamup'"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
