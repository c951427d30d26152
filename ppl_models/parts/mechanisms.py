"""Mechanisms: a variable made of its parents and a noise of its own.

A :class:`Mechanism` carries standard Normal noise through ``layers``, which see the parents, and
then through ``outer`` ones, which see nothing: units, a range, an exponential. What other
variables' layers see of a variable is its value before its outer layers, where it is of the order
of one. :class:`Classes` is a variable of C classes. In order they make an SCM
(:mod:`ppl_models.parts.scm`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro.distributions as dist
import torch
import zuko
from torch import Tensor, nn
from torch.distributions import Transform, biject_to, constraints, transforms
from torch.nn import functional

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
        return transforms.IndependentTransform(_spline(raw, self.bins, self.bound), 1)


class Autoregressive(nn.Module):
    """u -> a spline of each entry that sees those before it, by zuko; for vectors.

    A value takes one pass over the conditioner; the noise of a value, and so its density, takes
    as many as the vector has entries, and is exact.

    Args:
        size: As of :class:`Shift`.
        given: As of :class:`Shift`.
        hidden: Units of the conditioner's hidden layers.
        context: Size of what it sees of the parents.
        bins: As of :class:`Spline`.
    """

    def __init__(
        self,
        size: int,
        given: Mapping[str, int],
        hidden: Sequence[int] = (32,),
        context: int = 8,
        bins: int = 8,
    ) -> None:
        super().__init__()
        self.raw = Net(given, (), context) if given else None
        self.step = zuko.flows.MaskedAutoregressiveTransform(
            int(size),
            context if given else 0,
            univariate=_StableSpline,
            shapes=[(bins,), (bins,), (bins - 1,)],
            hidden_features=tuple(hidden),
        )

    def __repr__(self) -> str:
        """The module's tree; zuko draws random numbers to describe its own part."""
        with torch.random.fork_rng(devices=[]):
            return super().__repr__()

    def forward(self, **parents: Tensor) -> Transform:
        """The transform at the parents' values."""
        made: Transform = self.step(None if self.raw is None else self.raw(**parents))
        return made


class Units(nn.Module):
    """u -> loc + scale u, of constants."""

    loc: Tensor
    scale: Tensor

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
    """u -> low + (high - low) sigmoid(u), of constants; the ends themselves are never reached."""

    low: Tensor
    high: Tensor

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.register_buffer("low", torch.tensor(float(low)))
        self.register_buffer("high", torch.tensor(float(high)))

    def forward(self) -> Transform:
        """The transform."""
        return _Within(self.low, self.high)


class Line(nn.Module):
    """u -> a + s u, where a and s > 0 are learnt; it begins as the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(()))
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self) -> Transform:
        """The transform."""
        return transforms.AffineTransform(self.loc, self.log_scale.exp())


class Curve(Line):
    """u -> a :class:`Line` of an increasing spline, all learnt; it begins as the identity.

    Args:
        bins: As of :class:`Spline`.
        bound: As of :class:`Spline`.
    """

    def __init__(self, bins: int = 8, bound: float = 5.0) -> None:
        super().__init__()
        self.bins, self.bound = bins, bound
        self.raw = nn.Parameter(torch.zeros(3 * bins - 1))

    def forward(self) -> Transform:
        """The transform."""
        spline = _spline(self.raw, self.bins, self.bound)
        return transforms.ComposeTransform([spline, super().forward()])


class Mechanism(nn.Module):
    """A variable of numbers given its parents.

    Args:
        given: Sizes of its parents by name, as networks take them.
        layers: Of its noise, in this order; each is called with the size and the parents' sizes,
            such as ``Affine`` or ``functools.partial(Spline, bins=4)``.
        outer: Modules that are called with nothing, for an increasing function of the result.
        size: Its size; by default one number per row.
    """

    zero: Tensor

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
        steps: list[Transform] = [layer(**parents) for layer in self.layers]
        if isinstance(self.size, Scalar):
            steps.append(transforms.ReshapeTransform(torch.Size((1,)), torch.Size(())))
        steps += [step() for step in self.outer]
        return dist.TransformedDistribution(dist.Normal(zero, 1.0).to_event(1), steps)

    def inner(self, value: Tensor) -> Tensor:
        """What a value is before the outer layers."""
        for step in reversed(self.outer):
            value = step().inv(value)
        return value


def last_step(mechanism: Mechanism) -> Transform:
    """The outermost function of a variable's noise; the identity without one."""
    if not len(mechanism.outer):
        return transforms.identity_transform
    step: Transform = mechanism.outer[-1]()
    return step


def vector_of(each: Sequence[Any], sizes: Sequence[int]) -> Any:
    """What vectors may be whose parts, of these sizes, lie side by side and may each be what."""
    return constraints.independent(constraints.cat(each, -1, sizes), 1)


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
    """The batch shape of a parent's value; a relaxed class is a vector."""
    if isinstance(size, Scalar) or (isinstance(size, Label) and not value.is_floating_point()):
        return value.shape
    return value.shape[:-1]


class _StableSpline(zuko.transforms.MonotonicRQSTransform):
    """zuko's spline, inverted in float64: where it is steep, float32 has roots of less than 0."""

    def _inverse(self, y: Tensor) -> Tensor:
        exact = self.__new__(type(self))
        exact.__dict__.update(self.__dict__)
        for name in ("horizontal", "vertical", "derivatives"):
            setattr(exact, name, getattr(self, name).double())
        found: Tensor = super(_StableSpline, exact)._inverse(y.double())
        return found.to(y.dtype)


def _spline(raw: Tensor, bins: int, bound: float) -> Transform:
    """The spline of unconstrained widths, heights and slopes ``(..., 3 bins - 1)``."""
    return _StableSpline(*raw.split([bins, bins, bins - 1], -1), bound=bound)


class _Inside(constraints.interval):
    """Between two numbers, which do not count."""

    def check(self, value: Tensor) -> Tensor:
        inside: Tensor = (self.lower_bound < value) & (value < self.upper_bound)
        return inside


def _to_inside(constraint: Any) -> Transform:
    return _Within(constraint.lower_bound, constraint.upper_bound)


biject_to.register(_Inside, _to_inside)


class _Within(Transform):
    """Of :class:`Between`; torch's own sigmoid takes the ends for numbers close to them."""

    domain = constraints.real
    bijective = True
    sign = +1

    def __init__(self, low: Tensor, high: Tensor) -> None:
        super().__init__()
        self.low, self.high = low, high

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def codomain(self) -> Any:
        inside: Any = _Inside
        return inside(self.low, self.high)

    def _call(self, x: Tensor) -> Tensor:
        made = self.low + (self.high - self.low) * x.sigmoid()
        # Rounding must not reach the ends, from which there is no way back.
        least = torch.finfo(made.dtype).eps * torch.maximum(self.low.abs(), self.high.abs())
        return made.clamp(self.low + least, self.high - least)

    def _inverse(self, y: Tensor) -> Tensor:
        return (y - self.low).log() - (self.high - y).log()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        slope = functional.logsigmoid(x) + functional.logsigmoid(-x)
        return (self.high - self.low).log() + slope
