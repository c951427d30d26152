"""Rows beside the training rows with the strongest influence on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from ppl_models.config import unknown, whole
from ppl_models.data.tables.positions import positions
from ppl_models.data.tables.table import Table
from ppl_models.inference.plots.fit_checks import axes
from ppl_models.inference.plots.samples import images, mosaic
from ppl_models.inference.posterior.groups import Array
from ppl_models.printable import in_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def influence_tops(
    found: xr.Dataset,
    table: Table,
    test_table: Table,
    site: str = "x",
    rows: Sequence[int] | None = None,
    count: int = 5,
    ax: Axes | None = None,
) -> Axes:
    """Test images with their strongest proponents and opponents.

    A line for each test row: the row, the training rows that lowered its loss most, the strongest
    first, and at the right those that raised it most, the strongest last.

    Args:
        found: From :func:`ppl_models.inference.metrics.influence`.
        table: The training rows that it was asked about.
        test_table: The test rows, likewise.
        site: A site of images.
        rows: Positions of test rows; the first five by default.
        count: Training rows of each kind.
        ax: Axes to draw into.

    Raises:
        ValueError: If the tables are not those of the influences, the site has no images, or
            there are too few rows.
    """
    for dim, rows_of in (("train", table), ("test", test_table)):
        numbers = rows_of.numbers.cpu().numpy()
        if dim not in found.coords or not np.array_equal(found[dim].values, numbers):
            raise ValueError(
                f"{rows_of.name} has other rows than the {dim} rows of the influences"
            )
    if site not in table.shapes or site not in test_table.sites:
        raise ValueError(f"{table.name}: {unknown('site of images', site, table.shapes)}")
    count = whole("count", count, 1)
    if 2 * count > len(table):
        raise ValueError(
            f"count is {count}, but {table.name} has {len(table)} rows; expected half of them or "
            "less"
        )
    shown = range(min(5, len(test_table))) if rows is None else rows
    chosen = positions(shown, len(test_table), test_table.name).numpy()
    if not len(chosen):
        raise ValueError(f"no rows chosen of {test_table.name}, expected at least one")
    by_row = found["influence"].transpose("test", "train").values[chosen]
    order = np.argsort(-by_row, axis=1, kind="stable")
    shape = table.shapes[site]
    own = _images(test_table, site, chosen, shape)[:, None]
    beside = [
        np.stack([_images(table, site, line, shape) for line in places])
        for places in (order[:, :count], order[:, -count:])
    ]
    gap = np.full_like(own, 0.5)  # as the lines between images
    lines = np.concatenate([own, gap, beside[0], gap, beside[1]], 1)
    ax = axes(ax)
    columns = 2 * count + 3
    down, across = mosaic(ax, lines.reshape(-1, *lines.shape[2:]), columns)
    numbers = found["test"].values[chosen]
    ax.set_yticks(down, [in_figure(number) for number in numbers])
    middle = across[[0, 2, -count]].copy()
    middle[1:] += (across[count - 1] - across[0]) / 2
    ax.set_xticks(middle, ["row", "proponents", "opponents"])
    ax.tick_params(length=0)
    return ax


def _images(table: Table, site: str, places: Array, shape: Sequence[int]) -> Array:
    values = np.stack([table.sites[site][int(place)].cpu().numpy() for place in places])
    return images(values, shape)
