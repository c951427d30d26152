"""Laws of the factors of Boxhead from their definition, and where its tiles are in a picture."""

from __future__ import annotations

import itertools

import numpy as np
from scipy.stats import norm

from ppl_models.data.render import boxhead
from ppl_models.data.render.boxhead import CIRCLE, EYES, VARIANTS


def uniform(count):
    """Law of round(count u): the ends are half as likely."""
    return np.array([0.5, *[1.0] * (count - 1), 0.5]) / count


def normal(reach=60):
    """Law of round(7 e) of a standard normal e, from -reach to reach."""
    return np.diff(norm.cdf((np.arange(-reach, reach + 2) - 0.5) / 7))


def around(*laws):
    """Law on the circle of a sum of independent steps of hue: places and their probabilities."""
    whole = np.zeros(CIRCLE)
    whole[0] = 1
    for places, probabilities in laws:
        own = np.bincount(np.asarray(places) % CIRCLE, probabilities, CIRCLE)
        whole = sum(own[k] * np.roll(whole, k) for k in np.flatnonzero(own))
    return whole


def expected(variant):
    """Probabilities of the classes of each factor."""
    sizes, overall, eye = VARIANTS[variant]
    tenths, gauss = (7 * np.arange(11), uniform(10)), np.arange(-60, 61)
    if variant == "three_levels":
        parent = [tenths, (2 * gauss, normal())]
        child = [*parent, (2 * np.arange(8) - 7, uniform(7))]
    else:
        width = 2 if variant == "two_levels_wide" else 1
        parent = [(10 * np.arange(8), uniform(7))]
        child = [*parent, (width * gauss, normal())]
    laws = {name: around(tenths)[::7] for name in ("cube", "floor", "wall")}
    laws |= {"overall": around(*parent)[::overall], "scale": uniform(sizes)}
    return {**laws, "azimuth": uniform(10), **dict.fromkeys(EYES, around(*child)[::eye])}


def hues(variant, labels):
    """Hues (turns) of the classes of each factor that is one."""
    known = boxhead.values(variant)
    return {name: np.array(known[name])[labels[name]] for name in boxhead.HUES}


def on_circle(turns):
    """Cosine and sine ``(n, 2)`` of hues ``(n,)``."""
    return np.stack([np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)], -1)


def circular(one, other):
    """The largest correlation of cosine or sine of two hues (turns)."""
    parts = np.concatenate([on_circle(one), on_circle(other)], 1)
    return np.abs(np.corrcoef(parts.T)[:2, 2:]).max()


def tile_centres():
    """Row and column of the middle of each tile in a front view of size 1, by eye."""
    # a unit is 32 / (tan 15 degrees * distance) pixels; the picture's middle is at height 2
    unit = 32 / np.tan(np.deg2rad(15)) / (12 - 1 - boxhead.STEP)
    return [
        (int(32 - unit * (z * 3 / 14 + 1 - 2)), int(32 + unit * y * 3 / 14))
        for y, z in itertools.product((-1, 1), (-1, 1))
    ]


def front_light():
    """How bright the front is in a front view."""
    across, up = 12 * np.cos(np.deg2rad(1)), 2 + 12 * np.sin(np.deg2rad(1))
    return 0.35 + 0.65 * across / np.hypot(across, up)
