"""Relaxed sites: closed-form KL, the cold limit, the shrinking bias, Concrete densities."""

from __future__ import annotations

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, RelaxedBernoulli, RelaxedOneHotCategorical
from worlds.gradients import flat, gradient, replicated

from ppl_models import guides
from ppl_models.batch import Batch
from ppl_models.inference import ELBO, Anneal, Evaluation, RelaxedELBO, UnhandledSite
from ppl_models.networks import Label, Net, Scalar

C, K = 4, 3


class Bits(guides.Factor):
    """Independent binary values."""

    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=raw).to_event(1)


class World(nn.Module):
    """y ~ Cat(4), h ~ 2 bits, z ~ N(0, 1) given y; x ~ N(z + f(y, h), 1)."""

    def __init__(self, code: bool = True) -> None:
        super().__init__()
        x = {"x": Scalar()}
        self.code = code
        factors = {"y": guides.Categorical(C, x), "h": Bits(2, {**x, "y": Label(C)})}
        if code:
            factors["z"] = guides.Normal(1, {**x, "y": Label(C)})
        self.guide = guides.Factored(**factors)
        self.prior = nn.Parameter(torch.randn(C))
        self.bits = nn.Parameter(torch.randn(2))
        self.decoder = Net({"y": Label(C), "h": 2}, (4,), 1, "tanh")

    def model(self, batch: Batch) -> None:
        zero = self.prior.new_zeros(1)
        with batch.plate():
            y = pyro.sample("y", dist.Categorical(logits=self.prior), obs=batch.get("y"))
            h = pyro.sample("h", dist.Bernoulli(logits=self.bits).to_event(1))
            loc = 3 * self.decoder(y=y, h=h).squeeze(-1)
            if self.code:
                z = pyro.sample("z", dist.Normal(zero, zero + 1).to_event(1))
                loc = loc + z.squeeze(-1)
            pyro.sample("x", dist.Normal(loc, 1.0), obs=batch.get("x"))

    def exact(self, x: Tensor) -> Tensor:
        """The ELBO per row, summed over y and h, with the expectation over z in closed form."""
        total = torch.zeros_like(x)
        for y in range(C):
            for bits in itertools.product((0.0, 1.0), repeat=2):
                row = {"x": x, "y": torch.tensor(y), "h": torch.tensor(bits, dtype=x.dtype)}
                log_q = self.guide.factor("y", row).log_prob(row["y"])
                log_q = log_q + self.guide.factor("h", row).log_prob(row["h"])
                log_p = self.prior.log_softmax(0)[y]
                log_p = log_p + dist.Bernoulli(logits=self.bits).to_event(1).log_prob(row["h"])
                mean = 3 * self.decoder(y=row["y"], h=row["h"]).squeeze(-1)
                if self.code:
                    q = self.guide.factor("z", row).base_dist
                    loc, scale = q.loc.squeeze(-1), q.scale.squeeze(-1)
                    log_p = log_p - 0.5 * (loc**2 + 2 * scale**2 - 1) + scale.log()
                    mean = mean + loc
                log_p = log_p + Normal(mean, 1.0).log_prob(x)
                total = total + log_q.exp() * (log_p - log_q)
        return total


def world(code: bool = True) -> World:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return World(code).double()


X = torch.tensor([0.4, -1.1], dtype=torch.float64)


