"""NUTS against the linear world's exact posterior, a mixture of Gaussians."""

from __future__ import annotations

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from pyro.infer import config_enumerate
from pyro.infer.mcmc.util import initialize_model
from torch.distributions import Normal
from worlds import LinearPair, draw, linear

from ppl_models import guides
from ppl_models.batch import Batch
from ppl_models.data import Table
from ppl_models.inference import diagnostics, export, mcmc
from ppl_models.inference.export_sites import find_sites

ROWS = [6, 0]


def table(pair: LinearPair) -> Table:
    x, y = draw(pair, 8)
    return Table("w/test", {"x": x, "y": y}, numbers=torch.arange(8) + 100,
                 classes={"y": ("a", "b", "c", "d")})  # fmt: skip


@pytest.fixture(scope="module")
def world():
    pair = linear()
    pair.means.requires_grad_(False)
    rows = table(pair)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    idata = mcmc.nuts(pair, rows, ROWS, draws=350, warmup=120, seed=1, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    return pair, rows, idata


def test_codes_and_labels_agree_with_the_exact_posterior(world):
    pair, rows, idata = world
    x = rows.sites["x"][ROWS]
    joint, evidence = (v.detach() for v in pair.log_evidence(x))
    p = (joint - evidence[:, None]).exp()
    loc, scale = pair.posterior_z(x[:, None], torch.arange(4))
    first = (p[..., None] * loc).sum(1)
    second = (p[..., None] * (loc**2 + scale**2)).sum(1)
    posterior = idata.posterior
    is_class = (posterior["y"] == xr.DataArray(np.arange(4), dims="y_class")).astype(float)
    draws = xr.Dataset({
        "z": posterior["z"],
        "z_squared": posterior["z"] ** 2,
        "y_probs": posterior["y_probs"],
        "y": is_class.transpose("chain", "draw", "datum", "y_class"),
    })  # fmt: skip
    error = az.mcse(draws)
    for name, expected in (("z", first), ("z_squared", second), ("y_probs", p), ("y", p)):
        off = draws[name].mean(("chain", "draw")).values - expected.numpy()
        # A class that is hardly ever drawn has no standard error.
        told = expected.numpy() > 0.02 if name.startswith("y") else np.full(off.shape, True)
        assert (abs(off) < 4.5 * error[name].values)[told].all(), name
    assert float(p.max(-1).values.min()) < 0.6  # a row whose label is not all but known


def test_densities_are_those_of_the_draws(world):
    pair, rows, idata = world
    x, z = rows.sites["x"][ROWS], torch.from_numpy(idata.posterior["z"].values)
    given_y = Normal((z @ pair.A.T)[..., None, :] + pair.means, pair.noise)
    joint = given_y.log_prob(x[:, None]).sum(-1) + pair.prior_logits.log_softmax(0)
    joint = joint.detach()
    close = {"rtol": 0, "atol": 1e-10}
    likelihood = torch.from_numpy(idata.log_likelihood["x"].values)
    torch.testing.assert_close(likelihood, joint.logsumexp(-1), **close)
    probs = torch.from_numpy(idata.posterior["y_probs"].values)
    torch.testing.assert_close(probs, joint.softmax(-1), **close)
    lp = likelihood.sum(-1) + Normal(0.0, 1.0).log_prob(z).sum((-1, -2))
    torch.testing.assert_close(torch.from_numpy(idata.sample_stats["lp"].values), lp, **close)


class Positive(LinearPair):
    """With a code on the positive half-line."""

    def model(self, batch):
        with self.plate(batch):
            y = pyro.sample("y", dist.Categorical(logits=self.prior_logits))
            z = pyro.sample("z", dist.LogNormal(self.A.new_zeros(2), 0.5).to_event(1))
            x = dist.Normal(z @ self.A.T + self.means[y], self.noise).to_event(1)
            pyro.sample("x", x, obs=batch.get("x"))


@pytest.mark.parametrize("kind", [LinearPair, Positive])
def test_the_potential_is_pyros(kind):
    """Values and gradients, with the transform of a constrained code."""
    pair = linear()
    pair.__class__ = kind
    batch = Batch({"x": table(pair).sites["x"]})
    sites = find_sites(pair, batch, guide=False)
    potential, start, _ = mcmc.potential_energy(pair, batch, sites)
    marked = config_enumerate(pair.model)
    _, pyros, _, _ = initialize_model(marked, (batch,), max_plate_nesting=1)
    results = []
    for energy in (potential, pyros):
        z = start["z"].detach().requires_grad_()
        value = energy({"z": z})
        results.append((value.detach(), torch.autograd.grad(value, z)[0]))
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)


