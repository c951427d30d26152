"""Contact sheets: a look at a data set in one small picture."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from ppl_models.data.tables.from_parts import Array
from ppl_models.data.tables.image_shapes import with_channels
from ppl_models.data.tables.table import Table


def sheet(images: Array, columns: int = 12, gap: int = 2) -> Array:
    """Images side by side, as one ``(H, W, 3)`` of uint8.

    Args:
        images: ``(n, h, w)`` or ``(n, h, w, 3)``: uint8, or floating from 0 to 1; what is
            outside is cut, what is not finite is black.
        columns: Images per line.
        gap: Pixels between them.

    Raises:
        ValueError: If the shape is that of no images.
    """
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3):
        raise ValueError(f"images have shape {images.shape}, expected (n, h, w) or (n, h, w, 3)")
    if images.dtype != np.uint8:
        images = np.rint(255 * np.clip(np.nan_to_num(images), 0, 1)).astype(np.uint8)
    if images.ndim == 3:
        images = np.repeat(images[..., None], 3, axis=-1)
    n, height, width, _ = images.shape
    columns = min(columns, n)
    lines = -(-n // columns)
    page = np.full((lines * (height + gap) + gap, columns * (width + gap) + gap, 3), 128, np.uint8)
    for place, image in enumerate(images):
        line, column = divmod(place, columns)
        top, left = gap + line * (height + gap), gap + column * (width + gap)
        page[top : top + height, left : left + width] = image
    return page


def strips(table: Table, rows: int = 36) -> Array:
    """Rows from all over a table, the images of all their sites side by side.

    Args:
        table: Has sites with image shapes ``(H, W)``, ``(H, W, C)``, or ``(k, H, W)`` for
            sets of images.
        rows: Number of rows.

    Returns:
        Pictures ``(n, h, w, 3)`` from 0 to 1; what is hidden is black.

    Raises:
        ValueError: If the table has no image.
    """
    if not table.shapes:
        raise ValueError(f"{table.name} has no images, only {', '.join(table.sites)}")
    chosen = torch.linspace(0, len(table) - 1, min(rows, len(table))).long()
    tiles = []
    for site, shape in table.shapes.items():
        values = table.sites[site].index_select(0, chosen).cpu().numpy().reshape(-1, *shape)
        image = with_channels(shape)
        if image is None:
            tiles += [np.repeat(one[..., None], 3, axis=-1) for one in values.swapaxes(0, 1)]
        elif image[2] == 3:
            tiles.append(values)
        else:  # one grey value, the mean where there are more channels than a screen has
            grey = values.reshape(-1, *image).mean(-1, keepdims=True)
            tiles.append(np.repeat(grey, 3, axis=-1))
    height = max(tile.shape[1] for tile in tiles)
    room = [((0, 0), (0, height - t.shape[1]), (0, 1), (0, 0)) for t in tiles]
    row = [np.pad(t, r, constant_values=0.5) for t, r in zip(tiles, room, strict=True)]
    joined: Array = np.concatenate(row, axis=2)
    return joined[:, :, :-1]


def save(
    path: str | Path, images: Array, columns: int = 12, zoom: int = 1, colours: int = 0
) -> None:
    """Write a contact sheet as a PNG.

    Args:
        path: The file; written under another name first and then renamed.
        images: As of :func:`sheet`.
        columns: Images per line.
        zoom: Pixels per pixel.
        colours: Most different colours, to keep the file small; all if 0.
    """
    from PIL import Image

    page = Image.fromarray(sheet(images, columns))
    page = page.resize((page.width * zoom, page.height * zoom), Image.Resampling.NEAREST)
    if colours:
        page = page.quantize(colours)
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    page.save(temporary, format="PNG", optimize=True)
    os.replace(temporary, path)
