"""Physics that stands inside a decoder: modules without parameters.

A pair that is given one calls it with the latents that the physics has a name for, and multiplies
what it learns by the result; any module of the same call fits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ppl_models.data.render.sunlight import SUN, diffuse_ratio, wavelengths
from ppl_models.networks import Label, Net


class Illumination(nn.Module):
    r"""How much brighter or darker a surface appears than flat ground in full sun.

    .. math:: \frac{z_P + \Omega\, r_0}{\cos\theta_s + r_0}

    with the direct irradiance :math:`z_P = \delta \cos\Theta` (whether, or how much of, the sun
    is seen, times the cosine of the light's angle to the surface), the share of the sky that is
    seen :math:`\Omega`, and :math:`r_0` of :func:`diffuse_ratio`. Exactly 1 on flat ground in
    full sun, :math:`z_P = \cos\theta_s` and :math:`\Omega = 1`. Thoreau et al. 2022
    (arXiv 2210.10418): they let :math:`\Omega` follow :math:`z_P`, as most of the sky's light
    comes from around the sun.

    Args:
        r0: Diffuse over direct irradiance by band ``(D,)``.
        cos_theta: Cosine of the sun's zenith angle, in (0, 1].
        excess: :math:`g` of the closure :math:`\Omega = z_P + g`, for calls without
            :math:`\Omega`.

    Raises:
        ValueError: If the cosine is not in (0, 1], or a ratio is negative.
    """

    r0: Tensor

    def __init__(self, r0: Tensor, cos_theta: float, excess: float = 0.2) -> None:
        super().__init__()
        if not 0 < cos_theta <= 1:
            raise ValueError(f"cos_theta is {cos_theta}, expected a cosine in (0, 1]")
        if not bool((r0 >= 0).all()):
            raise ValueError("r0 has entries that are negative or NaN, expected ratios >= 0")
        self.register_buffer("r0", r0.to(torch.get_default_dtype()), persistent=False)
        self.cos_theta, self.excess = cos_theta, excess

    def forward(self, z_P: Tensor, omega: Tensor | None = None) -> Tensor:
        """Factor of every band.

        Args:
            z_P: Direct irradiance ``(...)``, in [0, 1].
            omega: Share of the sky that is seen, likewise; by the closure when left out.

        Returns:
            ``(..., D)``.
        """
        z_P = z_P.unsqueeze(-1)
        seen = z_P + self.excess if omega is None else omega.unsqueeze(-1)
        return (z_P + seen * self.r0) / (self.cos_theta + self.r0)


def clear_sky(bands: int, sun: float = SUN, wavelength: Sequence[float] = ()) -> Illumination:
    """The light of a clear sky.

    Args:
        bands: Number D of bands.
        sun: Zenith angle of the sun, degrees.
        wavelength: Of each band, micrometres; those of :func:`wavelengths` when empty.

    Raises:
        ValueError: If the sun is not between zenith and horizon, or the wavelengths are not D
            positive numbers.
    """
    if not 0 < sun < 90:
        raise ValueError(f"sun is {sun}, expected a zenith angle between 0 and 90 degrees")
    known = torch.tensor(wavelength, dtype=torch.float64) if wavelength else wavelengths(bands)
    if len(known) != bands or not bool((known > 0).all()):
        raise ValueError(f"wavelengths are {tuple(wavelength)}, expected {bands} positive numbers")
    cos_theta = math.cos(math.radians(sun))
    return Illumination(diffuse_ratio(known, cos_theta), cos_theta)


class Surface(nn.Module):
    r"""Materials that mix endmembers, under a light.

    :math:`x = \rho(y, a)\,l` with :math:`\rho = \sum_k a_k \hat\rho_k(y)`; an endmember is a
    spectrum of the material times a modulation, both in (0, 1) and learnt.

    Args:
        materials: Number C of materials.
        endmembers: Number A of endmembers.
        bands: Number D of bands.
        hidden: Units of each hidden layer of both networks.
        light: Module from the physics' latents, by keyword, to a factor ``(..., D)``.

    Attributes:
        light: The light.
    """

    def __init__(
        self, materials: int, endmembers: int, bands: int, hidden: Sequence[int], light: nn.Module
    ) -> None:
        super().__init__()
        given = {"y": Label(materials)}
        self.common = Net(given, hidden, bands, "relu")
        self.own = Net(given, hidden, endmembers * bands, "relu")
        self.light = light

    def reflectance(self, y: Tensor, shares: Tensor) -> Tensor:
        """Spectra in full sun.

        Args:
            y: Materials ``(...)``.
            shares: Shares of the endmembers ``(..., A)``.

        Returns:
            ``(..., D)``.
        """
        own = self.own(y=y).sigmoid().unflatten(-1, (shares.shape[-1], -1))  # ... x A x D
        # Not as a product of matrices: that would copy a summed-out material's spectra per row.
        mixed: Tensor = torch.einsum("...a,...ad->...d", shares, own)
        common: Tensor = self.common(y=y)
        return common.sigmoid() * mixed

    def forward(self, y: Tensor, shares: Tensor, **light: Tensor) -> Tensor:
        """Spectra as they appear ``(..., D)``; ``light`` holds what the physics is called with."""
        factor: Tensor = self.light(**light)
        return self.reflectance(y, shares) * factor
