"""Directions: the von Mises-Fisher distribution and the uniform one on a sphere.

Vectors of length 1 with m >= 2 entries. Nothing is lost to cancellation for any m and for
concentrations from 0 to 1e5, in float32 as in float64: normalisers are computed in float64
(:mod:`ppl_models.bessel_ratios`) and densities as functions of the distance from the mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints, register_kl

from ppl_models.angle_draws import angle, angle_slope
from ppl_models.bessel_ratios import log_normaliser_and_ratio

OFF = 1e-5  # by which the length of a direction may differ from 1


class _Sphere(constraints.Constraint):
    """Vectors of length 1.

    No transform of ``torch.distributions.biject_to`` leads from the real numbers to them: none
    could be one-to-one and smooth everywhere.
    """

    event_dim = 1

    def check(self, value: Tensor) -> Any:
        """Whether each vector has length 1, to 1e-5."""
        close: Tensor = (value.norm(dim=-1) - 1).abs() < OFF
        return close


sphere = _Sphere()


class HypersphericalUniform(TorchDistribution):
    """All directions alike.

    Args:
        dim: Entries m of a vector, at least 2.
        like: A tensor whose dtype and device draws have, such as ``self.like()`` of a pair.
        batch_shape: Shape of independent directions.

    Raises:
        ValueError: If ``dim`` is below 2.
    """

    support = sphere
    has_rsample = True
    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        dim: int,
        like: Tensor | None = None,
        batch_shape: Sequence[int] = (),
        validate_args: bool | None = None,
    ) -> None:
        self.dim = _checked(dim)
        self.like = torch.empty(()) if like is None else like.detach().new_empty(())
        super().__init__(torch.Size(batch_shape), torch.Size((dim,)), validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> HypersphericalUniform:
        """The same for another batch shape."""
        return HypersphericalUniform(self.dim, self.like, batch_shape, validate_args=False)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Directions ``(sample_shape, batch_shape, m)``."""
        shape = self._extended_shape(torch.Size(sample_shape))
        return direction(torch.randn(shape, dtype=self.like.dtype, device=self.like.device))

    def log_prob(self, value: Tensor) -> Tensor:
        """Minus the logarithm of the sphere's area."""
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        return value.new_full((), -log_area(self.dim)).expand(shape)

    def entropy(self) -> Tensor:
        """The logarithm of the sphere's area."""
        return self.like.new_full((), log_area(self.dim)).expand(self.batch_shape)

    @property
    def mean(self) -> Tensor:
        """0, the centre, which is no direction."""
        return self.like.new_zeros(()).expand(self.batch_shape + self.event_shape)


