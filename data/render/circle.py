"""A circle that a random network carries into many numbers."""

from __future__ import annotations

import numpy as np

from ppl_models.config import check_seed
from ppl_models.data.render.world_options import number, own_seed, span
from ppl_models.data.tables.from_parts import Array, from_parts
from ppl_models.data.tables.seeds import numpy_generator
from ppl_models.data.tables.table import Dataset

HIDDEN, NUMBERS, DIVISOR = 50, 100, 7.0
PARTS = 3  # streams of the rows; the network has one of its own


def load(
    train: int = 3_000,
    validation: int = 500,
    test: int = 1_000,
    seed: int = 0,
    *,
    angle: tuple[float, float] = (-np.pi, np.pi),
    noise: float = 0.1,
    network_seed: int | None = None,
) -> Dataset:
    """Sites ``x`` (100 numbers) and ``angle``: points of a circle seen through a network.

    After the toy of the hyperspherical VAE (Davidson et al. 2018, arXiv 1804.00891, Section 5.1),
    with uniform angles: (cos, sin) of the angle through 50 tanh units to 100 numbers, of Normal
    weights without biases, divided by 7, and Normal noise on each.

    Args:
        train: Training rows.
        validation: Validation rows.
        test: Test rows.
        seed: Seed of everything.
        angle: Range of the angles, radians, uniform; less than a turn leaves an arc.
        noise: Standard deviation of the Normal noise on each number.
        network_seed: Seed of the network, which is then the same for all seeds; that of
            everything if None.

    Raises:
        ValueError: If an option is out of range.
    """
    angle, noise = span("angle", angle), number("noise", noise, 0)
    network = own_seed("network_seed", network_seed, check_seed(seed))
    parts = []
    for place, rows in enumerate((train, validation, test)):
        draw = numpy_generator(seed, place)
        at = draw.uniform(*angle, rows)
        x = seen(at, network) + draw.normal(0, noise, (rows, NUMBERS))
        parts.append({"x": x, "angle": at})
    options = {
        "train": train,
        "validation": validation,
        "test": test,
        "angle": angle,
        "noise": noise,
        "network_seed": network_seed,
    }
    return from_parts("circle", parts, options=options, seed=seed)


def seen(angle: Array, network_seed: int) -> Array:
    """Points ``(n, 100)`` of the curve that rows lie about, without noise.

    Args:
        angle: Angles ``(n,)``, radians.
        network_seed: Seed of the network; that of the set, where it was given none.
    """
    draw = numpy_generator(network_seed, PARTS)
    first, second = draw.normal(size=(2, HIDDEN)), draw.normal(size=(HIDDEN, NUMBERS))
    points: Array = np.tanh(np.stack([np.cos(angle), np.sin(angle)], -1) @ first) @ second
    return points / DIVISOR
