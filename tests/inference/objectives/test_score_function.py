"""Score-function gradients against exact sums over all values."""

from __future__ import annotations

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal
from worlds.gradients import flat, gradient, largest_z, replicated

from ppl_models import guides
from ppl_models.batch import Batch
from ppl_models.inference import ELBO, Evaluation, ScoreELBO, UnhandledSite
from ppl_models.networks import Label, Scalar

BITS = 3
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Bits(guides.Factor):
    """Independent binary values, which cannot be listed in one dimension."""

    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=raw).to_event(1)


class World(nn.Module):
    """y ~ Cat(3), h | y: 3 bits, z ~ N(0, 1), x ~ N(z + c h + d_y, 1); y first or last in q."""

    def __init__(self, order: str, code: bool = True) -> None:
        super().__init__()
        x = {"x": Scalar()}
        factors = {
            "y": guides.Categorical(3, {**x, "h": BITS} if order == "last" else x),
            "h": Bits(BITS, x if order == "last" else {**x, "y": Label(3)}),
            "z": guides.Normal(1, {**x, "h": BITS}),
        }
        names = ("h", "z", "y") if order == "last" else ("y", "h", "z")
        self.guide = guides.Factored(**{n: factors[n] for n in names if n != "z" or code})
        self.code = code
        self.prior = nn.Parameter(torch.randn(3))
        self.bits = nn.Parameter(torch.randn(3, BITS))
        self.c = nn.Parameter(1.5 * torch.randn(BITS))
        self.d = nn.Parameter(torch.randn(3))

    def model(self, batch: Batch) -> None:
        zero = self.d.new_zeros(1)
        with batch.plate():
            y = pyro.sample("y", dist.Categorical(logits=self.prior), obs=batch.get("y"))
            h = pyro.sample("h", dist.Bernoulli(logits=self.bits[y]).to_event(1))
            loc = h @ self.c + self.d[y]
            if self.code:
                z = pyro.sample("z", dist.Normal(zero, zero + 1).to_event(1))
                loc = loc + z.squeeze(-1)
            pyro.sample("x", dist.Normal(loc, 1.0), obs=batch.get("x"))

    def exact(self, batch: Batch, particles: int = 0) -> Tensor:
        """The ELBO of one row by a sum over all y and h; or the bound of K draws of h per y."""
        x, total = batch["x"], torch.zeros((), dtype=torch.float64)
        for y in [batch["y"]] if "y" in batch else torch.arange(3).unsqueeze(-1):
            log_q_h, log_q_y, log_w = [], [], []
            for value in itertools.product((0.0, 1.0), repeat=BITS):
                row = {"x": x, "y": y, "h": torch.tensor(value, dtype=x.dtype).unsqueeze(0)}
                log_q_h.append(self.guide.factor("h", row).log_prob(row["h"]))
                log_q_y.append(self.guide.factor("y", row).log_prob(y))
                log_p = self.prior.log_softmax(0)[y]
                log_p = log_p + dist.Bernoulli(logits=self.bits[y]).to_event(1).log_prob(row["h"])
                mean = row["h"] @ self.c + self.d[y]
                spread = 0.0
                if self.code:  # E_q log p(x|z,..) - KL(q(z) || N(0, 1)) in closed form
                    q = self.guide.factor("z", row).base_dist
                    loc, scale = q.loc.squeeze(-1), q.scale.squeeze(-1)
                    spread = -0.5 * scale**2 - 0.5 * (loc**2 + scale**2 - 1) + scale.log()
                    mean = mean + loc
                log_p = log_p - 0.5 * (x - mean) ** 2 - HALF_LOG_2PI + spread
                log_w.append(log_p - log_q_h[-1])
            q_h, log_q, log_w = (
                torch.stack(log_q_h).exp(),
                torch.stack(log_q_y),
                torch.stack(log_w),
            )
            if "y" in batch:
                log_q = torch.zeros_like(log_q)
            if not particles:
                total = total + (q_h * log_q.exp() * (log_w - log_q)).sum()
                continue
            for draws in itertools.product(range(2**BITS), repeat=particles):
                chosen = list(draws)
                ell = torch.logsumexp(log_w[chosen], 0) - math.log(particles)
                share = q_h[chosen].prod(0) * log_q[0].exp()
                total = total + (share * (ell - log_q[0])).sum()
        return total


def world(order: str, code: bool = True) -> World:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return World(order, code).double()


ROW = {"x": torch.tensor([0.7], dtype=torch.float64)}


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize(
    ("order", "options"),
    [
        ("first", {}),
        ("last", {"particles": 3}),
        ("first", {"enumerate_labels": False}),
        ("last", {"enumerate_labels": False, "particles": 4}),
        ("first", {"baseline": "none", "particles": 1}),
    ],
)
def test_gradients_are_unbiased(order, options, labelled):
    pair = world(order)
    row = Batch({**ROW, "y": torch.tensor([1])} if labelled else ROW)
    exact = flat(gradient(-pair.exact(row), pair))
    mean, error = replicated(pair, ScoreELBO(**options), row)
    assert largest_z(mean, error, exact) < 4.5
    assert exact.norm() > 20 * error.max()  # the test has the power to see a missing score


@pytest.mark.parametrize("baseline", ["leave_one_out", "none"])
def test_the_bound_of_two_draws_has_unbiased_gradients(baseline):
    pair, row = world("first", code=False), Batch(ROW)
    exact = flat(gradient(-pair.exact(row, particles=2), pair))
    objective = ScoreELBO(2, baseline, inside=True)
    mean, error = replicated(pair, objective, row)
    assert largest_z(mean, error, exact) < 4.5
    assert exact.norm() > 20 * error.max()


