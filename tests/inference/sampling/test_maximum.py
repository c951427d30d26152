"""Modes against closed forms, and the minimiser against Newton's answer."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import Normal
from worlds.linear import LinearPair, draw, linear
from worlds.shared_sites import shared

from ppl_models import guides, inference
from ppl_models.data import Table
from ppl_models.inference.sampling import maximum
from ppl_models.inference.sampling.lbfgs import minimise


def world(rows=5, dtype=torch.float64):
    pair = linear(dtype=dtype)
    x, y = draw(pair, rows)
    return pair, Table("w/test", {"x": x, "y": y}, numbers=torch.arange(rows) + 100,
                       classes={"y": ("a", "b", "c", "d")})  # fmt: skip


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-6), (torch.float32, 2e-3)])
def test_with_labels_given_the_mode_is_the_mean(dtype, close):
    pair, table = world(dtype=dtype)
    x, y = table.sites["x"], table.sites["y"]
    state = torch.get_rng_state()
    idata = inference.map(pair, table, given=("x", "y"))
    assert torch.equal(torch.get_rng_state(), state)
    loc, scale = pair.posterior_z(x, y)
    z = idata.posterior["z"]
    assert z.dims == ("chain", "draw", "datum", "z_dim")
    np.testing.assert_allclose(z.values[0, 0], loc, atol=close)
    # log p(x, y, z) at the mode = log p(x, y) + log p(z | x, y) at its highest.
    joint = pair.log_evidence(x)[0].gather(1, y[:, None])[:, 0].detach()
    peak = joint - (scale.log() + 0.5 * math.log(2 * math.pi)).sum()
    np.testing.assert_allclose(idata.sample_stats["lp"][0, 0], peak, rtol=1e-5)
    assert (idata.sample_stats["gradient"] < (1e-6 if dtype == torch.float64 else 2e-2)).all()


def climb(pair, x, z):
    """EM for the mode of a mixture of Gaussians with one covariance: a fixed point from z."""
    loc, scale = pair.posterior_z(x[:, None], torch.arange(4))
    log_p = (pair.log_evidence(x)[0]).detach()
    for _ in range(400):
        share = (log_p + Normal(loc, scale).log_prob(z[:, None]).sum(-1)).softmax(-1)
        z = (share[..., None] * loc).sum(1)
    value = (log_p + Normal(loc, scale).log_prob(z[:, None]).sum(-1)).logsumexp(-1)
    return z, value, share


@pytest.mark.training
def test_with_labels_summed_out_it_is_the_highest_mode_of_the_mixture():
    pair, table = world(rows=8)
    x = table.sites["x"]
    idata = inference.map(pair, table, starts=20)
    z = torch.from_numpy(idata.posterior["z"].values[0, 0])
    lp = idata.sample_stats["lp"].values[0, 0]
    same, value, share = climb(pair, x, z)
    np.testing.assert_allclose(same, z, atol=1e-5)
    # The density is flat at its mode: codes off by 1e-5 change it by 1e-9, another mode by 1e-2.
    np.testing.assert_allclose(lp, value, rtol=1e-8)
    for label in range(4):
        start = pair.posterior_z(x, torch.full((8,), label))[0]
        assert (lp > climb(pair, x, start)[1].numpy() - 1e-8).all()
    np.testing.assert_allclose(idata.posterior["y_probs"][0, 0], share, atol=1e-5)
    np.testing.assert_array_equal(idata.posterior["y"][0, 0], share.argmax(-1))
    like = Normal((z @ pair.A.T)[:, None] + pair.means, pair.noise).log_prob(x[:, None]).sum(-1)
    like = (like + pair.prior_logits.log_softmax(0)).logsumexp(-1).detach()
    np.testing.assert_allclose(idata.log_likelihood["x"][0, 0], like, rtol=1e-10)


def test_a_row_does_not_depend_on_its_company(monkeypatch):
    pair, table = world()
    whole = inference.map(pair, table, given=("x", "y"))
    monkeypatch.setattr(maximum, "rows_at_a_time", lambda *_: 2)
    blocks = inference.map(pair, table, [3, 0, 4], given=("x", "y"))
    np.testing.assert_allclose(blocks.posterior["z"], whole.posterior["z"][:, :, [3, 0, 4]],
                               atol=1e-6)  # fmt: skip
    assert blocks.posterior["datum"].values.tolist() == [103, 100, 104]


def test_the_mode_of_a_conjugate_mean_outside_the_plate():
    pair, table = shared(12, codes=False, classes=1)
    idata = inference.map(pair, table)
    x = table.sites["x"]
    precision = 1 / pair.spread**2 + len(x) / pair.noise**2
    w = idata.posterior["w"]
    assert w.dims == ("chain", "draw", "w_dim")
    np.testing.assert_allclose(w[0, 0], x.sum(0) / pair.noise**2 / precision, rtol=1e-6)
    assert idata.sample_stats["lp"].shape == (1, 1)


def test_globals_and_codes_have_one_joint_mode():
    """Without labels everything is Gaussian together: mode = mean."""
    pair, table = shared(7, classes=1)
    idata = inference.map(pair, table)
    expected = pair.exact(table.sites["x"])
    np.testing.assert_allclose(idata.posterior["w"][0, 0], expected["w"], atol=1e-6)
    np.testing.assert_allclose(idata.posterior["z"][0, 0, :, 0], expected["z"], atol=1e-6)


class Positive(LinearPair):
    """With a code on the positive half-line, of which x tells nothing."""

    def model(self, batch):
        with self.plate(batch):
            z = pyro.sample("z", dist.LogNormal(self.A.new_zeros(2), 0.5).to_event(1))
            x = dist.Normal(0 * z.sum(-1, keepdim=True) + self.A.new_zeros(3), 1.0).to_event(1)
            pyro.sample("x", x, obs=batch.get("x"))


def test_the_mode_is_that_of_the_constrained_density():
    """Of a log-normal exp(mu - sigma^2), not the median exp(mu) of the real line's mode."""
    pair, table = world(rows=3)
    pair.__class__ = Positive
    pair.guide = guides.Factored(z=guides.Constrained(2, {"x": 3}, "positive")).double()
    idata = inference.map(pair, table)
    np.testing.assert_allclose(idata.posterior["z"], np.full((1, 1, 3, 2), math.exp(-0.25)),
                               rtol=1e-6)  # fmt: skip


