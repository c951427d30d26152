"""Conditional factors of an amortised guide: a network that returns a distribution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyro.distributions as dist
from torch import Tensor, nn

from ppl_models.networks import Net


class Factor(nn.Module):
    """q(site | given): a network from named values to a distribution.

    Subclasses turn the network's output into a distribution. A factor is usable outside any
    trace, which is what classifier terms, importance weights and exports need.

    Args:
        outputs: Size of the network's output.
        given: Size by name of the values it conditions on, as in
            :class:`ppl_models.networks.SumLinear`.
        hidden: Units of each hidden layer.
        activation: Name of the activation.
        net: A network of your own instead, called with the given values by keyword and
            returning ``(..., outputs)``.
    """

    def __init__(
        self,
        outputs: int,
        given: Mapping[str, int],
        hidden: Sequence[int] = (),
        activation: str = "softplus",
        net: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.given = tuple(given)
        self.net = Net(given, hidden, outputs, activation) if net is None else net

    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        """The distribution for a network output of shape ``(..., outputs)``."""
        raise NotImplementedError

    def forward(self, **values: Tensor) -> dist.TorchDistribution:
        """The distribution given values by name (others than ``given`` are ignored)."""
        return self.distribution(self.net(**{name: values[name] for name in self.given}))


class Normal(Factor):
    """A diagonal Normal over vectors of ``size``; the network gives mean and log-variance."""

    def __init__(
        self,
        size: int,
        given: Mapping[str, int],
        hidden: Sequence[int] = (),
        activation: str = "softplus",
        net: nn.Module | None = None,
    ) -> None:
        super().__init__(2 * size, given, hidden, activation, net)

    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        """Batch shape ``(...)``, event shape ``(size,)``."""
        loc, log_variance = raw.chunk(2, -1)
        return dist.Normal(loc, (0.5 * log_variance).exp()).to_event(1)


class Categorical(Factor):
    """A class in ``0 .. size-1``, as an integer; the network gives logits."""

    def __init__(
        self,
        size: int,
        given: Mapping[str, int],
        hidden: Sequence[int] = (),
        activation: str = "softplus",
        net: nn.Module | None = None,
    ) -> None:
        super().__init__(size, given, hidden, activation, net)

    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        """Batch shape ``(...)``, no event dimension."""
        return dist.Categorical(logits=raw)


class OneHotCategorical(Categorical):
    """A class as a one-hot vector of ``size``; the network gives logits."""

    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        """Batch shape ``(...)``, event shape ``(size,)``."""
        return dist.OneHotCategorical(logits=raw)


class Bernoulli(Factor):
    """One binary value per row, 0.0 or 1.0; the network gives the logit."""

    def __init__(
        self,
        given: Mapping[str, int],
        hidden: Sequence[int] = (),
        activation: str = "softplus",
        net: nn.Module | None = None,
    ) -> None:
        super().__init__(1, given, hidden, activation, net)

    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        """Batch shape ``(...)``, no event dimension."""
        return dist.Bernoulli(logits=raw.squeeze(-1))
