"""XYSquares and its family (Michlo, Klein, James 2023, arXiv 2202.13341), and blob."""

from __future__ import annotations

import numpy as np

from ppl_models.config import whole
from ppl_models.data.factors.grid import FactorData, Values
from ppl_models.data.factors.loaders import sampled
from ppl_models.data.render.world_options import number
from ppl_models.data.tables.correlations import Correlation
from ppl_models.data.tables.from_parts import Array

SIDE, SQUARE, PLACES = 64, 8, 8
COLOURS = {  # which channels are lit
    "red": (True, False, False),
    "green": (False, True, False),
    "blue": (False, False, True),
    "yellow": (True, True, False),
}
WIDTHS = (7, 9, 11, 13, 15)


def xysquares(spacing: int = 8) -> FactorData:
    """Three squares of 8 x 8 pixels, one per colour channel: 262,144 images of 64 x 64 x 3.

    Factors x_red, y_red, x_green, y_green, x_blue, y_blue of 8 places each, exact to the
    paper's code.

    Args:
        spacing: Pixels from one place to the next, 1 to 8. At 8 squares at two places never
            overlap, so that all pairs of places are equally far apart; below, they do.

    Raises:
        ValueError: If the spacing is not 1 to 8.
    """
    names = tuple(f"{axis}_{colour}" for colour in ("red", "green", "blue") for axis in "xy")
    return _squares("xysquares", names, spacing)


def xysquare(spacing: int = 8) -> FactorData:
    """One white square of 8 x 8 pixels at 8 x 8 places: 64 images of 64 x 64.

    Args:
        spacing: Pixels from one place to the next, 1 to 8.

    Raises:
        ValueError: If the spacing is not 1 to 8.
    """
    return _squares("xysquare", ("x_place", "y_place"), spacing)


def xyobject(spacing: int = 2) -> FactorData:
    """One square of any of 4 colours and 5 sizes on a fine grid: 12,500 images of 64 x 64 x 3.

    Factors colour 4, size 5 (7, 9, .., 15 pixels), x_place and y_place 25 each, 2 pixels
    apart. The four colours are ours.

    Args:
        spacing: Pixels from one place to the next, 1 to 8; there are 49 // spacing + 1 places.

    Raises:
        ValueError: If the spacing is not 1 to 8.
    """
    _check(spacing)
    places = tuple(float(p) for p in range(0, SIDE - WIDTHS[-1] + 1, spacing))

    def draw(classes: Array, generator: np.random.Generator) -> dict[str, Array]:
        colour, size, x, y = classes.T
        width = np.array(WIDTHS)[size]
        # Centred in the box of the largest square, so that size moves no centre.
        x, y = (spacing * p + (WIDTHS[-1] - width) // 2 for p in (x, y))
        paint = np.array(list(COLOURS.values()))[colour]
        return {"x": _box(x, y, width)[..., None] & paint[:, None, None]}

    values: Values = {
        "colour": tuple(COLOURS),
        "size": WIDTHS,
        "x_place": places,
        "y_place": places,
    }
    return FactorData("xyobject", values, draw)


def blob(width: float = 1.5) -> FactorData:
    """A Gaussian bump at 24 x 24 places: 576 images of 16 x 16 from 0 to 1.

    Small enough for the aggregate posterior to be summed exactly. Factors column 24, row 24;
    the bump's centre is 3 to 12 pixels from the left and top, its width 1.5 pixels. Under the
    correlation ``positions`` (sigma 0.3) places near the diagonal are drawn more often.

    Args:
        width: Standard deviation of the bump, pixels, at least 0.1.

    Raises:
        ValueError: If it is less.
    """
    double = 2 * number("width", width, 0.1) ** 2
    grid = tuple(k / 23 for k in range(24))

    def draw(classes: Array, generator: np.random.Generator) -> dict[str, Array]:
        centre = 3 + 9 * np.array(grid)[classes]
        across, down = (np.exp(-((np.arange(16) - c[:, None]) ** 2) / double) for c in centre.T)
        return {"x": (down[:, :, None] * across[:, None]).astype(np.float32)}

    places = {"positions": Correlation((("column", "row"),), 0.3)}
    return FactorData("blob", {"column": grid, "row": grid}, draw, correlations=places)


load_xysquares = sampled(xysquares)
load_xysquare = sampled(xysquare)
load_xyobject = sampled(xyobject)
load_blob = sampled(blob)


def _squares(name: str, factors: tuple[str, ...], spacing: int) -> FactorData:
    _check(spacing)
    first = (SIDE - (SQUARE + (PLACES - 1) * spacing)) // 2
    corners = tuple(float(first + spacing * p) for p in range(PLACES))

    def draw(classes: Array, generator: np.random.Generator) -> dict[str, Array]:
        corner = first + spacing * classes
        channels = [
            _box(corner[:, k], corner[:, k + 1], np.full(len(classes), SQUARE))
            for k in range(0, len(factors), 2)
        ]
        return {"x": channels[0] if len(channels) == 1 else np.stack(channels, axis=-1)}

    return FactorData(name, dict.fromkeys(factors, corners), draw)


def _check(spacing: int) -> None:
    if not 1 <= whole("spacing", spacing) <= SQUARE:
        raise ValueError(f"spacing is {spacing}, expected 1 to {SQUARE}")


def _box(left: Array, top: Array, width: Array) -> Array:
    span = np.arange(SIDE)
    across, down = (
        (span >= start[:, None]) & (span < (start + width)[:, None]) for start in (left, top)
    )
    mask: Array = down[:, :, None] & across[:, None]
    return mask
