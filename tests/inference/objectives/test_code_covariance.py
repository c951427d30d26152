"""The covariance of a code over its rows against numpy, draws of the mixture, and its limits."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.testing import assert_close
from worlds.two_codes import C, L, TwoCodes, rows

from ppl_models.batch import Batch
from ppl_models.inference import (
    ELBO,
    IWELBO,
    Anneal,
    CodeCovariance,
    EnumeratedELBO,
    UnhandledSite,
)
from ppl_models.inference.objectives.code_terms.code_covariance import OF, code_covariance

KINDS = {"unlabelled": (("x",),), "labelled": (("x", "y"),), "mixed": (("x",), ("x", "y"))}
BOUNDS = {"one": EnumeratedELBO(kl="analytic"), "three": IWELBO(3)}
WIDTHS = {torch.float64: 1e-10, torch.float32: 1e-4}


def components_by_hand(world, site, batch):
    """Mean and variance of the code, and how much they count, of each row and label."""
    found = []
    for y in batch["y"].unique() if "y" in batch else range(C):
        q = world.guide.factor(site, {"x": batch["x"], "y": torch.full((batch.count,), int(y))})
        if "y" in batch:
            share = (batch["y"] == y).to(batch["x"].dtype)
        else:
            share = world.guide.factor("y", batch).probs[:, y]
        found.append((q.base_dist.loc, q.base_dist.scale.square(), share))
    return [torch.stack(each) for each in zip(*found, strict=True)]


def covariance_by_hand(world, site, batch, of):
    """By numpy: the means of rows, or second moments of every row's mixture."""
    mean, variance, share = (t.detach().numpy() for t in components_by_hand(world, site, batch))
    if of == "means":
        return np.cov(np.einsum("cb,cbd->bd", share, mean).T, bias=True)
    second = np.zeros((L, L))
    for b in range(batch.count):
        for c in range(len(mean)):
            square = np.outer(mean[c, b], mean[c, b]) + np.diag(variance[c, b])
            second += share[c, b] * square / batch.count
    first = np.einsum("cb,cbd->d", share, mean) / batch.count
    return second - np.outer(first, first)


def penalty_by_hand(covariance, lambda_od, lambda_d):
    total = 0.0
    for i in range(len(covariance)):
        for j in range(len(covariance)):
            gap = covariance[i, j] - float(i == j)
            total += (lambda_d if i == j else lambda_od) * gap**2
    return total


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("sites", [("x",), ("x", "y")], ids=["label missing", "label known"])
@pytest.mark.parametrize("site", ["a", "b"], ids=["free", "given a label"])
@pytest.mark.parametrize("of", OF)
def test_equals_numpy(of, site, sites, bound):
    world, batch = TwoCodes(given=True), rows(*sites)
    run = BOUNDS[bound].run(world.model, world.guide, batch)
    found = code_covariance(run, site, of).detach().numpy()
    np.testing.assert_allclose(found, covariance_by_hand(world, site, batch, of), atol=1e-12)