class VonMisesFisher(TorchDistribution):
    r"""Directions about a mean: :math:`p(z) \propto e^{\kappa \mu \cdot z}`.

    Draws are exact and made of a fixed number of tensor operations, so they compile and run
    under ``vmap``; their gradients are those of implicit reparameterisation (Figurnov et al.
    2018, arXiv 1805.08498), without the bias of accepted proposals taken as noise.

    Args:
        loc: Mean directions mu ``(..., m)`` of length 1.
        concentration: kappa >= 0 ``(...)``, without the last dimension; 0 is uniform.

    Raises:
        ValueError: If shapes do not broadcast, ``loc`` is no direction, or kappa is negative.
    """

    support = sphere
    has_rsample = True
    arg_constraints: ClassVar[dict[str, Any]] = {
        "loc": sphere,
        "concentration": constraints.nonnegative,
    }

    def __init__(
        self, loc: Tensor, concentration: Tensor, validate_args: bool | None = None
    ) -> None:
        if not loc.dim():
            raise ValueError("loc of VonMisesFisher is one number, expected a vector of length 1")
        self.dim = _checked(loc.shape[-1])
        try:
            shape = torch.broadcast_shapes(loc.shape[:-1], concentration.shape)
        except RuntimeError:
            raise ValueError(
                f"concentration of VonMisesFisher has shape {tuple(concentration.shape)}, "
                f"expected one that broadcasts to {tuple(loc.shape[:-1])}, loc's without the last"
            ) from None
        self.loc = loc.expand(*shape, -1)
        self.concentration = concentration.expand(shape)
        self._kept: dict[bool, tuple[Tensor, Tensor, Tensor]] = {}
        super().__init__(shape, loc.shape[-1:], validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> VonMisesFisher:
        """The same for another batch shape."""
        shape = torch.Size(batch_shape)
        return VonMisesFisher(
            self.loc.expand(shape + self.event_shape),
            self.concentration.expand(shape),
            validate_args=False,
        )

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Directions ``(sample_shape, batch_shape, m)``."""
        shape = self._extended_shape(torch.Size(sample_shape))
        loc = self.loc.expand(shape)
        kappa, ratio = (self._computed()[part].expand(shape[:-1]) for part in (0, 2))
        share = torch.rand(shape[:-1], dtype=torch.float64, device=loc.device)
        noise = torch.randn((*shape[:-1], self.dim - 1), dtype=loc.dtype, device=loc.device)
        with torch.no_grad():
            found = angle(kappa, share + 2.0**-54, self.dim)  # never 0
        if torch.is_grad_enabled():
            with torch.no_grad():
                slope = angle_slope(kappa, found, ratio, self.dim)
            found = found + slope * (kappa - kappa.detach())
        cosine, sine = found.cos().to(loc.dtype), found.sin().to(loc.dtype)
        drawn = torch.cat([cosine.unsqueeze(-1), sine.unsqueeze(-1) * direction(noise)], -1)
        return _turned(drawn, loc)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density with respect to the sphere's area, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        kappa, normaliser, _ = self._computed()
        # mu.z = 1 - |mu - z|^2 / 2, whose digits a large kappa would take.
        apart = (value - self.loc).square().sum(-1).double() / 2
        return ((kappa - normaliser) - kappa * apart - log_area(self.dim)).to(value.dtype)

    def entropy(self) -> Tensor:
        """Differential entropy in nats."""
        return (log_area(self.dim) - self._kl_to_uniform()).to(self.loc.dtype)

    @property
    def mean_resultant_length(self) -> Tensor:
        """A(kappa), the length of the mean and the mean of the cosine."""
        return self._computed()[2].to(self.loc.dtype)

    @property
    def mean(self) -> Tensor:
        """A(kappa) mu, which lies inside the sphere."""
        return self.mean_resultant_length.unsqueeze(-1) * self.loc

    @property
    def mode(self) -> Tensor:
        """The mean direction."""
        return self.loc

    def _computed(self) -> tuple[Tensor, Tensor, Tensor]:
        """The concentration, its log normaliser and A, in float64."""
        key = torch.is_grad_enabled()  # what is made without gradient serves no one with
        if key not in self._kept:
            kappa = self.concentration.double()
            self._kept[key] = (kappa, *log_normaliser_and_ratio(kappa, self.dim))
        return self._kept[key]

    def _kl_to_uniform(self) -> Tensor:
        kappa, normaliser, ratio = self._computed()
        return kappa * ratio - normaliser


def direction(numbers: Tensor) -> Tensor:
    """Numbers ``(..., m)`` brought to length 1; where all are 0 they are a corner.

    Args:
        numbers: Such as a network's output.
    """
    numbers = numbers + (numbers == 0).all(-1, keepdim=True)
    length: Tensor = numbers.norm(dim=-1, keepdim=True)
    return numbers / length


def log_area(dim: int) -> float:
    """Logarithm of the area of the sphere of vectors with ``dim`` entries."""
    return math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)


def _kl_uniform(p: VonMisesFisher, q: HypersphericalUniform) -> Tensor:
    return p._kl_to_uniform().to(p.loc.dtype)


def _kl(p: VonMisesFisher, q: VonMisesFisher) -> Tensor:
    kappa, first, ratio = p._computed()
    other, second, _ = q._computed()
    apart = (p.loc.double() - q.loc.double()).square().sum(-1) / 2
    found = second - first + ratio * (kappa - other) + ratio * other * apart
    return found.to(p.loc.dtype)


def _kl_uniforms(p: HypersphericalUniform, q: HypersphericalUniform) -> Tensor:
    shape = torch.broadcast_shapes(p.batch_shape, q.batch_shape)
    return p.like.new_zeros(()).expand(shape)


_KL: tuple[tuple[type, type, Callable[..., Tensor]], ...] = (
    (VonMisesFisher, HypersphericalUniform, _kl_uniform),
    (VonMisesFisher, VonMisesFisher, _kl),
    (HypersphericalUniform, HypersphericalUniform, _kl_uniforms),
)
for _first, _second, _found in _KL:
    register_kl(_first, _second)(_found)


def _checked(dim: int) -> int:
    if dim < 2:
        raise ValueError(f"a direction has {dim} entries, expected at least 2")
    return dim


def _turned(drawn: Tensor, loc: Tensor) -> Tensor:
    """Vectors about the first axis ``(..., m)`` carried to vectors about ``loc``.

    By a Householder reflection of the axis to ``loc`` or to its antipode, whichever is farther,
    so that no length is divided by that could be 0.
    """
    sign = torch.where(loc[..., :1] < 0, -1.0, 1.0).to(loc.dtype)
    axis = torch.zeros_like(loc)
    axis[..., 0] = 1
    normal = loc + sign * axis
    along = (normal * drawn).sum(-1, keepdim=True) / (normal * normal).sum(-1, keepdim=True)
    return -sign * (drawn - 2 * along * normal)
