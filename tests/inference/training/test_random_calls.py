"""Random calls: compiled, each draws what it draws uncompiled, in whatever company."""

from __future__ import annotations

import random

import numpy as np
import pyro
import pytest
import torch
import torch.nn.functional as F
from torch import distributions as td
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close
from worlds.compiled_steps import assert_same_steps, step_of

import ppl_models as zoo
from ppl_models.inference import EnumeratedELBO
from ppl_models.inference.training.compiled_step import NotCompiled, inductor
from ppl_models.inference.training.random_calls import DECOMPOSED, keep_draws
from ppl_models.testing.cases import Case

T = torch.Tensor


def made(like):
    """New tensors; short ones and long ones take different kernels."""
    d = like.dtype
    for n in (3, 4099):
        yield torch.rand(n, dtype=d)
        yield torch.randn(n, dtype=d)
        yield torch.randint(5, 90, (n,))
        yield torch.randint(90, (n,))
        yield torch.randperm(n)
        yield torch.normal(0.5, 2.0, (n,), dtype=d)
    yield torch.bernoulli(torch.full((9,), 0.3, dtype=d))


def alike(like):
    """As a tensor is laid out: whole, transposed, strided, repeated without memory."""
    for x in (like.t(), like[::2, 1], like[:, None].expand(40, 2, 3)):
        yield torch.rand_like(x)
        yield torch.randn_like(x)
        yield torch.randint_like(x, 3, 7)
        yield F.dropout(x)


def in_place(like):
    """Filled where they are: fresh, copied, a column, a constant."""
    fills = [
        T.normal_,
        T.uniform_,
        T.exponential_,
        T.cauchy_,
        T.log_normal_,
        T.bernoulli_,
        T.random_,
        lambda v: v.geometric_(0.3),
        lambda v: v.random_(9),
        lambda v: v.random_(2, 9),
        lambda v: v.bernoulli_(0.3),
    ]
    for fill in fills:
        yield fill(torch.empty(5, dtype=like.dtype))
        yield fill(like.clone())
        column = like.clone()
        fill(column[:, 1])
        yield column
        yield fill(like.t().clone())
    for _ in range(2):  # equal calls, unequal numbers
        yield torch.zeros(3, dtype=like.dtype).uniform_()


def sampled(like):
    """Given parameters, some with a draw that takes a number of tries of its own."""
    for x in (like, like.t()):
        yield torch.bernoulli(x)
        yield x.clone().bernoulli_(x)
        yield torch.poisson(5 * x)
        yield torch.binomial((9 * x).round(), x)
        yield torch.normal(x, x)
        yield torch.normal(x, 2.0)
        yield torch.normal(2.0, x)
        yield torch._standard_gamma(x + 0.1)
        yield torch._sample_dirichlet(x + 0.1)
        yield torch._sample_dirichlet(x + 0.1)
    for replacement in (True, False):
        yield torch.multinomial(like, 2, replacement)
        yield torch.multinomial(like[0], 1, replacement)


def permuted(like):
    """What is done with a permutation, by index and by its gradient."""
    n = len(like)
    yield like[torch.randperm(n)]
    early, late = torch.randperm(n), torch.randn(3)
    yield like[early] * 2
    yield late
    yield like[torch.randperm(n)[:7]]
    yield like.index_add(0, torch.randperm(n)[:7], like[:7])
    yield torch.stack([c[torch.randperm(n)] for c in like.unbind(-1)], -1)
    leaf = like.clone().requires_grad_()
    taken = leaf.index_select(0, torch.randperm(n)[:9]) * torch.rand(9, 1)
    (slope,) = torch.autograd.grad(taken.sum(), leaf)
    yield slope
    yield torch.rand(2)


def unused(like):
    """Draws that nothing needs, between others that are used late and in another order."""
    kinds = [
        lambda: torch.randn(5, dtype=like.dtype),
        lambda: torch.randperm(6),
        lambda: torch.bernoulli(like),
        lambda: torch.normal(like, like),
        lambda: torch.empty_like(like).exponential_(),
        lambda: torch._standard_gamma(like + 1),
    ]
    kept = []
    for kind in kinds:
        kind()
        torch.ones_like(kind())  # only its shape
        kept.append(kind())
        kind() * 2
    yield from reversed([k.sum(0) + like.sum() for k in kept])
    torch.rand(3)


def networks(like):
    """Layers that draw."""
    image = like.reshape(1, 5, 4, 6)
    yield F.dropout(like, 0.3)
    yield F.dropout1d(like)
    yield F.dropout2d(image)
    yield F.alpha_dropout(like)
    yield F.feature_alpha_dropout(like)
    yield F.gumbel_softmax(like)
    yield F.gumbel_softmax(like, hard=True)
    q = like.reshape(1, 2, 5, 12)
    yield F.scaled_dot_product_attention(q, q, q, dropout_p=0.4)
    yield F.dropout((q @ q.mT / 3).softmax(-1), 0.4) @ q


