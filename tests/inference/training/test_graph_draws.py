"""Draws of compiled steps: those of uncompiled ones, of every kind and in their order."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_models.inference.training.compiled_step import inductor
from ppl_models.inference.training.graph_draws import keep_draws
from ppl_models.spherical import VonMisesFisher

N = 6

# Of values in (0, 1), (N, 4), numbers (N,).
DRAWS = {
    "rand": lambda x: torch.rand(N),
    "rand_like": lambda x: torch.rand_like(x).sum(1),
    "randn": lambda x: torch.randn(N),
    "randn_like": lambda x: torch.randn_like(x).sum(1),
    "randint": lambda x: torch.randint(0, 9, (N,)),
    "randint_like": lambda x: torch.randint_like(x, 9).sum(1),
    "randperm": lambda x: torch.randperm(N),
    "rows": lambda x: x[torch.randperm(N)].sum(1),
    "some rows": lambda x: F.pad(x[torch.randperm(N)[:4]].sum(1), (0, 2)),
    "columns": lambda x: torch.stack([x[torch.randperm(N), j] for j in range(4)], 1).sum(1),
    "selected": lambda x: x.index_select(0, torch.randperm(N)).sum(1),
    "added": lambda x: x.index_add(0, torch.randperm(N)[:3], torch.ones(3, 4)).sum(1),
    "multinomial": lambda x: torch.multinomial(x, 1).squeeze(1),
    "bernoulli": lambda x: torch.bernoulli(x).sum(1),
    "bernoulli_": lambda x: torch.empty(N).bernoulli_(0.4),
    "uniform_": lambda x: torch.empty(N).uniform_(-1, 1),
    "normal_": lambda x: torch.empty(N).normal_(1, 2),
    "normal": lambda x: torch.normal(x, 1 + x).sum(1),
    "exponential_": lambda x: torch.empty(N).exponential_(2),
    "cauchy_": lambda x: torch.empty(N).cauchy_(),
    "log_normal_": lambda x: torch.empty(N).log_normal_(),
    "geometric_": lambda x: torch.empty(N).geometric_(0.3),
    "standard gamma": lambda x: torch._standard_gamma(1 + x).sum(1),
    "sample dirichlet": lambda x: torch._sample_dirichlet(1 + x)[:, 0],
    "poisson": lambda x: torch.poisson(3 * x).sum(1),
    "binomial": lambda x: torch.binomial(torch.full((N, 4), 5.0), x).sum(1),
    "dropout": lambda x: F.dropout(x, 0.5).sum(1),
    "alpha dropout": lambda x: F.alpha_dropout(x, 0.5, training=True).sum(1),
    "rrelu": lambda x: F.rrelu(x - 0.5, training=True).sum(1),
    "Normal": lambda x: dist.Normal(x, 1 + x).rsample().sum(1),
    "Gamma": lambda x: dist.Gamma(1 + x, 1 + x).rsample().sum(1),
    "Dirichlet": lambda x: dist.Dirichlet(1 + x).rsample()[:, 0],
    "Beta": lambda x: dist.Beta(1 + x, 2 - x).rsample().sum(1),
    "StudentT": lambda x: dist.StudentT(3 + x).rsample().sum(1),
    "Gumbel": lambda x: dist.Gumbel(x, 1.0).rsample().sum(1),
    "Laplace": lambda x: dist.Laplace(x, 1.0).rsample().sum(1),
    "Categorical": lambda x: dist.Categorical(x).sample(),
    "Poisson": lambda x: dist.Poisson(3 * x).sample().sum(1),
    "RelaxedOneHot": lambda x: dist.RelaxedOneHotCategorical(torch.tensor(0.5), x).rsample()[:, 0],
    "VonMisesFisher": lambda x: VonMisesFisher(F.normalize(x, dim=1), 9 * x[:, 0]).rsample()[:, 0],
}


def graph_of(step, x):
    with torch.no_grad(), pyro.validation_enabled(False):  # as steps are traced
        graph = make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)(x)
    keep_draws(graph)
    return graph


def assert_same_draws(one, other, x, steps=3):
    """From one seed, step after step, and the same random state behind them."""
    found = []
    for step in (one, other):
        torch.manual_seed(7)
        with torch.no_grad(), pyro.validation_enabled(False):
            found.append(([step(x) for _ in range(steps)], torch.get_rng_state()))
    (first, state), (second, other_state) = found
    torch.testing.assert_close(second, first, rtol=1e-5, atol=1e-5)
    assert torch.equal(state, other_state)
    assert not torch.equal(first[0][0], first[1][0])  # each step has fresh ones


def values():
    return torch.rand((N, 4), generator=torch.Generator().manual_seed(0)) * 0.9 + 0.05


@pytest.mark.parametrize("name", DRAWS)
def test_a_graph_draws_what_a_step_draws(name):
    def step(x):
        before, drawn, after = torch.rand(N), DRAWS[name](x), torch.randn(N)
        return [before, drawn.float(), after]

    assert_same_draws(step, graph_of(step, values()), values())


def test_inductor_keeps_them_all_in_order():
    """Half a minute: one graph with every kind, which are used in another order than drawn."""

    def step(x):
        drawn = [draw(x).float() for name, draw in DRAWS.items() if name != "VonMisesFisher"]
        late = sum(d.sin() for d in reversed(drawn)) * x[:, 0]
        return [torch.stack(drawn), late, torch.rand(N)]

    assert_same_draws(step, inductor(graph_of(step, values()), [values()]), values())
