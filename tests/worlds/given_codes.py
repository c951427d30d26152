"""A story whose codes are its rows, so that what a term makes of codes is known exactly."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models.batch import Batch


class GivenCodes(nn.Module):
    """z ~ N(0, I), x | z ~ N(z, I); the guide says z = x + shift."""

    def __init__(self, size: int, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(size, dtype=dtype))

    def model(self, batch: Batch) -> None:
        zero = torch.zeros_like(self.shift)
        with batch.plate():
            z = pyro.sample("z", dist.Normal(zero, zero + 1).to_event(1))
            pyro.sample("x", dist.Normal(z, zero + 1).to_event(1), obs=batch.get("x"))

    def guide(self, batch: Batch) -> None:
        with batch.plate():
            pyro.sample("z", dist.Delta(batch["x"] + self.shift, event_dim=1))


def rows_with(mean: Tensor, covariance: Tensor, rows: int, seed: int = 0) -> Tensor:
    """Rows whose mean and (biased) covariance are exactly these, up to rounding."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(rows, len(mean), generator=generator, dtype=torch.float64)
    draws = draws - draws.mean(0)
    root = torch.linalg.cholesky(draws.T @ draws / rows)
    white = torch.linalg.solve_triangular(root, draws.T, upper=False).T
    return mean + white @ torch.linalg.cholesky(covariance).T


def covariance_of(size: int, seed: int = 1) -> Tensor:
    """Some covariance with correlations, and unequal variances."""
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return factor @ factor.T / size + 0.3 * torch.eye(size, dtype=torch.float64)


class LogRatio(nn.Module):
    """The best critic of two Gaussians: the difference of their log densities."""

    def __init__(self, first: dist.Distribution, second: dist.Distribution) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, z: Tensor) -> Tensor:
        ratio: Tensor = self.first.log_prob(z) - self.second.log_prob(z)
        return ratio
