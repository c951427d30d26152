"""Procedural hyperspectral pixels: five materials under sun, shade and every tilt between."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ppl_models.config import whole
from ppl_models.data.render.sunlight import SUN, diffuse_ratio, wavelengths as of_windows
from ppl_models.data.render.world_options import Span, frequencies, number, numbers, redrawn, span
from ppl_models.data.tables.from_parts import Array, from_parts
from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.data.tables.table import Dataset

CLASSES = ("vegetation", "aluminium", "loam", "tile", "asphalt")
MOST = 3  # prototypes of a material
SEEN = (0.45, 2.4)  # micrometres where the materials' formulas hold
Lamp = tuple[float, Array]


def load(
    labelled: int = 500,
    unlabelled: int = 4_000,
    validation: int = 500,
    test: int = 3_000,
    noise: float = 0.003,
    seed: int = 0,
    *,
    sun: float = SUN,
    irradiance: tuple[float, float] = (0.0, 1.0),
    sky_view: tuple[float, float] = (0.2, 1.0),
    labelled_irradiance: tuple[float, float] = (0.7, 1.0),
    labelled_sky_view: tuple[float, float] = (0.9, 1.0),
    bands: int | None = None,
    wavelengths: tuple[float, ...] = (),
    frequency: tuple[float, ...] | None = None,
) -> Dataset:
    """Spectra ``x`` (95 bands) of five materials ``y``; only sunlit pixels are labelled.

    After the simulated scene of p3VAE (Thoreau et al. 2022, arXiv 2210.10418), without its data:
    a pixel mixes the prototypes of its material with Dirichlet(1) shares, and is lit with a
    direct ``irradiance`` (the sun's visibility times the cosine of its angle to the surface) and
    the share of the sky that it sees, ``sky_view``, both uniform. Labelled training rows have an
    irradiance in 0.7 to 1 and a sky view in 0.9 to 1, all others anything in 0 to 1 and 0.2 to
    1. A model of the light, such as that of ``p3vae``, has a sun and wavelengths of its own.
    Sites ``irradiance``, ``sky_view`` and ``reflectance`` (the spectrum in full sun, without
    noise) are for scoring only.

    Args:
        labelled: Training rows with ``y``.
        unlabelled: Training rows without.
        validation: Validation rows.
        test: Test rows.
        noise: Standard deviation of the Normal noise on every band.
        seed: Seed of everything; labelled rows and the parts have draws of their own.
        sun: Zenith angle of the sun, degrees, 0 to 90 without either.
        irradiance: Range of the irradiance of all but labelled rows, within 0 to 1.
        sky_view: Range of the sky view of all but labelled rows, within 0 to 1.
        labelled_irradiance: Range of the irradiance of labelled rows, within 0 to 1.
        labelled_sky_view: Range of the sky view of labelled rows, within 0 to 1.
        bands: Number of bands, at least 2, spread over the atmosphere's windows; all 95 if None.
        wavelengths: Of each band, micrometres, 0.45 to 2.4; those of the windows if empty.
        frequency: Probability of each material; equal if None.

    Raises:
        ValueError: If an option is out of range.
    """
    noise, labelled = number("noise", noise, 0), whole("labelled", labelled, 1)
    unlabelled, shares = whole("unlabelled", unlabelled, 1), frequencies("frequency", frequency, 5)
    anywhere = {
        "irradiance": span("irradiance", irradiance, 0, 1),
        "sky_view": span("sky_view", sky_view, 0, 1),
    }
    sunlit = {
        "irradiance": span("labelled_irradiance", labelled_irradiance, 0, 1),
        "sky_view": span("labelled_sky_view", labelled_sky_view, 0, 1),
    }
    u = micrometres(bands, wavelengths)
    lamp = light_ratio(sun, u)
    kinds = [(labelled, sunlit), *((rows, anywhere) for rows in (unlabelled, validation, test))]
    drawn = []
    for place, (rows, ranges) in enumerate(kinds):
        draw = numpy_generator(seed, place)
        y = draw.integers(len(CLASSES), size=rows)
        y = redrawn(y, len(CLASSES), shares, numpy_generator(seed, place, 1))
        drawn.append(pixels(y, ranges, noise, draw, u, lamp))
    train = {site: np.concatenate([part[site] for part in drawn[:2]]) for site in drawn[0]}
    return from_parts(
        "spectra",
        [train, *drawn[2:]],
        options={
            "labelled": labelled,
            "unlabelled": unlabelled,
            "validation": validation,
            "test": test,
            "noise": noise,
            "sun": sun,
            **anywhere,
            **{f"labelled_{name}": ends for name, ends in sunlit.items()},
            "bands": bands,
            "wavelengths": wavelengths,
            "frequency": shares,
        },
        seed=seed,
        classes={"y": CLASSES},
        observed={"y": np.arange(labelled + unlabelled) < labelled},
        roles=dict.fromkeys(("irradiance", "sky_view", "reflectance"), "factor"),
    )


def micrometres(bands: int | None = None, wavelengths: Sequence[float] = ()) -> Array:
    """Wavelengths ``(D,)`` of the bands, micrometres; see :func:`load`."""
    if bands is not None and len(wavelengths):
        raise ValueError(
            f"bands is {bands} and wavelengths are {tuple(wavelengths)}, expected only one of them"
        )
    if len(wavelengths):
        return np.array(numbers("wavelengths", wavelengths, len(wavelengths), *SEEN))
    return of_windows(None if bands is None else whole("bands", bands, 2)).numpy()


def pixels(
    y: Array,
    ranges: Mapping[str, Span],
    noise: float,
    draw: np.random.Generator,
    u: Array,
    lamp: Lamp,
) -> dict[str, Array]:
    """Pixels of materials ``(N,)`` under uniform light, by site.

    Args:
        y: Materials.
        ranges: Of ``irradiance`` and ``sky_view``.
        noise: Standard deviation.
        draw: Source of light, shares and noise.
        u: Wavelengths ``(D,)``, micrometres.
        lamp: The sun's cosine and the sky's ratio; see :func:`light_ratio`.
    """
    light = {name: draw.uniform(*ends, len(y)) for name, ends in ranges.items()}
    reflectance = mixed(y, draw, u)
    x = reflectance * lit(**light, lamp=lamp) + draw.normal(0, noise, reflectance.shape)
    return {"x": x, "y": y, **light, "reflectance": reflectance}


def mixed(y: Array, draw: np.random.Generator, u: Array | None = None) -> Array:
    """Reflectances ``(N, D)`` that mix the prototypes of materials ``(N,)`` at random."""
    spectra = prototypes(u)
    # Dirichlet(1) shares: exponential numbers, of which only a material's own count.
    shares = draw.exponential(size=(len(y), MOST))
    counts = np.array([len(spectra[name]) for name in CLASSES])
    shares *= np.arange(MOST) < counts[y][:, None]
    shares /= shares.sum(1, keepdims=True)
    table = np.stack([np.resize(s, (MOST, s.shape[1])) for s in spectra.values()])
    reflectance: Array = np.einsum("na,nab->nb", shares, table[y])
    return reflectance


def light_ratio(sun: float = SUN, u: Array | None = None) -> Lamp:
    """Cosine of the sun's zenith angle, and diffuse over direct light ``(D,)`` of a clear sky.

    Args:
        sun: Zenith angle, degrees.
        u: Wavelengths ``(D,)``, micrometres; the 95 of the windows if None.

    Raises:
        ValueError: If the sun is not between zenith and horizon.
    """
    if not 0 < number("sun", sun) < 90:
        raise ValueError(f"sun is {sun}, expected a zenith angle between 0 and 90 degrees")
    cosine = math.cos(math.radians(sun))
    return cosine, diffuse_ratio(
        torch.from_numpy(micrometres() if u is None else u), cosine
    ).numpy()


def lit(irradiance: Array, sky_view: Array, lamp: Lamp | None = None) -> Array:
    """Factors ``(N, D)`` of reflectances; see :class:`ppl_models.parts.physics.Illumination`."""
    cosine, r0 = lamp or light_ratio()
    factor: Array = (irradiance[:, None] + sky_view[:, None] * r0) / (cosine + r0)
    return factor


def prototypes(u: Array | None = None) -> dict[str, Array]:
    """Reflectances ``(k, D)`` of each material, in the order of the classes.

    Args:
        u: Wavelengths ``(D,)``, micrometres; the 95 of the windows if None.
    """
    u = micrometres() if u is None else u

    def step(centre: float, width: float) -> Array:
        return 1 / (1 + np.exp(-(u - centre) / width))

    def bump(centre: float, width: float) -> Array:
        return np.exp(-(((u - centre) / width) ** 2) / 2)

    def rise(start: float, width: float) -> Array:
        return 1 - np.exp(-(u - start) / width)

    water = 0.35 * step(1.38, 0.03) + 0.5 * bump(1.45, 0.12)
    water = 1 - water - 0.45 * step(1.88, 0.03) - 0.12 * bump(1.2, 0.05)
    dry = 0.07 + 0.2 * rise(0.4, 0.35) - 0.09 * step(1.9, 0.05)
    edge = step(0.715, 0.012)

    def leaves(near: float, green: float, share: float) -> Array:
        fresh = (0.03 + green * bump(0.55, 0.03)) * (1 - edge) + near * edge * water
        made: Array = (1 - share) * fresh + share * dry
        return made

    def tile(base: float, red: float, iron: float, end: float) -> Array:
        wave = 0.06 * np.sin(2 * (u - 0.5))
        ends = iron * bump(0.86, 0.06) + end * step(1.9, 0.05)
        made: Array = base + red * step(0.55, 0.035) + wave - ends
        return made

    metal = 0.37 - 0.06 * (u - 0.45) - 0.16 * bump(0.9, 0.1)
    metal = metal + 0.3 * step(1.15, 0.08) + 0.08 * (u - 1.2) * step(1.2, 0.05)
    clay = 0.04 * bump(2.2, 0.04)
    return {
        "vegetation": np.stack(
            [leaves(0.5, 0.07, 0.0), leaves(0.42, 0.03, 0.0), leaves(0.3, 0.05, 0.9)]
        ),
        "aluminium": metal[None],
        "loam": np.stack(
            [0.02 + a * rise(0.42, k) - clay for a, k in ((0.49, 0.32), (0.34, 0.38))]
        ),
        "tile": np.stack(
            [
                tile(0.1, 0.2, 0.012, 0.05),
                tile(0.1, 0.27, 0.03, -0.06),
                tile(0.14, 0.25, 0.012, 0.07),
            ]
        ),
        "asphalt": (0.071 + 0.013 * rise(0.45, 0.12) - 0.005 * step(2.1, 0.08))[None],
    }
