"""Procedural hyperspectral pixels: five materials under sun, shade and every tilt between."""

from __future__ import annotations

import math

import numpy as np

from ppl_models.data.render.sunlight import SUN, diffuse_ratio, wavelengths
from ppl_models.data.tables.from_parts import Array, from_parts
from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.data.tables.table import Dataset

CLASSES = ("vegetation", "aluminium", "loam", "tile", "asphalt")
MOST = 3  # prototypes of a material
SUNLIT = {"irradiance": (0.7, 1.0), "sky_view": (0.9, 1.0)}
ANYWHERE = {"irradiance": (0.0, 1.0), "sky_view": (0.2, 1.0)}


def load(
    labelled: int = 500,
    unlabelled: int = 4_000,
    validation: int = 500,
    test: int = 3_000,
    noise: float = 0.003,
    seed: int = 0,
) -> Dataset:
    """Spectra ``x`` (95 bands) of five materials ``y``; only sunlit pixels are labelled.

    After the simulated scene of p3VAE (Thoreau et al. 2022, arXiv 2210.10418), without its data:
    a pixel mixes the prototypes of its material with Dirichlet(1) shares, and is lit with a
    direct ``irradiance`` (the sun's visibility times the cosine of its angle to the surface) and
    the share of the sky that it sees, ``sky_view``. Labelled training rows have an irradiance
    in 0.7 to 1 and a sky view in 0.9 to 1, all others anything in 0 to 1 and 0.2 to 1. Materials
    are equally probable. Sites ``irradiance``, ``sky_view`` and ``reflectance`` (the spectrum in
    full sun, without noise) are for scoring only.

    Args:
        labelled: Training rows with ``y``.
        unlabelled: Training rows without.
        validation: Validation rows.
        test: Test rows.
        noise: Standard deviation of the Normal noise on every band.
        seed: Seed of everything; labelled rows and the parts have draws of their own.

    Raises:
        ValueError: If an option is out of range.
    """
    if not noise >= 0:
        raise ValueError(f"noise is {noise}, expected >= 0")
    for option, rows in (("labelled", labelled), ("unlabelled", unlabelled)):
        if rows < 1:
            raise ValueError(f"{option} is {rows}, expected at least 1")
    kinds = [(labelled, SUNLIT), *((rows, ANYWHERE) for rows in (unlabelled, validation, test))]
    drawn = [
        pixels(rows, ranges, noise, numpy_generator(seed, place))
        for place, (rows, ranges) in enumerate(kinds)
    ]
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
        },
        seed=seed,
        classes={"y": CLASSES},
        observed={"y": np.arange(labelled + unlabelled) < labelled},
        roles=dict.fromkeys(("irradiance", "sky_view", "reflectance"), "factor"),
    )


def pixels(
    rows: int,
    ranges: dict[str, tuple[float, float]],
    noise: float,
    draw: np.random.Generator,
) -> dict[str, Array]:
    """Pixels under uniform light, by site; ``ranges`` of ``irradiance`` and ``sky_view``."""
    y = draw.integers(len(CLASSES), size=rows)
    light = {name: draw.uniform(*ends, rows) for name, ends in ranges.items()}
    reflectance = mixed(y, draw)
    x = reflectance * lit(**light) + draw.normal(0, noise, reflectance.shape)
    return {"x": x, "y": y, **light, "reflectance": reflectance}


def mixed(y: Array, draw: np.random.Generator) -> Array:
    """Reflectances ``(N, 95)`` that mix the prototypes of materials ``(N,)`` at random."""
    spectra = prototypes()
    # Dirichlet(1) shares: exponential numbers, of which only a material's own count.
    shares = draw.exponential(size=(len(y), MOST))
    counts = np.array([len(spectra[name]) for name in CLASSES])
    shares *= np.arange(MOST) < counts[y][:, None]
    shares /= shares.sum(1, keepdims=True)
    table = np.stack([np.resize(s, (MOST, s.shape[1])) for s in spectra.values()])
    reflectance: Array = np.einsum("na,nab->nb", shares, table[y])
    return reflectance


def lit(irradiance: Array, sky_view: Array) -> Array:
    """Factors ``(N, 95)`` of reflectances; see :class:`ppl_models.parts.physics.Illumination`."""
    cosine = math.cos(math.radians(SUN))
    r0: Array = diffuse_ratio(wavelengths(), cosine).numpy()
    factor: Array = (irradiance[:, None] + sky_view[:, None] * r0) / (cosine + r0)
    return factor


def prototypes() -> dict[str, Array]:
    """Reflectances ``(k, 95)`` of each material, in the order of the classes."""
    u: Array = wavelengths().numpy()

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
