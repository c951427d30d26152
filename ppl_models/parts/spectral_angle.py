"""A likelihood of spectra: brightness by squared error, colour by angle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

NEAR = 1e-6  # cosines end this far from -1 and 1, where the angle has no finite slope


def spectral_angle(x: Tensor, other: Tensor) -> Tensor:
    """Angle between two spectra ``(..., D)``, radians ``(...)``; brightness does not matter."""
    tiny = torch.finfo(x.dtype).tiny
    norms = torch.linalg.vector_norm(x, dim=-1) * torch.linalg.vector_norm(other, dim=-1)
    cosine: Tensor = torch.linalg.vecdot(x, other) / norms.clamp_min(tiny)
    return cosine.clamp(NEAR - 1, 1 - NEAR).acos()


class SpectralAngle(dist.TorchDistribution):
    r"""A density proportional to :math:`\exp(-R/T)` over spectra around one.

    :math:`R = \frac1D |x - f|^2 + l\,\angle(x, f)`, the reconstruction error of Thoreau et al.
    2022 (arXiv 2210.10418). ``log_prob`` is :math:`-R/T`. As a density of brightness |x| and
    direction x/|x|, its missing constant depends on f but little where angles are small, which
    is how it is used; as a density of x it is not normalised. Bounds therefore compare models
    on the same data and are no log evidence.

    Draws take brightness and direction in turn, at small angles: the angle has a Gamma
    distribution with mean (D - 1) T / l, and brightness a Normal one with variance D T / 2.
    ``mean`` is f.

    Args:
        loc: f, ``(..., D)``, at least two bands.
        temperature: T > 0.
        angle: l > 0, weight of the angle.
    """

    arg_constraints: ClassVar = {"loc": constraints.real_vector}
    support = constraints.real_vector
    has_rsample = False

    def __init__(
        self,
        loc: Tensor,
        temperature: float = 1.0,
        angle: float = 1.0,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.temperature, self.angle = loc, temperature, angle
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """The spectrum f."""
        return self.loc

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> SpectralAngle:
        """The same at a larger batch shape."""
        loc = self.loc.expand(torch.Size(batch_shape) + self.event_shape)
        return SpectralAngle(loc, self.temperature, self.angle, validate_args=False)

    def error(self, value: Tensor) -> Tensor:
        """R of spectra ``(..., D)``."""
        square = (value - self.loc).square().mean(-1)
        return square + self.angle * spectral_angle(value, self.loc)

    def log_prob(self, value: Tensor) -> Tensor:
        """-R / T of spectra ``(..., D)``."""
        if self._validate_args:
            self._validate_sample(value)
        return -self.error(value) / self.temperature

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Spectra ``(sample_shape, ..., D)``."""
        with torch.no_grad():
            f = self.loc.expand(torch.Size(sample_shape) + self.loc.shape)
            size = torch.linalg.vector_norm(f, dim=-1, keepdim=True)
            towards = f / size.clamp_min(torch.finfo(f.dtype).tiny)
            bands = f.shape[-1]
            shape = torch.full_like(size, bands - 1.0)
            theta = torch._standard_gamma(shape) * (self.temperature / self.angle)
            theta = theta.clamp_max(math.pi)
            noise = torch.randn_like(f)
            across = noise - torch.linalg.vecdot(noise, towards).unsqueeze(-1) * towards
            across = across / torch.linalg.vector_norm(across, dim=-1, keepdim=True)
            spread = math.sqrt(bands * self.temperature / 2)
            length = (size * theta.cos() + spread * torch.randn_like(size)).abs()
            drawn: Tensor = length * (theta.cos() * towards + theta.sin() * across)
            return drawn
