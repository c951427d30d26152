"""Sunlight on the ground: the wavelengths that reach it, and how much of it is diffuse."""

from __future__ import annotations

import torch
from torch import Tensor

# Where the atmosphere lets light through, in micrometres.
WINDOWS = (
    (0.453, 0.739),
    (0.772, 0.876),
    (0.986, 1.084),
    (1.162, 1.298),
    (1.506, 1.753),
    (2.026, 2.325),
)


STEP = 0.0125


SUN = 30.0  # zenith angle, degrees


def wavelengths(bands: int | None = None) -> Tensor:
    """Wavelengths of a hyperspectral camera within the atmosphere's windows, micrometres.

    Args:
        bands: How many D, spread evenly over the list of all; all 95 by default, in steps of
            0.0125 micrometres.

    Returns:
        ``(D,)``, increasing.
    """
    every = torch.cat([_grid(low, high) for low, high in WINDOWS])
    if bands is None or bands == len(every):
        return every
    place = torch.linspace(0, len(every) - 1, bands, dtype=every.dtype)
    left = place.floor().long().clamp_max(len(every) - 2)
    return torch.lerp(every[left], every[left + 1], place - left)


def _grid(low: float, high: float) -> Tensor:
    return low + STEP * torch.arange(int((high - low) / STEP) + 1, dtype=torch.float64)


def diffuse_ratio(wavelength: Tensor, cos_theta: float) -> Tensor:
    r"""Diffuse light of a clear sky over direct light on a surface that faces the sun.

    :math:`r_0(\lambda) = 0.156\,\lambda^{-1.915} \cos\theta_s`, a power law within 5 % of the
    irradiances that the authors of p3VAE (arXiv 2210.10418) publish: skies are blue.

    Args:
        wavelength: Micrometres, ``(D,)``.
        cos_theta: Cosine of the sun's zenith angle.
    """
    return cos_theta * 0.156 * wavelength.pow(-1.915)