@pytest.mark.parametrize("inside", [False, True])
def test_comparing_the_draws_lowers_the_variance(inside):
    pair, row = world("first", code=False), Batch(ROW)
    spread = [
        replicated(pair, ScoreELBO(4, baseline, inside), row)[1].square().sum()
        for baseline in ("leave_one_out", "none")
    ]
    assert spread[0] < 0.5 * spread[1], spread


@pytest.mark.parametrize("scale", [1, 10])
def test_the_value_is_the_bound_of_its_draws(scale):
    pair = world("last")
    x = torch.tensor([0.7, -1.0], dtype=torch.float64)
    torch.manual_seed(0)
    run = Evaluation(pair.model, pair.guide, Batch({"x": x}, size=scale * 2))
    objective = ScoreELBO(3)
    loss = run.batch.scale * objective.rows(run).sum()
    trace = objective.weights(run).guide
    values = {n: trace.nodes[n]["value"].reshape(3, 2, -1) for n in ("h", "z")}
    total = 0.0
    for y in range(3):
        row = {"x": x, "y": torch.tensor(y), **values}
        log_q_y = pair.guide.factor("y", row).log_prob(row["y"])
        log_w = pair.prior.log_softmax(0)[y]
        log_w = log_w + dist.Bernoulli(logits=pair.bits[y]).to_event(1).log_prob(row["h"])
        log_w = log_w + Normal(0.0, 1.0).log_prob(row["z"]).sum(-1)
        loc = row["z"].squeeze(-1) + row["h"] @ pair.c + pair.d[y]
        log_w = log_w + Normal(loc, 1.0).log_prob(x)
        for name in ("h", "z"):
            log_w = log_w - pair.guide.factor(name, row).log_prob(row[name])
        total = total - scale * (log_q_y.exp() * (log_w - log_q_y)).mean(0).sum()
    torch.testing.assert_close(loss, total)


class Twenty(nn.Module):
    """h: 20 bits, x_j ~ N(m_j h_j, 1); q(h | x) with a logit linear in x can be exact."""

    def __init__(self) -> None:
        super().__init__()
        self.guide = guides.Factored(h=Bits(20, {"x": 20}))
        self.register_buffer("m", torch.linspace(0.5, 3, 20))

    def model(self, batch: Batch) -> None:
        with batch.plate():
            h = pyro.sample("h", dist.Bernoulli(logits=0 * self.m).to_event(1))
            pyro.sample("x", dist.Normal(self.m * h, 1.0).to_event(1), obs=batch.get("x"))

    def exact(self, x: Tensor) -> Tensor:
        """The ELBO per row, bit by bit."""
        total = 0.0
        q = self.guide.factor("h", {"x": x}).base_dist.probs
        for value, prob in ((0.0, 1 - q), (1.0, q)):
            log_p = Normal(self.m * value, 1.0).log_prob(x) - math.log(2)
            total = total + (prob * (log_p - prob.log())).sum(-1)
        return total

    def evidence(self, x: Tensor) -> Tensor:
        off, on = Normal(0.0, 1.0).log_prob(x), Normal(self.m, 1.0).log_prob(x)
        return (torch.logaddexp(off, on) - math.log(2)).sum(-1)


@pytest.mark.training
def test_twenty_bits_get_the_exact_gradient_on_average_and_train():
    torch.manual_seed(0)
    pair = Twenty().double()
    h = torch.randint(2, (256, 20)).double()
    x = pair.m * h + torch.randn(256, 20, dtype=torch.float64)
    exact = flat(gradient(-pair.exact(x[:1]).sum(), pair))
    mean, error = replicated(pair, ScoreELBO(4), Batch({"x": x[:1]}), copies=200)
    assert largest_z(mean, error, exact) < 4.8  # of 420 entries
    gaps = [float((pair.evidence(x) - pair.exact(x)).mean().detach())]
    adam, batch = torch.optim.Adam(pair.parameters(), 0.05), Batch({"x": x})
    for _ in range(150):
        adam.zero_grad()
        (ScoreELBO(4).differentiable_loss(pair.model, pair.guide, batch) / 256).backward()
        adam.step()
    gaps.append(float((pair.evidence(x) - pair.exact(x)).mean().detach()))
    assert gaps[1] < 0.1 * gaps[0], gaps


def test_without_discrete_draws_it_is_the_elbo():
    pair = world("first")
    batch = Batch({**ROW, "y": torch.tensor([1]), "h": torch.ones(1, BITS, dtype=torch.float64)})

    def model(batch):
        return pyro.poutine.condition(pair.model, {"h": batch["h"]})(batch)

    losses = []
    for objective in (ScoreELBO(3), ELBO(3)):
        torch.manual_seed(0)
        losses.append(objective.differentiable_loss(model, pair.guide, batch))
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(flat(gradient(loss, pair)) for loss in losses))


def test_what_it_cannot_do_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="particles is 1, expected at least 2"):
        ScoreELBO(1)
    with pytest.raises(ValueError, match="baseline is 'mean'"):
        ScoreELBO(2, baseline="mean")
    pair = world("last")
    with pytest.raises(UnhandledSite, match="inside=False"):
        ScoreELBO(2, inside=True).rows(Evaluation(pair.model, pair.guide, Batch(ROW)))

    def model(batch):
        m = pyro.sample("m", dist.Poisson(2.0))
        with batch.plate():
            pyro.sample("x", dist.Normal(m, 1.0), obs=batch.get("x"))

    run = Evaluation(model, lambda batch: pyro.sample("m", dist.Poisson(1.0)), Batch(ROW))
    with pytest.raises(UnhandledSite, match="'m' stands outside"):
        ScoreELBO(2).rows(run)
