"""A folder as CANDLE is published: a png and a json for each scene."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ppl_models.data.factors.published import CANDLE

LENGTHS = (1.5, 2, 2.5)  # of small, medium and large
BOUNDS = ((40, 60), (100, 120))  # pixels of 320 x 240, from the lower left


def scene(classes: Sequence[int]) -> dict:
    """What the json of a scene holds."""
    kind, colour, size, rotation, background, light = classes
    return {
        "scene": CANDLE["scene"][background],
        "lights": CANDLE["light"][light],
        "objects": {
            "Thing_0": {
                "object_type": CANDLE["object"][kind],
                "color": CANDLE["colour"][colour],
                "size": LENGTHS[size],
                "rotation": int(CANDLE["rotation"][rotation]),
                "bounds": BOUNDS,
            }
        },
    }


def pixels(classes: Sequence[int]) -> np.ndarray:
    """Squares of 80 x 80 pixels ``(240, 320, 3)`` whose greens are the classes times 15."""
    image = np.zeros((240, 320, 3), np.uint8)
    for place, value in enumerate(classes):
        line, column = divmod(place, 4)
        image[80 * line : 80 * (line + 1), 80 * column : 80 * (column + 1), 1] = 15 * value
    return image


def write(folder: Path, scenes: Sequence[Sequence[int]]) -> None:
    """A png and a json for each scene, numbered."""
    folder.mkdir(exist_ok=True)
    for number, classes in enumerate(scenes):
        (folder / f"{number}.json").write_text(json.dumps(scene(classes), indent=4))
        image = np.dstack([pixels(classes), np.full((240, 320), 255, np.uint8)])
        Image.fromarray(image).save(folder / f"{number}.png")
