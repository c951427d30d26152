"""Products and mixtures of experts: closed forms and brute force, over every subset of sites."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ppl_models import Batch, guides
from ppl_models.sample_sites import base_of

D, SITES = 2, ("a", "b", "c")
SUBSETS = [s for n in (1, 2, 3) for s in itertools.combinations(SITES, n)]
TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
OVER = pytest.mark.parametrize("seen", SUBSETS, ids="".join)


def experts(dtype=torch.float64):
    torch.manual_seed(0)
    return [guides.Normal(D, {name: 3}, (4,)).to(dtype) for name in SITES]


def rows(seen, dtype=torch.float64):
    torch.manual_seed(1)
    every = {name: torch.randn(5, 3, dtype=dtype) for name in SITES}
    return Batch({name: every[name] for name in seen})


def tolerance(dtype):
    return (
        {"rtol": 1e-5, "atol": 1e-5} if dtype is torch.float32 else {"rtol": 1e-11, "atol": 1e-12}
    )


class Likelihood(nn.Module):
    """What x = w z + noise says of z, entry by entry: N(x / w, (sigma / w)^2)."""

    def __init__(self, site, w, sigma):
        super().__init__()
        self.site, self.w, self.sigma = site, w, sigma

    def forward(self, **values):
        x = values[self.site]
        return torch.cat([x / self.w, (2 * (self.sigma / self.w).log()).expand_as(x)], -1)


@TYPES
@OVER
@pytest.mark.parametrize("prior", [1.0, 0.3])
def test_a_product_is_the_posterior_of_a_linear_gaussian_model(seen, dtype, prior):
    torch.manual_seed(2)
    w = {s: torch.rand(D, dtype=dtype) + 0.5 for s in SITES}
    sigma = {s: torch.rand(D, dtype=dtype) + 0.3 for s in SITES}
    q = guides.Factored(
        z=guides.Product(
            *(guides.Normal(D, {s: D}, net=Likelihood(s, w[s], sigma[s])) for s in SITES),
            prior=prior,
        )
    )
    batch = Batch({s: torch.randn(4, D, dtype=dtype) for s in seen})
    found = base_of(q.factor("z", batch))
    precision = prior**-2 + sum((w[s] / sigma[s]) ** 2 for s in seen)
    mean = sum(batch[s] * w[s] / sigma[s] ** 2 for s in seen) / precision
    assert_close(found.loc, mean, **tolerance(dtype))
    assert_close(found.scale, precision.rsqrt().expand_as(mean), **tolerance(dtype))


def test_without_any_expert_the_prior_is_left_or_one_line():
    assert_close(guides.Product(*experts(), prior=0.7)().mean, torch.zeros(D, dtype=torch.float64))
    for empty in (guides.Product(*experts(), prior=None), guides.Mixture(*experts())):
        with pytest.raises(ValueError, match=r"no expert has what it reads: .* none is there$"):
            empty()


@TYPES
@OVER
@pytest.mark.parametrize("products", [False, True])
def test_a_mixture_has_the_density_of_its_components(seen, dtype, products):
    mixture = guides.Mixture(*experts(dtype), products=products)
    batch = rows(seen, dtype)
    q = guides.Factored(z=mixture).factor("z", batch)
    parts = dict(zip(SITES, mixture.experts, strict=True))
    if products:
        kinds = [s for n in (1, 2, 3) for s in itertools.combinations(seen, n)]
        each = [guides.Product(*(parts[s] for s in kind))(**batch) for kind in kinds]
    else:
        each = [parts[s](**batch) for s in seen]
    z = torch.randn(7, 5, D, dtype=dtype)
    expected = torch.stack([p.log_prob(z) for p in each]).logsumexp(0) - math.log(len(each))
    assert_close(q.log_prob(z), expected, **tolerance(dtype))
    assert_close(q.mean, torch.stack([p.mean for p in each]).mean(0), **tolerance(dtype))
    assert q.rsample((3,)).shape == (3, 5, D) and q.sample().shape == (5, D)


def test_draws_of_a_mixture_have_its_moments_and_unbiased_gradients():
    # d/d theta E[f(z)] with f = z^2 + z: of each expert in closed form, averaged.
    mixture = guides.Mixture(*experts())
    batch = rows(SITES)
    q = mixture(**batch)
    torch.manual_seed(3)
    z = q.rsample((200_000,))
    each = [base_of(e(**batch)) for e in mixture.experts]
    exact = sum((p.loc**2 + p.scale**2 + p.loc).sum() for p in each) / len(each)
    drawn = (z**2 + z).mean(0).sum()
    assert_close(drawn, exact, rtol=0.02, atol=0)
    ours = torch.autograd.grad(drawn, list(mixture.parameters()))
    theirs = torch.autograd.grad(exact, list(mixture.parameters()))
    scale = max(float(g.abs().max()) for g in theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b, rtol=0, atol=0.03 * scale)


@pytest.mark.parametrize("kind", [guides.Product, guides.Mixture])
def test_each_expert_runs_once_and_only_where_it_reads(kind):
    made, count = experts(), dict.fromkeys(SITES, 0)
    for site, expert in zip(SITES, made, strict=True):
        expert.net.register_forward_hook(lambda *_, s=site: count.__setitem__(s, count[s] + 1))
    extra = {"products": True} if kind is guides.Mixture else {}
    guides.Factored(z=kind(*made, **extra))(rows(("a", "c")))
    assert count == {"a": 1, "b": 0, "c": 1}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: guides.Product(), r"experts are \[\], expected Normal factors"),
        (lambda: guides.Mixture(guides.Categorical(2, {"a": 1})), r"\['Categorical'\], expected"),
        (
            lambda: guides.Product(guides.Normal(2, {"a": 1}), guides.Normal(3, {"b": 1})),
            r"of sizes \[2, 3\], expected one size",
        ),
        (
            lambda: guides.Mixture(*5 * experts()[:2], *experts(), products=True),
            "13 experts have 8191 products, expected at most 4096; mix the experts",
        ),
        (lambda: guides.Product(*experts(), prior=0.0), "prior is 0.0, expected a positive scale"),
    ],
)
def test_bad_options_are_one_line(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("seen", [("b",), ("c",), ("a", "c")])
def test_an_expert_that_lacks_something_is_not_there(seen):
    """Of two that read a and b, or c if it is there, the prior is left of what none can read."""
    torch.manual_seed(0)
    both = guides.Normal(D, {"a": 3, "b": 3}).double()
    some = guides.Normal(D, {"c?": 3}).double()
    found = guides.Product(both, some, prior=0.5)(**rows(seen))
    if "c" not in seen:
        assert_close(found.variance, torch.full((D,), 0.25).double())
        return
    alone = guides.Product(some, prior=0.5)(**rows(("c",)))
    assert_close(found.mean, alone.mean)
    assert_close(found.variance, alone.variance)
