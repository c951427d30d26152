"""Total correlation by loops over pairs of rows, in closed form, and as a part of the KL."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from worlds.combinations import in_turn
from worlds.two_codes import C, L, TwoCodes, rows

from ppl_models.batch import Batch
from ppl_models.inference import (
    ELBO,
    IWELBO,
    Anneal,
    EnumeratedELBO,
    TotalCorrelation,
    UnhandledSite,
    kl_parts,
)
from ppl_models.inference.objectives.code_terms.total_correlation import (
    ESTIMATORS,
    aggregate,
    log_row_weights,
)

WIDTHS = {torch.float64: 1e-10, torch.float32: 2e-4}


def weights_by_hand(estimator, size, count):
    """How much row k counts for row i, as the paper states it (appendix C of the paper)."""
    found = torch.zeros(count, count, dtype=torch.float64)
    for i in range(count):
        for k in range(count):
            if estimator == "batch" or (count == 1 and estimator == "mss"):
                found[i, k] = 1 / count
            elif estimator == "mws":
                found[i, k] = 1 / (size * count)
            elif i == k:
                found[i, k] = 1 / size
            elif k == (i + 1) % count:
                found[i, k] = (size - (count - 1)) / (size * (count - 1))
            else:
                found[i, k] = 1 / (count - 1)
    return found


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("scale", [1, 10])
def test_weights_of_rows(estimator, count, scale):
    size = count * scale
    found = log_row_weights(estimator, size, count, torch.zeros(0, dtype=torch.float64)).exp()
    assert_close(found, weights_by_hand(estimator, size, count))
    total = 1 / size if estimator == "mws" else 1.0
    assert_close(found.sum(1), torch.full((count,), total).double())
    if estimator == "mss" and count > 1:
        assert_close(found.diagonal(), torch.full((count,), 1 / size).double())


def by_loops(world, run, site, estimator):
    """The term of each row, one pair of rows, label, draw and coordinate at a time."""
    codes, batch = run.codes(site), run.batch
    size, count = batch.size, batch.count
    w = weights_by_hand(estimator, size, count)
    given = C if codes.labels else 1
    found = []
    for i in range(count):
        total = 0.0
        for s in range(len(codes.values)):
            z = codes.values[s, i]
            joint, apart = 0.0, [0.0] * len(z)
            for k in range(count):
                for y in range(given):
                    label = torch.full((count,), y)
                    q = world.guide.factor(site, {"x": batch["x"], "y": label}).base_dist
                    share = w[i, k]
                    if given > 1:
                        share = share * world.guide.factor("y", batch).probs[k, y]
                    densities = dist.Normal(q.loc[k], q.scale[k]).log_prob(z).exp()
                    joint = joint + share * densities.prod()
                    apart = [a + share * d for a, d in zip(apart, densities, strict=True)]
            inside = joint.log() - sum(a.log() for a in apart)
            total = total + codes.log_weights[s, i].exp() * inside
        found.append(total)
    return torch.stack(found)


BOUNDS = {"one": EnumeratedELBO(kl="analytic"), "three": IWELBO(3)}


@pytest.mark.parametrize(  # a is free, b is given a label
    ("estimator", "site", "bound", "sized"),
    in_turn(ESTIMATORS, ["a", "b"], [*BOUNDS], [(1, torch.float64), (10, torch.float32)]),
)
def test_the_term_by_loops(estimator, site, bound, sized):
    scale, dtype = sized
    world, batch = TwoCodes(given=True).to(dtype), rows("x", count=4, scale=scale).to(dtype)
    torch.manual_seed(0)
    run = BOUNDS[bound].run(world.model, world.guide, batch)
    found = TotalCorrelation(site, 1.7, estimator).rows(run)
    hand = 1.7 * by_loops(world, run, site, estimator)
    assert_close(found.double(), hand.double(), rtol=WIDTHS[dtype], atol=WIDTHS[dtype])
    if dtype == torch.float64:
        parameters = [p for n, p in world.guide.named_parameters()]
        grads = [
            torch.autograd.grad(t.sum(), parameters, retain_graph=True, allow_unused=True)
            for t in (found, hand)
        ]
        assert_close(grads[0], grads[1], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("scale", [1, 10])
def test_it_counts_per_row_of_the_data(estimator, scale):
    world, batch = TwoCodes(), rows("x", scale=scale)
    bound, term = EnumeratedELBO(), TotalCorrelation("a", Anneal(0, 2), estimator)
    for progress, weight in ((0.0, 0), (0.5, 1), (1.0, 2)):
        both = bound + term
        both.at(progress)
        torch.manual_seed(1)
        total = both.differentiable_loss(world.model, world.guide, batch)
        torch.manual_seed(1)
        run = bound.run(world.model, world.guide, batch)
        hand = bound.rows(run) + weight * by_loops(world, run, "a", estimator)
        assert_close(total, scale * hand.sum(), rtol=1e-9, atol=1e-9)


def test_estimators_differ_by_constants_that_are_known():
    world, batch = TwoCodes(), rows("x", scale=10)
    run = EnumeratedELBO().run(world.model, world.guide, batch)
    batch_form, weighted = (TotalCorrelation("a", 1.0, e).rows(run) for e in ("batch", "mws"))
    assert_close(weighted - batch_form, torch.full((6,), (L - 1) * math.log(60)).double())
    grads = [
        torch.autograd.grad(t.sum(), list(world.guide.parameters()), retain_graph=True,
                            allow_unused=True)
        for t in (batch_form, weighted)
    ]  # fmt: skip
    assert_close(*grads)


class Gaussian(nn.Module):
    """q(z | x) = N(x, s^2 I) of rows x ~ N(0, S): the mixture of all rows is N(0, S + s^2 I)."""

    def __init__(self, noise):
        super().__init__()
        self.noise = noise

    def __call__(self, batch):
        with batch.plate():
            pyro.sample("z", dist.Normal(batch["x"], self.noise).to_event(1))

    def model(self, batch):
        with batch.plate():
            pyro.sample("z", dist.Normal(batch["x"] * 0, 1.0).to_event(1))


@pytest.mark.parametrize("rho", [0.0, pytest.param(0.6, marks=pytest.mark.long), 0.9])
def test_it_tends_to_the_closed_form_of_a_gaussian(rho):
    """TC = -log(1 - r^2) / 2 with r the correlation of S + s^2 I; rows and own bias shrink it."""
    g = torch.Generator().manual_seed(2)
    count, noise = 3000, 0.5
    u = torch.randn(count, 2, generator=g, dtype=torch.float64)
    x = torch.stack((u[:, 0], rho * u[:, 0] + math.sqrt(1 - rho**2) * u[:, 1]), 1)
    world, batch = Gaussian(noise), Batch({"x": x})
    torch.manual_seed(0)
    run = ELBO().run(world.model, world, batch)
    found = TotalCorrelation("z").rows(run)
    r = rho / (1 + noise**2)
    exact = -0.5 * math.log(1 - r**2)
    error = float(found.std()) / math.sqrt(count)
    # Each draw meets its own posterior with weight 1 / B: at most the mean ratio of densities.
    bias = 1.0 / (noise**2 * count) * 2
    assert abs(float(found.mean()) - exact) < 4 * error + bias


@pytest.mark.parametrize(
    ("site", "bound", "estimator", "scale"),
    in_turn(["a", "b"], [*BOUNDS], ESTIMATORS, [1, 10]),
)
def test_the_parts_add_up_to_the_kl(site, bound, estimator, scale):
    """An identity, draw by draw; at B = N and the in-batch form each part is the mixture's own."""
    world, batch = TwoCodes(given=True), rows("x", count=5, scale=scale)
    run = BOUNDS[bound].run(world.model, world.guide, batch)
    parts = kl_parts(run, site, estimator)
    codes, zero = run.codes(site), torch.zeros(L, dtype=torch.float64)
    prior = dist.Normal(zero, zero + (1.0 if site == "a" else 1.5)).log_prob(codes.values).sum(-1)
    kl = codes.mean(codes.by_draw(codes.q.log_prob(run.drawn.draws[site])) - prior)
    assert_close(sum(parts), kl, rtol=1e-12, atol=1e-12)
    assert_close(parts.total_correlation, by_loops(world, run, site, estimator))
    joint, marginals = aggregate(run, codes, estimator)
    assert joint.shape == codes.log_weights.shape and marginals.shape == codes.values.shape


