"""Critics: at their best the term is the KL divergence, and the loss is least there."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence
from torch.nn import functional
from torch.testing import assert_close
from worlds.covariates import dosed, treated
from worlds.given_codes import GivenCodes, LogRatio, covariance_of, rows_with

from ppl_models.batch import Batch
from ppl_models.inference import (
    ELBO,
    Anneal,
    DensityRatio,
    Encoded,
    Generated,
    LogisticCritic,
    density_ratio,
)
from ppl_models.inference.traces.sites import UnhandledSite
from ppl_models.networks import Net

ROWS = 12


def gaussian(mean: Tensor, covariance: Tensor) -> dist.MultivariateNormal:
    return dist.MultivariateNormal(mean, covariance_matrix=covariance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("beside", [False, True])
def test_at_the_best_critic_the_term_is_the_divergence(dtype, scale, size, beside) -> None:
    mean, covariance = torch.linspace(-1, 1, size).double(), covariance_of(size)
    first = gaussian(mean.to(dtype), covariance.to(dtype))
    second = gaussian(torch.zeros(size, dtype=dtype), torch.eye(size, dtype=dtype))
    pair = GivenCodes(size, dtype)
    batch = Batch({"x": rows_with(mean, covariance, ROWS).to(dtype)}, size=ROWS * scale)
    term = DensityRatio(LogRatio(first, second), Encoded("z"), weight=3.0)
    objective = ELBO() + term if beside else term
    loss = objective.loss_by_part(pair.model, pair.guide, batch)
    found = dict(zip(loss.names, loss.values, strict=True))["density_ratio(z)"]
    exact = 3 * ROWS * scale * kl_divergence(first, second)
    assert_close(found, exact, rtol=1e-4 if dtype == torch.float32 else 1e-10, atol=1e-6)
    # The gradient of the term, by the pair's parameters.
    (gradient,) = torch.autograd.grad(
        term.differentiable_loss(pair.model, pair.guide, batch), pair.shift
    )
    z = batch["x"].clone().requires_grad_()
    (by_hand,) = torch.autograd.grad(3 * scale * LogRatio(first, second)(z).sum(), z)
    assert_close(gradient, by_hand.sum(0))


class Table(nn.Module):
    """A free log ratio for each of a few points."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values)

    def forward(self, points: Tensor) -> Tensor:
        return self.values[points]


@pytest.mark.parametrize("weight", [1.0, 2.5])
@pytest.mark.parametrize(
    "counts", [((1, 3), (2, 2)), ((4, 1, 1), (2, 3, 1)), ((5, 2, 3), (3, 3, 4))]
)
def test_the_loss_is_least_at_the_log_ratio(weight, counts) -> None:
    """Both kinds are given by how often each point comes: the optimum is exact."""
    first, second = (
        torch.repeat_interleave(torch.arange(len(c)), torch.tensor(c)) for c in counts
    )
    p, q = (torch.tensor(c).double() / sum(c) for c in counts)
    critic = Table((p / q).log())
    batch = Batch({"x": torch.zeros(len(first), 1).double()})
    term, player = density_ratio(critic, lambda run: (first,), lambda run: (second,), weight)
    loss = player.objective.differentiable_loss(None, None, batch) / len(first)
    (gradient,) = torch.autograd.grad(loss, critic.values)
    assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)
    mixed = (p + q) / 2
    shannon = ((p * (p / mixed).log()).sum() + (q * (q / mixed).log()).sum()) / 2
    assert_close(loss.detach(), math.log(2) - shannon)
    ratio = term.differentiable_loss(None, None, batch) / len(first)
    assert_close(ratio.detach(), weight * (p * (p / q).log()).sum())


def test_the_points_of_a_critic_carry_no_gradient() -> None:
    pair, critic = GivenCodes(2), nn.Linear(2, 1).double()
    x = torch.rand(ROWS, 2).double()
    loss = LogisticCritic(critic, Encoded("z"), lambda run: (run.batch["x"] + pair.shift,))
    value = loss.differentiable_loss(pair.model, pair.guide, Batch({"x": x}))
    logits = critic(x).squeeze(-1)
    by_hand = 0.5 * (functional.softplus(-logits) + functional.softplus(logits)).sum()
    assert_close(value, by_hand)
    (wanted,) = torch.autograd.grad(by_hand, critic.weight)
    value.backward()
    assert pair.shift.grad is None
    assert_close(critic.weight.grad, wanted)


