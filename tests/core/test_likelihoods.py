"""Likelihoods of vectors."""

from __future__ import annotations

import pytest
import torch

from ppl_models.likelihoods import LIKELIHOODS

B = 4


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihoods_are_densities_over_vectors(name):
    likelihood = LIKELIHOODS[name]
    torch.manual_seed(0)
    raw = torch.randn(B, likelihood.outputs, dtype=torch.float64)
    p = likelihood(raw)
    assert (p.batch_shape, p.event_shape) == ((B,), (1,))
    assert bool(p.support.check(p.sample()).all())
    if name.endswith("bernoulli") and not name.startswith("continuous"):
        grid, width = torch.tensor([0.0, 1.0]), 1.0
    else:
        low, high = (0.0, 1.0) if name.startswith("continuous") else (-30.0, 30.0)
        width = (high - low) / 20_000
        grid = torch.linspace(low + width / 2, high - width / 2, 20_000, dtype=torch.float64)
    mass = p.log_prob(grid.double().reshape(-1, 1, 1).expand(-1, B, 1)).exp().sum(0) * width
    torch.testing.assert_close(mass, torch.ones(B).double(), rtol=0, atol=1e-6)


def test_grey_values_count_as_cross_entropy():
    raw = torch.tensor([[0.3, -1.2]], dtype=torch.float64)
    x = torch.tensor([[0.25, 0.9]], dtype=torch.float64)
    p = raw.sigmoid()
    expected = (x * p.log() + (1 - x) * (1 - p).log()).sum(-1)
    torch.testing.assert_close(LIKELIHOODS["soft_bernoulli"](raw).log_prob(x), expected)
