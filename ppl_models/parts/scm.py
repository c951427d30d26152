"""Structural causal models: named variables, each made of its parents and a noise of its own.

A :class:`Mechanism` carries standard Normal noise through ``layers``, which see the parents, and
then through ``outer`` ones, which see nothing: units, a range, an exponential. What other
variables' layers see of a variable is its value before its outer layers, where it is of the order
of one. :class:`Classes` is a variable of C classes. :class:`SCM` puts them in order and gives them
as sites of Pyro.

    SCM(
        thickness=Mechanism({}, Spline, outer=(Positive(loc, scale),)),
        intensity=Mechanism({"thickness": Scalar()}, Affine, outer=(Between(64.0, 255.0),)),
    )
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import zuko
from torch import Tensor, nn
from torch.distributions import Transform, transforms

from ppl_models.batch import Batch
from ppl_models.exogenous import noise_of, value_at
from ppl_models.networks import Label, Net, Scalar

Layer = Callable[..., nn.Module]  # of the variable's size, and its parents' by name


class Shift(nn.Module):
    """u -> u + m(parents).

    Args:
        size: Size D of the variable.
        given: Sizes of its parents by name; none is a learnt constant.
        hidden: Units of the network's hidden layers; none is linear.
    """

    def __init__(self, size: int, given: Mapping[str, int], hidden: Sequence[int] = ()) -> None:
        super().__init__()
        self.raw = _Raw(given, hidden, size)

    def forward(self, **parents: Tensor) -> Transform:
        """The transform at the parents' values."""
        return transforms.AffineTransform(self.raw(**parents), 1.0, event_dim=1)


class Affine(nn.Module):
    """u -> m(parents) + s(parents) u; arguments as of :class:`Shift`."""

    def __init__(self, size: int, given: Mapping[str, int], hidden: Sequence[int] = ()) -> None:
        super().__init__()
        self.raw = _Raw(given, hidden, 2 * size)

    def forward(self, **parents: Tensor) -> Transform:
        """The transform at the parents' values."""
        loc, log_scale = self.raw(**parents).chunk(2, -1)
        return transforms.AffineTransform(loc, log_scale.exp(), event_dim=1)


class Spline(nn.Module):
    """u -> an increasing rational-quadratic spline of each entry (Durkan et al. 2019, 1906.04032).

    The identity outside [-bound, bound].

    Args:
        size: As of :class:`Shift`.
        given: As of :class:`Shift`.
        hidden: As of :class:`Shift`.
        bins: Number of pieces.
        bound: Where the identity begins.
    """

    def __init__(
        self,
        size: int,
        given: Mapping[str, int],
        hidden: Sequence[int] = (),
        bins: int = 8,
        bound: float = 5.0,
    ) -> None:
        super().__init__()
        self.size, self.bins, self.bound = int(size), bins, bound
        self.raw = _Raw(given, hidden, self.size * (3 * bins - 1))

    def forward(self, **parents: Tensor) -> Transform:
        """The transform at the parents' values."""
        raw = self.raw(**parents).unflatten(-1, (self.size, 3 * self.bins - 1))
        parts = raw.split([self.bins, self.bins, self.bins - 1], -1)
        spline = zuko.transforms.MonotonicRQSTransform(*parts, bound=self.bound)
        return transforms.IndependentTransform(spline, 1)


class Autoregressive(nn.Module):
    """u -> a spline of each entry that sees those before it, by zuko; for vectors.

    Args:
        size: As of :class:`Shift`.
        given: As of :class:`Shift`.
        hidden: Units of the conditioner's hidden layers.
        context: Size of what it sees of the parents.
    """

    def __init__(
        self,
        size: int,
        given: Mapping[str, int],
        hidden: Sequence[int] = (32,),
        context: int = 8,
    ) -> None:
        super().__init__()
        self.raw = Net(given, (), context) if given else None
        wide = context if given else 0
        flow = zuko.flows.NSF(int(size), wide, transforms=1, hidden_features=tuple(hidden))
        (self.step,) = flow.transform.transforms

    def forward(self, **parents: Tensor) -> Transform:
        """The transform at the parents' values."""
        made: Transform = self.step(None if self.raw is None else self.raw(**parents))
        return made


class Units(nn.Module):
    """u -> loc + scale u, of constants."""

    def __init__(self, loc: float, scale: float) -> None:
        super().__init__()
        self.register_buffer("loc", torch.tensor(loc))
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self) -> Transform:
        """The transform."""
        return transforms.AffineTransform(self.loc, self.scale)


class Positive(Units):
    """u -> exp(loc + scale u), of constants: mean and deviation of the value's logarithm."""

    def forward(self) -> Transform:
        """The transform."""
        return transforms.ComposeTransform([super().forward(), transforms.ExpTransform()])


