"""Likelihoods of a vector site, chosen by name in a paper's config."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints


class SoftBernoulli(dist.Bernoulli):
    r"""Bernoulli whose values may be grey: :math:`x \log p + (1 - x) \log(1 - p)`.

    The cross-entropy that most papers on MNIST report as log p(x). On {0, 1} data it is the
    Bernoulli density; on grey data it is not normalised, so its bounds compare models on
    the same data but are no log-evidence. Draws are binary.
    """

    support = constraints.unit_interval
    # The base class would answer {0, 1}: grey values must not be taken for enumerable.
    has_enumerate_support = False


@dataclass(frozen=True)
class Likelihood:
    """A likelihood and the number of network outputs that one data dimension takes."""

    outputs: int
    build: Callable[[Tensor], dist.TorchDistribution]

    def __call__(self, raw: Tensor) -> dist.TorchDistribution:
        """Network output ``(..., outputs * D)`` to a distribution over vectors of size D."""
        return self.build(raw)


class SharedNormal(nn.Module):
    """A Normal over vectors whose one learnt variance all dimensions and rows share.

    The network gives the mean, one output per dimension. The log-variance starts at 0 and
    counts as its nearest value in [-10, 3].
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(()))

    def forward(self, raw: Tensor) -> dist.TorchDistribution:
        """Network output ``(..., D)`` to a distribution over vectors of size D."""
        scale = (0.5 * self.log_variance.clamp(-10, 3)).exp()
        return dist.Normal(raw, scale).to_event(1)


# By name and not as lambdas, as a pair that holds one is pickled.
def _soft_bernoulli(raw: Tensor) -> dist.TorchDistribution:
    return SoftBernoulli(logits=raw).to_event(1)


def _bernoulli(raw: Tensor) -> dist.TorchDistribution:
    return dist.Bernoulli(logits=raw).to_event(1)


def _continuous_bernoulli(raw: Tensor) -> dist.TorchDistribution:
    return dist.ContinuousBernoulli(logits=raw).to_event(1)


def _laplace(raw: Tensor) -> dist.TorchDistribution:
    return dist.Laplace(raw.sigmoid(), 1.0).to_event(1)


def _unit_normal(raw: Tensor) -> dist.TorchDistribution:
    return dist.Normal(raw, torch.ones_like(raw)).to_event(1)


def _normal(raw: Tensor) -> dist.TorchDistribution:
    loc, log_variance = raw.chunk(2, -1)
    return dist.Normal(loc, (0.5 * log_variance).exp()).to_event(1)


LIKELIHOODS: dict[str, Likelihood] = {
    "soft_bernoulli": Likelihood(1, _soft_bernoulli),
    "bernoulli": Likelihood(1, _bernoulli),
    "continuous_bernoulli": Likelihood(1, _continuous_bernoulli),
    "laplace": Likelihood(1, _laplace),
    "normal": Likelihood(2, _normal),
    "unit_normal": Likelihood(1, _unit_normal),
}

# With one output of the network per dimension; made anew for each pair, as a variance is learnt.
ONE_OUTPUT: dict[str, Callable[[], Callable[[Tensor], dist.TorchDistribution]]] = {
    "bernoulli": lambda: LIKELIHOODS["bernoulli"],
    "soft_bernoulli": lambda: LIKELIHOODS["soft_bernoulli"],
    "normal": SharedNormal,
}
