"""Beta and Dirichlet factors: divergences, draws, their slopes, and the edges of the simplex."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.special import digamma, gammaln
from torch.distributions import kl_divergence
from torch.testing import assert_close

from ppl_models import guides
from ppl_models.guides.simplex import BetaShares, DirichletShares, log_gamma_draw
from ppl_models.networks import Label

N = 100_000


def beta_kl(a, b, c, d):
    log = [gammaln(p + q) - gammaln(p) - gammaln(q) for p, q in ((a, b), (c, d))]
    slopes = (a - c) * digamma(a) + (b - d) * digamma(b) - (a - c + b - d) * digamma(a + b)
    return log[0] - log[1] + slopes


def dirichlet_kl(a, c):
    log = [gammaln(v.sum()) - gammaln(v).sum() for v in (a, c)]
    return log[0] - log[1] + ((a - c) * (digamma(a) - digamma(a.sum()))).sum()


def factors():
    torch.manual_seed(0)
    given = {"x": 3, "y": Label(4)}
    pair = guides.Beta(given, (5,), floor=0.1), guides.Dirichlet(3, given, (5,), floor=0.02)
    return [f.double() for f in pair]


def values():
    torch.manual_seed(1)
    return {"x": torch.randn(6, 3).double(), "y": torch.arange(4)[:, None]}


def test_factors_take_softplus_over_a_floor_and_broadcast_a_summed_label():
    for factor, least, event in zip(factors(), (0.1, 0.02), ((), (3,)), strict=True):
        q, raw = factor(**values()), factor.net(**values())
        assert q.batch_shape == (4, 6) and q.event_shape == event
        made = (
            torch.stack([q.concentration1, q.concentration0], -1) if not event else q.concentration
        )
        assert_close(made, least + (1 + raw.exp()).log())


def test_divergences_are_the_closed_forms():
    beta, dirichlet = (f(**values()) for f in factors())
    kl = kl_divergence(beta, BetaShares(torch.ones(()).double(), torch.tensor(0.155).double()))
    ends = beta.concentration1.detach().numpy(), beta.concentration0.detach().numpy()
    assert_close(kl.detach(), torch.from_numpy(beta_kl(*ends, 1.0, 0.155)))
    prior = torch.tensor([1.0, 2.0, 0.5]).double()
    kl = kl_divergence(dirichlet, DirichletShares(prior)).detach()
    for k in range(4):
        for b in range(6):
            hand = dirichlet_kl(dirichlet.concentration[k, b].detach().numpy(), prior.numpy())
            assert abs(float(kl[k, b]) - hand) < 1e-10


@pytest.mark.parametrize("a", [0.05, 0.7, 3.0, 400.0])
def test_draws_have_the_moments_and_slopes_of_their_distribution(a):
    torch.manual_seed(0)
    b = 1.3
    many = torch.full((N,), a, dtype=torch.float64, requires_grad=True)
    draws = BetaShares(many, torch.tensor(b).double().expand(N)).rsample()
    mean, variance = a / (a + b), a * b / ((a + b) ** 2 * (a + b + 1))
    value = draws.detach()
    assert abs(float(value.mean()) - mean) < 4 * math.sqrt(variance / N)
    square = variance + mean**2
    assert abs(float(value.square().mean()) - square) < 4 * float(value.square().std()) / N**0.5
    # d E[z] / da = b / (a + b)^2, the mean of the draws' slopes.
    (slopes,) = torch.autograd.grad(draws.sum(), many)
    assert abs(float(slopes.mean()) - b / (a + b) ** 2) < 4 * float(slopes.std()) / N**0.5


def test_log_of_gamma_draws_has_the_mean_and_variance_of_the_closed_form():
    torch.manual_seed(0)
    for a, trigamma in ((0.01, 10001.6212135283), (1.0, math.pi**2 / 6)):
        draws = log_gamma_draw(torch.full((N,), a, dtype=torch.float64))
        assert abs(float(draws.mean()) - digamma(a)) < 4 * math.sqrt(trigamma / N)
        assert abs(float(draws.var()) / trigamma - 1) < 0.05


def test_dirichlet_draws_have_means_and_covariances():
    torch.manual_seed(0)
    a = torch.tensor([0.2, 1.0, 2.5], dtype=torch.float64)
    draws = DirichletShares(a).rsample((N,))
    mean = a / a.sum()
    expected = (mean.diag() - mean[:, None] * mean) / (a.sum() + 1)
    assert bool(((draws.mean(0) - mean).abs() < 4 * (expected.diag() / N).sqrt()).all())
    products = (draws - mean)[:, :, None] * (draws - mean)[:, None]
    assert bool(((products.mean(0) - expected).abs() < 4.5 * products.std(0) / N**0.5).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_and_densities_stay_finite_at_the_edges(dtype):
    torch.manual_seed(0)
    small = torch.tensor([1e-3, 0.01, 5.0], dtype=dtype, requires_grad=True)
    q = DirichletShares(small.expand(5000, 3))
    draws = q.rsample()
    assert float(draws.detach().min()) > 0 and float(draws.detach().max()) <= 1
    edge = BetaShares(small[:1].expand(5000), small[1:2].expand(5000))
    shares = edge.rsample()
    assert float(shares.detach().min()) > 0 and float(shares.detach().max()) < 1
    loss = q.log_prob(draws).sum() + edge.log_prob(shares).sum()
    (grad,) = torch.autograd.grad(loss, small)
    assert bool(loss.isfinite()) and bool(grad.isfinite().all())


def test_slopes_under_vmap_are_those_of_the_mean():
    torch.manual_seed(0)
    rows = torch.rand(20, 3, dtype=torch.float64) + 0.5
    marks, weight = torch.tensor([1.0, 2.0, 4.0]).double(), torch.ones(3).double()

    def share(weight, row):
        return DirichletShares(weight * row, validate_args=False).rsample() @ marks

    by_row = torch.func.vmap(torch.func.grad(share), (None, 0), randomness="same")
    slopes = torch.stack([by_row(weight, rows) for _ in range(250)])  # calls x rows x 3
    total = rows.sum(-1, keepdim=True)
    expected = rows * (marks - (rows @ marks / total.squeeze(-1))[:, None]) / total
    error = slopes.std(0) / len(slopes) ** 0.5
    assert bool(((slopes.mean(0) - expected).abs() < 4.5 * error).all())
    assert bool((error < 0.15).all())
