"""Codes with each dimension in an order of its own, and what a critic makes of them."""

from __future__ import annotations

import itertools
from collections import Counter

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional
from torch.testing import assert_close
from worlds.given_codes import GivenCodes, LogRatio, covariance_of, rows_with

from ppl_models.batch import Batch
from ppl_models.inference import ELBO, PermutedCritic, permuted_codes
from ppl_models.inference.objectives.code_terms.permuted_codes import permuted
from ppl_models.inference.traces.sites import UnhandledSite


@pytest.mark.parametrize(("rows", "size"), [(1, 3), (5, 1), (7, 3)])
def test_each_column_is_sorted_by_its_noise(rows, size) -> None:
    generator = torch.Generator().manual_seed(rows)
    values, noise = (torch.rand(rows, size, generator=generator) for _ in range(2))
    found = permuted(values, noise)
    for column in range(size):
        order = sorted(range(rows), key=lambda row: float(noise[row, column]))
        assert found[:, column].tolist() == [float(values[row, column]) for row in order]


def test_all_orders_come_alike_and_apart() -> None:
    """Of three rows and two columns there are 36 pairs of orders."""
    generator = torch.Generator().manual_seed(0)
    values = torch.arange(3.0).unsqueeze(-1).expand(3, 2)
    seen = Counter(
        tuple(permuted(values, torch.rand(3, 2, generator=generator)).T.reshape(-1).tolist())
        for _ in range(3600)
    )
    orders = [tuple(map(float, o)) for o in itertools.permutations(range(3))]
    assert set(seen) == {a + b for a, b in itertools.product(orders, orders)}
    assert stats.chisquare(list(seen.values())).pvalue > 0.01


@pytest.mark.parametrize("halves", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 5, 8])
@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_critics_loss_is_that_of_a_loop(halves, rows, scale, dtype) -> None:
    pair, critic = GivenCodes(2, dtype), nn.Linear(2, 1).to(dtype)
    x = torch.randn(rows, 2, generator=torch.Generator().manual_seed(rows)).to(dtype)
    objective = PermutedCritic(critic, "z", halves)
    torch.manual_seed(5)
    loss = objective.differentiable_loss(
        pair.model, pair.guide, Batch({"x": x}, size=rows * scale)
    )
    torch.manual_seed(5)
    noise = torch.rand(rows, 2, dtype=dtype)
    start = rows // 2 if halves and rows > 1 else 0
    joint = x[:start] if start else x
    columns = [
        [float(x[start + row, column]) for row in noise[start:, column].argsort().tolist()]
        for column in range(2)
    ]
    other = torch.tensor(columns, dtype=dtype).T
    by_hand = (
        functional.softplus(-critic(joint)).mean() + functional.softplus(critic(other)).mean()
    )
    assert_close(loss, rows * scale * by_hand / 2)
    loss.backward()
    assert pair.shift.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("size", [2, 3, 5])
def test_at_the_best_critic_the_term_is_the_total_correlation(dtype, scale, size) -> None:
    covariance, rows = covariance_of(size), 16
    mean = torch.linspace(-1, 1, size).double()
    joint = dist.MultivariateNormal(mean.to(dtype), covariance.to(dtype))
    alone = dist.Normal(mean.to(dtype), covariance.diagonal().sqrt().to(dtype)).to_event(1)
    pair = GivenCodes(size, dtype)
    batch = Batch({"x": rows_with(mean, covariance, rows).to(dtype)}, size=rows * scale)
    term, _ = permuted_codes(nn.Linear(size, 1), "z", 2.0)
    term.critic = LogRatio(joint, alone)
    loss = (ELBO() + term).loss_by_part(pair.model, pair.guide, batch)
    found = dict(zip(loss.names, loss.values, strict=True))["density_ratio(z)"]
    exact = covariance.diagonal().log().sum() / 2 - torch.logdet(covariance) / 2
    assert_close(found.double(), 2 * rows * scale * exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bound", [ELBO(), ELBO(2)])
def test_the_pair_runs_once_and_the_critic_asks_the_guide_alone(bound) -> None:
    pair, calls = GivenCodes(2), []
    model = lambda batch: (calls.append("model"), pair.model(batch))  # noqa: E731
    guide = lambda batch: (calls.append("guide"), pair.guide(batch))  # noqa: E731
    batch = Batch({"x": torch.rand(6, 2).double()})
    term, player = permuted_codes(nn.Linear(2, 1).double(), "z")
    player.objective.differentiable_loss(model, guide, batch)
    assert calls == ["guide"]
    calls.clear()
    objective = bound + term
    if bound.particles > 1:
        with pytest.raises(UnhandledSite, match="has 2 draws per row, expected one"):
            objective.differentiable_loss(model, guide, batch)
    else:
        objective.differentiable_loss(model, guide, batch)
    assert calls == ["guide", "model"]


def test_its_rows_look_at_each_other_but_those_of_the_term_do_not() -> None:
    term, player = permuted_codes(nn.Linear(2, 1), "z", steps=3, betas=(0.5, 0.9))
    assert player.objective.across_rows and not term.across_rows
    assert (player.steps, player.betas, player.module) == (3, (0.5, 0.9), term.critic)


def test_a_site_that_is_no_vector_is_named() -> None:
    pair = GivenCodes(2)

    def guide(batch):
        with batch.plate():
            pyro.sample("z", dist.Normal(batch["x"].sum(-1), 1.0))

    with pytest.raises(UnhandledSite, match=r"'z' has draws of shape \(4,\), expected one vector"):
        PermutedCritic(nn.Linear(2, 1), "z").differentiable_loss(
            pair.model, guide, Batch({"x": torch.rand(4, 2).double()})
        )
