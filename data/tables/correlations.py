"""How factors are correlated, and the named settings (Roth et al. 2023, arXiv 2210.07347)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Correlation:
    """Pairs of factors that are drawn close to each other.

    Attributes:
        pairs: Names of the factors.
        sigma: Width in units of a factor's range; 0.4 and 0.04 are published, too, for the
            settings with two pairs.
    """

    pairs: tuple[tuple[str, str], ...]
    sigma: float = 0.1


def log_weights(
    scaled: Mapping[str, Array],
    pairs: Sequence[Sequence[str]],
    sigma: float,
    inverse: bool = False,
) -> Array:
    """Log of the product over pairs of ``exp(-(a - b)^2 / (2 sigma^2))``.

    Args:
        scaled: Factors ``(n,)`` scaled to 0..1, by name.
        pairs: Names of factors, two at a time.
        sigma: Width, in units of a factor's range.
        inverse: Make each second factor fall as the first grows.

    Returns:
        ``(n,)``.

    Raises:
        ValueError: If sigma is not positive.
    """
    if not sigma > 0:
        raise ValueError(f"sigma is {sigma}, expected more than 0")
    total = np.zeros(len(next(iter(scaled.values()))))
    for first, second in pairs:
        b = scaled[second]
        total -= (scaled[first] - (1 - b if inverse else b)) ** 2
    return total / (2 * sigma**2)


def _confounded(factor: str, *others: str) -> Correlation:
    return Correlation(tuple((factor, other) for other in others), sigma=0.2)


def _settings(*listed: Sequence[tuple[str, str]]) -> dict[str, Correlation]:
    words = {1: "single", 2: "double", 3: "triple"}
    settings: dict[str, Correlation] = {}
    for pairs in listed:
        word = words[len(pairs)]
        number = sum(name.startswith(word) for name in settings) + 1
        settings[f"{word}-{number}"] = Correlation(tuple(pairs))
    return settings


DSPRITES = {
    **_settings(
        [("shape", "scale")],
        [("pos_x", "pos_y")],
        [("shape", "pos_y")],
        [("shape", "pos_x"), ("scale", "pos_y")],
        [("shape", "scale"), ("pos_x", "pos_y")],
    ),
    "conf-1": _confounded("shape", "scale", "orientation", "pos_x", "pos_y"),
    "conf-2": _confounded("pos_x", "shape", "scale", "orientation", "pos_y"),
}

SHAPES3D = {
    **_settings(
        [("floor_hue", "wall_hue")],
        [("shape", "size")],
        [("shape", "wall_hue")],
        [("size", "floor_hue"), ("shape", "wall_hue")],
        [("size", "shape"), ("floor_hue", "wall_hue")],
        [("size", "azimuth"), ("shape", "wall_hue"), ("object_hue", "floor_hue")],
        [("object_hue", "azimuth"), ("shape", "size"), ("floor_hue", "wall_hue")],
    ),
    "conf-1": _confounded("shape", "floor_hue", "wall_hue", "object_hue", "size", "azimuth"),
    "conf-2": _confounded("wall_hue", "floor_hue", "object_hue", "size", "shape", "azimuth"),
}

MPI3D = {
    **_settings(
        [("camera", "background")],
        [("colour", "size")],
        [("pos_x", "pos_y")],
        [("colour", "shape"), ("pos_x", "pos_y")],
        [("colour", "pos_x"), ("shape", "pos_y")],
        [("colour", "background"), ("camera", "pos_x"), ("shape", "pos_y")],
        [("colour", "shape"), ("pos_x", "pos_y"), ("background", "camera")],
    ),
    "conf-1": _confounded("shape", "colour", "size", "camera", "background", "pos_x", "pos_y"),
    "conf-2": _confounded("pos_x", "colour", "shape", "size", "camera", "background", "pos_y"),
}
