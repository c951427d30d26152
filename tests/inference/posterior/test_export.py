"""InferenceData of the linear world, whose every number is known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import Normal
from worlds.exports import N, S, drawn, exact, factors, table
from worlds.linear import linear

from ppl_models import guides
from ppl_models.config import Config, setting
from ppl_models.data import Table
from ppl_models.inference.diagnostics import verdict
from ppl_models.inference.posterior import export
from ppl_models.inference.posterior.groups import groups_of
from ppl_models.networks import Net
from ppl_models.pair import Card, Pair


@pytest.fixture(scope="module")
def world():
    pair = linear()
    rows = table(pair)
    return pair, rows, export.posterior(pair, rows, draws=S, prior_draws=4000, block=4, seed=1)


# ---- draws and densities ------------------------------------------------------------------


def test_labels_are_drawn_from_the_guide_exactly(world):
    pair, rows, idata = world
    probs, _, _ = factors(pair, rows.sites["x"])
    stored = torch.from_numpy(idata.variational["y_probs"].values)
    torch.testing.assert_close(stored, probs, rtol=1e-12, atol=0)
    y = drawn(idata, "y")
    assert y.dtype == torch.int64
    share = torch.nn.functional.one_hot(y, 4).double().mean(0)
    assert float(((share - probs) / (probs * (1 - probs) / S).sqrt()).abs().max()) < 4.5


def test_codes_are_drawn_given_their_own_label(world):
    pair, rows, idata = world
    _, loc, scale = factors(pair, rows.sites["x"])
    group = idata.variational
    assert group["z_loc"].dims == ("datum", "y_class", "z_dim")
    torch.testing.assert_close(torch.from_numpy(group["z_loc"].values), loc, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        torch.from_numpy(group["z_scale"].values), scale, rtol=0, atol=1e-12
    )
    n, y = torch.arange(N), drawn(idata, "y")
    noise = (drawn(idata, "z") - loc[n, y]) / scale[n, y]
    assert float(noise.mean(0).abs().max()) < 4.5 / math.sqrt(S)
    assert float((noise.square().mean(0) - 1).abs().max()) < 4.5 * math.sqrt(2 / S)


def test_log_p_and_log_q_are_those_of_the_draws(world):
    pair, rows, idata = world
    x = rows.sites["x"]
    probs, loc, scale = factors(pair, x)
    n, y, z = torch.arange(N), drawn(idata, "y"), drawn(idata, "z")
    log_q = probs[n, y].log() + Normal(loc[n, y], scale[n, y]).log_prob(z).sum(-1)
    mean = (z @ pair.A.T + pair.means[y]).detach()
    log_p = pair.prior_logits.detach().log_softmax(0)[y]
    log_p = log_p + Normal(0.0, 1.0).log_prob(z).sum(-1)
    log_p = log_p + Normal(mean, pair.noise).log_prob(x).sum(-1)
    for name, value in (("log_p", log_p), ("log_q", log_q), ("log_weight", log_p - log_q)):
        torch.testing.assert_close(drawn(idata, name, "sample_stats"), value, rtol=0, atol=1e-10)


def test_log_likelihood_sums_labels_out(world):
    pair, rows, idata = world
    means = (drawn(idata, "z") @ pair.A.T)[..., None, :] + pair.means
    given_y = Normal(means, pair.noise).log_prob(rows.sites["x"][:, None]).sum(-1)
    by_hand = (given_y + pair.prior_logits.log_softmax(0)).logsumexp(-1).detach()
    torch.testing.assert_close(drawn(idata, "x", "log_likelihood"), by_hand, rtol=0, atol=1e-10)


def test_bounds_are_those_of_the_known_evidence(world):
    pair, rows, idata = world
    x = rows.sites["x"]
    joint, evidence = (v.detach() for v in pair.log_evidence(x))
    weights = drawn(idata, "log_weight", "sample_stats")
    found = {n: torch.from_numpy(v.values) for n, v in idata.diagnostics.items()}
    ratio = (weights - evidence).exp()
    error = ratio.std(0) / math.sqrt(S)
    assert float((((found["iw_bound"] - evidence).exp() - 1) / error).abs().max()) < 4.5
    probs, _, _ = factors(pair, x)
    kl_z = 2 * (0.5 * (1.6**2 + 0.5**2 - 1) - math.log(1.6))
    elbo = evidence - kl_z - (probs * (probs.log() - joint + evidence[:, None])).sum(-1)
    error = weights.std(0) / math.sqrt(S)
    assert float(((found["elbo"] - elbo) / error).abs().max()) < 4.5
    assert bool((found["iw_bound"] > found["elbo"]).all())


def test_an_exact_guide_has_constant_weights():
    pair = exact(linear())
    rows = table(pair, 20)
    idata = export.posterior(pair, rows)
    _, evidence = pair.log_evidence(rows.sites["x"])
    found = idata.diagnostics
    assert bool(np.isneginf(found["khat"]).all())
    for name in ("elbo", "iw_bound"):
        # The columns of A are orthogonal to single precision only.
        np.testing.assert_allclose(found[name], evidence.detach(), rtol=0, atol=1e-7)
    np.testing.assert_allclose(found["ess_is"], 200, rtol=1e-10)
    # Labels of the table are not drawn from the story, so that nothing can tell them.
    assert {f.variable for f in verdict.verdict(idata).failed} <= {"y"}


def test_predictive_draws_come_from_the_story(world):
    pair, _, idata = world
    A, means = pair.A.detach(), pair.means.detach()
    y, z, x = (drawn(idata, n, g) for n, g in (
        ("y", "posterior"), ("z", "posterior"), ("x", "posterior_predictive")))  # fmt: skip
    noise = (x - z @ A.T - means[y]) / pair.noise
    assert float(noise.mean().abs()) < 4.5 / math.sqrt(noise.numel())
    assert float((noise.square().mean() - 1).abs()) < 4.5 * math.sqrt(2 / noise.numel())
    y, z, x = (drawn(idata, n, g) for n, g in (
        ("y", "prior"), ("z", "prior"), ("x", "prior_predictive")))  # fmt: skip
    p = pair.prior_logits.detach().softmax(0)
    share = torch.nn.functional.one_hot(y, 4).double().mean(0)
    assert float(((share - p) / (p * (1 - p) / 4000).sqrt()).abs().max()) < 4.5
    for noise in (z, (x - z @ A.T - means[y]) / pair.noise):
        assert float(noise.mean().abs()) < 4.5 / math.sqrt(noise.numel())
        assert float((noise.square().mean() - 1).abs()) < 4.5 * math.sqrt(2 / noise.numel())


# ---- what is conditioned on ---------------------------------------------------------------


def test_labels_of_the_table_are_not_looked_at():
    pair = linear()
    rows = table(pair)
    other = Table("other", {"x": rows.sites["x"], "y": (rows.sites["y"] + 1) % 4})
    a, b = (export.posterior(pair, t, draws=5) for t in (rows, other))
    for group in ("posterior", "sample_stats", "log_likelihood", "variational"):
        for name in a[group].data_vars:
            np.testing.assert_array_equal(a[group][name].values, b[group][name].values)
    np.testing.assert_array_equal(a.constant_data["y_true"], rows.sites["y"])


@pytest.mark.filterwarnings("ignore:Estimated shape parameter")  # of high k-hats
def test_given_labels_are_observed():
    pair = linear()
    rows = table(pair)
    idata = export.posterior(pair, rows, given=("x", "y"), draws=30)
    x, y = rows.sites["x"], rows.sites["y"]
    assert list(idata.posterior.data_vars) == ["z"]
    assert set(idata.observed_data.data_vars) == {"x", "y"}
    assert "constant_data" not in groups_of(idata)
    log_prior = pair.prior_logits.log_softmax(0)[y].detach()
    of_label = drawn(idata, "y", "log_likelihood_by_site")
    torch.testing.assert_close(of_label, log_prior.expand(30, -1), rtol=0, atol=1e-12)
    mean = drawn(idata, "z") @ pair.A.T + pair.means[y]
    of_x = Normal(mean, pair.noise).log_prob(x).sum(-1).detach()
    close = {"rtol": 0, "atol": 1e-10}
    torch.testing.assert_close(drawn(idata, "x", "log_likelihood_by_site"), of_x, **close)
    # Of all data together there is one, which ArviZ finds by itself.
    together = drawn(idata, "data", "log_likelihood")
    torch.testing.assert_close(together, of_x + log_prior, **close)
    assert az.loo(idata).n_data_points == N
    torch.testing.assert_close(
        drawn(idata, "log_p", "sample_stats"),
        of_x + log_prior + Normal(0.0, 1.0).log_prob(drawn(idata, "z")).sum(-1),
        rtol=0, atol=1e-10,
    )  # fmt: skip
    # The predictive draws keep the label that was given.
    assert list(idata.posterior_predictive.data_vars) == ["x"]


def test_hidden_labels_stay_hidden_and_rows_keep_their_numbers():
    pair = linear()
    mask = torch.tensor([True, False, True, False, False, True])
    rows = table(pair, observed={"y": mask})
    idata = export.posterior(pair, rows, rows=[4, 0], draws=30)
    np.testing.assert_array_equal(idata.posterior["datum"], [19, 7])
    np.testing.assert_array_equal(idata.constant_data["y_true"], [-1, int(rows.sites["y"][0])])
    np.testing.assert_array_equal(idata.constant_data["y_mask"], [False, True])
    np.testing.assert_array_equal(idata.observed_data["x"], rows.sites["x"][[4, 0]])


# ---- other pairs --------------------------------------------------------------------------


@dataclass(frozen=True)
class MixedConfig(Config):
    data_dim: int = setting(2, "D")


class Mixed(Pair):
    """z ~ N(0, I); y one of three vectors; b a coin that the guide leaves to the model."""

    Config = MixedConfig
    config: MixedConfig
    card = Card(
        "mixed", "A mixed world", "-", 2026, "-", "test", {"x": "data"},
        {"y": "class", "z": "code", "b": "coin"}, ("y", "b"),
    )  # fmt: skip

    def __init__(self, config: MixedConfig) -> None:
        super().__init__(config)
        self.decoder = Net({"y": 3, "z": 2, "b": 1}, (), config.data_dim)
        self.guide = guides.Factored(
            z=guides.Normal(2, {"x": 2}, (4,)), y=guides.OneHotCategorical(3, {"z": 2}, (4,))
        )

    def mean(self, y, z, b):
        return self.decoder(y=y, z=z, b=3 * b.unsqueeze(-1))

    def model(self, batch):
        zero = self.like().new_zeros(3)
        with self.plate(batch):
            z = pyro.sample("z", dist.Normal(zero[:2], zero[:2] + 1).to_event(1))
            y = pyro.sample(
                "y", dist.OneHotCategorical(logits=zero + self.like().new_tensor([0, 1, 2]))
            )
            b = pyro.sample("b", dist.Bernoulli(zero[0] + 0.3))
            x = dist.Normal(self.mean(y, z, b), 0.5).to_event(1)
            pyro.sample("x", x, obs=batch.get("x"))


def test_any_order_of_the_guide_and_labels_it_leaves_out():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pair = Mixed(MixedConfig()).double()
        x = torch.randn(4, 2, dtype=torch.float64)
    idata = export.posterior(pair, Table("t", {"x": x}), draws=S, seed=2)
    y, z, b = (drawn(idata, name) for name in ("y", "z", "b"))
    q = pair.guide.factor("y", {"z": z})
    log_q = (
        pair.guide.factor("z", {"x": x}).log_prob(z) + q.logits.gather(-1, y[..., None])[..., 0]
    )
    prior_y, prior_b = (
        torch.tensor([0.0, 1, 2]).double().log_softmax(0),
        torch.tensor([0.7, 0.3]).log(),
    )
    joint = torch.stack([
        torch.stack([
            Normal(0.0, 1.0).log_prob(z).sum(-1) + prior_y[k] + prior_b[c]
            + Normal(pair.mean(torch.eye(3).double()[k], z, torch.full((), c).double()), 0.5)
            .log_prob(x).sum(-1)
            for c in (0, 1)])
        for k in range(3)]).detach()  # fmt: skip
    s, n = torch.arange(S)[:, None], torch.arange(4)
    at_y = joint.movedim((0, 1), (2, 3))[s, n, y]
    close = {"rtol": 0, "atol": 1e-6}  # the coin's prior is in single precision
    torch.testing.assert_close(drawn(idata, "log_q", "sample_stats"), log_q.detach(), **close)
    torch.testing.assert_close(drawn(idata, "log_p", "sample_stats"), at_y.logsumexp(-1), **close)
    log_prior_z = Normal(0.0, 1.0).log_prob(z).sum(-1)
    by_hand = joint.logsumexp((0, 1)) - log_prior_z
    torch.testing.assert_close(drawn(idata, "x", "log_likelihood"), by_hand, **close)
    # The coin is drawn from the model's own conditional, at the y of its draw.
    p = at_y.softmax(-1)[..., 1]
    error = (p * (1 - p)).sum(0).sqrt()
    assert float(((b - p).sum(0) / error).abs().max()) < 4.5
    assert 0.05 < float(p.mean()) < 0.95
    # The label's probabilities are averaged over z; the code's parameters know no label.
    probs = torch.from_numpy(idata.variational["y_probs"].values)
    torch.testing.assert_close(probs, q.probs.mean(0).detach(), **close)
    assert idata.variational["z_loc"].dims == ("datum", "z_dim")
    assert "b_probs" not in idata.variational
