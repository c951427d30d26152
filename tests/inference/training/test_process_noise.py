"""Shares of a batch: their losses, gradients and noise add up to those of one process."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from worlds.linear import draw, linear

import ppl_models as zoo
from ppl_models.config import Config
from ppl_models.data import Stream, Table
from ppl_models.guides.experts import MixtureOfNormals
from ppl_models.inference import ELBO, IWELBO, Classification, EnumeratedELBO
from ppl_models.inference.training.process_noise import Draws
from ppl_models.pair import Card, Pair

CPU = torch.device("cpu")


def world_table(labelled, unlabelled, dtype=torch.float64):
    pair = linear(dtype=dtype)
    n = labelled + unlabelled
    x, y = draw(pair, n)
    return pair, Table("t", {"x": x, "y": y}, {"y": torch.arange(n) < labelled})


def whole(pair, objective, table, size, seed=3):
    """Loss, gradients and random state after one step of one process."""
    pair.zero_grad()
    torch.manual_seed(seed)
    loss = objective.differentiable_loss(pair.model, pair.guide, Stream(table, size).step(4))
    loss.backward()
    return loss.detach(), gradients(pair), torch.get_rng_state()


def gradients(pair):
    return {n: p.grad for n, p in pair.named_parameters() if p.grad is not None}


def shared(pair, objective, table, size, count, seed=3):
    """The same, summed over processes that are played one after the other."""
    pair.zero_grad()
    total, states = 0.0, []
    for rank in range(count):
        stream = Stream(table, size, process=rank, processes=count)
        draws = Draws(0, rank, count, CPU)
        draws.shares = stream.shares
        torch.manual_seed(seed)
        loss = draws.loss(objective, pair.model, pair.guide, stream.step(4), (0, 4)).total
        loss.backward()
        total = total + loss.detach()
        states.append(torch.get_rng_state())
    return total, gradients(pair), states


OBJECTIVES = {
    "enumerated": EnumeratedELBO(),
    "analytic": EnumeratedELBO(particles=2, kl="analytic") + Classification("y", 0.3),
    "iwelbo": IWELBO(particles=3, lam=0.5) + 0.5 * Classification("y"),
    "dreg": IWELBO(particles=2, grad="dreg"),
}


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("size", [4, 20, 200])  # N / B of 10 and 1, and fewer rows than processes
@pytest.mark.parametrize("kind", ["labelled", "unlabelled", "mixed"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_shares_add_up(name, kind, size, count):
    labelled, unlabelled = {"labelled": (200, 0), "unlabelled": (0, 200), "mixed": (30, 170)}[kind]
    pair, table = world_table(labelled, unlabelled)
    loss, grad, state = whole(pair, OBJECTIVES[name], table, size)
    total, summed, states = shared(pair, OBJECTIVES[name], table, size, count)
    torch.testing.assert_close(total, loss, rtol=1e-12, atol=0)
    assert summed.keys() == grad.keys()
    for key, value in grad.items():
        torch.testing.assert_close(summed[key], value, rtol=1e-9, atol=1e-9)
    assert all(torch.equal(s, state) for s in states)  # the next step starts alike


@pytest.mark.parametrize("paper", ["vae", "m1", "m2", "m1m2"])
def test_papers_in_float32(paper):
    torch.manual_seed(0)
    x, y = torch.rand(60, 6), torch.arange(60) % 3
    table = Table("t", {"x": x, "y": y}, {"y": torch.arange(60) < 9})
    pair = zoo.build(paper, data_dim=6, **({} if paper == "vae" else {"classes": 3}))
    for stage in pair.stages():
        seen = table.where_observed(stage.observed) if stage.observed else table
        seen = seen.only(*stage.sites) if stage.sites else seen
        if stage.prepare is not None:
            check_prepared(stage.prepare, seen)
            continue
        trained = stage.pair or pair
        loss, grad, state = whole(trained, stage.objective, seen, 20)
        total, summed, states = shared(trained, stage.objective, seen, 20, 2)
        torch.testing.assert_close(total, loss, rtol=1e-5, atol=0)
        for key, value in grad.items():
            torch.testing.assert_close(summed[key], value, rtol=1e-3, atol=1e-3)
        assert all(torch.equal(s, state) for s in states)


def check_prepared(prepare, table):
    with torch.no_grad():
        torch.manual_seed(1)
        expected = [prepare(b) for b in Stream(table, 20).step(2)]
        state = torch.get_rng_state()
        found = []
        for rank in range(2):
            stream = Stream(table, 20, process=rank, processes=2)
            draws = Draws(0, rank, 2, CPU)
            draws.shares = stream.shares
            torch.manual_seed(1)
            found.append(draws.prepared(prepare, stream.step(2), (0, 2)))
            assert torch.equal(torch.get_rng_state(), state)
    for place, batch in enumerate(expected):
        for site, value in batch.items():
            both = torch.cat([f[place][site] for f in found])
            torch.testing.assert_close(both, value, rtol=1e-5, atol=1e-6)


class Family(Pair):
    """w ~ N(0, 1); z ~ N(w, 1); x ~ N(z, 1), with any family for q(w) and q(z | x)."""

    Config = Config
    card = Card("family", "-", "-", 2026, "-", "test", {"x": "data"}, {"z": "code"})

    def __init__(self, local):
        super().__init__(Config())
        self.a = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        self.guide, self.local = self.q, local

    def q(self, batch):
        pyro.sample("w", dist.Normal(self.a, 1.0))
        with self.plate(batch):
            pyro.sample("z", self.local(self.a, batch["x"]))

    def model(self, batch):
        w = pyro.sample("w", dist.Normal(self.a * 0, 1.0))
        with self.plate(batch):
            z = pyro.sample("z", dist.Normal(w, 1.0).expand([2]).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=batch["x"])


def flow(a, x):
    base = dist.Normal((a * x)[:, None].expand(-1, 2), 1.0).to_event(1)
    return dist.TransformedDistribution(base, [dist.transforms.ExpTransform()])


def low_rank(a, x):
    loc = (a * x)[:, None].expand(-1, 2)
    factor = torch.ones_like(loc)[..., None]
    return dist.LowRankMultivariateNormal(loc, factor, torch.ones_like(loc))


def mixture(a, x):
    """Components apart, so that a component drawn otherwise shows."""
    loc = torch.stack([a * x, a * x + 9], -1)[..., None].expand(-1, 2, 2)
    even = dist.Categorical(logits=torch.zeros_like(loc[..., 0]))
    return MixtureOfNormals(even, dist.Normal(loc, 1.0).to_event(1))


class Like(dist.Normal):
    """Noise by ``rand_like`` and ``randn_like``."""

    def rsample(self, sample_shape=()):
        loc = self.loc.expand(self._extended_shape(torch.Size(sample_shape)))
        return loc + self.scale * torch.randn_like(loc) + torch.rand_like(loc)


FAMILIES = {
    "normal": lambda a, x: dist.Normal((a * x)[:, None], x.new_ones(2)).to_event(1),
    "log-normal": flow,
    "low-rank": low_rank,
    "laplace": lambda a, x: dist.Laplace((a * x)[:, None], x.new_ones(2)).to_event(1),
    "mixture": lambda a, x: mixture(a, x),
    "like": lambda a, x: Like((a * x)[:, None].expand(-1, 2), x.new_ones(2)).to_event(1),
    "gumbel": lambda a, x: dist.Gumbel((a * x)[:, None], x.new_ones(2)).to_event(1),
}


def rows_table(n):
    g = torch.Generator().manual_seed(0)
    return Table("t", {"x": torch.randn(n, generator=g, dtype=torch.float64)})


@pytest.mark.parametrize("name", FAMILIES)
def test_noise_is_the_batchs_whatever_wraps_it(name):
    """With a global site besides, which counts once in all."""
    pair, table = Family(FAMILIES[name]), rows_table(70)
    for objective in (ELBO(particles=2), ELBO()):
        loss, grad, state = whole(pair, objective, table, 7)
        total, summed, states = shared(pair, objective, table, 7, 3)
        torch.testing.assert_close(total, loss, rtol=1e-12, atol=0)
        torch.testing.assert_close(summed["a"], grad["a"], rtol=1e-10, atol=0)
        assert all(torch.equal(s, state) for s in states)


def gammas(count, n=4000):
    """Draws of q(z | x) = Gamma(2, 1) by each process, and the random states after."""
    found, states = [], []

    class Record(ELBO):
        def rows(self, run):
            found.append(self.weights(run).guide.nodes["z"]["value"].detach())
            return super().rows(run)

    def gamma(a, x):
        return dist.Gamma(2 + 0 * a, x.new_ones(len(x), 2)).to_event(1)

    pair, table = Family(gamma), rows_table(n)
    if count == 1:
        whole(pair, Record(), table, n)
    else:
        states = shared(pair, Record(), table, n, count)[2]
    return found, states


def test_rejection_samplers_draw_apart_and_leave_the_common_state():
    (a, b), states = gammas(2)
    assert torch.equal(states[0], states[1])
    z = torch.cat((a, b)).flatten()
    n = len(z)
    assert abs(z.mean() - 2) < 4 * (2 / n) ** 0.5  # mean 2, variance 2
    # The variance of the square about the mean is mu_4 - sigma^4 = 24 - 4.
    assert abs(z.var() - 2) < 4 * (20 / n) ** 0.5
    correlation = torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1]
    assert abs(correlation) < 4 / len(a.flatten()) ** 0.5
    again, _ = gammas(2)
    assert torch.equal(again[0], a) and torch.equal(again[1], b)  # a function of the key


def test_code_outside_sites_draws_apart():
    draws = [Draws(5, rank, 2, CPU) for rank in range(2)]
    seen = []
    for d in draws:
        for key in ((0, 1), (0, 2)):
            torch.manual_seed(0)
            before = torch.get_rng_state()
            with d.own(*key):
                seen.append(torch.dropout(torch.ones(64), 0.5, True))
                with d.shared():
                    common = torch.rand(3)
            torch.manual_seed(0)
            assert torch.equal(common, torch.rand(3))
            assert not torch.equal(before, torch.get_rng_state())
    assert len({tuple(s.tolist()) for s in seen}) == 4


def test_an_error_gives_the_random_state_back():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    draws = Draws(5, 1, 2, CPU)
    with pytest.raises(ZeroDivisionError), draws.own(0):
        torch.rand(3).new_tensor(1 / 0)
    assert torch.equal(before, torch.get_rng_state())


def test_an_empty_share_counts_for_nothing():
    """Two processes, one labelled row: the second looks at it at weight 0."""
    _, table = world_table(1, 40)
    streams = [Stream(table, 5, process=r, processes=2) for r in range(2)]
    assert [s.shares[0].weight for s in streams] == [0.0, 1.0]
    assert [s.step(0)[0].rows.tolist() for s in streams] == [[0], [0]]