def distributions(like):
    """Torch's, which are Pyro's."""
    p, one = like.clamp(0.1, 0.9), like + 1
    for q in (
        td.Bernoulli(p),
        td.Beta(one, 2 * one),
        td.Binomial(7, p),
        td.Categorical(p),
        td.Cauchy(p, one),
        td.Chi2(one),
        td.ContinuousBernoulli(p),
        td.Dirichlet(one),
        td.Exponential(one),
        td.FisherSnedecor(one, one + 3),
        td.Gamma(one, one),
        td.Geometric(p),
        td.Gumbel(p, one),
        td.HalfCauchy(one),
        td.HalfNormal(one),
        td.InverseGamma(one, one),
        td.Kumaraswamy(one, one),
        td.Laplace(p, one),
        td.LogNormal(p, one),
        td.LogisticNormal(p, one),
        td.LowRankMultivariateNormal(p, one.unsqueeze(-1), one),
        td.Multinomial(5, p),
        td.MultivariateNormal(p, torch.eye(3, dtype=like.dtype)),
        td.NegativeBinomial(4, p),
        td.Normal(p, one),
        td.OneHotCategorical(p),
        td.Pareto(one, one),
        td.Poisson(one),
        td.RelaxedBernoulli(p[0, 0], p),
        td.RelaxedOneHotCategorical(p[0, 0], p),
        td.StudentT(one, p, one),
        td.Uniform(p, one),
        td.Weibull(one, one),
    ):
        yield q.sample((2,))
        if q.has_rsample:
            yield q.rsample()


WORLDS = [made, alike, in_place, sampled, permuted, unused, networks, distributions]


def graph_of(world, like):
    def call(x):
        with pyro.validation_enabled(False):
            return list(world(x))

    return make_fx(call, DECOMPOSED, "fake", _allow_non_fake_inputs=True)(like)


def assert_same_draws(world, like, run):
    torch.manual_seed(3)
    expected = [list(world(like)) for _ in range(3)]
    after = torch.get_rng_state()
    torch.manual_seed(3)
    found = [run(like)[: len(expected[0])] for _ in range(3)]
    tight = {torch.float32: 1e-5, torch.float64: 1e-12}[like.dtype]
    for place, (step, wanted) in enumerate(zip(found, expected, strict=True)):
        for number, (ours, theirs) in enumerate(zip(step, wanted, strict=True)):
            where = f"step {place}, draw {number}: "
            assert_close(ours, theirs, rtol=tight, atol=tight, msg=lambda m, w=where: w + m)
    assert torch.equal(after, torch.get_rng_state())


@pytest.mark.parametrize(
    ("world", "dtype"),
    [
        *((world, torch.float32) for world in WORLDS),
        *((world, torch.float64) for world in WORLDS[:2]),
        *(
            pytest.param(world, torch.float64, marks=pytest.mark.long)
            for world in (*WORLDS[3:6], in_place, networks, distributions)
        ),
    ],
)
def test_compiled_draws_are_those_of_the_calls(world, dtype):
    torch.manual_seed(1)
    like = torch.rand(40, 3, dtype=dtype)
    graph = graph_of(world, like)
    keep_draws(graph)
    assert_same_draws(world, like, graph)
    if dtype is torch.float64:  # a compiler takes its time; here numbers are most sensitive
        before = torch.get_rng_state()
        run = inductor(graph, [like])
        assert torch.equal(before, torch.get_rng_state())
        assert_same_draws(world, like, run)


def lone_normal(like):
    yield like + torch.empty_like(like).normal_()


def lone_randn(like):
    yield like * torch.randn(40, 3, dtype=like.dtype)


def lone_rand(like):
    torch.rand(5)
    yield like * 2


@pytest.mark.parametrize("world", [lone_normal, lone_randn, lone_rand], ids=lambda w: w.__name__)
def test_a_call_that_is_alone_is_left_as_it_is(world):
    like = torch.rand(40, 3, dtype=torch.float64)
    graph = graph_of(world, like)
    before = [n.target for n in graph.graph.nodes]
    keep_draws(graph)
    assert [n.target for n in graph.graph.nodes] == before
    assert_same_draws(world, like, inductor(graph, [like]))


class Permuted(EnumeratedELBO):
    """Its term compares codes with those of other rows; some of its draws nothing needs."""

    def rows(self, run):
        torch.randn(4)
        x = run.batch["x"]
        order = torch.randperm(len(x))
        torch.bernoulli(x.clamp(0, 1))
        return super().rows(run) + (x[order] * torch.rand_like(x)).sum(-1)


def test_a_term_that_permutes():
    torch.manual_seed(2)
    pair = zoo.build("vae", data_dim=6, hidden=(8,), latent=2)
    batch = zoo.Batch({"x": torch.rand(9, 6).round()}, size=90)
    assert_same_steps(Case(pair, Permuted(), batch), inductor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("draw", "reason"),
    [
        (random.random, "draws from random, whose numbers a graph would repeat"),
        (lambda: float(np.random.rand()), "draws from numpy.random, whose numbers"),
        (
            lambda: F.rrelu(torch.zeros(3), training=True).sum(),
            "rrelu_with_noise.default draws random numbers that a graph cannot keep",
        ),
    ],
)
def test_other_random_numbers_are_refused(draw, reason):
    class Drawing(EnumeratedELBO):
        def rows(self, run):
            return super().rows(run) + draw()

    pair = zoo.build("vae", data_dim=6, hidden=(8,), latent=2)
    batch = zoo.Batch({"x": torch.rand(9, 6).round()}, size=90)
    step = step_of(Case(pair, Drawing(), batch))
    with pytest.warns(NotCompiled, match=reason) as seen:
        assert step.gradient((batch,), 90) is None
    assert "\n" not in str(seen[0].message)