def by_hand(pair: World, batch: Batch, objective: RelaxedELBO, cold: bool = False) -> Tensor:
    """The bound per row from the draws, with the KL of y and h written out; y rounded if cold."""
    run = Evaluation(pair.model, pair.guide, batch)
    objective.rows(run)
    nodes = objective.weights(run).guide.nodes
    values = {n: nodes[n]["value"].reshape(K, 2, -1) for n in ("h", "z")}
    values["x"] = batch["x"]
    if "y" in batch:
        values["y"], kl = batch["y"], -pair.prior.log_softmax(0)[batch["y"]]
    else:
        values["y"] = nodes["y"]["value"].reshape(K, 2, C)
        q = pair.guide.factor("y", values).logits.log_softmax(-1)
        kl = (q.exp() * (q - pair.prior.log_softmax(0))).sum(-1)
    if cold:
        values["h"] = values["h"].round()
        values["y"] = values["y"].argmax(-1)
    q = pair.guide.factor("h", values).base_dist.probs
    p = torch.sigmoid(pair.bits)
    kl = kl + (q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()).sum(-1)
    loc = 3 * pair.decoder(y=values["y"], h=values["h"]).squeeze(-1) + values["z"].squeeze(-1)
    log_w = Normal(loc, 1.0).log_prob(batch["x"]) + Normal(0.0, 1.0).log_prob(values["z"]).sum(-1)
    log_w = log_w - pair.guide.factor("z", values).log_prob(values["z"])
    return (log_w - kl).mean(0)


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("labelled", [False, True])
def test_the_value_has_the_closed_form_kl(labelled, scale, hard):
    pair, objective = world(), RelaxedELBO(K, 0.5, hard=hard)
    sites = {"x": X, "y": torch.tensor([1, 3])} if labelled else {"x": X}
    batch = Batch(sites, size=scale * 2)
    torch.manual_seed(0)
    loss = objective.differentiable_loss(pair.model, pair.guide, batch)
    torch.manual_seed(0)
    hand = -scale * by_hand(pair, batch, objective).sum()
    torch.testing.assert_close(loss, hand)
    if not hard:  # rounded draws: the same graph is not rebuilt from their values
        torch.testing.assert_close(flat(gradient(loss, pair)), flat(gradient(hand, pair)))


def test_a_cold_draw_is_a_sampled_value_and_its_mean_the_enumerated_bound():
    pair = world()
    objective, batch = RelaxedELBO(K, 1e-4), Batch({"x": X})
    torch.manual_seed(0)
    warm = -objective.rows(Evaluation(pair.model, pair.guide, batch))
    torch.manual_seed(0)
    torch.testing.assert_close(warm, by_hand(pair, batch, objective, cold=True))
    many = Batch({"x": X.repeat(20_000)})
    with torch.no_grad():
        run = Evaluation(pair.model, pair.guide, many)
        losses = RelaxedELBO(1, 1e-4).rows(run).reshape(-1, 2)
        gap = losses.mean(0) + pair.exact(X)
    assert (gap.abs() / losses.std(0) * 20_000**0.5).max() < 4


@pytest.mark.parametrize("hard", [False, True])
def test_the_bias_of_the_gradient_shrinks_with_the_temperature(hard):
    pair, row = world(code=False), Batch({"x": X[:1]})
    exact = flat(gradient(-pair.exact(X[:1]).sum(), pair))
    bias, noise = [], []
    for temperature in (2.0, 0.5, 0.1):
        mean, error = replicated(pair, RelaxedELBO(1, temperature, hard), row, copies=2000)
        bias.append(float((mean - exact).norm()))
        noise.append(float(error.norm()))
    assert bias[0] > 1.5 * bias[1] > 1.5 * 1.5 * (bias[2] - 2 * noise[2]), (bias, noise)
    assert bias[0] > 5 * noise[0]


def test_rounded_draws_reach_the_decoder_as_corners_with_the_soft_gradient():
    pair, seen = world(code=False), []
    pair.decoder.register_forward_pre_hook(lambda m, a, kw: seen.append(kw), with_kwargs=True)
    torch.manual_seed(0)
    objective = RelaxedELBO(K, 0.7, hard=True)
    loss = objective.rows(Evaluation(pair.model, pair.guide, Batch({"x": X}))).sum()
    y, h = seen[0]["y"], seen[0]["h"]
    assert torch.equal(y.sort(-1).values[..., -1], torch.ones(K, 2).double()) and y.sum() == K * 2
    assert set(h.flatten().tolist()) <= {0.0, 1.0}
    assert gradient(loss, pair.guide.factors["y"])["net.first.weights.x"].any()


def test_the_relaxed_prior_scores_with_torchs_densities():
    pair, objective = world(), RelaxedELBO(K, 0.4, prior="relaxed")
    torch.manual_seed(0)
    run = Evaluation(pair.model, pair.guide, Batch({"x": X}))
    rows = objective.rows(run)
    nodes = objective.weights(run).guide.nodes
    values = {n: nodes[n]["value"].reshape(K, 2, -1) for n in ("y", "h", "z")} | {"x": X}
    warm = torch.tensor(0.4, dtype=torch.float64)
    q_y = pair.guide.factor("y", values).logits
    q_h = pair.guide.factor("h", values).base_dist.logits
    log_w = RelaxedOneHotCategorical(warm, logits=pair.prior).log_prob(values["y"])
    log_w = log_w - RelaxedOneHotCategorical(warm, logits=q_y).log_prob(values["y"])
    log_w = log_w + RelaxedBernoulli(warm, logits=pair.bits).log_prob(values["h"]).sum(-1)
    log_w = log_w - RelaxedBernoulli(warm, logits=q_h).log_prob(values["h"]).sum(-1)
    q_z = pair.guide.factor("z", values)
    log_w = log_w - kl_free(q_z, values["z"])
    loc = 3 * pair.decoder(y=values["y"], h=values["h"]).squeeze(-1) + values["z"].squeeze(-1)
    log_w = log_w + Normal(loc, 1.0).log_prob(X)
    torch.testing.assert_close(rows, -log_w.mean(0))


