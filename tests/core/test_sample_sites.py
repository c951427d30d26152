"""What a sample site is: a plate's own, a row's own, and the distribution inside."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch.distributions import constraints

from ppl_models.batch import Batch
from ppl_models.sample_sites import base_of, is_local, is_plate, support_words


def test_sites_by_where_they_stand():
    def story():
        pyro.sample("w", dist.Normal(0.0, 1.0))
        with Batch({}, torch.arange(3)).plate():
            pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("entries", 2, dim=-2):
                pyro.sample("b", dist.Bernoulli(0.5))
        with pyro.plate("others", 2):
            pyro.sample("v", dist.Normal(0.0, 1.0))

    nodes = poutine.trace(story).get_trace().nodes
    samples = {name: site for name, site in nodes.items() if site["type"] == "sample"}
    assert {name for name, site in samples.items() if is_plate(site)} == {
        "data", "entries", "others"
    }  # fmt: skip
    sites = {name: site for name, site in samples.items() if not is_plate(site)}
    assert {name for name, site in sites.items() if is_local(site)} == {"z", "b"}


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (dist.Normal(torch.zeros(3), 1.0), "Normal"),
        (dist.Normal(torch.zeros(2, 3), 1.0).to_event(2), "Normal"),
        (dist.ExpandedDistribution(dist.Bernoulli(0.5).to_event(0), torch.Size([4])), "Bernoulli"),
        (dist.ExpandedDistribution(dist.Bernoulli(torch.ones(2)).to_event(1), torch.Size([4])),
         "Bernoulli"),
        (dist.LogNormal(torch.zeros(3), 1.0).to_event(1), "LogNormal"),
    ],
)  # fmt: skip
def test_the_distribution_inside(fn, name):
    assert type(base_of(fn)).__name__ == name


@pytest.mark.parametrize(
    ("support", "words"),
    [
        (dist.Normal(torch.zeros(3), 1.0).to_event(1).support, "finite numbers"),
        (dist.Bernoulli(0.5).support, "0 or 1"),
        (dist.Beta(1.0, 1.0).support, "numbers from 0 to 1"),
        (dist.Uniform(torch.zeros(3), torch.tensor([1.0, 2.0, 4.0])).support,
         "numbers from 0 to [1 ... 4]"),
        (dist.LogNormal(0.0, 1.0).support, "numbers above 0"),
        (constraints.nonnegative, "numbers of at least 0"),
        (constraints.less_than(3.0), "numbers below 3"),
        (dist.Poisson(1.0).support, "whole numbers of at least 0"),
        (dist.Binomial(3, 0.5).support, "whole numbers from 0 to 3"),
        (dist.Dirichlet(torch.ones(3)).support, "shares that add up to 1"),
        (dist.OneHotCategorical(torch.ones(3)).support, "one 1 among zeros"),
        (dist.LKJCholesky(2, 1.0).support, "CorrCholesky()"),
    ],
)  # fmt: skip
def test_supports_in_words(support, words):
    assert support_words(support) == words
