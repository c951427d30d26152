"""Which rows have draws, fits as chains, and sites that all rows share."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pyro.infer.autoguide import AutoLowRankMultivariateNormal
from torch.distributions import Normal
from worlds.exports import NAMES, drawn, table
from worlds.linear import linear
from worlds.shared_sites import shared

from ppl_models import guides, inference
from ppl_models.batch import Batch
from ppl_models.data import Table
from ppl_models.inference.diagnostics.verdict import verdict
from ppl_models.inference.posterior import export


def test_draws_for_chosen_rows_and_parameters_for_all(tmp_path):
    pair, rows = linear(), table(linear(), 9)
    idata = export.posterior(
        pair, rows, rows=[8, 0, 3, 5, 7], draws_for=[3, 8], draws=400, path=tmp_path / "p.nc"
    )
    chosen, order = [3, 8], [3, 8, 0, 5, 7]
    numbers = 3 * np.array(order) + 7
    for group in ("posterior", "sample_stats", "log_likelihood", "posterior_predictive"):
        assert idata[group]["datum"].values.tolist() == numbers[:2].tolist(), group
    np.testing.assert_array_equal(idata.observed_data["x"], rows.sites["x"][chosen])
    np.testing.assert_array_equal(idata.constant_data["y_true"], rows.sites["y"][order])
    for group in ("variational", "diagnostics"):
        assert idata[group]["datum"].values.tolist() == numbers.tolist(), group
    # Rows without draws have their own parameters and bounds.
    x = rows.sites["x"][order]
    probs = pair.guide.factor("y", {"x": x}).probs.detach()
    np.testing.assert_allclose(idata.variational["y_probs"], probs, rtol=1e-12)
    loc = pair.guide.factor("z", {"x": x[:, None], "y": torch.arange(4)}).base_dist.loc
    np.testing.assert_allclose(idata.variational["z_loc"], loc.detach(), atol=1e-12)
    evidence = pair.log_evidence(x)[1].detach().numpy()
    # The weights of this guide have a variance of about 4: 0.1 at 400 draws, and rarely 0.5.
    assert (abs(idata.diagnostics["iw_bound"].values - evidence) < 0.5).all()
    mean = drawn(idata, "z").mean(0)
    expected = torch.einsum("nc,ncl->nl", probs[:2], loc[:2].detach())
    assert float((mean - expected).abs().max()) < 4.5 * 3 / math.sqrt(400)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rows": [1, 2], "draws_for": [3]}, "draws_for has row 3, expected some of the rows"),
        ({"draws_for": []}, "no rows chosen"),
        ({"draws_for": [9]}, "row 9 is not in w/test"),
        ({"history": [{"step": [1], "loss": [1.0]}] * 2}, "2 histories, expected one for each of"),
    ],
)
def test_bad_choices_are_named(options, words):
    pair = linear()
    with pytest.raises(ValueError, match=words):
        export.posterior(pair, table(pair), **options)


# ---- chains -------------------------------------------------------------------------------


def test_restarts_are_chains(tmp_path):
    pairs = [linear(seed) for seed in (0, 1)]
    rows = table(pairs[0])
    curves = [
        {"step": [0, 10], "loss": [3.0, 2.0]},
        {"step": [0, 10, 20], "loss": [4.0, 3.0, 2.5]},
    ]
    runs = [
        inference.Run(pair, "bound", seed, curve)
        for seed, (pair, curve) in enumerate(zip(pairs, curves, strict=True))
    ]
    idata = runs[0].posterior(
        rows, restarts=runs[1:], draws=50, seed=4, path=tmp_path / "p.nc", draws_for=[1, 2]
    )
    assert idata.posterior["chain"].values.tolist() == [0, 1]
    assert list(idata.attrs["training_seed"]) == [0, 1]
    assert idata.variational["z_loc"].dims == ("chain", "datum", "y_class", "z_dim")
    assert idata.diagnostics["khat"].dims == ("chain", "datum")
    for chain, pair in enumerate(pairs):
        alone = export.posterior(pair, rows, draws=50, seed=4 + chain, draws_for=[1, 2])
        for group in ("posterior", "sample_stats", "log_likelihood", "prior"):
            for name, values in alone[group].data_vars.items():
                np.testing.assert_array_equal(idata[group][name][chain], values[0])
        for group in ("variational", "diagnostics"):
            for name, values in alone[group].data_vars.items():
                np.testing.assert_array_equal(idata[group][name][chain], values)
    loss = idata.training["loss"]
    np.testing.assert_array_equal(loss, [[3.0, 2.0, np.nan], [4.0, 3.0, 2.5]])
    # A step that a chain did not take is no number that went wrong.
    assert verdict(idata).findings[0].ok


def test_chains_are_fits_of_one_pair():
    with pytest.raises(ValueError, match="expected fits of one pair"):
        export.posterior([linear(), linear(classes=3)], table(linear()))
    with pytest.raises(ValueError, match="no pair given"):
        export.posterior([], table(linear()))


# ---- sites that all rows share ------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    pair, rows = shared(5)
    with torch.no_grad():
        auto = pair.guide.globals_.auto
        auto.locs.w.fill_(0.7)
        auto.scales.w = torch.full((2,), 0.4, dtype=torch.float64)
    path = tmp_path_factory.mktemp("w") / "p.nc"
    idata = export.posterior(pair, rows, draws=200, prior_draws=150, block=3, path=path, seed=3)
    return pair, rows.sites["x"], idata


def test_globals_have_draws_that_all_rows_share(world):
    pair, x, idata = world
    w, z, y = (drawn(idata, name) for name in "wzy")
    assert idata.posterior["w"].dims == ("chain", "draw", "w_dim")
    assert idata.posterior["z"].dims == ("chain", "draw", "datum", "z_dim")
    assert list(idata.attrs["sampled_variables"]) == ["w", "y", "z"]
    q = Normal(0.7, 0.4)
    assert float((w.mean(0) - 0.7).abs().max()) < 4.5 * 0.4 / math.sqrt(200)
    np.testing.assert_allclose(idata.variational["w_loc"], [0.7, 0.7])
    np.testing.assert_allclose(idata.variational["w_scale"], [0.4, 0.4])
    close = {"rtol": 0, "atol": 1e-6}
    stats = idata.sample_stats
    assert stats["log_q_outside"].dims == ("chain", "draw")
    torch.testing.assert_close(
        drawn(idata, "log_q_outside", "sample_stats"), q.log_prob(w).sum(-1), **close
    )
    torch.testing.assert_close(
        drawn(idata, "log_p_outside", "sample_stats"),
        Normal(0.0, pair.spread).log_prob(w).sum(-1), **close,
    )  # fmt: skip
    # Every row is scored at the w of its draw.
    mean = w[:, None] + pair.means.detach()[y] + z * pair.a.detach()
    prior_y = pair.prior_logits.detach().log_softmax(0)
    log_x = Normal(mean, pair.noise).log_prob(x).sum(-1)
    log_p = log_x + prior_y[y] + Normal(0.0, 1.0).log_prob(z[..., 0])
    torch.testing.assert_close(drawn(idata, "log_p", "sample_stats"), log_p, **close)
    every = w[:, None, None] + pair.means.detach() + (z * pair.a.detach())[:, :, None]
    given_y = Normal(every, pair.noise).log_prob(x[:, None]).sum(-1)
    by_hand = (given_y + prior_y).logsumexp(-1)
    torch.testing.assert_close(drawn(idata, "x", "log_likelihood"), by_hand, **close)
    noise = (drawn(idata, "x", "posterior_predictive") - mean) / pair.noise
    assert float(noise.mean().abs()) < 4.5 / math.sqrt(noise.numel())
    assert float((noise.square().mean() - 1).abs()) < 4.5 * math.sqrt(2 / noise.numel())


def test_the_prior_draws_globals_anew_for_every_row(world):
    pair, _, idata = world
    w, z, y = (drawn(idata, name, "prior") for name in "wzy")
    assert w.shape == (150, 2)
    assert float((w.square().mean() / pair.spread**2 - 1).abs()) < 4.5 * math.sqrt(2 / w.numel())
    mean = w + pair.means.detach()[y] + z * pair.a.detach()
    noise = (drawn(idata, "x", "prior_predictive") - mean) / pair.noise
    assert float((noise.square().mean() - 1).abs()) < 4.5 * math.sqrt(2 / noise.numel())


def test_parameters_that_depend_on_globals_are_left_out():
    pair, rows = shared(5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = rows.sites["x"]
        correlated = guides.Globals(pair.model, Batch({"x": x}), AutoLowRankMultivariateNormal)
        local = guides.Factored(
            y=guides.Categorical(2, {"x": 2}), z=guides.Normal(1, {"x": 2, "w": 2}, (4,))
        )
    pair.guide = guides.Mixed(correlated, local).double()
    idata = export.posterior(pair, rows, draws=4)
    assert set(idata.variational.data_vars) == {"y_probs"}
    w, z = drawn(idata, "w"), drawn(idata, "z")
    q = pair.guide.factor("z", {"x": x, "w": w[0]})
    log_q = q.log_prob(z[0]) + pair.guide.factor("y", {"x": x}).log_prob(drawn(idata, "y")[0])
    torch.testing.assert_close(drawn(idata, "log_q", "sample_stats")[0], log_q.detach())


def test_names_of_classes_reach_the_file(tmp_path):
    pair = linear()
    rows = table(pair)
    wordless = Table("plain", {"x": rows.sites["x"]})
    for name, given, classes in (("a", rows, NAMES), ("b", wordless, "0123")):
        idata = export.posterior(pair, given, draws=3, path=tmp_path / name)
        assert idata.variational["y_class"].values.tolist() == list(classes)
