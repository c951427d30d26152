"""Conditional factors of an amortised guide: a network that returns a distribution."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pyro.distributions as dist
from torch import Tensor, nn
from torch.distributions import Transform, biject_to

from ppl_models.guides.supports import SUPPORTS
from ppl_models.networks import Net, Scalar


class Conditional(nn.Module):
    """q(site | given): a distribution made of named values.

    It is usable outside any trace, which is what classifier terms, importance weights and exports
    need.

    Args:
        given: Names of the values that it conditions on; a question mark at the end of a name
            marks one that it can do without.
    """

    by_row = False  # whether it looks up the row numbers, too, by its method ``looked_up``

    def __init__(self, given: Iterable[str] = ()) -> None:
        super().__init__()
        names = tuple(given)
        self.given = tuple(name.removesuffix("?") for name in names)
        self.optional = frozenset(name[:-1] for name in names if name.endswith("?"))

    def mask(self, values: Mapping[str, Tensor]) -> Tensor | None:
        """The rows in which the site counts, given all values; None for all of them."""
        return None

    def forward(self, **values: Tensor) -> dist.TorchDistribution:
        """The distribution given values by name (others than ``given`` are ignored)."""
        raise NotImplementedError


class Factor(Conditional):
    """q(site | given): a network from named values to a distribution.

    Subclasses turn the network's output into a distribution, and say how many outputs that
    takes.

    Args:
        size: Size of the site; of the network's output, where :meth:`outputs` says no more.
        given: Size by name of the values it conditions on, as in
            :class:`ppl_models.networks.SumLinear`. ``{"x": 6, "y?": Label(3)}`` also reads y
            where it is there, and learns a vector that says so.
        hidden: Units of each hidden layer.
        activation: Name of the activation.
        net: A network of your own instead, called with the given values by keyword, those that
            are there, and returning ``(..., outputs)``.
    """

    def __init__(
        self,
        size: int,
        given: Mapping[str, int],
        hidden: Sequence[int] = (),
        activation: str = "softplus",
        net: nn.Module | None = None,
    ) -> None:
        super().__init__(given)
        self.size, self.scalar = int(size), isinstance(size, Scalar)
        if net is None:
            net = Net(given, hidden, self.outputs(size), activation)
        self.net = net

    def outputs(self, size: int) -> int:
        """How many numbers the network gives for a site of a size."""
        return size

    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        """The distribution for a network output of shape ``(..., outputs)``."""
        raise NotImplementedError

    def raw(self, **values: Tensor) -> Tensor:
        """The network's output ``(..., outputs)``; values other than ``given`` are ignored."""
        there = (n for n in self.given if n in values or n not in self.optional)
        out: Tensor = self.net(**{name: values[name] for name in there})
        return out

    def forward(self, **values: Tensor) -> dist.TorchDistribution:
        """The distribution given values by name (others than ``given`` are ignored)."""
        return self.distribution(self.raw(**values))


class Normal(Factor):
    """A diagonal Normal over vectors of ``size``; the network gives mean and log-variance.

    With ``Scalar()`` for the size it is one number per row, without event dimension.

    Args:
        size: Size of the vector.
        given: Size by name of the values it conditions on.
        hidden: Units of each hidden layer.
        activation: Name of the activation.
        net: A network of your own instead, with two outputs per number.
        scale: Least and largest scale, between which a sigmoid of the network's output goes, as
            deep stacks of layers want it; any scale by default.

    Raises:
        ValueError: If the scales are not 0 or more and rising.
    """

    def __init__(
        self,
        size: int,
        given: Mapping[str, int],
        hidden: Sequence[int] = (),
        activation: str = "softplus",
        net: nn.Module | None = None,
        scale: tuple[float, float] | None = None,
    ) -> None:
        if scale is not None and not 0 <= scale[0] < scale[1] < float("inf"):
            raise ValueError(
                f"scale is {scale}, expected two finite numbers, 0 <= least < largest"
            )
        super().__init__(size, given, hidden, activation, net)
        self.bounds = scale

    def outputs(self, size: int) -> int:
        """A mean and a log-variance each."""
        return 2 * size

    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        """Batch shape ``(...)``, event shape ``(size,)`` or ``()``."""
        loc, free = raw.chunk(2, -1)
        if self.bounds is None:
            scale = (0.5 * free).exp()
        else:
            least, largest = self.bounds
            scale = least + (largest - least) * free.sigmoid()
        if self.scalar:
            return dist.Normal(loc.squeeze(-1), scale.squeeze(-1))
        return dist.Normal(loc, scale).to_event(1)


class Constrained(Normal):
    """A Normal carried to a support: log-normal, logit-normal, or on the simplex.

    Args:
        size: Size of the constrained vector; ``Scalar()`` for one number per row.
        given: Size by name of the values it conditions on.
        support: One of ``guides.supports.SUPPORTS``: positive, nonnegative, unit_interval,
            simplex.
        hidden: Units of each hidden layer.
        activation: Name of the activation.
        net: A network of your own instead, with two outputs per unconstrained number.

    Raises:
        ValueError: If the support is none of those.
    """

    def __init__(
        self,
        size: int,
        given: Mapping[str, int],
        support: str,
        hidden: Sequence[int] = (),
        activation: str = "softplus",
        net: nn.Module | None = None,
    ) -> None:
        if support not in SUPPORTS:
            raise ValueError(f"support is {support!r}, expected one of {', '.join(SUPPORTS)}")
        free = biject_to(SUPPORTS[support]).inverse_shape((size,))[0]
        super().__init__(
            size if isinstance(size, Scalar) else free, given, hidden, activation, net
        )
        self.support = support

    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        """Batch shape ``(...)``, event shape ``(size,)`` or ``()``."""
        transform: Transform = biject_to(SUPPORTS[self.support])
        return dist.TransformedDistribution(super().distribution(raw), [transform])


class Categorical(Factor):
    """A class in ``0 .. size-1``, as an integer; the network gives logits."""

    def distribution(self, raw: Tensor) -> dist.TorchDistribution:
        """Batch shape ``(...)``, no event dimension."""
        return dist.Categorical(logits=raw)

    def scores(self, **values: Tensor) -> Tensor:
        """What the network gives ``(..., size)``: logits, up to a constant per row."""
        return self.raw(**values)


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