def test_chains_are_summarised_by_arviz(world, tmp_path):
    _, rows, idata = world
    summary = az.summary(idata)
    assert {"z[106, 0]", "y[100]", "y_probs[106, b]"} <= set(summary.index)
    assert (summary["r_hat"].dropna() < 1.05).all()
    assert (summary.loc[summary.index.str.startswith("z"), "ess_bulk"] > 150).all()
    stats = idata.sample_stats
    assert not bool(stats["diverging"].any())
    assert bool(((stats["acceptance_rate"] > 0) & (stats["acceptance_rate"] <= 1 + 1e-9)).all())
    assert 0.6 < float(stats["acceptance_rate"].mean()) < 1
    step_size = stats["step_size"].values  # fixed after the warmup, and each chain's own
    assert (step_size == step_size[:, :1]).all()
    assert step_size[0, 0] != step_size[1, 0]
    assert idata.posterior["y"].dtype == np.int64
    assert idata.attrs["inference_method"] == "nuts"
    np.testing.assert_array_equal(idata.constant_data["y_true"], rows.sites["y"][ROWS])
    assert diagnostics.verdict(idata).ok
    export.save(idata, tmp_path / "nuts.nc")
    assert export.load(tmp_path / "nuts.nc").posterior.equals(idata.posterior)


def test_parameters_are_as_they_were(world):
    pair, _, _ = world
    assert [n for n, p in pair.named_parameters() if not p.requires_grad] == ["means"]
    assert all(p.grad is None for p in pair.parameters())


def test_parameters_come_back_after_an_interrupt(monkeypatch):
    pair = linear().train()
    seen = []

    def interrupted(self):
        seen.extend(p.requires_grad for p in pair.parameters())
        raise KeyboardInterrupt

    monkeypatch.setattr(mcmc.MCMC, "run", interrupted)
    state = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        mcmc.nuts(pair, table(pair), progress=False)
    assert seen
    assert not any(seen)
    assert all(p.requires_grad for p in pair.parameters())
    assert pair.training
    assert torch.equal(torch.get_rng_state(), state)


def test_given_labels_are_not_summed_out():
    pair = linear()
    rows = table(pair)
    idata = mcmc.nuts(
        pair, rows, [2], given=("x", "y"), draws=120, warmup=80, chains=1, progress=False
    )
    assert list(idata.posterior.data_vars) == ["z"]
    loc, scale = pair.posterior_z(rows.sites["x"][[2]], rows.sites["y"][[2]])
    z = idata.posterior["z"]
    off = abs(z.mean(("chain", "draw")).values - loc.numpy())
    assert (off < 4.5 * az.mcse(z)["z"].values).all()
    np.testing.assert_allclose(z.std(("chain", "draw")), scale.expand(1, 2), rtol=0.35)


class Sliced(LinearPair):
    """Its plate is larger than the batch, so that Pyro would count each row twice."""

    def plate(self, batch):
        return pyro.plate("data", 2 * batch.count, subsample=batch.rows, dim=-1)


def test_a_plate_larger_than_the_batch_is_refused():
    pair = linear()
    pair.__class__ = Sliced
    with pytest.raises(ValueError, match=r"counts 2 times per row, .* the 8 rows of the batch"):
        mcmc.nuts(pair, table(pair), progress=False)


def test_bad_options_are_named():
    pair = linear()
    for options, words in (
        ({"draws": 0}, "draws is 0"),
        ({"chains": 0}, "chains is 0"),
        ({"rows": [8]}, "row 8 is not in w/test"),
    ):
        with pytest.raises(ValueError, match=words):
            mcmc.nuts(pair, table(pair), progress=False, **options)


def test_a_pair_of_labels_alone_is_refused():
    class Labels(LinearPair):
        def model(self, batch):
            with self.plate(batch):
                y = pyro.sample("y", dist.Categorical(logits=self.prior_logits))
                x = dist.Normal(self.means[y], 1.0).to_event(1)
                pyro.sample("x", x, obs=batch.get("x"))

    pair = linear()
    pair.__class__ = Labels
    pair.guide = guides.Factored(y=pair.guide.factors["y"])
    with pytest.raises(ValueError, match="no continuous latent site"):
        mcmc.nuts(pair, table(pair), progress=False)
