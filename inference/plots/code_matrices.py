"""What codes tell of factors, as a picture: mutual information, importances, IRS and the like."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from ppl_models.config import unknown
from ppl_models.inference.metrics.disentanglement.results import CODE, FACTOR
from ppl_models.inference.plots.fit_checks import TEXT, axes
from ppl_models.printable import in_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WRITTEN = 120  # cells of which each has its number


def code_matrix(
    scores: xr.Dataset, name: str = "mutual_information", codes: int = 24, ax: Axes | None = None
) -> Axes:
    """A matrix of codes by factors as a heat map, with its numbers where there are few.

    Args:
        scores: What a metric gave, such as :func:`ppl_models.inference.metrics.evaluate`.
        name: A variable over ``code`` and ``factor``, such as ``mutual_information``,
            ``dci_importance`` or ``irs_matrix``.
        codes: Most codes shown: those with the largest entries, in their order.
        ax: Axes to draw into.

    Raises:
        ValueError: If there is no such matrix, or no code is to be shown.
    """
    there = [str(n) for n, v in scores.data_vars.items() if set(v.dims) == {CODE, FACTOR}]
    if name not in there:
        raise ValueError(unknown("matrix over code and factor", name, there))
    if codes < 1:
        raise ValueError(f"codes is {codes}, expected at least 1")
    matrix = scores[name].transpose(CODE, FACTOR)
    values = matrix.values.astype(float)
    largest = np.nan_to_num(values, nan=-np.inf).max(1)
    kept = np.sort(np.argsort(-largest, kind="stable")[:codes])
    values = values[kept]
    ax = axes(ax)
    image = ax.imshow(values, cmap="viridis", aspect="auto", vmin=min(0.0, np.nanmin(values)))
    if values.size <= WRITTEN:
        low, high = image.get_clim()
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                dark = value < (low + high) / 2
                ax.text(
                    column, row, f"{value:.2f}", ha="center", va="center", fontsize=TEXT - 2,
                    color="white" if dark else "black",
                )  # fmt: skip
    ax.set_xticks(range(values.shape[1]), [in_figure(str(n)) for n in matrix[FACTOR].values])
    names = matrix[CODE].values[kept]
    ax.set_yticks(range(len(kept)), [in_figure(str(n)) for n in names], fontsize=TEXT - 2)
    ax.tick_params(axis="x", labelsize=TEXT - 1)
    few = "" if len(kept) == matrix.sizes[CODE] else f", {len(kept)} of {matrix.sizes[CODE]} codes"
    ax.set_title(in_figure(name.replace("_", " ")) + few, fontsize=TEXT + 1)
    ax.figure.colorbar(image, ax=ax)
    return ax