class Between(nn.Module):
    """u -> low + (high - low) sigmoid(u), of constants."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.register_buffer("low", torch.tensor(low))
        self.register_buffer("high", torch.tensor(high))

    def forward(self) -> Transform:
        """The transform."""
        units = transforms.AffineTransform(self.low, self.high - self.low)
        return transforms.ComposeTransform([transforms.SigmoidTransform(), units])


class Mechanism(nn.Module):
    """A variable of numbers given its parents.

    Args:
        given: Sizes of its parents by name, as networks take them.
        layers: Of its noise, in this order; each is called with the size and the parents' sizes,
            such as ``Affine`` or ``functools.partial(Spline, bins=4)``.
        outer: Modules that are called with nothing, for an increasing function of the result.
        size: Its size; by default one number per row.
    """

    def __init__(
        self,
        given: Mapping[str, int],
        *layers: Layer,
        outer: Sequence[nn.Module] = (),
        size: int | None = None,
    ) -> None:
        super().__init__()
        self.size = Scalar() if size is None else size
        self.given = dict(given)
        self.layers = nn.ModuleList(layer(int(self.size), self.given) for layer in layers)
        self.outer = nn.ModuleList(outer)
        self.register_buffer("zero", torch.zeros(int(self.size)), persistent=False)

    def forward(self, **parents: Tensor) -> dist.TorchDistribution:
        """Its distribution, at what its parents are before their outer layers."""
        shapes = [_rows(value, self.given[name]) for name, value in parents.items()]
        zero = self.zero.expand(*torch.broadcast_shapes(*shapes), -1)
        steps = [layer(**parents) for layer in self.layers]
        if isinstance(self.size, Scalar):
            steps.append(transforms.ReshapeTransform((1,), ()))
        steps += [step() for step in self.outer]
        return dist.TransformedDistribution(dist.Normal(zero, 1.0).to_event(1), steps)

    def inner(self, value: Tensor) -> Tensor:
        """What a value is before the outer layers."""
        for step in reversed(self.outer):
            value = step().inv(value)
        return value


class Classes(nn.Module):
    """A variable of C classes given its parents; its noise is Gumbel's.

    Args:
        classes: Their number C.
        given: Sizes of its parents by name.
        hidden: Units of the network's hidden layers; none is linear.
    """

    def __init__(self, classes: int, given: Mapping[str, int], hidden: Sequence[int] = ()) -> None:
        super().__init__()
        self.size, self.given = Label(classes), dict(given)
        self.raw = _Raw(given, hidden, classes)

    def forward(self, **parents: Tensor) -> dist.TorchDistribution:
        """Its distribution at its parents' values."""
        return dist.Categorical(logits=self.raw(**parents))

    def inner(self, value: Tensor) -> Tensor:
        """The value."""
        return value


class SCM(nn.Module):
    """Variables in an order in which parents stand before their children.

    Args:
        mechanisms: By variable.

    Raises:
        ValueError: If a parent does not stand before, or has another size.
    """

    def __init__(self, **mechanisms: Mechanism | Classes) -> None:
        super().__init__()
        before: dict[str, int] = {}
        for name, mechanism in mechanisms.items():
            for parent, size in mechanism.given.items():
                if before.get(parent) != size:
                    there = {n: int(s) for n, s in before.items()}
                    raise ValueError(
                        f"variable {name!r} has the parent {parent!r} of size {int(size)}, "
                        f"expected one of those before it, {there}"
                    )
            before[name] = mechanism.size
        self.mechanisms = nn.ModuleDict(mechanisms)

    @property
    def graph(self) -> dict[str, tuple[str, ...]]:
        """Parents of each variable."""
        return {name: tuple(m.given) for name, m in self.mechanisms.items()}

    def sample(self, batch: Batch) -> dict[str, Tensor]:
        """Each variable as a site of its name, observed where the batch has it.

        Args:
            batch: The rows; called inside the data plate.

        Returns:
            Values by variable.
        """
        values: dict[str, Tensor] = {}
        for name in self.mechanisms:
            values[name] = pyro.sample(name, self.given(name, values), obs=batch.get(name))
        return values

    def given(self, name: str, values: Mapping[str, Tensor]) -> dist.TorchDistribution:
        """A variable's distribution at the values of others, its parents among them."""
        mechanism: Any = self.mechanisms[name]
        found: dist.TorchDistribution = mechanism(**self.inner(values, mechanism.given))
        return found

    def inner(
        self, values: Mapping[str, Tensor], names: Sequence[str] | Mapping[str, int] | None = None
    ) -> dict[str, Tensor]:
        """What networks should see of variables: their values before the outer layers.

        Args:
            values: By variable; others are left out.
            names: Of the variables that are asked for; all.
        """
        chosen = self.mechanisms if names is None else names
        every: Any = self.mechanisms
        return {name: every[name].inner(values[name]) for name in chosen}

    def log_prob(self, values: Mapping[str, Tensor]) -> Tensor:
        """Log density ``(...)`` of all variables together."""
        parts = [self.given(name, values).log_prob(values[name]) for name in self.mechanisms]
        return torch.stack(torch.broadcast_tensors(*parts)).sum(0)

    def noise(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The noise of each variable; see :func:`ppl_models.exogenous.noise_of`."""
        return {n: noise_of(self.given(n, values), values[n]) for n in self.mechanisms}

    def push(self, noise: Mapping[str, Tensor], **do: Tensor) -> dict[str, Tensor]:
        """The values that noises lead to, where the variables of ``do`` are set."""
        values: dict[str, Tensor] = {}
        for name in self.mechanisms:
            set_to = do.get(name)
            fn = None if set_to is not None else self.given(name, values)
            values[name] = value_at(fn, noise[name]) if set_to is None else set_to
        return values


class _Raw(nn.Module):
    """A network of the parents, or a constant where there are none; it begins at nearly zero."""

    def __init__(self, given: Mapping[str, int], hidden: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.net = Net(given, hidden, outputs) if given else None
        self.constant = None if given else nn.Parameter(torch.zeros(outputs))

    def forward(self, **parents: Tensor) -> Tensor:
        """``(..., outputs)``."""
        out: Tensor | None = self.constant if self.net is None else self.net(**parents)
        assert out is not None
        return out


def _rows(value: Tensor, size: int) -> torch.Size:
    return value.shape if isinstance(size, Label | Scalar) else value.shape[:-1]
