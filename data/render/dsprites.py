"""dSprites drawn from its geometry, and variants of it."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from ppl_models.config import check_seed
from ppl_models.data.factors import published
from ppl_models.data.factors.grid import FactorData, Values
from ppl_models.data.factors.loaders import sampled
from ppl_models.data.render.world_options import number, span
from ppl_models.data.tables.correlations import DSPRITES
from ppl_models.data.tables.from_parts import Array

SIDE = 64
WINDOW = 30  # pixels; no shape reaches further than 13.6 from its centre
MINI: Values = {
    "shape": published.DSPRITES["shape"],
    "scale": (0.5, 0.75, 1.0),
    "orientation": tuple(2 * np.pi * k / 10 for k in range(10)),
    "pos_x": tuple(p / 7 for p in range(8)),
    "pos_y": tuple(p / 7 for p in range(8)),
}


def dsprites() -> FactorData:
    """dSprites: 737,280 white sprites of 64 x 64 pixels on black.

    Factors shape 3, scale 6, orientation 40, pos_x 32, pos_y 32 (Matthey et al. 2017), in the
    official order without its colour of one value. Drawn without the file: shapes fitted to
    the public animation, which they match but for 34 of 67,296 lit pixels. Orientation turns
    counter-clockwise, pos_x to the right, pos_y down (the animation does not tell that sign).
    The square looks the same after a quarter turn, the ellipse after half a turn.
    """
    return FactorData("dsprites", published.DSPRITES, _white, correlations=DSPRITES)


def color_dsprites(brightness: tuple[float, float] = (0.5, 1.0)) -> FactorData:
    """Sprites in one random colour per look, each channel U(0.5, 1) (Locatello et al. 2019).

    Args:
        brightness: Range of each channel, within 0 to 1, uniform.

    Raises:
        ValueError: If the range is not within 0 to 1.
    """
    brightness = span("brightness", brightness, 0, 1)

    def draw(mask: Array, generator: np.random.Generator) -> Array:
        return mask * generator.uniform(*brightness, (len(mask), 1, 1, 3)).astype(np.float32)

    return _variant("color_dsprites", draw)


def noisy_dsprites(noise: float = 1.0) -> FactorData:
    """White dSprites on U(0, 1) noise per pixel, channel and look (Locatello et al. 2019).

    Args:
        noise: Largest noise, 0 to 1.

    Raises:
        ValueError: If it is not in 0 to 1.
    """
    most = np.float32(number("noise", noise, 0, 1))

    def draw(mask: Array, generator: np.random.Generator) -> Array:
        ground = most * generator.random((*mask.shape[:3], 3), dtype=np.float32)
        brighter: Array = np.minimum(mask + ground, 1)
        return brighter

    return _variant("noisy_dsprites", draw)


def textured_dsprites(texture_seed: int = 0) -> FactorData:
    """Sprites as the negative of a texture behind them, at a random place and tint per look.

    Background ``(crop + c) / 2`` with one colour c ~ U(0, 1) per look, sprites 1 minus that:
    the recipe of Scream-dSprites (Locatello et al. 2019) with a fixed sum of plane waves in
    the painting's stead.

    Args:
        texture_seed: Seed of the texture.

    Raises:
        ValueError: If it is no seed.
    """
    check_seed(texture_seed, "texture_seed")

    def draw(mask: Array, generator: np.random.Generator) -> Array:
        picture = texture(texture_seed)
        top = generator.integers(0, picture.shape[0] - SIDE + 1, len(mask))
        left = generator.integers(0, picture.shape[1] - SIDE + 1, len(mask))
        span = np.arange(SIDE)
        crop = picture[(top[:, None] + span)[:, :, None], (left[:, None] + span)[:, None]]
        tint = generator.random((len(mask), 1, 1, 3), dtype=np.float32)
        ground: Array = (crop + tint) / 2
        return np.where(mask, 1 - ground, ground)

    return _variant("textured_dsprites", draw)


def mini_dsprites() -> FactorData:
    """A small dSprites: 5,760 images of 32 x 32 pixels.

    Factors shape 3, scale 3, orientation 10 (a whole circle without its end), pos_x 8,
    pos_y 8: 2 x 2 means of the full picture, lit where at least half of it is.
    """
    return FactorData("mini_dsprites", MINI, _mini, correlations=DSPRITES)


load_dsprites = sampled(dsprites)
load_color = sampled(color_dsprites)
load_noisy = sampled(noisy_dsprites)
load_textured = sampled(textured_dsprites)
load_mini = sampled(mini_dsprites)


def sprites(shape: Array, scale: Array, angle: Array, column: Array, row: Array) -> Array:
    """Masks ``(n, 64, 64)``, True where a pixel's centre is inside the shape.

    Args:
        shape: Square, ellipse or heart, as numbers ``(n,)``.
        scale: Size ``(n,)``, at most 1.
        angle: Counter-clockwise turn in radians ``(n,)``.
        column: Centre in pixels from the left ``(n,)``, 16 to 48.
        row: Centre in pixels from the top ``(n,)``, 16 to 48.
    """
    left, top = (np.floor(c).astype(np.int64) - 14 for c in (column, row))
    span = np.arange(WINDOW)
    dx = (span + 0.5 + (left - column)[:, None])[:, None, :]
    dy = (span + 0.5 + (top - row)[:, None])[:, :, None]
    cos, sin = ((f(angle) / scale)[:, None, None] for f in (np.cos, np.sin))
    # In doubles: a square's edge may pass within 1e-7 of a pixel's centre.
    u, v = cos * dx - sin * dy, sin * dx + cos * dy
    lit = np.empty(u.shape, dtype=bool)
    for code, inside in enumerate((_square, _ellipse, _heart)):
        if len(rows := np.flatnonzero(shape == code)):
            lit[rows] = inside(u[rows], v[rows])
    image = np.zeros((len(shape), SIDE * SIDE), dtype=bool)
    corner = (top * SIDE + left)[:, None] + (span[:, None] * SIDE + span).ravel()
    np.put_along_axis(image, corner, lit.reshape(len(shape), -1), axis=1)
    return image.reshape(-1, SIDE, SIDE)


@functools.cache
def texture(seed: int = 0) -> Array:
    """The texture ``(274, 350, 3)`` of :func:`textured_dsprites`, from 0 to 1 per channel."""
    waves = np.random.default_rng(seed)
    y, x = np.mgrid[:274, :350].astype(np.float32)
    picture = np.zeros((274, 350, 3), dtype=np.float32)
    for _ in range(40):
        turn, length = waves.uniform(0, 2 * np.pi), waves.uniform(12, 90)
        phase = (np.cos(turn) * x + np.sin(turn) * y) * (2 * np.pi / length)
        shift = waves.uniform(0, 2 * np.pi, 3)
        picture += np.sin(phase[..., None] + shift) * waves.uniform(0.3, 1, 3)
    low, high = picture.min((0, 1)), picture.max((0, 1))
    scaled: Array = (picture - low) / (high - low)
    return scaled.astype(np.float32)


def _square(u: Array, v: Array) -> Array:
    inside: Array = np.maximum(np.abs(u), np.abs(v)) <= 9.6
    return inside


def _ellipse(u: Array, v: Array) -> Array:
    inside: Array = (u / 12.766) ** 2 + (v / 7.214) ** 2 <= 1
    return inside


def _heart(u: Array, v: Array) -> Array:
    # The curve u = 9.5946 sin^3 t has one point above and one below at each u within reach.
    sin2 = np.cbrt(np.minimum(np.abs(u) / 9.5946, 1)) ** 2
    cos = np.sqrt(1 - sin2)
    even = 5 * (2 * cos**2 - 1) + (8 * (cos**4 - cos**2) + 1)  # 5 cos 2t + cos 4t
    odd = cos * (13 - 2 * (4 * cos**2 - 3))  # 13 cos t - 2 cos 3t
    above, below = (-0.66252 * (side - even) - 1.4312 for side in (odd, -odd))
    inside: Array = (np.abs(u) <= 9.5946) & (above <= v) & (v <= below)
    return inside


def _masks(values: Values, classes: Array) -> Array:
    scale, angle, x, y = (
        np.array(values[factor], dtype=float)[classes[:, place]]
        for place, factor in enumerate(values)
        if place
    )
    angle = np.where(angle == 2 * np.pi, 0, angle)  # the same picture to the last pixel
    return sprites(classes[:, 0], scale, angle, 16 + 32 * x, 16 + 32 * y)


def _white(classes: Array, generator: np.random.Generator) -> dict[str, Array]:
    return {"x": _masks(published.DSPRITES, classes)}


def _mini(classes: Array, generator: np.random.Generator) -> dict[str, Array]:
    pooled = _masks(MINI, classes).reshape(-1, 32, 2, 32, 2).sum((2, 4))
    return {"x": pooled >= 2}


def _variant(name: str, look: Callable[[Array, np.random.Generator], Array]) -> FactorData:
    def draw(classes: Array, generator: np.random.Generator) -> dict[str, Array]:
        return {"x": look(_masks(published.DSPRITES, classes)[..., None], generator)}

    return FactorData(name, published.DSPRITES, draw, correlations=DSPRITES)
