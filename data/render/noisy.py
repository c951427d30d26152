"""Images with several independent noisy copies (Marcos-Morales et al. 2023, arXiv 2210.05553)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from ppl_models.config import unknown
from ppl_models.data.render.strokes import ink, strokes, turns
from ppl_models.data.render.world_options import number
from ppl_models.data.tables.from_parts import Array, from_parts
from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.data.tables.table import Dataset

Renderers = Mapping[str, Callable[..., Array]]
COPIES = ("x", "a", "b", "c")  # what is denoised, and the three references


def load(
    train: int = 2_000,
    validation: int = 200,
    test: int = 1_000,
    side: int = 16,
    picture: str = "strokes",
    noise: str = "gaussian",
    level: float = 0.2,
    seed: int = 0,
    *,
    floor: float = 0.05,
    cycles: float = 6.0,
) -> Dataset:
    """Noisy images ``x``, references ``a``, ``b``, ``c`` and the ``clean`` image.

    Noise has mean 0 given the clean image and is independent over pixels and copies; it is
    never cut to 0..1, which would bias it.

    Args:
        train: Training rows.
        validation: Validation rows.
        test: Test rows.
        side: Pixels per side.
        picture: ``gratings``, sums of 12 random waves scaled to 0..1, or ``strokes``, stroke
            digits.
        noise: ``gaussian`` of standard deviation ``level`` (0.1, 0.2 and 0.4 are published);
            ``poisson`` counts that reach ``level`` at white (10 is published), divided by it;
            ``signal`` for Gaussian noise of ``floor`` + ``level`` x.
        level: Strength of the noise.
        seed: Seed of images and noise.
        floor: Standard deviation of ``signal`` noise at black.
        cycles: Most periods of a wave of ``gratings`` across the image, at least 0.1.

    Raises:
        ValueError: If there is no such picture or noise, or the level is not positive.
    """
    floor, cycles = number("floor", floor, 0), number("cycles", cycles, 0.1)
    pictures: Renderers = {
        "gratings": partial(gratings, cycles=cycles),
        "strokes": stroke_pictures,
    }
    draw_clean = _choose("picture", picture, pictures)
    parts = []
    for place, rows in enumerate((train, validation, test)):
        draw = numpy_generator(seed, place)
        clean = draw_clean(rows, side, draw)
        noisy = {copy: add_noise(clean, noise, level, draw, floor) for copy in COPIES}
        parts.append({**noisy, "clean": clean})
    options = {
        "train": train,
        "validation": validation,
        "test": test,
        "side": side,
        "picture": picture,
        "noise": noise,
        "level": level,
        "floor": floor,
        "cycles": cycles,
    }
    return from_parts("noisy_images", parts, options=options, seed=seed)


def gratings(rows: int, side: int, generator: np.random.Generator, cycles: float = 6.0) -> Array:
    """Sums of 12 random waves ``(n, side, side)``, each image scaled to 0..1.

    Args:
        rows: Number of images.
        side: Pixels per side.
        generator: Source of the waves.
        cycles: Most periods of a wave across the image.
    """
    span = 2 * np.pi * (np.arange(side) + 0.5) / side
    image = np.zeros((rows, side, side))
    for _ in range(12):
        turn, often, phase = (
            generator.uniform(0, most, rows) for most in (np.pi, cycles, 2 * np.pi)
        )
        across, down = (often * f(turn) for f in (np.cos, np.sin))
        wave = across[:, None, None] * span + down[:, None, None] * span[:, None]
        image += np.sin(wave + phase[:, None, None])
    low, high = (f(axis=(1, 2), keepdims=True) for f in (image.min, image.max))
    scaled: Array = (image - low) / (high - low)
    return scaled.astype(np.float32)


def stroke_pictures(rows: int, side: int, generator: np.random.Generator) -> Array:
    """Stroke digits ``(n, side, side)`` from 0 to 1, turned, scaled and of different widths."""
    linear = turns(generator.uniform(-0.5, 0.5, rows)) * generator.uniform(0.7, 1.05, (rows, 1, 1))
    segments = strokes(generator.integers(10, size=rows), linear)
    return ink(segments, generator.uniform(0.04, 0.12, rows), side, 0.06)


def _gaussian(clean: Array, level: float, generator: np.random.Generator) -> Array:
    return clean + generator.normal(0, level, clean.shape)


def _poisson(clean: Array, level: float, generator: np.random.Generator) -> Array:
    return generator.poisson(clean * level) / level


def _signal(clean: Array, level: float, generator: np.random.Generator, floor: float) -> Array:
    noisy: Array = clean + generator.normal(size=clean.shape) * (floor + level * clean)
    return noisy


def add_noise(
    clean: Array, noise: str, level: float, generator: np.random.Generator, floor: float = 0.05
) -> Array:
    """One noisy copy of images, float32.

    Args:
        clean: Images from 0 to 1, of any shape.
        noise: ``gaussian``, ``poisson`` or ``signal``; see :func:`load`.
        level: Strength.
        generator: Source of the noise.
        floor: Standard deviation of ``signal`` noise at black.

    Raises:
        ValueError: If there is no such noise or the level is not positive.
    """
    if not level > 0:
        raise ValueError(f"level is {level}, expected more than 0")
    noises: Renderers = {
        "gaussian": _gaussian,
        "poisson": _poisson,
        "signal": partial(_signal, floor=floor),
    }
    return _choose("noise", noise, noises)(clean, level, generator).astype(np.float32)


def _choose(what: str, name: str, known: Renderers) -> Callable[..., Array]:
    if name not in known:
        raise ValueError(unknown(what, name, known))
    return known[name]
