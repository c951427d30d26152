"""Structural causal models: named variables, each made of its parents and a noise of its own.

:class:`SCM` puts mechanisms in order and gives them as sites of Pyro, one for each variable, or as
one distribution over the vector of all of them, with the same parameters.

    SCM(
        thickness=Mechanism({}, Spline, outer=(Positive(loc, scale),)),
        intensity=Mechanism({"thickness": Scalar()}, Affine, outer=(Between(64.0, 255.0),)),
    )
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform, constraints, transforms

from ppl_models.batch import Batch
from ppl_models.config import unknown
from ppl_models.exogenous import noise_family, noise_of, value_at
from ppl_models.networks import Scalar
from ppl_models.parts.mechanisms import (
    Affine,
    Autoregressive,
    Between,
    Classes,
    Curve,
    Line,
    Mechanism,
    Positive,
    Shift,
    Spline,
    Units,
    last_step,
    vector_of,
)
from ppl_models.sample_sites import one_line
from ppl_models.set_sites import carried, changed, drawn_from, is_soft

__all__ = [
    "SCM",
    "Affine",
    "Autoregressive",
    "Between",
    "Classes",
    "Curve",
    "Line",
    "Mechanism",
    "Positive",
    "Shift",
    "Spline",
    "Units",
]


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
        every: Any = self.mechanisms
        return {name: tuple(mechanism.given) for name, mechanism in every.items()}

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
        """The noise of each variable; see :func:`ppl_models.exogenous.noise_of`.

        Raises:
            ValueError: If no noise leads to a value, naming the variable.
        """
        return {
            name: noise_of(self.given(name, values), values[name], f"variable {name!r}")
            for name in self.mechanisms
        }

    def push(self, noise: Mapping[str, Tensor], **do: Any) -> dict[str, Tensor]:
        """The values that noises lead to, where some variables are set.

        Args:
            noise: By variable; one that is set to a value needs none.
            do: By variable, a tensor of its values or a number (a hard intervention), a
                distribution, which is drawn from (a stochastic one), or a callable, which makes
                another of the variable's distribution at its parents and leaves it its noise (a
                soft one).

        Raises:
            ValueError: If there is no such variable, or what it is set to has another shape or
                another noise.
        """
        for name in do:
            if name not in self.mechanisms:
                raise ValueError(unknown("variable", name, self.mechanisms))
        values: dict[str, Tensor] = {}
        with one_line():
            for name in self.mechanisms:
                value, own = do.get(name), noise.get(name)
                values[name] = (
                    self._tensor(name, value, own)
                    if isinstance(value, Tensor)
                    else self._led(name, values, own, value)
                )
        return values

    def _tensor(self, name: str, value: Tensor, noise: Tensor | None) -> Tensor:
        """A variable's values that are given, in its type and in the shape of its noise."""
        mechanism: Any = self.mechanisms[name]
        classes = isinstance(mechanism, Classes)
        event = () if classes or isinstance(mechanism.size, Scalar) else (mechanism.size,)
        rows = value.shape[: value.dim() - len(event)]
        good = value.shape[len(rows) :] == event and not value.is_complex()
        if good and noise is not None:  # either may have more draws, and neither more rows
            good = _widest(rows, noise.shape[:-1])
        if not good:
            own = "" if noise is None else f", and its noise has rows {tuple(noise.shape[:-1])}"
            raise ValueError(
                f"variable {name!r} is set to values of shape {tuple(value.shape)}, expected rows "
                f"of shape {event}{own}"
            )
        return value if classes else value.to(mechanism.zero.dtype)

    def _led(
        self, name: str, values: Mapping[str, Tensor], noise: Tensor | None, do: Any
    ) -> Tensor:
        """A variable's value by its noise, or by what it is set to that is no tensor."""
        fn: Any = self.given(name, values)
        if noise is None:
            if do is None or is_soft(do):
                raise ValueError(f"variable {name!r} has no noise and is not set, expected one")
            like: Tensor = fn.sample()
        else:
            like = value_at(fn, noise)
        if do is None:
            return like
        if isinstance(do, Distribution):
            return drawn_from(name, do, like, None).to(like.dtype)
        if is_soft(do) and noise is not None:
            wide = fn.expand(like.shape[: like.dim() - fn.event_dim])
            return carried(name, changed(name, do, wide), noise_family(fn), noise)
        return torch.full_like(like, do)

    def joint(self) -> dist.TransformedDistribution:
        """All variables together as one distribution over a vector, of the same parameters.

        Its noise is the variables' noises side by side, its value their values, as
        :meth:`join` puts them and :meth:`split` takes them apart. Make it anew after a step of
        training, as any distribution of parameters.

        Raises:
            ValueError: If a variable is a class.
        """
        return dist.TransformedDistribution(self._noise(), [_Joint(self)])

    def _noise(self) -> dist.TorchDistribution:
        """Standard noise ``(D,)`` of all variables."""
        every: Any = self.mechanisms
        for name, mechanism in every.items():
            if isinstance(mechanism, Classes):
                raise ValueError(
                    f"variable {name!r} is a class, expected numbers to make one vector of"
                )
        zero = torch.cat([mechanism.zero for mechanism in every.values()])
        return dist.Normal(zero, 1.0).to_event(1)

    def join(self, values: Mapping[str, Tensor]) -> Tensor:
        """Values of the variables side by side ``(..., D)``."""
        every: Any = self.mechanisms
        wide = [
            values[name].unsqueeze(-1) if isinstance(m.size, Scalar) else values[name]
            for name, m in every.items()
        ]
        shape = torch.broadcast_shapes(*(value.shape[:-1] for value in wide))
        return torch.cat([value.expand(*shape, -1) for value in wide], -1)

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        """Values by variable of vectors ``(..., D)``."""
        every: Any = self.mechanisms
        parts = vector.split([int(m.size) for m in every.values()], -1)
        return {
            name: part.squeeze(-1) if isinstance(every[name].size, Scalar) else part
            for name, part in zip(every, parts, strict=True)
        }


