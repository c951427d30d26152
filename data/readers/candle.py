"""CANDLE: a png and a json for each combination of factors (Reddy et al., arXiv 2112.05746)."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from ppl_models.data.factors.grid import FactorData
from ppl_models.data.factors.loaders import sampled
from ppl_models.data.factors.published import CANDLE
from ppl_models.data.readers.files import find, reading
from ppl_models.data.readers.views import SIDE, shrunk
from ppl_models.data.store.stored_array import Array

WIDTH, HEIGHT = 320, 240  # as rendered; boxes are in these pixels, counted from the lower left
LONGEST = 1 << 16  # bytes of a json, which has some hundreds
SIZES = {1.5: "small", 2.0: "medium", 2.5: "large"}
OF_OBJECT = {"object": "object_type", "colour": "color", "size": "size", "rotation": "rotation"}
BEGIN, END = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\0\0\0\0IEND\xaeB`\x82"


def candle(root: str | None = None) -> FactorData:
    """CANDLE as published: 12,546 rendered scenes, here in 64 x 64 x 3.

    The factors of ``candle_like``, with the same names and classes. Combinations without an image
    do not exist. The labels of the rotation are the nominal ones: the published images were
    turned by other angles. Beside ``x`` each look has ``box``, as there, from the corners of the
    object's bounding box, cut at the picture's edges.

    Pictures are read whenever they are asked for, 4 ms each.

    Args:
        root: Folder of ``0.json``, ``0.png`` and so on; ``$PPL_DATA/candle``, ``$PPL_DATA`` and
            the user's cache folder if None.

    Raises:
        FileNotFoundError: If they are not there, saying where to put them.
        ValueError: If a file is damaged or missing, or two show one combination; a damaged picture
            is found when it is read.
    """
    paths = candle_files(root)
    pictures = {path.stem: path for path in paths if path.suffix == ".png"}
    told: dict[int, tuple[Path, Array]] = {}
    for path in (path for path in paths if path.suffix == ".json"):
        if path.stem not in pictures:
            raise ValueError(f"{path}: has no picture beside it, expected {path.stem}.png")
        classes, box = labels(path)
        cell = int(np.ravel_multi_index(tuple(classes), [len(v) for v in CANDLE.values()]))
        if cell in told:
            raise ValueError(
                f"{path}: shows what {told[cell][0].name} shows, expected one of each"
            )
        told[cell] = (pictures[path.stem], box)
    cells = np.array(sorted(told))

    def draw(classes: Array, generator: np.random.Generator) -> dict[str, Array]:
        asked = np.ravel_multi_index(tuple(classes.T), [len(v) for v in CANDLE.values()])
        for cell in asked:
            if int(cell) not in told:
                raise ValueError(
                    f"CANDLE has no picture of cell {cell}, expected one of its cells"
                )
        chosen = [told[int(cell)] for cell in asked]
        images = [picture(path) for path, _ in chosen]
        boxes = [box for _, box in chosen]
        return {
            "x": np.stack(images) if images else np.empty((0, SIDE, SIDE, 3), np.uint8),
            "box": np.stack(boxes) if boxes else np.empty((0, 4), np.float32),
        }

    return FactorData("candle", CANDLE, draw, "official", cells=cells)


def candle_files(root: str | None = None) -> list[Path]:
    """The files of CANDLE; see :func:`candle`."""
    return find("candle", (("[0-9]*.json", "[0-9]*.png"),), root)


load = sampled(candle)


def labels(path: Path) -> tuple[Array, Array]:
    """Classes ``(6,)`` and box ``(4,)``, as shares of the picture, that a json tells.

    Raises:
        ValueError: If it is no such file.
    """
    with reading(path, "the json of a scene of CANDLE"):
        if (size := path.stat().st_size) > LONGEST:
            raise ValueError(f"it has {size} bytes")
        told = json.loads(path.read_bytes())
        if len(told["objects"]) != 1:
            raise ValueError(f"it has {len(told['objects'])} objects, expected one")
        (of_object,) = told["objects"].values()
        found = {name: of_object[key] for name, key in OF_OBJECT.items()}
        found |= {"size": SIZES.get(_number(found["size"]), found["size"])}
        found |= {"rotation": _number(found["rotation"])}
        found |= {"scene": told["scene"], "light": told["lights"]}
        classes = []
        for name, values in CANDLE.items():
            if found[name] not in values:
                raise ValueError(f"{name} is {str(found[name])[:40]!r}")
            classes.append(values.index(found[name]))
        low, high = of_object["bounds"]
        left, bottom, right, top = map(_number, (*low, *high))
        if not (left <= right and bottom <= top):
            raise ValueError(f"the box goes from {left, bottom} to {right, top}")
        shares = (left / WIDTH, 1 - top / HEIGHT, right / WIDTH, 1 - bottom / HEIGHT)
        return np.array(classes), np.clip(np.array(shares, np.float32), 0, 1)


def picture(path: Path) -> Array:
    """The image in a png of 320 x 240, in 64 x 64 x 3, uint8.

    Raises:
        ValueError: If it is damaged or of another size.
    """
    from PIL import Image

    with reading(path, f"a png of {WIDTH} x {HEIGHT}"):
        data = path.read_bytes()
        if not data.startswith(BEGIN) or not data.endswith(END):
            raise ValueError("it does not begin and end as a png")
        size = struct.unpack(">II", data[16:24])  # before anything of that size is made
        if size != (WIDTH, HEIGHT):
            raise ValueError(f"it is {size[0]} x {size[1]}")
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            image.verify()  # the checksums of all its parts; it cannot be used afterwards
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            return shrunk(np.asarray(image.convert("RGB")))


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise ValueError(f"{str(value)[:40]!r} stands where a number is expected")
    return float(value)