def test_beta_one_is_the_vae():
    world, batch = TwoCodes(), rows("x", scale=10)
    losses = []
    for objective in (EnumeratedELBO(), EnumeratedELBO() + TotalCorrelation("a", 0.0)):
        torch.manual_seed(0)
        losses.append(objective.differentiable_loss(world.model, world.guide, batch))
    assert torch.equal(*losses)


def test_a_single_row_has_none_of_its_own():
    world, batch = TwoCodes(), rows("x", count=1, scale=10)
    run = EnumeratedELBO().run(world.model, world.guide, batch)
    for estimator in ("batch", "mss"):
        assert_close(TotalCorrelation("a", 1.0, estimator).rows(run), torch.zeros(1).double())


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (TotalCorrelation("z"), r"TotalCorrelation\('z'\) has no loss of a single row"),
        (ELBO() + TotalCorrelation("z"), r"ELBO\(\) \+ TotalCorrelation\('z'\) has no loss"),
    ],
)
def test_a_single_row_has_no_loss(objective, message):
    world = TwoCodes()
    with pytest.raises(ValueError, match=message) as caught:
        objective.per_datum(world.model, world.guide, rows("x"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TotalCorrelation("z", math.nan), r"weight of TotalCorrelation\('z'\)"),
        (lambda: TotalCorrelation("z", 1.0, "mcs"), "estimator is 'mcs', expected one of batch"),
    ],
)
def test_options_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_codes_without_coordinates_are_named():
    world = TwoCodes()
    run = EnumeratedELBO().run(world.model, world.guide, rows("x"))
    with pytest.raises(UnhandledSite, match=r"site 'y' is Categorical in the guide .* expected a"):
        TotalCorrelation("y").rows(run)


def test_it_prints_its_formula():
    term = TotalCorrelation("z", 3)
    assert str(term) == "-3 KL(q(z) || prod_j q(z_j))"
    assert term.part_names == ("total_correlation(z)",)
