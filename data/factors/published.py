"""Names and values of the factors of published sets."""

from __future__ import annotations

import numpy as np

from ppl_models.data.factors.grid import Values

PLACES = tuple(p / 31 for p in range(32))
DSPRITES: Values = {
    "shape": ("square", "ellipse", "heart"),
    "scale": (0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    # Both ends of the circle are in the official grid, so its last pictures repeat its first.
    "orientation": tuple(2 * np.pi * k / 39 for k in range(40)),
    "pos_x": PLACES,
    "pos_y": PLACES,
}

HUES = tuple(k / 10 for k in range(10))
SIZES = tuple(0.75 + 0.5 * k / 7 for k in range(8))
AZIMUTHS = tuple(-30 + 60 * k / 14 for k in range(15))  # degrees
SHAPES3D: Values = {
    "floor_hue": HUES,
    "wall_hue": HUES,
    "object_hue": HUES,
    "size": SIZES,
    "shape": ("cube", "cylinder", "sphere", "capsule"),
    "azimuth": AZIMUTHS,
}

CANDLE: Values = {
    "object": ("cube", "sphere", "cylinder", "cone", "torus"),
    "colour": ("red", "blue", "yellow", "purple", "orange"),
    "size": ("small", "medium", "large"),
    "rotation": (0.0, 15.0, 30.0, 45.0, 60.0, 90.0),  # degrees, as labelled
    "scene": (
        "indoor", "playground", "outdoor", "bridge", "city square", "hall", "grassland", "garage",
        "street", "beach", "station", "tunnel", "moonlit grass", "dusk city", "skywalk", "garden",
    ),
    "light": ("left", "middle", "right"),
}  # fmt: skip