def kl_free(q: dist.TorchDistribution, z: Tensor) -> Tensor:
    """log q(z) - log N(z; 0, 1)."""
    return q.log_prob(z) - Normal(0.0, 1.0).log_prob(z).sum(-1)


@pytest.mark.parametrize("temperature", [0.66, 0.05, 1e-3])
def test_single_precision_stays_finite_where_it_is_cold(temperature):
    """A cold draw rounds to a corner, where the Concrete density alone would be infinite."""
    pair = world().float()
    many = Batch({"x": torch.full((2000,), 0.4)})
    double = Batch({"x": torch.full((2000,), 0.4, dtype=torch.float64)})
    torch.manual_seed(0)
    objective = RelaxedELBO(1, temperature, prior="relaxed")
    run = Evaluation(pair.model, pair.guide, many)
    with pyro.validation_enabled():  # as in the first step of training
        loss = objective.rows(run)
    y = objective.weights(run).guide.nodes["y"]["value"]
    assert (y > 0).all() and loss.isfinite().all()
    assert flat(gradient(loss.sum(), pair)).isfinite().all()
    # Double precision sees the same mean, within the error of both.
    torch.manual_seed(1)
    exact = objective.rows(Evaluation(pair.double().model, pair.guide, double)).detach()
    gap = loss.detach().double().mean() - exact.mean()
    assert gap.abs() < 4.5 * ((loss.double().var() + exact.var()) / 2000).sqrt()


def test_observed_and_continuous_sites_stay_as_they_are():
    def model(batch):
        with batch.plate():
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.squeeze(-1), 1.0), obs=batch.get("x"))

    guide = guides.Factored(z=guides.Normal(1, {"x": Scalar()}))
    losses = []
    for objective in (RelaxedELBO(K), ELBO(K)):
        torch.manual_seed(0)
        losses.append(objective.differentiable_loss(model, guide, Batch({"x": X.float()})))
    assert torch.equal(*losses)


def test_the_temperature_follows_its_schedule():
    pair, objective = world(), RelaxedELBO(K, Anneal(1.0, 0.2))
    for progress, temperature in ((0.0, 1.0), (0.5, 0.6)):
        objective.at(progress)
        both = []
        for bound in (objective, RelaxedELBO(K, temperature)):
            torch.manual_seed(0)
            both.append(bound.rows(Evaluation(pair.model, pair.guide, Batch({"x": X}))))
        assert torch.equal(*both)


def test_what_it_cannot_do_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="temperature is 0"):
        RelaxedELBO(temperature=0.0)
    with pytest.raises(ValueError, match="temperature is -1"):
        RelaxedELBO(temperature=Anneal(1.0, -1.0))
    with pytest.raises(ValueError, match="hard=True"):
        RelaxedELBO(hard=True, prior="relaxed")

    def pair(q, p):
        def model(batch):
            with batch.plate():
                n = pyro.sample("n", p)
                pyro.sample("x", dist.Normal(n.sum(-1), 1.0), obs=batch.get("x"))

        def guide(batch):
            with batch.plate():
                pyro.sample("n", q)

        return Evaluation(model, guide, Batch({"x": torch.zeros(2)}))

    counts = dist.Poisson(torch.ones(2)).to_event(1)
    with pytest.raises(UnhandledSite, match=r"'n'.*Poisson"):
        RelaxedELBO().rows(pair(counts, counts))
    category = dist.Categorical(torch.ones(2))
    bits = dist.Bernoulli(0.5 * torch.ones(2)).to_event(1)
    with pytest.raises(UnhandledSite, match="'n' is Categorical in the guide and Independent"):
        RelaxedELBO().rows(pair(category, bits))
