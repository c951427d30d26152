"""Posteriors of what all rows share, by name: against parameters, draws and the export."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoLowRankMultivariateNormal, AutoNormal
from torch import nn
from torch.testing import assert_close
from worlds.shared_sites import shared

import ppl_models as zoo
from ppl_models import Batch, Card, Config, Pair, guides, inference

AUTO = {
    "normal": functools.partial(AutoNormal, init_scale=0.4),
    "low rank": functools.partial(AutoLowRankMultivariateNormal, rank=2, init_scale=0.4),
    "point": AutoDelta,
}


@dataclass(frozen=True)
class NoConfig(Config):
    """Nothing to set."""


class Several(Pair):
    """A matrix, a scale, a share and shares that add up, all outside the plate."""

    Config = NoConfig
    card = Card(
        "several", "-", "-", 2026, "-", "test", {"x": "data"},
        {"m": "matrix", "s": "scale", "p": "share", "w": "shares"},
    )  # fmt: skip

    def __init__(self, auto: str) -> None:
        super().__init__(NoConfig())
        self.one = nn.Parameter(torch.ones(()))
        rows = Batch({"x": torch.zeros(2, 3)})
        self.guide = guides.Mixed(
            guides.Globals(self.model, rows, AUTO[auto]), guides.Factored()
        )  # fmt: skip
        with torch.no_grad():
            for parameter in self.guide.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape))

    def model(self, batch):
        one = self.one
        m = pyro.sample("m", dist.Normal(one.new_zeros(2, 3), one).to_event(2))
        s = pyro.sample("s", dist.LogNormal(one.new_zeros(3), one).to_event(1))
        p = pyro.sample("p", dist.Beta(one, one))
        w = pyro.sample("w", dist.Dirichlet(one.expand(3)))
        with self.plate(batch):
            loc = m.sum(0) * p + w
            pyro.sample("x", dist.Normal(loc, s).to_event(1), obs=batch.get("x"))


def several(auto: str, dtype: torch.dtype) -> Several:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Several(auto).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("auto", AUTO)
def test_each_site_has_the_distribution_that_the_guide_draws_it_from(auto, dtype):
    pair = several(auto, dtype)
    found = inference.global_posteriors(pair)
    batch = Batch({"x": torch.zeros(2, 3, dtype=dtype)})
    torch.manual_seed(1)
    with torch.no_grad():
        drawn = [pair.guide(batch) for _ in range(600)]
    assert list(found) == ["m", "s", "p", "w"]
    for name, q in found.items():
        draws = torch.stack([d[name] for d in drawn]).double()
        own = q.sample((20_000,)).double()
        assert own.shape[1:] == draws.shape[1:] == q.event_shape and not q.batch_shape
        error = (draws.var(0) / len(draws) + own.var(0) / len(own)).sqrt()
        assert ((draws.mean(0) - own.mean(0)).abs() <= 5 * error + 1e-6).all(), name
        spread = draws.std(0) * (2 / len(draws)) ** 0.5
        assert ((draws.std(0) - own.std(0)).abs() <= 5 * spread + 1e-6).all(), name
        if name in "ms" or auto == "point":
            assert q.mean.shape == q.stddev.shape == q.event_shape
            assert ((q.mean - own.mean(0)).abs() <= 5 * own.std(0) / 140 + 1e-6).all(), name
            assert (
                (q.stddev / own.std(0).clamp_min(1e-9) - 1).abs() < 0.1
            ).all() or not q.stddev.any()
        else:
            with pytest.raises(NotImplementedError, match="no mean in closed form"):
                _ = q.mean


def test_of_low_rank_it_is_the_block_of_the_joint():
    pair = several("low rank", torch.float64)
    joint = pair.guide.globals_.auto.get_posterior()
    m, s = (pair.global_posterior(name) for name in ("m", "s"))
    assert_close(m.mean.flatten(), joint.loc[:6].detach())
    assert_close(m.variance.flatten(), joint.variance[:6].detach())
    normal = torch.distributions.MultivariateNormal(
        joint.loc[6:9].detach(), joint.covariance_matrix[6:9, 6:9].detach()
    )
    value = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    assert_close(s.log_prob(value), normal.log_prob(value.log()) - value.log().sum())
    log_normal = dist.LogNormal(normal.mean, normal.variance.sqrt())
    assert_close(s.mean, log_normal.mean)
    assert_close(s.stddev, log_normal.stddev)


@pytest.mark.parametrize("bayesian", [True, False])
def test_weights_of_a_fitted_run(bayesian):
    torch.manual_seed(0)
    pair = zoo.build("bayesian_ssl", data_dim=3, classes=2, latent=1, hidden=(3,),
                     bayesian=bayesian)  # fmt: skip
    table = zoo.data.Table("t", {"x": torch.rand(20, 3), "y": torch.arange(20) % 2})
    run = inference.fit(pair, table, epochs=3, progress=False)
    q = run.global_posterior("w")
    auto = pair.guide.globals_.auto
    loc = auto.locs.w if bayesian else auto.w
    assert torch.equal(q.mean, loc) and not q.mean.requires_grad
    assert torch.equal(q.stddev, auto.scales.w if bayesian else torch.zeros_like(loc))
    idata = run.posterior(table.only("x"), draws=5, prior_draws=0)
    if bayesian:
        assert_close(torch.from_numpy(idata["variational"].w_loc.values), q.mean)
        assert_close(torch.from_numpy(idata["variational"].w_scale.values), q.stddev)
    before = q.mean.clone()
    inference.fit(pair, table, epochs=1, progress=False, learning_rate=0.1)
    assert torch.equal(q.mean, before) and not torch.equal(run.global_posterior("w").mean, before)


def plain(pair, depends=False):
    """The same pair with a function for its guide."""
    inner = pair.guide
    del pair.guide
    pair.inner = inner

    def guide(batch):
        values = inner(batch)
        if depends:
            pyro.sample("w2", dist.Normal(values["w"], 1.0).to_event(1))

    pair.guide = guide
    return pair


def test_any_guide_that_samples_such_a_site():
    pair, _ = shared(3)
    q = inference.global_posteriors(pair)["w"]
    state = torch.get_rng_state()
    other = inference.global_posteriors(plain(pair))["w"]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(other.mean, q.mean) and torch.equal(other.stddev, q.stddev)
    dependent = plain(shared(3)[0], depends=True)
    with pytest.raises(ValueError, match=r"site 'w2' is no distribution by itself.*guides\.Mixed"):
        dependent.global_posterior("w")


def test_what_is_not_there_is_told_apart():
    pair, _ = shared(3)
    line = "^unknown site outside the data plate of shared 'v': expected one of w$"
    with pytest.raises(ValueError, match=line):
        pair.global_posterior("v")
    m2 = zoo.build("m2", data_dim=3, classes=2, latent=2, hidden=(4,))
    inner = m2.guide
    for guide in (inner, lambda batch: inner(batch)):
        del m2.guide
        m2.guide = guide
        with pytest.raises(
            ValueError, match=r"^m2 has no posterior outside the data plate: its g"
        ):
            m2.global_posterior("w")