def _widest(first: torch.Size, second: torch.Size) -> bool:
    """Whether two shapes broadcast to one of them."""
    try:
        return torch.broadcast_shapes(first, second) in (first, second)
    except RuntimeError:
        return False


class _Joint(Transform):
    """Noises of all variables, side by side, to their values.

    A density needs the distributions at its values twice: once for the noise, which makes them,
    and once for the Jacobian, which takes them away. Nothing is kept beyond that.
    """

    domain = constraints.real_vector
    bijective = True

    def __init__(self, scm: SCM) -> None:
        super().__init__()
        every: Any = scm.mechanisms
        reached = [step.codomain for step in map(last_step, every.values())]
        self.codomain = vector_of(reached, [int(m.size) for m in every.values()])
        self.scm = scm
        self.last: tuple[Tensor, dict[str, Any]] | None = None

    def _noises(self, vector: Tensor) -> dict[str, Tensor]:
        every: Any = self.scm.mechanisms
        parts = vector.split([int(m.size) for m in every.values()], -1)
        return dict(zip(every, parts, strict=True))

    def _given(self, y: Tensor) -> dict[str, Any]:
        """Distributions of the variables at these values of all of them."""
        values = self.scm.split(y)
        return {name: self.scm.given(name, values) for name in values}

    def _call(self, x: Tensor) -> Tensor:
        return self.scm.join(self.scm.push(self._noises(x)))

    def _inverse(self, y: Tensor) -> Tensor:
        values, found, given = self.scm.split(y), [], self._given(y)
        self.last = y, given
        for name, fn in given.items():
            value = values[name]
            for step in reversed(fn.transforms):
                value = step.inv(value)
            found.append(value)
        shape = torch.broadcast_shapes(*(noise.shape[:-1] for noise in found))
        return torch.cat([noise.expand(*shape, -1) for noise in found], -1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """``(...)``."""
        values, noises, total = self.scm.split(y), self._noises(x), x.new_zeros(())
        last, self.last = self.last, None
        given = last[1] if last is not None and last[0] is y else self._given(y)
        for name, fn in given.items():
            steps = transforms.ComposeTransform(fn.transforms)
            moved = steps.log_abs_det_jacobian(noises[name], values[name])
            total = total + (moved if steps.domain.event_dim else moved.sum(-1))
        return total
