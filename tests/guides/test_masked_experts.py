"""Experts that count row by row: every pattern of rows in one batch is each pattern by itself."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from ppl_models import Batch, guides
from ppl_models.modalities import mark
from ppl_models.sample_sites import base_of

D, SITES = 2, ("a", "b", "c")
PATTERNS = [p for n in (1, 2, 3) for p in itertools.combinations(SITES, n)]
TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
KINDS = {
    "product": lambda e: guides.Product(*e, prior=0.7),
    "mixture": lambda e: guides.Mixture(*e),
    "products": lambda e: guides.Mixture(*e, products=True, prior=1.3),
}
KIND = pytest.mark.parametrize("kind", KINDS)


def experts(dtype):
    torch.manual_seed(0)
    return [guides.Normal(D, {name: 3}, (4,)).to(dtype) for name in SITES]


def rows(dtype, garbage=0.0):
    """One row of each pattern, with garbage in what it lacks."""
    torch.manual_seed(1)
    sites = {}
    for name in SITES:
        there = torch.tensor([name in p for p in PATTERNS])
        values = torch.randn(len(PATTERNS), 3, dtype=dtype)
        sites[name] = torch.where(there[:, None], values, garbage)
        sites[mark(name)] = there.to(dtype)
    return Batch(sites)


def one(batch, place):
    """A row alone, with nothing but what it has."""
    return Batch({name: batch[name][place : place + 1] for name in PATTERNS[place]})


def close(dtype):
    return {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0, "atol": 1e-11}


@TYPES
@KIND
@pytest.mark.parametrize("garbage", [0.0, 37.0])
def test_rows_of_all_patterns_are_each_by_itself(kind, garbage, dtype):
    guide = guides.Factored(z=KINDS[kind](experts(dtype)))
    batch = rows(dtype, garbage)
    q = guide.factor("z", batch)
    z = torch.randn(5, len(PATTERNS), D, dtype=dtype)
    for place in range(len(PATTERNS)):
        alone = guide.factor("z", one(batch, place))
        for found, wanted in ((q.mean, alone.mean), (q.variance, alone.variance)):
            assert_close(found[place], wanted[0], **close(dtype))
        log_q = q.log_prob(z)[:, place]
        assert_close(log_q, alone.log_prob(z[:, place : place + 1])[:, 0], **close(dtype))


@KIND
def test_the_density_is_that_of_a_grid(kind):
    """Products of densities on a grid, normalised there."""
    dtype = torch.float64
    factor = KINDS[kind](experts(dtype))
    batch = rows(dtype)
    grid = torch.linspace(-12, 12, 4801, dtype=dtype)
    width = float(grid[1] - grid[0])
    each = [base_of(e(**batch)) for e in factor.experts]
    for place, pattern in enumerate(PATTERNS):
        seen = [SITES.index(name) for name in pattern]
        if kind == "mixture":
            sets = [(m,) for m in seen]
        elif kind == "product":
            sets = [tuple(seen)]
        else:
            sets = [s for n in range(1, len(seen) + 1) for s in itertools.combinations(seen, n)]
        for dim in range(D):
            total = torch.zeros_like(grid)
            for chosen in sets:
                log_p = sum(
                    torch.distributions.Normal(each[m].loc[place, dim], each[m].scale[place, dim])
                    .log_prob(grid) for m in chosen
                )  # fmt: skip
                if factor.prior is not None:
                    log_p = log_p - 0.5 * (grid / factor.prior) ** 2
                density = (log_p - log_p.max()).exp()
                total = total + density / (density.sum() * width) / len(sets)
            mean = (grid * total).sum() * width
            assert_close(factor(**batch).mean[place, dim], mean, rtol=0, atol=1e-6)
            variance = (grid**2 * total).sum() * width - mean**2
            assert_close(factor(**batch).variance[place, dim], variance, rtol=0, atol=1e-6)


@pytest.mark.parametrize("products", [False, True])
def test_draws_come_from_the_components_that_a_row_has(products):
    dtype = torch.float64
    mixture = guides.Mixture(*experts(dtype), products=products)
    batch = rows(dtype, 1e3)
    q = mixture(**batch)
    torch.manual_seed(0)
    z = q.rsample((40_000,))
    error = 5 * float(q.stddev.detach().max()) / 200
    assert_close(z.mean(0), q.mean, rtol=0, atol=error)
    counts = q.counting()
    wanted = [2 ** len(p) - 1 if products else len(p) for p in PATTERNS]
    assert counts.sum(-1).tolist() == wanted


def test_draws_in_turn_are_as_many_of_each_component():
    q = guides.Mixture(*experts(torch.float64))(**rows(torch.float64))
    turned = q.stratified(-2).expand((6, len(PATTERNS)))
    assert turned.strata == -2
    whole = q.expand((6, len(PATTERNS)))
    z = torch.randn(6, len(PATTERNS), D, dtype=torch.float64)
    assert_close(turned.log_prob(z), whole.log_prob(z), rtol=0, atol=0)
    torch.manual_seed(0)
    drawn = turned.rsample()
    torch.manual_seed(0)
    noise = torch.randn_like(drawn)
    each = base_of(q.component_distribution)
    for place in range(6):
        m = place // 2
        wanted = each.loc[:, m] + each.scale[:, m] * noise[place]
        assert_close(drawn[place], wanted, rtol=0, atol=0)


@KIND
def test_what_a_row_lacks_gets_no_gradient(kind):
    made = experts(torch.float64)
    factor = KINDS[kind](made)
    batch = rows(torch.float64, 5.0)
    lacks_a = torch.tensor([place for place, p in enumerate(PATTERNS) if "a" not in p])
    z = torch.randn(len(PATTERNS), D, dtype=torch.float64)
    parameters = [p for e in made for p in e.parameters()]
    loss = factor(**batch).log_prob(z)[lacks_a].sum()
    found = torch.autograd.grad(loss, parameters)
    assert not any(bool(g.any()) for g in found[: len(list(made[0].parameters()))])
    alone = sum(factor(**one(batch, n)).log_prob(z[n : n + 1]).sum() for n in lacks_a)
    wanted = torch.autograd.grad(alone, parameters, allow_unused=True, materialize_grads=True)
    assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_rows_without_anything_have_the_prior_of_a_product():
    batch = rows(torch.float64)
    none = torch.zeros(len(PATTERNS), dtype=torch.float64)
    empty = Batch({**batch, **{mark(name): none for name in SITES}})
    q = base_of(guides.Product(*experts(torch.float64), prior=0.7)(**empty))
    assert_close(q.loc, torch.zeros_like(q.loc), rtol=0, atol=0)
    assert_close(q.scale, torch.full_like(q.scale, 0.7), rtol=0, atol=1e-12)
    # A mixture has no prior: such rows, which are masked, have a density that is all components'.
    found = guides.Mixture(*experts(torch.float64))(**empty).log_prob(q.loc)
    every = base_of(guides.Mixture(*experts(torch.float64))(**batch).component_distribution)
    wanted = every.log_prob(q.loc[:, None]).sum(-1).logsumexp(-1) - math.log(len(SITES))
    assert_close(found, wanted)


def test_a_network_that_could_do_without_does_not_read_what_rows_lack():
    torch.manual_seed(0)
    product = guides.Product(guides.Normal(D, {"a": 3, "b?": 3}).double())
    with pytest.raises(ValueError, match="can do without 'b', which some rows") as caught:
        product(**rows(torch.float64))
    assert "\n" not in str(caught.value)