@pytest.mark.parametrize("of", OF)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("scale", "dtype"), [(1, torch.float64), (10, torch.float32)])
def test_it_counts_per_row_of_the_data(kind, of, scale, dtype):
    """Beside a bound whose draws it leaves as they are; each kind of rows has its own."""
    world = TwoCodes(given=True).to(dtype)
    batches = [rows(*sites, scale=scale).to(dtype) for sites in KINDS[kind]]
    bound, term = EnumeratedELBO(kl="analytic"), CodeCovariance("b", Anneal(0, 8), 3.0, of)
    for progress, weight in ((0.0, 0), (0.5, 4), (1.0, 8)):
        losses = []
        for objective in (bound + term, bound):
            objective.at(progress)
            torch.manual_seed(1)
            losses.append(objective.differentiable_loss(world.model, world.guide, batches))
        added = scale * sum(
            b.count * penalty_by_hand(covariance_by_hand(world, "b", b, of), weight, 3.0)
            for b in batches
        )
        found = float((losses[0] - losses[1]).detach())
        assert found == pytest.approx(added, rel=1e-9 if dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize("of", OF)
def test_the_gradient_is_that_of_the_closed_form(of):
    world, batch = TwoCodes(given=True), rows("x")
    run = EnumeratedELBO().run(world.model, world.guide, batch)
    mean, variance, share = components_by_hand(world, "b", batch)
    own = (share.unsqueeze(-1) * mean).sum(0)
    covariance = torch.cov(own.T, correction=0)
    if of == "aggregate":  # the law of total covariance, over the labels of a row and over rows
        within = (share.unsqueeze(-1) * variance).sum(0).mean(0)
        apart = torch.einsum("cb,cbi,cbj->ij", share, mean - own, mean - own) / batch.count
        covariance = covariance + apart + torch.diag(within)
    gap = covariance - torch.eye(L, dtype=covariance.dtype)
    hand = 5 * gap.square().sum() - 3 * gap.diagonal().square().sum()
    found = CodeCovariance("b", 5.0, 2.0, of).rows(run)
    assert_close(found, hand.expand(batch.count))
    parameters = list(world.guide.parameters())
    grads = [
        torch.autograd.grad(t, parameters, retain_graph=True, allow_unused=True)
        for t in (found[0], hand)
    ]
    assert_close(*grads, rtol=1e-8, atol=1e-10)


def test_the_aggregate_is_that_of_draws():
    """Of 200,000 draws of each row's mixture over the missing label; four standard errors."""
    world, batch = TwoCodes(given=True), rows("x", count=3)
    run = EnumeratedELBO().run(world.model, world.guide, batch)
    found = code_covariance(run, "b", "aggregate").detach()
    mean, variance, share = (t.detach() for t in components_by_hand(world, "b", batch))
    torch.manual_seed(0)
    count = 200_000
    row = torch.randint(3, (count,))
    label = dist.Categorical(share.T[row]).sample()
    z = dist.Normal(mean[label, row], variance[label, row].sqrt()).sample()
    centred = z - z.mean(0)
    products = centred.unsqueeze(2) * centred.unsqueeze(1)
    error = products.std(0) / math.sqrt(count)
    assert bool(((products.mean(0) - found).abs() < 4 * error).all())


def test_two_codes_that_are_the_same_and_one_that_is_constant():
    """Rows at -1 and 1: variances 1 and covariance 1; a constant has none."""
    x = torch.tensor([[-1.0, -1.0, 2.0], [1.0, 1.0, 2.0]])

    def guide(batch):
        with batch.plate():
            pyro.sample("z", dist.Normal(batch["x"], 0.5).to_event(1))

    def model(batch):
        with batch.plate():
            pyro.sample("z", dist.Normal(batch["x"] * 0, 1.0).to_event(1))

    run = ELBO().run(model, guide, Batch({"x": x}))
    # Off the diagonal two entries of 1; on it only the constant's 0 - 1 counts.
    assert_close(CodeCovariance("z", 3.0, 5.0).rows(run), torch.full((2,), 3 * 2 + 5.0))
    # The posterior's own 0.25 makes the variances 1.25, 1.25 and 0.25.
    wanted = 3 * 2 + 5 * (2 * 0.25**2 + 0.75**2)
    found = CodeCovariance("z", 3.0, 5.0, "aggregate").rows(run)
    assert_close(found, torch.full((2,), wanted))
    single = ELBO().run(model, guide, Batch({"x": x[:1]}, size=10))
    assert_close(CodeCovariance("z", 3.0, 5.0).rows(single), torch.tensor([15.0]))


@pytest.mark.parametrize("of", OF)
def test_both_weights_zero_are_the_bound_to_the_bit(of):
    world, batch = TwoCodes(given=True), rows("x", scale=10)
    found = []
    for objective in (EnumeratedELBO(), EnumeratedELBO() + CodeCovariance("b", 0.0, 0.0, of)):
        torch.manual_seed(0)
        world.zero_grad()
        loss = objective.differentiable_loss(world.model, world.guide, batch)
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in world.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_prints_its_formula():
    term = CodeCovariance("z", 5, Anneal(0, 50))
    assert str(term) == "-5 sum_i!=j Cov(E[z|...])_ij^2 - (0 -> 50) sum_i (Cov(E[z|...])_ii - 1)^2"
    assert "Cov(z)_ij" in str(CodeCovariance("z", 5, 5, "aggregate"))
    assert term.part_names == ("code_covariance(z)",)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CodeCovariance("z", -1.0, 1.0), r"lambda_od of CodeCovariance\('z'\) is -1"),
        (lambda: CodeCovariance("z", 1.0, math.nan), r"lambda_d of CodeCovariance\('z'\) is nan"),
        (lambda: CodeCovariance("z", 1.0, 1.0, "II"), "of is 'II', expected one of means, aggreg"),
    ],
)
def test_options_out_of_range(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_names_the_site_it_cannot_use():
    world = TwoCodes()
    run = EnumeratedELBO().run(world.model, world.guide, rows("x"))
    with pytest.raises(UnhandledSite, match=r"site 'y' is Categorical in the guide .* expected a"):
        CodeCovariance("y", 1.0, 1.0).rows(run)
    with pytest.raises(UnhandledSite, match=r"codes are asked of site 'z', which the guide"):
        CodeCovariance("z", 1.0, 1.0).rows(run)