@pytest.mark.parametrize("tilt", [None, (0.5, 2.0), (0.9, 0.9)])
def test_a_tilted_term_moves_the_second_kind_by_the_divergence(tilt) -> None:
    pair, critic = GivenCodes(2), nn.Linear(2, 1).double()
    x = torch.randn(ROWS, 2).double()
    term = DensityRatio(critic, Encoded("z"), -1.0, tilt=tilt)
    loss = term.differentiable_loss(pair.model, pair.guide, Batch({"x": x}))
    (gradient,) = torch.autograd.grad(loss, pair.shift)
    ratio = critic(x).squeeze(-1).exp()
    weight = torch.ones(ROWS).double() if tilt is None else ratio.clamp(*tilt)
    assert_close(gradient, -weight.sum() * critic.weight[0])


def test_what_the_model_makes_up_is_drawn_once_a_run_and_keeps_what_is_given() -> None:
    pair = GivenCodes(2)
    x = torch.randn(ROWS, 2).double()
    run = ELBO().run(pair.model, pair.guide, Batch({"x": x}))
    (made,), (z, again) = Generated("x")(run), Generated("z", "x")(run)
    assert made is again and made.shape == z.shape == (ROWS, 2) and not torch.equal(made, x)
    assert Generated("z", "x", given=("x",))(run)[1] is run.batch["x"]
    assert Encoded("x", "z")(run)[0] is run.batch["x"]
    with pytest.raises(UnhandledSite, match="needs site 'y', which the model does not have"):
        Generated("y")(run)


def test_a_critic_with_named_inputs_and_a_schedule() -> None:
    pair, critic = GivenCodes(2), Net({"z": 2, "x": 2}, (3,), 1).double()
    batch = Batch({"x": torch.randn(ROWS, 2).double()})
    term = DensityRatio(critic, Encoded("z", "x"), Anneal(0.0, 2.0, 0.5, 1.0))
    by_hand = critic(z=batch["x"], x=batch["x"]).sum()
    for progress, weight in ((0.0, 0.0), (0.75, 1.0), (1.0, 2.0)):
        term.at(progress)
        assert_close(term.differentiable_loss(pair.model, pair.guide, batch), weight * by_hand)


@pytest.mark.parametrize("given", [(), ("dose",)])
def test_covariates_of_made_up_rows_are_the_rows_own(given) -> None:
    pair = dosed()
    batch = next(treated(pair, 12).batches(limit=12)).to(torch.float64)
    run = ELBO().run(pair.model, pair.guide, batch.without("y"))
    Generated("x", given=given)(run)
    trace = run.once(("generated", given), list)
    loc = trace.nodes["z"]["value"] @ pair.A.T + pair.means[trace.nodes["y"]["value"]]
    assert_close(trace.nodes["x"]["fn"].base_dist.loc, loc + pair.moved(batch))
    with pytest.raises(ValueError, match="the batch lacks the covariate 'donor'"):
        Generated("x")(ELBO().run(pair.model, pair.guide, batch.only("x")))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Encoded(), "Encoded() names no sites"),
        (lambda: DensityRatio(nn.Linear(1, 1), Encoded("z"), math.nan), "weight of DensityRatio"),
        (lambda: DensityRatio(nn.Linear(1, 1), Encoded("z"), tilt=(2, 1)), "tilt of DensityRatio"),
        (lambda: DensityRatio(nn.Linear(2, 3), Encoded("z")), "critic Linear gives shape (12, 3)"),
        (lambda: DensityRatio(Net({"z": 3}, (), 1), Encoded("z")), "input 'z' of a network has"),
        (
            lambda: DensityRatio(Net({"z": 2}, (), 1), Encoded("x", "z")),
            "reads ['z'], but",
        ),
        (lambda: DensityRatio(nn.Linear(2, 1), Encoded("y")), "codes are asked of site 'y'"),
    ],
)
def test_what_does_not_fit_is_named(make, message) -> None:
    pair = GivenCodes(2, torch.float32)
    with pytest.raises(ValueError) as error:
        make().differentiable_loss(pair.model, pair.guide, Batch({"x": torch.randn(ROWS, 2)}))
    assert message in str(error.value) and "\n" not in str(error.value)