class Flat(LinearPair):
    """Labels alone."""

    def model(self, batch):
        with self.plate(batch):
            y = pyro.sample("y", dist.Categorical(logits=self.prior_logits))
            x = dist.Normal(self.means[y], 1.0).to_event(1)
            pyro.sample("x", x, obs=batch.get("x"))


def test_what_cannot_be_done_is_told():
    pair, table = world()
    with pytest.warns(UserWarning, match=r"5 of 5 searches .* within 1 iterations"):
        inference.map(pair, table, iterations=1)
    for options, words in (
        ({"starts": 0}, "starts is 0, expected at least 1"),
        ({"iterations": 0}, "iterations is 0"),
        ({"tolerance": math.nan}, "tolerance is nan"),
        ({"rows": [5]}, "row 5 is not in w/test"),
    ):
        with pytest.raises(ValueError, match=words):
            inference.map(pair, table, **options)
    pair.__class__ = Flat
    pair.guide = guides.Factored(y=pair.guide.factors["y"])
    with pytest.raises(ValueError, match="no continuous latent site to maximise"):
        inference.map(pair, table)


def test_no_finite_start_is_told():
    pair, table = world()
    pair.__class__ = Positive
    net = torch.nn.Linear(3, 4).double()
    torch.nn.init.zeros_(net.weight)
    with torch.no_grad():
        net.bias.copy_(torch.tensor([-50.0, -50.0, -9.0, -9.0]))

    class Same(torch.nn.Module):
        def forward(self, x):
            return net(x)

    pair.guide = guides.Factored(z=guides.Normal(2, {"x": 3}, net=Same()))
    with pytest.raises(ValueError, match="no finite log density at any of 10 draws"):
        inference.map(pair, table)


def test_the_minimiser_solves_problems_of_their_own_scale():
    """Rosenbrock valleys of different curvature, and a quadratic of condition number 1e4."""
    steep = torch.tensor([1.0, 10.0, 100.0]).double()

    def valley(place):
        a, b = (v.clone().requires_grad_() for v in place.unbind(-1))
        value = (1 - a) ** 2 + steep * (b - a**2) ** 2
        return value.detach(), torch.stack(torch.autograd.grad(value.sum(), (a, b)), -1)

    start = torch.tensor([[-1.2, 1.0]] * 3).double()
    end = minimise(valley, start, 300, 1e-9)
    assert end.settled.all()
    torch.testing.assert_close(end.place, torch.ones(3, 2).double(), atol=1e-7, rtol=0)

    scale = torch.logspace(-2, 2, 12).double()

    def bowl(place):
        return 0.5 * (scale * place**2).sum(-1), scale * place

    end = minimise(bowl, torch.ones(2, 12).double(), 500, 1e-10)
    assert (end.slope <= 1e-10).all()
    assert (end.place.abs() <= 1e-7).all()
