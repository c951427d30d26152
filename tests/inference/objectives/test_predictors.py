"""Predictors of each dimension of a code from the others, against loops and closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close
from worlds.given_codes import GivenCodes, covariance_of, rows_with

from ppl_models.batch import Batch
from ppl_models.inference import Predictability, PredictionError, Predictors, predictors_of

ROWS = 14


class ConditionalMeans(nn.Module):
    """The best predictors of a Gaussian code: its conditional means."""

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        super().__init__()
        precision = torch.linalg.inv(covariance)
        slopes = -precision / precision.diagonal().unsqueeze(-1)
        self.slopes = nn.Parameter(slopes - torch.diag(slopes.diagonal()))
        self.mean = mean

    def forward(self, codes: Tensor) -> Tensor:
        return self.mean + (codes - self.mean) @ self.slopes.T


@pytest.mark.parametrize("hidden", [(), (5,), (40, 40)])
@pytest.mark.parametrize("size", [2, 4])
def test_the_ensemble_is_as_many_networks(hidden, size) -> None:
    net = Predictors(size, hidden).double()
    with torch.no_grad():
        for bias in net.biases:
            bias.normal_()
    codes = torch.randn(ROWS, size, dtype=torch.float64)
    found = net(codes)
    for i in range(size):
        value = codes.clone()
        value[:, i] = 0
        for layer, (weight, bias) in enumerate(zip(net.weights, net.biases, strict=True)):
            value = (functional.selu(value) if layer else value) @ weight[i] + bias[i]
        assert_close(found[:, i], value.squeeze(-1))
    jacobian = torch.func.vmap(torch.func.jacrev(lambda z: net(z.unsqueeze(0))[0]))(codes)
    assert not jacobian.diagonal(dim1=-2, dim2=-1).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("size", [2, 3, 5])
def test_at_the_best_predictors_the_term_is_the_variance_they_explain(dtype, scale, size) -> None:
    covariance, mean = covariance_of(size), torch.linspace(-1, 1, size).double()
    best = ConditionalMeans(mean, covariance)
    x = rows_with(mean, covariance, ROWS)
    pair = GivenCodes(size, dtype)
    batch = Batch({"x": x.to(dtype)}, size=ROWS * scale)
    best.mean = best.mean.to(dtype)
    term, player = predictors_of(best.to(dtype), "z", 1.5, steps=5)
    left = 1 / torch.linalg.inv(covariance).diagonal()
    explained = (covariance.diagonal() - left).sum()
    loss = term.differentiable_loss(pair.model, pair.guide, batch)
    assert_close(loss.double(), 1.5 * ROWS * scale * explained, rtol=1e-4, atol=1e-6)
    error = player.objective.differentiable_loss(pair.model, pair.guide, batch)
    assert_close(error.double(), ROWS * scale * left.mean() / 2, rtol=1e-4, atol=1e-6)
    assert player.steps == 5 and term.across_rows and not player.objective.across_rows
    # They are the best: no gradient is left but that of the slope by a dimension itself.
    (gradient,) = torch.autograd.grad(error, best.slopes)
    others = ~torch.eye(size, dtype=torch.bool)
    assert_close(gradient[others], torch.zeros_like(gradient[others]), rtol=0, atol=2e-3)


def test_the_gradient_flows_through_what_is_predicted_from_alone() -> None:
    pair, net = GivenCodes(3), Predictors(3, (4,)).double()
    x = torch.randn(ROWS, 3, dtype=torch.float64)
    term = Predictability(net, "z", 2.0)
    term.differentiable_loss(pair.model, pair.guide, Batch({"x": x})).backward()
    z = x.clone().requires_grad_()
    told = net(z)
    value = sum(
        2 * ROWS * ((x[:, i] * told[:, i]).mean() - x[:, i].mean() * told[:, i].mean())
        for i in range(3)
    )
    (by_hand,) = torch.autograd.grad(value, z)
    assert_close(pair.shift.grad, by_hand.sum(0))
    error = PredictionError(net, "z")
    pair.shift.grad = None
    error.differentiable_loss(pair.model, pair.guide, Batch({"x": x})).backward()
    assert pair.shift.grad is None


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match="size is 1, expected at least 2"):
        Predictors(1)
    with pytest.raises(ValueError, match="weight of Predictability"):
        Predictability(Predictors(2), "z", -1.0)
    with pytest.raises(ValueError, match=r"Predictors\(2\) get codes of shape \(4, 3\)"):
        Predictors(2)(torch.ones(4, 3))
