"""Gradients that stop at a network, in some rows or in all."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from worlds.linear import draw, linear

from ppl_models.batch import Batch
from ppl_models.inference import EnumeratedELBO, Objective, StopGradient
from ppl_models.inference.objectives.stop_gradient import detached

ROWS = 12


def test_detached_networks_pass_gradients_to_their_inputs_only() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    x = torch.randn(4, 2, requires_grad=True)
    (expected,) = torch.autograd.grad(net(x).sum(), x)
    with detached(net):
        net(x).sum().backward()
    assert torch.equal(x.grad, expected)
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_stop_holds_in_its_rows_only(scale: int, dtype: torch.dtype) -> None:
    """Mixed batches: the stopped network gets the labelled rows' gradient, to the bit."""
    pair = linear(dtype=dtype)
    x, y = draw(pair, ROWS)
    unlabelled = Batch({"x": x[:7]}, size=7 * scale, total=ROWS * scale)
    labelled = Batch({"x": x[7:], "y": y[7:]}, torch.arange(5), size=5 * scale, total=ROWS * scale)
    head = pair.guide.factors["z"]
    bound = EnumeratedELBO()
    stopped = StopGradient(bound, head, missing="y")

    def gradient(objective: Objective, *batches: Batch) -> dict[str, Tensor]:
        torch.manual_seed(1)
        loss = objective.differentiable_loss(pair.model, pair.guide, batches)
        names, parameters = zip(*pair.named_parameters(), strict=True)
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        return {n: g for n, g in zip(names, grads, strict=True) if g is not None}

    both = gradient(stopped, labelled, unlabelled)
    plain = gradient(bound, labelled, unlabelled)
    alone = gradient(bound, labelled)
    for name in both:
        held = name.startswith("guide.factors.z")
        assert_close(both[name], (alone if held else plain)[name], rtol=1e-6, atol=1e-9)
    assert any(not torch.allclose(both[n], plain[n]) for n in both if "factors.z" in n)


def test_a_stop_in_a_sum_leaves_the_other_terms_alone() -> None:
    pair = linear()
    x, _ = draw(pair, ROWS)
    batch = Batch({"x": x})
    bound = EnumeratedELBO()
    everything = list(pair.parameters())

    def gradient(objective: Objective) -> list[Tensor | None]:
        torch.manual_seed(1)
        loss = objective.differentiable_loss(pair.model, pair.guide, batch)
        return list(torch.autograd.grad(loss, everything, allow_unused=True))

    plain, summed = gradient(bound), gradient(bound + StopGradient(bound, pair))
    for one, other in zip(plain, summed, strict=True):
        assert_close(one, other)


def test_stops_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one network"):
        StopGradient(EnumeratedELBO())
    with pytest.raises(ValueError, match="one kind of rows"):
        StopGradient(EnumeratedELBO(), nn.Linear(1, 1), observed="y", missing="y")
